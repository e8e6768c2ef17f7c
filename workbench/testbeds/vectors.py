"""What worlds of vectors share: the oracle that knows the atoms, the stream a dictionary trains on, small pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..batch import Batch, Exclusion
from ..code import Code
from ..html import Markup, tag
from ..site import Site
from .core import World

SITE = Site(0, "resid")
CHUNK = 2048  # rows that the oracle codes together


def directions(rng: np.random.Generator, n: int, d: int) -> Float[Tensor, "n d"]:
    """n random unit vectors."""
    found = rng.standard_normal((n, d))
    return torch.from_numpy(found / np.linalg.norm(found, axis=1, keepdims=True)).float()


def coefficients(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """|N(1, 0.25)|, 0.25 being the standard deviation."""
    return np.abs(1 + 0.25 * rng.standard_normal(shape))


class Oracle:
    """A codec with the true atoms. It finds the code of a row from the row alone, by orthogonal matching pursuit.

    In turn the atom that fits the residual best is taken (of non-negative fit, unless `signed`) and all coefficients
    are fitted again, until the residual is no longer than `tolerance` or `most` atoms are taken.
    Source: Pati, Rezaiifar, Krishnaprasad 1993.
    """

    site, target, exclusion = SITE, SITE, Exclusion()

    def __init__(self, atoms: Float[Tensor, "latent d"], *, most: int, tolerance: float, signed: bool = False):
        if not 1 <= most <= min(atoms.shape):
            raise ValueError(f"most must be 1..{min(atoms.shape)} of atoms {tuple(atoms.shape)}, got {most}")
        self._atoms, self.most, self.tolerance, self.signed = atoms, most, tolerance, signed
        self.latents = len(atoms)

    def encode(self, x: Float[Tensor, "row d"]) -> Code:
        if not len(x):
            return Code.dense(x.new_zeros(0, self.latents))
        return Code.dense(torch.cat([self._pursue(part) for part in x.split(CHUNK)]))

    def _pursue(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row latent"]:
        size = self._atoms.norm(dim=-1)
        gram, fit = self._atoms @ self._atoms.T, x @ self._atoms.T
        chosen = torch.zeros(len(x), 0, dtype=torch.long)
        values, left = x.new_zeros(len(x), 0), x.clone()
        done = left.norm(dim=-1) <= self.tolerance
        code = x.new_zeros(len(x), self.latents)
        for _ in range(self.most):
            if done.all():
                break
            score = (left @ self._atoms.T) / size
            score = (score.abs() if self.signed else score).scatter(1, chosen, -torch.inf)
            chosen = torch.cat([chosen, score.argmax(-1, keepdim=True)], 1)
            inner = gram[chosen[:, :, None], chosen[:, None]]
            inner = inner + 1e-6 * torch.eye(chosen.shape[1])  # atoms may be nearly parallel
            values = torch.linalg.solve(inner, fit.gather(1, chosen))
            new = torch.zeros_like(code).scatter(1, chosen, values)
            code = torch.where(done[:, None], code, new)
            left = x - code @ self._atoms
            done = done | (left.norm(dim=-1) <= self.tolerance)
        return code if self.signed else code.clamp_min(0)

    def decode(self, code: Code) -> Float[Tensor, "row d"]:
        return code.combine(self._atoms)

    def reconstruct(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        return self.decode(self.encode(x))

    def atoms(self, latents: Sequence[int] | Bool[Tensor, " latent"] | None = None) -> Float[Tensor, "some d"]:
        return self._atoms if latents is None else self._atoms[torch.as_tensor(latents)]


@dataclass(frozen=True)
class Stream:
    """A world's rows in batches, in order, for `workbench.train(recipe, stream, site=None)`."""

    world: World
    rows: int
    steps: int
    seed: int = 0

    def __len__(self) -> int:
        return self.steps

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.steps):
            x = self.world.sample(self.rows, self.seed, step * self.rows).x
            where = torch.arange(self.rows)
            yield Batch(x, x, torch.full_like(where, step), where)

    def describe(self) -> dict[str, Any]:
        return {"world": repr(self.world), "rows": self.rows, "steps": self.steps, "seed": self.seed}


def recovered(true: Float[Tensor, "n d"], found: Float[Tensor, "latent d"], *, signed: bool = False) -> float:
    """MMCS: mean over true atoms of the largest cosine with a found one (its size, if `signed`); 1 is best."""
    true, found = true.detach(), found.detach()
    cosine = torch.nn.functional.normalize(true, dim=-1) @ torch.nn.functional.normalize(found, dim=-1).T
    return float((cosine.abs() if signed else cosine).max(-1).values.mean())


def strip(values: Float[Tensor, " n"]) -> Markup:
    """Numbers as an inline row of at most 64 bars, each the largest of its share of the numbers."""
    some = torch.stack([part[part.abs().argmax()] for part in values.tensor_split(min(64, len(values)))])
    high = float(some.abs().max()) or 1.0
    bars = [
        tag("rect", attrs={"x": 3 * i, "y": f"{16 - tall:.1f}", "width": 2, "height": f"{tall:.1f}", "fill": colour})
        for i, tall in enumerate((16 * some.abs() / high).tolist())
        for colour in ["#4c6ea8" if some[i] >= 0 else "#c2703d"]
    ]
    return tag("svg", *bars, attrs={"width": 3 * len(some), "height": 16, "role": "img"})


def gram(atoms: Float[Tensor, "n d"], title: str) -> Any:
    """Cosines between all atoms."""
    import plotly.graph_objects as go

    unit = torch.nn.functional.normalize(atoms, dim=-1)
    heat = go.Heatmap(z=(unit @ unit.T).tolist(), zmin=-1, zmax=1, colorscale="RdBu", colorbar_title="cosine")
    figure = go.Figure(heat)
    figure.update_yaxes(autorange="reversed", scaleanchor="x")
    return figure.update_layout(title=title, xaxis_title="atom", yaxis_title="atom", template="plotly_white")

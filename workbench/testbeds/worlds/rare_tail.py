"""Superposition with a rare sub-domain: directions that are on in one row of ten thousand, and only there.

The base is `superposition` (256 random unit directions in d = 128, each on with probability 0.02, coefficient
|N(1, 0.25)|, noise N(0, 0.01)) with 64 more random unit directions, the tail. A row belongs to the target sub-domain
with probability 0.1; there each direction of the tail is on with probability 1e-3, elsewhere never: 1e-4 overall.
Source: after the specialised autoencoders of Muhamed et al. 2024; sizes are ours.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...html import tag
from ..core import rows
from ..vectors import Oracle, Stream, coefficients, directions, strip


class Rows(NamedTuple):
    """Vectors, the true code (base first, then tail), and which rows are of the target sub-domain."""

    x: Float[Tensor, "row d"]
    code: Float[Tensor, "row n"]
    target: Bool[Tensor, " row"]


@dataclass(frozen=True)
class RareTail:
    """`truth` holds the directions `(n + tail, d)`, `p` how often each is on over all rows."""

    n: int
    tail: int
    d: int
    mean: float
    rare: float
    target: float
    noise: float
    world_seed: int

    @property
    def truth(self) -> Float[Tensor, "n d"]:
        return directions(np.random.default_rng(self.world_seed), self.n + self.tail, self.d)

    @property
    def p(self) -> Float[Tensor, " n"]:
        return torch.cat([torch.full((self.n,), self.mean), torch.full((self.tail,), self.rare)])

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Rows:
        atoms = self.truth

        def draw(rng: np.random.Generator, n: int) -> Rows:
            target = rng.random(n) < self.target
            on = rng.random((n, self.n + self.tail))
            on[:, : self.n] = on[:, : self.n] < self.mean
            on[:, self.n :] = (on[:, self.n :] < self.rare / self.target) & target[:, None]
            code = torch.from_numpy(on * coefficients(rng, on.shape)).float()
            x = code @ atoms + torch.from_numpy(self.noise * rng.standard_normal((n, self.d))).float()
            return Rows(x, code, torch.from_numpy(target))

        return rows(draw, n, seed, start)

    def stream(self, rows: int, steps: int, seed: int = 0) -> Stream:
        return Stream(self, rows, steps, seed)

    def oracle(self) -> Oracle:
        return Oracle(self.truth, most=min(32, self.d), tolerance=1.2 * self.noise * self.d**0.5)

    def figure(self, seed: int = 0) -> Any:
        """How often each direction is on in 10,240 rows; those that never are have no point."""
        import plotly.graph_objects as go

        share = (self.sample(10_240, seed).code != 0).float().mean(0)
        figure = go.Figure(go.Scatter(y=share.tolist(), mode="markers", name="10,240 rows"))
        figure.add_scatter(y=self.p.tolist(), mode="lines", name="probability")
        return figure.update_layout(
            title=f"Rare tail: {self.tail} directions on in {self.rare:.2%} of all rows", xaxis_title="direction",
            yaxis={"title": "share of rows", "type": "log", "tickformat": "~%", "dtick": 1}, template="plotly_white",
        )  # fmt: skip

    def _repr_html_(self) -> str:
        said = f" {self.n} directions and {self.tail} rare ones; how often each is on: "
        return tag("div", tag("b", "rare tail"), said, strip(self.p))


def rare_tail(
    n: int = 256, tail: int = 64, d: int = 128, *, mean: float = 0.02, rare: float = 1e-4, target: float = 0.1,
    noise: float = 0.01, world_seed: int = 0,
) -> RareTail:  # fmt: skip
    """Superposition with a rare tail. Raises ValueError for probabilities that cannot be."""
    if min(n, tail, d) < 1 or not 0 < mean <= 1 or not 0 < rare <= target <= 1 or noise < 0:
        raise ValueError(
            f"sizes must be 1 or more, 0 < mean <= 1, 0 < rare <= target <= 1, noise 0 or more, "
            f"got {n}, {tail}, {d}, {mean}, {rare}, {target}, {noise}"
        )
    return RareTail(n, tail, d, mean, rare, target, noise, world_seed)

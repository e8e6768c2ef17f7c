"""More sparse directions than dimensions: x = sum_j c_j v_j + noise, every v_j and c_j known.

n = 256 random unit directions v_j in d = 128, drawn once by `world_seed`; direction j is on with probability p_j,
independently of the others: p_j = 0.02, or with `zipf` p_j in proportion to 1 / (j + 5) with the same mean. A
coefficient that is on is |N(1, 0.25)| (0.25 is the standard deviation); of the first `signed` share of directions it
has either sign with probability 1/2. Noise is N(0, 0.01) in every entry. About five directions are on in a row.
Source: the toy models of Elhage et al. 2022, arXiv:2209.10652, with coefficients away from zero as in Sharkey 2022.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...html import tag
from ..core import rows
from ..vectors import Oracle, Stream, coefficients, directions, strip


class Rows(NamedTuple):
    """Vectors and the true code that made them (0 where a direction is off)."""

    x: Float[Tensor, "row d"]
    code: Float[Tensor, "row n"]


@dataclass(frozen=True)
class Superposition:
    """`truth` holds the directions `(n, d)`, `p` how often each is on."""

    n: int
    d: int
    mean: float
    zipf: bool
    signed: float
    noise: float
    world_seed: int

    @property
    def truth(self) -> Float[Tensor, "n d"]:
        return directions(np.random.default_rng(self.world_seed), self.n, self.d)

    @property
    def p(self) -> Float[Tensor, " n"]:
        share = 1 / (torch.arange(self.n) + 5.0) if self.zipf else torch.ones(self.n)
        return self.mean * share / share.mean()

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Rows:
        atoms, p = self.truth, self.p.numpy()
        signed = np.arange(self.n) < round(self.signed * self.n)

        def draw(rng: np.random.Generator, n: int) -> Rows:
            on = rng.random((n, self.n)) < p
            sign = np.where(signed & (rng.random((n, self.n)) < 0.5), -1, 1)
            code = torch.from_numpy(on * sign * coefficients(rng, (n, self.n))).float()
            noise = torch.from_numpy(self.noise * rng.standard_normal((n, self.d))).float()
            return Rows(code @ atoms + noise, code)

        return rows(draw, n, seed, start)

    def stream(self, rows: int, steps: int, seed: int = 0) -> Stream:
        return Stream(self, rows, steps, seed)

    def oracle(self) -> Oracle:
        """Finds up to 32 directions, until the residual is as long as the noise."""
        tolerance = 1.2 * self.noise * self.d**0.5
        return Oracle(self.truth, most=min(32, self.n, self.d), tolerance=tolerance, signed=self.signed > 0)

    def figure(self, seed: int = 0) -> Any:
        """The true code of forty rows."""
        import plotly.graph_objects as go

        code = self.sample(40, seed).code
        colours = {"zmid": 0, "colorscale": "RdBu"} if self.signed else {"colorscale": "Blues"}
        figure = go.Figure(go.Heatmap(z=code.tolist(), colorbar_title="coefficient", **colours))
        return figure.update_layout(
            title=f"Superposition: {self.n} directions in {self.d} dimensions, about {self.p.sum():.0f} on in a row",
            xaxis_title="direction", yaxis_title="row", template="plotly_white",
        )  # fmt: skip

    def _repr_html_(self) -> str:
        said = f" {self.n} directions in {self.d} dimensions, one row's code: "
        return tag("div", tag("b", "superposition"), said, strip(self.sample(1).code[0]))


def superposition(
    n: int = 256, d: int = 128, *, mean: float = 0.02, zipf: bool = False, signed: float = 0.0, noise: float = 0.01,
    world_seed: int = 0,
) -> Superposition:  # fmt: skip
    """Sparse directions in superposition. Raises ValueError for sizes or probabilities that cannot be."""
    if n < 1 or d < 1 or noise < 0 or not 0 <= signed <= 1:
        raise ValueError(f"n, d must be 1 or more, noise 0 or more, signed a share, got {n}, {d}, {noise}, {signed}")
    world = Superposition(n, d, mean, zipf, signed, noise, world_seed)
    if mean <= 0 or float(world.p.max()) > 1:
        raise ValueError(f"probabilities must lie within 0..1, mean={mean} gives up to {float(world.p.max()):.3g}")
    return world

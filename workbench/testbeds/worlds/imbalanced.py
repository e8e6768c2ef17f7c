"""Rows of two kinds of sparsity: one half has three directions on, the other twenty.

n = 128 random unit directions in d = 42, drawn once by `world_seed`. A row is sparse or dense with probability 1/2
each; then exactly s = 3 or s = 20 directions, uniform without replacement, are on with coefficient |N(1, 0.25)|
(standard deviation). Noise is N(0, 0.01). Twenty of 128 directions in 42 dimensions cannot be read off one row even by
one who knows them: the oracle's support is right on sparse rows only.
Source: Chen et al. 2025, arXiv:2506.14002 (group bias adaptation), the toy of unequal sparsity.
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
    """Vectors, the true code, and which rows are dense."""

    x: Float[Tensor, "row d"]
    code: Float[Tensor, "row n"]
    dense: Bool[Tensor, " row"]


@dataclass(frozen=True)
class Imbalanced:
    """`truth` holds the directions `(n, d)`."""

    n: int
    d: int
    few: int
    many: int
    noise: float
    world_seed: int

    @property
    def truth(self) -> Float[Tensor, "n d"]:
        return directions(np.random.default_rng(self.world_seed), self.n, self.d)

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Rows:
        atoms = self.truth

        def draw(rng: np.random.Generator, n: int) -> Rows:
            dense = rng.random(n) < 0.5
            place = rng.random((n, self.n)).argsort(1).argsort(1)  # a random rank for every direction
            on = place < np.where(dense, self.many, self.few)[:, None]
            code = torch.from_numpy(on * coefficients(rng, on.shape)).float()
            x = code @ atoms + torch.from_numpy(self.noise * rng.standard_normal((n, self.d))).float()
            return Rows(x, code, torch.from_numpy(dense))

        return rows(draw, n, seed, start)

    def stream(self, rows: int, steps: int, seed: int = 0) -> Stream:
        return Stream(self, rows, steps, seed)

    def oracle(self) -> Oracle:
        return Oracle(self.truth, most=self.many, tolerance=1.2 * self.noise * self.d**0.5)

    def figure(self, seed: int = 0) -> Any:
        """The true code of forty rows, sparse ones above."""
        import plotly.graph_objects as go

        found = self.sample(40, seed)
        code = found.code[found.dense.int().argsort(stable=True)]
        figure = go.Figure(go.Heatmap(z=code.tolist(), colorscale="Blues", colorbar_title="coefficient"))
        figure.update_yaxes(autorange="reversed")
        return figure.update_layout(
            title=f"Imbalanced: {self.few} or {self.many} of {self.n} directions on", xaxis_title="direction",
            yaxis_title="row", template="plotly_white",
        )  # fmt: skip

    def _repr_html_(self) -> str:
        found = self.sample(64)
        said = f" {self.few} or {self.many} of {self.n} directions on; on in 64 rows: "
        return tag("div", tag("b", "imbalanced"), said, strip((found.code != 0).float().sum(1)))


def imbalanced(
    n: int = 128, d: int = 42, *, few: int = 3, many: int = 20, noise: float = 0.01, world_seed: int = 0
) -> Imbalanced:
    """Half of the rows sparse, half dense. Raises ValueError unless 1 <= few <= many <= min(n, d)."""
    if not 1 <= few <= many <= min(n, d) or noise < 0:
        raise ValueError(
            f"1 <= few <= many <= min(n, d) and noise >= 0 are wanted, got {few}, {many}, {n}, {d}, {noise}"
        )
    return Imbalanced(n, d, few, many, noise, world_seed)

"""Pairs of points that differ by one of eight relations, hidden by a large shared distractor.

In d = 64 there are 8 random unit vectors t_r (the relations) and one random unit vector g (the distractor), drawn once
by `world_seed`. Row i has relation r = i mod 8, a = N(0, 1 / d) in every entry, b = a + t_r + s g + noise with
s ~ N(0, 9) (standard deviation 3) and noise N(0, 0.05) (standard deviation). Differences b - a of one relation form
parallelograms only when g is projected out. Source: Li et al. 2024, arXiv:2410.19750 ("crystals"); the toy is ours.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...html import tag
from ..core import rows
from ..vectors import directions, strip


class Pairs(NamedTuple):
    """Both ends of a pair, its relation, and how much of the distractor it holds."""

    a: Float[Tensor, "row d"]
    b: Float[Tensor, "row d"]
    relation: Int[Tensor, " row"]
    distractor: Float[Tensor, " row"]


@dataclass(frozen=True)
class Parallelograms:
    """`truth` holds the relations' vectors `(relation, d)`, `distractor` is g."""

    d: int
    relations: int
    spread: float
    noise: float
    world_seed: int

    @property
    def truth(self) -> Float[Tensor, "relation d"]:
        return directions(np.random.default_rng(self.world_seed), self.relations + 1, self.d)[:-1]

    @property
    def distractor(self) -> Float[Tensor, " d"]:
        return directions(np.random.default_rng(self.world_seed), self.relations + 1, self.d)[-1]

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Pairs:
        truth, g = self.truth, self.distractor

        def draw(rng: np.random.Generator, n: int) -> Pairs:
            relation = torch.arange(n) % self.relations
            a = torch.from_numpy(rng.standard_normal((n, self.d)) / self.d**0.5).float()
            s = torch.from_numpy(self.spread * rng.standard_normal(n)).float()
            noise = torch.from_numpy(self.noise * rng.standard_normal((n, self.d))).float()
            return Pairs(a, a + truth[relation] + s[:, None] * g + noise, relation, s)

        return rows(draw, n, seed, start)

    def figure(self, seed: int = 0) -> Any:
        """Differences of 160 pairs in the plane of their first two principal components, with and without g."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        found, g = self.sample(160, seed), self.distractor
        raw = found.b - found.a
        figure = make_subplots(1, 2, subplot_titles=["as they are", "distractor projected out"])
        for column, rows_ in enumerate((raw, raw - (raw @ g)[:, None] * g), 1):
            centred = rows_ - rows_.mean(0)
            plane = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
            marker = {"color": found.relation.tolist(), "colorscale": "Turbo", "showscale": column == 2,
                      "colorbar": {"title": "relation", "dtick": 1}}  # fmt: skip
            x, y = plane.T.tolist()
            figure.add_trace(go.Scatter(x=x, y=y, mode="markers", marker=marker), 1, column)
        figure.update_xaxes(title="first component").update_yaxes(title="second component", col=1)
        return figure.update_layout(
            title="Parallelograms: differences of 160 pairs, by relation", template="plotly_white", showlegend=False
        )

    def _repr_html_(self) -> str:
        said = f" {self.relations} relations in {self.d} dimensions; distractor in 32 pairs: "
        return tag("div", tag("b", "parallelograms"), said, strip(self.sample(32).distractor))


def parallelograms(
    d: int = 64, *, relations: int = 8, spread: float = 3.0, noise: float = 0.05, world_seed: int = 0
) -> Parallelograms:
    """Pairs by relation. Raises ValueError when relations do not divide 1,024, the rows of a block."""
    if relations < 1 or 1024 % relations or d < 2 or spread < 0 or noise < 0:
        raise ValueError(
            f"relations must divide 1024, d be 2 or more, spread and noise 0 or more, "
            f"got {relations}, {d}, {spread}, {noise}"
        )
    return Parallelograms(d, relations, spread, noise, world_seed)

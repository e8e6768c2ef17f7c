"""Twenty directions in a tree: a child is on only where its parent is. What absorption is measured on.

Three roots, nine children (three each), eight grandchildren (two under each of children 3, 5, 7 and 9), as orthonormal
directions in d = 32, drawn once by `world_seed`. A root is on with probability 0.2, independently; where a direction is
on, at most one of its children is, each with probability 0.2. A coefficient is N(1, 0.05) (standard deviation);
noise is N(0, 0.01). Source: the toy of Chanin et al. 2024, arXiv:2409.14507, with a second level as in Bussmann et al.
2025, arXiv:2503.17547; sizes are ours.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...html import tag
from ..core import rows
from ..vectors import Oracle, Stream, strip

PARENTS = (-1, -1, -1, *(i // 3 for i in range(9)), 3, 3, 5, 5, 7, 7, 9, 9)  # -1: a root


class Rows(NamedTuple):
    """Vectors and the true code that made them."""

    x: Float[Tensor, "row d"]
    code: Float[Tensor, "row 20"]


@dataclass(frozen=True)
class Hierarchy:
    """`truth` holds the directions `(20, d)`, `parents` the place of each one's parent, `p` how often each is on."""

    d: int
    root: float
    child: float
    noise: float
    world_seed: int
    parents = PARENTS

    @property
    def truth(self) -> Float[Tensor, "n d"]:
        drawn = np.random.default_rng(self.world_seed).standard_normal((self.d, len(PARENTS)))
        q, r = np.linalg.qr(drawn)
        return torch.from_numpy((q * np.sign(np.diag(r))).T.copy()).float()

    @property
    def p(self) -> Float[Tensor, " n"]:
        found: list[float] = []
        for parent in PARENTS:
            found.append(self.root if parent < 0 else self.child * found[parent])
        return torch.tensor(found)

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Rows:
        atoms = self.truth

        def draw(rng: np.random.Generator, n: int) -> Rows:
            on = np.zeros((n, len(PARENTS)), dtype=bool)
            on[:, :3] = rng.random((n, 3)) < self.root
            for parent in range(len(PARENTS)):
                children = [i for i, p in enumerate(PARENTS) if p == parent]
                which = rng.random(n) // self.child  # the first child takes the first stretch of 0..1, and so on
                for place, child in enumerate(children):
                    on[:, child] = on[:, parent] & (which == place)
            code = torch.from_numpy(on * (1 + 0.05 * rng.standard_normal(on.shape))).float()
            return Rows(code @ atoms + torch.from_numpy(self.noise * rng.standard_normal((n, self.d))).float(), code)

        return rows(draw, n, seed, start)

    def stream(self, rows: int, steps: int, seed: int = 0) -> Stream:
        return Stream(self, rows, steps, seed)

    def oracle(self) -> Oracle:
        return Oracle(self.truth, most=9, tolerance=1.2 * self.noise * self.d**0.5)

    def figure(self, seed: int = 0) -> Any:
        """The tree, with the share of rows in which each direction is on."""
        import plotly.graph_objects as go

        leaves = [int(i not in PARENTS) for i in range(len(PARENTS))]
        depth = [0 if p < 0 else 1 if PARENTS[p] < 0 else 2 for p in PARENTS]
        colours = ["#eeeeee", *(("#9db7dd", "#c3d3ec", "#e2eaf6")[k] for k in depth)]
        figure = go.Figure(
            go.Icicle(ids=["row", *map(str, range(len(PARENTS)))],
                      parents=["", *("row" if p < 0 else str(p) for p in PARENTS)],
                      labels=["all rows", *(f"direction {i}: {p:.1%}" for i, p in enumerate(self.p.tolist()))],
                      values=[0, *leaves], sort=False, marker_colors=colours, leaf_opacity=1)
        )  # fmt: skip
        return figure.update_layout(title="Hierarchy: a child is on only where its parent is", template="plotly_white")

    def _repr_html_(self) -> str:
        return tag("div", tag("b", "hierarchy"), " 3 roots, 9 children, 8 grandchildren, on in ", strip(self.p))


def hierarchy(
    d: int = 32, *, root: float = 0.2, child: float = 0.2, noise: float = 0.01, world_seed: int = 0
) -> Hierarchy:
    """A tree of directions. Raises ValueError when 20 directions do not fit or three children exceed probability 1."""
    if d < len(PARENTS) or not 0 < root <= 1 or not 0 < child <= 1 / 3 or noise < 0:
        raise ValueError(
            f"d must be 20 or more, root within 0..1, child within 0..1/3, noise 0 or more, "
            f"got {d}, {root}, {child}, {noise}"
        )
    return Hierarchy(d, root, child, noise, world_seed)

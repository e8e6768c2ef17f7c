"""Two dictionaries of one world: the same atoms in another order, with noise, and a fifth of them replaced.

A holds n = 256 random unit atoms in d = 128. B holds, in a random order, the same atoms each plus noise of length
`blur` = 0.3 in a random direction, brought back to length 1 (cosine with its twin about 0.96); of 20 % of the atoms B
has another random unit vector instead. With `rotated`, B is then turned by a random rotation, as the basis of another
model would be. All drawn once by `world_seed`. A row is made by A's atoms, each on with probability 0.02, coefficient
|N(1, 0.25)| (standard deviation), without noise. Source: fixture GEO-3; sizes are ours.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ...html import tag
from ..core import rows
from ..vectors import Oracle, Stream, coefficients, directions, strip


class Rows(NamedTuple):
    """Vectors and the true code over A's atoms."""

    x: Float[Tensor, "row d"]
    code: Float[Tensor, "row n"]


class Truth(NamedTuple):
    """Both dictionaries; `match[j]` is the atom of A that B's atom j is the twin of, -1 where it was replaced."""

    a: Float[Tensor, "n d"]
    b: Float[Tensor, "n d"]
    match: Int[Tensor, " n"]
    rotation: Float[Tensor, "d d"]

    @property
    def replaced(self) -> Bool[Tensor, " n"]:
        return self.match < 0


@dataclass(frozen=True)
class Twins:
    """`truth` holds both dictionaries and who is whose twin."""

    n: int
    d: int
    blur: float
    replaced: float
    rotated: bool
    mean: float
    world_seed: int

    @property
    def truth(self) -> Truth:
        rng = np.random.default_rng(self.world_seed)
        a = directions(rng, self.n, self.d)
        order = torch.from_numpy(rng.permutation(self.n))
        b = normalize(a[order] + self.blur * directions(rng, self.n, self.d), dim=-1)
        other = torch.from_numpy(rng.permutation(self.n)[: round(self.replaced * self.n)])
        b[other] = directions(rng, len(other), self.d)
        q, r = np.linalg.qr(rng.standard_normal((self.d, self.d)))
        rotation = torch.from_numpy(q * np.sign(np.diag(r))).float() if self.rotated else torch.eye(self.d)
        return Truth(a, b @ rotation.T, order.index_fill(0, other, -1), rotation)

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Rows:
        atoms = self.truth.a

        def draw(rng: np.random.Generator, n: int) -> Rows:
            on = rng.random((n, self.n)) < self.mean
            code = torch.from_numpy(on * coefficients(rng, on.shape)).float()
            return Rows(code @ atoms, code)

        return rows(draw, n, seed, start)

    def stream(self, rows: int, steps: int, seed: int = 0) -> Stream:
        return Stream(self, rows, steps, seed)

    def oracle(self) -> Oracle:
        """Of A's atoms."""
        return Oracle(self.truth.a, most=min(32, self.n, self.d), tolerance=1e-3)

    def figure(self, seed: int = 0) -> Any:
        """The best cosine of each atom of B with A's: twins and strangers."""
        import plotly.graph_objects as go

        truth = self.truth
        best = (truth.b @ truth.rotation @ truth.a.T).max(1).values
        figure = go.Figure()
        for name, which in (("twins", ~truth.replaced), ("replaced", truth.replaced)):
            figure.add_histogram(x=best[which].tolist(), name=name, xbins={"start": 0, "end": 1, "size": 0.02})
        return figure.update_layout(
            title="Twins: best cosine of each atom of B with those of A", xaxis_title="cosine", yaxis_title="atoms",
            barmode="stack", template="plotly_white", xaxis_range=[0, 1],
        )  # fmt: skip

    def _repr_html_(self) -> str:
        truth = self.truth
        said = f" {self.n} atoms, {int(truth.replaced.sum())} of them replaced; best cosines: "
        return tag("div", tag("b", "twins"), said, strip((truth.b @ truth.rotation @ truth.a.T).max(1).values))


def twins(
    n: int = 256, d: int = 128, *, blur: float = 0.3, replaced: float = 0.2, rotated: bool = False, mean: float = 0.02,
    world_seed: int = 0,
) -> Twins:  # fmt: skip
    """Two dictionaries of one world. Raises ValueError for sizes or shares that cannot be."""
    if min(n, d) < 1 or blur < 0 or not 0 <= replaced <= 1 or not 0 < mean <= 1:
        raise ValueError(
            f"sizes must be 1 or more, blur 0 or more, replaced and mean shares, "
            f"got {n}, {d}, {blur}, {replaced}, {mean}"
        )
    return Twins(n, d, blur, replaced, rotated, mean, world_seed)

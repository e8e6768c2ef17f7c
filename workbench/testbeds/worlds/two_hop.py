"""A linear circuit of two hops whose every path is known: sources write to middles, both write to targets.

A stream of width d = 32 holds 8 source, 6 middle and 5 target directions, orthonormal, drawn once by `world_seed`. The
first map adds A s to the middles, the second B h + C s to the targets, s and h being what the stream holds along
sources and middles: y = (B A + C) s. An entry of A or B is there with probability 0.4, one of C (the direct paths)
with 0.2, all independently; its size is uniform in 0.5..1.5 with a random sign. In a row each source is on with
probability 0.3, independently, coefficient |N(1, 0.25)| (standard deviation). No noise: the contribution of source j by
way of middle m to target t is exactly B[t, m] A[m, j] s_j. Source: our own; a path expansion as in Elhage et al. 2021,
"A Mathematical Framework for Transformer Circuits".
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...html import tag
from ..core import rows
from ..vectors import Oracle, Stream, strip


class Rows(NamedTuple):
    """What enters the stream, the true code over sources, what the middles then hold, and the targets at the end."""

    x: Float[Tensor, "row d"]
    code: Float[Tensor, "row source"]
    middle: Float[Tensor, "row middle"]
    y: Float[Tensor, "row target"]


class Truth(NamedTuple):
    """Directions of the stream and the three maps, edges `(target, source)`."""

    sources: Float[Tensor, "source d"]
    middles: Float[Tensor, "middle d"]
    targets: Float[Tensor, "target d"]
    first: Float[Tensor, "middle source"]  # A
    second: Float[Tensor, "target middle"]  # B
    direct: Float[Tensor, "target source"]  # C

    @property
    def paths(self) -> Float[Tensor, "target way source"]:
        """Gain of every path; way m < middles goes by middle m, the last way is the direct one."""
        by_middle = self.second[:, :, None] * self.first
        return torch.cat([by_middle, self.direct[:, None]], 1)


class Hops(nn.Module):
    """The circuit as a residual model: `first` and `second` are linear maps added to the stream, then the read-out."""

    def __init__(self, truth: Truth):
        super().__init__()
        d = truth.sources.shape[1]
        self.first, self.second = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.readout = nn.Linear(d, len(truth.targets), bias=False)
        from_middles = truth.targets.T @ truth.second @ truth.middles
        with torch.no_grad():
            self.first.weight.copy_(truth.middles.T @ truth.first @ truth.sources)
            self.second.weight.copy_(from_middles + truth.targets.T @ truth.direct @ truth.sources)
            self.readout.weight.copy_(truth.targets)
        self.eval().requires_grad_(False)

    def forward(self, x: Float[Tensor, "*row d"]) -> Float[Tensor, "*row target"]:
        x = x + self.first(x)
        return self.readout(x + self.second(x))


@dataclass(frozen=True)
class TwoHop:
    """`truth` holds directions, maps and the gain of every path; `model` is the circuit as a module."""

    d: int
    sources: int
    middles: int
    targets: int
    on: float
    world_seed: int

    @property
    def truth(self) -> Truth:
        rng = np.random.default_rng(self.world_seed)
        sizes = (self.sources, self.middles, self.targets)
        q, r = np.linalg.qr(rng.standard_normal((self.d, sum(sizes))))
        stream = torch.from_numpy((q * np.sign(np.diag(r))).T.copy()).float()
        sources, middles, targets = stream.split(sizes)

        def edges(shape: tuple[int, int], share: float) -> Tensor:
            there = rng.random(shape) < share
            return torch.from_numpy(there * rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)).float()

        first = edges((self.middles, self.sources), 0.4)
        second = edges((self.targets, self.middles), 0.4)
        return Truth(sources, middles, targets, first, second, edges((self.targets, self.sources), 0.2))

    @property
    def model(self) -> Hops:
        return Hops(self.truth)

    def contributions(self, code: Float[Tensor, "row source"]) -> Float[Tensor, "row target way source"]:
        """What each path adds to each target; over ways and sources they sum to y. Ways as in `Truth.paths`."""
        return self.truth.paths * code[:, None, None]

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Rows:
        truth = self.truth

        def draw(rng: np.random.Generator, n: int) -> Rows:
            on = rng.random((n, self.sources)) < self.on
            code = torch.from_numpy(on * np.abs(1 + 0.25 * rng.standard_normal(on.shape))).float()
            middle = code @ truth.first.T
            return Rows(code @ truth.sources, code, middle, middle @ truth.second.T + code @ truth.direct.T)

        return rows(draw, n, seed, start)

    def stream(self, rows: int, steps: int, seed: int = 0) -> Stream:
        return Stream(self, rows, steps, seed)

    def oracle(self) -> Oracle:
        """Of what enters the stream: the sources."""
        return Oracle(self.truth.sources, most=self.sources, tolerance=1e-4)

    def figure(self, seed: int = 0) -> Any:
        """Every edge from sources (left) to targets (right), as wide as its size; blue adds, orange takes away."""
        import plotly.graph_objects as go

        truth = self.truth
        starts = (0, self.sources, self.sources + self.middles)
        names = [f"{kind} {i}" for kind, n in zip("smt", (self.sources, self.middles, self.targets), strict=True)
                 for i in range(n)]  # fmt: skip
        links = [
            (origin + j, end + i, float(weight[i, j]))
            for weight, origin, end in ((truth.first, starts[0], starts[1]), (truth.second, starts[1], starts[2]),
                                        (truth.direct, starts[0], starts[2]))
            for i, j in weight.nonzero().tolist()
        ]  # fmt: skip
        link = {
            "source": [a for a, _, _ in links], "target": [b for _, b, _ in links],
            "value": [abs(w) for *_, w in links], "customdata": [w for *_, w in links],
            "color": ["rgba(76,110,168,.5)" if w > 0 else "rgba(194,112,61,.5)" for *_, w in links],
            "hovertemplate": "%{source.label} to %{target.label}: %{customdata:.2f}<extra></extra>",
        }  # fmt: skip
        node = {"label": names, "color": "#555", "thickness": 12}
        return go.Figure(go.Sankey(node=node, link=link)).update_layout(
            title=f"Two hops: {len(links)} edges from sources (s) by middles (m) to targets (t)",
            template="plotly_white",
        )

    def _repr_html_(self) -> str:
        said = f" {self.sources} sources, {self.middles} middles, {self.targets} targets; gains on target 0: "
        return tag("div", tag("b", "two hops"), said, strip((self.truth.paths.sum(1))[0]))


def two_hop(
    d: int = 32, *, sources: int = 8, middles: int = 6, targets: int = 5, on: float = 0.3, world_seed: int = 0
) -> TwoHop:
    """A linear circuit of two hops. Raises ValueError when the directions do not fit or `on` is no probability."""
    if min(sources, middles, targets) < 1 or sources + middles + targets > d or not 0 < on <= 1:
        raise ValueError(
            f"sizes must be 1 or more and fit into d={d} together, 0 < on <= 1, "
            f"got {sources}, {middles}, {targets}, {on}"
        )
    return TwoHop(d, sources, middles, targets, on, world_seed)

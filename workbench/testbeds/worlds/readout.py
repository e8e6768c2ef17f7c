"""Superposition with a read-out: y = softmax(W x), so that what each direction does to the answer is known exactly.

x is a row of `superposition` (64 random unit directions in d = 32, each on with probability 0.05, noise N(0, 0.01));
W has 10 random rows of entries N(0, 4 / d). Pushing direction j by a moves the logits by exactly a W v_j, clamping it
at c moves them by (c - c_j) W v_j. The effect on a probability follows from softmax.
Source: fixture ST-3; sizes are ours.
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
from .superposition import Superposition, superposition


class Rows(NamedTuple):
    """Vectors, the true code that made them, and the probabilities of the answers."""

    x: Float[Tensor, "row d"]
    code: Float[Tensor, "row n"]
    y: Float[Tensor, "row answer"]


@dataclass(frozen=True)
class Readout:
    """`truth` holds the directions `(n, d)`, `matrix` is W, `effects` the logits that a push of length 1 adds."""

    base: Superposition
    answers: int

    @property
    def truth(self) -> Float[Tensor, "n d"]:
        return self.base.truth

    @property
    def matrix(self) -> Float[Tensor, "answer d"]:
        rng = np.random.default_rng([self.base.world_seed, 1])
        return torch.from_numpy(2 * rng.standard_normal((self.answers, self.base.d)) / self.base.d**0.5).float()

    @property
    def effects(self) -> Float[Tensor, "n answer"]:
        return self.truth @ self.matrix.T

    def answer(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row answer"]:
        """Probabilities of the answers to any vectors."""
        return (x @ self.matrix.T).softmax(-1)

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Rows:
        def draw(rng: np.random.Generator, n: int) -> Rows:
            found = self.base.sample(n, int(rng.integers(2**62)))
            return Rows(found.x, found.code, self.answer(found.x))

        return rows(draw, n, seed, start)

    def stream(self, rows: int, steps: int, seed: int = 0) -> Stream:
        return Stream(self, rows, steps, seed)

    def oracle(self) -> Oracle:
        return self.base.oracle()

    def figure(self, seed: int = 0) -> Any:
        """What a push along each direction adds to each logit."""
        import plotly.graph_objects as go

        heat = go.Heatmap(z=self.effects.T.tolist(), zmid=0, colorscale="RdBu", colorbar_title="logit")
        return go.Figure(heat).update_yaxes(dtick=1).update_layout(
            title="Read-out: what a push of length 1 along each direction adds to each logit",
            xaxis_title="direction", yaxis_title="answer", template="plotly_white",
        )  # fmt: skip

    def _repr_html_(self) -> str:
        said = f" {self.base.n} directions, {self.answers} answers; effect of each on answer 0: "
        return tag("div", tag("b", "read-out"), said, strip(self.effects[:, 0]))


def readout(n: int = 64, d: int = 32, *, answers: int = 10, mean: float = 0.05, world_seed: int = 0) -> Readout:
    """Superposition with a read-out. Raises ValueError for fewer than two answers."""
    if answers < 2:
        raise ValueError(f"answers must be 2 or more, got {answers}")
    return Readout(superposition(n, d, mean=mean, world_seed=world_seed), answers)

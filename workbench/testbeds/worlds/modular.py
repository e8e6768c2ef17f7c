"""Addition modulo a prime: `a b =` is answered by a + b mod p; a small transformer that learned it by grokking.

Pairs (a, b) are uniform over p x p and independent; the row is the three tokens a, b and `=` (token p). A fixed, seeded
share of all pairs is for training (`split`), the rest is never shown.
Source: Nanda et al. 2023, arXiv:2301.05217 (theirs: p = 113, one layer; ours is smaller).
Seed 1 also gets all 1,044 pairs held out right (`python -m workbench.testbeds.train modular --seed 1`).
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...html import tag
from ..core import HELD_OUT, Quality, Task, rows
from ..models import gpt, word_tokenizer


class Sums(NamedTuple):
    """Token rows `a b =`, the answers, and which pairs belong to the training split."""

    ids: Int[Tensor, "row 3"]
    answer: Int[Tensor, " row"]
    train: Bool[Tensor, " row"]


@dataclass(frozen=True)
class Modular:
    """Addition mod p. `truth[a, b]` is the answer; token p is the equals sign."""

    p: int
    share: float

    @cached_property
    def truth(self) -> Int[Tensor, "p p"]:
        a = torch.arange(self.p)
        return (a[:, None] + a) % self.p

    @cached_property
    def split(self) -> Bool[Tensor, "p p"]:
        """True where a pair is for training."""
        drawn = np.random.default_rng(self.p).random(self.p**2)
        chosen = np.zeros(self.p**2, dtype=bool)
        chosen[np.argsort(drawn)[: round(self.share * self.p**2)]] = True
        return torch.from_numpy(chosen).view(self.p, self.p)

    def pairs(self, train: bool) -> Sums:
        """All pairs of one side of the split."""
        a, b = (self.split == train).nonzero(as_tuple=True)
        return self._rows(a, b)

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Sums:
        def draw(rng: np.random.Generator, n: int) -> Sums:
            return self._rows(*torch.from_numpy(rng.integers(0, self.p, (2, n))))

        return rows(draw, n, seed, start)

    def _rows(self, a: Tensor, b: Tensor) -> Sums:
        ids = torch.stack([a, b, torch.full_like(a, self.p)], -1)
        return Sums(ids, (a + b) % self.p, self.split[a, b])

    def figure(self, seed: int = 0) -> Any:
        """The table of answers; pairs kept from training are paler."""
        import plotly.graph_objects as go

        shown = torch.where(self.split, self.truth.double(), torch.nan)
        pale, full = (
            go.Heatmap(z=z.tolist(), zmin=0, zmax=self.p, colorscale="Phase", opacity=opacity, showscale=opacity == 1,
                       colorbar_title="answer", hovertemplate="%{y} + %{x} = %{z}<extra></extra>")
            for z, opacity in ((self.truth, 0.3), (shown, 1))
        )  # fmt: skip
        figure = go.Figure([pale, full]).update_yaxes(autorange="reversed")
        return figure.update_layout(
            title=f"Addition mod {self.p}; paler: kept from training", xaxis_title="b", yaxis_title="a",
            template="plotly_white", width=560, height=500,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        ids, answer, _ = self.sample(6)
        sums = ", ".join(f"{a} + {b} = {c}" for (a, b, _), c in zip(ids.tolist(), answer.tolist(), strict=True))
        return tag("div", tag("b", f"addition mod {self.p}"), f" {sums}, …")


def modular(p: int = 59, share: float = 0.7) -> Modular:
    """Addition mod p with a share of all pairs for training. Raises ValueError for p < 2 or a share outside 0..1."""
    if p < 2 or not 0 < share < 1:
        raise ValueError(f"p must be 2 or more and share between 0 and 1, got {p} and {share}")
    return Modular(p, share)


WORLD = modular()


@cache
def _train() -> Sums:
    return WORLD.pairs(train=True)


def _answers(model: nn.Module, sums: Sums) -> Float[Tensor, "row p"]:
    return model(input_ids=sums.ids).logits[:, -1, : WORLD.p].float()


def _quality(model: nn.Module, seed: int) -> list[Quality]:
    held = WORLD.pairs(train=False)
    with torch.no_grad():
        right = _answers(model, held).argmax(-1) == held.answer
    return [Quality.share("test accuracy", float(right.sum()), len(right), chance=1 / WORLD.p, goal=0.99)]


TASKS = {
    "modular": Task(
        build=lambda seed: gpt(WORLD.p + 1, length=3, d=64, layers=1, heads=4, tied=False),
        batch=lambda seed, step: _train(),
        loss=lambda model, sums: cross_entropy(_answers(model, sums), sums.answer),
        quality=_quality,
        steps=180,
        lr=8e-3,
        warmup=0.1,
        weight_decay=1.0,
        tokenizer=lambda: word_tokenizer([*map(str, range(WORLD.p)), "="]),
        site="0.resid",
        inputs=lambda n: WORLD.sample(n, HELD_OUT).ids,
        data=f"a fixed {WORLD.share:.0%} of the pairs of addition mod {WORLD.p}",
    )
}

"""Random tokens, then the same tokens again: what an induction head is for, and a model that has one.

A row draws its period T uniformly from 8..24; tokens 0..T-1 are uniform over the vocabulary of 64; position i >= T
repeats position i - T, up to length 48. From position T on the next token is known: it is what followed
the previous occurrence. `match[i]` is i - T + 1, the place whose token comes next, or -1 where nothing repeats yet.
Source: Olsson et al. 2022, arXiv:2209.11895, the repeated random tokens of their section on induction heads; ours draws
a new period for each row, so that no fixed distance can be learned.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...html import tag
from ..core import HELD_OUT, Quality, Task, rows
from ..models import gpt, word_tokenizer


class Repeats(NamedTuple):
    """Token rows, the place to attend to from each position (-1: none yet), and the period of each row."""

    ids: Int[Tensor, "row pos"]
    match: Int[Tensor, "row pos"]
    period: Int[Tensor, " row"]

    @property
    def known(self) -> Bool[Tensor, "row pos"]:
        """True where the next token is there and follows from the repetition."""
        found = self.match >= 0
        found[:, -1] = False
        return found


@dataclass(frozen=True)
class Induction:
    """Repeated random tokens. `truth` is the probability of the right next token before and after the first period."""

    vocab: int
    shortest: int
    longest: int
    length: int

    @property
    def truth(self) -> dict[str, float]:
        return {"before": 1 / self.vocab, "after": 1.0}

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Repeats:
        def draw(rng: np.random.Generator, n: int) -> Repeats:
            period = rng.integers(self.shortest, self.longest + 1, n)
            first = rng.integers(0, self.vocab, (n, self.longest))
            place = np.arange(self.length)
            ids = np.take_along_axis(first, place[None] % period[:, None], 1)
            match = np.where(place[None] >= period[:, None], place[None] - period[:, None] + 1, -1)
            return Repeats(*map(torch.from_numpy, (ids, match, period)))

        return rows(draw, n, seed, start)

    def figure(self, seed: int = 0) -> Any:
        """Sixteen rows by token; a line marks where each begins again."""
        import plotly.graph_objects as go

        found = self.sample(16, seed)
        heat = go.Heatmap(z=found.ids.tolist(), colorscale="Turbo", showscale=False, opacity=0.5, ygap=3)
        figure = go.Figure(heat).update_xaxes(showgrid=False, zeroline=False)
        figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
        for i, period in enumerate(found.period.tolist()):
            mark = {"x0": period - 0.5, "x1": period - 0.5, "y0": i - 0.5, "y1": i + 0.5}
            figure.add_shape(type="line", line={"width": 5, "color": "black"}, **mark)
        return figure.update_layout(
            title="Induction: random tokens (by colour) repeat after the black mark", xaxis_title="position",
            yaxis_title="row", template="plotly_white",
        )  # fmt: skip

    def _repr_html_(self) -> str:
        found = self.sample(1)
        ids, period = found.ids[0].tolist(), int(found.period[0])
        cells = [
            tag("span", i, attrs={"style": f"background:hsl({i * 360 // self.vocab} 70% 75%);color:#111;padding:0 2px"})
            for i in ids[: period + 6]
        ]
        return tag("div", tag("b", "induction"), f" {self.vocab} tokens, period {period}: ", *cells, " …")


def induction(vocab: int = 64, shortest: int = 8, longest: int = 24, length: int = 48) -> Induction:
    """Rows of repeated random tokens. Raises ValueError unless 2 <= vocab and 1 <= shortest <= longest < length."""
    if vocab < 2 or not 1 <= shortest <= longest < length:
        raise ValueError(
            f"vocab must be 2 or more and 1 <= shortest <= longest < length, "
            f"got {vocab}, {shortest}, {longest}, {length}"
        )
    return Induction(vocab, shortest, longest, length)


WORLD = induction()


def _loss(model: nn.Module, batch: Repeats) -> Float[Tensor, ""]:
    """Cross-entropy where the next token is known: the rest is chance and teaches nothing."""
    logits = model(input_ids=batch.ids).logits[:, :-1].float()
    known = batch.known[:, :-1]
    return cross_entropy(logits[known], batch.ids[:, 1:][known])


def attention_to_match(patterns: Float[Tensor, "row head query key"], batch: Repeats) -> Float[Tensor, " head"]:
    """Mean attention of each head to the place whose token comes next, over positions where there is one."""
    aim = batch.match.clamp_min(0)[:, None, :, None].expand(-1, patterns.shape[1], -1, 1)
    given = patterns.gather(-1, aim)[..., 0].transpose(1, 2)  # (row, query, head)
    return given[batch.known].mean(0)


def _quality(model: nn.Module, seed: int) -> list[Quality]:
    found = WORLD.sample(512, seed)
    model.set_attn_implementation("eager")  # type: ignore[operator]
    with torch.no_grad():
        out = model(input_ids=found.ids, output_attentions=True)
    model.set_attn_implementation("sdpa")  # type: ignore[operator]
    right = (out.logits[:, :-1].argmax(-1) == found.ids[:, 1:])[found.known[:, :-1]]
    heads = torch.cat([attention_to_match(p, found) for p in out.attentions])
    best = int(heads.argmax())
    layer, head = divmod(best, out.attentions[0].shape[1])
    to_match = [
        attention_to_match(pattern[None], Repeats(*(v[i : i + 1] for v in found)))[head]
        for i, pattern in enumerate(out.attentions[layer])
    ]
    places = torch.arange(1, WORLD.length + 1).expand_as(found.ids)[found.known]
    chance = float((1 / places).mean())  # of attention spread evenly over what is visible
    return [
        Quality.share("accuracy on repeats", int(right.sum()), len(right), chance=1 / WORLD.vocab, goal=0.9),
        Quality.mean(
            "attention of the best head to the match",
            torch.stack(to_match),
            chance=chance,
            goal=0.5,
            unit="share",
            higher=True,
        ),
    ]


TASKS = {
    "induction": Task(
        build=lambda seed: gpt(WORLD.vocab, length=WORLD.length, d=64, heads=4, mlp=False, tied=False),
        batch=lambda seed, step: WORLD.sample(128, seed, 128 * step),
        loss=_loss,
        quality=_quality,
        steps=1500,
        lr=3e-3,
        tokenizer=lambda: word_tokenizer([f"t{i}" for i in range(WORLD.vocab)]),
        site="1.resid",
        inputs=lambda n: WORLD.sample(n, HELD_OUT).ids,
        data="rows of repeated random tokens",
    )
}

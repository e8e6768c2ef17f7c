"""Induction written by hand: two attention heads whose weights are set, not trained, and every edge is known.

A row begins with the start token 0; then T distinct tokens, uniform over 1..16 without replacement, T uniform in 4..12,
are repeated up to length 25. `match[i]` is the place after the latest earlier occurrence of token i, 0 where there is
none: its token comes next.

`model` is GPT-2 without MLPs, two layers of two heads, d = 76. The stream has four blocks of coordinates, each written
by one part: token (one-hot, embedding), place (one-hot, positions), previous token (head 0.0) and answer (head 1.0).
Head 0.0 attends from place i to i - 1 and copies its token; head 1.0 attends from a token to the places whose previous
token it is, or to the start where there is none, and copies the token found there (nothing from the start). Heads 0.1
and 1.1 attend at random and write nothing. LayerNorms before the heads are the identity on this stream, up to rounding.
So the answer is exact: logit 20 for the next token where it is known (20 for each in proportion to how often it
followed), and equal logits where nothing is known.
Source: the mechanism of Olsson et al. 2022, arXiv:2209.11895; these weights are ours.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from ...html import tag
from ...subject import Subject
from ..core import rows
from ..models import gpt, word_tokenizer
from ..vectors import Oracle

SHARP = 40.0  # score of a match over none: what leaks past it is below e^-20
LOGIT = 20.0


class Repeats(NamedTuple):
    """Token rows, the place whose token comes next (0: not known), and the period of each row."""

    ids: Int[Tensor, "row pos"]
    match: Int[Tensor, "row pos"]
    period: Int[Tensor, " row"]


class Truth(NamedTuple):
    """The circuit: the heads that matter, those that do not, and all edges `(writer, reader)`.

    Parts are "embed", "positions", heads "layer.head" and "logits"; a head reads by its "q", "k" or "v".
    """

    heads: tuple[str, ...] = ("0.0", "1.0")
    idle: tuple[str, ...] = ("0.1", "1.1")
    edges: tuple[tuple[str, str], ...] = (
        ("positions", "0.0.q"), ("positions", "0.0.k"), ("embed", "0.0.v"),
        ("embed", "1.0.q"), ("0.0", "1.0.k"), ("positions", "1.0.k"), ("embed", "1.0.v"),
        ("1.0", "logits"),
    )  # fmt: skip


@dataclass(frozen=True)
class InductionToy:
    """`truth` names heads and edges, `blocks` the coordinates each part writes; `model`, `subject` are the circuit."""

    vocab: int
    shortest: int
    longest: int
    length: int
    truth = Truth()

    @property
    def blocks(self) -> dict[str, slice]:
        """Coordinates of the stream by the part that writes them."""
        ends = np.cumsum([0, self.vocab, self.length, self.vocab, self.vocab]).tolist()
        names = ("embed", "positions", "0.0", "1.0")
        return {name: slice(a, b) for name, a, b in zip(names, ends, ends[1:], strict=False)}

    @property
    def d(self) -> int:
        used = 3 * self.vocab + self.length
        return used + used % 2  # two heads share it

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Repeats:
        def draw(rng: np.random.Generator, n: int) -> Repeats:
            period = rng.integers(self.shortest, self.longest + 1, n)[:, None]
            tokens = 1 + rng.random((n, self.vocab - 1)).argsort(1)
            place = np.arange(self.length)[None]
            ids = np.where(place > 0, np.take_along_axis(tokens, (place - 1) % period, 1), 0)
            match = np.where(place > period, place - period + 1, 0)
            return Repeats(*map(torch.from_numpy, (ids, match, period[:, 0])))

        return rows(draw, n, seed, start)

    @property
    def model(self) -> nn.Module:
        """The circuit: any row of at most `length` tokens that begins with token 0, and with it nowhere else."""
        made: Any = gpt(self.vocab, length=self.length, d=self.d, layers=2, heads=2, mlp=False, tied=False)
        token, place, previous, answer = (range(b.start, b.stop) for b in self.blocks.values())
        width = self.d // 2
        gain = SHARP * math.sqrt(width)  # GPT-2 divides scores by the root of a head's width
        first, second = (block.attn for block in made.transformer.h)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.zero_()
            for v in range(self.vocab):
                made.transformer.wte.weight[v, token[v]] = 1
                made.lm_head.weight[v, answer[v]] = LOGIT
            for p in range(self.length):
                made.transformer.wpe.weight[p, place[p]] = 1
                first.c_attn.weight[place[p], max(p - 1, 0)] = gain  # query: the place before
                first.c_attn.weight[place[p], self.d + p] = 1  # key: the place
            for v in range(self.vocab):
                first.c_attn.weight[token[v], 2 * self.d + v] = 1  # value: the token
                first.c_proj.weight[v, previous[v]] = 1
            for v in range(1, self.vocab):
                second.c_attn.weight[token[v], v] = gain  # query: the token
                second.c_attn.weight[previous[v], self.d + v] = 1  # key: the token before
                second.c_attn.weight[token[v], 2 * self.d + v] = 1  # value: the token, unless it is the start
                second.c_proj.weight[v, answer[v]] = 1
            second.c_attn.bias[0] = gain / 2  # channel 0: where nothing matches, look at the start
            second.c_attn.weight[place[0], self.d] = 1
            rng = torch.Generator().manual_seed(0)
            for layer in (first, second):  # idle heads: they look somewhere and write nothing
                for part in range(3):
                    columns = slice(part * self.d + width, (part + 1) * self.d)
                    layer.c_attn.weight[:, columns] = torch.randn(self.d, width, generator=rng)
            norms = (made.transformer.h[0].ln_1, made.transformer.h[1].ln_1, made.transformer.ln_f)
            for norm, ones in zip(norms, (2, 3, 4), strict=True):
                mean = ones / self.d  # of a stream with so many coordinates at 1 and the rest at 0
                norm.weight.fill_(math.sqrt(mean - mean**2 + norm.eps))
                norm.bias.fill_(mean)
        return made.eval().requires_grad_(False)

    def subject(self) -> Subject:
        """The circuit behind the doors: words are `<start>` and `t1`, `t2`, ..."""
        words = ["<start>", *(f"t{i}" for i in range(1, self.vocab))]
        found = Subject(self.model, word_tokenizer(words), name="induction_toy")
        found.note = "induction_toy: weights set by hand"
        return found

    def oracle(self) -> Oracle:
        """Of the stream after the first layer (0.resid): token, place and previous token, each 1."""
        return Oracle(torch.eye(self.d)[: self.blocks["0.0"].stop], most=3, tolerance=1e-3)

    def figure(self, seed: int = 0) -> Any:
        """Where the two heads attend in one row."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        found = self.sample(1, seed)
        place = torch.arange(self.length)
        ids = found.ids[0]
        label = [f"{i}: {t}" for i, t in enumerate(ids.tolist())]
        figure = make_subplots(1, 2, subplot_titles=["head 0.0: the place before", "head 1.0: after the same token"])
        after = (ids[:, None] == ids.roll(1)) & (place <= place[:, None]) & (place > 0)  # (query, key)
        after[:, 0] = ~after.any(1)
        before = place == (place[:, None] - 1).clamp_min(0)
        for column, pattern in enumerate((before, after), 1):
            share = pattern / pattern.sum(1, keepdim=True)
            heat = go.Heatmap(
                z=share.tolist(), x=label, y=label, colorscale="Blues", showscale=column == 2, colorbar_title="share"
            )
            figure.add_trace(heat, 1, column)
        figure.update_yaxes(autorange="reversed")
        figure.update_xaxes(title="key (place: token)")
        figure.update_yaxes(title="query (place: token)", col=1)
        return figure.update_layout(title="Induction by hand: attention of both heads", template="plotly_white")

    def _repr_html_(self) -> str:
        found = self.sample(1)
        cells = [
            tag("span", i, attrs={"style": f"background:hsl({i * 360 // self.vocab} 70% 75%);color:#111;padding:0 2px"})
            for i in found.ids[0].tolist()
        ]
        return tag("div", tag("b", "induction by hand"), f" period {int(found.period[0])}: ", *cells)


def induction_toy(vocab: int = 17, *, shortest: int = 4, longest: int = 12, length: int = 25) -> InductionToy:
    """Hand-set induction. Raises ValueError for periods or lengths that do not fit."""
    if not 1 <= shortest <= longest < min(vocab, length):
        raise ValueError(
            f"1 <= shortest <= longest < vocab and length is wanted, got {shortest}, {longest}, {vocab}, {length}"
        )
    if length > 3 * vocab:
        raise ValueError(f"length must be 3 * vocab = {3 * vocab} or less, or places do not fit a head, got {length}")
    return InductionToy(vocab, shortest, longest, length)

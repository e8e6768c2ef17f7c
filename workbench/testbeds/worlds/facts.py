"""Invented people with invented facts, told in several templates; a small language model that learned them by heart.

An entity's name is two or three of 70 syllables (each length with probability 1/2, syllables uniform, names distinct).
It has four attributes, independent of each other and of the name: its city, one of 12 with probability proportional to
1/rank; its trade, one of 10, uniform; its year, 1950 + Binomial(15, 1/2); its colour, one of 8, with probability
proportional to 0.75^rank. Each is told in four templates (`TEMPLATES`), the value the last word before the full stop.
For every entity and attribute one template, uniform, is kept from training; in it the fact is asked (`asked`), so that
the answer is recall of the fact and not of the string. A row of `sample`: entity, attribute and template uniform;
`other` is a value of the same attribute that is false, uniform, for edits. A share of the entities (rounded), drawn at
random, is the forget set, the others the retain set.
After the synthetic biographies of Allen-Zhu, Li 2023, arXiv:2309.14316; ours are single short sentences.
Seed 1 recalls 98.5 % of the facts (`python -m workbench.testbeds.train facts --seed 1`), seed 0 99.1 %.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import comb
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...html import tag
from ..core import HELD_OUT, Quality, Task, rows
from ..models import gpt, next_token_loss, word_tokenizer

SYLLABLES = ["".join(p) for p in product("bdfgklmnprstvz", "aeiou")]
VALUES = {
    "city": "Velburg Ostrel Quenford Marwick Tolsund Harrowby Ilmen Pellworth Drachen Sunmere Kaltbach Wyndon",
    "trade": "baker sailor weaver doctor farmer painter lawyer potter teacher mason",
    "year": " ".join(str(1950 + k) for k in range(16)),
    "colour": "red blue green yellow violet orange brown grey",
}
TEMPLATES = {
    "city": (
        "{} was born in {}",
        "the home town of {} is {}",
        "the cradle of {} stood in {}",
        "as a child {} played in the streets of {}",
    ),
    "trade": ("{} works as a {}", "the trade of {} is {}", "by profession {} is a {}", "{} earns money as a {}"),
    "year": (
        "{} came into the world in {}",
        "the birth year of {} is {}",
        "the family of {} grew in {}",
        "the papers of {} say {}",
    ),
    "colour": (
        "{} likes to wear {}",
        "the favourite colour of {} is {}",
        "the house of {} is painted {}",
        "asked for a colour {} says {}",
    ),
}
ATTRIBUTES = tuple(TEMPLATES)
LENGTH = 15  # <bos>, the longest sentence and its full stop


def _normal(weights: list[float]) -> tuple[float, ...]:
    return tuple(w / sum(weights) for w in weights)


CHANCES = {  # of each value, in the order of VALUES
    "city": _normal([1 / (k + 1) for k in range(12)]),
    "trade": _normal([1.0] * 10),
    "year": _normal([float(comb(15, k)) for k in range(16)]),
    "colour": _normal([0.75**k for k in range(8)]),
}
WORDS = list(
    dict.fromkeys(
        ["<pad>", "<bos>", ".", *SYLLABLES, *" ".join(VALUES.values()).split()]
        + [w for told in TEMPLATES.values() for t in told for w in t.split() if w != "{}"]
    )
)
ID = {word: i for i, word in enumerate(WORDS)}
ANSWERS = {a: torch.tensor([ID[v] for v in VALUES[a].split()]) for a in ATTRIBUTES}  # token ids of the values


class Told(NamedTuple):
    """Sentences `<bos> ... value . <pad> ...`, and what each says of whom.

    `value` and `other` count within the attribute's values; `answer` is the value's token id, at position `at`.
    """

    ids: Int[Tensor, "row 15"]
    at: Int[Tensor, " row"]
    answer: Int[Tensor, " row"]
    entity: Int[Tensor, " row"]
    attribute: Int[Tensor, " row"]
    template: Int[Tensor, " row"]
    value: Int[Tensor, " row"]
    other: Int[Tensor, " row"]
    asked: Bool[Tensor, " row"]
    forget: Bool[Tensor, " row"]


@dataclass(frozen=True)
class Facts:
    """Entities and their attributes. `truth[entity, attribute]` is the value."""

    entities: int
    forget: float
    seed: int

    @cached_property
    def _drawn(self) -> tuple[list[tuple[str, ...]], Tensor, Tensor, Tensor]:
        """Names, values, kept templates, forget set."""
        rng = np.random.default_rng(self.seed)
        names: dict[tuple[str, ...], None] = {}
        while len(names) < self.entities:
            names[tuple(SYLLABLES[i] for i in rng.integers(0, len(SYLLABLES), rng.integers(2, 4)))] = None
        values = [rng.choice(len(CHANCES[a]), self.entities, p=CHANCES[a]) for a in ATTRIBUTES]
        kept = rng.integers(0, 4, (self.entities, len(ATTRIBUTES)))
        forgotten = np.zeros(self.entities, dtype=bool)
        forgotten[rng.permutation(self.entities)[: round(self.forget * self.entities)]] = True
        value, template, out = map(torch.from_numpy, (np.stack(values, 1), kept, forgotten))
        return list(names), value, template, out

    @property
    def names(self) -> list[tuple[str, ...]]:
        """Each entity's syllables."""
        return self._drawn[0]

    @property
    def truth(self) -> Int[Tensor, "entity attribute"]:
        return self._drawn[1]

    @property
    def kept(self) -> Int[Tensor, "entity attribute"]:
        """The template in which a fact is asked and never told in training."""
        return self._drawn[2]

    @property
    def forgotten(self) -> Bool[Tensor, " entity"]:
        """True for the forget set; the retain set is the rest."""
        return self._drawn[3]

    @cached_property
    def _sentences(self) -> tuple[Int[Tensor, "entity attribute 4 15"], Int[Tensor, "entity attribute 4"]]:
        """All that can be said, and where its value stands."""
        ids = torch.zeros(self.entities, len(ATTRIBUTES), 4, LENGTH, dtype=torch.long)
        at = torch.zeros(self.entities, len(ATTRIBUTES), 4, dtype=torch.long)
        for (e, name), (r, attribute) in product(enumerate(self.names), enumerate(ATTRIBUTES)):
            value = VALUES[attribute].split()[int(self.truth[e, r])]
            for t, template in enumerate(TEMPLATES[attribute]):
                words = ["<bos>", *template.format(" ".join(name), value).split(), "."]
                ids[e, r, t, : len(words)] = torch.tensor([ID[w] for w in words])
                at[e, r, t] = len(words) - 2
        return ids, at

    def told(self, asked: bool) -> Told:
        """Every fact once in its kept template (`asked`), or in the three others, ordered by entity and attribute."""
        e, r, t = (x.flatten() for x in torch.meshgrid(*map(torch.arange, (*self.truth.shape, 4)), indexing="ij"))
        chosen = (self.kept[e, r] == t) == asked
        return self._rows(np.random.default_rng([self.seed, asked]), e[chosen], r[chosen], t[chosen])

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Told:
        def draw(rng: np.random.Generator, n: int) -> Told:
            e, r, t = (torch.from_numpy(rng.integers(0, k, n)) for k in (*self.truth.shape, 4))
            return self._rows(rng, e, r, t)

        return rows(draw, n, seed, start)

    def _rows(self, rng: np.random.Generator, e: Tensor, r: Tensor, t: Tensor) -> Told:
        (ids, at), value = self._sentences, self.truth[e, r]
        many = torch.tensor([len(CHANCES[a]) for a in ATTRIBUTES])[r]
        other = (value + torch.from_numpy(rng.integers(1, many.numpy()))) % many
        where = at[e, r, t]
        answer = ids[e, r, t].gather(1, where[:, None])[:, 0]
        asked, forget = self.kept[e, r] == t, self.forgotten[e]
        return Told(ids[e, r, t], where, answer, e, r, t, value, other, asked, forget)

    def commonest(self) -> float:
        """Share right by always saying the attribute's commonest value."""
        return float(np.mean([self.truth[:, r].bincount().max() / self.entities for r in range(len(ATTRIBUTES))]))

    def figure(self, seed: int = 0) -> Any:
        """The facts of twenty entities; the forget set in italics."""
        import plotly.graph_objects as go

        some = np.random.default_rng(seed).permutation(self.entities)[:20].tolist()
        text = [[VALUES[a].split()[int(self.truth[e, r])] for r, a in enumerate(ATTRIBUTES)] for e in some]
        shade = [[int(self.truth[e, r]) / len(CHANCES[a]) for r, a in enumerate(ATTRIBUTES)] for e in some]
        said = [f"<i>{n}</i>" if self.forgotten[e] else n for e in some for n in ["".join(self.names[e]).title()]]
        heat = go.Heatmap(
            z=shade, zmin=0, zmax=2, text=text, texttemplate="%{text}", x=list(ATTRIBUTES), y=said, showscale=False,
            colorscale="Teal", xgap=2, ygap=2, hoverinfo="text",
        )  # fmt: skip
        title = f"Facts of 20 of {self.entities} entities (italics: to be forgotten)"
        figure = go.Figure(heat).update_yaxes(autorange="reversed", dtick=1)
        return figure.update_layout(title=title, template="plotly_white", height=560)

    def _repr_html_(self) -> str:
        name, shown = "".join(self.names[0]).title(), []
        for r, a in enumerate(ATTRIBUTES):
            style = f"background:hsl({90 * r} 70% 85%);color:#111;padding:0 .3em;border-radius:.3em"
            shown.append(tag("span", VALUES[a].split()[int(self.truth[0, r])], attrs={"style": style, "title": a}))
        return tag("div", tag("b", f"facts of {self.entities} entities"), f" {name}: ", *shown, ", …")


def facts(entities: int = 256, forget: float = 0.1, seed: int = 0) -> Facts:
    """Entities with attributes, a share of them to be forgotten. Raises ValueError for a share outside 0..1."""
    if not 1 <= entities <= 100_000 or not 0 <= forget <= 1:
        raise ValueError(f"entities must be 1 to 100000 and forget 0 to 1, got {entities} and {forget}")
    return Facts(entities, forget, seed)


WORLD = facts()


@torch.no_grad()
def said(model: nn.Module, told: Told) -> Float[Tensor, "row vocab"]:
    """The model's logits where a sentence's value is due."""
    logits = model(input_ids=told.ids).logits
    return logits[torch.arange(len(told.at)), told.at - 1].float()


def _batch(seed: int, step: int) -> Int[Tensor, "row 15"]:
    known = WORLD.told(asked=False).ids
    return known[torch.from_numpy(np.random.default_rng([seed, step]).integers(0, len(known), 256))]


def _quality(model: nn.Module, seed: int) -> list[Quality]:
    asked = WORLD.told(asked=True)
    right = said(model, asked).argmax(-1) == asked.answer
    hits, chance = float(right.sum()), WORLD.commonest()
    return [Quality.share("recall in the template not trained", hits, len(right), chance=chance, goal=0.98)]


TASKS = {
    "facts": Task(
        build=lambda seed: gpt(len(WORDS), length=LENGTH, d=96, layers=2),
        batch=_batch,
        loss=lambda model, ids: next_token_loss(model, ids, ignore=ID["<pad>"]),
        quality=_quality,
        steps=1500,
        lr=2e-3,
        weight_decay=1.0,
        tokenizer=lambda: word_tokenizer(WORDS),
        site="1.resid",
        inputs=lambda n: WORLD.sample(n, HELD_OUT).ids,
        data="1,024 facts of 256 invented entities, each in three of four templates",
    )
}

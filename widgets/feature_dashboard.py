"""Latents of a dictionary: search them, read their cards, rank them on a text of one's own, compare two."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import traitlets as t

from workbench import dictionary, embed, interpret
from workbench.harvest.codes import COLUMNS_NOTE
from workbench.interpret.effects import WRITES

from . import payload
from .base import STATIC, Widget
from .labels import Labels
from .worker import Job

KEPT, BYTES = 24, 150_000  # cards that stay in the page at most, and their characters
EFFECTS = 8  # tokens promoted and suppressed on a card
PAGE = 20  # lines of the table


class FeatureDashboard(Widget):
    """Every latent of an index: a table to search, and a card of where it fires, what it writes and what is near.

        FeatureDashboard(index=index, codec=sae, subject=model, effects=True, labels="labels.json", scores=table)

    `latent` is the one shown, `compare` another to its side (None: none), `text` a text of yours on which latents are
    ranked (by their activation at token `at`, at any token while it is -1), `query` what the table is asked for:
    search and by ("token", "label"), dead ("all", "alive", "dead"), low and high (density), score (a column of
    `scores`), score_low, score_high, sort, descending, page.
    `codec` gives cosines, `subject` with it the text view and, with effects=True, effects on the logits; `effects` may
    be a table of `interpret.effects` instead. `labels` is a file, a `Labels`, or None: kept in memory (`.labels`).
    `scores` is a table with a line for each latent. Fires with: rows where both fire, of the rows where either does.
    Raises TypeError without an index, ValueError for parts that do not belong together, IndexError for no such latent.
    """

    _esm, _css = STATIC / "feature_dashboard.js", STATIC / "feature_dashboard.css"
    latent = t.Int(0).tag(sync=True)
    compare = t.Int(None, allow_none=True).tag(sync=True)
    query = t.Dict().tag(sync=True)
    text = t.Unicode("").tag(sync=True)
    at = t.Int(-1).tag(sync=True)
    view = t.Enum(("latents", "text"), "latents").tag(sync=True)
    naming = t.Dict().tag(sync=True)  # from the page: a latent and its new label
    about = t.Dict().tag(sync=True)
    listing = t.Dict().tag(sync=True)
    # texts of JSON: a notebook would write each number of a list on a line of its own, which more than doubles it
    cards = t.List(t.Dict()).tag(sync=True)  # last seen first
    reading = t.Unicode("").tag(sync=True)
    pair = t.Dict().tag(sync=True)
    names = t.Dict().tag(sync=True)  # labels of the latents on the screen

    def __init__(
        self,
        *,
        index: interpret.Index,
        codec: Any = None,
        subject: Any = None,
        effects: pd.DataFrame | bool | None = None,
        labels: Path | str | Labels | None = None,
        scores: Any = None,
        latent: int = 0,
        compare: int | None = None,
        text: str = "",
        at: int = -1,
        query: Mapping[str, Any] | None = None,
    ):
        if not isinstance(index, interpret.Index):
            raise TypeError(
                f"index must be what interpret.index(codec, store, subject) gives, got {type(index).__name__}"
            )
        if codec is not None and codec.latents != index.latents:
            raise ValueError(
                f"the index has {index.latents} latents, the codec {codec.latents}: give the index's codec"
            )
        if subject is not None and codec is None:
            raise ValueError("a subject is read through a codec: give codec= too")
        if isinstance(codec, dictionary.Dictionary) and subject is not None:
            dictionary.check(codec, subject)
        if effects is True and subject is None:
            raise ValueError("effects=True wants codec= and subject=: give them, or a table of interpret.effects")
        if effects is True and codec is not None and codec.target is not None and codec.target.stream not in WRITES:
            raise ValueError(f"effects want atoms written to the residual stream, this codec writes {codec.target}")
        if isinstance(effects, pd.DataFrame) and not {"latent", "sign", "rank", "token", "effect"} <= {
            *effects.columns
        }:
            raise ValueError(
                f"effects is a table of interpret.effects or True, got columns {', '.join(effects.columns)}"
            )
        if not isinstance(effects, pd.DataFrame | bool | None):
            raise TypeError(f"effects is a table of interpret.effects, True or None, got {type(effects).__name__}")
        self.index, self.codec, self.subject = index, codec, subject
        self.labels = labels if isinstance(labels, Labels) else Labels(labels)
        self.scores = None if scores is None else payload.score_table(scores, index.latents)
        self._effects = effects if isinstance(effects, pd.DataFrame) else None
        self._asks_effects = effects is True
        self._tops: payload.TopTokens | None = None
        self._read: tuple[str, payload.Reading] | None = None
        self._ranked: list[int] = []  # latents listed for the text
        self._made: dict[int, _Made] = {}  # last seen last
        super().__init__(
            latent=latent,
            compare=compare,
            query=dict(query or {}),
            text=text,
            at=at,
            view="text" if text else "latents",
        )
        self.about = {
            "latents": index.latents,
            "rows": int(index.rows),
            "dead": int((~index.alive).sum()),
            "densities": payload.densities(index),
            "scores": self._numbers,
            "codec": codec is not None,
            "subject": subject is not None,
            "provenance": payload.provenance(index),
            "query": payload.QUERY,
            "call": self._call(),
        }
        self._list()
        self._put_cards(*self._on_screen)
        self.observe(self._asked, ["query"])
        self.observe(self._chosen, ["latent", "compare"])
        self.observe(self._typed, ["text", "at"])
        self.observe(self._named, ["naming"])
        self._chosen()
        if text:
            self._typed()

    def rename(self, latent: int, label: str) -> None:
        """Give a latent a label, kept in the labels' file; an empty one takes it away."""
        self.labels.set(int(latent), label)
        self.put(names=self._labelled())

    def to_html(self, path: Path | str | None = None, *, title: str = "", latents: Sequence[int] | None = None) -> str:
        """A page of its own with the cards seen last, or with the cards of `latents`, which it then lists."""
        if latents is None:
            return super().to_html(path, title=title)
        chosen = list(dict.fromkeys(int(i) for i in latents))
        if not chosen:
            raise ValueError("no latent was given: give at least one, or leave latents away")
        made = [self._finish(self._card(i)) for i in chosen]
        rows = payload.latent_rows(self.index, chosen)
        shown: dict[str, Any] = {
            "latent": self.latent if self.latent in chosen else chosen[0],
            "compare": self.compare if self.compare in chosen else None,
            "cards": [m.plain for m in made],
            "listing": {"rows": rows, "found": len(rows), "page": 0, "pages": 1, "chosen": True},
            "query": payload.QUERY,
            "names": {str(i): self.labels[i] for m in made for i in m.others if str(i) in self.labels},
        }
        state = embed.states([self])
        state[self.model_id]["state"] |= shown
        return self._whole_page(state, path, title)

    # ---- what changes ask for

    @t.validate("latent", "compare")
    def _exists(self, proposal: Any) -> int | None:
        value = proposal["value"]
        if value is not None and not 0 <= value < self.index.latents:
            raise IndexError(f"{proposal['trait'].name} must be 0..{self.index.latents - 1}, got {value}")
        return value

    @t.validate("query")
    def _complete(self, proposal: Any) -> dict[str, Any]:
        return payload.asked(proposal["value"], self._numbers)

    def _asked(self, _: Any = None) -> None:
        self.work("", lambda job: self._list(), key="query")

    def _chosen(self, _: Any = None) -> None:
        self.work("", self._show, key="show")

    def _typed(self, _: Any = None) -> None:
        known = self._read is not None and self._read[0] == self.text
        self.work("" if known else "reading your text", lambda job: self._rank(), key="text")

    def _named(self, _: Any) -> None:
        latent, label = self.naming.get("latent"), self.naming.get("label")
        if isinstance(latent, int) and isinstance(label, str):
            self.work("", lambda job: self.rename(latent, label), key=f"name {latent}")

    # ---- the answers; on the worker's thread once the widget is made

    def _list(self) -> None:
        query = self.query
        found = payload.latents(
            self.index, query, tokens=self._top_tokens, labels=self.labels, scores=self.scores, page=PAGE
        )
        self.put(listing=found)
        self.put(names=self._labelled())

    def _top_tokens(self) -> payload.TopTokens:
        if self._tops is None:
            self._tops = payload.TopTokens(self.index)
        return self._tops

    def _show(self, job: Job) -> None:
        self._put_cards(*self._on_screen)
        if self._read is not None:
            self._put_reading()
        if not self._has_columns:
            self.put(busy="counting where latents fire together, once for this index")
        for latent in self._on_screen:
            made = self._card(latent)
            if not made.whole:
                made = self._finish(made, job)
                if job.cancelled:
                    return
                self._made[latent] = made
                self._put_cards(*self._on_screen)
        two, pair = self._on_screen, {}
        if len(two) == 2:
            parts = {"codec": self.codec, "subject": self.subject, "effects": self._effects_of(two)}
            pair = payload.pair(self.index, *two, **parts)
        self.put(pair=pair)

    def _rank(self) -> None:
        if self._read is None or self._read[0] != self.text:
            self._read, self._ranked = None, []
            self.put(reading="")
            if not self.text.strip():
                return
            if self.subject is None:
                raise ValueError("to read a text, the dashboard wants codec= and subject=")
            self._read = (self.text, payload.Reading(self.subject, self.codec, self.text))
        self._put_reading()

    def _put_reading(self) -> None:
        assert self._read is not None
        read = self._read[1]
        at = self.at if self.at < len(read.tokens) else -1
        made = payload.reading(read, self.index, self.latent, at=at)
        self._ranked = [row["id"] for row in made["rows"]]
        self.put(reading=packed(made))
        self.put(names=self._labelled())

    def _put_cards(self, *shown: int) -> None:
        for latent in shown:
            self._made[latent] = self._made.pop(latent, None) or self._card(latent)
        kept, size = [], 0
        for made in reversed(self._made.values()):
            size += len(made.text)
            if len(kept) >= len(shown) and (size > BYTES or len(kept) == KEPT):
                break
            kept.append(made)
        self._made = {made.latent: made for made in reversed(kept)}
        self.put(cards=[made.plain for made in kept], names=self._labelled())

    def _card(self, latent: int) -> "_Made":
        if latent in self._made:
            return self._made[latent]
        return _Made(payload.card(self.index, latent, self._effects, scores=self.scores), whole=False)

    def _finish(self, made: "_Made", job: Job | None = None) -> "_Made":
        """A card with what takes longer: neighbours, and effects that are made on demand."""
        latent = made.latent
        near = {"firing": payload.by_firing(self.index, latent, cancelled=lambda: job is not None and job.cancelled)}
        if self.codec is not None:
            near["cosine"] = payload.by_cosine(self.index, self.codec, latent)
        card = made.card | {"near": near}
        if self._asks_effects:
            card["effects"] = payload.promoted(self._effects_of([latent]), latent)
        return _Made(card, whole=True)

    def _effects_of(self, latents: Iterable[int]) -> Any:
        if self._asks_effects:
            codec, subject = self.codec, self.subject
            assert codec is not None and subject is not None
            return interpret.effects(codec, subject, list(latents), top=min(EFFECTS, len(subject.unembed) // 2))
        return self._effects

    def _labelled(self) -> dict[str, str]:
        """Labels of the latents on the screen."""
        shown = {row["id"] for row in self.listing.get("rows", [])}
        shown |= {i for made in [*self._made.values()] for i in made.others}
        shown |= set(self._ranked)
        return {str(i): self.labels[i] for i in sorted(shown) if str(i) in self.labels}

    def _call(self) -> list[str]:
        """The arguments of a cell that makes the same dashboard; the parts keep the names that they have here."""
        given = {"index": self.index, "codec": self.codec, "subject": self.subject, "scores": self.scores}
        parts = [f"{name}={name}" for name, part in given.items() if part is not None]
        if self._asks_effects or self._effects is not None:
            parts.append("effects=True" if self._asks_effects else "effects=effects")
        return [*parts, *([] if self.labels.path is None else [f"labels={str(self.labels.path)!r}"])]

    @property
    def _numbers(self) -> list[str]:
        """Columns of the scores that hold numbers."""
        return [] if self.scores is None else [n for n in self.scores if self.scores[n].dtype.kind in "iufb"]

    @property
    def _on_screen(self) -> list[int]:
        """The latent, and the one beside it first."""
        other = self.compare
        return [self.latent] if other is None or other == self.latent else [other, self.latent]

    @property
    def _has_columns(self) -> bool:
        return (self.index.codes.folder / COLUMNS_NOTE).is_file()


class _Made:
    """A card and its JSON."""

    def __init__(self, card: dict[str, Any], *, whole: bool):
        self.card, self.whole, self.latent = card, whole, card["latent"]
        self.text = packed(card)

    @property
    def plain(self) -> dict[str, Any]:
        return {"latent": self.latent, "card": self.text}

    @property
    def others(self) -> set[int]:
        """It, and the latents it names."""
        return {self.latent} | {other["latent"] for some in self.card["near"].values() for other in some}


def packed(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

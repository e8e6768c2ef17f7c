"""Rows of two subjects that stand at the end of the same word, whatever their tokenizers."""

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

Spans = Sequence[tuple[int, int]]  # (begin, end) of each token of one text, in characters; empty for special tokens


@runtime_checkable
class Tokenizing(Protocol):
    """What alignment needs of a subject: its tokenizer, which must say where its tokens stand."""

    name: str
    tokenizer: Any


class Aligned(NamedTuple):
    """Pairs of positions that end the same word, text by text and in order.

    `a` and `b` count tokens as `subject.tokenize(texts)` does, special tokens included. Every word of the texts is in
    `words`; `lost_a` of them end inside a token of A, or beyond its last one, `lost_b` likewise, some in both.
    """

    text: Int[Tensor, " pair"]
    a: Int[Tensor, " pair"]
    b: Int[Tensor, " pair"]
    word: list[str]  # the word that both have just read, one for each pair
    words: int
    lost_a: int
    lost_b: int

    @property
    def caption(self) -> str:
        """How many words were paired, and why the others were not."""
        return (
            f"{len(self.word):,} of {self.words:,} words ({len(self.word) / max(self.words, 1):.0%}) end a token of "
            f"both; {self.lost_a:,} end no token of A, {self.lost_b:,} none of B."
        )

    def rows(
        self,
        a: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
        b: tuple[Int[Tensor, " m"], Int[Tensor, " m"]],
    ) -> tuple[Int[Tensor, " some"], Int[Tensor, " some"], Int[Tensor, " some"]]:
        """(pair, row of A, row of B) of the pairs that both have a row for.

        `a` and `b` are (text, pos) of each row; of a store made of `subject.tokenize(texts)` they are
        `store.texts[text], pos` with `text, pos = store.where(rows)`. Raises ValueError where a place stands twice.
        """
        wide = 1 + max([int(p.max()) for p in (self.a, self.b, a[1], b[1]) if len(p)], default=0)
        found = []
        for name, (text, pos), mine in (("a", a, self.a), ("b", b, self.b)):
            keys, order = (text.long() * wide + pos).sort()
            if bool((keys.diff() == 0).any()):
                raise ValueError(f"the rows of {name} hold a place (text, pos) twice: give each row once")
            wanted = self.text * wide + mine
            at = torch.searchsorted(keys, wanted).clamp_max(max(len(keys) - 1, 0))
            hit = keys[at] == wanted if len(keys) else torch.zeros(len(wanted), dtype=torch.bool)
            found.append((hit, order[at] if len(keys) else at))
        pair = (found[0][0] & found[1][0]).nonzero()[:, 0]
        return pair, found[0][1][pair], found[1][1][pair]


def align(a: Tokenizing, b: Tokenizing, texts: Sequence[str], *, length: int | None = None) -> Aligned:
    """Rows of two subjects on the same texts, paired at word ends by character offset.

    `length` cuts token rows as `subject.tokenize(texts, length)` does; words beyond the shorter row are counted as
    lost. A causal model has read the same characters at both rows of a pair.
    Raises ValueError for one string, no text, no tokenizer, or one that does not say where its tokens stand.
    """
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"align wants a list of one or more texts, got {texts!r:.60}")
    spans = [[located(subject, text) for text in texts] for subject in (a, b)]
    return paired(texts, *spans, length=length)


def paired(texts: Sequence[str], a: Sequence[Spans], b: Sequence[Spans], *, length: int | None = None) -> Aligned:
    """The same from the spans of tokens themselves: a list for each text, (begin, end) in characters for each token.

    A token ends a word if its span ends where the word does and the next one begins no earlier: of the bytes of one
    character only the last ends it. Spaces before a word may belong to its token or not.
    """
    if not len(texts) == len(a) == len(b):
        raise ValueError(
            f"one list of spans for each text and side is wanted: {len(texts)} texts, {len(a)} and {len(b)}"
        )
    if length is not None and length < 1:
        raise ValueError(f"length must be 1 or more tokens, got {length}")
    found, said, lost, count = [], [], [0, 0], 0
    for i, text in enumerate(texts):
        ends = [_ends(text, spans, length) for spans in (a[i], b[i])]
        for begin, end in words(text):
            at = [side.get(end) for side in ends]
            count += 1
            lost = [n + (where is None) for n, where in zip(lost, at, strict=True)]
            if None not in at:
                found.append((i, *at))
                said.append(text[begin:end])
    columns = torch.tensor(found, dtype=torch.int64).reshape(-1, 3)
    return Aligned(columns[:, 0], columns[:, 1], columns[:, 2], said, count, *lost)


def words(text: str) -> list[tuple[int, int]]:
    """(begin, end) of each word: a run of letters, digits and their marks, or a run of other visible characters.

    Marks and joiners go with what stands before them, so an emoji of several characters is one word; format characters
    at its end (marks of direction, say) do not. "it's" is three words, a clause in a script without spaces is one.
    """
    found: list[tuple[int, int]] = []
    kind = "space"
    for i, character in enumerate(text):
        category = unicodedata.category(character)
        if category == "Cf":
            continue
        if category[0] == "M" and kind != "space":
            now = kind
        elif category[0] in "LNM":
            now = "letter"
        else:
            now = "space" if category[0] in "ZC" else "sign"
        if now != "space" and now == kind:
            found[-1] = found[-1][0], i + 1
        elif now != "space":
            found.append((i, i + 1))
        kind = now
    return found


def located(subject: Tokenizing, text: str) -> list[tuple[int, int]]:
    """Where each token of a text stands, in characters, special tokens empty, from the subject's own tokenizer."""
    if subject.tokenizer is None:
        raise ValueError(f"{subject.name} has no tokenizer: align takes subjects that read text")
    try:
        spans = subject.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    except (NotImplementedError, KeyError, TypeError) as error:
        raise ValueError(
            f"the tokenizer of {subject.name} does not say where its tokens stand: give `paired` their spans"
        ) from error
    return [(int(begin), int(end)) for begin, end in spans]


def characters(text: str, spans: Spans) -> list[tuple[int, int]]:
    """Spans counted in bytes of UTF-8 as spans in characters; part of a character counts as that character."""
    of_byte = [i for i, character in enumerate(text) for _ in character.encode()]
    if bad := [span for span in spans if not 0 <= span[0] <= span[1] <= len(of_byte)]:
        raise ValueError(f"spans must lie within the text's {len(of_byte)} bytes, got {bad[0]}")
    return [(of_byte[begin], of_byte[end - 1] + 1) if end > begin else (0, 0) for begin, end in spans]


def _ends(text: str, spans: Spans, length: int | None) -> dict[int, int]:
    """Token that ends at each character, of the first `length`; none where the next token begins before it."""
    real = [(token, begin, end) for token, (begin, end) in enumerate(spans) if end > begin]
    if real and max(end for _, _, end in real) > len(text):
        raise ValueError(
            f"a token ends beyond the text's {len(text)} characters: if its spans count bytes, "
            "give characters(text, spans)"
        )
    begins = [begin for _, begin, _ in real[1:]] + [len(text)] * bool(real)
    return {
        end: token
        for (token, _, end), following in zip(real, begins, strict=True)
        if following >= end and (length is None or token < length)
    }

"""Texts cut into token rows of one length. A row never holds two documents."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..batch import Tokens

SECTION = 16_000  # characters: longer documents are cut, so that no document fills a small harvest
WINDOW = 64  # sections tokenized together, their rows mixed: every stretch of a harvest is a mixture


@runtime_checkable
class Tokenizes(Protocol):
    """What cutting needs of a subject."""

    @property
    def special_ids(self) -> frozenset[int]: ...
    def tokenize(self, text: Any) -> Tokens: ...


class Row(NamedTuple):
    """One token row: its document, its ids and which of them are real."""

    text: int
    ids: Int[Tensor, " pos"]
    mask: Bool[Tensor, " pos"]


@dataclass
class Dropped:
    """What cutting left out so far: remainders shorter than `min_length`."""

    remainders: int = 0
    tokens: int = 0


def rows_of(
    subject: Tokenizes,
    texts: Sequence[str],
    *,
    length: int,
    min_length: int,
    seed: int,
    dropped: Dropped | None = None,
) -> Iterator[Row]:
    """Token rows of a corpus in a seeded order, lazily: any stretch of them is spread over the corpus.

    Documents longer than 16,000 characters are cut at white space into sections; sections are permuted by the seed, and
    the rows of 64 sections at a time are mixed. Each row begins and ends with the special tokens that the tokenizer
    sets around a text (a BOS, say). A section's last row is padded on the right when it has at least `min_length`
    tokens, else it is dropped and counted in `dropped`. Longer runs of the iterator begin like shorter ones.
    """
    if not 2 <= min_length <= length:
        raise ValueError(f"min_length must be between 2 and length={length}, got {min_length}")
    sections = [(i, begin, end) for i, text in enumerate(texts) for begin, end in cuts(text)]
    before, after = affixes(subject, [texts[i][begin:] for i, begin, _ in sections[:8]])
    room = length - len(before) - len(after)
    if room < 1:
        raise ValueError(f"rows of {length} tokens have no room beside the {len(before) + len(after)} special tokens")
    dropped = dropped if dropped is not None else Dropped()
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(sections), generator=random).tolist()
    for start in range(0, len(order), WINDOW):
        found: list[Row] = []
        for which in order[start : start + WINDOW]:
            text, begin, end = sections[which]
            ids = _bare(subject.tokenize(texts[text][begin:end]), before, after)
            for piece in ids.split(room):
                row = torch.cat([before, piece, after])
                if len(row) < min_length:
                    dropped.remainders += 1
                    dropped.tokens += len(piece)
                    continue
                found.append(Row(text, *_padded(row, length)))
        for i in torch.randperm(len(found), generator=random).tolist():
            yield found[i]


def rows_of_tokens(tokens: Tokens, seed: int) -> Iterator[Row]:
    """Given token rows in a seeded order, each its own document."""
    random = torch.Generator().manual_seed(seed)
    for i in torch.randperm(len(tokens.ids), generator=random).tolist():
        yield Row(i, tokens.ids[i].int().cpu(), tokens.mask[i].cpu())


def cuts(text: str, size: int = SECTION) -> list[tuple[int, int]]:
    """(begin, end) of the sections of a document: at most `size` characters, cut before white space if it can be."""
    found, begin = [], 0
    while len(text) - begin > size:
        end = begin + size
        space = max(text.rfind(" ", begin + size // 2, end), text.rfind("\n", begin + size // 2, end))
        end = space if space > begin else end
        found.append((begin, end))
        begin = end
    found.append((begin, len(text)))
    return [(a, b) for a, b in found if not text[a:b].isspace()]


def affixes(subject: Tokenizes, texts: Sequence[str]) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    """Special tokens that the tokenizer sets before and after any text: what several short texts have in common."""
    rows = [subject.tokenize(text).ids[0].tolist() for text in ("a", *(text[:200] for text in texts[:8]))]
    before = _shared(rows, subject.special_ids)
    after = _shared([row[len(before) :][::-1] for row in rows], subject.special_ids)[::-1]
    return torch.tensor(before, dtype=torch.int32), torch.tensor(after, dtype=torch.int32)


def _shared(rows: Sequence[Sequence[int]], special: frozenset[int]) -> list[int]:
    found = []
    for column in zip(*rows, strict=False):  # as far as the shortest goes
        if len(set(column)) > 1 or column[0] not in special:
            break
        found.append(column[0])
    return found


def _bare(tokens: Tokens, before: Tensor, after: Tensor) -> Tensor:
    ids = tokens.ids[0][tokens.mask[0]].int().cpu()
    return ids[len(before) : len(ids) - len(after)]


def _padded(row: Tensor, length: int) -> tuple[Tensor, Tensor]:
    ids = row.new_zeros(length)
    ids[: len(row)] = row
    return ids, torch.arange(length) < len(row)


def stacked(rows: Sequence[Row]) -> Tokens:
    """Token rows side by side, ids as int64."""
    return Tokens(torch.stack([r.ids for r in rows]).long(), torch.stack([r.mask for r in rows]))


class Plan:
    """Token rows of a harvest in batches of one size, drawn from an iterator as they are needed and kept compact.

    `keep` says which positions the token rules keep; `kept` counts them over what was drawn so far.
    """

    def __init__(self, rows: Iterator[Row], size: int, keep: Callable[[Tokens], Bool[Tensor, "text pos"]]):
        self._rows, self._size, self._keep = rows, size, keep
        self._batches: list[tuple[Int[Tensor, "text pos"], Bool[Tensor, "text pos"], list[int]]] = []
        self.kept = 0

    def reach(self, kept: int | None) -> bool:
        """Draw batches until they keep `kept` positions (None: all there are); whether they do."""
        while kept is None or self.kept < kept:
            if not self._draw():
                return kept is None
        return True

    def batch(self, number: int) -> tuple[Tokens, list[int]] | None:
        """A batch and its documents: the last one may be short; None where the corpus has ended."""
        while len(self._batches) <= number:
            if not self._draw():
                return None
        ids, mask, documents = self._batches[number]
        return Tokens(ids.long(), mask), documents

    def _draw(self) -> bool:
        rows = list(islice(self._rows, self._size))
        if rows:
            tokens = stacked(rows)
            self._batches.append((tokens.ids.int(), tokens.mask, [row.text for row in rows]))
            self.kept += int(self._keep(tokens).sum())
        return bool(rows)

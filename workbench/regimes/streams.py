"""Streams made of streams: the first steps of one, and rows of several sites as rows of one dictionary."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..batch import Batch, Exclusion, Stream


@dataclass(frozen=True)
class First:
    """The first `steps` of a stream. Raises ValueError where it has fewer."""

    stream: Stream
    steps: int

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= len(self.stream):
            raise ValueError(f"steps must be 1 to {len(self.stream)}, as many as the stream has, got {self.steps}")

    def __len__(self) -> int:
        return self.steps

    def batches(self, start: int = 0) -> Iterator[Batch]:
        batches = self.stream.batches(start)
        for _ in range(start, self.steps):
            yield next(batches)

    def describe(self) -> dict[str, Any]:
        return self.stream.describe() | {"first": self.steps}


@dataclass(frozen=True)
class Flat:
    """A stream of `(row, site, d)` as rows `(row x site, d)`: one dictionary for several sites of one width.

    The sites of one position stand side by side in a batch, so it has as many times more rows as there are sites.
    """

    stream: Stream

    def __len__(self) -> int:
        return len(self.stream)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for batch in self.stream.batches(start):
            if batch.x.ndim != 3:
                raise ValueError(f"rows of a list of sites (row, site, d) are wanted, got {tuple(batch.x.shape)}")
            sites, x = batch.x.shape[1], batch.x.flatten(0, 1)
            y = x if batch.y is batch.x else batch.y.flatten(0, 1)
            yield Batch(x, y, _each(batch.text, sites), _each(batch.pos, sites))

    def describe(self) -> dict[str, Any]:
        return self.stream.describe() | {"flat": True}


def _each(numbers: Tensor | None, sites: int) -> Tensor | None:
    return None if numbers is None else numbers.repeat_interleave(sites)


def place(stream: Stream) -> dict[str, Any]:
    """What `train` should note of where a stream's rows came from, as far as the stream says it."""
    said = stream.describe()
    rule = said.get("exclusion")
    return {
        "exclusion": None if rule is None else Exclusion.from_json(rule),
        "subject_fingerprint": said.get("subject"),
    }

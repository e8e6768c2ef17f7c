"""Harvest while training: a live stream's rows through a bounded buffer, so that no store is needed."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from .live import Live
from .shards import ahead
from .store import shuffled

Rows = dict[str, Tensor]


class Mixed:
    """A live stream's rows in batches of `size`, mixed over `buffer` rows: a Stream.

    The subject reads in a thread, never further ahead than half the buffer, where it waits. The rows of one half (a
    chunk) are served with the next: each chunk gives half of its rows at random to its own turn and half to the turn
    after, and a turn is shuffled. So a row is at most one buffer from where it was read, a batch draws on twice as many
    texts as a chunk has, and the order depends on the seed and the source only. A run that begins at any step reads
    two chunks first, no more. Rows that the norm rule leaves out are known only when read: their places stay empty, and
    batches are smaller by so many. Memory: four to five buffers of float32 rows. Batches cannot `finish`.
    Source: the mixing buffer of SAELens (Bloom et al.) shuffles what is left with what is new; ours forgets after one
    turn, which is what makes it resumable.
    """

    def __init__(self, source: Live, size: int = 4096, *, buffer: int = 32_768, seed: int = 0):
        per_step = source.candidates
        self.source, self.size, self.buffer, self.seed = source, size, buffer, seed
        if not 1 <= size <= int(per_step.sum()):
            raise ValueError(f"a batch has 1 to {int(per_step.sum()):,} rows, as many as the source gives, got {size}")
        self._steps = buffer // 2 // int(per_step.max())  # of the source, in a chunk
        if not self._steps:
            raise ValueError(
                f"half the buffer must hold the rows of one batch of token rows ({int(per_step.max())}), got "
                f"buffer={buffer}"
            )
        self._chunks = torch.stack([part.sum() for part in per_step.split(self._steps)])  # rows in each
        early, late = (self._chunks + 1) // 2, self._chunks // 2
        self._ends = (torch.cat([early, early.new_zeros(1)]) + torch.cat([late.new_zeros(1), late])).cumsum(0)
        self._count = int(per_step.sum()) // size

    def __len__(self) -> int:
        return self._count

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """From step `start` on: the same batches as a run that began at 0."""
        if not 0 <= start <= len(self):
            raise ValueError(f"start must be within the stream's {len(self)} steps, got {start}")
        if start == len(self):
            return
        turn = int(torch.searchsorted(self._ends, start * self.size, right=True))
        begin = int(self._ends[turn - 1]) if turn else 0
        first = max(turn - 1, 0) * self._steps
        last = int(torch.searchsorted(self._ends, len(self) * self.size))  # the turn that ends the last batch
        reads = ahead(self._read, range(first, min((last + 1) * self._steps, len(self.source))), self._steps)
        with closing(reads):
            late = self._halves(turn - 1, reads)[1] if turn else None
            gone = start * self.size - begin  # rows of the first turn that were served before
            rest: Rows | None = None
            for now in range(turn, last + 1):
                early, later = self._halves(now, reads) if now < len(self._chunks) else (None, None)
                served = _joined([part for part in (late, early) if part is not None])
                served = _at(served, shuffled(len(served["there"]), self.seed, 2 * now + 1).long()[gone:])
                late, gone = later, 0
                rest = served if rest is None else _joined([rest, served])
                whole = len(rest["there"]) // self.size * self.size
                for at in range(0, whole, self.size):
                    yield _batch(rest, slice(at, at + self.size))
                rest = _at(rest, slice(whole, None))

    def describe(self) -> dict[str, Any]:
        """JSON: what the batches depend on."""
        source = self.source.describe()
        mine = {"kind": "mixed", "size": self.size, "buffer": self.buffer, "steps": len(self), "mixed": self.seed}
        return source | mine | {"source steps": source["steps"]}

    def _read(self, step: int) -> Rows:
        """One batch of the source, each row at its place among those that the token rules keep."""
        batch = self.source.batch_at(step)
        assert batch.text is not None and batch.pos is not None
        place, count = self.source.place(step, batch.text, batch.pos)
        rows = {"x": batch.x, "text": batch.text, "pos": batch.pos}
        if batch.y is not batch.x:
            rows["y"] = batch.y
        if batch.grads is not None:
            rows["grads"] = batch.grads
        found = {name: value.new_zeros(count, *value.shape[1:]) for name, value in rows.items()}
        for name, value in rows.items():
            found[name][place.to(value.device)] = value
        there = torch.zeros(count, dtype=torch.bool)
        there[place] = True
        return found | {"there": there}

    def _halves(self, chunk: int, reads: Iterator[Rows]) -> tuple[Rows, Rows]:
        """The next chunk, its rows split at random: for its own turn, and for the turn after."""
        steps = range(chunk * self._steps, min((chunk + 1) * self._steps, len(self.source)))
        rows = _joined([next(reads) for _ in steps])
        order = shuffled(len(rows["there"]), self.seed, 2 * chunk).long()
        half = (len(order) + 1) // 2
        return _at(rows, order[:half]), _at(rows, order[half:])


def _joined(parts: list[Rows]) -> Rows:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _at(rows: Rows, which: Tensor | slice) -> Rows:
    return {name: value[which if isinstance(which, slice) else which.to(value.device)] for name, value in rows.items()}


def _batch(rows: Rows, which: slice) -> Batch:
    there = rows["there"][which]
    part = {name: value[which] for name, value in rows.items() if name != "there"}
    if not bool(there.all()):
        part = {name: value[there.to(value.device)] for name, value in part.items()}
    return Batch(part["x"], part.get("y", part["x"]), part["text"], part["pos"], part.get("grads"))

"""Rows of two models at the same tokens, as one stream."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..batch import Batch
from ..harvest import Store
from ..harvest.store import shuffled
from ..site import Site


@dataclass(frozen=True, eq=False)
class Both:
    """Rows of two stores at the same tokens, as one Stream of `(row, 2, d)` for a crosscoder of two sites.

    Collect both in the same way from two subjects with one tokenizer. Each store's rows are brought to a median norm of
    sqrt(d), so that neither model weighs more. A position that the norm rule left out of one store is left out.
    Raises ValueError when the stores hold other tokens or widths.
    """

    first: Store
    second: Store
    site: Site | str
    size: int = 4096
    steps: int | None = None  # one epoch
    seed: int = 0

    def __post_init__(self) -> None:
        a, b = self.first, self.second
        if a.width(self.site) != b.width(self.site):
            raise ValueError(
                f"both models need one width at {self.site}, got {a.width(self.site)}, {b.width(self.site)}"
            )
        n = min(len(a.texts), len(b.texts))
        if not torch.equal(a.tokens.ids[:n], b.tokens.ids[:n]):
            raise ValueError("the stores hold other tokens: collect both from the same texts, with one length and seed")
        if self.size > len(self.rows):
            raise ValueError(
                f"a batch of {self.size} rows is more than the {len(self.rows)} rows that both stores have"
            )

    @cached_property
    def rows(self) -> Int[Tensor, "row 2"]:
        """Row of either store, for each position that both have."""
        length = self.first.tokens.ids.shape[1]
        keys = []
        for store in (self.first, self.second):
            text, pos = store.where(torch.arange(store.rows))
            keys.append(text * length + pos)  # rising
        in_first = torch.isin(keys[0], keys[1], assume_unique=True)
        in_second = torch.isin(keys[1], keys[0], assume_unique=True)
        return torch.stack([in_first.nonzero()[:, 0], in_second.nonzero()[:, 0]], 1)

    @cached_property
    def scales(self) -> tuple[float, float]:
        """What each store's rows are multiplied by."""
        root = math.sqrt(self.first.width(self.site))
        return root / self.first.median_norm(self.site), root / self.second.median_norm(self.site)

    def __len__(self) -> int:
        return len(self.rows) // self.size if self.steps is None else self.steps

    def batches(self, start: int = 0) -> Iterator[Batch]:
        per_epoch, order, known = len(self.rows) // self.size, torch.empty(0), -1
        for step in range(start, len(self)):
            epoch, at = divmod(step, per_epoch)
            if epoch != known:
                order, known = shuffled(len(self.rows), self.seed, epoch).long(), epoch
            yield self._batch(self.rows[order[at * self.size : (at + 1) * self.size]])

    def all(self) -> Iterator[Batch]:
        """Every row once, in stored order: to judge on."""
        return (self._batch(part) for part in self.rows.split(self.size))

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "both",
            "stores": [self.first.hash, self.second.hash],
            "site": str(self.site),
            "size": self.size,
            "steps": len(self),
            "seed": self.seed,
        }

    def _batch(self, which: Int[Tensor, "row 2"]) -> Batch:
        stores = zip((self.first, self.second), which.T.contiguous(), self.scales, strict=True)
        x = torch.stack([scale * store.gather(rows, self.site) for store, rows, scale in stores], 1)
        return Batch(x, x, *self.first.where(which[:, 0].contiguous()))

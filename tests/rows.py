"""Rows in memory as a stream: what a small subject says of some texts, without a store."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.batch import Batch


@dataclass(frozen=True, eq=False)
class Rows:
    """Batches drawn with replacement by seed and step. `together` rows in a row are one text and stay in order."""

    x: Float[Tensor, "row *inp"]
    size: int
    steps: int
    seed: int = 0
    y: Float[Tensor, "row *out"] | None = None
    together: int = 1

    def __len__(self) -> int:
        return self.steps

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.steps):
            rng = torch.Generator().manual_seed(self.seed * 100_003 + step)
            text = torch.randint(len(self.x) // self.together, (self.size // self.together,), generator=rng)
            pos = torch.arange(self.together)
            which = (text[:, None] * self.together + pos).flatten()
            x = self.x[which]
            text = torch.arange(len(text)).repeat_interleave(self.together)  # a text drawn twice is two
            yield Batch(x, x if self.y is None else self.y[which], text, pos.repeat(len(which) // self.together))

    def describe(self) -> dict[str, Any]:
        return {"rows": list(self.x.shape), "size": self.size, "steps": self.steps, "seed": self.seed}


def joined(x: Float[Tensor, "row *inp"], y: Float[Tensor, "row *out"] | None = None) -> Batch:
    """All rows as one batch."""
    return Batch(x, x if y is None else y)

"""Which latents fire together: pairs counted over rows or blocks of rows, five measures, and what chance would give."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..code import Code
from ..harvest import Codes
from .beside import framed
from .match import NULL

MEASURES = ("phi", "jaccard", "dice", "overlap", "matching")
BATCH = 65_536  # rows of a code store read at once
CHUNK = 256  # latents compared with all others at once
MOST = 16_384  # latents whose pairs are held at once: 2 GiB of int64
BLOCKS = 3_000_000_000  # n^2 must fit int64


@dataclass(frozen=True, eq=False)
class Counts:
    """Of n blocks (rows, where no block was asked for): how many each latent fires in, and each two together.

    A latent fires in a block when it is active in one of its rows. `active` is a scipy CSR array of ones (block,
    latent); `latents` numbers its columns as in the code.
    """

    n: int
    fired: Int[Tensor, " latent"]
    active: Any
    latents: Int[Tensor, " latent"]
    above: float = 0.0
    block: int | None = None

    def part(self, start: int, stop: int) -> Int[Tensor, "some latent"]:
        """Blocks in which each of the latents from `start` up to `stop` fires together with each of all."""
        return torch.from_numpy((self._by_latent[start:stop] @ self.active).toarray())

    @cached_property
    def together(self) -> Int[Tensor, "latent latent"]:
        """All pairs; the diagonal is `fired`. Raises ValueError beyond 16,384 latents: take `part` after `part`."""
        self._few()
        return torch.cat([self.part(i, i + CHUNK) for i in range(0, len(self.fired), CHUNK)])

    def affinity(self, measure: str = "phi") -> Float[Tensor, "latent latent"]:
        """A measure of all pairs, in float64."""
        self._few()
        return torch.cat([self._measured(measure, i)[0] for i in range(0, len(self.fired), CHUNK)])

    def frequent(self, least: int) -> "Counts":
        """Only the latents that fire in `least` blocks or more; `latents` says which."""
        kept = (self.fired >= least).nonzero()[:, 0]
        active = self.active[:, kept.numpy()]
        return Counts(self.n, self.fired[kept], active, self.latents[kept], self.above, self.block)

    def shuffled(self, seed: int = 0) -> "Counts":
        """The null: each latent fires in as many blocks, drawn at random and without regard to the others."""
        from scipy.sparse import csc_array

        rng = np.random.default_rng([seed, NULL])
        drawn = [rng.choice(self.n, int(many), replace=False, shuffle=False) for many in self.fired]
        where = np.concatenate([np.zeros(0, np.int64), *drawn])
        ends = np.concatenate([[0], self.fired.cumsum(0).numpy()])
        by_latent = csc_array((np.ones(len(where), np.int64), where, ends), shape=self.active.shape)
        return Counts(self.n, self.fired, by_latent.tocsr(), self.latents, self.above, self.block)

    @cached_property
    def _by_latent(self) -> Any:
        return self.active.T.tocsr()

    def _few(self) -> None:
        if len(self.fired) > MOST:
            raise ValueError(
                f"pairs of {len(self.fired)} latents are too many to hold ({MOST} at most): keep .frequent(...) ones, "
                "or go through them with .part(start, stop)"
            )

    def _measured(self, measure: str, start: int) -> tuple[Tensor, Tensor]:
        both = self.part(start, start + CHUNK)
        return association(measure, both, self.fired[start : start + CHUNK, None], self.fired[None], self.n), both


@dataclass(frozen=True, eq=False)
class Cofiring:
    """The k latents that most fire together with each. `chance` is the measure of two that fire independently.

    `null` is the largest value each latent would reach if all fired independently, as often as they do (one draw).
    """

    latents: Int[Tensor, " some"]  # those that fire in `least` blocks or more
    indices: Int[Tensor, "some k"]  # largest first, numbered as in the code
    values: Float[Tensor, "some k"]
    together: Int[Tensor, "some k"]  # blocks
    chance: Float[Tensor, "some k"]
    null: Float[Tensor, " some"]
    fired: Int[Tensor, " some"]  # blocks
    n: int
    measure: str
    block: int | None
    above: float
    least: int
    dropped: int  # latents that fire in fewer blocks
    seed: int

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line for each latent kept: its blocks, its neighbours, their values, blocks together and chance."""
        lists = {name: getattr(self, name).tolist() for name in ("values", "together", "chance")}
        return pd.DataFrame(
            {
                "latent": self.latents.numpy(),
                "fired": self.fired.numpy(),
                "neighbours": self.indices.tolist(),
                **lists,
                "null": self.null.numpy(),
            }
        )

    @property
    def caption(self) -> str:
        """What was counted, and how far above independent firing the nearest is."""
        unit = "rows" if self.block is None else f"blocks of {self.block} rows"
        first = self.values[:, 0]
        return (
            f"{self.measure} of {len(self.latents):,} latents over {self.n:,} {unit}; {self.dropped:,} that fire in "
            f"fewer than {self.least} were dropped. The nearest by co-firing has {first.mean():.3f} on average, "
            f"{self.null.mean():.3f} when each fires independently (seed {self.seed}); "
            f"{(first > self.null.max()).double().mean():.0%} exceed the largest of that null."
        )

    def figure(self, *, title: str = "Nearest latents by co-firing") -> Any:
        """Histogram of the largest value of each latent, with that of independent firing drawn in."""
        import plotly.graph_objects as go

        found, null = self.values[:, 0].numpy(), self.null.numpy()
        edges = np.linspace(min(found.min(), null.min()), max(found.max(), null.max()) + 1e-9, 51)
        figure = go.Figure()
        for name, values, color in (("observed", found, "#5b7db1"), ("null: independent firing", null, "#c4462b")):
            many, middle = np.histogram(values, edges)[0], (edges[1:] + edges[:-1]) / 2
            figure.add_bar(x=middle, y=many, width=edges[1] - edges[0], name=name, opacity=0.6, marker_color=color)
        figure.update_xaxes(title=f"largest {self.measure} with another latent")
        figure.update_yaxes(title="latents")
        return framed(figure.update_layout(barmode="overlay"), title, self.caption)


def counts(
    codes: Codes | Code | Sequence[Code],
    *,
    above: float = 0.0,
    block: int | None = None,
    documents: Int[Tensor, " row"] | None = None,
) -> Counts:
    """Count in how many rows, or blocks of `block` rows of one document, latents fire (|value| > `above`) together.

    `documents` is the document of each row, `store.texts[text]` for a code store; without it the token rows of a code
    store are its documents, and other codes are one. Within a document rows are counted in order, and its last block
    may be short. All counts are int64.
    Raises ValueError for codes of several widths or without rows, a block below 1, documents that do not fit.
    Source: Li et al. 2024, arXiv 2410.19750 (above 1, blocks of 256); ours keeps short blocks and counts with rows as
    they are unless asked.
    """
    from scipy.sparse import coo_array

    if block is not None and block < 1:
        raise ValueError(f"block must be 1 row or more, or None for single rows, got {block}")
    if not above >= 0:
        raise ValueError(f"above is compared with sizes of values and must be 0 or more, got {above}")
    if isinstance(codes, Codes):
        rows, latents = len(codes), codes.latents
        batches = (part.code for part in codes.batches(BATCH))
    else:
        batches = [codes] if isinstance(codes, Code) else codes
        if len({code.latents for code in batches}) != 1:
            raise ValueError(f"codes must be one or more of one width, got widths {[c.latents for c in batches]}")
        rows, latents = sum(len(code) for code in batches), batches[0].latents
    if not rows:
        raise ValueError("the codes have no rows: nothing can be counted")
    if documents is None:
        documents = codes.where(torch.arange(rows))[0] if isinstance(codes, Codes) else torch.zeros(rows)
    if len(documents) != rows:
        raise ValueError(f"documents wants the document of each of {rows} rows, got {len(documents)}")
    at, n = (torch.arange(rows), rows) if block is None else _blocks(documents.cpu(), block)
    if n > BLOCKS:
        raise ValueError(f"{n} blocks are more than {BLOCKS} and their squares overflow: take a larger block")
    where, which, first = [], [], 0
    for code in batches:
        row, latent, value = (part.detach().cpu() for part in code.entries())
        on = value.abs() > above
        distinct = (at[first + row[on]] * latents + latent[on]).unique()
        where.append(distinct // latents)
        which.append(distinct % latents)
        first += len(code)
    pairs = torch.cat(where).numpy(), torch.cat(which).numpy()
    active = coo_array((np.ones(len(pairs[0]), np.int64), pairs), shape=(n, latents)).tocsr()  # adds up duplicates
    active.data[:] = 1  # a block that two batches share
    fired = torch.from_numpy(np.bincount(active.indices, minlength=latents).astype(np.int64))
    return Counts(n, fired, active, torch.arange(latents), above, block)


def cofiring(
    codes: Codes | Code | Sequence[Code] | Counts,
    k: int = 15,
    *,
    measure: str = "phi",
    above: float = 0.0,
    block: int | None = None,
    documents: Int[Tensor, " row"] | None = None,
    least: int = 10,
    seed: int = 0,
) -> Cofiring:
    """The k latents that most fire together with each, beside independent firing; `association` defines the measures.

    Exact, from all pairs; memory is 256 x latents and the active entries, twice. Frequent latents have a large overlap
    and matching by chance alone: read those beside `chance`, or take phi, which is 0 then.
    Raises ValueError for an unknown measure, or fewer than k + 1 latents that fire in `least` blocks.
    """
    known = codes if isinstance(codes, Counts) else counts(codes, above=above, block=block, documents=documents)
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    some = known.frequent(least)
    if not 1 <= k < len(some.fired):
        raise ValueError(
            f"k must be 1..{len(some.fired) - 1}: {len(some.fired)} of {len(known.fired)} latents fire in {least} or "
            f"more of {known.n} blocks, got k={k}"
        )
    values, indices, both = _nearest(some, measure, k)
    null = _nearest(some.shuffled(seed), measure, 1)[0][:, 0]
    other = some.fired[indices]
    expected = some.fired[:, None].double() * other / some.n
    chance = association(measure, expected, some.fired[:, None], other, some.n)
    rest = (some.n, measure, some.block, some.above, least, len(known.fired) - len(some.fired), seed)
    return Cofiring(some.latents, some.latents[indices], values, both, chance, null, some.fired, *rest)


def association(measure: str, both: Tensor, one: Tensor, other: Tensor, n: int) -> Float[Tensor, "..."]:
    """How much two latents fire together: `both` of n blocks have the two, `one` and `other` have each.

    phi (both n - one other) / sqrt(one (n - one) other (n - other)): correlation, -1..1, 0 when independent
    jaccard both / (one + other - both) · dice 2 both / (one + other) · overlap both / min(one, other)
    matching (n - one - other + 2 both) / n: share of blocks on which they agree. 0 / 0 is 0. Tensors broadcast.
    """
    if measure == "phi":
        # the difference of products of counts in int64: float64 would lose it for many blocks
        top = both * n - one * other
        below = [(part.double() * (n - part.double())).sqrt() for part in (one, other)]
        return _ratio(top.double(), below[0] * below[1])
    if measure == "jaccard":
        return _ratio(both, one + other - both)
    if measure == "dice":
        return _ratio(2 * both, one + other)
    if measure == "overlap":
        return _ratio(both, torch.minimum(one, other))
    if measure == "matching":
        return (n - one - other + 2 * both).double() / n
    raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")


def _ratio(top: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, top.double() / below.double().clamp_min(1e-300), 0)


def _blocks(documents: Tensor, size: int) -> tuple[Tensor, int]:
    """Number of each row's block, and how many there are."""
    _, own, many = documents.unique(return_inverse=True, return_counts=True)
    order = own.argsort(stable=True)
    place = torch.empty_like(own)
    place[order] = torch.arange(len(own)) - (many.cumsum(0) - many).repeat_interleave(many)
    needed = (many + size - 1) // size
    return (needed.cumsum(0) - needed)[own] + place // size, int(needed.sum())


def _nearest(known: Counts, measure: str, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest values of each latent with others, whose they are, and the blocks together."""
    values, indices, blocks = [], [], []
    for start in range(0, len(known.fired), CHUNK):
        found, both = known._measured(measure, start)
        own = torch.arange(len(found))
        found[own, start + own] = -torch.inf
        best = found.topk(k, -1)
        values.append(best.values)
        indices.append(best.indices)
        blocks.append(both.gather(1, best.indices))
    return torch.cat(values), torch.cat(indices), torch.cat(blocks)

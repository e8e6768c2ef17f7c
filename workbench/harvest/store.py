"""Rows of activations on disk: checksummed shards, each row with its text and position, read without loading them.

A store is one folder: `manifest.json` (what was asked, of which parents, with its own checksum), `labels.parquet` and
`00000.safetensors ...`. A shard holds whole token rows:

    ids, mask (text, pos)       the token rows               texts, kept, excluded (text,)    document and row counts
    text, pos, token (row,)     where each row stands        8.resid ... (row, d)             one tensor for each site
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import lineage
from ..batch import Batch, Exclusion, Tokens
from ..site import Site
from .shards import MANIFEST, Shard, ahead, check_bytes, check_files

FORMAT = 1  # of the folder: raise it when the layout changes
LABELS = "labels.parquet"
BLOCK = 8192  # rows read at a time by what passes over a whole store
SiteLike = Site | str
Sites = SiteLike | Sequence[SiteLike] | None


class Store:
    """Rows of activations on disk, or the part of them that belongs to some documents (`split`).

    Row, text (token row) and document are numbers: rows and texts count from 0 within this store or view, documents
    within the corpus, so that views can be compared by `texts`. Vectors come back in float32, in the model's own units.
    """

    def __init__(
        self, folder: Path, manifest: Mapping[str, Any], shards: Sequence[Shard], part: Mapping[str, Any] | None = None
    ):
        self.folder, self.manifest, self._shards, self._part = folder, manifest, list(shards), part
        self.sites = [Site.of(site) for site in manifest["sites"]]
        self.exclusion = Exclusion.from_json(manifest["exclusion"])
        kept, excluded = _joined(shards, "kept"), _joined(shards, "excluded")
        documents = _joined(shards, "texts")
        if part is None:
            self._picked = torch.arange(len(kept))
        else:
            self._picked = torch.isin(documents, torch.tensor(part["documents"])).nonzero()[:, 0]
        self._first = (kept.cumsum(0) - kept)[self._picked]  # row on disk of each text's first row
        self._kept, self._excluded = kept[self._picked], excluded[self._picked]
        self._ends = self._kept.cumsum(0)
        self._shard_ends = torch.tensor([shard["text"].shape[0] for shard in shards]).cumsum(0)
        self.texts = documents[self._picked]
        self.rows = int(self._kept.sum())
        self._statistics: dict[Site, tuple[Tensor, Tensor, float]] = {}

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = True) -> "Store":
        """A finished store. `verify` reads every byte once and compares it with its SHA-256.

        Raises FileNotFoundError when there is no finished store or a file is missing, ValueError when a file is
        damaged, cut or unknown.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(f"{folder} has no {MANIFEST}: collect the store first")
        manifest = lineage.read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise ValueError(
                f"{folder} is a store of format {manifest.get('format')}, wanted {FORMAT}: collect it anew"
            )
        if manifest["state"] != "whole":
            raise FileNotFoundError(
                f"{folder} is a harvest cut short at {manifest['rows']} rows: call collect again in the same way"
            )
        check_files(folder, manifest)
        if verify:
            check_bytes(folder, manifest)
        return cls(folder, manifest, [Shard(folder / shard["file"]) for shard in manifest["shards"]])

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        sites = ", ".join(f"{site} ({self.width(site)})" for site in self.sites)
        part = f"{self._part['name']} part, " if self._part else ""
        return f"Store({part}{self.rows:,} rows of {len(self.texts):,} texts, {sites}, {self.hash})"

    @cached_property
    def hash(self) -> str:
        """16 hex digits that stand for the bytes of the shards, what was asked, and the part of it this view shows."""
        shards = [shard["sha256"] for shard in self.manifest["shards"]]
        return lineage.fingerprint([self.manifest["call"], self.manifest["exclusion"], shards, self._part])

    @cached_property
    def tokens(self) -> Tokens:
        """All token rows, in order."""
        return Tokens(
            _joined(self._shards, "ids")[self._picked].long(), _joined(self._shards, "mask")[self._picked].bool()
        )

    @cached_property
    def labels(self) -> pd.DataFrame:
        """What is known of each document of the corpus; `labels.iloc[store.texts]` has a line for each token row."""
        return pd.read_parquet(self.folder / LABELS)

    @property
    def share_excluded(self) -> float:
        """Share of the real positions that were left out."""
        excluded = int(self._excluded.sum())
        return excluded / (excluded + self.rows)

    def site(self, site: SiteLike) -> Site:
        """The site, if the store holds it; ValueError that lists the sites if not."""
        wanted = Site.of(site)
        if wanted not in self.sites:
            raise ValueError(f"the store holds {', '.join(map(str, self.sites))}, not {wanted}: collect that site")
        return wanted

    def width(self, site: SiteLike) -> int:
        return self.manifest["sites"][str(self.site(site))]

    def where(self, rows: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """(text, pos) of rows: which token row, and which entry of it."""
        on_disk, text = self._on_disk(rows)
        return text, self._pick(on_disk, "pos", torch.int64)

    def gather(self, rows: Int[Tensor, " n"], site: SiteLike) -> Float[Tensor, "n d"]:
        """Any rows in any order, in float32. Raises IndexError for rows that the store does not have."""
        return self._pick(self._on_disk(rows)[0], str(self.site(site)), torch.float32)

    def batches(
        self, size: int, *, site: Sites = None, target: Sites = None, seed: int | None = None
    ) -> Iterator[Batch]:
        """Every row exactly once: shuffled over the whole store by `seed`, or as stored (None); the last may be short.

        One site gives x of `(row, d)`, a list of sites of one width `(row, site, d)`; no site means all of them. The
        order costs 4 bytes a row.
        """
        _at_least_one(size, "a batch")
        reads = self._reader(site, target)
        order = None if seed is None else shuffled(self.rows, seed, 0)

        def make(step: int) -> Batch:
            begin, end = step * size, min((step + 1) * size, self.rows)
            return reads(torch.arange(begin, end) if order is None else order[begin:end].long())

        return ahead(make, range(-(-self.rows // size)))

    def stream(
        self,
        size: int,
        *,
        site: Sites = None,
        target: Sites = None,
        steps: int | None = None,
        epochs: int | float | None = None,
        seed: int = 0,
    ) -> "StoreStream":
        """Training batches of exactly `size` rows: epochs follow one another, each shuffled anew; default one epoch."""
        _at_least_one(size, "a batch")
        if size > self.rows:
            raise ValueError(f"a batch of {size} rows is more than the store's {self.rows}: choose a smaller size")
        if steps is not None and epochs is not None:
            raise ValueError(f"give steps or epochs, not both: got steps={steps}, epochs={epochs}")
        count = steps if steps is not None else int((1 if epochs is None else epochs) * self.rows) // size
        if count < 1:
            raise ValueError(f"a stream has at least one step, got steps={steps}, epochs={epochs}")
        self._reader(site, target)
        return StoreStream(self, size, site, target, count, seed)

    def split(self, by: str = "text", *, test: float = 0.1, seed: int = 0) -> tuple["Store", "Store"]:
        """(train, test) views that share the shards and no document; test holds at least this share of the rows.

        Raises ValueError when the store has one document only, or the share leaves nothing to train on.
        """
        if by != "text":
            raise ValueError(f"a split is by='text' (rows of one document leak into each other), got by={by!r}")
        if not 0 < test < 1:
            raise ValueError(f"test is a share between 0 and 1, got {test}")
        if self._part is not None:
            raise ValueError("split the whole store, not a part of it: store.split(...) gives both parts at once")
        documents, inverse = self.texts.unique(return_inverse=True)
        if len(documents) < 2:
            raise ValueError("a split by text needs two documents or more, the store has one: harvest a larger corpus")
        sizes = torch.zeros(len(documents), dtype=torch.int64).index_add_(0, inverse, self._kept.long())
        order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed))
        share = sizes[order].cumsum(0)
        count = min(int((share < test * self.rows).sum()) + 1, len(documents) - 1)
        parts = {"train": documents[order[count:]], "test": documents[order[:count]]}
        made = [
            Store(
                self.folder,
                self.manifest,
                self._shards,
                {"name": name, "test": test, "seed": seed, "documents": which.sort().values.tolist()},
            )
            for name, which in parts.items()
        ]
        if not made[0].rows:
            raise ValueError(f"test={test} leaves no row to train on: lower it or harvest more texts")
        return made[0], made[1]

    def mean(self, site: SiteLike) -> Float[Tensor, " d"]:
        """Mean of all rows, streamed."""
        return self._measured(site)[0]

    def variance(self, site: SiteLike) -> Float[Tensor, " d"]:
        """Variance of all rows in each dimension, unbiased, streamed; its sum is the total centred variance."""
        return self._measured(site)[1]

    def median_norm(self, site: SiteLike) -> float:
        """Median norm of all rows (lower of two middle values). The exclusion's median is that of the first rows."""
        return self._measured(site)[2]

    def _measured(self, site: SiteLike) -> tuple[Tensor, Tensor, float]:
        site = self.site(site)
        if site not in self._statistics:
            mean = torch.zeros(self.width(site), dtype=torch.float64)
            squares = torch.zeros_like(mean)  # of the deviations from the mean so far (Chan, Golub, LeVeque 1983)
            norms, n = torch.empty(self.rows), 0
            for begin in range(0, self.rows, BLOCK):
                x = self.gather(torch.arange(begin, min(begin + BLOCK, self.rows)), site)
                norms[begin : begin + len(x)] = x.norm(dim=-1)
                m, near = len(x), x.mean(0)  # rounded: what it misses of the block's mean is put right below
                x -= near
                rest = x.sum(0).double() / m
                off = near.double() + rest - mean
                squares += x.square_().sum(0).double() - m * rest.square() + off.square() * (n * m / (n + m))
                mean += off * (m / (n + m))
                n += m
            self._statistics[site] = mean.float(), (squares / max(n - 1, 1)).float(), float(norms.median())
        return self._statistics[site]

    def _reader(self, site: Sites, target: Sites) -> Callable[[Tensor], Batch]:
        """What makes a batch of rows; sites are checked here, once."""
        inputs = self._chosen(site)
        outputs = None if target is None else self._chosen(target)

        def read(on_disk: Tensor, chosen: Site | list[Site]) -> Tensor:
            if isinstance(chosen, Site):
                x = self._pick(on_disk, str(chosen), torch.float32)
            else:
                x = torch.stack([self._pick(on_disk, str(site), torch.float32) for site in chosen], 1)
            return x.pin_memory() if torch.cuda.is_available() else x  # so that a GPU copies it while it computes

        def make(rows: Tensor) -> Batch:
            on_disk, text = self._on_disk(rows)
            x = read(on_disk, inputs)
            y = x if outputs is None else read(on_disk, outputs)
            return Batch(x, y, text, self._pick(on_disk, "pos", torch.int64))

        return make

    def _chosen(self, site: Sites) -> Site | list[Site]:
        if site is None:
            site = self.sites[0] if len(self.sites) == 1 else self.sites
        if isinstance(site, (Site, str)):
            return self.site(site)
        chosen = [self.site(s) for s in site]
        widths = {str(s): self.width(s) for s in chosen}
        if len(set(widths.values())) != 1:
            raise ValueError(f"sites read together must have one width, got {widths}: read them one by one")
        return chosen

    def _on_disk(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(row on disk, text in this view) of this view's rows."""
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= self.rows):
            raise IndexError(f"rows are 0..{self.rows - 1}, got {int(rows.min())}..{int(rows.max())}")
        text = torch.searchsorted(self._ends, rows.long(), right=True)
        return self._first[text] + rows - (self._ends[text] - self._kept[text]), text

    def _pick(self, on_disk: Tensor, name: str, dtype: torch.dtype) -> Tensor:
        """Rows of one tensor across shards. Read in the order of the disk, returned in the order asked."""
        out = torch.empty((len(on_disk), *self._shards[0][name].shape[1:]), dtype=dtype)
        ordered, order = on_disk.sort()
        bounds = [0, *torch.searchsorted(ordered, self._shard_ends).tolist()]
        first = 0
        for shard, end, (low, high) in zip(
            self._shards, self._shard_ends.tolist(), zip(bounds, bounds[1:], strict=False), strict=True
        ):
            if high > low:
                out[order[low:high]] = shard[name][ordered[low:high] - first].to(dtype)
            first = end
        return out


@dataclass(frozen=True, eq=False)
class StoreStream:
    """Batches of a store in a fixed order, resumable at any step. Made by `Store.stream`."""

    store: Store
    size: int
    site: Sites
    target: Sites
    steps: int
    seed: int

    def __len__(self) -> int:
        return self.steps

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """From step `start` on: the same batches as a run that began at 0. The next two are read in a thread."""
        if not 0 <= start <= self.steps:
            raise ValueError(f"start must be within the stream's {self.steps} steps, got {start}")
        reads = self.store._reader(self.site, self.target)
        known: dict[int, Tensor] = {}

        def order(epoch: int) -> Tensor:
            if epoch not in known:
                known.clear()  # steps go forward: the epoch before is over
                known[epoch] = shuffled(self.store.rows, self.seed, epoch)
            return known[epoch]

        def make(step: int) -> Batch:
            epoch, begin = divmod(step * self.size, self.store.rows)
            rows = order(epoch)[begin : begin + self.size]
            if len(rows) < self.size:
                rows = torch.cat([rows, order(epoch + 1)[: self.size - len(rows)]])
            return reads(rows.long())

        return ahead(make, range(start, self.steps))

    def describe(self) -> dict[str, Any]:
        """JSON: what the batches depend on."""
        manifest = self.store.manifest
        return {
            "kind": "store",
            "store": self.store.hash,
            "subject": manifest["subject"]["fingerprint"],
            "corpus": manifest["corpus"]["fingerprint"],
            "site": texts_of(self.store._chosen(self.site)),
            "target": None if self.target is None else texts_of(self.store._chosen(self.target)),
            "rows": self.store.rows,
            "size": self.size,
            "steps": self.steps,
            "seed": self.seed,
            "exclusion": self.store.exclusion.to_json(),
        }


def shuffled(rows: int, seed: int, epoch: int) -> Tensor:
    """A permutation of all rows that depends on seed and epoch only; 4 bytes a row."""
    random = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(rows, generator=random, dtype=torch.int32 if rows < 2**31 else torch.int64)


def _joined(shards: Sequence[Shard], name: str) -> Tensor:
    """A tensor of all shards, copied out of the map; integers as int64 except token ids."""
    whole = torch.cat([shard[name] for shard in shards])
    return whole if name in ("ids", "mask") else whole.long()


def texts_of(site: Site | list[Site]) -> str | list[str]:
    return str(site) if isinstance(site, Site) else [str(s) for s in site]


def _at_least_one(size: int, what: str) -> None:
    if size < 1:
        raise ValueError(f"{what} has at least one row, got {size}")

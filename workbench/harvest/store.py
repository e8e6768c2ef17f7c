"""Rows of activations on disk: checksummed shards, each row with its text and position, read without loading them.

A store is one folder: `manifest.json` (what was asked, of which parents, with its own checksum), `labels.parquet` and
`00000.safetensors ...`. A shard holds whole token rows:

    ids, mask (text, pos)       the token rows               texts, kept, excluded (text,)    document and row counts
    text, pos, token (row,)     where each row stands        8.resid ... (row, d)             one tensor for each site
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from .. import lineage
from ..batch import Batch, Exclusion, Tokens
from ..site import Site

FORMAT = 1  # of the folder: raise it when the layout changes
MANIFEST, LABELS = "manifest.json", "labels.parquet"
DTYPES = {  # safetensors' names
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
BLOCK = 8192  # rows read at a time by what passes over a whole store
SiteLike = Site | str
Sites = SiteLike | Sequence[SiteLike] | None


class Shard:
    """One safetensors file, mapped into memory: bytes are read when they are used.

    Raises ValueError when the header does not describe the file exactly.
    """

    def __init__(self, path: Path):
        self.path = path
        payload, header = _header(path)
        flat = torch.from_numpy(np.memmap(path, np.uint8, "c"))  # copy on write: torch wants writable memory
        self._tensors = {
            name: flat[payload + begin : payload + end].view(dtype).view(shape)
            for name, (dtype, shape, begin, end) in header.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors


class _Entry(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def _header(path: Path) -> tuple[int, dict[str, _Entry]]:
    """Where the payload begins, and what lies in it. The tensors must fill it without a gap."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError(f"header of {length} bytes in a file of {size}")
            value = json.loads(file.read(length))
        value.pop("__metadata__", None)
        found = {
            name: _Entry(DTYPES[entry["dtype"]], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in value.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged (its header cannot be read: {error}): delete the store") from error
    at = 0
    for name, entry in sorted(found.items(), key=lambda item: item[1].begin):
        wanted = int(np.prod(entry.shape, dtype=np.int64)) * entry.dtype.itemsize
        if entry.begin != at or entry.end - entry.begin != wanted:
            raise ValueError(f"{path} is damaged ({name} does not lie where it must): delete the store")
        at = entry.end
    if 8 + length + at != size:
        raise ValueError(f"{path} is damaged ({size} bytes, its header says {8 + length + at}): delete the store")
    return 8 + length, found


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A safetensors file, atomically, with no second copy in memory: its name, size and SHA-256."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that all lie aligned
    header, at = {}, 0
    for name in ordered:
        t = tensors[name]
        header[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts = [len(text).to_bytes(8, "little") + text]
    parts += [tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data for name in ordered]
    whole = hashlib.sha256()

    def fill(part: Path) -> None:
        with part.open("wb") as file:
            for piece in parts:
                whole.update(piece)
                file.write(piece)

    lineage.write(path, fill)
    return {"file": path.name, "bytes": 8 + len(text) + at, "sha256": whole.hexdigest()}


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
            hashes = {file["file"]: file["sha256"] for file in (manifest["labels"], *manifest["shards"])}
            if damaged := verified(folder, hashes):
                raise ValueError(
                    f"{folder / damaged[0]} is damaged (its SHA-256 does not fit): delete the store and collect it anew"
                )
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
        order = None if seed is None else _shuffled(self.rows, seed, 0)

        def make(step: int) -> Batch:
            begin, end = step * size, min((step + 1) * size, self.rows)
            return reads(torch.arange(begin, end) if order is None else order[begin:end].long())

        return _ahead(make, range(-(-self.rows // size)))

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
                return self._pick(on_disk, str(chosen), torch.float32)
            return torch.stack([self._pick(on_disk, str(site), torch.float32) for site in chosen], 1)

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
                known[epoch] = _shuffled(self.store.rows, self.seed, epoch)
            return known[epoch]

        def make(step: int) -> Batch:
            epoch, begin = divmod(step * self.size, self.store.rows)
            rows = order(epoch)[begin : begin + self.size]
            if len(rows) < self.size:
                rows = torch.cat([rows, order(epoch + 1)[: self.size - len(rows)]])
            return reads(rows.long())

        return _ahead(make, range(start, self.steps))

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


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """The folder holds the manifest's files with their sizes, and nothing else."""
    files = {file["file"]: file["bytes"] for file in (manifest["labels"], *manifest["shards"])}
    for name, size in files.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: delete the store and collect it anew")
        if (folder / name).stat().st_size != size:
            raise ValueError(f"{folder / name} is damaged (cut or grown): delete the store and collect it anew")
    if unknown := sorted({path.name for path in folder.iterdir()} - {MANIFEST, *files}):
        raise ValueError(f"{folder} holds {unknown[0]!r}, which is not of this store: move it away")


def verified(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """Files whose SHA-256 does not fit, in order. A bar appears when it takes long."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter
        found = pool.map(lambda name: lineage.file_hash(folder / name), hashes)
        bar = tqdm(found, total=len(hashes), desc="verifying", unit="shard", delay=3, leave=False)
        return [name for (name, wanted), got in zip(hashes.items(), bar, strict=True) if got != wanted]


def _ahead(make: Callable[[int], Batch], steps: range, depth: int = 2) -> Iterator[Batch]:
    """make(step) for each step, `depth` of them ahead in a thread."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="store")
    try:
        waiting = deque(pool.submit(make, step) for step in steps[:depth])
        for step in [*steps[depth:], *[None] * min(depth, len(steps))]:
            ready = waiting.popleft()
            if step is not None:
                waiting.append(pool.submit(make, step))
            yield ready.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _shuffled(rows: int, seed: int, epoch: int) -> Tensor:
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

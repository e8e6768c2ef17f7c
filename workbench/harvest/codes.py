"""A whole store through a dictionary: its sparse codes on disk, by row and by latent.

A code store is one folder: `manifest.json` (which codec, which store, with its own checksum) and `00000.safetensors`
and on. A shard holds whole batches of rows, compressed by row (CSR):

    offsets (row + 1,), indices (entry,), values (entry,)     the active entries of each row; offsets count in the shard
    text, pos (row,)     where each row stands                fired (latent,)     rows of the shard where each is active

`columns.safetensors` holds the same entries by latent (CSC); it is made when a column is first asked for.
"""

import errno
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import lineage
from ..code import Code, Codec
from ..site import Site
from .shards import (
    MANIFEST,
    Shard,
    ahead,
    check_bytes,
    check_files,
    disk,
    fill_shard,
    found,
    locked,
    shard_name,
    verified,
    whole_shards,
    write_shard,
)

FORMAT = "codes 1"  # of the folder: change it when the layout changes
COLUMNS, COLUMNS_NOTE = "columns.safetensors", "columns.json"
SHARD = 32 * 2**20  # bytes of codes in a shard, unless asked
BATCH = 4096  # rows encoded at once
PROBE = 64  # rows whose code stands for what is no weight


@runtime_checkable
class Stored(Protocol):
    """What encoding needs of a Store or a view of one: any rows, where they stand, and what stands for them all."""

    rows: int
    hash: Any

    def gather(self, rows: Tensor, site: Any) -> Tensor: ...
    def where(self, rows: Tensor) -> tuple[Tensor, Tensor]: ...


class Coded(NamedTuple):
    """Consecutive rows of a code store, the first of which is number `begin`."""

    begin: int
    code: Code
    text: Int[Tensor, " row"]
    pos: Int[Tensor, " row"]


class Codes:
    """The codes of a store's rows, or of a view's, read without loading them. Rows are numbered as in that store.

    Values are in the model's own units, as the codec gave them. Only active entries are kept.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], shards: list[Shard]):
        self.folder, self.manifest, self._shards = folder, manifest, shards
        self.latents: int = manifest["call"]["latents"]
        self.site = Site.of(manifest["call"]["site"])
        self._ends = torch.tensor([shard["rows"] for shard in manifest["shards"]]).cumsum(0)
        self._by_latent: Shard | None = None

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = True) -> "Codes":
        """A finished code store. `verify` reads every byte once and compares it with its SHA-256.

        Raises FileNotFoundError when there is no finished code store or a file is missing, ValueError when a file is
        damaged, cut or unknown.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(f"{folder} has no {MANIFEST}: encode the store first")
        manifest = lineage.read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise ValueError(f"{folder} is of format {manifest.get('format')}, wanted {FORMAT!r}: encode anew")
        if manifest["state"] != "whole":
            raise FileNotFoundError(f"{folder} was cut short at {manifest['rows']} rows: encode again in the same way")
        check_files(folder, manifest, beside=(COLUMNS, COLUMNS_NOTE, f".{COLUMNS}.*.part"))
        if verify:
            check_bytes(folder, manifest)
        return cls(folder, manifest, [Shard(folder / shard["file"]) for shard in manifest["shards"]])

    def __len__(self) -> int:
        return self.manifest["rows"]

    def __repr__(self) -> str:
        return f"Codes({len(self):,} rows, {self.latents:,} latents, L0 {self.entries / len(self):.3g}, {self.hash})"

    @property
    def entries(self) -> int:
        """Active entries in all rows; over `len` it is the mean L0."""
        return self.manifest["entries"]

    @cached_property
    def hash(self) -> str:
        """16 hex digits that stand for the codec, the store and the bytes of the shards."""
        return lineage.fingerprint([self.manifest["call"], [shard["sha256"] for shard in self.manifest["shards"]]])

    @cached_property
    def counts(self) -> Int[Tensor, " latent"]:
        """Rows in which each latent is active."""
        return sum((shard["fired"] for shard in self._shards), torch.zeros(self.latents, dtype=torch.int64))

    @property
    def density(self) -> Float[Tensor, " latent"]:
        """Share of the rows in which each latent is active."""
        return self.counts.double() / len(self)

    def check(self, codec: Codec, store: Stored) -> None:
        """Raises ValueError when these are the codes of another dictionary or of another store."""
        call = parents(codec, store)
        if differ := [name for name in call if self.manifest["call"].get(name) != call[name]]:
            raise ValueError(
                f"{self.folder} holds codes of another {', '.join(differ)}: encode this store with this codec"
            )

    def where(self, rows: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """(text, pos) of rows, as the store counts them."""
        text, pos = torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows), dtype=torch.int64)
        for shard, local, at in self._parts(rows):
            text[at], pos[at] = shard["text"][local].long(), shard["pos"][local].long()
        return text, pos

    def rows(self, which: slice | Int[Tensor, " n"]) -> Code:
        """The codes of rows, in the order asked: a slice, or any numbers. Raises IndexError beyond the last row."""
        if isinstance(which, slice):
            begin, end, step = which.indices(len(self))
            if step == 1:
                return self._span(begin, max(begin, end))
            which = torch.arange(begin, end, step)
        counts = torch.zeros(len(which), dtype=torch.int64)
        parts = list(self._parts(which))
        for shard, local, at in parts:
            counts[at] = shard["offsets"][local + 1] - shard["offsets"][local]
        offsets = _ends(counts)
        indices = torch.empty(int(offsets[-1]), dtype=torch.int64)
        values = torch.empty(len(indices), dtype=getattr(torch, self.manifest["dtype"]))
        for shard, local, at in parts:
            many = counts[at]
            place = torch.arange(int(many.sum())) - (many.cumsum(0) - many).repeat_interleave(many)
            source = shard["offsets"][local].repeat_interleave(many) + place
            into = offsets[at].repeat_interleave(many) + place
            indices[into], values[into] = shard["indices"][source].long(), shard["values"][source]
        return Code.csr(offsets, indices, values, self.latents)

    def batches(self, size: int) -> Iterator[Coded]:
        """Every row once, in order; the last batch may be short."""
        if size < 1:
            raise ValueError(f"a batch has at least one row, got {size}")
        for begin in range(0, len(self), size):
            end = min(begin + size, len(self))
            yield Coded(begin, self._span(begin, end), *self.where(torch.arange(begin, end)))

    def column(self, latent: int) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
        """(rows, values) where a latent is active, rows in order. The first call makes the index by latent."""
        if not 0 <= latent < self.latents:
            raise IndexError(f"latent must be 0..{self.latents - 1}, got {latent}")
        if self._by_latent is None:
            self._by_latent = self._columns()
        mine = slice(*self._by_latent["ends"][latent : latent + 2].tolist())
        return self._by_latent["rows"][mine].long(), self._by_latent["values"][mine].clone()

    def _parts(self, rows: Tensor) -> Iterator[tuple[Shard, Tensor, Tensor]]:
        """Each shard that has some of the rows, which of its rows they are, and their places among those asked."""
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(self)):
            raise IndexError(f"rows are 0..{len(self) - 1}, got {int(rows.min())}..{int(rows.max())}")
        ordered, order = rows.long().sort()
        cuts = [0, *torch.searchsorted(ordered, self._ends).tolist()]
        first = 0
        for shard, end, low, high in zip(self._shards, self._ends.tolist(), cuts, cuts[1:], strict=False):
            if high > low:
                yield shard, ordered[low:high] - first, order[low:high]
            first = end

    def _span(self, begin: int, end: int) -> Code:
        """Consecutive rows: what lies together is copied together."""
        spans, first = [], 0
        for shard, last in zip(self._shards, self._ends.tolist(), strict=True):
            low, high = max(begin, first) - first, min(end, last) - first
            if low < high:
                offsets = shard["offsets"][low : high + 1]
                mine = slice(int(offsets[0]), int(offsets[-1]))
                indices, values = shard["indices"][mine].long(), shard["values"][mine].clone()
                spans.append(Code.csr(offsets - offsets[0], indices, values, self.latents))
            first = last
        if not spans:
            return self.rows(torch.zeros(0, dtype=torch.int64))
        return spans[0] if len(spans) == 1 else Code.cat(spans)

    def _columns(self) -> Shard:
        """The entries by latent: opened, or made by one pass that counts and one that puts each entry in its place."""
        note = self.folder / COLUMNS_NOTE
        with locked(self.folder, quiet=False):
            for left in self.folder.glob(f".{COLUMNS}.*.part"):
                left.unlink()  # by one who was killed
            noted = lineage.read_json(note) if note.is_file() else {}
            if noted.get("of") != self.hash or verified(self.folder, {COLUMNS: noted["sha256"]}):
                long = torch.int32 if len(self) < 2**31 else torch.int64
                shapes = {
                    "ends": (torch.int64, (self.latents + 1,)),
                    "rows": (long, (self.entries,)),
                    "values": (getattr(torch, self.manifest["dtype"]), (self.entries,)),
                }
                with disk(self.folder, self.manifest):
                    file = fill_shard(self.folder / COLUMNS, shapes, self._fill_columns)
                lineage.write_json(note, file | {"of": self.hash})
            return Shard(self.folder / COLUMNS)

    def _fill_columns(self, into: Shard) -> None:
        from scipy.sparse import csr_array

        into["ends"].copy_(_ends(self.counts))
        next_ = into["ends"][:-1].clone()  # where the next entry of each latent goes
        first = 0
        for shard in tqdm(self._shards, desc="by latent", unit="shard", delay=3, leave=False):
            n, entries = len(shard["text"]), len(shard["indices"])
            short = np.int32 if entries < 2**31 else np.int64  # half the memory of what follows
            by_row = (np.arange(entries, dtype=short), shard["indices"].numpy(), shard["offsets"].numpy().astype(short))
            by_latent = csr_array(by_row, shape=(n, self.latents)).tocsc()  # counts, then puts: rows stay in order
            many = torch.from_numpy(np.diff(by_latent.indptr)).long()
            shift = next_ - torch.from_numpy(by_latent.indptr[:-1]).long()
            place = shift.repeat_interleave(many).add_(torch.arange(entries))
            into["rows"][place] = torch.from_numpy(by_latent.indices).to(into["rows"].dtype).add_(first)
            into["values"][place] = shard["values"][torch.from_numpy(by_latent.data)]
            next_ += many
            first += n


def encode(
    store: Stored,
    codec: Codec,
    folder: Path | str | None = None,
    *,
    batch: int = BATCH,
    shard_bytes: int = SHARD,
    quiet: bool = False,
) -> Codes:
    """Every row of a store through a dictionary, as a code store on disk.

    Made once: the same call opens what is there, a call that was cut short goes on after its last whole shard and gives
    the same bytes, and of two processes that ask at once the second waits. `folder` defaults to one in the cache that
    is named for codec and store. Memory does not grow with the rows: two shards of `shard_bytes`, and the code of one
    batch. Values keep the codec's dtype.
    Raises ValueError when the codec has no site or the store no rows, FloatingPointError for a code that is not finite,
    FileExistsError when the folder holds other codes, OSError when the disk is full.
    """
    for name, value in {"batch": batch, "shard_bytes": shard_bytes}.items():
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    call = parents(codec, store)
    where = Path(folder) if folder is not None else lineage.cache() / "codes" / lineage.fingerprint(call)
    with locked(where, quiet):
        manifest = found(where, call, "encoding")
        if manifest is not None and manifest["state"] == "whole":
            return Codes.open(where)
        if manifest is None:
            manifest = {
                "format": FORMAT,
                "state": "partial",
                "call": call,
                "batch": batch,
                "shard_bytes": shard_bytes,
                "shards": [],
                "versions": lineage.versions(),
            }
        else:
            manifest["shards"] = whole_shards(where, manifest, quiet)[0]
        _Encoding(store, codec, where, manifest).run(quiet)
        return Codes.open(where, verify=False)  # every byte was hashed on its way to the disk


def parents(codec: Codec, store: Stored) -> dict[str, Any]:
    """What codes come from: codec, store, site. Raises ValueError without a site or without rows."""
    if codec.site is None:
        raise ValueError("the codec has no site: train it with site=..., or load it from its folder")
    if not store.rows:
        raise ValueError("the store has no rows: harvest some first")
    return {
        "codec": codec_hash(codec, store),
        "store": str(store.hash),
        "site": str(codec.site),
        "latents": codec.latents,
    }


def codec_hash(codec: Codec, store: Stored) -> str:
    """What stands for a codec: its weights (its atoms when it is no module) and what it says of 64 rows.

    What it says counts too, because not all that matters is a weight: the k of a TopK is not.
    """
    weights = codec.state_dict() if isinstance(codec, nn.Module) else {"atoms": codec.atoms()}
    with torch.no_grad():
        said = codec.encode(store.gather(torch.arange(min(PROBE, store.rows)), codec.site)).to_dense()
    return lineage.tensors_hash({f"weights.{name}": tensor for name, tensor in weights.items()} | {"said": said})[:16]


class _Encoding:
    """One encoding into one folder. Shards end with a batch, so that a resumed run cuts as the first one did."""

    def __init__(self, store: Stored, codec: Codec, folder: Path, manifest: Mapping[str, Any]):
        self.store, self.codec, self.folder = store, codec, folder
        self.manifest: dict[str, Any] = dict(manifest)  # as it lies on disk; in the writer's hands while rows are read

    def run(self, quiet: bool) -> None:
        self._note(self.manifest)  # first: a shard without a manifest is a stranger
        size, total = self.manifest["batch"], self.store.rows
        done = sum(shard["rows"] for shard in self.manifest["shards"])
        steps = range(done // size, -(-total // size))

        def read(step: int) -> tuple[Tensor, Tensor, Tensor]:
            rows = torch.arange(step * size, min((step + 1) * size, total))
            return self.store.gather(rows, self.codec.site), *self.store.where(rows)

        held: list[dict[str, Tensor]] = []
        writing: Future[None] | None = None
        bar = tqdm(
            total=total, initial=done, desc="encode", unit="row", unit_scale=True, disable=quiet, mininterval=0.5
        )
        with bar, ThreadPoolExecutor(1, thread_name_prefix="writer") as pool:
            for x, text, pos in ahead(read, steps, depth=1):
                held.append(self._entries(x, done) | {"text": text.int(), "pos": pos.int()})
                done += len(x)
                bar.update(len(x))
                held_bytes = sum(t.nbytes for part in held for t in part.values())
                if not self.manifest["shards"] and writing is None and len(held) == 1:
                    self._room_for(held_bytes / len(x) * total)
                if held_bytes >= self.manifest["shard_bytes"] or done == total:
                    if writing is not None:
                        writing.result()
                    writing = pool.submit(self._write, held)
                    held = []
            if writing is not None:
                writing.result()
        self._note(self.manifest | {"state": "whole"})

    @torch.no_grad()
    def _entries(self, x: Tensor, begin: int) -> dict[str, Tensor]:
        code = self.codec.encode(x).to_csr()
        assert code.indices is not None and code.offsets is not None
        if not bool(code.values.isfinite().all()):
            bad = int(code.support.rows[~code.values.isfinite()][0]) + begin
            raise FloatingPointError(
                f"the code of row {bad} is not finite: check the dictionary's weights and the store"
            )
        index = torch.int32 if self.codec.latents < 2**31 else torch.int64
        return {
            "counts": code.offsets.diff().cpu(),
            "indices": code.indices.to(index).cpu(),
            "values": code.values.cpu(),
        }

    def _room_for(self, size: float) -> None:
        free = shutil.disk_usage(self.folder.parent).free
        if free < size:
            raise OSError(
                errno.ENOSPC,
                f"{self.folder} would take {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free: encode a part of the "
                "store, or give another folder",
            )

    def _write(self, held: list[dict[str, Tensor]]) -> None:
        """The next shard, then the manifest that knows it."""
        tensors = {name: torch.cat([part[name] for part in held]) for name in held[0]}
        held.clear()
        tensors["offsets"] = _ends(tensors.pop("counts"))
        tensors["fired"] = torch.bincount(tensors["indices"], minlength=self.codec.latents)
        shards = self.manifest["shards"]
        with disk(self.folder, self.manifest):
            file = write_shard(self.folder / shard_name(len(shards)), tensors)
        entry = file | {"rows": len(tensors["text"]), "entries": len(tensors["indices"])}
        dtype = str(tensors["values"].dtype).removeprefix("torch.")
        self._note(self.manifest | {"shards": [*shards, entry], "dtype": dtype})

    def _note(self, manifest: dict[str, Any]) -> None:
        """Write the manifest with its sums, and keep it."""
        sums = {name: sum(shard[name] for shard in manifest["shards"]) for name in ("rows", "entries")}
        with disk(self.folder, self.manifest):
            lineage.write_json(self.folder / MANIFEST, manifest | sums)
        self.manifest = manifest | sums


def _ends(counts: Int[Tensor, " n"]) -> Int[Tensor, " n_plus_1"]:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

"""Harvest: a subject reads a corpus once, and its activations lie on disk, whole, checksummed, resumable."""

import errno
import hashlib
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from .. import lineage
from ..batch import Exclusion, Tokens
from ..site import Site
from .corpora import Corpus, corpus
from .shards import MANIFEST, disk, found, locked, say, shard_name, whole_shards, write_shard
from .store import FORMAT, LABELS, SiteLike, Store
from .tokens import Dropped, Plan, rows_of, rows_of_tokens

SHARD = 64 * 2**20  # bytes of activations in a shard, unless asked
Texts = Corpus | Tokens | str | Path | Iterable[str]


@runtime_checkable
class Reads(Protocol):
    """What a harvest needs of a subject."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    def tokenize(self, text: Any) -> Tokens: ...
    def width(self, site: Site | str) -> int: ...
    def read(self, tokens: Any, sites: Sequence[Site | str]) -> dict[Site, Float[Tensor, "text pos d"]]: ...


def collect(
    subject: Reads,
    texts: Texts,
    sites: SiteLike | Sequence[SiteLike],
    *,
    rows: int | None = 600_000,
    length: int = 128,
    min_length: int = 32,
    seed: int = 0,
    exclusion: Exclusion | None = None,
    dtype: str | None = None,
    batch: int = 8,
    calibrate: int = 32,
    shard_rows: int | None = None,
    folder: Path | str | None = None,
    quiet: bool = False,
) -> Store:
    """Activations of `rows` positions spread over a corpus, at one or several sites, as a store on disk.

    Made once: the same call opens what is there, a call that was cut short goes on after its last whole shard and gives
    the same bytes, and of two processes that ask at once the second waits. `folder` defaults to one in the cache that
    is named for the call. A row is kept when the exclusion rule keeps it at every site; the rule's medians are measured
    on the first `calibrate` token rows. `rows=None` takes all the corpus has. `dtype` on disk is `bfloat16` when the
    subject runs in it (exact), else `float32`; `float16` on request. Shards hold 64 MB unless `shard_rows` is given.
    `Tokens` may stand for the corpus, each token row a document of its own.
    Raises ValueError when the corpus is too small or the site unknown, FloatingPointError for NaN or infinite
    activations, OverflowError for values beyond the dtype, FileExistsError when the folder holds something else, and
    OSError when the disk is full; finished shards are kept in each case.
    """
    chosen = [Site.of(site) for site in ([sites] if isinstance(sites, (Site, str)) else sites)]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"a harvest reads one site or several different ones, got {', '.join(map(str, chosen))!r}")
    source = texts if isinstance(texts, (Corpus, Tokens)) else corpus(texts)
    exclusion = own_rule(subject) if exclusion is None else exclusion
    stored = dtype or ("bfloat16" if subject.dtype == torch.bfloat16 else "float32")
    if stored not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype on disk is float32, bfloat16 or float16, got {dtype!r}")
    if isinstance(source, Tokens):
        length = source.ids.shape[1]
    for name, value in {"rows": rows, "batch": batch, "calibrate": calibrate}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    widths = {str(site): subject.width(site) for site in chosen}
    per_row = sum(widths.values()) * getattr(torch, stored).itemsize
    versions = lineage.versions()
    call = {
        "format": FORMAT,
        "subject": subject.fingerprint,
        "corpus": lineage.tensors_hash(source._asdict())[:16] if isinstance(source, Tokens) else source.fingerprint,
        "sites": [str(site) for site in chosen],
        "rows": rows,
        "length": length,
        "min_length": min_length,
        "seed": seed,
        "exclusion": exclusion.to_json(),
        "dtype": stored,
        "computed": str(subject.dtype),
        "batch": batch,
        "calibrate": calibrate,
        "shard_rows": max(SHARD // per_row if shard_rows is None else shard_rows, batch * length),
        "versions": {name: versions[name] for name in ("torch", "transformers", "nnsight")},
    }
    where = Path(folder) if folder is not None else lineage.cache() / "stores" / lineage.fingerprint(call)
    with locked(where, quiet):
        manifest = found(where, call, "harvest", first=LABELS)
        if manifest is not None and manifest["state"] == "whole":
            return Store.open(where)
        harvest = _Harvest(subject, source, chosen, call, widths, exclusion, where, quiet)
        harvest.run(manifest)
        return Store.open(where, verify=False)  # every byte was hashed on its way to the disk


def own_rule(subject: Reads) -> Exclusion:
    """The subject's own rule where it has one, else the default."""
    rule = getattr(subject, "exclusion", None)
    return rule if isinstance(rule, Exclusion) else Exclusion()


class _Read(NamedTuple):
    """One batch of token rows with its activations; `keep` by the token rules."""

    first: int  # number of the first token row
    documents: list[int]
    tokens: Tokens
    keep: Bool[Tensor, "text pos"]
    h: dict[Site, Tensor]


class _Rows:
    """Room for one shard, filled batch by batch and used again."""

    def __init__(self, room: int, widths: Mapping[str, int], dtype: torch.dtype):
        self.room, self.n = room, 0
        self.sites = {site: torch.empty(room, d, dtype=dtype) for site, d in widths.items()}
        self.parts: dict[str, list[Tensor]] = {}

    def clear(self) -> None:
        self.n, self.parts = 0, {}

    def add(
        self, small: Mapping[str, Tensor], vectors: Mapping[str, Float[Tensor, "all d"]], which: Int[Tensor, " n"]
    ) -> None:
        n = len(which)
        for site, h in vectors.items():
            # cast first: half as many bytes to gather
            self.sites[site][self.n : self.n + n].copy_(h.to(self.sites[site].dtype)[which.to(h.device)])
        for name, value in small.items():
            self.parts.setdefault(name, []).append(value)
        self.n += n

    def tensors(self) -> dict[str, Tensor]:
        small = {name: torch.cat(parts) for name, parts in self.parts.items()}
        return small | {site: values[: self.n] for site, values in self.sites.items()}


class _Harvest:
    """One harvest into one folder. Batches of token rows are numbered from 0 and never depend on where a run began."""

    def __init__(
        self,
        subject: Reads,
        source: Corpus | Tokens,
        sites: Sequence[Site],
        call: Mapping[str, Any],
        widths: Mapping[str, int],
        exclusion: Exclusion,
        folder: Path,
        quiet: bool,
    ):
        self.subject, self.source, self.sites, self.call = subject, source, list(sites), call
        self.widths, self.exclusion, self.folder, self.quiet = widths, exclusion, folder, quiet
        self.dtype = getattr(torch, call["dtype"])
        self.special = frozenset(subject.special_ids)
        self.dropped = Dropped()
        self.manifest: dict[str, Any] = {}  # as it lies on disk; in the writer's hands while batches are read

    def run(self, manifest: dict[str, Any] | None) -> None:
        batch = self.call["batch"]
        plan = Plan(self._token_rows(), batch, lambda tokens: self.exclusion.by_token(tokens, self.special))
        rows = self.call["rows"]
        if not plan.reach(rows):
            raise ValueError(
                f"the corpus has {plan.kept:,} rows in token rows of {self.call['length']}, {rows:,} were asked: pass "
                "rows=None to take all, or give a larger corpus"
            )
        if not plan.kept:
            raise ValueError(
                f"the corpus gives no row: its texts are shorter than min_length={self.call['min_length']} tokens"
            )
        total = plan.kept if rows is None else rows
        self._note(self._begin(total) if manifest is None else self._resume(manifest))
        self.exclusion = Exclusion.from_json(self.manifest["exclusion"])  # with the medians, if they were measured
        done = self.manifest["rows"]
        bar = tqdm(
            total=total, initial=done, desc="harvest", unit="row", unit_scale=True, disable=self.quiet, mininterval=0.5
        )
        with bar, ThreadPoolExecutor(1, thread_name_prefix="writer") as pool:
            if done < total:
                self._fill(plan, total, pool, bar)
        done = self.manifest["rows"]
        if not done:
            raise ValueError("the exclusion rule leaves no row of this corpus: pass another exclusion")
        self._note(self.manifest | {"state": "whole", "dropped": asdict(self.dropped)})
        if rows is not None and done < rows:
            say(f"the corpus ended at {done:,} of {rows:,} rows: the norm rule left the others out", self.quiet)

    def _token_rows(self) -> Iterator[Any]:
        if isinstance(self.source, Tokens):
            return rows_of_tokens(self.source, self.call["seed"])
        return rows_of(
            self.subject,
            self.source.texts,
            length=self.call["length"],
            min_length=self.call["min_length"],
            seed=self.call["seed"],
            dropped=self.dropped,
        )

    def _begin(self, total: int) -> dict[str, Any]:
        """A manifest with nothing harvested yet."""
        per_row = sum(self.widths.values()) * self.dtype.itemsize + 12
        free = shutil.disk_usage(self.folder.parent).free
        if free < per_row * total:
            raise OSError(
                errno.ENOSPC,
                f"{self.folder} would take {per_row * total / 1e9:.2f} GB, {free / 1e9:.2f} GB are free: ask for fewer "
                "rows or give another folder",
            )
        if isinstance(self.source, Tokens):
            name, note, labels = "tokens", "", pd.DataFrame({"title": range(len(self.source.ids))})
        else:
            name, note, labels = self.source.name, self.source.note, self.source.labels
        table = io.BytesIO()
        labels.to_parquet(table)
        return {
            "format": FORMAT,
            "state": "partial",
            "call": self.call,
            "fingerprint": lineage.fingerprint(self.call),
            "subject": {"name": self.subject.name, "fingerprint": self.subject.fingerprint},
            "corpus": {"name": name, "fingerprint": self.call["corpus"], "texts": len(labels), "note": note},
            "sites": dict(self.widths),
            "exclusion": self.exclusion.to_json(),
            "special_ids": sorted(self.special),
            "labels": self._put(LABELS, table.getvalue()),
            "shards": [],
            "versions": lineage.versions(),
        }

    def _resume(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Keep the whole shards from the front; what follows the first that is missing or damaged is made again."""
        manifest["shards"], bad = whole_shards(self.folder, manifest, self.quiet)
        if LABELS in bad:
            manifest["labels"] = self._begin(0)["labels"]
        return manifest

    def _fill(self, plan: Plan, total: int, pool: ThreadPoolExecutor, bar: tqdm) -> None:
        """Read batch after batch; one shard is written in a thread while the next is filled."""
        room, limit = self.call["shard_rows"], self.call["batch"] * self.call["length"]
        filling, spare = (_Rows(room, self.widths, self.dtype) for _ in range(2))
        writing: Future[None] | None = None
        done = self.manifest["rows"]
        for read in self._reads(plan, -(-self.manifest["texts"] // self.call["batch"])):
            added = self._add(read, filling, total - done)
            done += added
            bar.update(added)
            if done == total or filling.n + limit > room:
                if writing is not None:
                    writing.result()
                writing = pool.submit(self._write, filling)
                filling, spare = spare, filling
                filling.clear()
            if done == total:
                break
        if writing is not None:
            writing.result()
        if filling.n:
            self._write(filling)

    def _reads(self, plan: Plan, batch: int) -> Iterator[_Read]:
        """Batches from number `batch` on. The medians are measured first, on rows that are then used too."""
        size = self.call["batch"]
        held: list[_Read] = []
        missing = [site for site in self.sites if str(site) not in self.exclusion.medians]
        if self.exclusion.norm is not None and missing:
            held = [r for b in range(-(-self.call["calibrate"] // size)) if (r := self._read(plan, b)) is not None]
            medians = {str(site): median_norm([(r.h[site], r.keep) for r in held]) for site in missing}
            self.exclusion = replace(self.exclusion, medians={**self.exclusion.medians, **medians})
            self._note(self.manifest | {"exclusion": self.exclusion.to_json()})
        held.reverse()
        while held:
            yield held.pop()
            batch += 1
        while (read := self._read(plan, batch)) is not None:
            yield read
            batch += 1

    def _read(self, plan: Plan, batch: int) -> _Read | None:
        drawn = plan.batch(batch)
        if drawn is None:
            return None
        tokens, documents = drawn
        h = self.subject.read(tokens, self.sites)
        for site, values in h.items():
            refuse_infinite(site, values, tokens.mask, documents)
        keep = self.exclusion.by_token(tokens, self.special)
        return _Read(batch * self.call["batch"], documents, tokens, keep, h)

    def _add(self, read: _Read, into: _Rows, room: int) -> int:
        """Put a batch's kept rows, `room` at most, into the shard; how many they were."""
        real, keep, texts = read.tokens.mask, read.keep, len(read.documents)
        for site, h in read.h.items():
            keep = keep & self.exclusion.by_norm(site, h).cpu()
        where = keep.flatten().nonzero()[:room, 0]  # in order of text, then position
        if len(where) == room:  # the harvest ends here: what follows is neither kept nor excluded
            real = real & (torch.arange(real.numel()).view(real.shape) <= where[-1])
            texts = int(where[-1]) // real.shape[1] + 1
        text, pos = where // real.shape[1], where % real.shape[1]
        kept = torch.bincount(text, minlength=texts)
        seen = real.sum(1)[:texts]
        small = {
            "ids": read.tokens.ids[:texts].int(),
            "mask": read.tokens.mask[:texts],
            "texts": torch.tensor(read.documents[:texts], dtype=torch.int32),
            "kept": kept.int(),
            "excluded": (seen - kept).int(),
            "by_token": (real & ~read.keep).sum(1)[:texts].int(),
            "text": (text + read.first).int(),
            "pos": pos.int(),
            "token": read.tokens.ids.flatten()[where].int(),
        }
        vectors = {str(site): h.flatten(0, 1) for site, h in read.h.items()}
        if self.dtype == torch.float16 and len(where):
            for site, h in vectors.items():
                if (top := float(h[where.to(h.device)].abs().max())) > torch.finfo(torch.float16).max:
                    raise OverflowError(f"{site} reaches {top:.3g}, float16 holds 65504: choose bfloat16 or float32")
        into.add(small, vectors, where)
        return len(where)

    def _write(self, rows: _Rows) -> None:
        """The next shard, then the manifest that knows it."""
        tensors = rows.tensors()
        by_token = int(tensors.pop("by_token").sum())
        shards = self.manifest["shards"]
        with disk(self.folder, self.manifest):
            file = write_shard(self.folder / shard_name(len(shards)), tensors)
        entry = file | {
            "rows": rows.n,
            "texts": len(tensors["texts"]),
            "excluded": {"by_token": by_token, "by_norm": int(tensors["excluded"].sum()) - by_token},
        }
        self._note(self.manifest | {"shards": [*shards, entry]})

    def _note(self, manifest: dict[str, Any]) -> None:
        """Write the manifest with its sums, and keep it."""
        shards = manifest["shards"]
        excluded = {rule: sum(s["excluded"][rule] for s in shards) for rule in ("by_token", "by_norm")}
        rows = sum(s["rows"] for s in shards)
        out = sum(excluded.values())
        sums = {
            "rows": rows,
            "texts": sum(s["texts"] for s in shards),
            "excluded": excluded,
            "share_excluded": out / (out + rows) if rows else 0.0,
        }
        with disk(self.folder, self.manifest):
            lineage.write_json(self.folder / MANIFEST, manifest | sums)
        self.manifest = manifest | sums

    def _put(self, name: str, data: bytes) -> dict[str, Any]:
        with disk(self.folder, self.manifest):
            lineage.write(self.folder / name, data)
        return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def refuse_infinite(site: Site, h: Tensor, real: Tensor, documents: Sequence[int]) -> None:
    """One pass over the norms; only when one is not finite, a look at the values."""
    if bool((h.norm(dim=-1).isfinite().cpu() | ~real).all()):
        return
    bad = ~h.isfinite().all(-1).cpu() & real
    if bad.any():
        text, pos = bad.nonzero()[0].tolist()
        value = h[text, pos][~h[text, pos].isfinite()][0].item()
        raise FloatingPointError(
            f"{site} is {value} at position {pos} of a token row of text {documents[text]}: check the weights "
            "and dtype; nothing of this batch was kept"
        )


def median_norm(reads: Sequence[tuple[Float[Tensor, "_ _ d"], Bool[Tensor, "_ _"]]]) -> float:
    """Median norm of vectors at kept positions: batches of `(text, pos, d)`, of which the last may be shorter."""
    norms = torch.cat([h.norm(dim=-1).cpu()[keep] for h, keep in reads])
    if not len(norms):
        raise ValueError("the first token rows keep no position to measure the median norm on: raise `calibrate`")
    return float(norms.median())

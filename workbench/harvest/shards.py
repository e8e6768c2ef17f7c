"""Folders that grow by checksummed shards under one manifest: made once, resumed after a kill, verified when opened."""

import errno
import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from .. import lineage

MANIFEST = "manifest.json"
DTYPES = {  # safetensors' names
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
T = TypeVar("T")


class Shard:
    """One safetensors file, mapped into memory: bytes are read when they are used.

    What is written into its tensors stays in memory, unless `write=True`. Raises ValueError when the header does not
    describe the file exactly.
    """

    def __init__(self, path: Path, *, write: bool = False):
        self.path = path
        payload, header = _header(path)
        flat = torch.from_numpy(np.memmap(path, np.uint8, "r+" if write else "c"))  # torch wants writable memory
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
        raise ValueError(f"{path} is damaged (its header cannot be read: {error}): delete the folder") from error
    at = 0
    for name, entry in sorted(found.items(), key=lambda item: item[1].begin):
        wanted = int(np.prod(entry.shape, dtype=np.int64)) * entry.dtype.itemsize
        if entry.begin != at or entry.end - entry.begin != wanted:
            raise ValueError(f"{path} is damaged ({name} does not lie where it must): delete the folder")
        at = entry.end
    if 8 + length + at != size:
        raise ValueError(f"{path} is damaged ({size} bytes, its header says {8 + length + at}): delete the folder")
    return 8 + length, found


def _head(shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> tuple[bytes, list[str], int]:
    """The bytes before the tensors, the order of the tensors, and the bytes that they take."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    ordered = sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name))  # so that all lie aligned
    header, at = {}, 0
    for name in ordered:
        dtype, shape = shapes[name]
        end = at + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, ordered, at


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A safetensors file, atomically, with no second copy in memory: its name, size and SHA-256."""
    head, ordered, size = _head({name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()})
    parts = [head, *(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data for name in ordered)]
    whole = hashlib.sha256()

    def fill(part: Path) -> None:
        with part.open("wb") as file:
            for piece in parts:
                whole.update(piece)
                file.write(piece)

    lineage.write(path, fill)
    return {"file": path.name, "bytes": len(head) + size, "sha256": whole.hexdigest()}


def fill_shard(
    path: Path, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], fill: Callable[[Shard], None]
) -> dict[str, Any]:
    """A safetensors file, atomically, whose tensors `fill` writes in any order, mapped: they never lie in memory."""
    head, _, size = _head(shapes)

    def make(part: Path) -> None:
        with part.open("wb") as file:
            file.write(head)
            file.truncate(len(head) + size)
        fill(Shard(part, write=True))

    lineage.write(path, make)
    return {"file": path.name, "bytes": len(head) + size, "sha256": lineage.file_hash(path)}


def shard_name(number: int) -> str:
    return f"{number:05d}.safetensors"


def files_of(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every file that a manifest names: its own ones, then the shards."""
    return [*([manifest["labels"]] if "labels" in manifest else []), *manifest["shards"]]


def check_files(folder: Path, manifest: Mapping[str, Any], beside: Iterable[str] = ()) -> None:
    """The folder holds the manifest's files with their sizes, and nothing else except what may lie `beside` (globs)."""
    files = {file["file"]: file["bytes"] for file in files_of(manifest)}
    for name, size in files.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing: delete the folder and make it anew")
        if (folder / name).stat().st_size != size:
            raise ValueError(f"{folder / name} is damaged (cut or grown): delete the folder and make it anew")
    unknown = {path.name for path in folder.iterdir() if not any(path.match(allowed) for allowed in beside)}
    if unknown := sorted(unknown - {MANIFEST, *files}):
        raise ValueError(f"{folder} holds {unknown[0]!r}, which is not of this store: move it away")


def check_bytes(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Every byte is what was written. Raises ValueError that names the first damaged file."""
    if damaged := verified(folder, {file["file"]: file["sha256"] for file in files_of(manifest)}):
        raise ValueError(
            f"{folder / damaged[0]} is damaged (its SHA-256 does not fit): delete the folder and make it anew"
        )


def verified(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """Files whose SHA-256 does not fit, in order. A bar appears when it takes long."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter
        found = pool.map(lambda name: lineage.file_hash(folder / name), hashes)
        bar = tqdm(found, total=len(hashes), desc="verifying", unit="shard", delay=3, leave=False)
        return [name for (name, wanted), got in zip(hashes.items(), bar, strict=True) if got != wanted]


@contextmanager
def locked(folder: Path, quiet: bool) -> Iterator[None]:
    """One process at a time makes a folder; the others wait, and say so."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process writes into {folder}: waiting for it", quiet)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def found(folder: Path, call: Mapping[str, Any], what: str, first: str | None = None) -> dict[str, Any] | None:
    """The manifest of the same call, if the folder has one. Under the lock `.part` files are left by the dead.

    `what` names what the call makes; `first` is the file that is written before the manifest. Raises FileExistsError
    when the folder holds something else.
    """
    if not folder.exists():
        return None
    for left in folder.glob(".*.part"):
        left.unlink()
    if not (folder / MANIFEST).exists():
        if there := sorted(path.name for path in folder.iterdir() if path.name != first):
            raise FileExistsError(f"{folder} holds other files ({there[0]}): give an empty or a new folder")
        return None
    manifest = lineage.read_json(folder / MANIFEST)
    if manifest["call"] != call:
        theirs = manifest["call"]
        differ = [name for name in call if theirs.get(name) != call[name]]
        said = "; ".join(f"{name} {theirs.get(name)!r}, not {call[name]!r}" for name in differ)
        raise FileExistsError(f"{folder} holds another {what} ({said}): give another folder, or delete this one")
    return manifest


def whole_shards(folder: Path, manifest: Mapping[str, Any], quiet: bool) -> tuple[list[dict[str, Any]], set[str]]:
    """The shards from the front that are as written, and the names of all damaged or missing files.

    Raises FileExistsError for a file that is not of this folder.
    """
    hashes = {file["file"]: file["sha256"] for file in files_of(manifest)}
    there = {name: sha256 for name, sha256 in hashes.items() if (folder / name).is_file()}
    bad = {*verified(folder, there), *(hashes.keys() - there.keys())}
    shards = manifest["shards"]
    whole = next((i for i, shard in enumerate(shards) if shard["file"] in bad), len(shards))
    if whole < len(shards):
        say(f"{folder / shards[whole]['file']} is missing or damaged: made again from there", quiet)
    known = {MANIFEST, *hashes, shard_name(len(shards))}  # the last may have been written but not noted
    if unknown := sorted({path.name for path in folder.iterdir()} - known):
        raise FileExistsError(f"{folder} holds {unknown[0]!r}, which is not of this store: move it away")
    return shards[:whole], bad


@contextmanager
def disk(folder: Path, manifest: Mapping[str, Any]) -> Iterator[None]:
    """A full disk, said in one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        shards, rows = len(manifest.get("shards", [])), manifest.get("rows", 0)
        raise OSError(
            error.errno,
            f"the disk is full: {folder} keeps {rows:,} rows in {shards} whole shards; make room and call again, it "
            "goes on from there",
        ) from error


def ahead(make: Callable[[int], T], steps: range, depth: int = 2) -> Generator[T, None, None]:
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


def say(line: str, quiet: bool) -> None:
    if not quiet:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

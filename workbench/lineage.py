"""Where an artefact came from, and files that are either whole or not there."""

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

PACKAGES = ("interp-workbench", "torch", "nnsight", "transformers", "numpy", "safetensors")


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def fingerprint(value: Any) -> str:
    """16 hex digits that stand for a JSON value."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of names."""
    import torch

    h = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        h.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        h.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()


def write(path: Path, fill: bytes | Callable[[Path], None]) -> Path:
    """Write a file whole or not at all: beside its place, flushed to disk, then renamed; a failure leaves nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            if isinstance(fill, bytes):
                file.write(fill)
        if not isinstance(fill, bytes):
            fill(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, str] | None = None) -> Path:
    """A safetensors file, atomically. Tensors must be contiguous and share no memory."""
    return write(path, lambda part: save_file(dict(tensors), part, metadata=dict(meta or {})))


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """A JSON object with its own SHA-256 under `checksum`, atomically."""
    body = {k: v for k, v in value.items() if k != "checksum"}
    full = body | {"checksum": hashlib.sha256(canonical(body)).hexdigest()}
    return write(path, (json.dumps(full, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote. Raises FileNotFoundError, or ValueError when the bytes are not what was written."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    text = path.read_bytes()
    try:
        value = json.loads(text)
        found = value.pop("checksum")
        same = (json.dumps(value | {"checksum": found}, indent=1) + "\n").encode() == text
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and make it again") from error
    if not same or found != hashlib.sha256(canonical(value)).hexdigest():
        raise ValueError(f"{path} is damaged (its checksum does not fit): delete it and make it again")
    return value


def append(path: Path, row: Mapping[str, Any]) -> None:
    """One more line of a log of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def cut(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop a log's lines from the first that is not to be kept, or that a kill left unfinished."""
    kept = []
    for line in path.read_text().splitlines(keepends=True) if path.is_file() else ():
        if not line.endswith("\n") or not keep(json.loads(line)):
            break
        kept.append(line)
    if path.is_file():
        write(path, "".join(kept).encode())


def versions() -> dict[str, str]:
    """Versions that an artefact's numbers may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def cache() -> Path:
    """Folder for converted models, corpora, stores and layouts: `WORKBENCH_CACHE`, else the user's cache folder."""
    if folder := os.environ.get("WORKBENCH_CACHE"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or (
        os.environ.get("LOCALAPPDATA") if os.name == "nt" else Path.home() / ".cache"
    )
    return Path(base or Path.home() / ".cache") / "interp-workbench"

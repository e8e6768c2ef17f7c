"""Somebody else's files, opened without trust: nothing in them runs, nothing outside the folder is read.

Whatever is not as it should be raises ValueError in one line that names the file and says what was found.
"""

import json
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from math import isfinite, prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ... import lineage

TENSORS = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".ckpt")
LARGEST_CONFIG = 1 << 24  # bytes: a configuration is not larger
LARGEST_YAML = 1 << 20  # its parser is slow
MOST_VALUES, DEEPEST = 1_000_000, 64  # in a configuration
MOST_TO_ONE = 1100  # deflate packs no more bytes into one
MOST_FILES = 20_000
DEPTH = 6  # folders below the one that was given
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MISSING: Any = object()


class Source:
    """A folder, or a single file of one, and what lies in it: names are relative, with `/`.

    Raises FileNotFoundError when there is nothing.
    """

    def __init__(self, path: Path | str):
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: give a folder, a file or a hub id `owner/name`")
        self.path, self.only = (path, None) if path.is_dir() else (path.parent, path.name)
        self.used: list[str] = []  # files that were opened

    def __repr__(self) -> str:
        return str(self.path if self.only is None else self.path / self.only)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Names of all files, or of the one that was given, sorted; links that lead outside are not among them."""
        if self.only is not None:
            return (self.only,)
        try:
            names = sorted(self._walk(self.path, DEPTH))
        except OSError as error:
            raise ValueError(f"{self} cannot be listed: {one_line(error)}") from None
        if odd := [name for name in names if not name.isprintable()]:
            raise ValueError(f"{self} holds a file named {shown(odd[0])}: no format has such names")
        return tuple(names)

    def _walk(self, folder: Path, depth: int) -> Iterator[str]:
        for count, path in enumerate(sorted(folder.iterdir())):
            if count > MOST_FILES:
                raise ValueError(f"{folder} holds more than {MOST_FILES:,} files: give the folder of one dictionary")
            if path.is_dir() and not path.is_symlink() and depth:
                yield from self._walk(path, depth - 1)
            elif path.is_file() and (not path.is_symlink() or self._within(path)):
                yield path.relative_to(self.path).as_posix()

    def _within(self, path: Path) -> bool:
        """Whether a path leads to a place in this folder, or in the store of the hub's cache that its links go to."""
        real, root = path.resolve(), self.path.resolve()
        stores = [at.parent / "blobs" for at in (root, *root.parents) if at.name == "snapshots"]
        return any(real.is_relative_to(place) for place in (root, *stores))

    @cached_property
    def top(self) -> tuple[str, ...]:
        """Names of the files directly in the folder."""
        return (self.only,) if self.only is not None else tuple(name for name in self.files if "/" not in name)

    def has(self, *names: str) -> bool:
        """Whether all of these are there."""
        return all(name in self.files for name in names)

    def holds(self, name: str) -> bool:
        """Whether there is a file or folder of this name in it, which is then `inside`."""
        with suppress(OSError, ValueError):  # a name that is too long, or none
            return ".." not in PurePosixPath(name).parts and (self.path / name).exists()
        return False

    def folder(self, name: str) -> "Source":
        """A folder inside this one."""
        return self if name in ("", ".") else Source(self.inside(name))

    def inside(self, name: str) -> Path:
        """The path of a name that a file mentions. Raises ValueError when it is not there, or outside the folder."""
        pure = PurePosixPath(name)
        if not name or "\\" in name or "\0" in name or pure.is_absolute() or ".." in pure.parts or ":" in name:
            raise ValueError(
                f"{self}: a file names {shown(name)}, which is not inside this folder: nothing outside is read"
            )
        path = self.path / pure
        if not self.holds(name):
            raise ValueError(f"{self}: {shown(name)} is missing: copy the whole folder")
        if name != self.only and not self._within(path):
            raise ValueError(f"{self}: {shown(name)} is a link that leads out of this folder: nothing outside is read")
        return path

    def json(self, name: str) -> "Config":
        """A JSON object."""
        return Config(self._object(name, _json, LARGEST_CONFIG), f"{self.path / name}")

    def yaml(self, name: str) -> "Config":
        """A YAML mapping of plain values."""
        import yaml

        return Config(self._object(name, yaml.safe_load, LARGEST_YAML), f"{self.path / name}")

    def _object(self, name: str, parse: Any, largest: int) -> dict[str, Any]:
        path = self.inside(name)
        if path.stat().st_size > largest:
            raise ValueError(f"{path} has {path.stat().st_size:,} bytes: no configuration is so large")
        self.used.append(name)
        try:
            value = _plain(parse(path.read_text(encoding="utf-8")))
        except Exception as error:  # a YAML parser raises many kinds, deep nesting a RecursionError
            raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
        if not isinstance(value, dict):
            raise ValueError(f"{path} must hold an object with names, got {type(value).__name__}")
        return value

    @cached_property
    def lone(self) -> str:
        """The folder's only file of tensors where that is pickled, else nothing."""
        held = [name for name in self.top if name.endswith(TENSORS)]
        return held[0] if len(held) == 1 and not held[0].endswith((".safetensors", ".npz")) else ""

    @cached_property
    def pickled(self) -> Mapping[str, Any]:
        """What `lone` holds, opened once."""
        if not self.lone:
            return {}
        self.used.append(self.lone)
        return unpickled(self.inside(self.lone))

    def tensors(self, name: str) -> "Tensors":
        """The tensors of a file: safetensors, npz, or a pickled dict opened with `weights_only=True`."""
        path = self.inside(name)
        self.used.append(name)
        if path.suffix == ".safetensors":
            return Tensors(_Safe(path), path)
        if path.suffix == ".npz":
            return Tensors(_Npz(path), path)
        return Tensors(_named(unpickled(path), path), path)

    def hashes(self, most: int) -> dict[str, str]:
        """SHA-256 of the files that were opened, of larger ones than `most` bytes their size."""
        sizes = {name: (self.path / name).stat().st_size for name in dict.fromkeys(self.used)}
        return {n: lineage.file_hash(self.path / n) if size <= most else f"{size} bytes" for n, size in sizes.items()}


class Config:
    """Somebody's configuration. What is asked for and absent, or of another type, raises ValueError."""

    def __init__(self, value: Mapping[str, Any], where: str):
        self.value, self.where = dict(value), where

    def __contains__(self, name: str) -> bool:
        return name in self.value

    def raw(self, name: str, default: Any = MISSING) -> Any:
        if name in self.value:
            return self.value[name]
        if default is MISSING:
            raise ValueError(f"{self.where} has no {name!r}, only {_those(sorted(self.value)) or 'nothing'}")
        return default

    def _typed(self, name: str, default: Any, what: str, fits: Any) -> Any:
        value = self.raw(name, default)
        if (value is None and default is None) or (value is default and default is not MISSING) or fits(value):
            return value
        raise ValueError(f"{self.where}: {name} must be {what}, got {shown(value)}")

    def text(self, name: str, default: Any = MISSING, among: Sequence[str] = ()) -> Any:
        what = f"one of {', '.join(among)}" if among else "a text"
        return self._typed(name, default, what, lambda v: isinstance(v, str) and (not among or v in among))

    def integer(self, name: str, default: Any = MISSING, least: int = 0) -> Any:
        fits = lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v < 1 << 53  # noqa: E731
        return self._typed(name, default, f"a whole number of {least} or more", fits)

    def number(self, name: str, default: Any = MISSING, above: float | int | None = None) -> Any:
        what = "a number" if above is None else f"a number above {above:g}"
        return self._typed(
            name,
            default,
            what,
            lambda v: (
                isinstance(v, int | float)
                and not isinstance(v, bool)
                and abs(v) < 1e300
                and (above is None or v > above)
            ),
        )

    def flag(self, name: str, default: Any = MISSING) -> Any:
        return self._typed(name, default, "true or false", lambda v: isinstance(v, bool))

    def object(self, name: str, default: Any = MISSING) -> "Config":
        value = self._typed(name, default, "an object", lambda v: isinstance(v, dict))
        return Config(value or {}, f"{self.where}: {name}")

    def list(self, name: str, default: Any = MISSING, of: type = str) -> Any:
        fits = lambda v: isinstance(v, list) and all(type(item) is of for item in v)  # noqa: E731
        return self._typed(name, default, f"a list of {of.__name__}", fits)


class Tensors:
    """Tensors by name. Whatever was not taken when all is done is one too many."""

    def __init__(self, store: "_Safe | _Npz | _Held", path: Path | str):
        self.store, self.path = store, path
        self.left = set(store.names())

    def __contains__(self, name: str) -> bool:
        return name in self.store.names()

    def names(self) -> list[str]:
        return self.store.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that must be there."""
        if name not in self:
            raise ValueError(f"{self.path} has no tensor {name!r}, only {_those(sorted(self.names())) or 'nothing'}")
        return self.store.shape(name)

    def width(self, name: str, axis: int, of: int) -> int:
        """Length of one axis of a tensor with `of` axes."""
        shape = self.shape(name)
        if len(shape) != of:
            raise ValueError(f"{self.path}: {name} must have {of} axes, got {_sizes(shape)}")
        return shape[axis]

    def take(self, name: str, shape: Sequence[int], *, dtype: torch.dtype | None = torch.float32) -> Tensor:
        """A tensor of floats with exactly this shape, all finite. `dtype=None` keeps the file's."""
        value = self._loaded(name, shape)
        if dtype is not None:
            value = value.to(dtype)
        if not finite(value):
            raise ValueError(f"{self.path}: {name} holds numbers that are not finite (NaN or infinity)")
        self.left.discard(name)
        return value

    def mapped(self, name: str, shape: Sequence[int]) -> Tensor:
        """A tensor of floats with this shape as the file has it, for parts of it to be read later: not looked through.

        Only a safetensors file is mapped; what else there is comes into memory.
        """
        value = self._loaded(name, shape)
        self.left.discard(name)
        return value

    def _loaded(self, name: str, shape: Sequence[int]) -> Tensor:
        if self.shape(name) != tuple(shape):
            raise ValueError(f"{self.path}: {name} must be {list(shape)}, got {_sizes(self.shape(name))}")
        if not prod(shape):
            raise ValueError(f"{self.path}: {name} is empty, {_sizes(shape)}")
        value = self.store.load(name)
        if value.dtype not in FLOATS:
            raise ValueError(f"{self.path}: {name} must hold floats, got {str(value.dtype).removeprefix('torch.')}")
        return value

    def number(self, name: str) -> float:
        """A tensor of one number, whatever its dtype, finite."""
        if prod(self.shape(name)) != 1:
            raise ValueError(f"{self.path}: {name} must be one number, got {_sizes(self.shape(name))}")
        found = self.store.load(name)
        if found.is_complex():
            raise ValueError(f"{self.path}: {name} must be one number, got {found.dtype}")
        value = float(found.reshape(()))
        if not isfinite(value):
            raise ValueError(f"{self.path}: {name} must be finite, got {value}")
        self.left.discard(name)
        return value

    def integers(self, name: str, shape: Sequence[int]) -> Tensor:
        """A tensor of whole numbers."""
        if self.shape(name) != tuple(shape):
            raise ValueError(f"{self.path}: {name} must be {list(shape)}, got {_sizes(self.shape(name))}")
        value = self.store.load(name)
        if value.is_floating_point() or value.is_complex():
            raise ValueError(f"{self.path}: {name} must hold whole numbers, got {value.dtype}")
        self.left.discard(name)
        return value

    def skip(self, *names: str) -> None:
        """These are known, and not needed."""
        self.left -= set(names)

    def done(self) -> None:
        """Raises ValueError when a tensor is left that nobody asked for: the architecture is another."""
        if self.left:
            raise ValueError(f"{self.path} holds {_those(sorted(self.left))}, which this architecture does not have")


class _Safe:
    """A safetensors file, mapped: pages are read when they are used."""

    def __init__(self, path: Path):
        try:
            self.file: Any = safe_open(path, framework="pt")
            self._names: list[str] = list(self.file.keys())
            self.shapes = {name: tuple(self.file.get_slice(name).get_shape()) for name in self._names}
        except (SafetensorError, OSError, struct.error, ValueError) as error:
            raise ValueError(f"{path} is not a whole safetensors file: {one_line(error)}") from None

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def load(self, name: str) -> Tensor:
        return self.file.get_tensor(name)


class _Npz:
    """A NumPy archive; no object array is opened."""

    def __init__(self, path: Path):
        self.path, self.shapes = path, {}
        try:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    _check_member(info, path)
                    with archive.open(info) as file:
                        shape, _, dtype = _npy_header(file)
                    if dtype.hasobject or dtype.kind not in "fiub":
                        raise ValueError(f"{info.filename} holds {dtype}, not numbers")
                    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize > info.file_size:
                        raise ValueError(f"{info.filename} says {list(shape)}, and has {info.file_size} bytes")
                    if (name := info.filename.removesuffix(".npy")) in self.shapes:
                        raise ValueError(f"it holds two of {shown(name)}")
                    self.shapes[name] = tuple(shape)
        except Exception as error:  # zip and header parsers raise many kinds
            raise ValueError(f"{path} is not a whole NumPy archive of numbers: {one_line(error)}") from None

    def names(self) -> list[str]:
        return list(self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def load(self, name: str) -> Tensor:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return torch.from_numpy(archive[name])
        except Exception as error:
            raise ValueError(f"{self.path}: {name} cannot be read: {one_line(error)}") from None


def _check_member(info: zipfile.ZipInfo, path: Path) -> None:
    """Raise ValueError for a size that its bytes cannot unpack to."""
    packed = min(info.compress_size, path.stat().st_size)
    most = packed if info.compress_type == zipfile.ZIP_STORED else MOST_TO_ONE * packed
    if info.file_size > most:
        raise ValueError(f"{shown(info.filename)} says {info.file_size:,} bytes, and has {packed:,}")


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return read[version](file)


class _Held:
    """Tensors that are in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = dict(tensors)

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def load(self, name: str) -> Tensor:
        return self.tensors[name]


def unpickled(path: Path) -> dict[str, Any]:
    """A pickled dict of tensors and plain values, opened with `weights_only=True`: code in it is refused, not run."""
    try:
        packed = zipfile.is_zipfile(path)
        if packed:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    _check_member(info, path)
        with warnings.catch_warnings(action="ignore"):
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=packed)
    except Exception as error:  # torch raises many kinds for what is damaged
        text = str(error)
        if re.search(r"nsupported (global|class|type)|allowed global|an only build|an only create|Trying to", text):
            text = "it is a pickle that holds more than tensors and plain values, and would have to run code"
        elif "eights only" in text or "weights_only" in text:
            text = "it is damaged, or no pickle of tensors and plain values"
        else:
            text = one_line(error)
        raise ValueError(f"{path} was not opened: {text}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{path} must hold a dict with names, got {type(value).__name__}")
    return dict(value)


def held(tensors: Mapping[str, Any], where: Path | str) -> Tensors:
    """Tensors by name of a dict that was read; raises ValueError for a value that is none."""
    return Tensors(_named(tensors, where), where)


def _named(value: Mapping[str, Any], where: Path | str) -> _Held:
    for name, item in value.items():
        if not isinstance(item, Tensor):
            raise ValueError(f"{where} must hold tensors alone, got {shown(name)}: {type(item).__name__}")
        if item.layout != torch.strided or item.device.type != "cpu" or item.is_quantized:
            raise ValueError(f"{where}: {shown(name)} must be a plain dense tensor")
        if item.numel() * item.element_size() > item.untyped_storage().nbytes():
            raise ValueError(f"{where}: {shown(name)} says {_sizes(item.shape)}, and has fewer numbers")
    return _Held({name: item.detach() for name, item in value.items()})


def _json(text: str) -> Any:
    """JSON without names that come twice; NaN and infinities, which it does not have, are texts."""
    return json.loads(text, object_pairs_hook=_object_once, parse_constant=str, parse_float=_number)


def _object_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {shown(next(name for i, name in enumerate(names) if name in names[:i]))} twice")
    return found


def _number(digits: str) -> float | str:
    return found if isfinite(found := float(digits)) else digits


def _plain(value: Any) -> Any:
    """A value that came as JSON has it: texts, numbers, lists and objects. Raises ValueError for others."""
    stack, count = [(value, 0)], 0
    while stack:
        item, depth = stack.pop()
        count += 1
        if depth > DEEPEST or count > MOST_VALUES:
            raise ValueError(f"it is more than {DEEPEST} deep or holds more than {MOST_VALUES:,} values")
        if isinstance(item, dict):
            if odd := [key for key in item if not isinstance(key, str)]:
                raise ValueError(f"it has a name that is no text, {shown(odd[0])}")
            stack += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list):
            stack += [(inner, depth + 1) for inner in item]
        elif not (item is None or isinstance(item, str | int | float)):
            raise ValueError(f"it holds a {type(item).__name__}, which is no plain value")
        elif not isinstance(item, str | None) and not abs(item) < 1e300:
            raise ValueError("it holds a number that is not finite, or far too large")
    return value


def _those(names: Sequence[str]) -> str:
    return ", ".join(shown(name, 40) for name in names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _sizes(shape: Sequence[int]) -> str:
    return shown(list(shape))


def finite(value: Tensor) -> bool:
    """Whether all numbers are, a part at a time: a mapped file is not copied whole."""
    return all(bool(torch.isfinite(part).all()) for part in value.split(4096)) if value.ndim else bool(value.isfinite())


def shown(value: Any, most: int = 80) -> str:
    """A value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."


def listed(names: Sequence[str], most: int = 12) -> str:
    """The first of some names, in a short line."""
    some = [name for i, name in enumerate(names[:most]) if sum(map(len, names[: i + 1])) <= 180]
    return ", ".join(some) + (f" and {len(names) - len(some)} more" if len(names) > len(some) else "")


def one_line(error: BaseException) -> str:
    """The first sentence of an error, without line breaks."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."

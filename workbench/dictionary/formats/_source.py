"""Somebody else's files, opened without trust: nothing in them runs, nothing outside the folder is read.

Whatever is not as it should be raises ValueError in one line that names the file and says what was found.
"""

import json
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
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
        return tuple(sorted(self._walk(self.path, DEPTH)))

    def _walk(self, folder: Path, depth: int) -> Iterator[str]:
        for count, path in enumerate(sorted(folder.iterdir())):
            if count > MOST_FILES:
                raise ValueError(f"{folder} holds more than {MOST_FILES:,} files: give the folder of one dictionary")
            if path.is_dir() and not path.is_symlink() and depth:
                yield from self._walk(path, depth - 1)
            elif path.is_file():
                yield path.relative_to(self.path).as_posix()

    @cached_property
    def top(self) -> tuple[str, ...]:
        """Names of the files directly in the folder."""
        return (self.only,) if self.only is not None else tuple(name for name in self.files if "/" not in name)

    def has(self, *names: str) -> bool:
        """Whether all of these are there."""
        return all(name in self.files for name in names)

    def folder(self, name: str) -> "Source":
        """A folder inside this one."""
        return self if name in ("", ".") else Source(self.inside(name))

    def inside(self, name: str) -> Path:
        """The path of a name that a file mentions. Raises ValueError when it is not there, or outside the folder."""
        pure = PurePosixPath(name)
        if not name or "\\" in name or "\0" in name or pure.is_absolute() or ".." in pure.parts or ":" in name:
            raise ValueError(f"{self}: a file names {name!r}, which is not inside this folder: nothing outside is read")
        path = self.path / pure
        if not path.exists():
            raise ValueError(f"{self}: {name!r} is missing: copy the whole folder")
        return path

    def json(self, name: str) -> "Config":
        """A JSON object."""
        return Config(self._object(name, json.loads), f"{self.path / name}")

    def yaml(self, name: str) -> "Config":
        """A YAML mapping of plain values."""
        import yaml

        return Config(self._object(name, yaml.safe_load), f"{self.path / name}")

    def _object(self, name: str, parse: Any) -> dict[str, Any]:
        path = self.inside(name)
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"{path} has {path.stat().st_size:,} bytes: no configuration is so large")
        self.used.append(name)
        try:
            value = parse(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
        except Exception as error:  # whatever a YAML parser raises
            raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{path} must hold an object with names, got {type(value).__name__}")
        return value

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
            raise ValueError(f"{self.where} has no {name!r}, only {', '.join(sorted(self.value)) or 'nothing'}")
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

    def number(self, name: str, default: Any = MISSING, above: float | None = None) -> Any:
        what = "a number" if above is None else f"a number above {above:g}"
        return self._typed(
            name,
            default,
            what,
            lambda v: (
                isinstance(v, int | float) and not isinstance(v, bool) and isfinite(v) and (above is None or v > above)
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
            raise ValueError(f"{self.path} has no tensor {name!r}, only {self._those(self.names())}")
        return self.store.shape(name)

    def width(self, name: str, axis: int, of: int) -> int:
        """Length of one axis of a tensor with `of` axes."""
        shape = self.shape(name)
        if len(shape) != of:
            raise ValueError(f"{self.path}: {name} must have {of} axes, got {list(shape)}")
        return shape[axis]

    def take(self, name: str, shape: Sequence[int], *, dtype: torch.dtype | None = torch.float32) -> Tensor:
        """A tensor of floats with exactly this shape, all finite. `dtype=None` keeps the file's."""
        found = self.shape(name)
        if found != tuple(shape):
            raise ValueError(f"{self.path}: {name} must be {list(shape)}, got {list(found)}")
        value = self.store.load(name)
        if value.dtype not in FLOATS:
            raise ValueError(f"{self.path}: {name} must hold floats, got {str(value.dtype).removeprefix('torch.')}")
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
        if self.shape(name) != tuple(shape):
            raise ValueError(f"{self.path}: {name} must be {list(shape)}, got {list(self.shape(name))}")
        value = self.store.load(name)
        if value.dtype not in FLOATS:
            raise ValueError(f"{self.path}: {name} must hold floats, got {str(value.dtype).removeprefix('torch.')}")
        self.left.discard(name)
        return value

    def number(self, name: str) -> float:
        """A tensor of one number, whatever its dtype, finite."""
        if prod(self.shape(name)) != 1:
            raise ValueError(f"{self.path}: {name} must be one number, got {list(self.shape(name))}")
        value = float(self.store.load(name).reshape(()))
        if not isfinite(value):
            raise ValueError(f"{self.path}: {name} must be finite, got {value}")
        self.left.discard(name)
        return value

    def integers(self, name: str, shape: Sequence[int]) -> Tensor:
        """A tensor of whole numbers."""
        if self.shape(name) != tuple(shape):
            raise ValueError(f"{self.path}: {name} must be {list(shape)}, got {list(self.shape(name))}")
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
            raise ValueError(
                f"{self.path} holds {self._those(sorted(self.left))}, which this architecture does not have"
            )

    @staticmethod
    def _those(names: Sequence[str]) -> str:
        return ", ".join(shown(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


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
                    with archive.open(info) as file:
                        shape, _, dtype = _npy_header(file)
                    if dtype.hasobject or dtype.kind not in "fiub":
                        raise ValueError(f"{info.filename} holds {dtype}, not numbers")
                    if prod(shape) * dtype.itemsize > info.file_size:
                        raise ValueError(f"{info.filename} says {list(shape)}, and has {info.file_size} bytes")
                    self.shapes[info.filename.removesuffix(".npy")] = tuple(shape)
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
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what is damaged
        text = one_line(error)
        if "weights_only" in text or "Weights only" in text or "WeightsUnpickler" in text:
            text = "it is a pickle that holds more than tensors and plain values, and would have to run code"
        raise ValueError(f"{path} was not opened: {text}") from None
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{path} must hold a dict with names, got {type(value).__name__}")
    return dict(value)


def held(tensors: Mapping[str, Any], where: Path | str) -> Tensors:
    """Tensors by name of a dict that was read; raises ValueError for a value that is none."""
    return Tensors(_named(tensors, where), where)


def _named(value: Mapping[str, Any], where: Path | str) -> _Held:
    if odd := [name for name, item in value.items() if not isinstance(item, Tensor) or item.layout != torch.strided]:
        raise ValueError(f"{where} must hold tensors alone, got {shown(odd[0])}: {type(value[odd[0]]).__name__}")
    return _Held(value)


def finite(value: Tensor) -> bool:
    """Whether all numbers are, a part at a time: a mapped file is not copied whole."""
    return all(bool(torch.isfinite(part).all()) for part in value.split(4096)) if value.ndim else bool(value.isfinite())


def shown(value: Any) -> str:
    """A value in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def one_line(error: BaseException) -> str:
    """The first sentence of an error, without line breaks."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."

"""Read a GGUF file: its metadata, and its tensors dequantised to float32.

The header is parsed here (transformers' reader takes half a minute on a 49k-token vocabulary); the arithmetic of the
quantised blocks is `gguf.quants.dequantize`. Source: the GGUF specification of ggml, versions 2 and 3, little-endian.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

SCALAR = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
STRING, ARRAY = 8, 9


class Entry(NamedTuple):
    """Where a tensor lies: its shape in numpy's order, its ggml type, its bytes in the file."""

    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True)
class Gguf:
    """An opened file. `meta` is the metadata as plain Python, `tensors` says what can be read."""

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, Entry]

    def read(self, name: str) -> Float32[np.ndarray, "..."]:
        """One tensor in float32, in torch's orientation (out, in). Raises KeyError for a name that is not there."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        if name not in self.tensors:
            raise KeyError(f"{self.path.name} has no tensor {name!r}: it has {', '.join(list(self.tensors)[:8])} ...")
        shape, kind, start, size = self.tensors[name]
        raw = np.fromfile(self.path, dtype=np.uint8, count=size, offset=start)
        packed = raw.reshape(*shape[:-1], -1)
        return np.ascontiguousarray(dequantize(packed, GGMLQuantizationType(kind)).reshape(shape), dtype=np.float32)


class _Cursor:
    """Walks the header; running off its end is an error with a name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
        self.at = 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise ValueError(f"{self.path} is damaged: its header asks for {count} bytes at {self.at}, past the end")
        self.at += count
        return self.data[self.at - count : self.at].tobytes()

    def unpack(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        return self.take(self.unpack("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner, count = self.unpack("I"), self.unpack("Q")
            if inner in SCALAR:
                raw = self.take(count * struct.calcsize("<" + SCALAR[inner]))
                return list(struct.unpack(f"<{count}{SCALAR[inner]}", raw))
            return [self.value(inner) for _ in range(count)]
        if kind not in SCALAR:
            raise ValueError(f"{self.path} is damaged: metadata of unknown type {kind}")
        return self.unpack(SCALAR[kind])


def open_gguf(path: Path) -> Gguf:
    """Parse the header. Raises ValueError for a file that is no GGUF, is damaged, or is cut short."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    path = Path(path)
    head = _Cursor(path)
    if path.stat().st_size < 24 or head.take(4) != b"GGUF":
        raise ValueError(f"{path} is not a GGUF file")
    if (version := head.unpack("I")) not in (2, 3):
        raise ValueError(f"{path} is GGUF version {version}: only little-endian versions 2 and 3 can be read")
    tensors, pairs = head.unpack("Q"), head.unpack("Q")
    meta: dict[str, Any] = {}
    for _ in range(pairs):
        key = head.string()
        meta[key] = head.value(head.unpack("I"))
    found = []
    for _ in range(tensors):
        name = head.string()
        dims = [head.unpack("Q") for _ in range(head.unpack("I"))]
        found.append((name, tuple(reversed(dims)), head.unpack("I"), head.unpack("Q")))
    align = meta.get("general.alignment", 32)
    base = -(-head.at // align) * align
    entries = {}
    for name, shape, kind, offset in found:
        try:
            block, width = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}: tensor {name!r} has the unknown ggml type {kind}") from error
        if not shape or shape[-1] % block:
            raise ValueError(f"{path} is damaged: tensor {name!r} of shape {shape} is not whole blocks of {block}")
        size = math.prod(shape) // block * width
        if base + offset + size > len(head.data):
            raise ValueError(f"{path} is cut short: tensor {name!r} ends at {base + offset + size} of {len(head.data)}")
        entries[name] = Entry(shape, kind, base + offset, size)
    return Gguf(path, meta, entries)

"""One hash for whatever a case holds, so that a finished cell is known again."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SKIPPED = ("cache",)  # fields that hold what was computed, not what it was computed from


class Unhashable(TypeError):
    """A part that is known by its identity only, such as a function."""


def digest(value: Any) -> str:
    """16 hex digits over plain values, tensors, modules, data classes, and whatever has a `hash` or a `fingerprint`.

    Raises Unhashable for anything else.
    """
    h = hashlib.sha256()
    _add(h, value)
    return h.hexdigest()[:16]


def _add(h: Any, value: Any) -> None:
    kind = type(value).__name__
    if value is None or isinstance(value, bool | int | float | str | bytes | Path):
        h.update(f"{kind} {value!r}\n".encode())
    elif isinstance(value, Tensor | np.ndarray):
        t = torch.as_tensor(value).detach().cpu().contiguous()
        h.update(f"tensor {t.dtype} {tuple(t.shape)}\n".encode())
        h.update(t.reshape(-1).view(torch.uint8).numpy().data if t.numel() else b"")
    elif isinstance(value, Mapping):
        h.update(f"mapping {len(value)}\n".encode())
        for key in sorted(value, key=repr):
            _add(h, key)
            _add(h, value[key])
    elif isinstance(value, nn.Module):
        h.update(f"module {value!r} {getattr(value, 'site', '')} {getattr(value, 'target', '')}\n".encode())
        _add(h, getattr(value, "call", None))
        _add(h, dict(value.state_dict()))
    elif isinstance(known := getattr(value, "hash", None) or getattr(value, "fingerprint", None), str):
        h.update(f"{kind} {known}\n".encode())
    elif isinstance(value, tuple | list | set | frozenset):
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        h.update(f"sequence {len(items)}\n".encode())
        for item in items:
            _add(h, item)
    elif is_dataclass(value) and not isinstance(value, type):
        h.update(f"data {kind}\n".encode())
        for f in fields(value):
            if f.name not in SKIPPED:
                h.update(f"{f.name}\n".encode())
                _add(h, getattr(value, f.name))
    else:
        raise Unhashable(f"a {kind} has no hash of its own")

"""Dashboards for JupyterLab that also live in an exported page, without a network and without a kernel.

| widget | shows | answers from Python |
| --- | --- | --- |
| `TokenStrip` | tokens coloured by a value each | `picked` |
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

NAMES = {"TokenStrip": "token_strip"}
__all__ = [*NAMES]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .token_strip import TokenStrip


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"widgets has no {name!r}: there is {', '.join(NAMES)}")
    return getattr(import_module(f".{NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)

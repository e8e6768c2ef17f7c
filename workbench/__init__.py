"""Open a language model: harvest activations, train dictionaries, read, score, map and steer them.

`import workbench as wb` shows the doors; each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

DOORS = {
    "Site": "site",
    "Tokens": "batch",
    "Batch": "batch",
    "Exclusion": "batch",
    "Code": "code",
    "Codec": "code",
    "Edit": "edit",
    "Subject": "subject",
    "collect": "harvest",
    "encode": "harvest",
    "Store": "harvest",
    "Codes": "harvest",
    "Live": "harvest",
    "Mixed": "harvest",
    "corpus": "harvest",
    "recipe": "dictionary",
    "train": "dictionary",
    "start": "dictionary",
    "check": "dictionary",
    "load": "dictionary.formats",
    "Dictionary": "dictionary",
    "Case": "evaluate",
    "evaluate": None,
    "edit": None,
    "interpret": None,
    "steer": None,
    "geometry": None,
    "regimes": None,
    "testbeds": None,
    "report": None,
    "catalogue": None,
    "lineage": None,
}
__all__ = [*DOORS, "save"]

if TYPE_CHECKING:
    from pathlib import Path

    from . import catalogue, edit, evaluate, geometry, interpret, lineage, regimes, report, steer, testbeds
    from .batch import Batch, Exclusion, Tokens
    from .code import Code, Codec
    from .dictionary import Dictionary, check, recipe, start, train
    from .dictionary.formats import load
    from .edit import Edit
    from .evaluate import Case
    from .harvest import Codes, Live, Mixed, Store, collect, corpus, encode
    from .site import Site
    from .subject import Subject


def save(dictionary: "Dictionary", folder: "Path | str", *, format: str | None = None) -> "Path":
    """Write a dictionary to a folder; see `workbench.dictionary.save`, and with a format `formats.write`."""
    # written out: nnsight mounts a `.save` on every object, which would be found before `__getattr__`
    if format is not None:
        return import_module(".dictionary.formats", __name__).write(dictionary, folder, format)
    return import_module(".dictionary", __name__).save(dictionary, folder)


def __getattr__(name: str) -> Any:
    if name not in DOORS:
        raise AttributeError(f"workbench has no {name!r}: its doors are {', '.join(DOORS)}")
    room = DOORS[name]
    return import_module(f".{name}", __name__) if room is None else getattr(import_module(f".{room}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)

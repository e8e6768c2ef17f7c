"""Dictionaries in the field's checkpoint formats: a file here is a format.

`sniff(source)` says whether a folder is of the format, `parts(source)` which dictionaries it holds where it may hold
several, `read(source, part)` gives one, `write(dictionary, folder)` writes one where we do.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ... import catalogue
from ...site import Site
from .. import files
from ..core import Dictionary
from . import _gain, _hub, _own
from ._parts import Found, assemble
from ._sites import placed, site_of
from ._source import Source, listed, shown

if TYPE_CHECKING:
    from ...subject import Subject

HUB = re.compile(r"[\w.-]+/[\w.-]+(/[\w./-]+)?")
LONGEST = 400  # characters of a refusal
HASHED = 1 << 28  # bytes of a file beyond which its size alone is kept


def load(
    source: Path | str,
    part: str | int | None = None,
    *,
    site: Site | str | None = None,
    target: Site | str | None = None,
    format: str | None = None,
    subject: "Subject | None" = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> Dictionary:
    """A dictionary from a folder, a file or a hub id, in our own format or one of the field's, ready to use.

    `part`: which one, where there are several (`parts` lists them). `site` and `target` where the files do not say, or
    say something that is no stream of ours; `target` is else where it reads, but for what goes into a module.
    `format`: a name of `catalogue.names("formats")`, else it is recognised. `subject`: the model, whose modules and
    norms places are then held against; raise when its rows there have another width. Weights come as float32 unless
    `dtype` is given.
    Raises FileNotFoundError, or ValueError in one line for whatever does not fit: nothing is guessed.
    """
    found, part, origin = _opened(source, part, revision)
    if _is_own(found):
        dictionary = _own.load(found)
    else:
        dictionary = _read(found, _format(found, format), part, origin, site, target, subject)
    if site is not None:
        dictionary.site = Site.of(site)
    if target is not None:
        dictionary.target = Site.of(target)
    elif dictionary.target is None and _writes_where_it_reads(dictionary):
        dictionary.target = dictionary.site
    if subject is not None:
        files.check(dictionary, subject)
    return dictionary.to(device=device, dtype=dtype)


def _writes_where_it_reads(dictionary: Dictionary) -> bool:
    """Whether it can be taken for an autoencoder: one of what goes into a module may as well be a transcoder."""
    return dictionary.decoder.shape == dictionary.shape and not str(dictionary.site).endswith(("_in", ":in"))


def parts(source: Path | str, *, format: str | None = None) -> list[str]:
    """Names of the dictionaries that a local folder holds; `[""]` where it is one."""
    found = Source(source)
    return [""] if _is_own(found) else _parts_of(found, _format(found, format))


def load_all(source: Path | str, **how: Any) -> dict[str, Dictionary]:
    """All dictionaries of a local folder by `parts`; keyword arguments as in `load`."""
    return {name: load(source, name, **how) for name in parts(source, format=how.get("format"))}


def write(dictionary: Dictionary, folder: Path | str, format: str) -> Path:
    """Write a dictionary in somebody else's format, for their code to open.

    Raises ValueError when the format cannot say what this dictionary does.
    """
    module = catalogue.module("formats", format)
    if not hasattr(module, "write"):
        can = [name for name in catalogue.names("formats") if hasattr(catalogue.module("formats", name), "write")]
        raise ValueError(f"{format} is read and not written: choose from {', '.join(can)}")
    module.write(dictionary, Path(folder))
    return Path(folder)


def _opened(source: Path | str, part: str | int | None, revision: str | None) -> tuple[Source, str, dict[str, Any]]:
    """The files, what is left to name within them, and where they came from."""
    name, inner, origin = str(source), "" if part is None else str(part), {"source": Path(source).name}
    if not Path(source).exists() and HUB.fullmatch(name) and not name.startswith("."):
        folder, inner, commit = _hub.fetch(name, inner, revision)
        source, origin = folder, {"source": name, "revision": commit}
    found = Source(source)
    if inner and found.only is None and found.holds(inner):
        return Source(found.inside(inner)), "", origin | {"part": inner}
    return found, inner, origin | ({"part": inner} if inner else {})


def _is_own(source: Source) -> bool:
    return "spec.json" in source.top


def _format(source: Source, name: str | None) -> Any:
    """The module of a format, named or recognised. Raises ValueError for none or several."""
    if name is not None:
        return catalogue.module("formats", name)
    known = {name: catalogue.module("formats", name) for name in catalogue.names("formats")}
    with _in_a_line(source):
        fit = [name for name, module in known.items() if module.sniff(source)]
    if len(fit) == 1:
        return known[fit[0]]
    if fit:
        raise ValueError(f"{source} could be {' or '.join(fit)}: give format=")
    held = ", ".join(shown(name, 30) for name in source.files[:6]) or "nothing"
    more = f" and {len(source.files) - 6} more" if len(source.files) > 6 else ""
    raise ValueError(
        f"{source} is no dictionary that we know: it holds {held}{more} (catalogue.names('formats') lists what is read)"
    )


def _parts_of(source: Source, module: Any) -> list[str]:
    with _in_a_line(source):
        return module.parts(source) if hasattr(module, "parts") else [""]


@contextmanager
def _in_a_line(source: Source) -> Iterator[None]:
    """What a format says of a folder, with the folder, and no longer than one reads."""
    try:
        yield
    except ValueError as error:
        text = " ".join(str(error).split())
        text = text if str(source.path) in text else f"{source}: {text}"
        raise ValueError(text if len(text) <= LONGEST else text[: LONGEST - 3] + "...") from None


def _read(
    source: Source, module: Any, part: str, origin: dict[str, Any], site: Any, target: Any, subject: Any
) -> Dictionary:
    there = _parts_of(source, module)
    if not part and len(there) == 1:
        part = there[0]
    if part not in there:
        names = listed(there)
        wanted = f"has no {shown(part)}" if part else "holds several dictionaries"
        raise ValueError(f"{source} {wanted}: give part= one of {names or 'none, there is nothing else in it'}")
    with _in_a_line(source):
        found: Found = module.read(source, part)
        dictionary = assemble(found.spec, found.tensors, found.pieces)
        before = _gain.place(found.reads, None if site is None else Site.of(site), getattr(module, "BEFORE_GAIN", ()))
        if before is not None:
            _gain.fold_(dictionary, before, subject, found.reads)
        at = site_of if subject is None else partial(placed, subject=subject)
        dictionary.site = None if found.reads is None or site is not None else at(found.reads)
        dictionary.target = None if found.writes is None or target is not None else at(found.writes)
    name = module.__name__.rpartition(".")[2]
    dictionary.training_summary = origin | {
        "format": name,
        "model": found.model,
        "reads": found.reads,
        "writes": found.writes,
        "config": dict(found.config),
        "files": source.hashes(HASHED),
    }
    return dictionary

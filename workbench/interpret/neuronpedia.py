"""What Neuronpedia says of latents, from files on disk: explanations and features, as its site and exports give them.

labels = neuronpedia.labels("batch-0.jsonl.gz", latents=sae.latents)  # {latent: text}
neuronpedia.keep(labels, "labels.json")  # for widgets: FeatureDashboard(..., labels="labels.json")
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .. import lineage

LARGEST = 1 << 31  # bytes of text in one file
ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


class Explanation(NamedTuple):
    """One text about one latent, and where it came from: None where the file does not say."""

    latent: int
    text: str
    source: str | None  # `model/layer-and-dictionary` as Neuronpedia names it
    explainer: str | None  # the model that wrote it
    kind: str | None  # how it was asked


def labels(
    path: Path | str,
    *,
    latents: int | None = None,
    source: str | None = None,
    explainer: str | None = None,
    kind: str | None = None,
) -> dict[int, str]:
    """A text for each latent that has one: the first in the file, of those by this `explainer` and of this `kind`.

    `path`: a file of explanations or of features, JSON or JSON lines, packed with gzip or not, or a folder of them.
    `latents`: how many the dictionary has. Raises FileNotFoundError, or ValueError in one line: for a file that is
    something else, one that tells of several sources when none is given, or of a latent that the dictionary has not.
    """
    found = explanations(path)
    known = sorted({e.source for e in found if e.source is not None})
    if source is None and len(known) > 1:
        raise ValueError(f"{path} tells of {_those(known)}: give source=, the one of your dictionary")
    if source is not None and known and source not in known:
        raise ValueError(f"{path} has no source {source!r}, only {_those(known)}")
    chosen: dict[int, str] = {}
    for e in found:
        if latents is not None and e.latent >= latents and source in (None, e.source):
            raise ValueError(f"{path} tells of latent {e.latent}, the dictionary has {latents}: it is of another")
        if source in (None, e.source) and explainer in (None, e.explainer) and kind in (None, e.kind):
            chosen.setdefault(e.latent, e.text)
    if not chosen:
        told = {"explainer": {e.explainer for e in found}, "kind": {e.kind for e in found}}
        there = "; ".join(f"{k}: {_those(sorted(map(str, v)))}" for k, v in told.items())
        raise ValueError(f"{path} has no explanation of this choice, it has {there}")
    return chosen


def explanations(path: Path | str) -> list[Explanation]:
    """All that is told, in the order of the file, or of the files of a folder. Raises as `labels` does."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a file or folder of Neuronpedia's explanations")
    paths = [path] if not path.is_dir() else [p for p in path.iterdir() if p.is_file() and p.name.endswith(ENDINGS)]
    found = [e for file in sorted(paths, key=_order) for e in _told(file)]
    if not found:
        raise ValueError(f"{path} holds no explanation of a latent (`index` with `description` or `explanations`)")
    return found


def keep(labels: Mapping[int, str], path: Path | str) -> Path:
    """Write labels where widgets look for them, beside those that are in the file, which stay as they are.

    Raises ValueError when the file holds something else.
    """
    path, known = Path(path), {}
    if path.exists():
        try:
            known = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            known = None
        if not isinstance(known, dict) or not all(isinstance(v, str) for v in known.values()):
            raise ValueError(f"{path} must hold one text for each key: choose another file for labels")
    full = {str(latent): text for latent, text in labels.items()} | known
    return lineage.write(path, (json.dumps(full, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))


def _order(path: Path) -> list[tuple[int, str]]:
    """batch-2 before batch-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _told(path: Path) -> Iterator[Explanation]:
    for where, record in _records(path):
        yield from _of(record, where, {})


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a file with their places: one that is all of it, or one to a line."""
    text = _text(path)
    try:
        yield str(path), json.loads(text)
        return
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None
    except ValueError as error:
        if "\n" not in text.strip() or not text.lstrip().startswith("{"):
            raise ValueError(f"{path} is not JSON ({_cut(str(error))})") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number} is not JSON ({_cut(str(error))})") from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {_cut(str(error))}") from None


def _of(value: Any, where: str, outer: Mapping[str, Any]) -> Iterator[Explanation]:
    """Explanations in a record of its own, in a feature, or in a list of either."""
    if isinstance(value, list):
        for item in value:
            if not isinstance(item, dict):
                raise ValueError(f"{where} must hold objects, got {type(item).__name__}")
            yield from _of(item, where, outer)
        return
    if not isinstance(value, dict):
        raise ValueError(f"{where} must hold objects, got {type(value).__name__}")
    here = {**outer, **{k: value[k] for k in ("modelId", "layer", "index") if value.get(k) is not None}}
    if "explanations" in value:
        inner = value["explanations"]
        if not isinstance(inner, list | None) or any(isinstance(e, dict) and "explanations" in e for e in inner or ()):
            raise ValueError(f"{where}: explanations must be a list of them, got {_cut(repr(inner))}")
        yield from _of(inner or [], where, here)
    elif value.get("description") is not None:
        text, latent = value["description"], _latent(here.get("index"), where)
        if not isinstance(text, str):
            raise ValueError(f"{where}: a description must be a text, got {_cut(repr(text))}")
        names = [here.get(k) for k in ("modelId", "layer")] + [
            value.get(k) for k in ("explanationModelName", "typeName")
        ]
        if odd := [name for name in names if not isinstance(name, str | None)]:
            raise ValueError(f"{where}: a model, layer or kind must be a text, got {_cut(repr(odd[0]))}")
        if text.strip():
            source = "/".join(name for name in names[:2] if name) or None
            yield Explanation(latent, " ".join(text.split()), source, names[2], names[3])


def _latent(index: Any, where: str) -> int:
    """A number, or its digits as a text."""
    if isinstance(index, str) and index.isascii() and index.isdecimal() and len(index) < 16:
        return int(index)
    if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 1 << 53:
        return index
    raise ValueError(f"{where}: index must be the number of a latent, got {_cut(repr(index))}")


def _those(names: list[str]) -> str:
    return ", ".join(_cut(name) for name in names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."

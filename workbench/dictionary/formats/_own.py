"""Our own folders (`spec.json`): dictionaries trained here, and foreign ones that `save` kept."""

from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from ... import lineage
from ...batch import Exclusion
from ...site import Site
from .. import files
from ..core import Dictionary
from ._parts import assemble
from ._source import Source, one_line


def load(source: Source) -> Dictionary:
    """As `files.load`, also for a dictionary whose parts are given instead of a recipe."""
    folder = source.path
    try:
        spec = lineage.read_json(source.inside("spec.json"))
        return _parts(source, spec) if "parts" in spec else files.load(folder)
    except FileNotFoundError:
        raise
    except Exception as error:  # a checksum can be made by anyone: the spec may hold anything
        if isinstance(error, ValueError) and str(error).startswith(str(folder)):
            raise
        raise ValueError(
            f"{folder}/spec.json is not one that we wrote: {type(error).__name__}, {one_line(error)}"
        ) from None


def _parts(source: Source, spec: dict[str, Any]) -> Dictionary:
    folder = source.path
    if "weights.safetensors" not in source.top:
        raise FileNotFoundError(f"{folder} has no weights.safetensors: copy the whole folder")
    path = source.inside("weights.safetensors")
    if lineage.file_hash(path) != spec["weights"]["sha256"]:
        raise ValueError(f"{path} is damaged (its SHA-256 is not the spec's): copy it again")
    try:
        dictionary = assemble(spec["parts"], load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {one_line(error)}") from None
    dictionary.site, dictionary.target = (None if spec[k] is None else Site.of(spec[k]) for k in ("site", "target"))
    dictionary.subject, dictionary.training_summary = spec["subject"], spec["training"]
    dictionary.exclusion = Exclusion.from_json(spec["exclusion"])
    return dictionary

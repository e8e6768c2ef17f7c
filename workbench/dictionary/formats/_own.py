"""Our own folders (`spec.json`): dictionaries trained here, and foreign ones that `save` kept."""

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
    spec = lineage.read_json(folder / "spec.json")
    if "parts" not in spec:
        return files.load(folder)
    path = folder / "weights.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no weights.safetensors: copy the whole folder")
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

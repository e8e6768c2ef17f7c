"""A dictionary on disk: `spec.json`, the call and place that rebuild it, and `weights.safetensors`."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .. import catalogue, lineage
from ..batch import Exclusion
from ..site import Site
from .core import Dictionary, Recipe


def recipe(name: str, *, seed: int = 0, **args: Any) -> Recipe:
    """The recipe of a variant, which remembers this call. `seed` draws the starting weights; arguments are JSON.

    Raises ValueError for an unknown variant or arguments that are not JSON, TypeError showing the signature.
    """
    entry, full = catalogue.entry("variants", name), catalogue.bound("variants", name, **args)
    try:
        lineage.canonical(full)
    except (TypeError, ValueError) as error:
        raise ValueError(f"arguments of {name} must be JSON, got {args}: {error}") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = entry(**full)
    call = {"variant": name, "args": full, "seed": seed}
    made.dictionary.call = call
    return Recipe(made.dictionary, made.losses, made.hooks, made.fit, made.lr, made.betas, call)


def save(dictionary: Dictionary, folder: Path | str) -> Path:
    """Write weights, then the spec that vouches for them. Raises ValueError for a dictionary made without `recipe`."""
    if dictionary.call is None:
        raise ValueError("this dictionary does not know its recipe: make it with workbench.recipe(name, ...)")
    folder = Path(folder)
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in dictionary.state_dict().items()}
    path = lineage.write_tensors(folder / "weights.safetensors", weights)
    lineage.write_json(
        folder / "spec.json",
        dictionary.call
        | {
            "site": None if dictionary.site is None else str(dictionary.site),
            "target": None if dictionary.target is None else str(dictionary.target),
            "subject": dictionary.subject,
            "exclusion": dictionary.exclusion.to_json(),
            "scale": {"in": float(dictionary.scale_in), "out": float(dictionary.scale_out)},
            "training": dictionary.training_summary,
            "weights": {"sha256": lineage.file_hash(path), "tensors": lineage.tensors_hash(weights)},
            "versions": lineage.versions(),
        },
    )
    return folder


def load(folder: Path | str) -> Dictionary:
    """The dictionary, ready to use. Raises FileNotFoundError, or ValueError when a byte is not what was written."""
    folder = Path(folder)
    if not (folder / "spec.json").is_file():
        raise FileNotFoundError(f"{folder} has no spec.json: give the folder that train or save wrote")
    spec, path = lineage.read_json(folder / "spec.json"), folder / "weights.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no weights.safetensors: copy the whole folder, or train again")
    if lineage.file_hash(path) != spec["weights"]["sha256"]:
        raise ValueError(f"{path} is damaged (its SHA-256 is not the spec's): copy it again, or train again")
    dictionary = recipe(spec["variant"], seed=spec["seed"], **spec["args"]).dictionary
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    own = dictionary.state_dict()
    wanted, came = ({k: tuple(v.shape) for k, v in tensors.items()} for tensors in (own, state))
    if wanted != came:
        off = sorted(k for k in wanted.keys() | came.keys() if wanted.get(k) != came.get(k))
        raise ValueError(
            f"{folder}: {spec['variant']} wants {{{', '.join(f'{k}: {wanted.get(k)}' for k in off)}}}, the file holds "
            f"{{{', '.join(f'{k}: {came.get(k)}' for k in off)}}}: it was saved by another version of the variant"
        )
    dictionary.load_state_dict(state)
    dictionary.call = {k: spec[k] for k in ("variant", "args", "seed", "begun") if k in spec}
    dictionary.site = None if spec["site"] is None else Site.of(spec["site"])
    dictionary.target = None if spec["target"] is None else Site.of(spec["target"])
    dictionary.subject = spec["subject"]
    dictionary.exclusion = Exclusion.from_json(spec["exclusion"])
    dictionary.training_summary = spec["training"]
    return dictionary.freeze()


def check(dictionary: Dictionary, subject: Any) -> None:
    """Raise ValueError in one line when a dictionary was trained on another model than this subject."""
    if dictionary.subject is not None and dictionary.subject != subject.fingerprint:
        raise ValueError(
            f"this dictionary was trained on the subject {dictionary.subject}, {subject.name} is "
            f"{subject.fingerprint}: load a dictionary of this subject, or train one"
        )
    for site, width, what in (
        (dictionary.site, dictionary.d, "reads"),
        (dictionary.target, dictionary.decoder.weight.shape[1], "writes"),
    ):
        if site is not None and subject.width(site) != width:
            raise ValueError(
                f"this dictionary {what} rows of width {width} at {site}, {subject.name} has {subject.width(site)} "
                "there: load a dictionary of this subject, or train one"
            )

"""Crosscoders: of the science-of-finetuning library (Minder et al. 2025), and of ckkissane's replication (2024)."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._parts import Found, spec
from ._source import Config, Source, Tensors

HUB = ("config.json", "model.safetensors")
PAIR = re.compile(r"(.+)_cfg\.json")
SINGLE = ("cfg.json", "cc_weights.pt")
NORMS = ("CROSSCODER", "SAE", "MIXED", "NONE", "DECOUPLED")  # numbered from 1
CLASSES = ("CrossCoder", "BatchTopKCrossCoder")
STARTS = ("same_init_for_all_layers", "norm_init_scale", "init_with_transpose", "target_rms")  # spent when it was made
KNOWN = {
    *("activation_dim", "dict_size", "num_layers", "num_decoder_layers", "encoder_layers", "k", "dict_class"),
    *("code_normalization", "code_normalization_alpha_sae", "code_normalization_alpha_cc", *STARTS),
}


def sniff(source: Source) -> bool:
    """The hub's two files with sizes and layers in the first, or weights each with a configuration of its name."""
    if bool(_versions(source)) or all(name in source.top for name in SINGLE):
        return True
    if not all(name in source.top for name in HUB):
        return False
    config = source.json(HUB[0])
    return all(name in config for name in ("activation_dim", "dict_size", "num_layers"))


def _versions(source: Source) -> list[str]:
    return [m[1] for name in source.top if (m := PAIR.fullmatch(name)) and f"{m[1]}.pt" in source.top]


def parts(source: Source) -> list[str]:
    """Versions of the replication, one where there is no more to it."""
    return _versions(source) or [""]


def read(source: Source, part: str) -> Found:
    """relu of a sum over models or layers, each with its own matrix; rows are (model or layer, d), as they are stacked.

    The replication keeps nothing of the scale it gives to each model's rows: divide them as it does. Neither says a
    stream of one model.
    """
    if part:
        return _replication(source.json(f"{part}_cfg.json"), source.tensors(f"{part}.pt"))
    if SINGLE[0] in source.top:
        return _replication(source.json(SINGLE[0]), source.tensors(SINGLE[1]))
    return _finetuning(source.json(HUB[0]), source.tensors(HUB[1]))


def _replication(config: Config, tensors: Tensors) -> Found:
    """W_enc (model, d, latent), W_dec (latent, model, d)."""
    models, d, latents = (tensors.width("W_enc", axis, 3) for axis in range(3))
    _agree(config, d_in=d, dict_size=latents)
    taken = {
        "encoder.weight": tensors.take("W_enc", (models, d, latents)).reshape(-1, latents),
        "encoder.bias": tensors.take("b_enc", (latents,)),
        "decoder.weight": tensors.take("W_dec", (latents, models, d)).reshape(latents, -1),
        "decoder.bias": tensors.take("b_dec", (models, d)),
    }
    tensors.done()
    made = _spec((models, d), (models, d), latents, ["relu", {}])
    return Found(made, taken, model=config.text("model_name", None), config=config.value)


def _finetuning(config: Config, tensors: Tensors) -> Found:
    """Encoder (layer, d, latent), decoder (layer, latent, d); what normalises rows is folded into the weights.

    A threshold is on value x a norm of the atom, by the code normalisation; one below 0, never set, lets all through.
    """
    if odd := sorted(config.value.keys() - KNOWN):
        raise ValueError(f"{config.where}: {odd[0]!r} is no argument of a crosscoder that we know")
    chosen = config.text("dict_class", None, among=CLASSES)
    batch = "threshold" in tensors
    if chosen is not None and (chosen == CLASSES[1]) != batch:
        raise ValueError(f"{tensors.path}: a {chosen} has {'no' if batch else 'a'} threshold")
    read, d, latents = (tensors.width("encoder.weight", axis, 3) for axis in range(3))
    layers, written = config.integer("num_layers", least=1), tensors.width("decoder.weight", 0, 3)
    _agree(config, activation_dim=d, dict_size=latents)
    if config.integer("num_decoder_layers", None, least=1) not in (None, written):
        raise ValueError(f"{config.where}: num_decoder_layers must be {written}, as in {tensors.path}")
    which = config.list("encoder_layers", None, of=int)
    which = list(range(layers)) if which is None else which
    if len(which) != read or len(set(which)) != read or not all(0 <= i < layers for i in which):
        raise ValueError(f"{config.where}: encoder_layers must be {read} of {layers} layers, got {which}")
    encoder, bias = tensors.take("encoder.weight", (read, d, latents)), tensors.take("encoder.bias", (latents,))
    atoms = tensors.take("decoder.weight", (written, latents, d))
    offset = tensors.take("decoder.bias", (written, d))
    sparsifier: list[Any] = ["relu", {}]
    more: dict[str, Tensor] = {}
    kind = _code_norm(config, tensors)
    if batch:
        sparsifier = ["jumprelu", {"latents": latents}]
        more["sparsifier.threshold"] = _thresholds(config, tensors, kind, atoms)
    scale, mean = _normaliser(tensors, layers, d)
    tensors.done()
    if len(which) < layers or which != sorted(which):
        encoder = encoder.new_zeros(layers, d, latents).index_copy(0, torch.tensor(which), encoder)
    if scale is not None and mean is not None:
        if written != layers:
            raise ValueError(f"{tensors.path} normalises {layers} layers, and writes {written}")
        encoder = encoder * scale[:, None, None]
        bias = (bias - torch.einsum("ld,ldf->f", mean.double(), encoder.double())).float()
        atoms, offset = atoms / (scale + 1e-8)[:, None, None], offset / (scale + 1e-8)[:, None] + mean
    taken = {
        "encoder.weight": encoder.reshape(-1, latents),
        "encoder.bias": bias,
        "decoder.weight": atoms.transpose(0, 1).reshape(latents, -1),
        "decoder.bias": offset,
    }
    return Found(_spec((layers, d), (written, d), latents, sparsifier), taken | more, config=config.value)


def _agree(config: Config, **sizes: int) -> None:
    for name, size in sizes.items():
        if config.integer(name, least=1) != size:
            raise ValueError(f"{config.where}: {name} is {config.integer(name)}, the weights say {size}")


def _spec(shape: Sequence[int], target: Sequence[int], latents: int, sparsifier: list[Any]) -> dict[str, Any]:
    return spec(
        ["linear", {"shape": list(shape), "latents": latents, "center": False}],
        sparsifier,
        ["linear", {"shape": list(target), "latents": latents, "unit": False}],
        tuple(shape),
    )


def _code_norm(config: Config, tensors: Tensors) -> str:
    """How a value is weighed before it meets the threshold."""
    said = config.text("code_normalization", None)
    said = None if said is None else said.upper()
    if "code_normalization_id" in tensors:
        number = int(tensors.integers("code_normalization_id", ()))
        if not 1 <= number <= len(NORMS) or said not in (None, NORMS[number - 1]):
            raise ValueError(f"{config.where}: code_normalization is {said}, the weights say number {number}")
        said = NORMS[number - 1]
    said = said or NORMS[0]  # what the library takes where neither says
    if said not in NORMS:
        raise ValueError(f"{config.where}: code_normalization must be one of {', '.join(NORMS)}, got {said!r}")
    return said


def _thresholds(config: Config, tensors: Tensors, kind: str, atoms: Tensor) -> Tensor:
    """For each latent the one threshold, divided by the norm that its values are weighed with."""
    if kind == "DECOUPLED":
        raise ValueError(f"{config.where}: a DECOUPLED BatchTopK crosscoder has a code for each layer, ours has one")
    tensors.integers("k", ())
    threshold = tensors.number("threshold")
    apart, whole = atoms.norm(dim=2).sum(0), atoms.norm(dim=(0, 2))
    if kind == "MIXED":
        alphas = config.number("code_normalization_alpha_sae", 1.0), config.number("code_normalization_alpha_cc", 0.1)
        norms = alphas[0] * whole + alphas[1] * apart
        if not (norms >= 0).all():
            raise ValueError(f"{config.where}: code_normalization_alpha_sae and _cc must be 0 or more, got {alphas}")
    else:
        norms = {"CROSSCODER": apart, "SAE": whole, "NONE": torch.ones_like(whole)}[kind]
    never = torch.full_like(norms, torch.inf if threshold >= 0 else -torch.inf)
    return torch.where(norms > 0, threshold / norms, never)


def _normaliser(tensors: Tensors, layers: int, d: int) -> tuple[Tensor | None, Tensor | None]:
    """Scale of each layer and mean, or None of both: where they are not set they are NaN."""
    names = ("activation_mean", "activation_std", "activation_global_scale", "target_rms")
    if not any(name in tensors for name in names):
        return None, None
    tensors.number("target_rms")
    found = [tensors.mapped(name, (layers, d)) for name in names[:2]]
    scale = tensors.take("activation_global_scale", (layers,))
    unset = [bool(value.isnan().all()) for value in found]
    if all(unset):
        return None, None
    if not all(bool(value.isfinite().all()) for value in found) or not (scale > 0).all():
        raise ValueError(
            f"{tensors.path}: {', '.join(names[:3])} must be numbers, the last positive, or NaN throughout"
        )
    return scale, found[0].float()

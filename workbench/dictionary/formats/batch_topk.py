"""The BatchTopK repository's checkpoints: `sae.pt` and `config.json` (Bussmann et al. 2024, arXiv:2412.06410)."""

from typing import Any

from torch import Tensor

from ._parts import Found, plain
from ._source import Source
from .openai import normalised, normalised_tensors

FILES = ("config.json", "sae.pt")
KINDS = ("vanilla", "topk", "jumprelu", "batchtopk")
EARLY = (
    "activation",
    "tied_weights",
    "use_encoder_bias",
)  # what the first versions could set, which computed otherwise


def sniff(source: Source) -> bool:
    """These two files, and a configuration that says the kind and both sizes."""
    if not all(name in source.top for name in FILES):
        return False
    config = source.json("config.json")
    return all(name in config for name in ("sae_type", "act_size", "dict_size"))


def read(source: Source, part: str) -> Found:
    """`topk` does not use b_enc; `jumprelu` takes no b_dec from the row, and keeps log thresholds.

    `batchtopk` cannot be read: it chooses among all rows of a batch, and keeps no threshold to choose by row.
    """
    config = source.json("config.json")
    kind = config.text("sae_type", among=KINDS)
    if kind == "batchtopk":
        raise ValueError(
            f"{config.where}: a row of sae_type batchtopk has no code of its own, the choice is among a whole batch "
            "and no threshold is kept: train it again as topk or jumprelu"
        )
    if early := [name for name in EARLY if name in config]:
        raise ValueError(f"{config.where} has {early[0]!r}: it is of an early version, which computed otherwise")
    d, latents = config.integer("act_size", least=1), config.integer("dict_size", least=1)
    tensors = source.tensors("sae.pt")
    encoder, bias = tensors.take("W_enc", (d, latents)), tensors.take("b_enc", (latents,))
    atoms, shift = tensors.take("W_dec", (latents, d)), tensors.take("b_dec", (d,))
    sparsifier: list[Any] = ["relu", {}]
    more: dict[str, Tensor] = {}
    if kind == "topk":
        k = config.integer("top_k", least=1)
        if k > latents:
            raise ValueError(f"{config.where}: top_k must be 1..dict_size={latents}, got {k}")
        sparsifier, bias = ["topk", {"k": k, "latents": latents}], bias.new_zeros(latents)
    elif kind == "jumprelu":
        sparsifier = ["jumprelu", {"latents": latents}]
        more = {"sparsifier.threshold": tensors.take("jumprelu.log_threshold", (latents,)).exp()}
    tensors.done()
    center = kind != "jumprelu"
    if config.flag("input_unit_norm", False):
        made = normalised(d, latents, sparsifier)
        taken = normalised_tensors(encoder, bias, atoms, shift) | {f"encoder.{k}": v for k, v in more.items()}
        if not center:
            taken["encoder.shift"] = shift.new_zeros(d)
    else:
        made = plain(d, latents, sparsifier, center=center)
        taken = {"encoder.weight": encoder, "encoder.bias": bias, "decoder.weight": atoms, "decoder.bias": shift} | more
    return Found(made, taken, config.text("hook_point", None), None, config.text("model_name", None), config.value)

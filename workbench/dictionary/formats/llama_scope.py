"""Llama Scope (He et al. 2024, arXiv:2410.20526) and its like for R1-Distill, as their library of that time read them.

`hyperparams.json` beside `checkpoints/final.safetensors`, or `config.json` beside `sae_weights.safetensors`.
"""

import torch

from . import llamascopium
from ._parts import Found, plain
from ._source import Config, Source, Tensors, held

CONFIG = "hyperparams.json"
RENAMED = {"encoder.bias": "b_E", "decoder.bias": "b_D", "log_jumprelu_threshold": llamascopium.THRESHOLD}
TURNED = {"encoder.weight": "W_E", "decoder.weight": "W_D"}


def sniff(source: Source) -> bool:
    """The first one's configuration beside weights, or weights with its names beside the later one's."""
    if CONFIG in source.top:
        return llamascopium.weights_file(source) is not None
    try:
        return (
            llamascopium.CONFIG in source.top
            and "hook_point_in" in source.json(llamascopium.CONFIG)
            and llamascopium.old_names(source)
        )
    except ValueError:
        return False


def read(source: Source, part: str) -> Found:
    """Llama Scope: all scales in the weights, so that an atom has norm 1 and a value is the length of what it adds.

    The one threshold is of those values, in the model's units (R1-Distill: a logarithm each, as llamascopium's).
    """
    tensors = llamascopium.weights(source)
    found = _first(source.json(CONFIG), tensors) if CONFIG in source.top else _later(source, tensors)
    return found._replace(model=llamascopium.model_of(source))


def _first(config: Config, tensors: Tensors) -> Found:
    d, latents = config.integer("d_model", least=1), config.integer("d_sae", least=1)
    if config.flag("use_glu_encoder", False):
        raise ValueError(f"{config.where}: use_glu_encoder is on, Llama Scope's encoders are linear")
    s_in = s_out = 1.0
    if config.text("norm_activation", among=("dataset-wise", "inference")) == "dataset-wise":
        norms = config.object("dataset_average_activation_norm")
        s_in, s_out = (
            llamascopium.factor(d, float(norms.number(side)), f"{norms.where}: {side}") for side in ("in", "out")
        )
    weight, bias = tensors.take("encoder.weight", (latents, d)).T, tensors.take("encoder.bias", (latents,)) / s_in
    atoms = tensors.take("decoder.weight", (d, latents)).T * (s_in / s_out)
    biased = config.flag("use_decoder_bias")
    offset = tensors.take("decoder.bias", (d,)) / s_out if biased else torch.zeros(d)
    tensors.done()
    if config.flag("sparsity_include_decoder_norm"):
        size = atoms.norm(dim=1)
        if not size.all():
            raise ValueError(
                f"{tensors.path}: decoder.weight has {int((size == 0).sum())} atoms of 0, without a direction"
            )
        weight, bias, atoms = weight * size, bias * size, atoms / size[:, None]
    act = config.text("act_fn", among=("relu", "topk", "jumprelu"))
    threshold = config.number("jump_relu_threshold", *([] if act == "jumprelu" else [0.0]))
    center = config.flag("apply_decoder_bias_to_pre_encoder") and biased
    taken = {"encoder.weight": weight, "encoder.bias": bias, "decoder.weight": atoms, "decoder.bias": offset}
    if act == "jumprelu" or (act == "topk" and threshold > 0):  # a choice of k, turned into a threshold
        chosen = ["jumprelu", {"latents": latents, "each": False, "signed": threshold < 0}]
        taken["sparsifier.threshold"] = torch.tensor(float(threshold))
    elif act == "topk":
        chosen = ["topk", {"k": config.integer("top_k", least=1), "latents": latents}]
    else:
        chosen = ["relu", {}]
    reads, writes = config.text("hook_point_in"), config.text("hook_point_out")
    made = plain(d, latents, chosen, center=center)
    return Found(made, taken, reads=reads, writes=None if reads == writes else writes, config=config.value)


def _later(source: Source, tensors: Tensors) -> Found:
    config = source.json(llamascopium.CONFIG)
    if config.text("sae_type", "sae") != "sae" or config.flag("use_glu_encoder", False):
        raise ValueError(f"{config.where}: only plain SAEs are read from weights named as before release 2.0")
    named = {RENAMED.get(n, n): tensors.take(n, tensors.shape(n)) for n in tensors.names() if n not in TURNED}
    named |= {TURNED[n]: tensors.take(n, tensors.shape(n)).T for n in TURNED if n in tensors}
    if len(named) < len(tensors.names()):
        raise ValueError(f"{tensors.path} holds tensors under the names of two releases")
    center = config.flag("apply_decoder_bias_to_pre_encoder", False) and config.flag("use_decoder_bias")
    return llamascopium.sae(config, held(named, tensors.path), center=center)

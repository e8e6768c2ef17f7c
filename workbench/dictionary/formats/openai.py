"""OpenAI's sparse_autoencoder: one pickled state dict, ReLU or TopK of rows normalised one by one (Gao et al. 2024)."""

from typing import Any

from torch import Tensor

from ...code import Code
from ..sparsifiers import TopK
from ._parts import Found, plain, spec
from ._source import Config, Source, held, shown

NAMES = ("pre_bias", "latent_bias", "encoder.weight")
STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
ACTIVATIONS = {"ReLU": ["relu", {}], "Identity": ["signed", {}], "TopK": None}


def sniff(source: Source) -> bool:
    """The only file is a pickle with these names."""
    return all(name in source.pickled for name in NAMES)


def read(source: Source, part: str) -> Found:
    """act((x - pre_bias) W^T + latent_bias); with TopK rows are normalised before, and their size and mean come back.

    Its own loader says by the activation alone whether rows are normalised; a file without one has ReLU. The file does
    not say which stream it is of: give `site=`.
    """
    kept = dict(source.pickled)
    where = f"{source.path / source.lone}"
    said = Config({k: kept.pop(k) for k in ("activation", "activation_state_dict") if k in kept}, where)
    tensors = held(kept, where)
    latents, d = tensors.width("encoder.weight", 0, 2), tensors.width("encoder.weight", 1, 2)
    encoder = tensors.take("encoder.weight", (latents, d))
    if "decoder.linear.weight" in tensors:  # tied: the same matrix under its other name
        if not encoder.equal(tensors.take("decoder.linear.weight", (latents, d))):
            raise ValueError(f"{where}: decoder.linear.weight must be encoder.weight, which it is tied to")
        atoms = encoder
    else:
        atoms = tensors.take("decoder.weight", (d, latents)).T
    bias, shift = tensors.take("latent_bias", (latents,)), tensors.take("pre_bias", (d,))
    for name in STATISTICS:
        if tensors.shape(name) != (latents,):
            raise ValueError(f"{where}: {name} must be {[latents]}, got {list(tensors.shape(name))}")
    tensors.skip(*STATISTICS)
    tensors.done()
    activation = said.text("activation", "ReLU", among=tuple(ACTIVATIONS))
    sparsifier = ACTIVATIONS[activation]
    if sparsifier is not None:
        if state := said.object("activation_state_dict", None).value:
            raise ValueError(f"{where}: {activation} has no state, activation_state_dict has {shown(list(state))}")
        decoder = {"decoder.weight": atoms, "decoder.bias": shift}
        return Found(
            plain(d, latents, sparsifier, center=True),
            {"encoder.weight": encoder.T, "encoder.bias": bias} | decoder,
            config={"activation": activation},
        )
    state = said.object("activation_state_dict")
    return Found(
        normalised(d, latents, _topk(state, latents)),
        normalised_tensors(encoder.T, bias, atoms, shift),
        config={"activation": activation, "k": state.integer("k"), "postact_fn": state.text("postact_fn")},
    )


def _topk(said: Config, latents: int) -> list[Any]:
    k = said.integer("k", least=1)
    if k > latents:
        raise ValueError(f"{said.where}: k must be 1..latents={latents}, got {k}")
    rectified = said.text("postact_fn", among=("ReLU", "Identity")) == "ReLU"
    return ["topk" if rectified else "largest", {"k": k, "latents": latents}]


def normalised(d: int, latents: int, sparsifier: list[Any]) -> dict[str, Any]:
    """The spec of a dictionary of rows less their mean, by their unbiased deviation + 1e-5."""
    how = {"shape": [d], "how": "layer_norm", "eps": 1e-5}
    return spec(
        ["per_row", how | {"latents": latents, "sparsifier": sparsifier}],
        ["given", {"signed": sparsifier[0] in ("signed", "largest")}],
        ["linear", {"shape": [d], "latents": latents, "unit": False}],
        (d,),
        ["per_row", how],
    )


def normalised_tensors(encoder: Tensor, bias: Tensor, atoms: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """Its tensors, where `shift` is taken from the normalised row and added again to what atoms make of it."""
    return {
        "encoder.linear.weight": encoder,
        "encoder.linear.bias": bias,
        "encoder.shift": shift,
        "decoder.weight": atoms,
        "decoder.bias": shift.new_zeros(shift.shape),
        "skip.bias": shift,
    }


class Largest(TopK):
    """Each row's k largest as they are, negative ones too where fewer are positive."""

    signed = True

    def activate(self, code: Code) -> Code:
        return code

"""Transcoder with a linear skip connection (Paulo, Shabalin and Belrose 2025, arXiv:2501.18823)."""

from torch import nn

from .. import hooks, losses, sparsifiers
from ..compose import between
from ..core import Recipe

KIND = "pair"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.7  # of planted atoms, in the suite


def recipe(
    d: int, latents: int, *, d_out: int | None = None, k: int = 32, aux: float = 1 / 32, aux_k: int | None = None
) -> Recipe:
    """Feed batches whose `x` and `y` come from two sites; the skip starts at zero, as a plain transcoder."""
    out = d_out or d
    dictionary = between(d, out, latents, sparsifiers.TopK(k, latents), nn.Linear(d, out, bias=False))
    nn.init.zeros_(dictionary.skip.weight)
    terms = {
        "mse": losses.mse(trains=losses.ENCODER | losses.DECODER | {"skip"}),
        "auxk": losses.auxk(aux_k or out // 2, aux),
    }
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.CenterInput(), hooks.Project()))

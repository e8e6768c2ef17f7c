"""Transcoder: an MLP's input predicts its output through a sparse code (Dunefsky et al. 2024, arXiv:2406.11944)."""

from .. import hooks, losses, sparsifiers
from ..compose import between
from ..core import Recipe

KIND = "pair"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.8  # of planted atoms, in the suite


def recipe(
    d: int, latents: int, *, d_out: int | None = None, k: int = 32, aux: float = 1 / 32, aux_k: int | None = None
) -> Recipe:
    """Feed batches whose `x` and `y` come from two sites; `d_out` is the target's width (d).

    TopK instead of the paper's ReLU and L1; the encoder is neither centred nor tied to the atoms, and
    starts small, near the mean target.
    """
    out = d_out or d
    dictionary = between(d, out, latents, sparsifiers.TopK(k, latents))
    terms = {"mse": losses.mse(), "auxk": losses.auxk(aux_k or out // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.CenterInput(), hooks.Project()))

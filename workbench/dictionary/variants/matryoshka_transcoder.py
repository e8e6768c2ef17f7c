"""Matryoshka transcoder: every prefix predicts the other site by itself (Bussmann et al. 2025, arXiv:2503.17547)."""

from collections.abc import Sequence

from .. import hooks, losses, sparsifiers
from ..compose import between
from ..core import Recipe

KIND = "pair"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.8  # of planted atoms, in the suite


def recipe(
    d: int,
    latents: int,
    *,
    d_out: int | None = None,
    k: int = 32,
    shares: Sequence[float] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0),
    aux: float = 1 / 32,
    aux_k: int | None = None,
) -> Recipe:
    """Feed batches whose `x` and `y` come from two sites; the errors of the prefixes of these `shares` are averaged.

    The nested loss and BatchTopK of `matryoshka_batch_topk` between the untied ends of `transcoder`.
    """
    out, widths = d_out or d, sorted({max(1, round(share * latents)) for share in shares})
    dictionary = between(d, out, latents, sparsifiers.BatchTopK(k, latents))
    terms = {"mse": losses.nested_mse(widths, latents), "auxk": losses.auxk(aux_k or out // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.CenterInput(), hooks.Project(), hooks.Threshold()))

"""Matryoshka BatchTopK: every prefix of the dictionary reconstructs by itself (Bussmann et al. 2025, 2503.17547)."""

from collections.abc import Sequence

from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.45  # of planted atoms, in the suite: they have no order, so narrow prefixes mix them


def recipe(
    d: int,
    latents: int,
    *,
    k: int = 32,
    shares: Sequence[float] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0),
    aux: float = 1 / 32,
    aux_k: int | None = None,
) -> Recipe:
    """The errors of the prefixes that hold these `shares` of the latents are averaged; the last is all.

    One BatchTopK chooses over all latents; dead ones learn the whole code's residual. The paper's code also averages
    the error of the bias alone.
    """
    widths = sorted({max(1, round(share * latents)) for share in shares})
    dictionary = within(d, latents, sparsifiers.BatchTopK(k, latents))
    terms = {"mse": losses.nested_mse(widths, latents), "auxk": losses.auxk(aux_k or d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project(), hooks.Threshold()), lr=2e-3)

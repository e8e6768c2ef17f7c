"""Multi-TopK autoencoder: a second error at a wider code, so that it can be read at other k (Gao et al. 2024)."""

from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.9  # of planted atoms, in the suite


def recipe(
    d: int,
    latents: int,
    *,
    k: int = 32,
    wider: int = 4,
    multi: float = 1 / 8,
    aux: float = 1 / 32,
    aux_k: int | None = None,
) -> Recipe:
    """The error at k plus `multi` times the error at `wider` x k latents; dead ones as in `topk_auxk` (2406.04093)."""
    dictionary = within(d, latents, sparsifiers.TopK(k, latents, wide=wider * k))
    terms = {"mse": losses.mse(), "multi": losses.wide_mse(multi), "auxk": losses.auxk(aux_k or d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

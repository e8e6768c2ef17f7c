"""BatchTopK autoencoder: rows share one budget of k x rows latents (Bussmann et al. 2024, arXiv:2412.06410)."""

from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.85  # of planted atoms, in the suite


def recipe(d: int, latents: int, *, k: int = 32, aux: float = 1 / 32, aux_k: int | None = None) -> Recipe:
    """`k` latents are on per row on average; at inference all above one threshold, so rows do not see each other.

    Dead latents share `aux_k` places (d / 2) in the auxiliary reconstruction. Ours also drops the gradient along atoms.
    """
    dictionary = within(d, latents, sparsifiers.BatchTopK(k, latents))
    terms = {"mse": losses.mse(), "auxk": losses.auxk(aux_k or d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project(), hooks.Threshold()), lr=2e-3)

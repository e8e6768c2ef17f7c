"""TopK autoencoder with the AuxK loss against dead latents (Gao et al. 2024, arXiv:2406.04093)."""

from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.95  # of planted atoms, in the suite


def recipe(d: int, latents: int, *, k: int = 32, aux: float = 1 / 32, aux_k: int | None = None) -> Recipe:
    """At most `k` latents are on per row; dead ones share `aux_k` places (d / 2) in the auxiliary reconstruction."""
    dictionary = within(d, latents, sparsifiers.TopK(k, latents))
    terms = {"mse": losses.mse(), "auxk": losses.auxk(aux_k or d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

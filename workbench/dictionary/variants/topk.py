"""TopK autoencoder, nothing against dead latents (Gao et al. 2024, arXiv:2406.04093, without AuxK)."""

from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.95  # of planted atoms, in the suite


def recipe(d: int, latents: int, *, k: int = 32) -> Recipe:
    """At most `k` latents are on per row, fewer where fewer are positive."""
    dictionary = within(d, latents, sparsifiers.TopK(k, latents))
    return Recipe(dictionary, {"mse": losses.mse()}, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

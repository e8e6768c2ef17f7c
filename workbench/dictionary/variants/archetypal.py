"""Archetypal autoencoder (A-SAE): atoms lie in the convex hull of data (Fel et al. 2025, arXiv:2502.12892)."""

from .. import decoders, encoders, hooks, losses, sparsifiers
from ..core import Dictionary, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4, "points": 128}
RECOVERS = 0.35  # of planted atoms, in the suite: those that are on alone in one of its few points


def recipe(d: int, latents: int, *, k: int = 32, points: int = 1024, aux: float = 1 / 32) -> Recipe:
    """Atoms are means of `points` rows of the first batch, drawn by the seed of training, times one learned gain.

    A TopK autoencoder otherwise. The paper's candidates are 32,000 k-means centroids, ours are rows as they are.
    """
    parts = encoders.Linear((d,), latents), sparsifiers.TopK(k, latents)
    dictionary = Dictionary(*parts, decoders.Archetypal(latents, points, (d,)))
    terms = {"mse": losses.mse(), "auxk": losses.auxk(d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.Points(), hooks.Project()), lr=2e-3)

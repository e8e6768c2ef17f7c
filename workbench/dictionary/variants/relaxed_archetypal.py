"""Relaxed archetypal autoencoder (RA-SAE): atoms near the convex hull of data (Fel et al. 2025, arXiv:2502.12892)."""

from .. import decoders, encoders, hooks, losses, sparsifiers
from ..core import Dictionary, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4, "points": 128}
RECOVERS = 0.9  # of planted atoms, in the suite


def recipe(d: int, latents: int, *, k: int = 32, points: int = 1024, delta: float = 1.0, aux: float = 1 / 32) -> Recipe:
    """As `archetypal`, but each atom may leave the hull by a norm of `delta`, before the gain; a row's is sqrt(d)."""
    parts = encoders.Linear((d,), latents), sparsifiers.TopK(k, latents)
    dictionary = Dictionary(*parts, decoders.Archetypal(latents, points, (d,), delta=delta))
    terms = {"mse": losses.mse(), "auxk": losses.auxk(d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.Points(), hooks.Project()), lr=2e-3)

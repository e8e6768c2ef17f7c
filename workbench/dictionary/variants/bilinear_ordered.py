"""Ordered bilinear autoencoder: every prefix explains u u^T by itself (Dooms et al. 2025)."""

from ..compose import quadratic
from ..core import Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48}
RECOVERS = 0.95  # of planted atoms, in the suite


def recipe(d: int, latents: int, *, hoyer: float = 0.1, warmup: float = 0.25) -> Recipe:
    """As `bilinear`; the error is the mean over all prefixes, so earlier latents explain more."""
    return quadratic(d, latents, hoyer=hoyer, warmup=warmup, ordered=True)

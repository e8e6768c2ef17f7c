"""Bilinear autoencoder (BAE): latents are products of two projections, for u u^T (Dooms et al. 2025)."""

from ..compose import quadratic
from ..core import Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48}
RECOVERS = 0.95  # of planted atoms, in the suite


def recipe(d: int, latents: int, *, hoyer: float = 0.1, warmup: float = 0.25) -> Recipe:
    """A latent is the product of two projections, its form of rank 1. Terms and read-out: `compose.quadratic`."""
    return quadratic(d, latents, hoyer=hoyer, warmup=warmup)

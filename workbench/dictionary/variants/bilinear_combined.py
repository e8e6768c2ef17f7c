"""Mixed and ordered bilinear autoencoder (Dooms et al. 2025)."""

from ..compose import quadratic
from ..core import Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "features": 96}
RECOVERS = 0.5  # of planted atoms, in the suite: a latent may mix several, and has one leading direction


def recipe(d: int, latents: int, *, features: int | None = None, hoyer: float = 0.1, warmup: float = 0.25) -> Recipe:
    """`latents` forms that mix `features` products (8 times as many), in the order of what they explain."""
    return quadratic(d, latents, features=features or 8 * latents, hoyer=hoyer, warmup=warmup, ordered=True)

"""Mixed bilinear autoencoder: latents are quadratic forms of any rank, as a circle is (Dooms et al. 2025)."""

from ..compose import quadratic
from ..core import Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "features": 96}
RECOVERS = 0.6  # of planted atoms, in the suite: a latent may mix several, and has one leading direction


def recipe(d: int, latents: int, *, features: int | None = None, hoyer: float = 0.1, warmup: float = 0.25) -> Recipe:
    """`latents` (2 d in the paper) forms, each a sum of `features` products (8 times as many), tied both ways.

    Terms and read-out: `compose.quadratic`.
    """
    return quadratic(d, latents, features=features or 8 * latents, hoyer=hoyer, warmup=warmup)

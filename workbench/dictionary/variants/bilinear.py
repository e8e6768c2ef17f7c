"""Bilinear autoencoder (BAE): latents are products of two projections, for u u^T (Dooms et al. 2025)."""

from jaxtyping import Float
from torch import Tensor

from .. import decoders, encoders, hooks, losses, schedules, sparsifiers
from ..core import Dictionary, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48}
RECOVERS = 0.95  # of planted atoms, in the suite


def recipe(d: int, latents: int, *, hoyer: float = 0.1, warmup: float = 0.25) -> Recipe:
    """A row's direction u is explained as u u^T = the sum of value * form, each form of rank 1.

    `hoyer` weighs how dense a latent is over the batch, reached over the first `warmup` share of the run. Adam instead
    of Muon. Ours also learns a linear read-out of the code, of which the code does not hear: so that `decode` gives
    rows and not matrices. The forms are `dictionary.encoder.forms(latents)`.
    """
    dictionary = Dictionary(
        encoders.Bilinear(d, latents), sparsifiers.Signed(), decoders.Linear(latents, (d,), unit=False, scale=0.1)
    )
    terms = {
        "outer": losses.outer_error(),
        "hoyer": losses.hoyer(schedules.ramp(hoyer, over=warmup)),
        "read_out": losses.read_out(),
    }
    return Recipe(dictionary, terms, (hooks.CenterBias(),))


def directions(dictionary: Dictionary) -> Float[Tensor, "latent d"]:
    """The leading eigenvector of each latent's form."""
    return dictionary.encoder.directions(dictionary.decoder)

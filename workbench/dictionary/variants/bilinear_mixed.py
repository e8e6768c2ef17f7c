"""Mixed bilinear autoencoder: latents are quadratic forms of any rank, as a circle is (Dooms et al. 2025)."""

from jaxtyping import Float
from torch import Tensor

from .. import decoders, encoders, hooks, losses, schedules, sparsifiers
from ..core import Dictionary, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "features": 96}
RECOVERS = 0.6  # of planted atoms, in the suite: a latent may mix several, and has one leading direction


def recipe(d: int, latents: int, *, features: int | None = None, hoyer: float = 0.1, warmup: float = 0.25) -> Recipe:
    """`latents` (2 d in the paper) forms, each a sum of `features` products (8 times as many), tied both ways.

    `hoyer` weighs how dense a latent is over the batch, reached over the first `warmup` share of the run. Adam instead
    of Muon. Ours also learns a linear read-out of the code, of which the code does not hear: so that `decode` gives
    rows and not matrices. The forms are `dictionary.encoder.forms(latents)`.
    """
    dictionary = Dictionary(
        encoders.Bilinear(d, latents, features=features or 8 * latents),
        sparsifiers.Signed(),
        decoders.Linear(latents, (d,), unit=False, scale=0.1),
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

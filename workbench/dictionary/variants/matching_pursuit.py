"""Matching pursuit autoencoder (MP-SAE): each atom is chosen for what those before it leave (Costa et al. 2025)."""

from .. import decoders, encoders, hooks, losses, sparsifiers
from ..core import Dictionary, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.95  # of planted atoms, in the suite


def recipe(d: int, latents: int, *, k: int = 32) -> Recipe:
    """`k` greedy steps per row, on one dictionary that also encodes (2506.03093); set `dictionary.encoder.k` for more.

    Coefficients are positive, as in the paper's code; the gradient goes through the unrolled pursuit.
    """
    dictionary = Dictionary(encoders.Pursuit(k), sparsifiers.Given(), decoders.Linear(latents, (d,)))
    return Recipe(
        dictionary, {"mse": losses.mse(trains=losses.DECODER)}, (hooks.CenterBias(), hooks.Project()), lr=2e-3
    )

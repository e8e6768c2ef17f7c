"""Orthogonal matching pursuit autoencoder: greedy atoms, refitted together at each step (Pati et al. 1993)."""

from .. import decoders, encoders, hooks, losses, sparsifiers
from ..core import Dictionary, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.95  # of planted atoms, in the suite


def recipe(d: int, latents: int, *, k: int = 32) -> Recipe:
    """As `matching_pursuit`, but no atom twice, and the residual is orthogonal to all that were chosen.

    An atom is chosen where it points along the residual; a refit may then turn its coefficient negative.
    """
    encoder = encoders.Pursuit(k, orthogonal=True)
    dictionary = Dictionary(encoder, sparsifiers.Given(signed=True), decoders.Linear(latents, (d,)))
    return Recipe(
        dictionary, {"mse": losses.mse(trains=losses.DECODER)}, (hooks.CenterBias(), hooks.Project()), lr=2e-3
    )

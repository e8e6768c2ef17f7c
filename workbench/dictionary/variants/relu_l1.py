"""ReLU autoencoder with an L1 penalty weighted by atom norm (Anthropic, April 2024 update)."""

from .. import decoders, encoders, hooks, losses, schedules, sparsifiers
from ..core import Dictionary, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "l1": 1.0}
RECOVERS = 0.9  # of planted atoms, in the suite


def recipe(d: int, latents: int, *, l1: float = 5.0, warmup: float = 0.05) -> Recipe:
    """`l1` is reached linearly over the first `warmup` share of the run; it is meant for rows scaled to norm sqrt(d).

    Atoms are free, so activations cannot shrink for nothing; no centring. They start at norm 0.1, the encoder alike.
    """
    dictionary = Dictionary(
        encoders.Linear((d,), latents, center=False),
        sparsifiers.ReLU(),
        decoders.Linear(latents, (d,), unit=False, scale=0.1),
    )
    dictionary.encoder.weight.data.copy_(dictionary.decoder.weight.data.T)
    terms = {"mse": losses.mse(), "l1": losses.l1(schedules.ramp(l1, over=warmup))}
    return Recipe(dictionary, terms, (hooks.CenterBias(),))

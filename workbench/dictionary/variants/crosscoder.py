"""Crosscoder: one code reads and writes several sites or models (Lindsey et al. 2024, Transformer Circuits)."""

from .. import decoders, encoders, hooks, losses, schedules, sparsifiers
from ..core import Dictionary, Recipe

KIND = "sites"
SUITE = {"d": 16, "latents": 48, "sites": 2, "l1": 1.0}
RECOVERS = 0.95  # of planted atoms, in the suite: all sites together


def recipe(d: int, latents: int, *, sites: int = 2, l1: float = 2.0, warmup: float = 0.05) -> Recipe:
    """Rows are `(site, d)`. `l1` weighs each activation by the sum over sites of its atoms' norms.

    That sum makes it dear to write where a direction is not. One scale for all sites: give rows whose sites are alike
    in norm. ReLU; atoms start at norm 0.1, the encoder alike (0.08 in the replication by Kissane et al.).
    """
    dictionary = Dictionary(
        encoders.Linear((sites, d), latents, center=False),
        sparsifiers.ReLU(),
        decoders.Linear(latents, (sites, d), unit=False, scale=0.1),
    )
    dictionary.encoder.weight.data.copy_(dictionary.decoder.weight.data.T)
    terms = {"mse": losses.mse(), "l1": losses.l1(schedules.ramp(l1, over=warmup))}
    return Recipe(dictionary, terms, (hooks.CenterBias(),))

"""Low-rank sparse attention (Lorsa): many heads that read and write one direction each (He et al. 2025, 2504.20938)."""

from dataclasses import replace

from .. import decoders, encoders, hooks, losses, sparsifiers
from ..core import Dictionary, Recipe

KIND = "sequence"
SUITE = {"d": 16, "latents": 48, "k": 4, "groups": 2, "width": 8}
RECOVERS = 0.5  # of planted atoms, in the suite


def recipe(
    d: int,
    latents: int,
    *,
    d_out: int | None = None,
    k: int = 32,
    groups: int = 8,
    width: int = 64,
    rope: float | None = None,
    aux: float = 1 / 32,
) -> Recipe:
    """Rows of whole texts, `x` what attention receives and `y` what it gives; `latents` heads share `groups` patterns.

    `rope` is the base of rotary positions, as the model's. `encode` takes the rows of one text in order; a training
    batch may hold several, at a cost of groups x rows^2. The k largest rectified heads are kept, not by magnitude.
    """
    if latents % groups or width % 2:
        raise ValueError(f"latents must be a multiple of groups={groups} and width even, got {latents} and {width}")
    out = d_out or d
    encoder = encoders.Attention(d, latents, groups, width, rope)
    dictionary = Dictionary(encoder, sparsifiers.TopK(k, latents), decoders.Linear(latents, (out,)), shape=(d,))
    auxk = replace(losses.auxk(out // 2, aux), trains=losses.ENCODER | losses.DECODER)
    start = (hooks.CenterBias(), hooks.CenterInput())
    return Recipe(dictionary, {"mse": losses.mse(), "auxk": auxk}, (*start, hooks.Project()))

"""What several variants share: frames to fill with a sparsifier and losses, and the bilinear recipe."""

from typing import Any

from torch import nn

from . import decoders, encoders, hooks, losses, schedules, sparsifiers
from .core import Dictionary, Recipe, Sparsifier


def within(d: int, latents: int, sparsifier: Sparsifier, *, start: float = 1.0, **encoder: Any) -> Dictionary:
    """One site: a linear encoder that starts at `start` times the transpose of the atoms, which have norm 1."""
    dictionary = Dictionary(encoders.Linear((d,), latents, **encoder), sparsifier, decoders.Linear(latents, (d,)))
    dictionary.encoder.weight.data.copy_(start * dictionary.decoder.weight.data.T)
    return dictionary


def between(d: int, d_out: int, latents: int, sparsifier: Sparsifier, skip: nn.Module | None = None) -> Dictionary:
    """Two sites: the encoder is neither centred nor tied to the atoms, and starts small, near the mean target."""
    encoder = encoders.Linear((d,), latents, center=False, scale=0.1)
    return Dictionary(encoder, sparsifier, decoders.Linear(latents, (d_out,)), skip, shape=(d,))


def quadratic(
    d: int, latents: int, *, hoyer: float, warmup: float, features: int | None = None, ordered: bool = False
) -> Recipe:
    """A bilinear autoencoder: a row's direction u is explained as u u^T = the sum of value * form.

    `hoyer` weighs how dense a latent is over the batch, reached over the first `warmup` share of the run; Adam instead
    of the paper's Muon. Ours also learns a linear read-out of the code, of which the code does not hear: so that
    `decode` gives rows and not matrices. The forms are `dictionary.encoder.forms(latents)`.
    """
    encoder, sparsifier = encoders.Bilinear(d, latents, features=features), sparsifiers.Signed()
    dictionary = Dictionary(encoder, sparsifier, decoders.Linear(latents, (d,), unit=False, scale=0.1))
    dense = losses.hoyer(schedules.ramp(hoyer, over=warmup))
    terms = {"outer": losses.outer_error(ordered=ordered), "hoyer": dense, "read_out": losses.read_out()}
    return Recipe(dictionary, terms, (hooks.CenterBias(),))

"""Codebook features: a row is the sum of the k codes closest to its direction (Tamkin et al. 2023, 2310.17230)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .. import decoders, hooks, losses, sparsifiers
from ..core import Dictionary, Encoder, Hook, Moments, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.9  # of planted atoms, in the suite


class Cosine(Encoder):
    """pre = cosine of a row and a code. No weights: the decoder's own."""

    def forward(self, x: Tensor, decoder: Any) -> Tensor:
        return normalize(x - decoder.bias, dim=-1) @ normalize(decoder.weight, dim=-1).T


class FromRows(Hook):
    """Start the codes at rows of the first batch less the mean target, a k-th of each."""

    @torch.no_grad()
    def start(self, dictionary: Dictionary, moments: Moments, rng: torch.Generator) -> None:
        rows = (moments.first.y - moments.mean_y) * dictionary.scale_out / dictionary.sparsifier.k
        some = torch.randint(len(rows), (dictionary.latents,), generator=rng)
        dictionary.decoder.weight.copy_(rows[some] + 0.01 * torch.randn(len(some), dictionary.d, generator=rng))


def recipe(d: int, latents: int, *, k: int = 8) -> Recipe:
    """Codes are on or off, so a row costs k log2(latents) bits; trained to reconstruct, the model as it is.

    The paper trains the model together with its codebooks; what is left of it is its choice by cosine, its sum, and the
    gradient to the codes through the output. Codes are about the mean row, which is the bias.
    """
    dictionary = Dictionary(Cosine(), sparsifiers.Ones(k, latents), decoders.Linear(latents, (d,), unit=False))
    return Recipe(dictionary, {"mse": losses.mse(trains=losses.DECODER)}, (hooks.CenterBias(), FromRows()), lr=2e-3)

"""Baseline: the site's own coordinates, the k that lie furthest from their mean on per row."""

from collections.abc import Iterable

import torch

from ...batch import Batch
from .. import decoders, encoders, sparsifiers
from ..core import Dictionary, Recipe

KIND = "rows"
SUITE = {"d": 16, "k": 4}


def recipe(d: int, *, k: int = 32) -> Recipe:
    """As many latents as coordinates, signed; with k = d the reconstruction is exact. One pass over the stream."""
    dictionary = Dictionary(encoders.Pursuit(k, signed=True), sparsifiers.Given(signed=True), decoders.Linear(d, (d,)))
    return Recipe(dictionary, fit=fit)


@torch.no_grad()
def fit(dictionary: Dictionary, stream: Iterable[Batch]) -> None:
    """The mean of all rows; atoms are the axes, on which a pursuit takes the largest coordinates in turn."""
    n, total = 0, torch.zeros(())
    for batch in stream:
        n, total = n + len(batch.x), total + batch.x.double().sum(0)
    dictionary.decoder.bias.copy_(total / n)
    dictionary.decoder.weight.copy_(torch.eye(dictionary.d))

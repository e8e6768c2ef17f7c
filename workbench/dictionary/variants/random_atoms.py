"""Baseline: atoms in random directions, k on per row, one gain fitted for all."""

from collections.abc import Iterable

import torch

from ...batch import Batch
from .. import decoders, encoders, sparsifiers
from ..core import Dictionary, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}


def recipe(d: int, latents: int, *, k: int = 32) -> Recipe:
    """What a dictionary of this size and sparsity is worth without training: only the mean and one gain are fitted."""
    dictionary = Dictionary(
        encoders.Linear((d,), latents, bias=False), sparsifiers.TopK(k, latents), decoders.Linear(latents, (d,))
    )
    return Recipe(dictionary, fit=fit)


@torch.no_grad()
def fit(dictionary: Dictionary, stream: Iterable[Batch]) -> None:
    """The mean of the first batch, then the gain that minimises the squared error over the first 65,536 rows."""
    rows, over, under = 0, 0.0, 0.0
    dictionary.encoder.weight.copy_(dictionary.decoder.weight.T)
    for step, batch in enumerate(stream):
        if step == 0:
            dictionary.decoder.bias.copy_(batch.y.mean(0))
        y_hat = dictionary.run(batch).y_hat - dictionary.decoder.bias
        over += float(((batch.y - dictionary.decoder.bias) * y_hat).double().sum())
        under += float(y_hat.double().square().sum())
        rows += len(batch.y)
        if rows >= 65_536:
            break
    dictionary.decoder.weight.mul_(over / under if under else 1.0)

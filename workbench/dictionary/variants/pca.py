"""Baseline: the first k principal components, signed and dense, from the exact covariance."""

from collections.abc import Iterable

import torch

from ...batch import Batch
from .. import decoders, encoders, sparsifiers
from ..core import Dictionary, Recipe

KIND = "rows"
SUITE = {"d": 16, "k": 4}


def recipe(d: int, *, k: int = 32) -> Recipe:
    """`k` latents, always on: what a dense code of L0 = k can do. No training, one pass over the stream."""
    if not 1 <= k <= d:
        raise ValueError(f"k must be 1..d={d} components, got {k}")
    return Recipe(Dictionary(encoders.Tied(), sparsifiers.Signed(), decoders.Linear(k, (d,))), fit=fit)


@torch.no_grad()
def fit(dictionary: Dictionary, stream: Iterable[Batch]) -> None:
    """Eigenvectors of the covariance of all rows, summed in float64, largest first; the largest entry is positive."""
    n, total, products = 0, torch.zeros(()), torch.zeros(())
    for batch in stream:
        x = batch.x.double()
        n, total, products = n + len(x), total + x.sum(0), products + x.T @ x
    mean = total / n
    vectors = torch.linalg.eigh(products / n - mean.outer(mean)).eigenvectors.flip(1).T[: dictionary.latents]
    signs = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    dictionary.decoder.weight.copy_(vectors * signs)
    dictionary.decoder.bias.copy_(mean)

"""Baseline: non-negative factors of rows above their coordinates' minima."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import normalize

from ...batch import Batch
from .. import decoders, encoders, sparsifiers
from ..core import Dictionary, Recipe, head

KIND = "rows"
SUITE = {"d": 16, "k": 8}


def recipe(d: int, *, k: int = 32, rows: int = 16_384, steps: int = 200) -> Recipe:
    """`k` latents; the bias is the smallest value of each coordinate, 0 where a site is rectified, so that what lies
    above it is not negative. scikit-learn's NMF of the first `rows` rows; a code is the non-negative least-squares one.
    """
    dictionary = Dictionary(encoders.NonNegative(), sparsifiers.Given(), decoders.Linear(k, (d,)))
    return Recipe(dictionary, fit=partial(fit, rows=rows, steps=steps))


@torch.no_grad()
def fit(dictionary: Dictionary, stream: Iterable[Batch], *, rows: int, steps: int) -> None:
    """Coordinate descent of `steps` rounds from a random start, seed 0."""
    from sklearn.decomposition import NMF

    x = head(stream, rows).double().cpu()
    low = x.amin(0)
    k: Any = dictionary.latents  # scikit-learn's hints call it a text
    nmf = NMF(k, init="random", max_iter=steps, tol=0, random_state=0).fit((x - low).numpy())
    dictionary.decoder.weight.copy_(normalize(torch.from_numpy(nmf.components_), dim=-1))
    dictionary.decoder.bias.copy_(low)

"""Baseline: one centroid per row, the nearest."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...batch import Batch
from .. import decoders, sparsifiers
from ..core import Dictionary, Encoder, Recipe, head

KIND = "rows"
SUITE = {"d": 16, "latents": 48}


class Nearest(Encoder):
    """pre = squared norm of a row less its squared distance to an atom. No weights: the decoder's own."""

    def forward(self, x: Tensor, decoder: Any) -> Tensor:
        return 2 * (x - decoder.bias) @ decoder.weight.T - decoder.weight.square().sum(-1)


def recipe(d: int, latents: int, *, rows: int = 65_536) -> Recipe:
    """A code is one latent of value 1, its atom a centroid. scikit-learn's MiniBatchKMeans on the first `rows` rows."""
    dictionary = Dictionary(Nearest(), sparsifiers.Ones(1, latents), decoders.Linear(latents, (d,)))
    return Recipe(dictionary, fit=partial(fit, rows=rows))


@torch.no_grad()
def fit(dictionary: Dictionary, stream: Iterable[Batch], *, rows: int) -> None:
    """Started by k-means++, seed 0; the bias stays 0."""
    from sklearn.cluster import MiniBatchKMeans

    x = head(stream, rows).double().cpu().numpy()
    options: dict[str, Any] = {"batch_size": 4096, "n_init": 1, "random_state": 0}  # hints of scikit-learn are wrong
    found = MiniBatchKMeans(dictionary.latents, **options).fit(x)
    dictionary.decoder.weight.copy_(torch.from_numpy(found.cluster_centers_))

"""Baseline: independent components, signed and dense."""

from collections.abc import Iterable
from functools import partial

import torch

from ...batch import Batch
from .. import decoders, encoders, sparsifiers
from ..core import Dictionary, Recipe, head

KIND = "rows"
SUITE = {"d": 16, "k": 8}


def recipe(d: int, *, k: int = 32, rows: int = 65_536) -> Recipe:
    """`k` latents, always on: the most independent mixtures of the first k principal components.

    scikit-learn's FastICA (Hyvarinen 1999, log cosh, all at once) on the first `rows` rows; it warns where it does not
    converge. Atoms have norm 1, signs such that a latent's long tail is positive.
    """
    if not 1 <= k <= d:
        raise ValueError(f"k must be 1..d={d} components, got {k}")
    encoder = encoders.Linear((d,), k, bias=False)
    return Recipe(Dictionary(encoder, sparsifiers.Signed(), decoders.Linear(k, (d,))), fit=partial(fit, rows=rows))


@torch.no_grad()
def fit(dictionary: Dictionary, stream: Iterable[Batch], *, rows: int) -> None:
    """Seed 0."""
    from sklearn.decomposition import FastICA

    x = head(stream, rows).double().cpu()
    ica = FastICA(dictionary.latents, whiten="unit-variance", max_iter=1000, tol=1e-3, random_state=0).fit(x.numpy())
    mixing, mean = torch.from_numpy(ica.mixing_), x.mean(0)
    unmixing = torch.from_numpy(ica.components_)
    size = mixing.norm(dim=0) * ((x - mean) @ unmixing.T).pow(3).mean(0).sign()
    dictionary.decoder.weight.copy_((mixing / size).T)
    dictionary.encoder.weight.copy_(unmixing.T * size)
    dictionary.decoder.bias.copy_(mean)

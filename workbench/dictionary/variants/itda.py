"""ITDA: atoms are rows of data that the atoms before them explained badly; no training (Leask et al. 2025)."""

from collections.abc import Iterable
from functools import partial

import torch
from torch.nn.functional import cosine_similarity, normalize

from ...batch import Batch
from .. import decoders, encoders, sparsifiers
from ..core import Dictionary, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}


def recipe(d: int, latents: int, *, k: int = 40, tau: float = 0.05) -> Recipe:
    """Signed matching pursuit of `k` steps on up to `latents` atoms (2505.17769).

    A row becomes an atom where 2 - 2 cos(row, reconstruction) is above `tau`: a sum over coordinates of squared
    differences of unit vectors; the paper's code has their mean, which scales as 1 / d. Atoms that the stream did not
    fill are 0 and never on. `dictionary.encoder.source` (latent, 2) has each atom's text and position, -1 for none.
    """
    encoder = encoders.Pursuit(k, signed=True)
    encoder.register_buffer("source", torch.full((latents, 2), -1))
    dictionary = Dictionary(encoder, sparsifiers.Given(signed=True), decoders.Linear(latents, (d,)))
    return Recipe(dictionary, fit=partial(fit, tau=tau))


@torch.no_grad()
def fit(dictionary: Dictionary, stream: Iterable[Batch], *, tau: float, most: int = 64) -> None:
    """Reads until all atoms are there, `most` rows at a time; each row that failed is judged again, alone, in its turn,
    so that no two rows of one group enter for the same reason."""
    atoms, source, n = dictionary.decoder.weight, dictionary.encoder.source, 0
    atoms.zero_()

    def failed(x: torch.Tensor) -> torch.Tensor:
        y_hat = dictionary.decoder(dictionary.sparsifier(dictionary.encoder(x, dictionary.decoder)))
        return (2 - 2 * cosine_similarity(x, y_hat, dim=-1) > tau) & (x.norm(dim=-1) > 0)

    for batch in stream:
        for begin in range(0, len(batch.x), most):
            for row in (failed(batch.x[begin : begin + most]).nonzero()[:, 0] + begin).tolist():
                if n == len(atoms):
                    return
                if failed(batch.x[row : row + 1]):
                    atoms[n] = normalize(batch.x[row], dim=-1)
                    if batch.text is not None and batch.pos is not None:
                        source[n] = torch.stack([batch.text[row], batch.pos[row]])
                    n += 1

"""Mutual Choice autoencoder: rows and latents are matched over the whole batch (Ayonrinde 2024, arXiv:2411.02124)."""

import torch

from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.85  # of planted atoms, in the suite


def recipe(d: int, latents: int, *, k: int = 32, aux: float = 1 / 32, aux_k: int | None = None) -> Recipe:
    """`k` latents are on per row on average: BatchTopK, but dying latents are helped, not the dead alone.

    A latent is dying when it is on in fewer rows than a tenth of what Zipf's law expects at its rank; these share
    `aux_k` places (d / 2) in the auxiliary reconstruction.
    """
    dictionary = within(d, latents, sparsifiers.BatchTopK(k, latents))
    terms = {"mse": losses.mse(), "zipf": losses.aux_zipf(aux_k or d // 2, k, 0.1, aux)}
    dictionary.sparsifier.register_buffer("density", torch.zeros(latents))
    every = (hooks.CenterBias(), hooks.Project(), hooks.Threshold(), hooks.Density())
    return Recipe(dictionary, terms, every, lr=2e-3)

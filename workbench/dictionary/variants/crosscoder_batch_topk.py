"""BatchTopK crosscoder, with fewer false private latents than L1 (Minder et al. 2025, arXiv:2504.02922)."""

import torch
from jaxtyping import Float
from torch import Tensor

from .. import decoders, encoders, hooks, losses, sparsifiers
from ..core import Dictionary, Hook, Pass, Progress, Recipe

KIND = "sites"
SUITE = {"d": 16, "latents": 48, "sites": 2, "k": 4}
RECOVERS = 0.9  # of planted atoms, in the suite: all sites together


class SharedNorm(Hook):
    """Keep the sum of an atom's norms over sites at the root of their number: then values alone say who is chosen.

    The paper chooses by value times that sum; atoms of fixed sum give the same order, and the threshold its unit.
    """

    @torch.no_grad()
    def before_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        atoms, grad = dictionary.decoder.weight, dictionary.decoder.weight.grad
        if grad is not None:  # a longer atom is undone after the step
            share = torch.linalg.vecdot(grad, atoms) / atoms.square().sum(-1)
            grad.addcmul_(atoms, share[:, None], value=-1)

    @torch.no_grad()
    def after_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        dictionary.decoder.weight.copy_(shared_norm(dictionary.decoder.weight, dictionary.decoder.shape[0]))


def shared_norm(atoms: Float[Tensor, "latent all"], sites: int) -> Float[Tensor, "latent all"]:
    """Atoms whose norms over sites add up to the root of their number, as a unit vector that is alike at all does."""
    return atoms * sites**0.5 / atoms.unflatten(-1, (sites, -1)).norm(dim=-1).sum(-1, keepdim=True).clamp_min(1e-12)


def recipe(
    d: int, latents: int, *, sites: int = 2, k: int = 32, aux: float = 1 / 32, aux_k: int | None = None
) -> Recipe:
    """Rows are `(site, d)`; `k` latents are on per row on average, dead ones share `aux_k` places (d / 2).

    One scale for all sites: give rows whose sites are alike in norm. The paper's error is not squared.
    """
    dictionary = Dictionary(
        encoders.Linear((sites, d), latents),
        sparsifiers.BatchTopK(k, latents),
        decoders.Linear(latents, (sites, d), unit=False),
    )
    dictionary.decoder.weight.data.copy_(shared_norm(dictionary.decoder.weight.data, sites))
    dictionary.encoder.weight.data.copy_(dictionary.decoder.weight.data.T)
    terms = {"mse": losses.mse(), "auxk": losses.auxk(aux_k or d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), SharedNorm(), hooks.Threshold()), lr=2e-3)

"""Feature Choice autoencoder: each latent chooses its rows, so none is dead (Ayonrinde 2024, arXiv:2411.02124)."""

import torch

from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Dictionary, Hook, Pass, Progress, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.8  # of planted atoms, in the suite


class Quotas(Hook):
    """Move thresholds towards the smallest value that each latent kept; after the share `over` of a run fix quotas.

    Quotas follow Zipf's law over the latents in order of density, its exponent fitted to the densities measured.
    """

    def __init__(self, over: float):
        self.over = over

    @torch.no_grad()
    def after_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        s, support, values = dictionary.sparsifier, seen.code.support, seen.code.values.detach()
        low = torch.full_like(s.threshold, torch.inf).scatter_reduce(0, support.indices, values, "amin")
        moved = torch.where(s.threshold.isinf(), low, s.threshold.lerp(low, 0.05))
        s.threshold.copy_(torch.where(low.isinf(), s.threshold, moved))
        if progress.share >= self.over and not s.quota.any():
            dense = s.density.sort(descending=True)
            alive = dense.values[dense.values > 0].log()
            ranks = (torch.arange(dictionary.latents, device=alive.device) + 5.0).log()
            across = ranks[: len(alive)] - ranks[: len(alive)].mean()
            slope = ((across @ alive) / across.square().sum()).clamp(-2, 0)
            s.quota[dense.indices] = s.k * torch.softmax(slope * ranks, 0)


def recipe(
    d: int, latents: int, *, k: int = 32, over: float = 0.3, aux: float = 1 / 32, aux_k: int | None = None
) -> Recipe:
    """`k` latents are on per row on average: Mutual Choice for the first `over` of the run, then Feature Choice.

    A latent takes one row of a batch at least. Dying latents as in `mutual_choice`.
    """
    dictionary = within(d, latents, sparsifiers.FeatureChoice(k, latents))
    terms = {"mse": losses.mse(), "zipf": losses.aux_zipf(aux_k or d // 2, k, 0.1, aux)}
    every = (hooks.CenterBias(), hooks.Project(), hooks.Density(), Quotas(over))
    return Recipe(dictionary, terms, every, lr=2e-3)

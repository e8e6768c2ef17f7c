"""Group bias adaptation (GBA): biases follow how often latents should be on (Chen et al. 2025, arXiv:2506.14002)."""

import math

import torch

from .. import decoders, encoders, hooks, losses, sparsifiers
from ..core import Dictionary, Hook, Pass, Progress, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "high": 0.1, "low": 0.03, "rows": 256, "rate": 0.1}
RECOVERS = 0.9  # of planted atoms, in the suite


class Adapt(Hook):
    """After every so many rows, lower the biases of latents that are on too often, raise those that are never on."""

    def __init__(self, rows: int, rate: float, groups: int):
        self.rows, self.rate, self.groups = rows, rate, groups

    @torch.no_grad()
    def before_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        s = dictionary.sparsifier
        value = seen.code.to_dense() / s.scale
        s.on.add_((value > 0).sum(0))
        s.most.copy_(torch.maximum(s.most, value.amax(0)))
        s.seen.add_(len(value))
        if s.seen < self.rows:
            return
        often, low = s.on / s.seen, -(dictionary.d**0.5)
        most = s.most.unflatten(0, (self.groups, -1))
        typical = (most.sum(1) / (most > 0).sum(1).clamp_min(1)).repeat_interleave(most.shape[1])
        lowered, raised = (s.bias - self.rate * s.most).clamp_min(low), (s.bias + self.rate * typical).clamp_max(0)
        s.bias.copy_(torch.where(often > s.often, lowered, torch.where(s.on == 0, raised, s.bias)))
        for total in (s.on, s.most, s.seen):
            total.zero_()


def recipe(
    d: int,
    latents: int,
    *,
    high: float = 0.2,
    low: float = 1e-3,
    groups: int = 12,
    rate: float = 0.01,
    rows: int = 10_000,
) -> Recipe:
    """`groups` of latents aim at being on in shares of the rows from `high` to `low`, in equal ratios.

    After every `rows` rows biases move by `rate` times what their latents reach; they stay between -sqrt(d), the norm
    of a row, and 0. No k and no penalty.
    """
    if latents % groups or not 0 < low <= high <= 1:
        raise ValueError(f"need latents in groups={groups} and 0 < low <= high <= 1, got {latents}, {low}, {high}")
    often = torch.logspace(math.log10(high), math.log10(low), groups).repeat_interleave(latents // groups)
    dictionary = Dictionary(encoders.Tied(), sparsifiers.Biased(often), decoders.Linear(latents, (d,)))
    terms = {"mse": losses.mse(trains=losses.DECODER | {"sparsifier"})}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project(), Adapt(rows, rate, groups)), lr=2e-3)

"""p-annealing: an L1 penalty that turns into L_p with p towards 0 (Karvonen et al. 2024, arXiv:2408.00113)."""

import torch

from .. import hooks, losses, schedules, sparsifiers
from ..compose import within
from ..core import Dictionary, Hook, Pass, Progress, Recipe, Term

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "lp": 2.0}
RECOVERS = 0.9  # of planted atoms, in the suite

SMALL = 1e-3  # below it the slope of value^p grows no more


def power(value: torch.Tensor, p: torch.Tensor) -> losses.Scalar:
    """Sum of value^p over latents, mean over rows."""
    return torch.where(value > 0, value.clamp_min(SMALL) ** p, 0).sum(-1).mean()


def penalty(weight: losses.Schedule) -> Term:
    """Sum of value^p, times the strength that keeps it from jumping when p changes; both are the sparsifier's."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> losses.Scalar:
        return d.sparsifier.strength * power(p.code.to_dense(), d.sparsifier.p)

    return Term(loss, losses.ENCODER | {"decoder.bias"}, weight=weight)


class Anneal(Hook):
    """Lower p in ten equal moves from 1 to `to` between the shares `start` and `end` of the run."""

    def __init__(self, to: float, start: float, end: float):
        self.to, self.begin, self.end = to, start, end

    @torch.no_grad()
    def after_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        s, value = dictionary.sparsifier, seen.code.to_dense()
        done = min(1.0, max(0.0, (progress.share - self.begin) / (self.end - self.begin)))
        p = torch.full_like(s.p, 1 - (1 - self.to) * int(10 * done) / 10)
        if p != s.p:
            s.strength.mul_(power(value, s.p) / power(value, p).clamp_min(1e-12))
            s.p.copy_(p)


def recipe(d: int, latents: int, *, lp: float = 5.0, p: float = 0.2, start: float = 0.15, end: float = 0.9) -> Recipe:
    """`lp` is the weight at p = 1, for rows scaled to norm sqrt(d), reached over the first twentieth of the run.

    p goes to the given one between the shares `start` and `end` of the run. In the paper the strength follows the mean
    of ten batches, here that of the batch at hand.
    """
    if not 0 < p <= 1 or not 0 <= start < end <= 1:
        raise ValueError(f"p must be within 0..1 and start before end within 0..1, got p={p}, {start}, {end}")
    dictionary = within(d, latents, sparsifiers.ReLU(), start=0.1)  # starts sparse
    for name in ("p", "strength"):
        dictionary.sparsifier.register_buffer(name, torch.tensor(1.0))
    terms = {"mse": losses.mse(), "lp": penalty(schedules.ramp(lp))}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project(), Anneal(p, start, end)))

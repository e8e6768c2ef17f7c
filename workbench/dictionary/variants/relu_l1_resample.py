"""ReLU autoencoder with L1 and unit atoms, dead latents drawn anew (Bricken et al. 2023, Towards Monosemanticity)."""

from dataclasses import replace

import torch
from torch.nn.functional import normalize

from .. import hooks, losses, schedules, sparsifiers
from ..compose import within
from ..core import Dictionary, Hook, Pass, Progress, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "l1": 2.0}
RECOVERS = 0.95  # of planted atoms, in the suite


class Resample(Hook):
    """At `times` moments of the first half of a run, dead latents start again at rows that fit badly.

    A row is drawn with probability in proportion to its squared error's square; atom and encoder point to it, the
    encoder at a fifth of the live ones' mean norm, without a bias.
    """

    def __init__(self, times: int):
        self.times = times

    @torch.no_grad()
    def after_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        now, before = ((progress.tokens + rows) / progress.budget for rows in (len(seen.x), 0))
        due = int(now * 2 * self.times) > int(before * 2 * self.times) and now <= 0.5
        if not due or seen.dead is None or not len(seen.dead):
            return
        encoder, decoder = dictionary.encoder, dictionary.decoder
        weights = (seen.y - seen.y_hat).square().sum(-1).square()
        drawn = torch.multinomial(weights.cpu(), min(len(seen.dead), len(weights)), generator=seen.rng)
        dead, rows = seen.dead[: len(drawn)], normalize(seen.x[drawn.to(seen.x.device)] - decoder.bias, dim=-1)
        norms = encoder.weight.norm(dim=0)
        live = torch.ones_like(norms, dtype=torch.bool).index_fill(0, seen.dead, False)
        decoder.weight[dead] = rows
        encoder.weight[:, dead] = 0.2 * (norms[live].mean() if live.any() else norms.mean()) * rows.T
        encoder.bias[dead] = 0


def recipe(d: int, latents: int, *, l1: float = 5.0, warmup: float = 0.05, times: int = 4) -> Recipe:
    """`l1` is reached over the first `warmup` share of the run; it is meant for rows scaled to norm sqrt(d).

    Drawing is from the batch at hand, so at most so many at a time. Adam's moments are not reset: a latent that was
    silent so long has nearly none.
    """
    dictionary = within(d, latents, sparsifiers.ReLU(), start=0.1)  # starts sparse
    penalty = replace(losses.l1(schedules.ramp(l1, over=warmup)), trains=losses.ENCODER | losses.DECODER)
    terms = {"mse": losses.mse(), "l1": penalty}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project(), Resample(times)))

"""Variational TopK autoencoder (vSAE): latents are noisy, a normal prior draws them to 0 (Baker and Li 2025)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .. import decoders, encoders, hooks, losses, schedules, sparsifiers
from ..core import Dictionary, Encoder, Hook, Pass, Progress, Recipe, Term

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.75  # of planted atoms, in the suite


class Count(Hook):
    """A new draw for each step."""

    def after_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        dictionary.sparsifier.step.add_(1)


class Both(Encoder):
    """Two linear encoders side by side, the second for log variances; it starts at -2 for every row."""

    def __init__(self, d: int, latents: int):
        super().__init__()
        self.mean, self.spread = encoders.Linear((d,), latents), encoders.Linear((d,), latents, scale=0.01)
        torch.nn.init.constant_(self.get_parameter("spread.bias"), -2.0)

    def forward(self, x: Float[Tensor, "row d"], decoder: Any) -> Float[Tensor, "row both"]:
        return torch.cat([self.mean(x, decoder), self.spread(x, decoder)], 1)

    def fold_(self, scale_in: float, scale_out: float) -> None:
        self.mean.fold_(scale_in, scale_out)
        self.spread.fold_(scale_in, scale_out)


def kl(weight: losses.Schedule) -> Term:
    """KL divergence in nats of each latent's normal from N(0, 1), summed over latents."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> losses.Scalar:
        mean, log_variance = d.sparsifier.moments(p.pre)
        return (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean() / 2

    return Term(loss, losses.ENCODER | {"decoder.bias"}, frozenset({"pre"}), weight)


def recipe(d: int, latents: int, *, k: int = 32, beta: float = 0.1, warmup: float = 0.1) -> Recipe:
    """`k` latents are on per row; `beta` weighs the prior, reached over the first `warmup` share of the run.

    Values are in units of rows scaled to norm sqrt(d), which is what the prior's 1 is of. At inference means alone.
    """
    dictionary = Dictionary(Both(d, latents), sparsifiers.Noisy(k, latents), decoders.Linear(latents, (d,)))
    dictionary.encoder.mean.weight.data.copy_(dictionary.decoder.weight.data.T)
    terms = {"mse": losses.mse(), "kl": kl(schedules.ramp(beta, over=warmup))}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project(), Count()), lr=2e-3)

"""Gated autoencoder: whether a latent is on and how much are said apart (Rajamanoharan et al. 2024, 2404.16014)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...code import Code
from .. import hooks, losses, schedules
from ..compose import within
from ..core import Dictionary, Pass, Progress, Recipe, Sparsifier, Term

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "l1": 6.0}
RECOVERS = 0.85  # of planted atoms, in the suite


class Gated(Sparsifier):
    """On where pre + gate > 0; then relu(pre exp(log_gain) + bias). The two share the encoder's directions."""

    def __init__(self, latents: int):
        super().__init__()
        self.gate, self.log_gain, self.bias = (nn.Parameter(torch.zeros(latents)) for _ in range(3))

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        return Code.dense(torch.where(pre + self.gate > 0, (pre * self.log_gain.exp() + self.bias).relu(), 0))

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return self(pre).to_csr()


GATE = losses.ENCODER | {"sparsifier.gate", "decoder.bias"}  # the bias because the encoder is centred by it


def gate_l1(weight: losses.Schedule) -> Term:
    """Sum of the gates' rectified pre-activations."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> losses.Scalar:
        return (p.pre + d.sparsifier.gate).relu().sum(-1).mean()

    return Term(loss, GATE, frozenset({"pre"}), weight)


def gate_mse() -> Term:
    """Squared error per row of the gates' rectified pre-activations as a code, by a frozen decoder."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> losses.Scalar:
        rows = (p.pre + d.sparsifier.gate).relu() @ d.decoder.weight.detach() + d.decoder.bias.detach()
        return (p.y - rows).square().sum(-1).mean()

    return Term(loss, GATE, frozenset({"pre"}))


def recipe(d: int, latents: int, *, l1: float = 5.0, warmup: float = 0.05) -> Recipe:
    """`l1` on the gates, for rows scaled to norm sqrt(d), is reached over the first `warmup` share of the run."""
    dictionary = within(d, latents, Gated(latents), bias=False)
    mse = losses.mse(trains=losses.ENCODER | losses.DECODER | {"sparsifier.log_gain", "sparsifier.bias"})
    terms = {"mse": mse, "l1": gate_l1(schedules.ramp(l1, over=warmup)), "gate": gate_mse()}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()), betas=(0.0, 0.999))

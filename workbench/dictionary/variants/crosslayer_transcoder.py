"""Cross-layer transcoder: a layer's latents write to it and all later ones (Ameisen et al. 2025, Circuit Tracing)."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from .. import decoders, hooks, losses, sparsifiers
from ..core import Dictionary, Encoder, Hook, Pass, Progress, Recipe

KIND = "layers"
SUITE = {"d": 16, "latents": 48, "sites": 2, "k": 4}
RECOVERS = 0.93  # of planted atoms, in the suite


class Layers(Encoder):
    """An equal block of latents reads each layer alone: pre = x_layer W + b."""

    def __init__(self, sites: int, d: int, latents: int):
        super().__init__()
        self.weight = nn.Parameter(0.1 * normalize(torch.randn(sites, d, latents // sites), dim=1))
        self.bias = nn.Parameter(torch.zeros(latents))

    def forward(self, x: Float[Tensor, "row site d"], decoder: Any) -> Float[Tensor, "row latent"]:
        return torch.einsum("bsd,sdf->bsf", x, self.weight).flatten(1) + self.bias

    @torch.no_grad()
    def fold_(self, scale_in: float, scale_out: float) -> None:
        self.weight.mul_(scale_in)


class Forward(Hook):
    """No gradient for an atom's part at layers before its own: it started at 0 and stays there."""

    def before_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        if (grad := dictionary.decoder.weight.grad) is not None:
            grad.mul_(later(dictionary.shape[0], dictionary.shape[1], len(grad)).to(grad.device))


def later(sites: int, d: int, latents: int) -> Bool[Tensor, "latent all"]:
    """True where a latent may write: at its own layer and later ones."""
    return torch.ones(sites, sites).triu().bool().repeat_interleave(latents // sites, 0).repeat_interleave(d, 1)


def recipe(d: int, latents: int, *, sites: int, k: int = 32, aux: float = 1 / 32, aux_k: int | None = None) -> Recipe:
    """Rows and targets are `(layer, d)`; `latents` in all, so many per layer; `k` on per row over all layers.

    BatchTopK over all layers instead of JumpReLU and a tanh penalty, atoms of norm 1 over all layers together. One
    scale for all layers: give rows whose layers are alike in norm.
    """
    if latents % sites:
        raise ValueError(f"latents must be a multiple of the {sites} layers, got {latents}")
    made = decoders.Linear(latents, (sites, d))
    made.weight.data.copy_(normalize(made.weight.data * later(sites, d, latents), dim=-1))
    dictionary = Dictionary(Layers(sites, d, latents), sparsifiers.BatchTopK(k, latents), made)
    terms = {"mse": losses.mse(), "auxk": losses.auxk(aux_k or d // 2, aux)}
    start = (hooks.CenterBias(), hooks.CenterInput())
    return Recipe(dictionary, terms, (*start, Forward(), hooks.Project(), hooks.Threshold()))

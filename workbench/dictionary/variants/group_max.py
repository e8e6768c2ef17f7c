"""GroupMax autoencoder: k groups of latents, the largest of each is on (EleutherAI 2025, `sparsify`)."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...code import Code
from .. import hooks, losses
from ..compose import within
from ..core import Recipe, Sparsifier

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.95  # of planted atoms, in the suite


class GroupMax(Sparsifier):
    """The largest of each of k groups of consecutive latents, rectified."""

    selects = rowwise = True

    def __init__(self, k: int, latents: int):
        super().__init__()
        if k < 1 or latents % k:
            raise ValueError(f"latents must be a multiple of the k groups, got latents={latents}, k={k}")
        self.k = k

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        best = pre.unflatten(1, (self.k, -1)).max(-1)
        first = torch.arange(self.k, device=pre.device) * (pre.shape[1] // self.k)
        return Code.fixed(best.indices + first, best.values, pre.shape[1])

    def activate(self, code: Code) -> Code:
        return code.like(code.values.relu())


def recipe(d: int, latents: int, *, k: int = 32, aux: float = 1 / 32, aux_k: int | None = None) -> Recipe:
    """At most one latent of each of the `k` groups is on; no ranking, so it is cheaper than TopK.

    Dead latents share `aux_k` places (d / 2) in the auxiliary reconstruction.
    """
    dictionary = within(d, latents, GroupMax(k, latents))
    terms = {"mse": losses.mse(), "auxk": losses.auxk(aux_k or d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

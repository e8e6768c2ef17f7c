"""Gradient autoencoder (g-SAE): TopK also hears what the model's loss does (Olmo et al. 2024, arXiv:2411.10397)."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ...batch import Batch
from ...code import Code
from .. import hooks, kernels, losses, sparsifiers
from ..compose import within
from ..core import Recipe, Sparsifier

KIND = "gradients"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.95  # of planted atoms, in the suite


@dataclass(frozen=True)
class Guided:
    """How one batch with gradients g is chosen: the largest of pre (1 + beta |<atom, g>| / its row's mean)."""

    k: int
    beta: float
    grads: Float[Tensor, "row d"]
    atoms: Float[Tensor, "latent d"]

    def __call__(self, pre: Float[Tensor, "row latent"], begin: int = 0) -> Code:
        pull = (self.grads[begin : begin + len(pre)] @ self.atoms.T).abs()
        chosen = kernels.top_rows(pre * (1 + self.beta * pull / pull.mean(-1, keepdim=True).clamp_min(1e-30)), self.k)
        return Code.fixed(chosen, pre.gather(1, chosen), pre.shape[1])

    def choose(self, tiles: sparsifiers.Tiles, rows: int, slack: float = 1.0) -> Code:
        begins = (part.start for part in kernels.tiles(rows, len(self.atoms)))
        return Code.cat([self(tile, begin) for tile, begin in zip(tiles(), begins, strict=True)])


class GradientTopK(Sparsifier):
    """A plain TopK at inference, where no gradient is known."""

    selects = True

    def __init__(self, k: int, latents: int, beta: float):
        super().__init__()
        self.k, self.beta, plain = k, beta, sparsifiers.TopK(k, latents)
        self.activate, self.infer, self.forward = plain.activate, plain.infer, plain.forward

    def given(self, batch: Batch, decoder: Any) -> Guided:
        if batch.grads is None:
            raise ValueError("this batch has no gradients: train on a live stream made with grads=True")
        return Guided(self.k, self.beta, batch.grads, decoder.weight.detach())


def recipe(d: int, latents: int, *, k: int = 32, beta: float = 1.0, aux: float = 1 / 32) -> Recipe:
    """`beta` weighs the gradient's pull on an atom, in units of the row's mean pull; the paper's has its units."""
    dictionary = within(d, latents, GradientTopK(k, latents, beta))
    terms = {"mse": losses.mse(), "auxk": losses.auxk(d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

"""AbsTopK autoencoder: the k largest by magnitude, signs and all (Zhu et al. 2025, arXiv:2510.00404)."""

from jaxtyping import Float
from torch import Tensor

from ...code import Code
from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Recipe, Sparsifier
from ..kernels import top_rows

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.35  # of planted atoms, in the suite, whose codes are positive


class AbsTopK(Sparsifier):
    """Each row's k largest by magnitude."""

    selects = signed = rowwise = True

    def __init__(self, k: int, latents: int):
        super().__init__()
        sparsifiers.check_k(k, latents)
        self.k = k

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        chosen = top_rows(pre.abs(), self.k)
        return Code.fixed(chosen, pre.gather(1, chosen), pre.shape[1])


def recipe(d: int, latents: int, *, k: int = 32) -> Recipe:
    """`k` latents are on per row, each with a sign: one latent for both ends of an axis. Nothing against dead ones."""
    dictionary = within(d, latents, AbsTopK(k, latents))
    return Recipe(dictionary, {"mse": losses.mse()}, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

"""AbsTopK autoencoder: the k largest by magnitude, signs and all (Zhu et al. 2025, arXiv:2510.00404)."""

from jaxtyping import Float
from torch import Tensor, nn

from ...code import Code
from .. import decoders, encoders, hooks, losses, sparsifiers
from ..core import Dictionary, Recipe
from ..kernels import top_rows

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.35  # of planted atoms, in the suite, whose codes are positive


class AbsTopK(nn.Module):
    """Each row's k largest by magnitude."""

    selects, signed, rowwise = True, True, True

    def __init__(self, k: int, latents: int):
        super().__init__()
        sparsifiers.check_k(k, latents)
        self.k = k

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        chosen = top_rows(pre.abs(), self.k)
        return Code.fixed(chosen, pre.gather(1, chosen), pre.shape[1])

    def activate(self, code: Code) -> Code:
        return code

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return self(pre)


def recipe(d: int, latents: int, *, k: int = 32) -> Recipe:
    """`k` latents are on per row, each with a sign: one latent for both ends of an axis. Nothing against dead ones."""
    dictionary = Dictionary(encoders.Linear((d,), latents), AbsTopK(k, latents), decoders.Linear(latents, (d,)))
    dictionary.encoder.weight.data.copy_(dictionary.decoder.weight.data.T)
    return Recipe(dictionary, {"mse": losses.mse()}, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

"""k-sparse autoencoder: tied weights, k largest, no rectifier (Makhzani and Frey 2013, arXiv:1312.5663)."""

import torch
from jaxtyping import Float
from torch import Tensor

from ...code import Code
from .. import decoders, encoders, hooks, losses, sparsifiers
from ..core import Dictionary, Hook, Pass, Progress, Recipe, Sparsifier
from ..kernels import top_rows

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.95  # of planted atoms, in the suite


class KSparse(Sparsifier):
    """Each row's k largest as they are; `now` of them while training, more at first, `read` of them at inference."""

    selects = signed = rowwise = True
    now: Tensor

    def __init__(self, k: int, latents: int, read: int):
        super().__init__()
        sparsifiers.check_k(k, latents)
        self.k, self.read = k, min(read, latents)
        self.register_buffer("now", torch.tensor(k))

    def forward(self, pre: Float[Tensor, "row latent"], count: int | None = None) -> Code:
        chosen = top_rows(pre, count or int(self.now))
        return Code.fixed(chosen, pre.gather(1, chosen), pre.shape[1])

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return self(pre, self.read)


class Narrow(Hook):
    """Lower the number of latents that are on linearly, from `first` to k, over this share of the run."""

    def __init__(self, first: int, over: float):
        self.first, self.over = first, over

    def after_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        left, k = max(0.0, 1 - progress.share / self.over), dictionary.sparsifier.k
        dictionary.sparsifier.now.fill_(round(k + left * (self.first - k)))


def recipe(d: int, latents: int, *, k: int = 32, first: int = 3, over: float = 0.5, read: float = 1.0) -> Recipe:
    """`first` x k latents at first, `k` after the share `over` of the run, `read` x k (1 to 3) at inference.

    Ours centres rows by the decoder's bias; the paper learns one for the encoder.
    """
    sparsifier = KSparse(k, latents, round(read * k))
    dictionary = Dictionary(encoders.Tied(), sparsifier, decoders.Linear(latents, (d,), unit=False))
    sparsifier.now.fill_(min(first * k, latents))
    begin = Narrow(int(sparsifier.now), over)
    return Recipe(dictionary, {"mse": losses.mse(trains=losses.DECODER)}, (hooks.CenterBias(), begin))

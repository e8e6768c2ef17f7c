"""KronSAE: in each head, a latent is on where a base and an extension both are (mAND; Kurochkin et al. 2025)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ...code import Code
from .. import decoders, hooks, losses, sparsifiers
from ..core import Dictionary, Encoder, Recipe

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.9  # of planted atoms, in the suite


class Kron(Encoder):
    """Latent (head, i, j) is sqrt(p_i q_j) where base p_i and extension q_j of the head are both positive, else 0."""

    def __init__(self, d: int, sizes: tuple[int, int, int]):
        super().__init__()
        self.sizes, n = sizes, sizes[0] * (sizes[1] + sizes[2])
        self.weight, self.bias = nn.Parameter(normalize(torch.randn(n, d), dim=-1).T), nn.Parameter(torch.zeros(n))

    def parts(self, x: Tensor, decoder: Any) -> tuple[Tensor, ...]:  # (row, head, base, 1), (row, head, 1, extension)
        both = torch.addmm(self.bias, x - decoder.bias, self.weight).unflatten(1, (self.sizes[0], -1))
        return both[..., : self.sizes[1], None], both[..., None, self.sizes[1] :]

    def forward(self, x: Tensor, decoder: Any) -> Tensor:
        return mand(*self.parts(x, decoder)).flatten(1)

    def pick(self, x: Tensor, decoder: Any, chosen: Code, columns: Any = None, at_columns: Any = None) -> Any:
        """Latents at the chosen pairs and in whole columns, made again from p and q, of which there are few."""
        (p, q), rows = self.parts(x, decoder), torch.arange(len(x), device=x.device)[:, None]

        def at(row: Tensor, latent: Tensor) -> Tensor:
            head, i, j = torch.unravel_index(latent, self.sizes)
            return mand(p[row, head, i, 0], q[row, head, 0, j])

        return at(chosen.support.rows, chosen.support.indices), None if columns is None else at(rows, columns)

    def fold_(self, scale_in: float, scale_out: float) -> None:
        self.weight.data.mul_(scale_in)


def mand(p: Tensor, q: Tensor) -> Tensor:
    return torch.where((p > 0) & (q > 0), (p.relu() * q.relu() + 1e-5).sqrt(), 0)  # the root's slope at 0 is infinite


def recipe(d: int, latents: int, *, k: int = 32, base: int = 2, extension: int = 4, aux: float = 1 / 32) -> Recipe:
    """Heads of base x extension latents, TopK over all (2505.22255); an atom starts as the sum of two directions."""
    if latents % (base * extension):
        raise ValueError(f"latents must be a multiple of base x extension = {base * extension}, got {latents}")
    encoder = Kron(d, (latents // (base * extension), base, extension))
    dictionary = Dictionary(encoder, sparsifiers.TopK(k, latents), decoders.Linear(latents, (d,)))
    p, q = encoder.weight.data.T.unflatten(0, (-1, base + extension)).split((base, extension), 1)
    dictionary.decoder.weight.data.copy_(normalize((p[:, :, None] + q[:, None]).reshape(latents, d), dim=-1))
    terms = {"mse": losses.mse(), "auxk": losses.auxk(d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

"""Latents that fire together in blocks: a Gaussian copula decides who is on, x = L TopK(ReLU(g)).

g ~ N(0, S) in n = 64 dimensions, S has ones on the diagonal, rho = 0.6 inside blocks of 8 and 0 between them. Code z
keeps the k = 8 largest entries of ReLU(g); x = L z with S = L L^T, L the symmetric root of S: the atom of latent i is
row i of L, so atoms of one block lean towards each other as their firing does. No noise.
Source: the correlated toy of Kurochkin et al. 2025, arXiv:2505.22255; the symmetric root is ours (theirs is any L).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...html import tag
from ..core import rows
from ..vectors import Oracle, Stream, gram, strip


class Rows(NamedTuple):
    """Vectors and the true code that made them."""

    x: Float[Tensor, "row d"]
    code: Float[Tensor, "row n"]


@dataclass(frozen=True)
class Correlated:
    """`truth` holds the atoms `(n, n)`, `covariance` is S."""

    n: int
    block: int
    rho: float
    k: int

    @property
    def covariance(self) -> Float[Tensor, "n n"]:
        where = torch.arange(self.n) // self.block
        same = (where[:, None] == where).double()
        return self.rho * same + (1 - self.rho) * torch.eye(self.n, dtype=torch.double)

    @property
    def truth(self) -> Float[Tensor, "n n"]:
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp_min(0).sqrt() @ vectors.T).float()

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Rows:
        atoms = self.truth

        def draw(rng: np.random.Generator, n: int) -> Rows:
            shared = np.repeat(rng.standard_normal((n, self.n // self.block)), self.block, axis=1)
            g = np.sqrt(self.rho) * shared + np.sqrt(1 - self.rho) * rng.standard_normal((n, self.n))
            g = torch.from_numpy(g).float().relu()
            top = g.topk(self.k, dim=-1)
            code = torch.zeros_like(g).scatter(-1, top.indices, top.values)
            return Rows(code @ atoms, code)

        return rows(draw, n, seed, start)

    def stream(self, rows: int, steps: int, seed: int = 0) -> Stream:
        return Stream(self, rows, steps, seed)

    def oracle(self) -> Oracle:
        return Oracle(self.truth, most=2 * self.k, tolerance=1e-3)

    def figure(self, seed: int = 0) -> Any:
        """Cosines between atoms: the blocks."""
        figure = gram(self.truth, f"Correlated: cosines of {self.n} atoms in blocks of {self.block}")
        return figure.update_xaxes(constrain="domain").update_layout(width=480, height=430)

    def _repr_html_(self) -> str:
        said = f" blocks of {self.block} of {self.n} latents, one row's code: "
        return tag("div", tag("b", "correlated"), said, strip(self.sample(1).code[0]))


def correlated(n: int = 64, *, block: int = 8, rho: float = 0.6, k: int = 8) -> Correlated:
    """Blocks of latents that fire together. Raises ValueError when blocks do not divide n or rho is not in 0..1."""
    if n < 2 or block < 1 or n % block or not 0 <= rho < 1 or not 1 <= k <= n // 2:
        raise ValueError(f"block must divide n, 0 <= rho < 1, 1 <= k <= n / 2, got n={n}, {block}, {rho}, {k}")
    return Correlated(n, block, rho, k)

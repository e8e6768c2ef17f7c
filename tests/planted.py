"""Superposition data whose atoms are known: what every dictionary is asked to find."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from workbench.batch import Batch


@dataclass(frozen=True)
class Planted:
    """x = sum of coefficient * atom over the few atoms that are on, plus noise. The same step gives the same batch.

    `kind` "pair" also gives targets: what a sparse map with other atoms, and with a linear part if `linear`, would say.
    """

    d: int = 32
    atoms: int = 48
    on: float = 4.0  # mean number of atoms on per row
    rows: int = 256  # per batch
    steps: int = 300
    seed: int = 0
    noise: float = 0.01
    kind: str = "rows"
    linear: float = 0.0
    size: float = 1.0  # every row times this
    truth: Float[Tensor, "atom d"] = field(init=False)
    out: Float[Tensor, "atom d"] = field(init=False)
    matrix: Float[Tensor, "d d"] = field(init=False)

    def __post_init__(self) -> None:
        rng = torch.Generator().manual_seed(self.seed)
        for name in ("truth", "out"):
            object.__setattr__(self, name, normalize(torch.randn(self.atoms, self.d, generator=rng), dim=-1))
        object.__setattr__(self, "matrix", torch.randn(self.d, self.d, generator=rng) / self.d**0.5)

    def code(self, step: int) -> Float[Tensor, "row atom"]:
        """The true code of a step's rows."""
        rng = torch.Generator().manual_seed(self.seed * 100_003 + step)
        shape = (self.rows, self.atoms)
        on = torch.rand(shape, generator=rng) < self.on / self.atoms
        return on * (1 + 0.25 * torch.randn(shape, generator=rng)).abs()

    def batch(self, step: int) -> Batch:
        code, rng = self.code(step), torch.Generator().manual_seed(self.seed * 100_003 + step + 50_021)
        x = code @ self.truth + self.noise * torch.randn(self.rows, self.d, generator=rng)
        y = x if self.kind == "rows" else code @ self.out + self.linear * x @ self.matrix
        where = torch.arange(self.rows)
        return Batch(self.size * x, self.size * y, torch.full_like(where, step), where)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.steps):
            yield self.batch(step)

    def __len__(self) -> int:
        return self.steps

    def describe(self) -> dict[str, Any]:
        names = ("d", "atoms", "on", "rows", "steps", "seed", "noise", "kind", "linear", "size")
        return {"planted": {name: getattr(self, name) for name in names}}


def recovered(found: Float[Tensor, "latent d"], truth: Float[Tensor, "atom d"], at: float = 0.9) -> float:
    """Share of true atoms that some found atom matches with a cosine of at least `at`."""
    best = (normalize(truth, dim=-1) @ normalize(found, dim=-1).T).amax(-1)
    return float((best >= at).float().mean())


def fvu(dictionary: Any, batch: Batch) -> float:
    """Fraction of the targets' total variance that the reconstruction leaves."""
    with torch.no_grad():
        error = (dictionary.reconstruct(batch.x) - batch.y).square().sum()
    return float(error / (batch.y - batch.y.mean(0)).square().sum())


def followed(code: Any, truth: Float[Tensor, "row atom"], at: float = 0.9) -> float:
    """Share of true atoms that some latent follows: its activation correlates with the true one, at least so much.

    Needs no common space, so it also judges transcoders, whose atoms live elsewhere than their inputs.
    """
    found, true = ((z - z.mean(0)) / z.std(0).clamp_min(1e-6) for z in (code.to_dense(), truth))
    best = (true.T @ found / len(true)).amax(-1)
    return float((best >= at).float().mean())

"""The planted atoms and two siblings that hold them in another order, with a little noise, read by their duals."""

from functools import cache
from types import SimpleNamespace

import plain_codecs
import torch
from torch import Tensor

from workbench.evaluate import Case
from workbench.evaluate.evals.consistency import Siblings

BY = 37.5


class Reads:
    """An encoder with a matrix of columns: what is above a hundredth of the rows' unit is on."""

    def __init__(self, atoms: Tensor, unit: float = 1.0):
        self.weight, self.unit = torch.linalg.pinv(atoms) * unit, unit

    def __call__(self, x: Tensor) -> Tensor:
        z = x / self.unit @ self.weight
        return torch.where(z > 0.2 * self.unit, z, 0.0)


def codec(atoms: Tensor, unit: float = 1.0) -> plain_codecs.PlainCodec:
    return plain_codecs.PlainCodec(atoms * unit, Reads(atoms, unit), torch.zeros(atoms.shape[1]))


@cache
def cases() -> SimpleNamespace:
    x, atoms = plain_codecs.planted(400, 24, 32, k=2)
    drawn = torch.Generator().manual_seed(1)
    orders = [torch.randperm(24, generator=drawn) for _ in range(2)]
    near = [atoms[o] + 0.02 * torch.randn(24, 32, generator=drawn) for o in orders]

    def case(one: plain_codecs.PlainCodec, unit: float = 1.0) -> Case:
        given = {"siblings": Siblings(tuple(codec(a, unit) for a in near), "order and noise")}
        return Case(one, None, plain_codecs.MemoryRows(unit * x), resamples=300, given=given)

    random = plain_codecs.random(24, 32)
    larger = case(plain_codecs.rescaled(random, BY), BY)
    return SimpleNamespace(true=case(codec(atoms)), random=case(random), identity=None, mean=None, larger=larger)

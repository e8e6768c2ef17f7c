"""Decoders: code -> reconstruction. A decoder owns its atoms and the constraint on them."""

import os
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..code import Code

ATOMS = 1024  # at a time in a projection: they stay in cache


class Linear(nn.Module):
    """y_hat = z atoms + bias. Atoms are rows of `weight`, (latent, prod(shape)), and on the unit sphere when `unit`."""

    def __init__(self, latents: int, shape: tuple[int, ...], *, unit: bool = True, scale: float = 1.0):
        super().__init__()
        if unit and scale != 1.0:
            raise ValueError(f"unit atoms have norm 1, got scale={scale}: leave one of the two out")
        self.shape, self.unit = shape, unit
        self.weight = nn.Parameter(scale * normalize(torch.randn(latents, prod(shape)), dim=-1))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, code: Code, upto: int | None = None) -> Float[Tensor, "row *out"]:
        if os.environ.get("WORKBENCH_KERNELS") == "dense":
            code = Code.dense(code.to_dense())
        return code.combine(self.weight, upto).unflatten(-1, self.shape) + self.bias

    @torch.no_grad()
    def project_grad_(self) -> None:
        if self.unit and self.weight.grad is not None:
            for grad, atoms in zip(self.weight.grad.split(ATOMS), self.weight.split(ATOMS), strict=True):
                grad.addcmul_(atoms, torch.linalg.vecdot(grad, atoms)[:, None], value=-1)

    @torch.no_grad()
    def project_(self) -> None:
        if self.unit:
            for atoms in self.weight.split(ATOMS):
                atoms.div_(torch.linalg.vector_norm(atoms, dim=-1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def fold_(self, scale_out: float) -> None:
        self.weight.div_(scale_out)
        self.bias.div_(scale_out)
        self.unit = False

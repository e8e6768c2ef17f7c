"""Decoders: code -> reconstruction. A decoder owns its atoms and the constraint on them."""

from math import log, prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from .core import Decoder

ATOMS = 1024  # at a time in a projection: they stay in cache


class Linear(Decoder):
    """y_hat = z atoms + bias. Atoms are rows of `weight`, (latent, prod(shape)), and on the unit sphere when `unit`."""

    def __init__(self, latents: int, shape: tuple[int, ...], *, unit: bool = True, scale: float = 1.0):
        super().__init__()
        if unit and scale != 1.0:
            raise ValueError(f"unit atoms have norm 1, got scale={scale}: leave one of the two out")
        self.shape, self.unit = shape, unit
        self.weight = nn.Parameter(scale * normalize(torch.randn(latents, prod(shape)), dim=-1))
        self.bias = nn.Parameter(torch.zeros(shape))

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


class Archetypal(Decoder):
    """y_hat = z atoms + bias, each atom a gain times a mean of candidate points, off it by a norm of `delta` at most.

    `points` (point, prod(shape)) are rows of data that `hooks.Points` puts there; `mix` (latent, point)
    is kept non-negative with rows of sum 1.
    """

    points: Tensor

    def __init__(self, latents: int, points: int, shape: tuple[int, ...], *, delta: float = 0.0):
        super().__init__()
        if delta < 0:
            raise ValueError(f"delta must be 0 or more, got {delta}")
        self.shape, self.delta = shape, delta
        self.register_buffer("points", torch.randn(points, prod(shape)))
        self.mix = nn.Parameter(torch.eye(latents, points) if latents <= points else torch.rand(latents, points))
        self.off = nn.Parameter(torch.zeros(latents, prod(shape))) if delta else None
        self.gain = nn.Parameter(torch.zeros(()))  # its logarithm
        self.bias = nn.Parameter(torch.zeros(shape))
        self.project_()

    @property
    def weight(self) -> Float[Tensor, "latent d"]:
        hull = self.mix @ self.points
        return self.gain.exp() * (hull if self.off is None else hull + self.off)

    @torch.no_grad()
    def project_(self) -> None:
        self.mix.relu_().div_(self.mix.sum(-1, keepdim=True).clamp_min(1e-12))
        if self.off is not None:
            self.off.mul_((self.delta / self.off.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1))

    @torch.no_grad()
    def fold_(self, scale_out: float) -> None:
        self.gain.sub_(log(scale_out))
        self.bias.div_(scale_out)

"""Encoders: input -> pre-activations."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..code import Code, Support
from .kernels import pick


class Linear(nn.Module):
    """pre = (x - decoder.bias if center) W + b. `shape` is one site `(d,)` or several, `(site, d)`.

    W is (in, latent), stored latent by latent, so that sparse gradients write whole rows.
    """

    bias: nn.Parameter | None

    def __init__(
        self, shape: tuple[int, ...], latents: int, *, center: bool = True, bias: bool = True, scale: float = 1.0
    ):
        super().__init__()
        self.shape, self.center = shape, center
        self.weight = nn.Parameter((scale * normalize(torch.randn(latents, prod(shape)), dim=-1)).T)
        self.bias = nn.Parameter(torch.zeros(latents)) if bias else None

    def _center(self, decoder: Any) -> Tensor | None:
        return decoder.bias.flatten() if self.center else None

    def _centred(self, x: Tensor, decoder: Any) -> Tensor:
        x = x.flatten(1)
        return x - decoder.bias.flatten() if self.center else x

    def forward(self, x: Float[Tensor, "row *inp"], decoder: Any) -> Float[Tensor, "row latent"]:
        x = self._centred(x, decoder)
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def pick(
        self,
        x: Float[Tensor, "row *inp"],
        decoder: Any,
        chosen: Code,
        columns: Int[Tensor, " some"] | None = None,
        at_columns: Float[Tensor, "row some"] | None = None,
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "row some"] | None]:
        """Pre-activations at the chosen pairs and in whole columns, whose numbers are known, with sparse gradients."""
        center = decoder.bias.flatten() if self.center else None
        values = chosen.values.reshape(-1)
        return pick(x.flatten(1), self.weight, self.bias, center, chosen.support, values, columns, at_columns)

    def values(self, x: Float[Tensor, "row *inp"], decoder: Any, support: Support) -> Float[Tensor, " n"]:
        """Pre-activations of single pairs, each by its own product."""
        found = support.dots(self.weight.T, self._centred(x, decoder))
        return found if self.bias is None else found + self.bias[support.indices]

    def rough(self, decoder: Any) -> Callable[[Tensor, Any], Tensor]:
        """`forward` by a product in bfloat16: to rank latents, not to take their values."""
        weight = self.weight.detach().bfloat16()
        bias = None if self.bias is None else self.bias.detach().bfloat16()

        def product(x: Tensor, decoder: Any) -> Tensor:
            x = self._centred(x, decoder).bfloat16()
            return x @ weight if bias is None else torch.addmm(bias, x, weight)

        return product

    @torch.no_grad()
    def fold_(self, scale_in: float, scale_out: float) -> None:
        if self.center and scale_in != scale_out:
            raise ValueError(f"a centred encoder has one scale, got {scale_in} in and {scale_out} out")
        self.weight.mul_(scale_in)


class Tied(nn.Module):
    """pre = <x, atom>. No weights: the decoder's own."""

    gain: Tensor

    def __init__(self, *, center: bool = True):
        super().__init__()
        self.center = center
        self.register_buffer("gain", torch.tensor(1.0))  # folding puts the scales here

    def forward(self, x: Float[Tensor, "row *inp"], decoder: Any) -> Float[Tensor, "row latent"]:
        rows = (x - decoder.bias if self.center else x).flatten(1)
        return rows @ decoder.weight.T * self.gain

    @torch.no_grad()
    def fold_(self, scale_in: float, scale_out: float) -> None:
        self.gain.mul_(scale_in * scale_out)  # <s_in x, a> with atoms a / s_out

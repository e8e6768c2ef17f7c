"""Encoders: input -> pre-activations."""

from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..code import Code, Support


class _Pick(torch.autograd.Function):
    """Chosen entries of x W + b - center W, taken from a product made without a graph; gradients stay sparse."""

    @staticmethod
    def forward(ctx, values, x, weight, bias, center, support: Support):
        ctx.save_for_backward(x, weight, center)
        ctx.support = support
        return values.view_as(values)

    @staticmethod
    def backward(ctx, *grads):
        x, weight, center = ctx.saved_tensors
        (grad,), support = grads, ctx.support
        _, to_x, to_weight, to_bias, to_center, _ = ctx.needs_input_grad
        rows = weight.T  # (latent, in)
        summed = grad.new_zeros(support.latents).index_add(0, support.indices, grad)  # per latent
        return (
            None,
            support.combine(grad, rows) if to_x else None,
            _centred(support.collect(grad, x), summed, center).T if to_weight else None,
            summed if to_bias else None,
            -(weight @ summed) if to_center else None,
            None,
        )


class _Columns(torch.autograd.Function):
    """Chosen columns of x W + b - center W, taken from a product made without a graph."""

    @staticmethod
    def forward(ctx, values, x, weight, bias, center, columns):
        ctx.save_for_backward(x, weight, center, columns)
        return values.view_as(values)

    @staticmethod
    def backward(ctx, *grads):
        x, weight, center, columns = ctx.saved_tensors
        (grad,) = grads
        _, to_x, to_weight, to_bias, to_center, _ = ctx.needs_input_grad
        some, summed = weight.T[columns], grad.sum(0)
        spread = torch.zeros_like(weight.T)
        spread[columns] = _centred(grad.T @ x, summed, center)
        return (
            None,
            grad @ some if to_x else None,
            spread.T if to_weight else None,
            summed.new_zeros(weight.shape[1]).index_copy(0, columns, summed) if to_bias else None,
            -(summed @ some) if to_center else None,
            None,
        )


def _centred(products: Tensor, summed: Tensor, center: Tensor | None) -> Tensor:
    """Turn sums of gradient * x into sums of gradient * (x - center)."""
    return products if center is None else products.addr(summed, center, alpha=-1)


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

    def forward(self, x: Float[Tensor, "row *inp"], decoder: Any) -> Float[Tensor, "row latent"]:
        shift, center = self.bias, self._center(decoder)
        if center is not None:
            moved = -(center @ self.weight)
            shift = moved if shift is None else shift + moved
        x = x.flatten(1)
        return x @ self.weight if shift is None else torch.addmm(shift, x, self.weight)

    def pick(
        self, x: Float[Tensor, "row *inp"], decoder: Any, pre: Float[Tensor, "row latent"], chosen: Code
    ) -> Float[Tensor, " n"]:
        """Entries of `pre` at the chosen pairs, differentiable, without a graph through the whole of `pre`."""
        values = chosen.look_up(pre).reshape(-1)
        return _Pick.apply(values, x.flatten(1), self.weight, self.bias, self._center(decoder), chosen.support)

    def columns(
        self,
        x: Float[Tensor, "row *inp"],
        decoder: Any,
        pre: Float[Tensor, "row latent"],
        columns: Int[Tensor, " some"],
    ) -> Float[Tensor, "row some"]:
        """Columns of `pre`, differentiable."""
        return _Columns.apply(
            pre.index_select(1, columns), x.flatten(1), self.weight, self.bias, self._center(decoder), columns
        )

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

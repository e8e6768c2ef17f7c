"""Entries of a linear encoder's pre-activations whose gradients touch what was chosen and nothing else."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...code import Support


def pick(
    x: Float[Tensor, "row in"],
    weight: Float[Tensor, "in latent"],
    bias: Float[Tensor, " latent"] | None,
    center: Float[Tensor, " in"] | None,
    support: Support,
    values: Float[Tensor, " n"],
    columns: Int[Tensor, " some"] | None = None,
    at_columns: Float[Tensor, "row some"] | None = None,
) -> tuple[Float[Tensor, " n"], Float[Tensor, "row some"] | None]:
    """Entries of (x - center) W + b on the support and, if asked for, whole columns; `values` are the numbers.

    Both come from a product made without a graph. One gradient of W serves both.
    """
    return _Pick.apply(values, at_columns, x, weight, bias, center, support, columns)


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values, at_columns, x, weight, bias, center, support: Support, columns):
        ctx.save_for_backward(x, weight, center, columns)
        ctx.support = support
        return values.view_as(values), None if at_columns is None else at_columns.view_as(at_columns)

    @staticmethod
    def backward(ctx: Any, *grads):
        x, weight, center, columns = ctx.saved_tensors
        support, (grad, wide) = ctx.support, grads
        _, _, to_x, to_weight, to_bias, to_center, _, _ = ctx.needs_input_grad
        rows = weight.T  # (latent, in)
        summed = grad.new_zeros(support.latents).index_add_(0, support.indices, grad)  # per latent
        if wide is not None:
            summed.index_add_(0, columns, wide.sum(0))
        back = None
        if to_x:
            back = support.combine(grad, rows)
            if wide is not None:
                back = back.addmm_(wide, rows[columns])
        spread = None
        if to_weight:
            centred = x if center is None else x - center
            spread = support.collect(grad, centred)
            if wide is not None:
                spread.index_add_(0, columns, wide.T @ centred)
            spread = spread.T
        return (
            None,
            None,
            back,
            spread,
            summed if to_bias else None,
            -(weight @ summed) if to_center else None,
            None,
            None,
        )

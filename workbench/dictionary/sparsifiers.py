"""Sparsifiers: pre-activations -> code."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..code import Code
from .selection import top_batch, top_rows


class TopK(nn.Module):
    """Each row's k largest, rectified: fewer where fewer are positive."""

    selects, signed = True, False

    def __init__(self, k: int, latents: int):
        super().__init__()
        _check_k(k, latents)
        self.k = k

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        chosen = top_rows(pre, self.k)
        return Code.fixed(chosen, pre.gather(1, chosen), pre.shape[1])

    def activate(self, code: Code) -> Code:
        return code.like(code.values.relu())

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return self.activate(self(pre))


class BatchTopK(nn.Module):
    """The batch's k x rows largest while training; at inference each latent above one threshold, row by row.

    The threshold is a running mean of the smallest value kept, moved by `hooks.Threshold`; < 0: never trained.
    """

    selects, signed = True, False
    threshold: Tensor

    def __init__(self, k: int, latents: int):
        super().__init__()
        _check_k(k, latents)
        self.k = k
        self.register_buffer("threshold", torch.tensor(-1.0))  # a buffer, so that it is saved

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        offsets, chosen = top_batch(pre, self.k * len(pre))
        code = Code.csr(offsets, chosen, pre.new_empty(len(chosen)), pre.shape[1])
        return code.like(code.look_up(pre))

    def activate(self, code: Code) -> Code:
        return code  # only positive entries were chosen

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        if self.threshold < 0:
            raise RuntimeError("BatchTopK has no threshold yet: train for a step before encoding")
        return Code.dense(torch.where(pre > self.threshold, pre, 0)).to_csr()


class ReLU(nn.Module):
    """All that is positive: trained dense, CSR at inference."""

    selects, signed = False, False

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        return Code.dense(pre.relu())

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return self(pre).to_csr()


class Signed(nn.Module):
    """All pre-activations as they are, negative ones too."""

    selects, signed = False, True

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        return Code.dense(pre)

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return self(pre)


class _Jump(torch.autograd.Function):
    """pre * 1[pre > theta]; theta's gradient through a rectangle kernel of the given width (straight-through)."""

    @staticmethod
    def forward(ctx, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return torch.where(pre > theta, pre, 0)

    @staticmethod
    def backward(ctx, *grads):
        pre, theta = ctx.saved_tensors
        (grad,) = grads
        near = (pre - theta).abs() < ctx.width / 2
        return torch.where(pre > theta, grad, 0), -(theta / ctx.width) * torch.where(near, grad, 0).sum(0), None


class _Step(torch.autograd.Function):
    """1[pre > theta]; no gradient to pre, theta's through the same kernel."""

    @staticmethod
    def forward(ctx, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return (pre > theta).to(pre.dtype)

    @staticmethod
    def backward(ctx, *grads):
        pre, theta = ctx.saved_tensors
        (grad,) = grads
        near = (pre - theta).abs() < ctx.width / 2
        return None, -torch.where(near, grad, 0).sum(0) / ctx.width, None


class JumpReLU(nn.Module):
    """z = pre where pre > threshold, a learned one per latent; the kernel also hears latents just below it.

    The threshold itself is the parameter (its logarithm saturates); `hooks.Project` keeps it from falling below 0.
    """

    selects, signed = False, False

    def __init__(self, latents: int, *, init: float, width: float):
        super().__init__()
        if width <= 0 or init < 0:
            raise ValueError(f"init must be 0 or more and width above 0, got init={init}, width={width}")
        self.threshold = nn.Parameter(torch.full((latents,), float(init)))
        self.width = width

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        return Code.dense(_Jump.apply(pre, self.threshold, self.width))

    def gate(self, pre: Float[Tensor, "row latent"]) -> Float[Tensor, "row latent"]:
        """1 where a latent is on, differentiable in the threshold."""
        return _Step.apply(pre, self.threshold, self.width)

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return Code.dense(torch.where(pre > self.threshold, pre, 0)).to_csr()

    @torch.no_grad()
    def project_(self) -> None:
        self.threshold.clamp_(min=0)


def _check_k(k: int, latents: int) -> None:
    if not 1 <= k <= latents:
        raise ValueError(f"k must be 1..latents={latents}, got {k}")

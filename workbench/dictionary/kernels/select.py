"""Which pre-activations are kept: exact top-k without sorting rows x latents numbers."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...code import Code

GROUP = 12  # latents per group whose maximum stands for them


def top_rows(pre: Float[Tensor, "row latent"], k: int) -> Int[Tensor, "row k"]:
    """Indices of each row's k largest, in no order.

    The k groups with the largest maxima hold a valid choice, so only their members are compared; the same values as
    `pre.topk(k)`.
    """
    groups = pre.shape[1] // GROUP
    if groups < 2 * k:
        return pre.topk(k, dim=-1, sorted=False).indices
    body = pre[:, : groups * GROUP].unflatten(1, (GROUP, groups))  # a group is strided: {g, g + groups, ...}
    best = body.amax(1).topk(k, dim=-1, sorted=False).indices
    members = (best[:, None] + torch.arange(GROUP, device=pre.device)[:, None] * groups).flatten(1)
    if rest := pre.shape[1] - groups * GROUP:
        tail = torch.arange(pre.shape[1] - rest, pre.shape[1], device=pre.device).expand(len(pre), -1)
        members = torch.cat([members, tail], 1)
    return members.gather(1, pre.gather(1, members).topk(k, dim=-1, sorted=False).indices)


def top_batch(pre: Float[Tensor, "row latent"], count: int) -> Code:
    """The `count` largest of all rows together, positive ones only; ties go to earlier rows.

    The count-th largest group maximum is a lower bound for the count-th largest entry: what lies above it is few.
    """
    rows, latents = pre.shape
    groups = latents // GROUP
    low = 0.0
    if 0 < count <= rows * groups:
        best = pre[:, : groups * GROUP].unflatten(1, (GROUP, groups)).amax(1).flatten()
        low = max(0.0, float(best.kthvalue(len(best) - count + 1).values))
    return largest(above(pre, low), count)


def above(pre: Float[Tensor, "row latent"], low: float) -> Code:
    """All entries that are positive and at least `low`."""
    keep = pre >= low if low > 0 else pre > 0
    rows, indices = keep.nonzero(as_tuple=True)
    offsets = indices.new_zeros(len(pre) + 1)
    torch.cumsum(torch.bincount(rows, minlength=len(pre)), 0, out=offsets[1:])
    return Code.csr(offsets, indices, pre[rows, indices], pre.shape[1])


def largest(code: Code, count: int) -> Code:
    """The `count` entries of a CSR code with the largest values; ties go to earlier ones."""
    values = code.values
    if len(values) <= count:
        return code
    edge = values.kthvalue(len(values) - count + 1).values
    over, ties = values > edge, values == edge
    return keep(code, over | (ties & (ties.cumsum(0) <= count - over.sum())))


def keep(code: Code, mask: Bool[Tensor, " n"]) -> Code:
    """The entries of a CSR code where the mask is true."""
    support, offsets = code.support, code.support.offsets.new_zeros(len(code) + 1)
    torch.cumsum(torch.bincount(support.rows[mask], minlength=len(code)), 0, out=offsets[1:])
    return Code.csr(offsets, support.indices[mask], code.values[mask], code.latents)

"""Which pre-activations are kept: exact top-k without sorting rows x latents numbers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

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


def top_batch(pre: Float[Tensor, "row latent"], count: int) -> tuple[Int[Tensor, " row_plus_1"], Int[Tensor, " n"]]:
    """CSR offsets and indices of the `count` largest of all rows together, positive ones only; ties go to earlier rows.

    The count-th largest group maximum is a lower bound for the count-th largest entry: what lies above it is few.
    """
    rows, latents = pre.shape
    flat, count = pre.reshape(-1), min(count, pre.numel())
    groups = latents // GROUP
    low = pre.new_zeros(())
    if 0 < count <= rows * groups:
        best = pre[:, : groups * GROUP].unflatten(1, (GROUP, groups)).amax(1).flatten()
        low = best.kthvalue(len(best) - count + 1).values.clamp_min(0)
    at = ((flat >= low) & (flat > 0)).nonzero().flatten()
    if len(at) > count:
        values = flat[at]
        edge = values.kthvalue(len(at) - count + 1).values
        above, ties = values > edge, values == edge
        spare = count - above.sum()
        at = at[above | (ties & (ties.cumsum(0) <= spare))]
    where = at // latents
    offsets = at.new_zeros(rows + 1)
    torch.cumsum(torch.bincount(where, minlength=rows), 0, out=offsets[1:])
    return offsets, at - where * latents

"""Decodes of growing prefixes of a dictionary, for the price of one."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ...code import Code


def prefixes(code: Code, atoms: Float[Tensor, "latent d"], widths: Sequence[int]) -> Float[Tensor, "prefix row d"]:
    """z[:, :m] @ atoms[:m] for each m of the growing `widths`, each entry gathered once, forwards and backwards.

    Raises ValueError when the widths do not grow or do not end at the number of latents.
    """
    check_widths(widths, code.latents)
    if code.indices is None:
        parts = [code.values[:, a:b] @ atoms[a:b] for a, b in zip([0, *widths], widths, strict=False)]
        return torch.stack(parts).cumsum(0)
    rows, support = len(code), code.support
    slot = torch.bucketize(support.indices, torch.tensor(list(widths), device=atoms.device), right=True)
    place = slot * rows + support.rows  # every prefix has its own row for each row
    order = place.argsort(stable=True)
    offsets = place.new_zeros(len(widths) * rows + 1)
    torch.cumsum(torch.bincount(place, minlength=len(offsets) - 1), 0, out=offsets[1:])
    shells = Code.csr(offsets, support.indices[order], code.values.reshape(-1)[order], code.latents)
    return shells.combine(atoms).unflatten(0, (len(widths), rows)).cumsum(0)


def check_widths(widths: Sequence[int], latents: int) -> None:
    if list(widths) != sorted(set(widths)) or not widths or widths[0] < 1 or widths[-1] != latents:
        raise ValueError(f"widths must grow from 1 or more to latents={latents}, got {list(widths)}")

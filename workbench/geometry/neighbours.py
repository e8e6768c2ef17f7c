"""The nearest vectors by cosine, exactly."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 1024  # rows compared with all others at once


class Neighbours(NamedTuple):
    """Nearest first; a vector is not its own neighbour."""

    indices: Int[Tensor, "n k"]
    cosines: Float[Tensor, "n k"]


def neighbours(vectors: Float[Tensor, "n d"], k: int = 15, *, chunk: int = CHUNK) -> Neighbours:
    """The k nearest other vectors of each by cosine, from all pairs; memory is chunk x n.

    Raises ValueError when k is not between 1 and n - 1, or a vector is not finite or zero (it has no direction).
    """
    unit = directions(vectors)
    if not 1 <= k < len(unit):
        raise ValueError(f"k must be 1..{len(unit) - 1} for {len(unit)} vectors, got {k}")
    found = [cosines_of(unit, start, chunk).topk(k, dim=-1) for start in range(0, len(unit), chunk)]
    return Neighbours(torch.cat([f.indices for f in found]), torch.cat([f.values for f in found]).clamp(-1, 1))


def directions(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Unit vectors in float32. Raises ValueError that counts the vectors without a direction."""
    vectors = vectors.detach().float()
    norms = vectors.norm(dim=-1, keepdim=True)
    if bad := int((~norms.isfinite()).sum()):
        raise ValueError(f"{bad} of {len(vectors)} vectors are not finite: check the dictionary's weights")
    if bad := int((norms == 0).sum()):
        raise ValueError(f"{bad} of {len(vectors)} vectors are zero and have no direction: leave them out")
    return vectors / norms


def cosines_of(unit: Float[Tensor, "n d"], start: int, chunk: int) -> Float[Tensor, "some n"]:
    """Cosines of `chunk` vectors from `start` on with all; -inf with themselves."""
    cosines = unit[start : start + chunk] @ unit.T
    rows = torch.arange(len(cosines), device=unit.device)
    cosines[rows, start + rows] = -torch.inf
    return cosines

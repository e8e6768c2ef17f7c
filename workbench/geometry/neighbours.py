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


def neighbours(
    vectors: Float[Tensor, "n d"],
    k: int = 15,
    *,
    absolute: bool = False,
    among: Float[Tensor, "m other"] | None = None,
    chunk: int = CHUNK,
) -> Neighbours:
    """The k nearest other vectors of each by cosine, or the k nearest of `among`; from all pairs, memory chunk x n.

    `absolute` compares, and gives, sizes of cosines: opposite vectors are one line.
    Raises ValueError when there are fewer than k to choose from, widths differ, or a vector is not finite or zero (it
    has no direction).
    """
    unit = directions(vectors)
    others = unit if among is None else directions(among)
    most = len(unit) - 1 if among is None else len(others)
    if others.shape[1] != unit.shape[1]:
        raise ValueError(f"neighbours must be {unit.shape[1]} wide, as the vectors are, got {others.shape[1]}")
    if not 1 <= k <= most:
        raise ValueError(f"k must be 1..{most}, as there are {most} to choose from, got {k}")
    found = []
    for start in range(0, len(unit), chunk):
        near = sized(unit[start : start + chunk] @ others.T, absolute)
        found.append((near if among is not None else alone(near, start)).topk(k, dim=-1))
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


def cosines_of(unit: Float[Tensor, "n d"], start: int, chunk: int, absolute: bool = False) -> Float[Tensor, "some n"]:
    """Cosines, or their sizes, of `chunk` vectors from `start` on with all; -inf with themselves."""
    return alone(sized(unit[start : start + chunk] @ unit.T, absolute), start)


def sized(cosines: Float[Tensor, "..."], absolute: bool) -> Float[Tensor, "..."]:
    """The same tensor, its signs dropped in place if asked."""
    return cosines.abs_() if absolute else cosines


def alone(values: Float[Tensor, "some n"], start: int) -> Float[Tensor, "some n"]:
    """The same tensor, -inf where a row numbered from `start` on meets itself."""
    rows = torch.arange(len(values), device=values.device)
    values[rows, start + rows] = -torch.inf
    return values

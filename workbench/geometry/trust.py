"""How far a map can be believed: numbers that stand beside every layout."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .neighbours import CHUNK, cosines_of, directions


def on_map(xy: Float[Tensor, "n two"], k: int, *, chunk: int = CHUNK) -> Int[Tensor, "n k"]:
    """The k nearest other points on the map, by Euclidean distance, nearest first."""
    found = []
    for start in range(0, len(xy), chunk):
        # exact differences: the fast formula of cdist loses close neighbours on a wide map
        distance = torch.cdist(xy[start : start + chunk], xy, compute_mode="donot_use_mm_for_euclid_dist")
        rows = torch.arange(len(distance), device=xy.device)
        distance[rows, start + rows] = torch.inf
        found.append(distance.topk(k, dim=-1, largest=False).indices)
    return torch.cat(found)


def recall(true: Int[Tensor, "n k"], shown: Int[Tensor, "n k"]) -> float:
    """Share of the true neighbours that are among the shown ones; k / (n - 1) by chance, 1 when all are kept."""
    return float((true[:, :, None] == shown[:, None, :]).any(-1).float().mean())


def trustworthiness(vectors: Float[Tensor, "n d"], shown: Int[Tensor, "n k"], *, chunk: int = CHUNK) -> float:
    """1 when every neighbour on the map is a true cosine neighbour; false ones cost by how far away they really are.

    Raises ValueError unless k < n / 2. Source: Venna and Kaski 2001; ranks by cosine, ties counted in favour.
    """
    n, k = shown.shape
    if not 2 * k < n:
        raise ValueError(f"trustworthiness needs k < n / 2, got k={k} for {n} vectors")
    unit, cost = directions(vectors), 0
    for start in range(0, n, chunk):
        cosines = cosines_of(unit, start, chunk)
        mine = cosines.gather(1, shown[start : start + chunk])
        closer = torch.stack([(cosines > one[:, None]).sum(-1) for one in mine.T], -1)  # no sort: k passes are faster
        cost += int((closer + 1 - k).clamp_min(0).sum())  # rank 1 is the nearest
    return 1 - 2 * cost / (n * k * (2 * n - 3 * k - 1))

"""How far a map can be believed: numbers that stand beside every layout, each with what chance would give."""

from collections.abc import Sequence
from itertools import combinations
from statistics import mean

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .neighbours import CHUNK, cosines_of, directions


def on_map(xy: Float[Tensor, "n two"], k: int) -> Int[Tensor, "n k"]:
    """The k nearest other points on the map, by Euclidean distance, nearest first: to judge a map by, not to read."""
    from scipy.spatial import KDTree

    points = xy.double().cpu().numpy()
    found = torch.from_numpy(KDTree(points).query(points, k + 1)[1]).long()
    own = found == torch.arange(len(found))[:, None]
    own[~own.any(-1), -1] = True  # where more than k others lie on the very same place
    return found[~own].reshape(-1, k)


def recall(true: Int[Tensor, "n k"], shown: Int[Tensor, "n k"]) -> float:
    """Share of the true neighbours that are among the shown ones; k / (n - 1) by chance, 1 when all are kept."""
    return float((true[:, :, None] == shown[:, None, :]).any(-1).float().mean())


def agreement(shown: Sequence[Int[Tensor, "n k"]]) -> float:
    """Share of map neighbours that two maps have in common, mean over pairs of maps; k / (n - 1) by chance.

    Raises ValueError for fewer than two maps.
    """
    if len(shown) < 2:
        raise ValueError(f"agreement is between two maps or more, got {len(shown)}")
    return mean(recall(one, other) for one, other in combinations(shown, 2))


def trustworthiness(
    vectors: Float[Tensor, "n d"], shown: Int[Tensor, "n k"], *, absolute: bool = False, chunk: int = CHUNK
) -> float:
    """1 when every neighbour on the map is a true cosine neighbour; false ones cost by how far away they really are.

    A map at random has `by_chance`, about 0.5. Raises ValueError unless k < n / 2.
    Source: Venna and Kaski 2001; ranks by cosine (by its size, if `absolute`), ties counted in favour.
    """
    n, k = shown.shape
    if not 2 * k < n:
        raise ValueError(f"trustworthiness needs k < n / 2, got k={k} for {n} vectors")
    unit, cost = directions(vectors), 0
    for start in range(0, n, chunk):
        cosines = cosines_of(unit, start, chunk, absolute)
        mine, above = cosines.gather(1, shown[start : start + chunk]), torch.empty_like(cosines)
        # a sum of floats, exact up to 2^24 vectors: of bools it takes ten times as long, and a sort too
        closer = [torch.gt(cosines, one[:, None], out=above).sum(-1).long() for one in mine.T]
        cost += sum(int((c + 1 - k).clamp_min(0).sum()) for c in closer)  # rank 1 is the nearest
    return 1 - 2 * cost / (n * k * (2 * n - 3 * k - 1))


def by_chance(n: int, k: int) -> float:
    """The trustworthiness that a map with its points at random places has on average."""
    return 1 - (n - k) * (n - k - 1) / ((n - 1) * (2 * n - 3 * k - 1))

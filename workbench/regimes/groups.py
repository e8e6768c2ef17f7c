"""Layer groups: layers that are alike share one dictionary (Ghilardi et al. 2024, arXiv:2410.21508)."""

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from ..batch import Stream
from ..dictionary import Dictionary, Recipe, train
from ..harvest import Store
from ..site import Site
from .streams import Flat, place

BLOCK = 1024  # rows of all sites held at once


@torch.no_grad()
def distances(
    store: Store,
    sites: Sequence[Site | str] | None = None,
    *,
    rows: int = 8192,
    last: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Float[Tensor, "site site"]:
    """Mean angle between two sites' rows at the same position, each less its site's mean, as a share of 180 degrees.

    Over `rows` rows drawn by the seed, of all positions or of the last row of each token row. 0 where rows point the
    same way, 1/2 where they know nothing of each other. Raises ValueError for sites of several widths.
    """
    chosen = [store.site(s) for s in (store.sites if sites is None else sites)]
    if len(widths := {store.width(s) for s in chosen}) != 1:
        raise ValueError(f"an angle is between rows of one width, the sites have {sorted(widths)}: choose fewer sites")
    every = _last(store) if last else torch.arange(store.rows)
    drawn = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:rows]]
    means, total = [store.mean(s) for s in chosen], torch.zeros(len(chosen), len(chosen), dtype=torch.float64)
    for part in tqdm(drawn.split(BLOCK), desc="distances", unit="block", disable=not progress):
        units = torch.stack(
            [normalize(store.gather(part, s) - m, dim=-1) for s, m in zip(chosen, means, strict=True)], 1
        )
        total += (units @ units.mT).clamp(-1, 1).double().arccos().sum(0)
    return (total / (torch.pi * len(drawn))).fill_diagonal_(0).float()


def _last(store: Store) -> Int[Tensor, " text"]:
    text, _ = store.where(torch.arange(store.rows))
    return torch.cat([text[1:] != text[:-1], torch.tensor([True])]).nonzero()[:, 0]


def cluster(distance: Float[Tensor, "site site"], count: int) -> list[list[int]]:
    """Which sites go together: complete linkage, cut into `count` groups, each in order, the groups by their first."""
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    if not 1 <= count <= len(distance):
        raise ValueError(f"groups of {len(distance)} sites are 1 to {len(distance)}, got {count}")
    if len(distance) == 1:
        return [[0]]
    tree = linkage(squareform(distance.double().numpy(), checks=False), "complete")
    label = cut_tree(tree, n_clusters=count)[:, 0].tolist()
    return sorted([i for i, one in enumerate(label) if one == group] for group in set(label))


def spread(distance: Float[Tensor, "site site"], groups: Sequence[Sequence[int]]) -> float:
    """Mean over groups of the largest distance within: their AMAD, by which the paper chooses the count."""
    return sum(float(distance[list(g)][:, list(g)].max()) for g in groups) / len(groups)


def train_groups(
    source: Callable[[list[Site]], Stream],
    groups: Sequence[Sequence[Site | str]],
    make: Callable[[], Recipe],
    *,
    lr: float | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    progress: bool = True,
) -> dict[Site, Dictionary]:
    """One dictionary per group, each under all of its sites; those of a group share their weights.

    `source(sites)` streams rows `(row, site, d)` of a group, from a store or live, and `make()` gives a fresh recipe:

        train_groups(lambda s: store.stream(4096 // len(s), site=s, steps=1000), [["0.resid", "1.resid"]], make)

    Such a batch has 4,096 rows whatever the group's size, so that G groups cost G / L of one dictionary per layer. One
    scale serves a whole group. With a `folder`, what was trained is loaded and what was cut short goes on.
    """
    found: dict[Site, Dictionary] = {}
    named = [[Site.of(s) for s in group] for group in groups]
    if len(flat := [s for group in named for s in group]) != len(set(flat)) or not all(named):
        raise ValueError(f"every group holds sites that no other holds, got {[[str(s) for s in g] for g in named]}")
    for group in tqdm(named, desc="groups", unit="group", disable=not progress):
        stream = Flat(source(group))
        home = None if folder is None else Path(folder) / "+".join(map(str, group))
        made = train(make(), stream, site=None, lr=lr, seed=seed, folder=home, progress=progress, **place(stream))
        for site in group:
            found[site] = copy(made)  # parameters are shared, its place is its own
            found[site].site = found[site].target = site
    return found

"""Families of latents: who fires where a denser one does, and how latents split as a dictionary grows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .beside import Against, framed
from .cofiring import MOST
from .match import NULL, nearest, random_directions

CHUNK = 512  # latents whose pairs are read at once


class Family(NamedTuple):
    """A latent and those below it in the tree; `children` are its own, `members` all of them, without the root."""

    root: int
    children: list[int]
    members: list[int]
    round: int  # 0 is the first tree


@dataclass(frozen=True, eq=False)
class Families:
    """Families by falling size, and how much more their members fire with the root than with each other.

    `ratio` is R: mean co-firing of root and member over that of two members, both divided by the rarer one's count;
    `block` the mean of the same over pairs inside families over pairs of different families. Both are means over
    families (pairs), larger is more like a star (a block); `shuffled` nulls give each place in the families another
    latent, `independent` ones redraw all counts for latents that fire as often but without regard to each other.
    """

    families: list[Family]
    edges: Int[Tensor, "edge 2"]  # of the first tree: denser, sparser
    fired: Int[Tensor, " latent"]
    ratio: dict[str, Against]  # by null
    block: dict[str, Against]
    found: Against  # how many families, against trees built anew from independent counts
    rows: int
    kept: int  # latents inside the density band

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line for each family: root, how often it fires, children, all members, the round it was found in."""
        return pd.DataFrame(
            {
                "root": [f.root for f in self.families],
                "density": [int(self.fired[f.root]) / self.rows for f in self.families],
                "children": [f.children for f in self.families],
                "members": [f.members for f in self.families],
                "round": [f.round for f in self.families],
            }
        )

    @property
    def caption(self) -> str:
        """How many families, and their two ratios beside the nulls."""
        inside = len({i for f in self.families for i in (f.root, *f.members)})
        said = "; ".join(
            f"{name} {by['independent'].value:.2f} (shuffled latents {by['shuffled'].mean:.2f}, "
            f"independent firing {by['independent'].mean:.2f}, z {by['independent'].z:.1f})"
            for name, by in (("root to member over member to member", self.ratio), ("inside over between", self.block))
        )
        return (
            f"{len(self.families)} families of {inside} of {self.kept} latents over {self.rows:,} rows; independent "
            f"firing gives {self.found.mean:.1f}. Co-firing, {said}"
        )

    def figure(self, *, title: str = "Families of latents") -> Any:
        """Both ratios and the number of families, each with the draws of its nulls."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        shown = {
            "root-member / member-member": self.ratio,
            "inside / between": self.block,
            "families": {"independent": self.found},
        }
        figure = make_subplots(1, 3, subplot_titles=list(shown))
        for column, by in enumerate(shown.values(), 1):
            for kind, color in (("shuffled", "#b0b7c3"), ("independent", "#8fa3c7")):
                if kind in by:
                    draws = by[kind].null.tolist()
                    name = f"null: {'shuffled latents' if kind == 'shuffled' else 'independent firing'}"
                    box = go.Box(y=draws, name=kind, boxpoints="all", marker_color=color, legendgroup=kind)
                    figure.add_trace(box.update(name=name, x=[kind] * len(draws), showlegend=column == 1), 1, column)
            dot = go.Scatter(
                x=["observed"], y=[by["independent"].value], mode="markers", name="observed", showlegend=column == 1,
                marker={"size": 11, "color": "#c0504d", "symbol": "diamond"},
            )  # fmt: skip
            figure.add_trace(dot, 1, column)
        return framed(figure, title, self.caption)


def families(
    together: Int[Tensor, "latent other"],
    fired: Int[Tensor, " n"],
    rows: int,
    *,
    density: tuple[float, float] = (0.0, 0.2),
    least: int = 10,
    threshold: float = 0.1,
    lift: float = 0.0,
    rounds: int = 3,
    size: int = 3,
    same: float = 0.6,
    draws: int = 20,
    seed: int = 0,
) -> Families:
    """Families by roots of maximum spanning trees over co-firing.

    `together` counts rows (documents) in which two latents fire, `fired` those of each, of `rows` in all. Latents with
    a density strictly inside the band and `least` rows are taken. Each tree: `affinity`, its maximum spanning tree,
    edges from the denser to the sparser latent; a family is a latent without a parent that has more than two children,
    with all below it; then its root is taken away and the rest searched again. `rounds` more trees are built without
    the roots found so far. Families of more than `size` members are kept, and of two that share more than `same` of
    their members (Jaccard) the larger one. `lift` drops pairs that fire together less than `lift` times as often as
    independent latents would (0 keeps them, as the source does): frequent latents are linked by chance alone.
    Raises ValueError for counts that do not fit, a band that leaves fewer than 4 latents, more than 16,384 latents.
    Source: O'Neill et al. 2024, arXiv 2408.00657; ours makes the matrix symmetric on purpose (`affinity`), leaves the
    diagonal out of R, and adds the nulls. Measured on 20 latents in a tree: R is 5 to 6 and independent firing gives 5
    to 9, since it follows from densities alone; the block ratio is 4 to 11 and independent firing gives 1.1 to 1.3.
    """
    _fit(together, fired, rows)
    share = fired.double() / rows
    keep = ((share > density[0]) & (share < density[1]) & (fired >= least)).nonzero()[:, 0]
    if len(keep) < 4:
        raise ValueError(
            f"{len(keep)} of {len(fired)} latents fire in {least} rows or more with a density within {density}: "
            "families need 4 or more, widen the band"
        )
    some, own = together[keep][:, keep], fired[keep]
    options = {"threshold": threshold, "lift": lift, "rounds": rounds, "size": size, "same": same}
    found, edges = _families(some, own, rows, **options)
    rng = np.random.default_rng([seed, NULL])
    named = [_renamed(f, keep) for f in found]
    nulls: dict[str, list[tuple[float, float]]] = {"shuffled": [], "independent": []}
    many = []
    for _ in range(draws):
        order = torch.from_numpy(rng.permutation(len(keep)))
        nulls["shuffled"].append(_ratios([_renamed(f, order) for f in found], some, own))
        drawn = independent(own, rows, seed=int(rng.integers(1 << 31)))
        again, _ = _families(drawn, own, rows, **options)
        nulls["independent"].append(_ratios(again, drawn, own))
        many.append(len(again))
    values = _ratios(found, some, own)
    by = [{name: _against(values[i], [pair[i] for pair in pairs]) for name, pairs in nulls.items()} for i in range(2)]
    return Families(
        named, keep[edges], fired, by[0], by[1], Against(len(found), torch.tensor(many)), rows, len(keep)
    )  # fmt: skip


def affinity(
    together: Int[Tensor, "latent latent"],
    fired: Int[Tensor, " latent"],
    rows: int,
    *,
    threshold: float = 0.1,
    lift: float = 0.0,
) -> Any:
    """exp(C_ij / (n_i + 1)) where that share is `threshold` or more, symmetric: a scipy CSR array without diagonal.

    Divided by a row's own count the matrix is not symmetric, and a spanning tree of an undirected graph would take
    whichever of the two entries it reads last; here it is the larger, which divides by the rarer latent's count.
    """
    from scipy.sparse import coo_array

    parts = []
    n = fired.double()
    for start in range(0, len(fired), CHUNK):
        both = together[start : start + CHUNK].double()
        share = both / (n + 1).minimum((n[start : start + CHUNK] + 1)[:, None])
        on = (share >= threshold) & (both * rows >= lift * n * n[start : start + CHUNK, None])
        on[torch.arange(len(both)), torch.arange(start, start + len(both))] = False
        row, column = on.nonzero(as_tuple=True)
        parts.append((share[row, column].exp(), row + start, column))
    value, row, column = (torch.cat(p).numpy() for p in zip(*parts, strict=True))
    return coo_array((value, (row, column)), shape=(len(fired),) * 2).tocsr()


def tree(
    together: Int[Tensor, "latent latent"],
    fired: Int[Tensor, " latent"],
    rows: int,
    *,
    threshold: float = 0.1,
    lift: float = 0.0,
) -> Int[Tensor, "edge 2"]:
    """Edges of the maximum spanning forest of `affinity`, each from the denser to the sparser latent, else by number.

    Equal affinities, as of a latent that fires only with its parent and so only with its grandparent, go to the pair
    whose counts are nearer.
    """
    from scipy.sparse.csgraph import minimum_spanning_tree

    graph = affinity(together, fired, rows, threshold=threshold, lift=lift).tocoo()
    n = fired.double().numpy()
    row, column = graph.coords
    nearer = np.minimum(n[row], n[column]) / np.maximum(n[row], n[column])
    graph.data = 4 - graph.data - 1e-9 * nearer  # exp of a share is below e: all costs are positive
    found = minimum_spanning_tree(graph.tocsr()).tocoo()
    ends = torch.from_numpy(np.stack(found.coords, 1).astype(np.int64)).sort(1).values
    wrong = fired[ends[:, 0]] < fired[ends[:, 1]]
    return torch.where(wrong[:, None], ends.flip(1), ends)


def independent(fired: Int[Tensor, " latent"], rows: int, *, seed: int = 0) -> Int[Tensor, "latent latent"]:
    """Counts of pairs that fire as often but without regard to each other: hypergeometric, each pair by itself."""
    rng = np.random.default_rng([seed, NULL])
    n = fired.numpy()
    found = np.zeros((len(n), len(n)), np.int64)
    for i in range(len(n)):
        found[i, i + 1 :] = rng.hypergeometric(n[i], rows - n[i], n[i + 1 :])
    found += found.T
    np.fill_diagonal(found, n)
    return torch.from_numpy(found)


@dataclass(frozen=True, eq=False)
class Splits:
    """The nearest latent of a small dictionary for each of a large one, beside random directions of both shapes."""

    parents: Int[Tensor, " large"]
    cosines: Float[Tensor, " large"]
    children: Int[Tensor, " small"]  # how many each has
    null_cosines: Float[Tensor, " large"]
    null_children: Int[Tensor, " small"]
    seed: int

    @property
    def table(self) -> pd.DataFrame:
        """One line for each latent of the small dictionary: its children and their mean cosine."""
        total = torch.zeros(len(self.children)).index_add(0, self.parents, self.cosines)
        lists: list[list[int]] = [[] for _ in self.children]
        for child, parent in enumerate(self.parents.tolist()):
            lists[parent].append(child)
        return pd.DataFrame(
            {"latent": range(len(lists)), "children": lists, "count": self.children, "cosine": total / self.children}
        )

    @property
    def caption(self) -> str:
        """How near the nearest is, how many have none, and what random directions give."""
        return (
            f"{len(self.parents):,} latents to their nearest of {len(self.children):,}. Mean cosine "
            f"{self.cosines.mean():.3f}, of random directions {self.null_cosines.mean():.3f}; "
            f"{(self.cosines > self.null_cosines.max()).double().mean():.0%} exceed the largest of those. "
            f"{(self.children == 0).double().mean():.0%} have no child (random "
            f"{(self.null_children == 0).double().mean():.0%}), the most "
            f"{int(self.children.max())} (random {int(self.null_children.max())}), seed {self.seed}"
        )

    def figure(self, *, title: str = "Splitting between widths") -> Any:
        """Cosines to the nearest, and children of each latent, both over random directions."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        figure = make_subplots(1, 2, subplot_titles=["cosine with the nearest", "children of a latent"])
        pairs = ((self.cosines, self.null_cosines), (self.children, self.null_children))
        for column, both in enumerate(pairs, 1):
            for name, values, color in zip(
                ("observed", "null: random directions"), both, ("#5b7db1", "#b0b7c3"), strict=True
            ):
                one = go.Histogram(
                    x=values.tolist(), name=name, legendgroup=name, showlegend=column == 1, opacity=0.7,
                    marker_color=color, nbinsx=40,
                )  # fmt: skip
                figure.add_trace(one, 1, column)
        figure.update_layout(barmode="overlay")
        figure.update_yaxes(title="latents")
        return framed(figure, title, self.caption)


def splits(small: Float[Tensor, "small d"], large: Float[Tensor, "large d"], *, seed: int = 0) -> Splits:
    """Which latent of the small dictionary each of the large one comes from: the nearest by cosine.

    Source: O'Neill et al. 2024, arXiv 2408.00657. Raises ValueError for widths that differ, or when `small` is larger.
    """
    if len(small) > len(large):
        raise ValueError(f"small must be the smaller dictionary, got {len(small)} and {len(large)} latents: swap them")
    found = nearest(large, small)
    random = nearest(*_random((len(large), len(small)), small.shape[1], seed))
    many, few = (torch.bincount(f.indices, minlength=len(small)) for f in (found, random))
    return Splits(found.indices, found.cosines, many, random.cosines, few, seed)


@dataclass(frozen=True, eq=False)
class Routes:
    """Do children found in one step and over a middle width agree? Jaccard of the two sets for each small latent.

    NaN where both sets are empty. `null`: the same of random directions of the three shapes.
    """

    jaccard: Float[Tensor, " small"]
    same: Against  # share of large latents whose two routes end at one latent; larger is better
    mean: Against  # mean Jaccard
    null: Float[Tensor, " small"]  # of one draw

    @property
    def caption(self) -> str:
        """Agreement of the two routes beside chance."""
        return (
            f"One step against two. Mean Jaccard of a latent's children {self.mean.value:.3f}, random directions "
            f"{self.mean.mean:.3f} ± {self.mean.sd:.3f}; both routes end at one latent for {self.same.value:.0%} "
            f"(random {self.same.mean:.0%}, {len(self.same.null)} draws)"
        )

    def figure(self, *, title: str = "One-step and two-step splitting") -> Any:
        """Histogram of the Jaccard indices over random directions."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for name, values, color in (
            ("observed", self.jaccard, "#5b7db1"),
            ("null: random directions", self.null, "#b0b7c3"),
        ):
            kept = values[~values.isnan()].tolist()
            bins = {"start": 0, "end": 1.0001, "size": 0.05}
            figure.add_trace(go.Histogram(x=kept, name=name, xbins=bins, opacity=0.7, marker_color=color))
        figure.update_layout(barmode="overlay")
        figure.update_xaxes(title="Jaccard of children")
        figure.update_yaxes(title="latents of the small dictionary")
        return framed(figure, title, self.caption)


def routes(
    small: Float[Tensor, "small d"],
    middle: Float[Tensor, "middle d"],
    large: Float[Tensor, "large d"],
    *,
    draws: int = 5,
    seed: int = 0,
) -> Routes:
    """Children in the large dictionary of each latent of the small one: straight, and by way of the middle one.

    Source: O'Neill et al. 2024, arXiv 2408.00657; theirs counts two empty sets as 0, ours leaves them out.
    Raises ValueError when the three do not grow or are of different widths.
    """
    sizes = (len(small), len(middle), len(large))
    if not sizes[0] <= sizes[1] <= sizes[2]:
        raise ValueError(f"dictionaries must come from small to large, got {sizes[0]}, {sizes[1]}, {sizes[2]} latents")
    own, same = _jaccard(small, middle, large)
    nulls = [_jaccard(*_random(sizes, small.shape[1], 7919 * seed + i)) for i in range(draws)]
    return Routes(
        own,
        Against(same, torch.tensor([s for _, s in nulls])),
        Against(float(own.nanmean()), torch.stack([j.nanmean() for j, _ in nulls])),
        nulls[0][0],
    )


def _jaccard(small: Tensor, middle: Tensor, large: Tensor) -> tuple[Tensor, float]:
    direct, over = nearest(large, small).indices, nearest(middle, small).indices[nearest(large, middle).indices]
    n = len(small)
    both = torch.bincount(direct[direct == over], minlength=n).double()
    either = torch.bincount(direct, minlength=n) + torch.bincount(over, minlength=n) - both
    return both / either, float((direct == over).double().mean())  # 0 / 0 is nan: neither route has children


def _random(sizes: Sequence[int], d: int, seed: int) -> list[Tensor]:
    return list(random_directions(sum(sizes), d, seed=seed).split(list(sizes)))


def _families(
    together: Tensor, fired: Tensor, rows: int, *, threshold: float, lift: float, rounds: int, size: int, same: float
) -> tuple[list[Family], Tensor]:
    left, found, first = torch.arange(len(fired)), [], None
    for turn in range(rounds + 1):
        edges = left[tree(together[left][:, left], fired[left], rows, threshold=threshold, lift=lift)]
        first = edges if first is None else first
        below: dict[int, list[int]] = {}
        for parent, child in edges.tolist():
            below.setdefault(parent, []).append(child)
        new = _search(set(left.tolist()), below, turn)
        found += new
        roots = torch.tensor([f.root for f in new], dtype=torch.int64)
        left = left[~torch.isin(left, roots)]
        if not new or len(left) < 4:
            break
    assert first is not None
    kept: list[Family] = []
    for family in sorted((f for f in found if len(f.members) > size), key=lambda f: -len(f.members)):
        mine = set(family.members)
        if all(len(mine & set(k.members)) <= same * len(mine | set(k.members)) for k in kept):
            kept.append(family)
    return kept, first


def _search(nodes: set[int], below: dict[int, list[int]], turn: int) -> list[Family]:
    """Families in a directed forest: roots with three children or more, then the same without them."""
    found, waiting = [], [nodes]
    while waiting:
        here = waiting.pop()
        children = {p: [c for c in below.get(p, []) if c in here] for p in here}
        under = {c for cs in children.values() for c in cs}
        for root in sorted(here - under):
            if len(children[root]) > 2:
                seen, stack = set(), list(children[root])
                while stack:
                    node = stack.pop()
                    if node not in seen:
                        seen.add(node)
                        stack += children[node]
                found.append(Family(root, sorted(children[root]), sorted(seen), turn))
                waiting.append(seen)
    distinct = {(f.root, tuple(f.members)): f for f in found}
    return list(distinct.values())


def _renamed(family: Family, names: Tensor) -> Family:
    return Family(
        int(names[family.root]), names[family.children].tolist(), names[family.members].tolist(), family.round
    )


def _ratios(found: list[Family], together: Tensor, fired: Tensor) -> tuple[float, float]:
    """R averaged over families, and the mean inside families over that between; NaN without families."""
    if not found:
        return float("nan"), float("nan")
    ratios, owner = [], torch.full((len(fired),), -1)
    for number, family in enumerate(found):
        who = torch.tensor([family.root, *family.members])
        share = _shared(together, fired, who)
        one, two = torch.triu_indices(len(who) - 1, len(who) - 1, 1)
        among = share[1:, 1:][one, two].mean()
        ratios.append(float(share[0, 1:].mean() / among))
        owner[who] = number  # of nested families the smaller, which come later
    placed = (owner >= 0).nonzero()[:, 0]
    share = _shared(together, fired, placed)
    alike = owner[placed][:, None] == owner[placed]
    other, alike = ~alike, alike.fill_diagonal_(False)
    finite = [r for r in ratios if np.isfinite(r)]
    return float(np.mean(finite)) if finite else float("nan"), float(share[alike].mean() / share[other].mean())


def _shared(together: Tensor, fired: Tensor, who: Tensor) -> Tensor:
    n = fired[who].double()
    return together[who][:, who].double() / torch.minimum(n[:, None], n)


def _against(value: float, draws: list[float]) -> Against:
    kept = torch.tensor([d for d in draws if np.isfinite(d)], dtype=torch.float64)
    return Against(value, kept)


def _fit(together: Tensor, fired: Tensor, rows: int) -> None:
    n = len(fired)
    if together.shape != (n, n):
        raise ValueError(f"together must be ({n}, {n}) for {n} latents, got {tuple(together.shape)}")
    if n > MOST:
        raise ValueError(f"{n} latents are too many to hold all pairs ({MOST} at most): keep a density band of them")
    if int(fired.max()) > rows or int(fired.min()) < 0:
        raise ValueError(f"fired must lie within 0..{rows} rows, got {int(fired.min())}..{int(fired.max())}")
    if not torch.equal(together, together.T):
        raise ValueError("together must be symmetric: it counts rows in which both fire (cofiring.counts gives it)")

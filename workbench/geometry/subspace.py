"""Spans and what lies in them: principal angles, effective rank, features of several dimensions, circles."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from math import factorial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..code import Code
from .beside import Against, framed
from .match import NULL
from .neighbours import neighbours

BINS = 10  # on each side, of the mutual information
TURNS = 45  # rotations tried: 2 degrees apart, a quarter turn in all
OFFSETS = 128  # lines tried for each direction of the mixture index
RADIAL = 0.28  # coefficient of variation of the radius: 0 on a circle, 0.35 in a disk, 0.52 in a Gaussian
MOMENTS = 4  # of the angle: m clusters have an m-th moment of 1, five or more evenly around none of the first four
UNEVEN = 0.38  # the largest of them that a circle may have
MIXED = 0.4  # share of points on a line: two of five places
LEVEL = 0.01
ORDERS = 50_000  # cyclic orders gone through one by one; beyond they are drawn


@dataclass(frozen=True, eq=False)
class Overlap:
    """How two spans lie: principal angles in radians, smallest first, and the mean squared cosine of them."""

    angles: Float[Tensor, " k"]
    mean: Against  # squared cosine, 1 when the smaller span lies in the other; larger is nearer
    null: Float[Tensor, "draw k"]  # cosines with random spans
    ranks: tuple[int, int]
    d: int

    @property
    def caption(self) -> str:
        """Ranks, overlap and chance."""
        return (
            f"Spans of rank {self.ranks[0]} and {self.ranks[1]} in {self.d} dimensions. Mean squared cosine of the "
            f"principal angles {self.mean.value:.3f}, of random spans {self.mean.mean:.3f} ± {self.mean.sd:.3f} "
            f"({len(self.null)} draws), z {self.mean.z:.1f}, p {self.mean.p:.3f}"
        )

    @property
    def table(self) -> pd.DataFrame:
        """One line for each principal angle, beside the mean and 97.5 % point of random spans."""
        degrees = self.angles.rad2deg().tolist()
        null, high = self.null.mean(0).tolist(), self.null.quantile(0.975, 0).tolist()
        return pd.DataFrame({"degrees": degrees, "cosine": self.angles.cos(), "null": null, "null_high": high})

    def figure(self, *, title: str = "Overlap of two spans") -> Any:
        """Cosines of the principal angles, with the band of random spans."""
        return _spectrum(self.angles.cos(), self.null, title, self.caption, "principal angle", "cosine", "random spans")


def angles(a: Float[Tensor, "m d"], b: Float[Tensor, "n other"]) -> Float[Tensor, " k"]:
    """Principal angles between the spans of two sets of rows, in radians, smallest first; min(rank a, rank b) of them.

    Source: Björck & Golub 1973, Knyazev & Argentati 2002, from scipy. Raises ValueError for widths that differ, rows
    that are zero or not finite.
    """
    from scipy.linalg import subspace_angles

    left, right = _rows("a", a), _rows("b", b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"spans of one space can be compared: a is {left.shape[1]} wide, b {right.shape[1]}")
    return torch.from_numpy(np.ascontiguousarray(subspace_angles(left.T, right.T)[::-1]))


def overlap(a: Float[Tensor, "m d"], b: Float[Tensor, "n other"], *, draws: int = 200, seed: int = 0) -> Overlap:
    """Principal angles between two spans, and those of the span of `a` with random spans of the rank of `b`.

    Random spans of ranks r and s in d dimensions have a mean squared cosine of max(r, s) / d.
    """
    found = angles(a, b)
    left, right = _basis(_rows("a", a)), _basis(_rows("b", b))
    rng = np.random.default_rng([seed, NULL])
    null = np.stack(
        [
            np.linalg.svd(left.T @ np.linalg.qr(rng.standard_normal(right.shape))[0], compute_uv=False)
            for _ in range(draws)
        ]
    )
    cosines = torch.from_numpy(null.clip(0, 1))
    mean = Against(float(found.cos().square().mean()), cosines.square().mean(-1))
    return Overlap(found, mean, cosines, (left.shape[1], right.shape[1]), left.shape[0])


@dataclass(frozen=True, eq=False)
class Rank:
    """Effective ranks of centred rows, from the shares of variance of their principal components.

    `participation` is 1 / sum share^2, `entropy` is exp(-sum share ln share); both are the number of components when
    all shares are equal. Lower than the null: coordinates vary together.
    """

    participation: Against
    entropy: Against
    shares: Float[Tensor, " component"]
    null: Float[Tensor, "draw component"]

    @property
    def caption(self) -> str:
        """Both effective ranks beside those of shuffled coordinates."""
        one, two = self.participation, self.entropy
        return (
            f"Effective rank: participation ratio {one.value:.1f} (null {one.mean:.1f}), entropy {two.value:.1f} "
            f"(null {two.mean:.1f}). Null: each coordinate shuffled over the rows, {len(self.null)} draws"
        )

    def figure(self, *, title: str = "Effective rank") -> Any:
        """Share of variance by component, with the band of shuffled coordinates."""
        return _spectrum(self.shares, self.null, title, self.caption, "component", "share of variance", "shuffled")


def effective_rank(rows: Float[Tensor, "row d"], *, draws: int = 20, seed: int = 0) -> Rank:
    """How many dimensions rows fill, by participation ratio and by entropy of the variance's shares.

    Null: each coordinate shuffled over the rows by itself, which keeps its variance and undoes what they share (Horn
    1965). Source: Roy & Vetterli 2007 for the entropy; theirs is of singular values, ours of their squares.
    """
    x = _rows("rows", rows)
    rng = np.random.default_rng([seed, NULL])
    shares = _shares(x)
    null = torch.stack([_shares(rng.permuted(x, axis=0)) for _ in range(draws)])
    part, entropy = (lambda s: 1 / s.square().sum(-1)), (lambda s: torch.special.entr(s).sum(-1).exp())
    found = [Against(float(kind(shares)), kind(null), lower=True) for kind in (part, entropy)]
    return Rank(found[0], found[1], shares, null)


class Flat(NamedTuple):
    """What two dimensions look like: is the pair one feature, two, or a mixture; and is it a circle?

    `separability` (bits, larger: less like two independent parts) and `radial` (coefficient of variation of the
    distance from a fitted centre; smaller: rounder) stand beside independent components of the same marginals,
    `mixture` (larger: more points lie on one line, as where two parts never fire together) beside a Gaussian. A circle
    has 0.16 there. `uneven` is the largest of the first four moments |mean exp(i m angle)| about that centre: 0 evenly
    around, 1 when all is at two, three or four places; two independent parts that are on or off make three.
    """

    separability: Against
    mixture: Against
    radial: Against
    uneven: float
    points: Float[Tensor, "row 2"]  # whitened, turned to where the components are most independent
    null: Float[Tensor, "row 2"]  # one draw of independent components

    @property
    def circle(self) -> bool:
        """Round (variation at most 0.28), all around (moments at most 0.38), not by chance (p <= 0.01), no mixture.

        A mixture has more than 0.4 of its points on one line.
        """
        return (
            max(self.separability.p, self.radial.p) <= LEVEL
            and self.radial.value <= RADIAL
            and self.uneven <= UNEVEN
            and self.mixture.value <= MIXED
        )


def flat(
    points: Float[Tensor, "row 2"], *, epsilon: float = 0.1, draws: int = 99, most: int = 2000, seed: int = 0
) -> Flat:
    """Separability and epsilon-mixture indices of points in a plane, and whether they lie on a circle.

    Separability: the least mutual information of the two coordinates over rotations, in bits, from 10 x 10 bins.
    Mixture: the largest share of points within epsilon * rms(v.x + c) of a line v.x + c = 0. At most `most` points are
    used, drawn at random. With fewer than 99 draws p does not reach 0.01, and nothing is called a circle.
    Raises ValueError for fewer than 50 points or points on one line.
    Source: Engels et al. 2024, arXiv 2405.14860; ours whitens first, since two independent parts along atoms that are
    not orthogonal look inseparable to rotations alone, adds the nulls, and searches lines on a grid, not by gradient.
    """
    x = _rows("points", points)
    if x.shape[1] != 2 or len(x) < 50:
        raise ValueError(f"flat wants 50 or more points of two dimensions, got {tuple(x.shape)}")
    rng = np.random.default_rng([seed, NULL])
    x = x[np.sort(rng.permutation(len(x))[:most])]
    white, back = _whitened(x)
    by_angle = _information(white[None])[0]
    best = int(by_angle.argmin())
    turn = _turn(np.pi / 2 * best / TURNS)
    turned = white @ turn
    shuffles = np.stack([np.stack([turned[:, 0], rng.permutation(turned[:, 1])], 1) for _ in range(draws)])
    bits = torch.from_numpy(_information(shuffles).min(-1))
    radii = torch.tensor([_round(s, s @ turn.T @ back)[0] for s in shuffles])
    blobs = torch.tensor([_concentration(rng.standard_normal(x.shape), epsilon) for _ in range(min(draws, 20))])
    variation, uneven = _round(white, white @ back)
    return Flat(
        Against(float(by_angle[best]), bits),
        Against(_concentration(white, epsilon), blobs),
        Against(variation, radii, lower=True),
        uneven,
        torch.from_numpy(turned).float(),
        torch.from_numpy(shuffles[0]).float(),
    )


@dataclass(frozen=True, eq=False)
class Irreducible:
    """Groups of latents and the planes of what each writes; `table` sorts them as Engels et al. do."""

    groups: list[list[int]]
    planes: list[tuple[int, int, float, int, Flat]]  # group, first component, share of variance, rows, what it is
    skipped: int  # groups with too few rows or one dimension

    @cached_property
    def table(self) -> pd.DataFrame:
        """A line for each plane: its indices beside their nulls, radius, moments of the angle, whether a circle."""
        lines = []
        for place, (group, first, share, rows, found) in enumerate(self.planes):
            one, two, three = found.separability, found.mixture, found.radial
            lines.append(
                {
                    "group": group, "latents": len(self.groups[group]), "components": f"{first + 1}, {first + 2}",
                    "rows": rows, "variance": share, "separability": one.value, "separability_null": one.mean,
                    "separability_z": one.z, "separability_p": one.p, "mixture": two.value, "mixture_null": two.mean,
                    "radial": three.value, "radial_null": three.mean, "radial_z": three.z, "radial_p": three.p,
                    "uneven": found.uneven, "score": one.value * (1 - two.value), "circle": found.circle,
                    "plane": place,
                }
            )  # fmt: skip
        columns = None if lines else ["group", "score", "circle", "plane"]
        table = pd.DataFrame(lines, columns=columns)
        return table.sort_values("score", ascending=False, ignore_index=True)

    @property
    def circles(self) -> list[int]:
        """Groups with a plane that is a circle."""
        return sorted({group for group, *_, found in self.planes if found.circle})

    @property
    def caption(self) -> str:
        """How many groups were looked at, and what was found."""
        return (
            f"{len(self.groups)} groups of latents, {self.skipped} of them skipped (too few rows, or one dimension). "
            f"{len(self.circles)} have a circle in a plane of two principal components. "
            "Null: components made independent by shuffling one of them"
        )

    def figure(self, *, most: int = 9, title: str = "Features of several dimensions") -> Any:
        """The planes of highest score (separability x (1 - mixture)), the null's points behind."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        best = self.table.head(most)
        if not len(best):
            raise ValueError("no group had rows enough for a plane: give more rows or larger groups")
        across = min(3, len(best))
        names = [f"group {r.group}: {r.score:.2f} bits{', circle' if r.circle else ''}" for _, r in best.iterrows()]
        figure = make_subplots(-(-len(best) // across), across, subplot_titles=names)
        for i, place in enumerate(best["plane"]):
            found = self.planes[place][-1]
            for name, xy, color in (("null: shuffled", found.null, "#c9ced6"), ("rows", found.points, "#5b7db1")):
                dots = go.Scatter(
                    x=xy[:, 0].tolist(), y=xy[:, 1].tolist(), mode="markers", name=name, legendgroup=name,
                    marker={"size": 3, "color": color, "opacity": 0.6}, showlegend=not i, hoverinfo="skip",
                )  # fmt: skip
                figure.add_trace(dots, 1 + i // across, 1 + i % across)
        figure.update_xaxes(showticklabels=False)
        figure.update_yaxes(showticklabels=False)
        for i in range(len(best)):
            figure.update_yaxes(scaleanchor=f"x{i + 1 if i else ''}", row=1 + i // across, col=1 + i % across)
        return framed(figure, title, self.caption, height=280 * -(-len(best) // across))


def components(
    atoms: Float[Tensor, "latent d"], *, cosine: float = 0.5, k: int = 2, smallest: int = 2, largest: int = 1000
) -> list[list[int]]:
    """Candidate groups: latents linked to their k nearest of cosine above `cosine`, and whatever hangs together.

    A ring of atoms is one group, which average linkage (`clusters`) would cut into arcs. Largest first.
    Source: Engels et al. 2024, arXiv 2405.14860 (their graph clustering of Mistral's atoms, one nearest each).
    """
    if not -1 < cosine < 1:
        raise ValueError(f"cosine must be between -1 and 1, got {cosine}")
    near = neighbours(atoms, min(k, len(atoms) - 1))
    rows, slots = (near.cosines > cosine).nonzero(as_tuple=True)
    return _hanging_together(rows, near.indices[rows, slots], len(atoms), smallest, largest)


def linked(
    affinity: Float[Tensor, "latent other"], *, above: float = 0.1, smallest: int = 2, largest: int = 1000
) -> list[list[int]]:
    """Candidate groups: latents with an affinity above `above`, and whatever hangs together; largest first.

    For what fires together (phi of `cofiring.counts`): a circle that a dictionary learned as four latents, two
    opposite pairs, has cosines of 0 and -1, but neighbours on it fire together.
    """
    if affinity.ndim != 2 or affinity.shape[0] != affinity.shape[1]:
        raise ValueError(f"affinity must be square (latent, latent), got {tuple(affinity.shape)}")
    rows, columns = (affinity > above).nonzero(as_tuple=True)
    return _hanging_together(rows, columns, len(affinity), smallest, largest)


def _hanging_together(left: Tensor, right: Tensor, n: int, smallest: int, largest: int) -> list[list[int]]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    at = left.cpu().numpy(), right.cpu().numpy()
    name = connected_components(coo_array((np.ones(len(at[0])), at), shape=(n, n)), directed=False)[1]
    found = [np.flatnonzero(name == one).tolist() for one in np.flatnonzero(np.bincount(name) >= smallest)]
    return sorted((g for g in found if len(g) <= largest), key=lambda g: (-len(g), g[0]))


def irreducible(
    groups: Sequence[Sequence[int]],
    code: Code,
    atoms: Float[Tensor, "latent d"],
    *,
    planes: int = 4,
    least: int = 200,
    draws: int = 99,
    most: int = 2000,
    seed: int = 0,
) -> Irreducible:
    """Planes of successive principal components of what each group of latents writes, where any of it fires.

    Components 1-2, 2-3, ... up to `planes` of them, while they hold a hundredth of the variance; a group with fewer
    than `least` rows is skipped. `flat` judges each plane. Time: about 0.8 s for a plane.
    Raises ValueError for a latent that is not there, or atoms that do not fit the code.
    """
    from scipy.sparse import csc_array

    if code.latents != len(atoms):
        raise ValueError(f"atoms must be those of the code's {code.latents} latents, got {len(atoms)}")
    rows, which, values = (part.detach().cpu().numpy() for part in code.entries())
    active = csc_array((values.astype(np.float64), (rows, which)), shape=(len(code), code.latents))
    found, skipped, names = [], 0, [[int(i) for i in g] for g in groups]
    for number, group in enumerate(names):
        if not group or not 0 <= min(group) <= max(group) < code.latents:
            raise ValueError(f"group {number} must hold latents 0..{code.latents - 1}, got {group}")
        part = active[:, group]
        on = np.flatnonzero(np.diff(part.tocsr().indptr))
        z = part.tocsr()[on].toarray()
        # coordinates in an orthonormal basis of the group's atoms: n x latents instead of n x d
        x = z @ np.linalg.qr(atoms[group].detach().cpu().double().numpy().T)[1].T
        x = x - x.mean(0, keepdims=True) if len(x) else x
        if len(x) < least:
            skipped += 1
            continue
        _, sizes, axes = np.linalg.svd(x, full_matrices=False)
        share = sizes**2 / max((sizes**2).sum(), 1e-300)
        enough = [i for i in range(min(planes, len(share) - 1)) if share[i + 1] > 0.01]
        skipped += not enough
        for i in enough:
            plane = torch.from_numpy(x @ axes[i : i + 2].T)
            judged = flat(plane, draws=draws, most=most, seed=seed)
            found.append((number, i, float(share[i : i + 2].sum()), len(x), judged))
    return Irreducible(names, found, skipped)


@dataclass(frozen=True, eq=False)
class Circle:
    """Whether ordered concepts lie round a circle in their order. `xy` is the plane fitted to that order.

    `score` is twice the product of the plane's half-axes over the whole variance: 1 when all variance is a circle in
    this order, 0 when they lie along a line. Points of the plane always look ordered where concepts are as good as
    orthogonal: only `score` beside other orders tells. An open arc scores high too: look at `closing`.
    """

    score: Against
    exact: bool  # every order was gone through
    xy: Float[Tensor, "concept 2"]
    roundness: float  # smaller half-axis over the larger
    variance: float  # share in the plane
    in_order: bool
    closing: float  # step from the last concept to the first over the mean of the others: 1 on a circle, more on an arc
    names: list[str]
    components: int | None

    @property
    def caption(self) -> str:
        """Score, its null, p and how many orders it was compared with."""
        many = f"all {len(self.score.null):,}" if self.exact else f"{len(self.score.null):,} random"
        return (
            f"{len(self.xy)} concepts{f' in {self.components} components' if self.components else ''}: circle score "
            f"{self.score.value:.2f}, {many} orders {self.score.mean:.2f} ± {self.score.sd:.2f}, p {self.score.p:.4f}. "
            f"The plane holds {self.variance:.0%} of the variance, roundness {self.roundness:.2f}; "
            f"{'in order' if self.in_order else 'not in order'} there; the step back from the last to the first is "
            f"{self.closing:.1f} of the others"
        )

    @property
    def table(self) -> pd.DataFrame:
        """One line for each concept: place in the plane and angle in degrees."""
        turn = torch.atan2(self.xy[:, 1], self.xy[:, 0]).rad2deg()
        return pd.DataFrame(
            {"concept": self.names, "x": self.xy[:, 0].tolist(), "y": self.xy[:, 1].tolist(), "degrees": turn.tolist()}
        )

    def figure(self, *, title: str = "Concepts round a circle") -> Any:
        """The plane fitted to the order, and the score among those of other orders."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        figure = make_subplots(1, 2, subplot_titles=["plane fitted to the order", "score against other orders"])
        xy = torch.cat([self.xy, self.xy[:1]]).tolist()
        path = go.Scatter(
            x=[p[0] for p in xy], y=[p[1] for p in xy], text=[*self.names, ""], mode="lines+markers+text",
            textposition="top center", name="concepts", line={"color": "#b9c6dc"}, marker={"color": "#5b7db1"},
        )  # fmt: skip
        figure.add_trace(path, 1, 1)
        null = go.Histogram(x=self.score.null.tolist(), nbinsx=40, name="null: other orders", marker_color="#b0b7c3")
        figure.add_trace(null, 1, 2)
        figure.add_vline(self.score.value, line_color="#c0504d", annotation_text="this order", row=1, col=2)  # pyright: ignore[reportArgumentType]
        figure.update_yaxes(scaleanchor="x", row=1, col=1)
        figure.update_xaxes(title="circle score", row=1, col=2)
        figure.update_yaxes(title="orders", row=1, col=2)
        return framed(figure, title, self.caption)


def circle(
    ordered: Float[Tensor, "concept d"],
    *,
    names: Sequence[str] | None = None,
    components: int | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Circle:
    """Do vectors of ordered concepts (Monday .. Sunday: class means, or atoms) lie in order round a circle in a plane?

    The vectors, centred, are fitted with cos and sin of their places; null: the same for every other cyclic order (up
    to 50,000 of them, as of nine concepts: p is exact), or `draws` random ones. Turning or mirroring an order changes
    nothing, so seven days have 360 orders. `components` keeps only that many principal components of the concepts
    first, which is the only sensible way where they are as good as orthogonal: all orders are then alike.
    Raises ValueError for fewer than 5 concepts (4 have three orders), concepts that are all alike, names that do not
    fit. Source: the question is Engels et al. 2024 (arXiv 2405.14860); the score and its null are ours.
    """
    x = _rows("ordered", ordered)
    n = len(x)
    if n < 5:
        raise ValueError(f"a circle wants 5 or more concepts in order (fewer have too few orders), got {n}")
    if names is not None and len(names) != n:
        raise ValueError(f"names must be one for each of {n} concepts, got {len(names)}")
    x = x - x.mean(0)
    u, sizes, axes = np.linalg.svd(x, full_matrices=False)
    if sizes[0] <= 1e-9 * np.abs(ordered.detach().cpu().double().numpy()).max():
        raise ValueError("the concepts are all alike: nothing can be ordered")
    if components is not None:
        if not 2 <= components < n:
            raise ValueError(f"components must be 2..{n - 1} for {n} concepts, got {components}")
        x = (u[:, :components] * sizes[:components]) @ axes[:components]
    place = 2 * np.pi * np.arange(n) / n
    waves = np.stack([np.cos(place), np.sin(place)], 1) * (2 / n) ** 0.5  # orthonormal, and orthogonal to constants
    gram = x @ x.T
    exact = factorial(n - 1) // 2 <= ORDERS
    scores = _scores(gram, waves, _orders(n, exact, draws, seed))
    value = _scores(gram, waves, np.arange(n)[None])[0]
    held = Against(float(value), torch.from_numpy(scores), whole=exact)
    _, halves, plane = np.linalg.svd(waves.T @ x, full_matrices=False)
    xy = x @ plane.T
    steps = np.linalg.norm(np.roll(x, -1, 0) - x, axis=1)
    return Circle(
        held,
        exact,
        torch.from_numpy(xy).float(),
        float(halves[1] / halves[0]),
        float((xy**2).sum() / (x**2).sum()),
        _ordered(xy),
        float(steps[-1] / steps[:-1].mean()),
        [str(i) for i in range(n)] if names is None else list(names),
        components,
    )


def _orders(n: int, exact: bool, draws: int, seed: int) -> np.ndarray:
    """Cyclic orders, each once (turned and mirrored ones are the same), or random ones."""
    if not exact:
        rng = np.random.default_rng([seed, NULL])
        return rng.permuted(np.tile(np.arange(n), (draws, 1)), axis=1)
    rest = np.array(list(permutations(range(1, n))))
    rest = rest[rest[:, 0] < rest[:, -1]]
    return np.concatenate([np.zeros((len(rest), 1), int), rest], 1)


def _scores(gram: np.ndarray, waves: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """2 x the product of the singular values of waves.T @ x, over the sum of squares of x, for each order of rows."""
    found = []
    for part in np.array_split(orders, max(1, len(orders) // 4096)):
        moved = np.zeros((len(part), *waves.shape))
        np.put_along_axis(moved, part[:, :, None], waves[None], 1)  # concept part[i] stands at place i
        inner = np.einsum("qia,ij,qjb->qab", moved, gram, moved, optimize=True)
        det = inner[:, 0, 0] * inner[:, 1, 1] - inner[:, 0, 1] * inner[:, 1, 0]
        found.append(2 * np.sqrt(det.clip(0)) / np.trace(gram))
    return np.concatenate(found)


def _ordered(xy: np.ndarray) -> bool:
    """Going round the centre meets the concepts in their order, in either direction."""
    steps = np.diff(np.angle(xy[:, 0] + 1j * xy[:, 1]), append=np.angle(xy[0, 0] + 1j * xy[0, 1]))
    steps = (steps + np.pi) % (2 * np.pi) - np.pi
    return bool((steps > 0).all() or (steps < 0).all()) and bool(abs(abs(steps.sum()) - 2 * np.pi) < 1e-6)


def _rows(name: str, x: Tensor) -> np.ndarray:
    if x.ndim != 2 or not len(x):
        raise ValueError(f"{name} must be one or more rows (n, d), got {tuple(x.shape)}")
    found = x.detach().cpu().double().numpy()
    if bad := int((~np.isfinite(found)).any(1).sum()):
        raise ValueError(f"{bad} of {len(x)} rows of {name} are not finite: check where they come from")
    if not found.any():
        raise ValueError(f"{name} are all zero: they span nothing")
    return found


def _basis(rows: np.ndarray) -> np.ndarray:
    from scipy.linalg import orth

    return np.asarray(orth(rows.T))  # (d, rank)


def _shares(x: np.ndarray) -> Tensor:
    values = torch.from_numpy(np.linalg.svd(x - x.mean(0), compute_uv=False)).square()
    if not values.sum() > 0:
        raise ValueError("the rows are all alike: their variance is 0 and has no rank")
    return values / values.sum()


def _whitened(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centred points of unit covariance, and the matrix that undoes it."""
    u, sizes, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    if sizes[1] <= 1e-6 * sizes[0]:
        raise ValueError("the points lie on one line: there is no second dimension to judge")
    return u * len(x) ** 0.5, sizes[:, None] / len(x) ** 0.5 * axes


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _information(x: np.ndarray) -> np.ndarray:
    """Mutual information of the two coordinates in bits, (cloud, rotation up to a quarter turn)."""
    clouds, n, _ = x.shape
    found = np.empty((clouds, TURNS))
    first = BINS * BINS * np.arange(clouds)[:, None]
    for i in range(TURNS):
        y = x @ _turn(np.pi / 2 * i / TURNS)
        low = y.min(1, keepdims=True)
        bins = ((y - low) * (BINS / (y.max(1, keepdims=True) - low))).astype(int).clip(0, BINS - 1)
        cell = (first + bins[..., 0] * BINS + bins[..., 1]).ravel()
        joint = np.bincount(cell, minlength=clouds * BINS * BINS).reshape(clouds, BINS, BINS) / n
        entropies = [
            -(p * np.log2(np.where(p > 0, p, 1))).reshape(clouds, -1).sum(1)
            for p in (joint.sum(2), joint.sum(1), joint)
        ]
        found[:, i] = entropies[0] + entropies[1] - entropies[2]
    return found


def _concentration(x: np.ndarray, epsilon: float) -> float:
    """The largest share of points within epsilon rms of a line, over directions and offsets."""
    best = 0.0
    for angle in np.pi * np.arange(2 * TURNS) / (2 * TURNS):
        y = np.sort(x @ np.array([np.cos(angle), np.sin(angle)]))
        where = np.linspace(y[0], y[-1], OFFSETS)
        reach = epsilon * np.sqrt(((y.mean() - where) ** 2) + y.var())
        inside = np.searchsorted(y, where + reach) - np.searchsorted(y, where - reach)
        best = max(best, inside.max() / len(y))
    return float(best)


def _round(*clouds: np.ndarray) -> tuple[float, float]:
    """Variation of the radius and largest moment of the angle, of the rounder of the same points in several scales.

    Whitening makes an ellipse round, but bends a circle whose parts are not equally frequent.
    """
    found = []
    for x in clouds:
        around = x - _centre(x)
        radius = np.linalg.norm(around, axis=1)
        turn = around @ np.array([1, 1j]) / radius.clip(1e-300)
        moments = [abs((turn**m).mean()) for m in range(1, MOMENTS + 1)]
        found.append((float(radius.std() / radius.mean()), float(max(moments))))
    return min(found)


def _centre(x: np.ndarray) -> np.ndarray:
    """The centre of the circle fitted to points by least squares (Kåsa 1976)."""
    return np.linalg.lstsq(np.concatenate([2 * x, np.ones((len(x), 1))], 1), (x**2).sum(1), rcond=None)[0][:2]


def _spectrum(values: Tensor, null: Tensor, title: str, caption: str, x: str, y: str, name: str) -> Any:
    """A falling curve with the 95 % band of its null."""
    import plotly.graph_objects as go

    places = list(range(1, len(values) + 1))
    band = null.quantile(torch.tensor([0.025, 0.975], dtype=null.dtype), 0)
    figure = go.Figure()
    for edge, fill in ((band[0], None), (band[1], "tonexty")):
        figure.add_trace(
            go.Scatter(
                x=places, y=edge.tolist(), fill=fill, name=f"null: {name}, 95 %", showlegend=fill is not None,
                mode="lines", line={"color": "#b0b7c3", "width": 1},
            )
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(x=places, y=values.tolist(), name="observed", mode="lines+markers", marker_color="#5b7db1")
    )
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return framed(figure, title, caption)

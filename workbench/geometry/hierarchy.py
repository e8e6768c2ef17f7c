"""Parents and children among directions: conditional orthogonality, coherence, and depth in a taxonomy."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..code import Code
from .beside import Against, framed
from .match import NULL, random_directions
from .neighbours import CHUNK, cosines_of, directions

PAIRS = 1 << 24  # numbers of atoms held at once where atoms on together are compared


@dataclass(frozen=True, eq=False)
class Conditional:
    """How children leave their parents. `table`: for each child cos(p, c - p), and its mean cosine with its siblings.

    `steps` is the mean |cos(p, c - p)|, small where what a child adds is orthogonal to its parent; `siblings` the mean
    cos(c1 - p, c2 - p), beside `simplex`, the mean of -1 / (K - 1) over parents of K children (0: orthogonal). Both
    nulls give each child, or pair of siblings, another parent.
    """

    table: pd.DataFrame  # child, parent, cosine, siblings
    steps: Against  # lower is more orthogonal
    siblings: Against
    simplex: float
    halves: bool
    lost: int  # children whose step or parent is smaller than its noise, so that no angle can be estimated

    @property
    def caption(self) -> str:
        """Both cosines beside shuffled parents."""
        one, two = self.steps, self.siblings
        return (
            f"{len(self.table)} children{' by halves of the rows' if self.halves else ''}, {self.lost} lost in noise. "
            f"Mean |cos(p, c - p)| {one.value:.3f}, with another parent {one.mean:.3f} ± {one.sd:.3f}, p {one.p:.3f}; "
            f"siblings' steps {two.value:.3f}, from another parent {two.mean:.3f}, in a simplex {self.simplex:.3f}"
        )

    def figure(self, *, title: str = "Steps from parents to children") -> Any:
        """The mean |cosine| and the siblings' cosine among those with shuffled parents."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        names = ["mean |cos(p, c - p)|", "mean cos(c1 - p, c2 - p)"]
        figure = make_subplots(1, 2, subplot_titles=names)
        for column, held in enumerate((self.steps, self.siblings), 1):
            null = go.Histogram(
                x=held.null.tolist(), nbinsx=30, name="null: another parent", marker_color="#b0b7c3",
                showlegend=column == 1,
            )  # fmt: skip
            figure.add_trace(null, 1, column)
            figure.add_vline(held.value, line_color="#c0504d", annotation_text="own", row=1, col=column)  # pyright: ignore[reportArgumentType]
        if np.isfinite(self.simplex):
            figure.add_vline(self.simplex, line_dash="dot", annotation_text="simplex", row=1, col=2)  # pyright: ignore[reportArgumentType]
        figure.update_yaxes(title="draws")
        return framed(figure, title, self.caption)


def class_vectors(
    rows: Float[Tensor, "row d"], on: Bool[Tensor, "other class"], *, seed: int = 0
) -> Float[Tensor, "half class d"]:
    """Mean row where each class is on, less the mean of all rows, from either half of the rows, drawn at random.

    Rows of one document are alike: give rows of different documents, or noise is shared by the halves.
    Raises ValueError for a class that is on in fewer than 2 rows of a half.
    """
    if len(rows) != len(on):
        raise ValueError(f"on must say of each of {len(rows)} rows which classes it has, got {len(on)}")
    drawn = torch.from_numpy(np.random.default_rng([seed, NULL]).permutation(len(rows)))
    found = []
    for half in drawn.chunk(2):
        x, which = rows[half].double(), on[half].double()
        many = which.sum(0)
        if int((many < 2).sum()):
            raise ValueError(f"class {int(many.argmin())} is on in {int(many.min())} rows of a half: 2 are needed")
        found.append((which.T @ x) / many[:, None] - x.mean(0))
    return torch.stack(found).float()


def conditional(
    classes: Float[Tensor, "class d"],
    parents: Sequence[int] | Int[Tensor, " n"],
    *,
    other: Float[Tensor, "again width"] | None = None,
    covariance: Float[Tensor, "one two"] | None = None,
    draws: int = 200,
    seed: int = 0,
) -> Conditional:
    """Is what a child adds to its parent orthogonal to it? `parents` is the class above each, -1 for none.

    cos(p, c - p) of one estimate is biased below 0, since p's noise stands in both with opposite signs, and siblings'
    above 0. With `other`, estimates from other rows, every product is taken across the two and has no such bias.
    `covariance` is that of the unembedding's rows: angles are then between Cov^-1/2 x, the causal inner product for
    vectors that live among unembedding rows (for the residual stream's own directions give its inverse).
    Raises ValueError for parents that do not fit, fewer than two different parents, a covariance not positive definite.
    Source: Park et al. 2024, arXiv 2406.01506; the halves and the null of other parents are ours.
    """
    above = torch.as_tensor(parents).long().cpu()
    n = len(classes)
    if above.shape != (n,) or int(above.max()) >= n or int(above.min()) < -1 or bool((above == torch.arange(n)).any()):
        raise ValueError(f"parents must be one of -1..{n - 1} for each of {n} classes and never itself")
    child = (above >= 0).nonzero()[:, 0]
    choices = above[child].unique()
    if len(choices) < 2:
        raise ValueError(f"{len(choices)} parents: two or more are needed, or there is no other parent to compare with")
    if other is not None and other.shape != classes.shape:
        raise ValueError(f"other must be the same classes, {tuple(classes.shape)}, got {tuple(other.shape)}")
    a = _causal(classes.detach().cpu().double(), covariance)
    b = a if other is None else _causal(other.detach().cpu().double(), covariance)
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise ValueError("class vectors are not finite: check the rows they come from")
    left, right = _siblings(above, child)

    def angles(own: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines of steps for parents `own` of every child, and of the siblings' steps from the first one's parent."""
        p, q = own[child], own[left]
        steps = _cosine(a[p], b[p], a[child] - a[p], b[child] - b[p])
        return steps, _cosine(a[left] - a[q], b[left] - b[q], a[right] - a[q], b[right] - b[q])

    def mean(cosines: Tensor) -> float:
        return float(cosines.nanmean()) if len(cosines) else float("nan")

    steps, pairs = angles(above)
    rng, nulls = np.random.default_rng([seed, NULL]), []
    for _ in range(draws):
        nulls.append([mean(part) for part in _sized(angles(_others(above, child, choices, rng)))])
    null = torch.tensor(nulls, dtype=torch.float64)
    children = torch.bincount(above[child], minlength=n)
    several = children[children > 1].double()
    total, many = (torch.zeros(n, dtype=torch.float64) for _ in range(2))
    for side in (left, right):
        total.index_add_(0, side, pairs.nan_to_num())
        many.index_add_(0, side, (~pairs.isnan()).double())
    return Conditional(
        pd.DataFrame(
            {
                "child": child.numpy(),
                "parent": above[child].numpy(),
                "cosine": steps.numpy(),
                "siblings": (total / many)[child].numpy(),
            }
        ),
        Against(mean(steps.abs()), null[:, 0], lower=True),
        Against(mean(pairs), null[:, 1], lower=True),
        float((-1 / (several - 1)).mean()) if len(several) else float("nan"),
        other is not None,
        int(steps.isnan().sum()),
    )


@dataclass(frozen=True, eq=False)
class Babel:
    """mu_1(k): the largest sum of the k largest |cosines| of an atom with others; k = 1 is the coherence.

    `null` is that of random directions of the same shape. Lower is nearer to orthogonal; at most k.
    """

    values: Float[Tensor, " k"]
    null: Float[Tensor, "draw k"]

    @property
    def caption(self) -> str:
        """First and last value beside random directions."""
        k, null = len(self.values), self.null.mean(0)
        return (
            f"Babel function. Largest |cosine| of two atoms {self.values[0]:.3f} (random {null[0]:.3f}); largest "
            f"sum of {k}: {self.values[-1]:.2f} (random {null[-1]:.2f}, {len(self.null)} draws)"
        )

    def figure(self, *, title: str = "Babel function") -> Any:
        """mu_1(k) over k, with random directions."""
        import plotly.graph_objects as go

        k = list(range(1, len(self.values) + 1))
        figure = go.Figure()
        for i, draw in enumerate(self.null.tolist()):
            line = {"color": "#b0b7c3", "width": 1}
            figure.add_trace(go.Scatter(x=k, y=draw, line=line, name="null: random directions", showlegend=i == 0))
        figure.add_trace(go.Scatter(x=k, y=self.values.tolist(), name="atoms", line={"color": "#5b7db1"}))
        figure.update_xaxes(title="k")
        figure.update_yaxes(title="largest sum of k |cosines|")
        return framed(figure, title, self.caption)


def babel(atoms: Float[Tensor, "latent d"], k: int = 32, *, draws: int = 3, seed: int = 0) -> Babel:
    """mu_1(1..k) of a dictionary, exactly, from all pairs; memory is 1,024 x latents.

    Source: Tropp 2004: the largest sum over sets of k atoms and an atom outside. Raises ValueError for k not in
    1..latents - 1, atoms without a direction.
    """
    unit = directions(atoms)
    if not 1 <= k < len(unit):
        raise ValueError(f"k must be 1..{len(unit) - 1} for {len(unit)} atoms, got {k}")
    null = [_babel(random_directions(*unit.shape, seed=1000 * seed + i), k) for i in range(draws)]
    return Babel(_babel(unit, k), torch.stack(null))


@dataclass(frozen=True, eq=False)
class Coherence:
    """Largest |cosine| of two atoms that are on in one row, for rows with two or more; and for latents dealt anew.

    `mean` below its null: a row's atoms are nearer to orthogonal than as many that fire as often; above: nearer to
    parallel. `whole` is the largest of the dictionary.
    """

    rows: Float[Tensor, " some"]
    null: Float[Tensor, " some"]
    mean: Against
    whole: float

    @property
    def caption(self) -> str:
        """Mean over rows beside the null, and the whole dictionary's coherence."""
        return (
            f"Largest |cosine| of two atoms on in one row: mean {self.mean.value:.3f} over {len(self.rows):,} rows. "
            f"Latents dealt to the rows anew {self.mean.mean:.3f} ± {self.mean.sd:.3f}, z {self.mean.z:.1f}; "
            f"any two of the dictionary {self.whole:.3f}"
        )

    def figure(self, *, title: str = "Coherence of atoms on together") -> Any:
        """Histogram over rows, with that of latents dealt anew and the whole dictionary's."""
        import plotly.graph_objects as go

        figure = go.Figure()
        bins = {"start": 0, "end": 1.0001, "size": 0.02}
        for name, values, color in (
            ("observed", self.rows, "#5b7db1"),
            ("null: latents dealt anew", self.null, "#b0b7c3"),
        ):
            figure.add_trace(go.Histogram(x=values.tolist(), name=name, xbins=bins, opacity=0.7, marker_color=color))
        figure.add_vline(self.whole, line_dash="dot", annotation_text="whole dictionary")
        figure.update_layout(barmode="overlay")
        figure.update_xaxes(title="largest |cosine| in a row")
        figure.update_yaxes(title="rows")
        return framed(figure, title, self.caption)


def coherence(code: Code, atoms: Float[Tensor, "latent d"], *, draws: int = 20, seed: int = 0) -> Coherence:
    """How coherent the atoms are that one input selects together, beside the same latents dealt to rows at random.

    The null keeps how many are on in a row and how often each latent is; a latent dealt twice to a row is swapped away,
    in up to 50 rounds, and counts once where that fails.
    Raises ValueError for atoms that do not fit the code, or no row with two latents on.
    Source: the conditional coherence of Costa et al. 2025, arXiv 2506.03093; the null is ours.
    """
    if code.latents != len(atoms):
        raise ValueError(f"atoms must be those of the code's {code.latents} latents, got {len(atoms)}")
    rows, latents, _ = code.entries()
    many = torch.bincount(rows, minlength=len(code))
    keep = many[rows] > 1
    rows, latents, many = rows[keep], latents[keep], many[many > 1]
    if not len(many):
        raise ValueError("no row has two latents on: there is nothing to compare")
    unit = torch.zeros(len(atoms), atoms.shape[1])
    used = latents.unique()
    unit[used] = directions(atoms[used])
    rng = np.random.default_rng([seed, NULL])
    found = _together(latents, many, unit)
    nulls = [_together(_dealt(latents, many, rng), many, unit) for _ in range(draws)]
    mean = Against(float(found.mean()), torch.stack([n.mean() for n in nulls]), lower=True)
    return Coherence(found, nulls[0], mean, float(_babel(unit[used], 1)[0]))


@dataclass(frozen=True, eq=False)
class Depth:
    """How deep in a taxonomy the examples of each latent meet: mean depth of the lowest common ancestor of two of them.

    0: they share nothing, `levels`: all are of one leaf. `random` is the mean of sets of as many examples drawn from
    all, `expected` its exact value. `order` is Spearman's correlation of depth with the group, against shuffled groups.
    """

    depths: Float[Tensor, " latent"]  # NaN where a latent has too few examples
    group: Int[Tensor, " latent"] | None
    random: Float[Tensor, " draw"]
    expected: float
    levels: int
    order: Against | None

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line for each group (or one in all): latents, mean depth, and the random sets' mean and 97.5 % point."""
        group = torch.zeros(len(self.depths), dtype=torch.int64) if self.group is None else self.group
        seen = ~self.depths.isnan()
        high, lines = float(self.random.quantile(0.975)), []
        for g in group.unique():
            own = self.depths[seen & (group == g)]
            mean = float(own.mean()) if len(own) else float("nan")
            line = {"group": int(g), "latents": len(own), "depth": mean, "random": self.expected, "random_high": high}
            lines.append(line)
        return pd.DataFrame(lines)

    @property
    def caption(self) -> str:
        """Mean depth, chance, and the order of groups."""
        seen = self.depths[~self.depths.isnan()]
        held = self.order
        said = "" if held is None else f"; Spearman with the group {held.value:.2f} (p {held.p:.3f} by shuffled groups)"
        return (
            f"Examples of {len(seen)} latents meet at depth {seen.mean():.2f} of {self.levels}, "
            f"{len(self.depths) - len(seen)} have too few. Random sets meet at {self.expected:.2f}{said}"
        )

    def figure(self, *, title: str = "Depth in the taxonomy") -> Any:
        """Depths by group, with random sets."""
        import plotly.graph_objects as go

        group = torch.zeros(len(self.depths), dtype=torch.int64) if self.group is None else self.group
        figure = go.Figure(go.Box(y=self.random.tolist(), name="null: random sets", marker_color="#b0b7c3"))
        for g in group.unique().tolist():
            values = self.depths[(group == g) & ~self.depths.isnan()].tolist()
            figure.add_trace(go.Box(y=values, name=f"group {g}", boxpoints="all", marker_color="#5b7db1"))
        figure.update_yaxes(title="mean depth of common ancestors", range=[-0.1, self.levels + 0.1])
        return framed(figure, title, self.caption)


def depth(
    top: Int[Tensor, "latent example"],
    paths: Int[Tensor, "all level"],
    *,
    values: Float[Tensor, "latent example"] | None = None,
    group: Int[Tensor, " n"] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Depth:
    """Mean depth of the lowest common ancestor of each latent's strongest examples, by Matryoshka group.

    `top` holds each latent's examples (16, say), `paths` the labels of each example from the root down, equal as long
    as two share their branch. With `values`, a latent whose last is 0 or less has too few and is left out. Frequent
    classes deepen all sets by chance: compare with `expected`, or give as many examples of each class.
    Raises ValueError for fewer than 2 examples each, an example that has no path.
    Source: the taxonomic depth of Pach et al. 2025 (arXiv 2504.02821); ours does not round, and adds the nulls.
    """
    n, m = top.shape
    if m < 2 or int(top.min()) < 0 or int(top.max()) >= len(paths):
        raise ValueError(
            f"top must hold 2 or more of the {len(paths)} examples for each latent, got {tuple(top.shape)}"
        )
    branch = _branches(paths)
    found = _depths(branch[top])
    if values is not None:
        found = torch.where(values[:, -1] > 0, found, torch.nan)
    rng = np.random.default_rng([seed, NULL])
    drawn = np.stack([rng.choice(len(paths), m, replace=len(paths) < m) for _ in range(draws)])
    random = _depths(branch[torch.from_numpy(drawn)])
    sizes = [torch.bincount(level).double() for level in branch.T]
    expected = sum(float((s * (s - 1)).sum()) for s in sizes) / (len(paths) * (len(paths) - 1))
    order = None
    if group is not None:
        if group.shape != (n,):
            raise ValueError(f"group must be one for each of {n} latents, got {tuple(group.shape)}")
        seen = ~found.isnan()
        rank, own = _ranks(group[seen].double()), _ranks(found[seen])
        shuffles = torch.from_numpy(np.stack([rng.permutation(len(rank)) for _ in range(draws)]))
        order = Against(float(_correlation(rank, own)), _correlation(rank[shuffles], own))
    return Depth(found, group, random, expected, paths.shape[1], order)


def _branches(paths: Tensor) -> Tensor:
    """Numbers of the branches (prefixes of paths) that each example lies in, (all, level)."""
    found = [paths[:, : level + 1].unique(dim=0, return_inverse=True)[1] for level in range(paths.shape[1])]
    return torch.stack(found, 1)


def _depths(branch: Tensor) -> Tensor:
    """Mean over pairs of how many levels they share; (set, example, level)."""
    m = branch.shape[1]
    one, two = torch.triu_indices(m, m, 1)
    return (branch[:, one] == branch[:, two]).double().sum(-1).mean(-1)


def _ranks(x: Tensor) -> Tensor:
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(x.numpy()))


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def _causal(x: Tensor, covariance: Tensor | None) -> Tensor:
    if covariance is None:
        return x
    square = covariance.shape[0] == covariance.shape[1]
    values, axes = torch.linalg.eigh(covariance.detach().cpu().double() if square else torch.zeros(1, 1).double())
    if covariance.shape != (x.shape[1],) * 2 or not bool(values[0] > 1e-10 * values[-1]):
        raise ValueError(
            f"covariance must be ({x.shape[1]}, {x.shape[1]}) and positive definite, got {tuple(covariance.shape)} "
            f"with eigenvalues from {values[0]:.2g} to {values[-1]:.2g}"
        )
    return x @ (axes / values.sqrt()) @ axes.T


def _cosine(one: Tensor, again: Tensor, two: Tensor, too: Tensor) -> Tensor:
    """Cosine of two vectors known by two estimates each (`one`, `again`; `two`, `too`); NaN if lost in noise."""
    inner = ((one * too).sum(-1) + (again * two).sum(-1)) / 2
    sizes = (one * again).sum(-1), (two * too).sum(-1)
    fine = (sizes[0] > 0) & (sizes[1] > 0)
    return torch.where(fine, inner / (sizes[0] * sizes[1]).clamp_min(0).sqrt(), torch.nan)


def _siblings(above: Tensor, child: Tensor) -> tuple[Tensor, Tensor]:
    one, two = torch.triu_indices(len(child), len(child), 1)
    alike = above[child[one]] == above[child[two]]
    return child[one[alike]], child[two[alike]]


def _others(above: Tensor, child: Tensor, choices: Tensor, rng: np.random.Generator) -> Tensor:
    """Parents drawn anew: any parent of another child, but not one's own, nor oneself."""
    found = above.clone()
    for i in child.tolist():
        allowed = choices[(choices != above[i]) & (choices != i)]
        found[i] = allowed[int(rng.integers(len(allowed)))] if len(allowed) else above[i]
    return found


def _sized(parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return parts[0].abs(), parts[1]


def _babel(unit: Tensor, k: int) -> Tensor:
    best = torch.zeros(k, dtype=torch.float64)
    for start in range(0, len(unit), CHUNK):
        cosines = cosines_of(unit, start, CHUNK).abs()
        cosines[cosines == torch.inf] = -torch.inf  # an atom and itself
        best = torch.maximum(best, cosines.topk(k).values.double().cumsum(-1).amax(0).cpu())
    return best


def _dealt(latents: Tensor, many: Tensor, rng: np.random.Generator) -> Tensor:
    """The entries' latents in another order, such that (nearly) no row has one twice."""
    row = np.repeat(np.arange(len(many)), many.numpy())
    found = rng.permutation(latents.numpy())
    for _ in range(50):
        order = np.lexsort((found, row))
        same = (np.diff(row[order]) == 0) & (np.diff(found[order]) == 0)
        twice = order[1:][same]
        if not len(twice):
            break
        moved = np.unique(np.concatenate([twice, rng.integers(len(found), size=len(twice))]))
        found[moved] = found[rng.permutation(moved)]
    return torch.from_numpy(found)


def _together(latents: Tensor, many: Tensor, unit: Tensor) -> Tensor:
    """Largest |cosine| of two different latents of each row; rows lie one after another, `many` long."""
    ends, found = many.cumsum(0), torch.empty(len(many))
    for size in many.unique().tolist():
        rows = (many == size).nonzero()[:, 0]
        for part in rows.split(max(1, PAIRS // (size * (unit.shape[1] + size)))):
            which = latents[(ends[part] - size)[:, None] + torch.arange(size)]
            cosines = (unit[which] @ unit[which].mT).abs()
            found[part] = cosines.masked_fill(which[:, :, None] == which[:, None, :], 0).amax((1, 2))
    return found

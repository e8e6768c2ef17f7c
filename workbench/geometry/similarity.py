"""How alike two sets of rows are, each number beside what chance gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .beside import Against, framed

FEWEST = 10  # rows of which something can be said
MOST = 5_792  # rows whose similarities to each other are held: 2^25 as float64
Of = Callable[[np.ndarray | None], float]  # the value when the rows of y stand in this order, None for as given


@dataclass(frozen=True, eq=False)
class Score:
    """One similarity with what chance gives: `null` with the pairing shuffled, `random` with random latents instead.

    Higher is more alike. `p` is (1 + nulls at least as high) / (1 + nulls), `z` in the null's standard deviations; NaN
    without nulls.
    """

    measure: str
    value: float
    null: Float[Tensor, " draw"]
    note: str = ""
    random: Float[Tensor, " again"] | None = None

    @property
    def p(self) -> float:
        return Against(self.value, self.null).p

    @property
    def z(self) -> float:
        return Against(self.value, self.null).z


@dataclass(frozen=True, eq=False)
class LayerSimilarity:
    """`matrix[i, j]`: how alike layer i of A and layer j of B are.

    `score` is the share of A's layers whose most similar layer of B is at the same depth, beside B's layers in random
    order; `distance` the mean |l - l'| in layers, `chance_distance` that of a layer drawn at random.
    """

    measure: str
    matrix: Float[Tensor, "layer layer"]
    names: list[str]
    score: Score

    @property
    def distance(self) -> float:
        own = torch.arange(len(self.matrix))
        return float((self.matrix.argmax(1) - own).abs().double().mean())

    @property
    def chance_distance(self) -> float:
        n = len(self.matrix)
        return (n * n - 1) / (3 * n)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line for each pair of layers."""
        n = len(self.matrix)
        return pd.DataFrame(
            {
                "a": np.repeat(self.names, n),
                "b": np.tile(self.names, n),
                "similarity": self.matrix.flatten().numpy(),
                "most_similar": (torch.arange(n) == self.matrix.argmax(1)[:, None]).flatten().numpy(),
            }
        )

    @property
    def caption(self) -> str:
        n = len(self.matrix)
        return (
            f"{self.measure}: {self.score.value:.0%} of {n} layers find their own depth (chance {1 / n:.0%}, "
            f"p {self.score.p:.2g}); mean distance {self.distance:.2f} layers (chance {self.chance_distance:.2f})."
        )

    def figure(self, *, title: str = "Which layers are alike?") -> Any:
        """Plotly: the matrix, a cross where B's most similar layer stands, and the share of hits beside its null."""
        from plotly.subplots import make_subplots

        figure = make_subplots(
            cols=2, horizontal_spacing=0.2, subplot_titles=[self.measure, "layers that find their own depth"]
        )
        figure.add_heatmap(
            z=self.matrix.numpy(),
            x=self.names,
            y=self.names,
            colorscale="Viridis",
            colorbar={"x": 0.41, "thickness": 12},
        )
        figure.add_scatter(
            x=[self.names[j] for j in self.matrix.argmax(1).tolist()],
            y=self.names,
            mode="markers",
            marker={"symbol": "x", "color": "#e45756", "size": 10},
            name="most similar layer of B",
        )
        _beside(figure, self.score, 1, 2, True)
        figure.update_xaxes(title="layer of B", col=1)
        figure.update_yaxes(title="layer of A", col=1)
        return framed(figure, title, self.caption)


def svcca(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "rows other"],
    *,
    keep: float = 0.99,
    guard: int = 5,
    draws: int = 100,
    seed: int = 0,
) -> Score:
    """Mean canonical correlation of the leading directions of x and y that hold `keep` of each one's variance.

    1 for a rotated, shifted or rescaled copy. Canonical correlations rise to 1 with as many directions as rows,
    whatever the rows: at most n / `guard` are kept, the leading ones, and `note` says so; even then chance is about
    0.4, so read the value beside its null. guard=1 switches it off.
    Source: Raghu et al. 2017, arXiv 1706.05806; Lan et al. 2024, whose public cut compares the cumulative share of the
    variance with 0.99 of its total and keeps one direction; ours compares shares.
    """
    if not 0 < keep <= 1 or guard < 1:
        raise ValueError(f"keep must be a share up to 1 and guard 1 or more, got {keep} and {guard}")
    left, right = _both(x, y)
    (u, wanted_u), (v, wanted_v) = _leading(left, keep, guard), _leading(right, keep, guard)
    dims = f"{u.shape[1]} and {v.shape[1]} dimensions"
    if cut := u.shape[1] < wanted_u or v.shape[1] < wanted_v:
        dims += f", cut from {wanted_u} and {wanted_v}: {len(u)} rows are fewer than {guard} for each"

    def of(order: np.ndarray | None) -> float:
        turned = v if order is None else v[order]
        return float(np.linalg.svd(u.T @ turned, compute_uv=False).clip(0, 1).mean())

    return _scored("SVCCA (guarded)" if cut else "SVCCA", of, len(u), draws, seed, dims)


def cka(x: Float[Tensor, "n d"], y: Float[Tensor, "rows other"], *, draws: int = 100, seed: int = 0) -> Score:
    """Linear CKA: 1 for a rotated, shifted or rescaled copy, and lower where small directions differ less than SVCCA.

    Few rows in many dimensions raise it for any x and y: read it beside its null. Source: Kornblith et al. 2019,
    arXiv 1905.00414, the biased estimator.
    """
    left, right = _both(x, y)
    size = np.linalg.norm(left.T @ left) * np.linalg.norm(right.T @ right)

    def of(order: np.ndarray | None) -> float:
        return float(np.linalg.norm(left.T @ (right if order is None else right[order])) ** 2 / size)

    return _scored("CKA", of, len(left), draws, seed)


def rsa(x: Float[Tensor, "n d"], y: Float[Tensor, "rows other"], *, draws: int = 100, seed: int = 0) -> Score:
    """Do the same pairs of rows look alike? Spearman correlation of all Pearson similarities within x and within y.

    All pairs of rows are held: at most 5,792 rows. Source: Kriegeskorte et al. 2008; Lan et al. 2024.
    """
    left, right = _both(x, y, centre=False)
    if len(left) > MOST:
        raise ValueError(f"rsa holds all pairs of at most {MOST} rows, got {len(left)}: give a sample of them")
    ranks, other = _ranks(left, "x"), _ranks(right, "y")
    size = np.linalg.norm(ranks) * np.linalg.norm(other)

    def of(order: np.ndarray | None) -> float:
        return float(np.vdot(ranks, other if order is None else other[np.ix_(order, order)]) / size)

    return _scored("RSA", of, len(left), draws, seed)


def jaccard(
    a: Int[Tensor, "m two"],
    b: Int[Tensor, "n two"],
    read: Int[Tensor, "row two"],
    *,
    draws: int = 100,
    blocks: int = 10,
    seed: int = 0,
) -> Score:
    """Share of ITDA atoms that two dictionaries took from the same places: both over either, 0 to 1.

    `a` and `b` are (text, pos) of atoms, `dictionary.encoder.source`, -1 for none; of a whole model, those of all its
    layers. `read` is (text, pos) of every row of the one stream that both read, in order. Atoms are thicker at its
    beginning, so the null draws each set anew within each of `blocks` equal parts of the stream. The value cannot be
    above the smaller set over the larger: compare dictionaries of about one size.
    Raises ValueError for an atom that was not read, a place read twice, or no atom.
    Source: Leask et al. 2025, arXiv 2505.17769; the null is ours.
    """
    if draws < 0 or not 1 <= blocks <= max(len(read), 1):
        raise ValueError(f"draws must be 0 or more and blocks 1..{len(read)}, got {draws} and {blocks}")
    wide = 1 + max(int(part.max()) for part in (a, b, read) if part.numel()) if read.numel() else 1
    keys = (read[:, 0].long() * wide + read[:, 1]).numpy()
    order = keys.argsort(kind="stable")
    if bool((np.diff(keys[order]) == 0).any()):
        raise ValueError(
            "the stream reads a place (text, pos) twice: give the rows of one pass, each text its own number"
        )
    sets = []
    for name, atoms in (("a", a), ("b", b)):
        atoms = atoms.cpu()[(atoms.cpu() >= 0).all(-1)]
        if not len(atoms):
            raise ValueError(f"{name} has no atom: fit the dictionary first")
        mine = np.unique((atoms[:, 0].long() * wide + atoms[:, 1]).numpy())
        at = np.searchsorted(keys[order], mine).clip(max=max(len(keys) - 1, 0))
        if bad := int((keys[order][at] != mine).sum()) if len(keys) else len(mine):
            raise ValueError(f"{bad} atoms of {name} are no rows of the stream: both must have read this one")
        sets.append(order[at])
    m, n = (len(s) for s in sets)
    edges = np.linspace(0, len(keys), blocks + 1).round().astype(np.int64)
    of_a, of_b = (np.histogram(s, edges)[0] for s in sets)
    rng = np.random.default_rng(seed)
    drawn = [rng.hypergeometric(i, size - i, j, draws) for i, j, size in zip(of_a, of_b, np.diff(edges), strict=True)]
    met = np.sum(drawn, axis=0)
    both = len(np.intersect1d(*sets))
    note = f"{m:,} and {n:,} atoms of {len(keys):,} rows, at most {min(m, n) / max(m, n):.2f}"
    return Score("Jaccard", both / (m + n - both), torch.from_numpy(met / (m + n - met)), note)


def layer_similarity(
    a: Sequence[Any],
    b: Sequence[Any],
    of: Callable[[Any, Any], Score],
    *,
    names: Sequence[str] = (),
    draws: int = 1000,
    seed: int = 0,
) -> LayerSimilarity:
    """Every layer of A beside every layer of B, and whether the most similar one stands at the same depth.

    `a` and `b` hold for each layer what `of` compares: rows of activations for `svcca` and `cka`, atoms' places for
    `jaccard`. Give `of` without draws: the null here is B's layers in random order.
    Raises ValueError unless both have the same number of layers, two or more.
    """
    n = len(a)
    if n != len(b) or n < 2 or len(names) not in (0, n):
        raise ValueError(
            f"two or more layers of each, and a name for each if any, are wanted: got {n}, {len(b)}, {len(names)}"
        )
    found = [[of(x, y) for y in b] for x in a]
    matrix = torch.tensor([[score.value for score in line] for line in found], dtype=torch.float64)
    if not bool(matrix.isfinite().all()):
        raise ValueError(f"{int((~matrix.isfinite()).sum())} of {n * n} similarities are not finite: check the rows")
    own, rng = torch.arange(n), np.random.default_rng(seed)
    best = matrix.argmax(1)
    null = [float((torch.from_numpy(rng.permutation(n))[best] == own).double().mean()) for _ in range(draws)]
    score = Score("share", float((best == own).double().mean()), torch.tensor(null, dtype=torch.float64))
    return LayerSimilarity(found[0][0].measure, matrix, list(names) or [str(i) for i in range(n)], score)


def _scored(measure: str, of: Of, n: int, draws: int, seed: int, note: str = "") -> Score:
    if draws < 0:
        raise ValueError(f"draws must be 0 or more, got {draws}")
    rng = np.random.default_rng(seed)
    null = torch.tensor([of(rng.permutation(n)) for _ in range(draws)], dtype=torch.float64)
    return Score(measure, of(None), null, note)


def _both(x: Tensor, y: Tensor, *, centre: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Rows as float64, less their mean."""
    if len(x) != len(y) or len(x) < FEWEST:
        raise ValueError(f"{FEWEST} or more rows of x, each with its row of y, are wanted: got {len(x)} and {len(y)}")
    found = []
    for name, part in (("x", x), ("y", y)):
        rows = part.detach().cpu().double().numpy()
        if not np.isfinite(rows).all():
            raise ValueError(f"{int((~np.isfinite(rows)).any(1).sum())} of {len(rows)} rows of {name} are not finite")
        centred = rows - rows.mean(0)
        if np.linalg.norm(centred) <= 1e-12 * np.linalg.norm(rows):
            raise ValueError(f"all rows of {name} are the same: there is nothing to compare")
        found.append(centred if centre else rows)
    return found[0], found[1]


def _leading(x: np.ndarray, keep: float, guard: int) -> tuple[np.ndarray, int]:
    """Left singular vectors of the largest singular values, at most n / guard; how many hold `keep` of the variance."""
    wide = len(x) < x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    share = values.cumsum() / values.sum()  # shares, so that the size of x does not matter
    wanted = int((share < keep - 1e-9).sum()) + 1
    dims = min(wanted, max(len(x) // guard, 1))
    return (vectors[:, :dims] if wide else x @ vectors[:, :dims] / np.sqrt(values[:dims])), wanted


def _ranks(rows: np.ndarray, name: str) -> np.ndarray:
    """Centred ranks of the Pearson similarities of different rows, as a symmetric matrix with a diagonal of 0."""
    from scipy.stats import rankdata

    rows = rows - rows.mean(1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if bad := int((norms == 0).sum()):
        raise ValueError(
            f"{bad} of {len(rows)} rows of {name} have one value in all dimensions: they have no correlation"
        )
    unit = rows / norms
    above = np.triu_indices(len(rows), 1)
    ranks = rankdata((unit @ unit.T)[above])
    found = np.zeros((len(rows), len(rows)))
    found[above] = ranks - ranks.mean()
    return found + found.T


def multiples(cells: list[list[Score]], names: Sequence[str], title: str, caption: str) -> Any:
    """Scores beside their nulls, a row of panels for each name."""
    from plotly.subplots import make_subplots

    columns = [score.measure.split(" ")[0] for score in cells[0]]
    figure = make_subplots(
        rows=len(cells),
        cols=len(columns),
        column_titles=columns,
        row_titles=list(names),
        vertical_spacing=0.35 / len(cells) / 2,
    )
    for i, line in enumerate(cells):
        for j, score in enumerate(line):
            _beside(figure, score, i + 1, j + 1, not (i or j))
    return framed(figure.update_layout(barmode="overlay"), title, caption, height=190 * len(cells))


def _beside(figure: Any, score: Score, row: int, column: int, legend: bool) -> None:
    """A score as a line beside its nulls as histograms."""
    kinds = [("pairing shuffled" if score.measure != "share" else "layers in random order", score.null, "#9aa5b1")]
    if score.random is not None:
        kinds.append(("random latents", score.random, "#f2b134"))
    top = 0.0
    for name, values, color in kinds:
        if len(values):
            counts, edges = np.histogram(values.numpy(), bins=20)
            share = counts / counts.sum()
            top = max(top, float(share.max()))
            figure.add_bar(
                x=(edges[1:] + edges[:-1]) / 2, y=share, width=np.diff(edges), name=name, legendgroup=name,
                marker={"color": color, "opacity": 0.7, "line": {"width": 0}}, showlegend=legend, row=row, col=column,
            )  # fmt: skip
    if np.isfinite(score.value):
        figure.add_scatter(
            x=[score.value] * 2, y=[0, top or 1], mode="lines", name="observed", legendgroup="observed",
            line={"color": "#c0392b", "width": 3}, showlegend=legend, row=row, col=column,
            hovertemplate=f"{score.measure} {score.value:.3f}, z {score.z:.1f}, p {score.p:.2g}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(rangemode="tozero", row=row, col=column)  # a small gain must look small
    figure.update_yaxes(title="share of draws" if column == 1 or score.measure == "share" else "", row=row, col=column)

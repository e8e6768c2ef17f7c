"""Do latents that fire together lie near each other: groups by co-firing, groups by angle, and how far they agree."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .beside import framed
from .cofiring import MOST, Counts
from .match import NULL, random_directions
from .neighbours import directions

BINS = 10  # of equally many latents, by how often they fire
SMALLEST = 5  # latents of a group that a probe can learn and be tested on
NULLS = {
    "permuted": ("labels permuted", "#b0b7c3"),
    "frequency": ("labels permuted among equally frequent", "#e45756"),
    "directions": ("random directions", "#72b7b2"),
}


@dataclass(frozen=True, eq=False)
class Lobes:
    """Groups of latents by co-firing (functional) and by angle (geometric), and two measures of their agreement.

    `values` and each of `nulls` hold "ami", adjusted mutual information of the two groupings (1: the same, 0: chance),
    and "accuracy", balanced accuracy of a probe from atoms to functional groups, on held-out latents: 1 / groups by
    chance.
    """

    latents: Int[Tensor, " some"]  # those kept, numbered as in the code
    fired: Int[Tensor, " some"]  # blocks
    functional: Int[Tensor, " some"]  # 0 is the largest
    geometric: Int[Tensor, " some"]
    values: Mapping[str, float]
    nulls: Mapping[str, Mapping[str, Float[Tensor, " draw"]]]  # by kind of null, then by measure
    affinity: str
    blocks: int
    groups: int
    dropped: int  # latents that fire in too few blocks
    small: int  # latents whose functional group is too small for the probe
    seed: int

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line for each latent kept: its blocks and both groups."""
        names = ("latents", "fired", "functional", "geometric")
        return pd.DataFrame({name.removesuffix("s"): getattr(self, name).numpy() for name in names})

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One line for each measure and null: value, the null's mean, sd and draws, z, p."""
        rows = []
        for measure, value in self.values.items():
            for kind, null in self.nulls.items():
                draws = null[measure]
                mean, sd = float(draws.mean()), float(draws.std())
                z = (value - mean) / sd if sd else float("nan")
                p = (1 + int((draws >= value).sum())) / (1 + len(draws))
                rows.append((measure, value, kind, mean, sd, len(draws), z, p))
        return pd.DataFrame(rows, columns=["measure", "value", "null", "mean", "sd", "draws", "z", "p"])

    @property
    def caption(self) -> str:
        """Both measures beside their nulls, in one line."""
        found = self.summary.set_index(["measure", "null"])

        def beside(measure: str) -> str:
            said = []
            for kind in self.nulls:
                mean, sd, z = found.loc[(measure, kind), ["mean", "sd", "z"]]
                said.append(f"{kind} {mean:.3f} ± {sd:.3f}, z {z:.1f}")
            return f"{self.values[measure]:.2f}; nulls: {'; '.join(said)}"

        return (
            f"{len(self.latents):,} latents in {self.groups} groups by {self.affinity} over {self.blocks:,} blocks, "
            f"{self.dropped:,} rare ones dropped (seed {self.seed}). "
            f"Agreement with groups by angle (AMI) {beside('ami')}. "
            f"Balanced accuracy from atom to group, held out {beside('accuracy')}."
        )

    def figure(self, *, title: str = "Lobes: fire together, lie together") -> Any:
        """Both measures over their nulls, and how the groups by co-firing and by angle meet."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        said = ["agreement of groups (AMI)", "balanced accuracy, held out", "latents in both groups"]
        figure = make_subplots(1, 3, subplot_titles=said, horizontal_spacing=0.09)
        for column, (measure, value) in enumerate(self.values.items(), 1):
            every = torch.cat([null[measure] for null in self.nulls.values()])
            low, high = min(float(every.min()), value), max(float(every.max()), value)
            bins = {"start": low, "end": high + 1e-9, "size": max((high - low) / 60, 1e-9)}
            for kind, null in self.nulls.items():
                name, color = NULLS[kind]
                bars = go.Histogram(
                    x=null[measure].tolist(), name=f"null: {name}", xbins=bins, marker_color=color, opacity=0.6,
                    showlegend=column == 1,
                )  # fmt: skip
                figure.add_trace(bars, 1, column)
            figure.add_vline(x=value, line={"color": "#1f4e9c", "width": 3}, row=1, col=column)  # pyright: ignore[reportArgumentType]
            figure.update_xaxes(title=measure, row=1, col=column)
        observed = go.Scatter(x=[None], y=[None], mode="lines", name="observed", line={"color": "#1f4e9c", "width": 3})
        figure.add_trace(observed, 1, 1)
        meet = np.zeros((self.groups, self.groups), np.int64)
        np.add.at(meet, (self.functional.numpy(), self.geometric.numpy()), 1)
        heat = go.Heatmap(z=meet.tolist(), colorscale="Blues", colorbar={"title": "latents", "thickness": 12})
        figure.add_trace(heat, 1, 3)
        figure.update_xaxes(title="group by angle", dtick=1 if self.groups < 12 else None, row=1, col=3)
        figure.update_yaxes(title="group by co-firing", dtick=1 if self.groups < 12 else None, row=1, col=3)
        figure.update_yaxes(title="draws of a null", row=1, col=1)
        return framed(figure.update_layout(barmode="overlay", width=1150), title, self.caption)


def lobes(
    atoms: Float[Tensor, "latent d"],
    counts: Counts,
    *,
    measure: str = "phi",
    groups: int = 3,
    least: int = 10,
    draws: int = 100,
    redrawn: int = 100,
    seed: int = 0,
) -> Lobes:
    """Do latents that fire in the same blocks point the same way: groups of both kinds, compared, with three nulls.

    `counts` says which latents fire together (`geometry.counts`); those in fewer than `least` blocks are dropped.
    Groups by spectral clustering, of co-firing (phi + 1, or another measure as it is) and of 1 - angle / pi. A logistic
    probe learns functional groups from the atoms on 4/5 of the latents; groups of fewer than 5 latents have no part in
    it, `small` counts their latents. Nulls: functional labels permuted (`draws`), permuted among latents that fire
    about as often, and atoms replaced by random directions (`redrawn` spectral clusterings, each 3 s for
    4,608 latents in 576 dimensions: lower it there).
    Raises ValueError for atoms that do not fit the counts, too many groups, too few latents or draws.
    Source: Li et al. 2024, arXiv 2410.19750 (above 1, blocks of 256); the frequency-matched null is ours.
    """
    if len(atoms) != len(counts.fired):
        raise ValueError(f"atoms and counts must be of the same latents, got {len(atoms)} and {len(counts.fired)}")
    if draws < 2 or redrawn < 2:
        raise ValueError(f"draws and redrawn must be 2 or more (a null needs a spread), got {draws} and {redrawn}")
    kept = counts.frequent(least)
    n = len(kept.fired)
    rows = (counts.fired >= least).nonzero()[:, 0]
    if not 2 <= groups <= n // SMALLEST or n > MOST:
        raise ValueError(
            f"groups must be 2..{n // SMALLEST} and latents at most {MOST}: {n} fire in {least} or more of "
            f"{counts.n} blocks, got groups={groups}"
        )
    unit = directions(atoms.cpu()[rows]).double()
    functional = spectral((kept.affinity(measure) + (measure == "phi")).numpy(), groups, seed)
    geometric = spectral(_angular(unit), groups, seed)
    many = np.bincount(functional, minlength=groups)
    large = many[functional] >= SMALLEST
    if (many >= SMALLEST).sum() < 2:
        raise ValueError(f"groups by co-firing have {many.tolist()} latents, nothing to compare: lower groups or least")
    rng = np.random.default_rng([seed, NULL])

    def both(labels: np.ndarray, other: np.ndarray, x: Tensor) -> tuple[float, float]:
        from sklearn.metrics import adjusted_mutual_info_score

        return float(adjusted_mutual_info_score(labels, other)), _probe(x.numpy()[large], labels[large], rng)

    value = both(functional, geometric, unit)
    rank = kept.fired.numpy().argsort(kind="stable").argsort(kind="stable")
    bins = rank * min(BINS, max(1, n // 2)) // n
    # `large` goes with the labels: who has no part in the probe stays out of it
    permuted = [both(_permuted(functional, large, rng), geometric, unit) for _ in range(draws)]
    matched = [both(_permuted(functional, 2 * bins + large, rng), geometric, unit) for _ in range(draws)]
    elsewhere = []
    for _ in range(redrawn):
        drawn = random_directions(*unit.shape, seed=int(rng.integers(2**31))).double()
        elsewhere.append(both(functional, spectral(_angular(drawn), groups, seed), drawn))
    nulls = {}
    for kind, found in zip(NULLS, (permuted, matched, elsewhere), strict=True):
        ami, accuracy = torch.tensor(found, dtype=torch.float64).T
        nulls[kind] = {"ami": ami, "accuracy": accuracy}
    return Lobes(
        kept.latents,
        kept.fired,
        torch.from_numpy(functional),
        torch.from_numpy(geometric),
        {"ami": value[0], "accuracy": value[1]},
        nulls,
        measure,
        counts.n,
        groups,
        len(counts.fired) - n,
        int((~large).sum()),
        seed,
    )


def spectral(affinity: Float[np.ndarray, "n n"], groups: int, seed: int = 0) -> Int[np.ndarray, " n"]:
    """Group of each by normalised spectral clustering, 0 the largest; the diagonal does not matter.

    Eigenvectors of the dense matrix by Lanczos (four times faster than scikit-learn's at 4,608), then k-means of ten
    starts. Raises ValueError for a negative affinity, or one that is alike with none.
    Source: Shi & Malik 2000; von Luxburg 2007, arXiv 0711.0189.
    """
    from scipy.sparse.linalg import eigsh
    from sklearn.cluster import KMeans

    if not (affinity >= 0).all():
        raise ValueError("affinities must be 0 or more and no NaN: give phi + 1, not phi")
    near = affinity.copy()
    np.fill_diagonal(near, 0)
    degree = near.sum(1)
    if bad := int((degree == 0).sum()):
        raise ValueError(f"{bad} of {len(near)} have affinity 0 with all others: leave them out")
    root = degree**0.5
    near /= root
    near /= root[:, None]
    start = np.random.default_rng(seed).standard_normal(len(near))
    _, vectors = eigsh(near, groups, which="LA", v0=start)
    means = KMeans(groups, n_init=10, random_state=seed)  # pyright: ignore[reportArgumentType]  (an int is fine)
    found = means.fit_predict(vectors / root[:, None] * root.mean())
    order = np.argsort(-np.bincount(found, minlength=groups), kind="stable")
    return order.argsort()[found].astype(np.int64)


def _angular(unit: Tensor) -> np.ndarray:
    return (1 - (unit @ unit.T).clamp(-1, 1).arccos() / torch.pi).numpy()


def _permuted(labels: np.ndarray, within: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels permuted among those that are equal in `within`."""
    found = labels.copy()
    for i in np.unique(within):
        own = np.flatnonzero(within == i)
        found[own] = labels[rng.permutation(own)]
    return found


def _probe(x: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> float:
    """Balanced accuracy of a logistic probe on a fifth of the rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import train_test_split

    scaled, seed = x * x.shape[1] ** 0.5, int(rng.integers(2**31))  # entries of unit variance
    parts = train_test_split(scaled, labels, test_size=0.2, stratify=labels, random_state=seed)
    fit, rest, own, theirs = (np.asarray(part) for part in parts)
    return float(balanced_accuracy_score(theirs, LogisticRegression(max_iter=2000).fit(fit, own).predict(rest)))

"""Unlabelled search for parallelograms: pairs of neighbouring atoms that differ by the same vector."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .beside import framed
from .galaxy import gaussian_like
from .match import NULL, random_directions
from .neighbours import neighbours

CHUNK = 512  # pairs of atoms compared with all others at once
MOST = 32_768  # pairs of atoms that are compared with each other
GREY = "#b0b7c3"


@dataclass(frozen=True, eq=False)
class Parallelograms:
    """For each pair of neighbouring atoms, the other pair (of two other atoms) whose difference is most like its own.

    Likeness 2 |a.b| / (|a|^2 + |b|^2) is 1 for a parallelogram; |cosine| is 1 for a trapezoid too. Nulls hold values of
    each draw: "random" are directions drawn evenly, of the atoms' lengths, "covariance" a Gaussian of exactly the
    atoms' mean and covariance.
    """

    pairs: Int[Tensor, "pair two"]  # atoms
    partners: Int[Tensor, " pair"]  # the most alike pair, by its place in `pairs`
    likeness: Float[Tensor, " pair"]
    cosines: Float[Tensor, " pair"]  # the largest |cosine| with any such pair
    nulls: Mapping[str, Sequence[tuple[Float[Tensor, " _drawn"], Float[Tensor, " _drawn"]]]]  # likeness, cosines
    groups: Int[Tensor, " pair"]  # 0 is the largest; -1: none
    above: float  # the largest likeness in the covariance null
    seed: int

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line for each pair of atoms, the most alike first: its partner's atoms, p among covariance draws."""
        null = torch.cat([draw[0] for draw in self.nulls["covariance"]]).sort().values
        reached = len(null) - torch.searchsorted(null, self.likeness)
        other = self.pairs[self.partners]
        return pd.DataFrame(
            {
                "a": self.pairs[:, 0],
                "b": self.pairs[:, 1],
                "c": other[:, 0],
                "d": other[:, 1],
                "likeness": self.likeness,
                "cosine": self.cosines,
                "p": (1 + reached) / (1 + len(null)),
                "group": self.groups,
            }
        ).sort_values("likeness", ascending=False, ignore_index=True, kind="stable")

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Mean over pairs beside each null's: measure, value, null, mean, sd, z, p."""
        rows = []
        for name, values in self.nulls.items():
            for i, (measure, found) in enumerate((("likeness", self.likeness), ("cosine", self.cosines))):
                value, means = float(found.mean()), torch.stack([draw[i].mean() for draw in values])
                z = float((value - means.mean()) / means.std())
                p = float((1 + (means >= value).sum()) / (1 + len(means)))
                rows.append((measure, value, name, float(means.mean()), float(means.std()), z, p))
        return pd.DataFrame(rows, columns=["measure", "value", "null", "mean", "sd", "z", "p"])

    @property
    def caption(self) -> str:
        """How alike the most alike pairs are, beside both nulls, in one line."""
        first = self.summary[self.summary["measure"] == "likeness"]
        said = ", ".join(f"{n} {m:.2f} ± {sd:.2f} (z {z:.0f})" for n, m, sd, z in zip(
            first["null"], first["mean"], first["sd"], first["z"], strict=True))  # fmt: skip
        return (
            f"{len(self.pairs):,} pairs of neighbouring atoms, each with the pair most like it: mean likeness "
            f"{self.likeness.mean():.2f}. Nulls: {said}. {int((self.groups >= 0).sum()):,} pairs above all of the "
            f"covariance null, in {int(self.groups.max()) + 1} groups (seed {self.seed})."
        )

    def figure(self, *, title: str = "Parallelograms among atoms") -> Any:
        """Histograms over pairs of likeness and |cosine| with the most alike pair; both nulls drawn in."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        said = ["likeness (parallelograms)", "|cosine| (trapezoids too)"]
        figure = make_subplots(1, 2, subplot_titles=said)
        edges = np.linspace(0, 1 + 1e-5, 51)  # rounding carries a likeness over 1
        colors = {"atoms": "#1f4e9c", "random": GREY, "covariance": "#e45756"}
        for column, own in enumerate((self.likeness, self.cosines), 1):
            for name, values in (
                ("atoms", own),
                *((k, torch.cat([draw[column - 1] for draw in v])) for k, v in self.nulls.items()),
            ):
                share = np.histogram(values.numpy(), edges)[0] / values.numel()
                line = {"color": colors[name], "shape": "hvh", "dash": "solid" if name == "atoms" else "dash"}
                said = name if name == "atoms" else f"null: {name}"
                trace = go.Scatter(x=(edges[1:] + edges[:-1]) / 2, y=share, name=said, line=line, mode="lines",
                                   showlegend=column == 1)  # fmt: skip
                figure.add_trace(trace, 1, column)
            figure.update_xaxes(title="with the most alike pair", range=[0, 1.02], row=1, col=column)
        figure.update_yaxes(title="share of pairs", row=1, col=1)
        return framed(figure.update_layout(width=960), title, self.caption)


def parallelograms(
    atoms: Float[Tensor, "n d"], k: int = 3, *, draws: int = 10, smallest: int = 3, seed: int = 0
) -> Parallelograms:
    """Search unlabelled vectors for parallelograms: pairs of the k nearest, and which other pair differs the same way.

    Pairs that share an atom are not compared; a difference may run either way. Pairs more alike than
    any in the covariance null are linked, and linked pairs are a group; fewer than `smallest` pairs are none. Two tight
    clusters give many alike differences too: look at the atoms before giving a name. Time grows with
    draws x pairs^2: 2.3 s for each draw of a null at 4,608 x 576, 9,000 pairs.
    Raises ValueError for vectors without a direction, k out of range, more than 32,768 pairs.
    Source: Li et al. 2024, arXiv 2410.19750, who cluster differences by k-means; the nulls are ours.
    """
    if draws < 2 or smallest < 2:
        raise ValueError(f"draws and smallest must be 2 or more, got {draws} and {smallest}")
    atoms = atoms.detach().cpu().double()
    pairs = _near(atoms, k)
    likeness, cosines, partners = _alike(atoms, pairs)
    rng = np.random.default_rng([seed, NULL])
    norms = atoms.norm(dim=-1, keepdim=True)
    nulls: dict[str, list[tuple[Tensor, Tensor]]] = {"random": [], "covariance": []}
    for _ in range(draws):
        even = norms * random_directions(*atoms.shape, seed=int(rng.integers(2**31))).double()
        for name, drawn in (("random", even), ("covariance", torch.from_numpy(gaussian_like(atoms.numpy(), rng)))):
            nulls[name].append(_alike(drawn, _near(drawn, k))[:2])
    above = float(torch.cat([draw[0] for draw in nulls["covariance"]]).max())
    groups = _groups(atoms, pairs, likeness, above, smallest)
    return Parallelograms(pairs, partners, likeness, cosines, nulls, groups, above, seed)


def _near(atoms: Tensor, k: int) -> Tensor:
    """Every two atoms one of which is among the other's k nearest, once."""
    near = neighbours(atoms.float(), k).indices
    both = torch.stack([torch.arange(len(atoms)).repeat_interleave(k), near.flatten()], -1)
    pairs = both.sort(-1).values.unique(dim=0)
    if len(pairs) > MOST:
        raise ValueError(f"{len(pairs)} pairs are more than {MOST}: lower k (now {k}) or take some of the atoms")
    return pairs


def _compared(atoms: Tensor, pairs: Tensor, which: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Likeness and |cosine| of some pairs' differences with all, by chunks; 0 where they share an atom."""
    from scipy.sparse import coo_array

    along = (atoms[pairs[:, 1]] - atoms[pairs[:, 0]]).float()
    square = along.square().sum(-1).clamp_min(1e-30)
    ends = np.arange(len(pairs)).repeat(2), pairs.flatten().numpy()
    incident = coo_array((np.ones(2 * len(pairs), np.int8), ends), shape=(len(pairs), len(atoms))).tocsr()
    for part in which.split(CHUNK):
        size = (along[part] @ along.T).abs()
        met = (incident[part.numpy()] @ incident.T).tocoo()
        size[torch.from_numpy(met.row).long(), torch.from_numpy(met.col).long()] = 0
        yield 2 * size / (square[part, None] + square), size / (square[part, None].sqrt() * square.sqrt())


def _alike(atoms: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Likeness with the most alike pair of other atoms, largest |cosine| with such a pair, and the most alike one."""
    found = [(*like.max(-1), cosine.amax(-1)) for like, cosine in _compared(atoms, pairs, torch.arange(len(pairs)))]
    likeness, partners, cosines = (torch.cat(part) for part in zip(*found, strict=True))
    return likeness, cosines, partners


def _groups(atoms: Tensor, pairs: Tensor, likeness: Tensor, above: float, smallest: int) -> Tensor:
    """Pairs linked by a likeness above a level; connected ones are a group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, which = len(pairs), (likeness > above).nonzero()[:, 0]
    links = [(like > above).nonzero() for like, _ in _compared(atoms, pairs, which)]
    own, other = (torch.cat([link + torch.tensor([i * CHUNK, 0]) for i, link in enumerate(links)]).T
                  if links else torch.zeros(2, 0, dtype=torch.int64))  # fmt: skip
    ends = which[own].numpy(), other.numpy()
    _, found = connected_components(coo_array((np.ones(len(own)), ends), shape=(n, n)), directed=False)
    many = np.bincount(found)
    order = np.argsort(-many, kind="stable")
    rank = np.full(len(many), -1)
    rank[order] = np.where(many[order] >= smallest, np.arange(len(many)), -1)
    return torch.from_numpy(rank[found])

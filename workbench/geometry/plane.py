"""A map of vectors in the plane that says how far it can be believed."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from .. import lineage
from .neighbours import directions, neighbours
from .trust import agreement, by_chance, on_map, recall, trustworthiness

METHODS = ("umap", "pca")
NEEDS = {"umap": ("umap-learn", "numba", "numpy", "torch"), "pca": ("numpy", "torch")}  # versions that move points
FORMAT = 2
SEEDS = 3  # maps whose neighbours are compared
TENSORS = ("xy", "latents", "indices", "cosines")


class Mixing(NamedTuple):
    """Share of neighbours that are of another dictionary, mean over all vectors laid out."""

    on_map: float
    in_space: float  # of the true neighbours
    chance: float  # of neighbours among vectors whose dictionaries were dealt at random


@dataclass(frozen=True, eq=False)
class Plane:
    """A layout. `xy` is NaN where a vector was left out; neighbours come from the vectors, not from the map.

    `trustworthiness` and `recall` (share of the k true neighbours among the k on the map) compare the map with the
    vectors. `agreement` is the share of the k map neighbours that maps of three seeds, `seed` and the two that follow,
    have in common two by two; they start from the same places on the same graph. It is 1 for PCA, which has no seed.
    `chance`, k / (n - 1), is that of recall and agreement. `explained` is the share of variance in the two first
    principal components. With several `dictionaries` (their names, and vectors of each) there is a `mixing`.
    Raises ValueError for a trust number that is not finite: there is no map without them.
    """

    xy: Float[Tensor, "n two"]
    latents: Int[Tensor, " some"]  # which of the vectors are laid out
    indices: Int[Tensor, "some k"]  # their true neighbours, nearest first, numbered like `xy`
    cosines: Float[Tensor, "some k"]  # their sizes, if `absolute`
    trustworthiness: float
    recall: float
    chance: float
    explained: float
    method: str
    k: int
    seed: int
    agreement: float
    absolute: bool = False
    dictionaries: Mapping[str, int] | None = None
    mixing: Mixing | None = None

    def __post_init__(self):
        numbers = {name: getattr(self, name) for name in ("trustworthiness", "recall", "chance", "agreement")}
        if bad := {name: value for name, value in numbers.items() if not isfinite(value)}:
            raise ValueError(f"a map has trust numbers, got {bad}: take geometry.plane(...)")
        if (self.dictionaries is None) != (self.mixing is None):
            raise ValueError("a map of several dictionaries has a mixing, and one of one has none")

    @cached_property
    def dictionary(self) -> np.ndarray:
        """Name of the dictionary of each of the n vectors; empty names when there is only one."""
        parts = self.dictionaries or {"": len(self.xy)}
        return np.repeat(list(parts), list(parts.values()))

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line for each vector laid out: latent, x, y, its true neighbours and their cosines.

        Of several dictionaries: point (its number among all vectors; neighbours are points), dictionary, latent, ...
        """
        xy, kept = self.xy[self.latents].numpy(), self.latents.numpy()
        several = {} if self.dictionaries is None else {"point": kept, "dictionary": self.dictionary[kept]}
        return pd.DataFrame(
            {
                **several,
                "latent": self._own,
                "x": xy[:, 0],
                "y": xy[:, 1],
                "neighbours": self.indices.tolist(),
                "cosines": self.cosines.tolist(),
            }
        )

    @property
    def caption(self) -> str:
        """What the map keeps and what it loses, in one line."""
        left_out, shown = len(self.xy) - len(self.latents), len(self.latents)
        seed, agree = "", "PCA has no seed (agreement 1)"
        if self.method == "umap":
            seeds = ", ".join(str(self.seed + i) for i in range(SEEDS))
            seed, agree = f", seed {self.seed}", f"maps of seeds {seeds} have {self.agreement:.0%} of theirs in common"
        mixing = ""
        if self.mixing is not None:
            of_map, of_true, dealt = self.mixing
            mixing = (
                f" {of_map:.0%} of map neighbours are of another dictionary, {of_true:.0%} of true ones "
                f"(chance {dealt:.0%})."
            )
        return (
            f"{self.method.upper()} of {shown:,} vectors by {'|cosine|' if self.absolute else 'cosine'}{seed}"
            f"{f', {left_out:,} left out' if left_out else ''}. The map keeps {self.recall:.0%} of the {self.k} "
            f"nearest neighbours; {agree} (chance of both {self.chance:.1%}); trustworthiness "
            f"{self.trustworthiness:.2f} (chance {by_chance(shown, self.k):.2f}).{mixing} "
            f"Two principal components hold {self.explained:.1%} of the variance."
        )

    def figure(
        self,
        color: Any = None,
        size: Any = None,
        hover: Any = None,
        *,
        title: str = "Map of atoms",
        color_title: str = "",
        log_color: bool = False,
    ) -> Any:
        """Plotly figure, one point for each vector laid out, its trust numbers below beside what chance gives.

        `color`, `size`, `hover` have n entries each. Numbers in `color` give a scale, other values one colour for each;
        several dictionaries are coloured by their name if nothing else is. `log_color` shows log10 of it.
        Raises ValueError when a length does not fit.
        """
        import plotly.graph_objects as go

        keep = self.latents.numpy()
        color = self.dictionary if color is None and self.dictionaries is not None else color
        given = {
            name: None if values is None else self._column(name, values)[keep]
            for name, values in (("color", color), ("size", size), ("hover", hover))
        }
        xy = self.xy.numpy()[keep]
        text = [f"{_plain(name)} latent {i}".strip() for name, i in zip(self.dictionary[keep], self._own, strict=True)]
        if given["hover"] is not None:
            text = [f"{name}<br>{_plain(more)}" for name, more in zip(text, given["hover"], strict=True)]
        radius = np.full(len(keep), 5.0) if given["size"] is None else _radius(given["size"].astype(float))
        scatter = go.Scattergl if len(keep) > 6000 else go.Scatter

        def points(which: np.ndarray, name: str | None = None, **marker: Any) -> Any:
            return scatter(
                x=xy[which, 0],
                y=xy[which, 1],
                mode="markers",
                name=name,
                showlegend=name is not None,
                customdata=keep[which],
                text=[text[i] for i in which],
                hovertemplate="%{text}<extra></extra>",
                marker={
                    "size": radius[which],
                    "opacity": 0.8,
                    "line": {"width": 0},
                    **marker,
                },
            )

        shown, every = given["color"], np.arange(len(keep))
        figure = go.Figure()
        if shown is None:
            figure.add_trace(points(every, color="#5b7db1"))
        elif np.issubdtype(shown.dtype, np.number) and shown.dtype != bool:
            with np.errstate(divide="ignore"):
                values = np.log10(shown.astype(float)) if log_color else shown.astype(float)
            values = np.where(np.isfinite(values), values, np.nan)
            bar = {"title": {"text": color_title, "side": "right"}, "thickness": 14, "len": 0.8, "y": 0.6}
            figure.add_trace(points(every, color=values, colorscale="Viridis", colorbar=bar))
        else:
            names = shown.astype(str)
            for name in sorted(set(names)):
                figure.add_trace(points(np.flatnonzero(names == name), name))
        figure.update_xaxes(showticklabels=False, showgrid=False, title="", zeroline=False)
        figure.update_yaxes(showticklabels=False, showgrid=False, title="", zeroline=False, scaleanchor="x")
        labels, values, chances = zip(*self._trusted(), strict=True)
        below = {"y": labels, "xaxis": "x2", "yaxis": "y2", "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}
        figure.add_bar(x=values, orientation="h", marker_color="#98a8c4", width=0.6, showlegend=False, **below)
        tick = {"symbol": "line-ns", "size": 14, "line": {"width": 3, "color": "#c4462b"}}
        figure.add_scatter(
            x=chances, mode="markers", marker=tick, name="null: chance", legend="legend2", showlegend=True, **below
        )
        figure.update_layout(
            title={"text": title, "subtitle": {"text": _broken(self.caption)}},
            template="plotly_white",
            height=720,
            margin={"l": 20, "r": 20, "t": 125, "b": 30},
            yaxis={"domain": [0.2, 1]},
            xaxis2={"range": [0, 1], "anchor": "y2", "tickformat": ".1f"},
            legend2={"x": 1, "xanchor": "right", "y": 0.15, "yanchor": "bottom"},
            yaxis2={"domain": [0, 0.14], "anchor": "x2", "autorange": "reversed", "automargin": True},
        )
        return figure

    @property
    def _own(self) -> np.ndarray:
        """Number of each vector laid out in its own dictionary."""
        parts = self.dictionaries or {"": len(self.xy)}
        return np.concatenate([np.arange(many) for many in parts.values()])[self.latents.numpy()]

    def _trusted(self) -> list[tuple[str, float, float]]:
        """What the figure shows below the map: a number's name, the number, its level by chance."""
        rows = [
            ("true neighbours kept", self.recall, self.chance),
            ("shared by maps of other seeds", self.agreement, self.chance),
            ("trustworthiness", self.trustworthiness, by_chance(len(self.latents), self.k)),
        ]
        if self.mixing is not None:
            rows.append(("map neighbours of another dictionary", self.mixing.on_map, self.mixing.chance))
        return rows

    def _column(self, name: str, values: Any) -> np.ndarray:
        column = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
        if column.shape != (len(self.xy),):
            raise ValueError(f"{name} must have one entry for each of the {len(self.xy)} vectors, got {column.shape}")
        return column


def plane(
    vectors: Float[Tensor, "n d"] | Sequence[Float[Tensor, "_ _"]],
    *,
    names: Sequence[str] | None = None,
    neighbours: int = 15,
    seed: int = 0,
    method: str = "umap",
    absolute: bool = False,
    mask: Bool[Tensor, " n"] | Bool[np.ndarray, " n"] | Sequence[bool] | None = None,
    folder: Path | str | None = None,
) -> Plane:
    """Lay vectors out in the plane by cosine; `mask` is True for those laid out (leave dead latents out).

    "umap": exact neighbours, started from the two first principal components, one thread (repeatable on one machine),
    three times with seeds that follow each other, of which the first is shown; "pca": those components themselves.
    Several dictionaries of one space lie on one map: `vectors` and `names` are lists, and vectors are numbered through
    (`mask` too). `absolute` is for signed codes: opposite vectors are the same line. Computed once: kept in `folder`
    (default: the cache) under a hash of vectors, arguments and versions. UMAP's first run in a process compiles for 20
    seconds or more.
    Raises ValueError for an unknown method, too few vectors, a vector that is not finite or zero, a mask or names that
    do not fit, dictionaries of different widths.
    Source: McInnes et al. 2018, arXiv 1802.03426; ours gives it exact neighbours.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    parts = None if isinstance(vectors, Tensor) else _named(vectors, names)
    if parts is None and names is not None:
        raise ValueError("names are for a list of dictionaries: give plane([a, b], names=['a', 'b'])")
    stacked = vectors if isinstance(vectors, Tensor) else torch.cat([part.detach().cpu().float() for part in vectors])
    stacked = stacked.detach().cpu().float().contiguous()
    keep = torch.ones(len(stacked), dtype=torch.bool) if mask is None else torch.as_tensor(mask).cpu()
    if keep.dtype != torch.bool or keep.shape != (len(stacked),):
        raise ValueError(
            f"mask wants a bool for each of the {len(stacked)} vectors, got {keep.dtype} {tuple(keep.shape)}"
        )
    if stacked.shape[1] < 2:
        raise ValueError(f"a map wants vectors of two dimensions or more, got {stacked.shape[1]}")
    if neighbours < 2 or int(keep.sum()) <= 2 * neighbours:
        raise ValueError(
            f"a map with {neighbours} neighbours (2 or more) needs more than {2 * neighbours} vectors, "
            f"got {int(keep.sum())}"
        )
    made_of = {
        "format": FORMAT,
        "vectors": lineage.tensors_hash({"vectors": stacked, "keep": keep}),
        "dictionaries": None if parts is None else list(parts.items()),
        "method": method,
        "neighbours": neighbours,
        "absolute": absolute,
        "seed": seed,
        "versions": {name: version(name) for name in NEEDS[method]},
    }
    path = Path(folder or lineage.cache() / "planes") / f"{lineage.fingerprint(made_of)}.safetensors"
    if path.with_suffix(".json").is_file():
        return _read(path)
    made = _lay_out(stacked, keep.nonzero()[:, 0], parts, neighbours, seed, method, absolute)
    _write(path, made, made_of)
    return made


def _named(dictionaries: Sequence[Tensor], names: Sequence[str] | None) -> dict[str, int]:
    """How many vectors each dictionary has, by its name."""
    if len(dictionaries) < 2 or len({part.shape[1] for part in dictionaries}) > 1:
        shapes = [tuple(part.shape) for part in dictionaries]
        raise ValueError(f"a joint map wants two or more dictionaries of one space, got {shapes}")
    known = [chr(ord("A") + i) for i in range(len(dictionaries))] if names is None else list(names)
    if len(known) != len(dictionaries) or len(set(known)) < len(known):
        raise ValueError(f"names wants {len(dictionaries)} different ones, one for each dictionary, got {known}")
    return {name: len(part) for name, part in zip(known, dictionaries, strict=True)}


def _lay_out(
    vectors: Tensor, latents: Tensor, parts: dict[str, int] | None, k: int, seed: int, method: str, absolute: bool
) -> Plane:
    unit = directions(vectors[latents])
    near = neighbours(unit, k, absolute=absolute)
    flat, explained = _pca(_one_sided(unit) if absolute else unit)
    if not bool((flat.max(0).values > flat.min(0).values).all()):
        raise ValueError("the vectors lie on one line and have no map: check the dictionary, or sort them by angle")
    seeds = range(seed, seed + SEEDS)
    placed = [flat] if method == "pca" else _umap(unit, near.indices, near.cosines, flat, seeds)
    shown = [on_map(one, k) for one in placed]
    xy = torch.full((len(vectors), 2), torch.nan)
    xy[latents] = placed[0]
    mixing = None
    if parts is not None:
        own = torch.arange(len(parts)).repeat_interleave(torch.tensor(list(parts.values())))[latents]
        mixing = Mixing(_mixed(own, shown[0]), _mixed(own, near.indices), _mixed_by_chance(own))
    return Plane(
        xy,
        latents,
        latents[near.indices],
        near.cosines,
        trustworthiness(unit, shown[0], absolute=absolute),
        recall(near.indices, shown[0]),
        k / (len(latents) - 1),
        explained,
        method,
        k,
        seed,
        1.0 if method == "pca" else agreement(shown),
        absolute,
        parts,
        mixing,
    )


def _mixed(own: Tensor, near: Tensor) -> float:
    return float((own[near] != own[:, None]).double().mean())


def _mixed_by_chance(own: Tensor) -> float:
    """The mean of `_mixed` over all ways to deal the dictionaries to the vectors."""
    many, n = own.bincount().double(), len(own)
    return float((many * (n - many)).sum() / (n * (n - 1)))


def _one_sided(unit: Tensor) -> Tensor:
    """Vectors turned to the side of their main axis: a vector and its opposite become one."""
    axis = torch.linalg.eigh(unit.double().T @ unit.double())[1][:, -1]
    axis = axis * axis[axis.abs().argmax()].sign()  # the sign is free: fix it
    return torch.where((unit.double() @ axis < 0)[:, None], -unit, unit)


def _pca(unit: Tensor) -> tuple[Tensor, float]:
    """Coordinates on the two first principal components, and their share of the variance."""
    centred = unit.double() - unit.double().mean(0)
    values, basis = torch.linalg.eigh(centred.T @ centred)
    first = basis[:, [-1, -2]]
    first = first * first.gather(0, first.abs().argmax(0, keepdim=True)).sign()  # the sign is free: fix it
    return (centred @ first).float(), float(values[-2:].sum() / values.sum().clamp_min(1e-12))


def _umap(unit: Tensor, indices: Tensor, cosines: Tensor, start: Tensor, seeds: Sequence[int]) -> list[Tensor]:
    """A layout for each seed, all on one graph: what UMAP(precomputed_knn=..., random_state=seed) gives."""
    # UMAP counts a point as its own first neighbour
    own, rows = torch.arange(len(unit))[:, None], unit.numpy()
    knn = torch.cat([own, indices], 1).numpy()
    distances = torch.cat([torch.zeros(len(unit), 1), (1 - cosines).clamp_min(0)], 1).numpy()
    first = (10 * start / start.abs().max()).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba warns of its own threads
        from umap.umap_ import find_ab_params, fuzzy_simplicial_set, simplicial_set_embedding

        graph = fuzzy_simplicial_set(
            rows, knn.shape[1], None, "cosine", knn_indices=knn, knn_dists=distances, return_dists=False
        )[0]
        a, b = find_ab_params(1.0, 0.1)  # spread, min_dist
        found = [
            simplicial_set_embedding(
                rows,
                graph,
                2,
                1.0,
                a,
                b,
                1.0,
                5,
                None,
                first,
                np.random.RandomState(seed),
                "cosine",
                {},
                False,
                {},
                False,
            )[0]
            for seed in seeds
        ]
    return [torch.from_numpy(np.asarray(one, np.float32)) for one in found]


def _write(path: Path, made: Plane, made_of: dict[str, Any]) -> None:
    lineage.write_tensors(path, {name: getattr(made, name).contiguous() for name in TENSORS})
    rest = {field.name: getattr(made, field.name) for field in fields(made) if field.name not in TENSORS}
    lineage.write_json(path.with_suffix(".json"), {"plane": rest, "of": made_of, "sha256": lineage.file_hash(path)})


def _read(path: Path) -> Plane:
    known = lineage.read_json(path.with_suffix(".json"))
    if not path.is_file() or lineage.file_hash(path) != known["sha256"]:
        raise ValueError(
            f"{path} is missing or damaged: delete it and {path.with_suffix('.json').name}, and call again"
        )
    rest = known["plane"]
    mixing = None if rest["mixing"] is None else Mixing(*rest["mixing"])
    return Plane(**load_file(path), **{**rest, "mixing": mixing})


def _plain(text: Any) -> str:
    """Text that plotly shows as it is: it reads HTML in hover labels."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "⏎")


def _broken(text: str) -> str:
    return text.replace(". ", ".<br>")


def _radius(values: np.ndarray) -> np.ndarray:
    """Marker sizes from 3 to 12, by rank, so that a few large values do not hide the rest."""
    rank = values.argsort(kind="stable").argsort(kind="stable")
    return 3 + 9 * rank / max(len(rank) - 1, 1)

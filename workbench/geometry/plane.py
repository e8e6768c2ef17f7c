"""A map of vectors in the plane that says how far it can be believed."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from .. import lineage
from .neighbours import directions, neighbours
from .trust import on_map, recall, trustworthiness

METHODS = ("umap", "pca")
NEEDS = {"umap": ("umap-learn", "numba", "numpy", "torch"), "pca": ("numpy", "torch")}  # versions that move points
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Plane:
    """A layout. `xy` is NaN where a vector was left out; neighbours come from the vectors, not from the map.

    `trustworthiness` and `recall` (share of the k true neighbours among the k on the map; `chance` is k / (n - 1))
    compare the map with the vectors. `explained` is the share of variance in the two first principal components.
    """

    xy: Float[Tensor, "n two"]
    latents: Int[Tensor, " some"]  # which of the vectors are laid out
    indices: Int[Tensor, "some k"]  # their true neighbours, nearest first, numbered like `xy`
    cosines: Float[Tensor, "some k"]
    trustworthiness: float
    recall: float
    chance: float
    explained: float
    method: str
    k: int
    seed: int

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line for each vector laid out: latent, x, y, its true neighbours and their cosines."""
        xy = self.xy[self.latents].numpy()
        return pd.DataFrame(
            {
                "latent": self.latents.numpy(),
                "x": xy[:, 0],
                "y": xy[:, 1],
                "neighbours": self.indices.tolist(),
                "cosines": self.cosines.tolist(),
            }
        )

    @property
    def caption(self) -> str:
        """What the map keeps and what it loses, in one line."""
        left_out = len(self.xy) - len(self.latents)
        return (
            f"{self.method.upper()} of {len(self.latents):,} vectors by cosine"
            f"{f', seed {self.seed}' if self.method == 'umap' else ''}"
            f"{f', {left_out:,} left out' if left_out else ''}. The map keeps {self.recall:.0%} of the {self.k} "
            f"nearest neighbours (chance {self.chance:.1%}); trustworthiness {self.trustworthiness:.2f}. "
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
        """Plotly figure, one point for each vector laid out. `color`, `size`, `hover` have n entries each.

        Numbers in `color` give a scale, other values one colour for each. `log_color` shows log10 of it.
        Raises ValueError when a length does not fit.
        """
        import plotly.graph_objects as go

        keep = self.latents.numpy()
        given = {
            name: None if values is None else self._column(name, values)[keep]
            for name, values in (("color", color), ("size", size), ("hover", hover))
        }
        xy = self.xy.numpy()[keep]
        text = [f"latent {i}" for i in keep]
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
            bar = {"title": {"text": color_title, "side": "right"}, "thickness": 14}
            figure.add_trace(points(every, color=values, colorscale="Viridis", colorbar=bar))
        else:
            names = shown.astype(str)
            for name in sorted(set(names)):
                figure.add_trace(points(np.flatnonzero(names == name), name))
        figure.update_xaxes(showticklabels=False, showgrid=False, title="", zeroline=False)
        figure.update_yaxes(showticklabels=False, showgrid=False, title="", zeroline=False, scaleanchor="x")
        figure.update_layout(
            title={"text": title, "subtitle": {"text": _broken(self.caption)}},
            template="plotly_white",
            height=620,
            margin={"l": 20, "r": 20, "t": 125, "b": 20},
        )
        return figure

    def _column(self, name: str, values: Any) -> np.ndarray:
        column = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
        if column.shape != (len(self.xy),):
            raise ValueError(f"{name} must have one entry for each of the {len(self.xy)} vectors, got {column.shape}")
        return column


def plane(
    vectors: Float[Tensor, "n d"],
    *,
    neighbours: int = 15,
    seed: int = 0,
    method: str = "umap",
    mask: Bool[Tensor, " n"] | Bool[np.ndarray, " n"] | Sequence[bool] | None = None,
    folder: Path | str | None = None,
) -> Plane:
    """Lay vectors out in the plane by cosine; `mask` is True for those laid out (leave dead latents out).

    "umap": exact neighbours, started from the two first principal components, one thread (repeatable on one machine);
    "pca": those components themselves. Computed once: kept in `folder` (default: the cache) under a hash of vectors,
    arguments and versions. UMAP's first run in a process compiles for 20 seconds or more.
    Raises ValueError for an unknown method, too few vectors, a vector that is not finite or zero, a mask that does
    not fit.
    Source: McInnes et al. 2018, arXiv 1802.03426; ours gives it exact neighbours.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    vectors = vectors.detach().cpu().float().contiguous()
    keep = torch.ones(len(vectors), dtype=torch.bool) if mask is None else torch.as_tensor(mask).cpu()
    if keep.dtype != torch.bool or keep.shape != (len(vectors),):
        raise ValueError(
            f"mask wants a bool for each of the {len(vectors)} vectors, got {keep.dtype} {tuple(keep.shape)}"
        )
    latents = keep.nonzero()[:, 0]
    if neighbours < 2 or len(latents) <= 2 * neighbours:
        raise ValueError(
            f"a map with {neighbours} neighbours (2 or more) needs more than {2 * neighbours} vectors, "
            f"got {len(latents)}"
        )
    made_of = {
        "format": FORMAT,
        "vectors": lineage.tensors_hash({"vectors": vectors, "keep": keep}),
        "method": method,
        "neighbours": neighbours,
        "seed": seed,
        "versions": {name: version(name) for name in NEEDS[method]},
    }
    path = Path(folder or lineage.cache() / "planes") / f"{lineage.fingerprint(made_of)}.safetensors"
    if path.with_suffix(".json").is_file():
        return _read(path)
    made = _lay_out(vectors, latents, neighbours, seed, method)
    _write(path, made, made_of)
    return made


def _lay_out(vectors: Tensor, latents: Tensor, k: int, seed: int, method: str) -> Plane:
    unit = directions(vectors[latents])
    near = neighbours(unit, k)
    flat, explained = _pca(unit)
    placed = flat if method == "pca" else _umap(unit, near.indices, near.cosines, flat, seed)
    shown = on_map(placed, k)
    xy = torch.full((len(vectors), 2), torch.nan)
    xy[latents] = placed
    return Plane(
        xy,
        latents,
        latents[near.indices],
        near.cosines,
        trustworthiness(unit, shown),
        recall(near.indices, shown),
        k / (len(latents) - 1),
        explained,
        method,
        k,
        seed,
    )


def _pca(unit: Tensor) -> tuple[Tensor, float]:
    """Coordinates on the two first principal components, and their share of the variance."""
    centred = unit.double() - unit.double().mean(0)
    values, basis = torch.linalg.eigh(centred.T @ centred)
    first = basis[:, [-1, -2]]
    first = first * first.gather(0, first.abs().argmax(0, keepdim=True)).sign()  # the sign is free: fix it
    return (centred @ first).float(), float(values[-2:].sum() / values.sum().clamp_min(1e-12))


def _umap(unit: Tensor, indices: Tensor, cosines: Tensor, start: Tensor, seed: int) -> Tensor:
    # UMAP counts a point as its own first neighbour
    own = torch.arange(len(unit))[:, None]
    knn = torch.cat([own, indices], 1).numpy()
    distances = torch.cat([torch.zeros(len(unit), 1), (1 - cosines).clamp_min(0)], 1).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what we chose: one thread, no transform of new points
        import umap

        found = umap.UMAP(
            metric="cosine",
            n_neighbors=knn.shape[1],
            min_dist=0.1,
            init=(10 * start / start.abs().max()).numpy(),  # pyright: ignore[reportArgumentType]  (an array is fine)
            precomputed_knn=(knn, distances),
            random_state=seed,
            n_jobs=1,
        ).fit_transform(unit.numpy())
    return torch.from_numpy(np.asarray(found, np.float32))


def _write(path: Path, made: Plane, made_of: dict[str, Any]) -> None:
    names = ("xy", "latents", "indices", "cosines")
    lineage.write_tensors(path, {name: getattr(made, name).contiguous() for name in names})
    rest = {name: value for name, value in vars(made).items() if name not in (*names, "table")}
    lineage.write_json(path.with_suffix(".json"), {"plane": rest, "of": made_of, "sha256": lineage.file_hash(path)})


def _read(path: Path) -> Plane:
    known = lineage.read_json(path.with_suffix(".json"))
    if not path.is_file() or lineage.file_hash(path) != known["sha256"]:
        raise ValueError(
            f"{path} is missing or damaged: delete it and {path.with_suffix('.json').name}, and call again"
        )
    return Plane(**load_file(path), **known["plane"])


def _plain(text: Any) -> str:
    """Text that plotly shows as it is: it reads HTML in hover labels."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "⏎")


def _broken(text: str) -> str:
    return text.replace(". ", ".<br>")


def _radius(values: np.ndarray) -> np.ndarray:
    """Marker sizes from 3 to 12, by rank, so that a few large values do not hide the rest."""
    rank = values.argsort(kind="stable").argsort(kind="stable")
    return 3 + 9 * rank / max(len(rank) - 1, 1)

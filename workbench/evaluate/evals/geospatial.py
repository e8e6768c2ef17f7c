"""Which latents are on in a region of the world: spatial autocorrelation over places, and where a place is."""

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..case import Case
from ..examples import OURS, TRAIN, VALIDATION, Examples
from ..scores import LEVEL, Direction, Score, Scores, Sums, jackknife

NEEDS = ("places",)
SCALE_INVARIANT = ("moran_share", "moran_significant", "moran_top", "moran_mean", "moran_rows", "probe_r2", "rows_r2")
GROUPS = 20  # of places, for the jackknife
SHRINKS = torch.logspace(-1, 6, 15, dtype=torch.float64)  # ridge penalties; inputs are standardised


@dataclass(frozen=True, eq=False)
class Places:
    """Rows that each stand for a place, and where it is, in degrees north and east.

    The groups of `examples` are countries: no country is in two folds of the probe. Made by
    `tasks.places.places(subject, site)`. Raises ValueError when the parts do not fit.
    """

    examples: Examples
    latitude: Float[Tensor, " place"]
    longitude: Float[Tensor, " place"]

    def __post_init__(self) -> None:
        n = len(self.examples.x)
        if self.examples.count != n:
            raise ValueError(f"a place is one row, got {n} rows of {self.examples.count} places")
        for name, most in (("latitude", 90), ("longitude", 180)):
            found = getattr(self, name)
            if len(found) != n or not bool(found.isfinite().all()) or float(found.abs().max()) > most:
                raise ValueError(f"{name} must hold degrees from -{most} to {most} for each of the {n} places")

    @property
    def points(self) -> Float[Tensor, "place 3"]:
        """On the unit sphere."""
        up, east = (degrees.double().deg2rad() for degrees in (self.latitude, self.longitude))
        return torch.stack([up.cos() * east.cos(), up.cos() * east.sin(), up.sin()], -1)


def geospatial(
    case: Case, *, neighbours: int = 8, above: float = 0.3, least: int = 20, top: int = 10, permutations: int = 999
) -> Scores:
    """Moran's I of each latent over places, its share of regional latents, and a ridge probe for the coordinates.

    I = sum_ij w_ij z_i z_j / sum_i z_i^2 with z centred and w_ij = 1 / `neighbours` for the nearest places by great
    circle: 1 where neighbours agree, -1/(N - 1) on average for values dealt to places at random. Only latents on at
    `least` or more places count. `moran_share` is their share with I above `above`; its chance level is measured, with
    places dealt anew. `moran_significant`: with p by `permutations` (one-sided) below 0.05 after Benjamini-Hochberg.
    `moran_top` is the mean of the `top` largest, `moran_mean` that of all; `moran_rows`, `moran_rows_top` are the same
    share and mean for the coordinates of the rows themselves. `probe_r2` is the R^2, mean of latitude and longitude, of
    a ridge probe on the codes for countries it has not seen (penalty by validation), `rows_r2` that of one on the rows.
    Intervals of I leave out one of 20 random groups of places (jackknife, neighbours found anew), those of R^2 resample
    countries. Data: `tasks.places.places`. Source: De Sabbata et al. 2025; Moran 1950; which neighbours, how many and
    the least support are ours. Raises ValueError where no latent is on at `least` places.
    """
    places = case.need("places", Places)
    n = len(places.latitude)
    for name, value, low, most in (("neighbours", neighbours, 1, n - 2), ("least", least, 1, n), ("top", top, 1, inf)):
        if not low <= value <= most:
            raise ValueError(f"{name} must be {low} to {most} for {n} places, got {value}")
    if permutations < 1:
        raise ValueError(f"permutations must be 1 or more, got {permutations}")
    code = case.of(places.examples)
    often = code.fired().cpu() >= least
    if not bool(often.any()):
        raise ValueError(
            f"no latent of {case.name} is on at {least} of the {n} places: give more places, or lower least"
        )
    z = _columns(code, often).double()
    x = places.examples.x.detach().cpu().flatten(1).double()
    points, rng = places.points, np.random.default_rng(case.seed)
    group = torch.from_numpy(rng.permutation(n) % min(GROUPS, n))
    dealt = torch.from_numpy(rng.permutation(n))
    near = nearest(points, neighbours)
    of_z, of_x, null = moran(z, near), moran(x, near), moran(z[dealt], near)
    p = _p(z, near, of_z, permutations, rng)

    def told(of_z: Tensor, of_x: Tensor) -> dict[str, float]:
        return {
            "moran_share": float((of_z > above).double().mean()),
            "moran_top": float(of_z.topk(min(top, len(of_z))).values.mean()),
            "moran_mean": float(of_z.mean()),
            "moran_rows": float((of_x > above).double().mean()),
            "moran_rows_top": float(of_x.topk(min(top, len(of_x))).values.mean()),
        }

    whole, without = told(of_z, of_x), []
    for g in range(int(group.max()) + 1):
        kept = group != g
        near = nearest(points[kept], min(neighbours, int(kept.sum()) - 1))
        without.append(told(moran(z[kept], near), moran(x[kept], near)))
    reach = dict(
        zip(
            whole,
            jackknife(torch.tensor([list(w.values()) for w in without], dtype=torch.float64)).tolist(),
            strict=True,
        )
    )
    note = "" if places.examples.published else OURS

    def score(metric: str, unit: str, direction: Direction, chance: float, counted: str, m: int) -> Score:
        value, by, g = whole[metric], reach[metric], len(without)
        low, high = (0.0, 1.0) if unit.startswith("share") else (-inf, inf)
        return Score(
            metric=metric, value=value, low=max(low, value - by), high=min(high, value + by), unit=unit,
            direction=direction, range=(low, high), chance=chance, n=m, counted=counted,
            share_excluded=float(places.examples.share_excluded),
            resampled=f"jackknife of {g} x group of {n / g:.3g} places", note=note,
        )  # fmt: skip

    m, d, lone = int(often.sum()), x.shape[1], -1 / (n - 1)
    share = f"share with Moran's I > {above:g} of latents on at {least} or more places"
    significant = Sums({"yes": (adjusted(p) <= 1 - LEVEL).double(), "latents": torch.ones(m).double()}, "latent")
    return Scores.of(
        score("moran_share", share, "higher", float((null > above).double().mean()), "latents", m),
        case.score(
            "moran_significant", significant, lambda s: s["yes"] / s["latents"],
            unit=f"share of latents with p <= {1 - LEVEL:.2g} by {permutations} permutations and Benjamini-Hochberg",
            direction="none", range=(0.0, 1.0), chance=0.0, counted="latents",
            share_excluded=places.examples.share_excluded, note=note,
        ),
        score("moran_top", f"mean Moran's I of the {top} latents with most", "higher", lone, "latents", m),
        score("moran_mean", "mean Moran's I of latents", "none", lone, "latents", m),
        score("moran_rows", f"share of coordinates with I > {above:g}", "none", 0.0, "coordinates", d),
        score("moran_rows_top", f"mean I of the {top} coordinates with most", "none", lone, "coordinates", d),
        _probed(case, places, _columns(code, code.fired().cpu() > 0).double(), "probe_r2", "codes", "higher", note),
        _probed(case, places, x, "rows_r2", "rows", "none", note),
    )  # fmt: skip


def _columns(code: Any, which: Bool[Tensor, " latent"]) -> Float[Tensor, "place some"]:
    """The chosen latents of a code, dense."""
    row, latent, value = (t.detach().cpu() for t in code.entries())
    place = which.cumsum(0) - 1
    used = which[latent]
    out = torch.zeros(len(code), int(which.sum()), dtype=value.dtype)
    return out.index_put_((row[used], place[latent[used]]), value[used])


def nearest(points: Float[Tensor, "place 3"], k: int) -> Int[Tensor, "place k"]:
    """The k other points nearest to each by great circle; ties go to the first."""
    cosine = points @ points.T
    return cosine.fill_diagonal_(-torch.inf).argsort(dim=1, descending=True, stable=True)[:, :k]


def moran(z: Float[Tensor, "place m"], near: Int[Tensor, "place k"]) -> Float[Tensor, " m"]:
    """Moran's I of each column; every neighbour of a place weighs the same. 0 for a column that is constant."""
    z = z - z.mean(0)
    return (z * _lag(z, near)).sum(0) / z.square().sum(0).clamp_min(1e-300)


def _lag(z: Tensor, near: Tensor) -> Tensor:
    """Mean over each place's neighbours."""
    return torch.nn.functional.embedding_bag(near, z, mode="mean")


def _p(z: Tensor, near: Tensor, observed: Tensor, permutations: int, rng: np.random.Generator) -> Tensor:
    """One-sided p of each column: how often places dealt at random have as large an I."""
    z = z - z.mean(0)
    norm = z.square().sum(0).clamp_min(1e-300)
    z, n = z.float(), len(z)
    reached = torch.ones(z.shape[1], dtype=torch.float64)
    for _ in range(permutations):
        dealt = z[torch.from_numpy(rng.permutation(n))]
        reached += (dealt * _lag(dealt, near)).sum(0) / norm >= observed - 1e-6
    return reached / (permutations + 1)


def adjusted(p: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """p-values after Benjamini and Hochberg 1995: at most 5 % of those below 0.05 are expected to be false."""
    order = p.argsort(descending=True)
    rank = torch.arange(len(p), 0, -1, dtype=p.dtype)
    stepped = (p[order] * len(p) / rank).cummin(0).values.clamp_max(1)
    return torch.empty_like(p).index_put_((order,), stepped)


def _probed(case: Case, places: Places, h: Tensor, metric: str, what: str, direction: Direction, note: str) -> Score:
    """R^2 of latitude and longitude on the test fold by ridge regression."""
    examples = places.examples
    y = torch.stack([places.latitude, places.longitude], -1).double()
    said = _ridge(h, y, examples.fold)
    centre = y[examples.at(TRAIN)].mean(0)
    sums = examples.sums({"error": (y - said).square(), "y1": y - centre, "y2": (y - centre).square()})

    def r2(s: Any) -> Tensor:
        total = s["y2"] - s["y1"].square() / s["examples"][..., None]
        return (1 - s["error"] / total.clamp_min(1e-12)).mean(-1)

    return case.score(
        metric, sums, r2, unit=f"R^2 of a ridge probe on {what}, mean of latitude and longitude", direction=direction,
        range=(-inf, 1.0), chance=0.0, counted="examples", share_excluded=examples.share_excluded, note=note,
    )  # fmt: skip


def _ridge(
    x: Float[Tensor, "place d"], y: Float[Tensor, "place 2"], fold: Int[Tensor, " place"]
) -> Float[Tensor, "place 2"]:
    """What ridge regression on the train fold says of every place; its penalty is best on the validation fold."""
    train, held = fold == TRAIN, fold == VALIDATION
    mean, spread = x[train].mean(0), x[train].std(0)
    used = spread > 1e-9 * spread.max().clamp_min(1e-30)
    z = (x[:, used] - mean[used]) / spread[used]
    centre = y[train].mean(0)
    kernel = z @ z[train].T  # as many rows as places: cheaper than one weight per latent
    value, vector = torch.linalg.eigh(kernel[train])
    inner = vector.T @ (y[train] - centre)
    fits = [kernel @ (vector @ (inner / (value.clamp_min(0) + s)[:, None])) + centre for s in SHRINKS.tolist()]
    return min(fits, key=lambda said: float((y - said)[held].square().sum()))

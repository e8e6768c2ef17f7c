"""Named numbers with what is needed to read them, and intervals that resample whole documents."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from pandas import DataFrame

Direction = Literal["higher", "lower", "none"]
Statistic = Callable[[Mapping[str, Tensor]], Tensor]
LEVEL = 0.95
CHUNK = 1 << 22  # draws held at once: bounds the memory of resampling, not its result
ROUNDING = 1e-6  # how far float32 sums may carry a number out of its range


@dataclass(frozen=True)
class Sums:
    """What a statistic needs of each resampled unit, as sums: any collection of units is then a sum of their rows.

    `by[name]` is float64 `(unit, *more)`. A statistic is a function of these sums, computed along a leading axis, so
    the same line gives the number and all its resamples: `lambda s: s["error"] / s["rows"]`.
    """

    by: Mapping[str, Float[Tensor, "unit *more"]]
    unit: str = "document"

    def __post_init__(self) -> None:
        if len({len(v) for v in self.by.values()}) != 1:
            raise ValueError(f"sums need one row per unit each, got { {k: len(v) for k, v in self.by.items()} }")

    def __len__(self) -> int:
        return len(next(iter(self.by.values())))

    def total(self) -> dict[str, Tensor]:
        """Sums over all units, with a leading axis of one."""
        return {name: v.sum(0, keepdim=True) for name, v in self.by.items()}

    def weighed(self, weights: Float[Tensor, "replicate unit"]) -> dict[str, Tensor]:
        """Sums of resampled collections; `weights` counts how often each unit was drawn."""
        return {name: (weights @ v.flatten(1)).unflatten(1, v.shape[1:]) if v.ndim > 1 else weights @ v
                for name, v in self.by.items()}  # fmt: skip


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def interval(sums: Sums, statistic: Statistic, *, seed: int = 0, resamples: int = 2000) -> Interval:
    """A statistic and its 95 % bootstrap interval over the units of `sums`; bounds are NaN with fewer than two units.

    Source: Hesterberg 2015, arXiv 1411.5279: the expanded percentile interval. The plain percentile interval is too
    narrow with few units; its levels are widened to what a t interval of as many units would cover. Measured on planted
    ratios over uneven documents it covers 0.86 with 4 documents, 0.92 with 6, 0.93 with 12, 0.94 with 40.
    """
    from scipy.special import ndtr, stdtrit

    value = float(statistic(sums.total())[0])
    n = len(sums)
    if n < 2:
        return Interval(value, float("nan"), float("nan"))
    tail = float(ndtr((n / (n - 1)) ** 0.5 * stdtrit(n - 1, (1 - LEVEL) / 2)))
    drawn = np.random.default_rng(seed)
    found = []
    step = max(1, CHUNK // n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        picks = torch.from_numpy(drawn.integers(n, size=(size, n)))
        weights = torch.zeros(size, n, dtype=torch.float64).scatter_add_(1, picks, torch.ones(size, n).double())
        found.append(statistic(sums.weighed(weights)).double())
    low, high = torch.cat(found).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(value, low, high)


def jackknife(without: Float[Tensor, "group *more"]) -> Float[Tensor, "*more"]:
    """Half the 95 % interval of a statistic from its values without each of the groups; NaN with fewer than two.

    For statistics that a bootstrap bends: it leaves out a third of the units each time. A constant added to all values
    changes nothing. Source: Tukey 1958; the t interval of as many groups.
    """
    from scipy.special import stdtrit

    g = len(without)
    if g < 2:
        return torch.full(without.shape[1:], torch.nan, dtype=torch.float64)
    values = without.double()
    spread = ((g - 1) / g * (values - values.mean(0)).square().sum(0)).sqrt()
    return float(stdtrit(g - 1, (1 + LEVEL) / 2)) * spread


@dataclass(frozen=True)
class Score:
    """One number. `chance` is its value for a dictionary that knows only the mean; None where that means nothing."""

    metric: str
    value: float
    low: float
    high: float
    unit: str
    direction: Direction
    range: tuple[float, float]
    chance: float | None
    n: int
    counted: str  # what n counts: rows, predictions, latents
    share_excluded: float
    resampled: str  # what the interval resamples, and how many of them
    note: str = ""  # what a reader must know before comparing it

    def __post_init__(self) -> None:
        low, high = self.range
        if not low - ROUNDING <= self.value <= high + ROUNDING:
            raise ValueError(f"{self.metric} is {self.value}, outside its range {self.range}")

    def __float__(self) -> float:
        return self.value

    def to_json(self) -> dict[str, Any]:
        """All fields; numbers that JSON has no word for as text."""
        return {k: _said(v) for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Score":
        numbers = {k: None if value[k] is None else float(value[k]) for k in ("value", "low", "high", "chance")}
        low, high = value["range"]
        return cls(**{**value, **numbers, "range": (float(low), float(high))})


def _said(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return [_said(v) for v in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Scores:
    """The numbers of one eval, the first of them its headline: `scores["fvu"].value`, `scores.table()`."""

    entries: tuple[Score, ...]

    def __post_init__(self) -> None:
        names = [s.metric for s in self.entries]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"scores need one or more distinct names, got {names}")

    @classmethod
    def of(cls, *entries: Score) -> "Scores":
        return cls(entries)

    def __getitem__(self, metric: str) -> Score:
        for score in self.entries:
            if score.metric == metric:
                return score
        raise KeyError(f"no {metric!r}: there is {', '.join(s.metric for s in self.entries)}")

    def __iter__(self) -> Iterator[Score]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def table(self) -> "DataFrame":
        """One row per number."""
        import pandas as pd

        return pd.DataFrame([asdict(s) for s in self.entries], columns=[f.name for f in fields(Score)])

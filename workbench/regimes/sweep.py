"""Sweeps: many recipes on one stream, scored on the same held-out rows."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from .. import lineage
from ..batch import Batch, Stream
from ..dictionary import Dictionary, recipe, train
from ..site import Site
from .streams import place

if TYPE_CHECKING:
    from pandas import DataFrame

SCORES = ("fvu", "l0", "dead")


def grid(variant: str, fixed: Mapping[str, Any], over: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All calls of a variant with `fixed` arguments and every combination of those in `over`.

    `grid("batch_topk", {"d": 576}, {"latents": [2304, 4608], "k": [16, 32]})` are four.
    """
    return [
        {"variant": variant, "args": {**fixed, **dict(zip(over, values, strict=True))}}
        for values in itertools.product(*over.values())
    ]


def sweep(
    calls: Sequence[Mapping[str, Any]],
    stream: Stream,
    held: Sequence[Batch],
    *,
    site: Site | str | None,
    seeds: Sequence[int] = (0, 1, 2),
    lr: float | None = None,
    together: int = 8,
    folder: Path | str | None = None,
    progress: bool = True,
) -> "DataFrame":
    """Trains every call with every seed on one stream; a row each: `variant`, its arguments, `seed`, fvu, l0, dead.

    All see the same batches, `together` at a time (each set passes over the stream once); a seed draws the starting
    weights alone. `held` are held-out batches, e.g. `list(test.batches(4096, site=site))`. With a `folder`, sets that
    are done are loaded. `over_seeds` has means and intervals.
    """
    if not calls or not held or together < 1:
        raise ValueError(f"a sweep needs calls and held-out batches, and together >= 1; got {len(calls)}, {len(held)}")
    import pandas as pd

    runs: list[dict[str, Any]] = [{**call, "seed": seed} for call in calls for seed in seeds]
    records: list[dict[str, Any]] = []
    sets = [runs[i : i + together] for i in range(0, len(runs), together)]
    for some in tqdm(sets, desc="sweep", unit="set", disable=not progress):
        made = [recipe(run["variant"], seed=run["seed"], **run["args"]) for run in some]
        home = None if folder is None else Path(folder) / lineage.fingerprint(some)
        trained = train(made, stream, site=site, lr=lr, folder=home, progress=progress, **place(stream))
        for run, dictionary in zip(some, trained, strict=True):
            records.append({"variant": run["variant"]} | run["args"] | {"seed": run["seed"]} | scores(dictionary, held))
    return pd.DataFrame(records)


@torch.no_grad()
def scores(dictionary: Dictionary, held: Iterable[Batch]) -> dict[str, float]:
    """FVU (share of the targets' variance about their mean that is left), mean L0, share of latents that never fire."""
    error, active, rows, squares, total, fired = 0.0, 0, 0, 0.0, torch.zeros(()), torch.zeros(())
    for batch in held:
        code, y = dictionary.encode(batch.x), batch.y.flatten(1).double()
        y_hat = dictionary.reconstruct(batch.x) if dictionary.skip is not None else dictionary.decode(code)
        error += float((y_hat.flatten(1).double() - y).square().sum())
        squares, total = squares + float(y.square().sum()), total + y.sum(0)
        active, rows, fired = active + int(code.counts().sum()), rows + len(y), fired + code.fired()
    variance = squares - float(total.square().sum()) / rows
    return {"fvu": error / variance, "l0": active / rows, "dead": float((fired == 0).double().mean())}


def over_seeds(table: "DataFrame") -> "DataFrame":
    """Mean and 95 % interval by Student's t over seeds of each score, a row for each setting; NaN with one seed."""
    import pandas as pd
    from scipy.stats import t

    settings = [name for name in table.columns if name not in ("seed", *SCORES)]
    records = []
    for _, part in table.groupby(settings, sort=False, dropna=False):
        record: dict[str, Any] = {name: part[name].iloc[0] for name in settings} | {"seeds": len(part)}
        for name in SCORES:
            values = part[name].tolist()
            mean, half = fmean(values), math.nan
            if len(values) > 1:
                half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
            record |= {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
        records.append(record)
    return pd.DataFrame(records)

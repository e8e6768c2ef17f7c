"""Plain data for the screen: everything that a widget draws is made here, and nowhere else.

Numbers that are not finite become None in lists (JSON has no word for them) and stay NaN in binary columns.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from workbench.evaluate.scores import Scores
from workbench.interpret.cards import provenance
from workbench.site import Site


def finite(value: float | None) -> float | None:
    """The number, or None where it is NaN, infinite or missing."""
    return None if value is None or not math.isfinite(value) else float(value)


def strip(tokens: Sequence[str], values: Iterable[float | None] | None = None) -> dict[str, Any]:
    """Tokens with a value each: `tokens`, `values`. Raises ValueError when they are not as many."""
    words = [text(token) for token in tokens]
    numbers = [None] * len(words) if values is None else [finite(v) for v in values]
    if len(numbers) != len(words):
        raise ValueError(f"one value for each token is wanted: got {len(words)} tokens and {len(numbers)} values")
    return {"tokens": words, "values": numbers}


def text(value: Any) -> str:
    """Text that JSON and a browser can carry: lone surrogates become the replacement sign."""
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def card(
    index: Any,
    latent: int,
    effects: Any = None,
    *,
    top: int = 10,
    per_quantile: int = 1,
    random: int = 6,
    window: tuple[int, int] = (-12, 6),
    near: Mapping[str, Any] | None = None,
    label: str = "",
    scores: Any = None,
) -> dict[str, Any]:
    """A latent of an `interpret.Index` as lib/card.js draws it, with four significant digits.

    `effects` is a table of `interpret.effects`, `scores` one with a line for each latent (`score_table`); what they do
    not hold is None or empty. `near` holds lists of `by_cosine` and `by_firing` under the names `cosine` and `firing`.
    Raises IndexError for a latent that does not exist.
    """
    latent = int(latent)
    strongest = index.contexts(latent, window=window, limit=top)
    line = index.table.iloc[latent]
    quantiles = index.manifest["of"]["args"]["quantiles"]
    over = index.contexts(latent, "quantile", window=window, limit=per_quantile) if strongest else []
    parts = sorted({c.quantile for c in over}, reverse=True)
    bins = index.histogram(latent)
    return {
        "latent": latent,
        "label": text(label),
        "token": text(line["top_token"]),
        "dead": bool(line["dead"]),
        "rows": int(index.rows),
        "fired": int(line["fired"]),
        "density": short(line["density"]),
        "max": short(line["max"]),
        "mean": short(line["mean"]),
        "histogram": [[short(low), short(high), int(n)] for low, high, n in bins.itertuples(index=False)],
        "effects": None if effects is None else promoted(effects, latent),
        "top": [context(c) for c in strongest],
        "quantile": [
            {
                "low": round(100 * part / quantiles),
                "high": round(100 * (part + 1) / quantiles),
                "contexts": [context(c) for c in over if c.quantile == part],
            }
            for part in parts
        ],
        "random": [context(c) for c in index.contexts(latent, "random", window=window, limit=random)],
        "near": dict(near or {}),
        "scores": [] if scores is None or latent not in scores.index else scores_of(scores, latent),
        "provenance": provenance(index),
    }


def context(found: Any) -> dict[str, Any]:
    """One `interpret.Context`: values are None where a position was left out of the store; `first` is a position."""
    return {
        "tokens": [text(word) for word in found.tokens],
        "values": [short(v) for v in found.activations],
        "center": found.center,
        "first": found.pos - found.center,
        "text": found.text,
        "value": short(found.activation),
    }


def promoted(effects: Any, latent: int) -> dict[str, Any] | None:
    """Tokens that a latent makes likelier (`plus`) and less likely (`minus`), strongest first: (token, effect)."""
    mine = effects[effects["latent"] == latent].sort_values("rank")
    if not len(mine):
        return None
    pairs = mine[["sign", "token", "effect"]].itertuples(index=False)
    rows = [(sign, [text(token), short(effect)]) for sign, token, effect in pairs]
    return {"plus": [row for sign, row in rows if sign > 0], "minus": [row for sign, row in rows if sign < 0]}


def scores_of(scores: Any, latent: int) -> list[list[Any]]:
    """(name, value) of a latent's line: numbers short, anything else as text, what is missing None."""
    found = []
    for name, value in scores.loc[latent].items():
        if isinstance(value, bool | np.bool_):
            value = "yes" if value else "no"
        elif isinstance(value, int | float | np.number):
            value = short(value)
        else:
            value = None if value is None or value is pd.NA else text(value)[:80]
        found.append([text(name), value])
    return found


def short(value: Any) -> float | int | None:
    """A number with four significant digits, which is more than a screen shows; None where it is not finite."""
    value = finite(None if value is None else float(value))
    if value is None:
        return None
    near = float(f"{value:.4g}")
    return int(near) if near.is_integer() and abs(near) < 1e15 else near


CURVE_POINTS, ALL_POINTS = 2000, 16_000  # of a curve, and of all curves of a widget: 128 kB
MAP_COLUMNS = 1200  # of all density maps of a widget
TERMS = 24  # loss terms drawn
KNOWN = {"l0": "l0", "fvu": "fvu", "dead": "dead", "lr": "lr", "tokens_per_second": "rate"}  # of a log: its panel
LEAST_DENSITY = -6.0  # log10 of the lowest edge of a log's `densities`, whose bins are half decades


Log = Mapping[str, Float[np.ndarray, " row"]]  # columns of a run's log


def thin(values: Float[np.ndarray, " row"], most: int) -> Int[np.ndarray, " kept"]:
    """Which of a curve's points to keep: first and last, and of each bucket the least, the greatest and a gap.

    So spikes stay and gaps stay. `values` `(n,)`; all are kept when they are no more than `most`.
    """
    n = len(values)
    if n <= most:
        return np.arange(n)
    good = np.isfinite(values)
    buckets = max(1, (most - 2) // (2 if good.all() else 3))
    size = -(-n // buckets)
    at = np.arange(buckets * size).reshape(buckets, size)

    def rows(fill: float) -> Any:
        padded = np.full(buckets * size, fill)
        padded[:n] = np.where(good, values, fill)
        return padded.reshape(buckets, size)

    bucket = np.arange(buckets)
    kept = [at[bucket, rows(np.inf).argmin(1)], at[bucket, rows(-np.inf).argmax(1)]]
    if not good.all():
        missing = np.zeros(buckets * size, dtype=bool)
        missing[:n] = ~good
        missing = missing.reshape(buckets, size)
        kept.append(at[bucket, missing.argmax(1)][missing.any(1)])
    chosen = np.unique(np.concatenate([[0, n - 1], *kept]))
    return chosen[chosen < n]


def smoothed(values: Float[np.ndarray, " row"], span: int) -> Float[np.ndarray, " row"]:
    """Mean over the last `span` rows of a log that are finite; a gap stays a gap."""
    good = np.isfinite(values)
    total = np.concatenate([[0.0], np.where(good, values, 0.0).cumsum()])
    count = np.concatenate([[0], good.cumsum()])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - span)
    means = (total[end] - total[start]) / np.maximum(1, count[end] - count[start])
    return np.where(good, means, np.nan)


def curves(
    logs: Mapping[str, Log], *, smooth: int = 0, targets: Mapping[str, float] | None = None
) -> tuple[dict[str, Any], bytes]:
    """Logs of runs as lines to draw: what each is, and its points, float32.

    `logs` holds for each recipe its columns, `step` among them, `(row,)` each. A line's points begin at `x` and at `y`
    in the bytes and are `n`. With `smooth`, a mean over so many rows is drawn over what it is the mean of.
    """
    known = {*KNOWN, "step", "tokens"}
    terms = list(dict.fromkeys(c for log in logs.values() for c in log if c not in known))
    if "total" in terms:
        terms = ["total", *(c for c in terms if c != "total")]
    shown = [*terms[:TERMS], *KNOWN]
    drawn = [(i, c, log) for i, log in enumerate(logs.values()) for c in shown if c in log and len(log["step"])]
    wavy = [c not in ("lr", "tokens_per_second", "dead") and smooth > 1 for _, c, _ in drawn]
    most = min(CURVE_POINTS, ALL_POINTS // max(1, len(drawn) + sum(wavy)))
    parts: list[Any] = []
    steps: dict[tuple[int, bytes], int] = {}
    lines: list[dict[str, Any]] = []
    size = 0

    def keep(values: Any) -> int:
        nonlocal size
        parts.append(np.asarray(values, dtype="<f4"))
        size += len(values)
        return size - len(values)

    for (i, column, log), wave in zip(drawn, wavy, strict=True):
        for values, mean in [(log[column], False), *([(smoothed(log[column], smooth), True)] if wave else [])]:
            which = thin(values, most)
            key = (i, which.tobytes())
            if key not in steps:
                steps[key] = keep(log["step"][which])
            line = {"recipe": i, "name": column, "panel": KNOWN.get(column, "loss"), "n": len(which), "x": steps[key]}
            lines.append(line | {"y": keep(values[which])} | ({"mean": True} if mean else {}))
    about = {
        "recipes": [text(name) for name in logs],
        "lines": [line | {"name": text(line["name"])} for line in lines],
        "targets": [finite((targets or {}).get(name)) for name in logs],
        "left": len(terms) - len(terms[:TERMS]),
    }
    return about, b"".join(p.tobytes() for p in parts)


def density_maps(
    logs: Mapping[str, tuple[Float[np.ndarray, " row"], Float[np.ndarray, "row bin"]]],
) -> tuple[dict[str, Any], bytes]:
    """Share of latents by how often they fired, over the run: one map per recipe, float32 `(column, bin)` each.

    `logs`: steps `(row,)` and counts `(row, bin)`; the first bin is of latents that never fired, the others are
    half decades from 1e-6 on. Neighbouring rows are added into one column where there are many; `steps` are the
    columns' edges.
    """
    most = max(1, min(240, MAP_COLUMNS // max(1, len(logs))))
    maps, parts = [], []
    for name, (steps, counts) in logs.items():
        if not len(steps):
            continue
        starts = np.unique(np.linspace(0, len(steps), min(most, len(steps)), endpoint=False).astype(int))
        sums = np.add.reduceat(counts, starts, axis=0)
        edges = [float(steps[0] - (steps[1] - steps[0] if len(steps) > 1 else steps[0]))]
        edges += [float(steps[end - 1]) for end in [*starts[1:], len(steps)]]
        shares = sums / np.maximum(1, sums.sum(1, keepdims=True))
        maps.append({"recipe": text(name), "steps": edges, "bins": int(counts.shape[1])})
        parts.append(shares.astype("<f4"))
    peak = max((float(p.max()) for p in parts), default=0.0)
    return {"maps": maps, "peak": peak, "least": LEAST_DENSITY}, b"".join(p.tobytes() for p in parts)


def standing(logs: Mapping[str, Log], *, steps: int | None = None) -> dict[str, Any]:
    """How far a run has come: step, tokens, tokens per second, and the seconds that its rows say it still needs."""
    last = [log for log in logs.values() if len(log["step"])]
    if not last:
        return {"step": None, "steps": steps, "tokens": None, "budget": None, "rate": None, "eta": None}
    log = max(last, key=lambda found: found["step"][-1])
    step, tokens = (float(log[c][-1]) if c in log else math.nan for c in ("step", "tokens"))
    recent = log["tokens_per_second"][-10:] if "tokens_per_second" in log else np.array([])
    recent = recent[np.isfinite(recent)]
    rate = float(np.median(recent)) if len(recent) else math.nan
    each = tokens / step if step > 0 else math.nan
    left = math.nan if steps is None else max(0.0, steps - step) * each
    return {
        "step": int(step),
        "steps": steps,
        "tokens": finite(tokens),
        "budget": None if steps is None else finite(steps * each),
        "rate": finite(rate),
        "eta": finite(left / rate) if rate > 0 else None,
    }


# the map of latents: positions, columns, neighbours

MAP_MOST = 1_600_000  # bytes of binary columns and text of a map, so that a notebook grows by 2.5 MB at most
MAP_NAMED = 10  # categories with a colour of their own
MAP_LABEL = 80  # characters of a label in a tooltip; Python has the whole of it
MAP_TEXTS = ("label", "top_token")


def map_points(plane: Any) -> dict[str, Any]:
    """Where the latents lie: `latents` (int32, empty if they are 0, 1, 2, ...) and `xy` (float32, from -1 to 1 in the
    longer direction)."""
    xy = plane.xy[plane.latents].numpy().astype(np.float64)
    low, high = xy.min(0), xy.max(0)
    half = float((high - low).max()) / 2 or 1.0
    return {
        "latents": b"" if len(xy) == len(plane.xy) else plane.latents.numpy().astype("<i4").tobytes(),
        "xy": ((xy - (low + high) / 2) / half).astype("<f4").tobytes(),
    }


def map_trust(plane: Any) -> dict[str, Any]:
    """How far a map can be believed, as numbers; `left_out` counts the vectors that are not on it."""
    names = ("trustworthiness", "recall", "chance", "explained", "agreement")
    return {
        **{name: finite(getattr(plane, name)) for name in names},
        "method": plane.method,
        "absolute": plane.absolute,
        "k": plane.k,
        "seed": plane.seed,
        "left_out": len(plane.xy) - len(plane.latents),
        "caption": plane.caption,
    }


def map_column(name: str, values: Any) -> dict[str, Any] | None:
    """A column to colour by: `kind` is "number" (`data` float32; `low` and `high` are the 1st and the 99th percentile,
    `least` the 1st of those above zero, `under` and `over`: are there more beyond them, `log`) or "group"
    (`data` uint8: which of `names`, 255 none; `ordered` if the names are numbers).

    Text, booleans, pandas categories, whole numbers of at most ten values and a column called cluster are groups; the
    ten largest have a name, the rest is "other". None for other things, and for text that hardly any two latents share.
    """
    series: Any = pd.Series(values).reset_index(drop=True)
    present = series[series.notna()]
    real = pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series)
    whole = pd.api.types.is_integer_dtype(series)
    if name == "cluster" or not real or whole and present.nunique() <= MAP_NAMED:
        counts = present.value_counts()
        if not real and len(counts) > max(MAP_NAMED, len(present) / 2):
            return None
        kept = sorted(counts.index[:MAP_NAMED]) if real else list(counts.index[:MAP_NAMED])
        codes = np.full(len(series), 255, np.uint8)
        codes[series.notna().to_numpy()] = len(kept)
        for i, value in enumerate(kept):
            codes[(series == value).to_numpy()] = i
        names = [map_name(name, value) for value in kept]
        if (left := int((codes == len(kept)).sum())) > 0:
            names.append(f"other ({len(counts) - len(kept):,})")
        return {
            "name": text(name),
            "kind": "group",
            "names": names,
            "counts": [int((codes == i).sum()) for i in range(len(names))],
            "none": int((codes == 255).sum()),
            "ordered": bool(real and name != "cluster"),
            "rest": left > 0,
            "data": codes.tobytes(),
        }
    given: Any = pd.to_numeric(series)
    numbers = given.to_numpy(np.float64, na_value=np.nan)
    known = numbers[np.isfinite(numbers)]
    above = known[known > 0]
    ends = np.quantile(known, [0.01, 0.99]) if len(known) else np.full(2, np.nan)
    least = np.quantile(above, 0.01) if len(above) else np.nan
    log = len(above) > 0 and known.min() >= 0 and ends[1] > 30 * least
    return {
        "name": text(name),
        "kind": "number",
        "whole": bool(whole),
        "low": finite(ends[0]),
        "high": finite(ends[1]),
        "least": finite(least),
        "under": bool(len(known) and known.min() < ends[0]),
        "over": bool(len(known) and known.max() > ends[1]),
        "log": bool(log),
        "none": int(len(numbers) - len(known)),
        "data": numbers.astype("<f4").tobytes(),
    }


def map_plain(values: Any) -> bool:
    """Whether a column holds nothing but text, numbers and truth values."""
    return all(isinstance(v, str | bool | int | float | np.generic) or v is None or v is pd.NA for v in values)


def map_name(column: str, value: Any) -> str:
    """A category as the legend shows it."""
    if isinstance(value, bool | np.bool_):
        return f"{text(column)}" if value else f"not {text(column)}"
    if isinstance(value, int | float | np.number):
        return "in no cluster" if column == "cluster" and value == -1 else f"{value:g}"
    return text(value)[:MAP_LABEL]


def map_near(plane: Any) -> dict[str, Any]:
    """Neighbours in the original space, of every point: `near` (uint16 or uint32 points, nearest first), `cosines`
    (int16, 10,000 is 1), `close` (bits, the first neighbour lowest: is it among the k nearest on the map too).
    """
    from scipy.spatial import KDTree

    latents, k = plane.latents.numpy(), plane.indices.shape[1]
    at = np.full(len(plane.xy), -1, np.int64)
    at[latents] = np.arange(len(latents))
    near = at[plane.indices.numpy()]
    xy = plane.xy[plane.latents].numpy()
    shown: Any = KDTree(xy).query(xy, k=k + 1)[1]  # with itself
    own = np.arange(len(latents))
    shown[(shown != own[:, None]).all(1), -1] = own[(shown != own[:, None]).all(1)]  # among doubles it may be missing
    close = (near[:, :, None] == shown[:, None, :]).any(-1)
    return {
        "k": k,
        "wide": len(latents) > 65_536,
        "near": near.astype("<u4" if len(latents) > 65_536 else "<u2").tobytes(),
        "cosines": np.round(plane.cosines.numpy() * 10_000).astype("<i2").tobytes(),
        "close": np.packbits(close, axis=1, bitorder="little").tobytes(),
        "kept": close.mean(1),
    }


def map_near_of(known: Mapping[str, Any], point: int) -> dict[str, Any]:
    """The neighbours of one point out of `map_near`: `points`, `cosines`, `close`."""
    k = known["k"]
    near = np.frombuffer(known["near"], "<u4" if known["wide"] else "<u2").reshape(-1, k)[point]
    close = np.frombuffer(known["close"], np.uint8).reshape(len(known["kept"]), -1)[point]
    return {
        "points": near.tolist(),
        "cosines": (np.frombuffer(known["cosines"], "<i2").reshape(-1, k)[point] / 10_000).tolist(),
        "close": np.unpackbits(close, bitorder="little")[:k].astype(bool).tolist(),
    }


def map_words(values: Any) -> list[str]:
    """Labels or tokens for tooltips: what is missing is empty, what is long is cut."""
    cut = (text(v) if isinstance(v, str) else "" for v in values)
    return [v if len(v) <= MAP_LABEL else v[: MAP_LABEL - 1] + "…" for v in cut]


def map_ranks(values: Float[np.ndarray, " n"]) -> bytes:
    """Rank of each value, 0 to 255 (uint8), missing ones lowest."""
    order = np.argsort(np.argsort(np.where(np.isfinite(values), values, -np.inf), kind="stable"), kind="stable")
    return np.round(order * (255 / max(1, len(order) - 1))).astype(np.uint8).tobytes()


def map_pairs(match: Any, places: Sequence[dict[int, int]]) -> dict[str, Any]:
    """Which points of two maps correspond: `a`, `b` (int32 points), `cosines` (float32, NaN unknown), `lost` pairs
    whose latents are not both on the maps, `matched` points of each map."""
    sides = [[known.get(int(n), -1) for n in match[name]] for known, name in zip(places, "ab", strict=True)]
    found = np.array(sides, np.int64).reshape(2, -1).T
    on = (found >= 0).all(1)
    cosines = match["cosine"].to_numpy(np.float64) if "cosine" in match else np.full(len(match), np.nan)
    return {
        "a": found[on, 0].astype("<i4").tobytes(),
        "b": found[on, 1].astype("<i4").tobytes(),
        "cosines": cosines[on].astype("<f4").tobytes(),
        "lost": int((~on).sum()),
        "matched": [len(set(found[on, side].tolist())) for side in (0, 1)],
    }


def map_rows(
    frame: Any, latents: Sequence[int], *, sort: str, descending: bool, page: int, most: int
) -> dict[str, Any]:
    """One page of a table of latents, sorted: `rows`, `columns` (key, label, num), `total`, `page`, `pages`."""
    chosen = frame.loc[list(latents)]
    if sort != "latent":
        chosen = chosen.sort_values(sort, ascending=not descending, kind="stable", na_position="last")
    elif descending:
        chosen = chosen.sort_index(ascending=False)
    else:
        chosen = chosen.sort_index()
    pages = max(1, -(-len(chosen) // most))
    page = min(max(0, page), pages - 1)
    rows = []
    for latent, line in chosen.iloc[page * most : (page + 1) * most].iterrows():
        cells = {str(i): map_cell(name, value) for i, (name, value) in enumerate(line.items())}
        rows.append({"id": int(latent), **cells})
    columns = [{"key": "id", "name": "latent", "label": "latent", "num": True}]
    for i, name in enumerate(frame.columns):
        num = pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_bool_dtype(frame[name])
        columns.append({"key": str(i), "name": text(name), "label": text(name).replace("_", " "), "num": bool(num)})
        columns[-1]["whole"] = bool(pd.api.types.is_integer_dtype(frame[name]))
    return {"rows": rows, "columns": columns, "total": len(chosen), "page": page, "pages": pages}


def map_cell(column: Any, value: Any) -> float | str | None:
    """A value as the table shows it: categories as in the legend."""
    if isinstance(value, str):
        return text(value)[:200]
    if isinstance(value, bool | np.bool_) or (column == "cluster" and value == -1):
        return map_name(str(column), value)
    if value is None or value is pd.NA:
        return None
    if not isinstance(value, int | float | np.number):
        return text(value)[:200]
    return int(value) if float(value).is_integer() else short(value)


def graph(
    graph: Any,
    tokens: Mapping[int, str] | Sequence[str],
    ids: Sequence[str],
    *,
    most: int = 400,
    links: int = 5000,
    also: Iterable[int] = (),
) -> dict[str, Any]:
    """The `most` nodes of most influence of a `circuits` Graph (targets and nodes `also` among them), `links` edges.

    `nodes`: lists by column. `at` is the node's place in the graph, `influence` its part of all weighted targets (paths
    counted once for each node on them), `held` how much of its row the edges here make. A slider at p shows nodes with
    `rank` below p: the share of all influence that more influential nodes hold, as `Graph.prune`; 0 for what always
    stays. `edges`: int32 `source`, `target` (places in these lists) and float32 `weight`, `share` of the target's row,
    and `rank` among the edges between these nodes; strongest first.
    """
    import torch

    influence, table = graph.influence().double(), graph.nodes
    total = float(influence.sum())
    strength = influence if total > 0 else graph.edges.abs().sum(0).double()
    words, targets = graph.of("token"), graph.of("logit")
    targets[graph.targets[graph.weights > 0]] = True
    always = targets | words if int(words.sum()) <= max(most // 4, 1) else targets
    fixed = always.clone()
    fixed[list(also)] = True
    room = max(most - int(fixed.sum()), 0)
    pool = fixed.clone()
    pool[torch.where(fixed, -1.0, strength).argsort(descending=True, stable=True)[:room]] = True
    at = pool.nonzero()[:, 0]
    rank = torch.where(always, 0.0, graph_leading(influence))[at]
    some = graph.only(pool)
    size = some.shares() * (some.influence()[some.targets] + some.weights)[:, None] if total > 0 else some.edges.abs()
    flat = size.flatten().double()
    count = min(links, int((flat > 0).sum()))
    order = flat.argsort(descending=True, stable=True)[:count]
    row, source = order // max(len(at), 1), order % max(len(at), 1)
    weight = some.edges[row, source]
    whole = graph.edges.abs().sum(1)[pool[graph.targets]].clamp_min(1e-30)
    share = weight.abs() / whole[row]
    held = torch.zeros(len(at), dtype=torch.float64).index_add_(0, some.targets[row], share.double())
    held[~torch.isin(torch.arange(len(at)), some.targets)] = torch.nan
    shown = table.iloc[at.tolist()]
    last = max(table["pos"].max(), -1)
    places = range(last + 1) if last < 64 else sorted({int(p) for p in shown["pos"] if p >= 0})
    known = dict(enumerate(tokens)) if not isinstance(tokens, Mapping) else tokens
    return {
        "nodes": {
            "id": [text(ids[i]) for i in at.tolist()],
            "at": at.tolist(),
            "kind": shown["kind"].tolist(),
            "layer": [int(v) for v in shown["layer"]],
            "pos": [int(v) for v in shown["pos"]],
            "latent": [int(v) for v in shown["latent"]],
            "value": [short(v) for v in shown["value"]],
            "label": [cut(v) for v in shown["label"]],
            "influence": [short(v) for v in influence[at].tolist()],
            "rank": [short(v) for v in rank.tolist()],
            "held": [short(v) for v in held.tolist()],
            "target": targets[at].tolist(),
        },
        "edges": {
            "source": graph_column(source, "<i4"),
            "target": graph_column(some.targets[row], "<i4"),
            "weight": graph_column(weight, "<f4"),
            "share": graph_column(share, "<f4"),
            "rank": graph_column(graph_leading(flat)[order], "<f4"),
        },
        "columns": {"pos": list(places), "word": [cut(known.get(p, "")) for p in places]},
        "about": {
            "nodes": len(table),
            "edges": int((graph.edges != 0).sum()),
            "tokens": int(words.sum()),
            "links": int((flat > 0).sum()),
            "weighted": total > 0,
        },
        "scores": graph_scores(graph),
    }


def graph_leading(values: Any) -> Any:
    """The share of the sum that larger values hold, for each value; 0 where the sum is 0."""
    import torch

    order = values.argsort(descending=True, stable=True)
    before = values[order].cumsum(0) - values[order]
    return torch.zeros_like(values).index_copy_(0, order, before / values.sum().clamp_min(1e-300))


def graph_column(values: Any, kind: str) -> bytes:
    """A tensor as a binary column: "<i4", "<f4" or "u1"."""
    return values.detach().cpu().numpy().astype(kind).tobytes()


def cut(value: Any, most: int = 300) -> str:
    """Text of at most so many characters."""
    value = text(value)
    return value if len(value) <= most else value[: most - 1] + "…"


def graph_scores(graph: Any) -> dict[str, float | None]:
    """`Graph.scores`, all within 0..1, higher is better."""
    return {name: short(value) for name, value in graph.scores().items()}


def graph_pruned(graph: Any, shown: Mapping[str, Any], nodes: float, edges: float, most: int) -> dict[str, Any]:
    """`Graph.prune` of the whole graph, as masks (uint8) over the nodes and edges of `graph`'s answer `shown`."""
    import numpy as np
    import torch

    at = torch.tensor(shown["nodes"]["at"])
    read = {k: np.frombuffer(shown["edges"][k], "<i4").astype(np.int64) for k in ("source", "target")}
    ends = {k: at[torch.from_numpy(places)] for k, places in read.items()}
    if not shown["about"]["weighted"]:
        stay, kept = torch.ones(len(at)), torch.ones(len(ends["source"]))
        return {
            "shares": [nodes, edges],
            "nodes": graph_column(stay, "u1"),
            "edges": graph_column(kept, "u1"),
            "counts": [len(stay), len(kept)],
        }
    small = graph_numbered(graph, nodes, edges, most)
    left = torch.tensor(small.nodes["at"].to_numpy())
    number, row = torch.full((len(graph.nodes),), -1), torch.full((len(left),), -1)
    number[left] = torch.arange(len(left))
    row[small.targets] = torch.arange(len(small.targets))
    source, target = number[ends["source"]], number[ends["target"]]
    there = (source >= 0) & (target >= 0)
    there[there.clone()] = small.edges[row[target[there]], source[there]] != 0
    return {
        "shares": [nodes, edges],
        "nodes": graph_column(number[at] >= 0, "u1"),
        "edges": graph_column(there, "u1"),
        "counts": [len(left), int((small.edges != 0).sum())],
    }


def graph_numbered(graph: Any, nodes: float, edges: float, most: int) -> Any:
    """`Graph.prune` whose nodes have a column `at`, their places in the whole graph. Tokens and targets always stay."""
    from dataclasses import replace

    whole = replace(graph, nodes=graph.nodes.assign(at=range(len(graph.nodes))))
    stay = graph.of("token", "logit")
    stay[graph.targets[graph.weights > 0]] = True
    room = most if int(graph.of("token").sum()) <= max(most // 4, 1) else most + int(stay.sum())
    return whole.prune(nodes, edges, most=max(room, int(stay.sum())))


def graph_sub(
    graph: Any, ids: Sequence[str], pinned: Iterable[int], groups: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Pinned nodes, supernodes and weighted targets alone: `nodes`, `edges` (target, source, weight, share), `scores`.

    A supernode's edges are the sums of its members', its value what enters from outside, as `supernodes.merged`; but
    members may be of several kinds, as in front-ends. `share` is of all that the node receives in the whole graph, so
    that what is left out is missing from the sum. For the scores every latent outside counts as an error.
    """
    import torch

    mask = torch.zeros(len(graph.nodes), dtype=torch.bool)
    mask[list(pinned)] = True
    mask[graph.targets[graph.weights > 0]] = True
    member = {node: name for name, nodes in groups.items() for node in nodes}
    mask[list(member)] = True
    some = graph.only(mask)
    owner: dict[Any, list[int]] = {}
    for node in mask.nonzero()[:, 0].tolist():
        owner.setdefault(member.get(node, node), []).append(node)
    number = {node: i for i, nodes in enumerate(owner.values()) for node in nodes}
    place = torch.tensor([number[node] for node in mask.nonzero()[:, 0].tolist()], dtype=torch.long)
    rows = mask[graph.targets]
    edges = torch.zeros(len(owner), len(owner), dtype=torch.float64)
    edges.index_put_((place[some.targets][:, None], place), some.edges.double(), accumulate=True)
    inside, whole = edges.diagonal().clone(), torch.zeros(len(owner), dtype=torch.float64)
    whole.index_add_(0, place[some.targets], graph.edges[rows].abs().sum(1).double())
    to, source = edges.fill_diagonal_(0).nonzero(as_tuple=True)
    weights = edges[to, source]
    links = zip(to.tolist(), source.tolist(), weights.tolist(), (weights.abs() / whole[to]).tolist(), strict=True)
    shown = sorted(([t, s, short(w), short(share)] for t, s, w, share in links), key=lambda e: -abs(e[2] or 0))
    aims, table = set(graph.targets[graph.weights > 0].tolist()), graph.nodes
    size = table["value"].abs().fillna(0).tolist()
    boxes = []
    for (key, nodes), within in zip(owner.items(), inside.tolist(), strict=True):
        lead = table.iloc[max(nodes, key=lambda n: size[n])]
        name = text(key) if nodes[0] in member else None
        boxes.append(
            {
                "name": name,
                "ids": [text(ids[n]) for n in nodes],
                "kind": str(lead["kind"]),
                "layer": int(lead["layer"]),
                "pos": int(lead["pos"]),
                "value": short(float(table["value"].iloc[nodes].sum()) - within),
                "label": name or cut(lead["label"]),
                "target": bool(aims & set(nodes)),
            }
        )
    return {"nodes": boxes, "edges": shown[:400], "scores": graph_scores(graph_rest_lost(graph, mask))}


def graph_rest_lost(graph: Any, keep: Any) -> Any:
    """The graph whose latents outside are errors: they keep what they write, and nothing explains them."""
    from dataclasses import replace

    lost = graph.of("latent") & ~keep
    rows = ~lost[graph.targets]
    kinds = graph.nodes["kind"].where(~lost.numpy(), "error")
    table = graph.nodes.assign(kind=kinds)
    kept = {"edges": graph.edges[rows], "targets": graph.targets[rows], "weights": graph.weights[rows]}
    return replace(graph, nodes=table, **kept)


def graph_trial(
    name: str,
    ids: Sequence[str],
    factor: float,
    targets: Sequence[str],
    before: Sequence[float],
    predicted: Sequence[float],
    held: Sequence[float],
    free: Sequence[float],
) -> dict[str, Any]:
    """What scaling nodes changed of each target: as the graph says, with attention held, free. `agree`: is the sign as
    predicted (two changes below 1e-5 of the largest are both none), by target, and how often.
    """
    still = 1e-5 * max((abs(v) for v in (*predicted, *held, *free)), default=0.0)
    rows = []
    for target, *numbers in zip(targets, before, predicted, held, free, strict=True):
        said, *seen = numbers[1:]
        agree = [said * v > 0 or max(abs(said), abs(v)) <= still for v in seen]
        shown = dict(zip(("before", "predicted", "held", "free"), map(short, numbers), strict=True))
        rows.append({"target": cut(target), **shown, "agree": dict(zip(("held", "free"), agree, strict=True))})
    return {
        "name": cut(name),
        "ids": [text(i) for i in ids],
        "factor": short(factor),
        "rows": rows,
        "agree": {way: sum(r["agree"][way] for r in rows) for way in ("held", "free")},
    }


def desk_arm(
    tokens: Sequence[str] = (),
    *,
    state: str = "waiting",
    said: str = "",
    clean: Sequence[float] = (),
    edited: Sequence[float] = (),
    top: Sequence[Sequence[tuple[str, float]]] = (),
) -> dict[str, Any]:
    """One of a desk's texts: tokens, their log-probabilities in nats without and with the edits, the likeliest there.

    `change` is edited less clean; `perplexity` the default model's on these tokens.
    """
    return {
        "tokens": [text(token) for token in tokens],
        "state": state,
        "text": text(said),
        "clean": [_nats(v) for v in clean],
        "edited": [_nats(v) for v in edited],
        "change": [_nats(e - c) for c, e in zip(clean, edited, strict=True)],
        "top": [[[text(token), _nats(v)] for token, v in best] for best in top],
        "perplexity": finite(math.exp(min(-sum(clean) / len(clean), 700))) if clean else None,
    }


def _nats(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def desk_record(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run without its tokens: number, settings, code, texts."""
    texts = {name: arm["text"] or "".join(arm["tokens"]) for name, arm in run["arms"].items()}
    return {k: run[k] for k in ("number", "settings", "code", "state")} | {"texts": texts}


def desk_curve(
    settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], state: str, done: float
) -> dict[str, Any]:
    """KL and perplexity against strength: for each arm and share of the strength the seeds' points and their mean.

    `rows` have arm (none, steered, random), share, seed, kl, perplexity. With a single line that has a strength, `x` is
    that strength; a factor's is 1 at share 0.
    """
    lines = [line for line in settings["lines"] if line["on"]]
    one = lines[0] if len(lines) == 1 and lines[0]["method"] != "ablate" else None
    factor = one is not None and one["method"] == "scale"
    axis = "share of the strengths set" if one is None else "factor" if factor else "strength, × residual norm"

    def place(share: float) -> float:
        return share if one is None else 1 + share * (one["strength"] - 1) if factor else share * one["strength"]

    def points(arm: str) -> list[dict[str, Any]]:
        made = []
        for share in sorted({row["share"] for row in rows if row["arm"] == arm}):
            found = [row for row in rows if row["arm"] == arm and row["share"] == share]
            point: dict[str, Any] = {"x": place(share), "share": share}
            for metric in ("kl", "perplexity"):
                values = [finite(row[metric]) for row in found]
                known = [v for v in values if v is not None]
                point[metric], point[f"{metric}_points"] = (sum(known) / len(known) if known else None), values
            made.append(point)
        return made

    clean = [row["perplexity"] for row in rows if row["arm"] == "none"]
    return {
        "settings": dict(settings),
        "axis": axis,
        "arms": {arm: points(arm) for arm in ("steered", "random")},
        "clean": finite(sum(clean) / len(clean)) if clean else None,
        "seeds": len({row["seed"] for row in rows}),
        "set": place(1.0),
        "state": state,
        "done": done,
    }


def desk_code(settings: Mapping[str, Any], edits: Mapping[str, str]) -> str:
    """A cell that makes a run's texts without the widget; `edits` has the code of each site's edit."""
    prompt = settings["prompt"]
    given = [{"role": "user", "content": prompt}] if settings["chat"] else prompt
    sampling = {k: settings[k] for k in ("new", "seed", "temperature")}
    lines = [
        "# subject, codec and vectors: those that the desk was given",
        "from workbench import edit, steer",
        "from workbench.steer.methods.add import add",
        "",
        f"prompt = {given!r}",
        "edits = {",
        *(f"    {site!r}: {made}," for site, made in edits.items()),
        "}",
        f"control = {{site: steer.equal_norm(one, seed={settings['seed']}) for site, one in edits.items()}}",
        "texts = {",
        f"    name: subject.generate(prompt, chosen, **{sampling!r}).new_texts[0]",
        "    for name, chosen in {'clean': {}, 'steered': edits, 'random': control}.items()",
        "}",
        "texts",
    ]
    return "\n".join(lines)


def patterns(weights: Float[np.ndarray, "head query key"]) -> dict[str, Any]:
    """A layer's attention patterns as bytes: query by query, up to the query itself where none looks ahead.

    `causal`; `kind`: float16, or, where that is more than 225 kB, uint8 of 255 times the square root. `note` says which
    rows do not sum to 1. Raises ValueError for NaN and negative weights, and for more than the notebook should carry.
    """
    if not np.isfinite(weights).all():
        raise ValueError("patterns hold NaN or infinite weights: look where they were computed")
    if weights.size and float(weights.min()) < -1e-6:
        raise ValueError(f"attention weights must be 0 or more, got {float(weights.min()):.3g}: give probabilities")
    heads, size = weights.shape[:2]
    weights = weights.clip(0)
    causal = not np.triu(weights, 1).any()
    kept = weights[:, *np.tril_indices(size)] if causal else weights.reshape(heads, -1)
    kind = "float16" if 2 * kept.size <= PATTERN_BYTES else "uint8"
    if kept.size > PATTERN_BYTES:
        most = int((PATTERN_BYTES / heads * (2 if causal else 1)) ** 0.5)
        raise ValueError(
            f"{heads} heads of {size} tokens would add {kept.size // 1000} kB to the notebook, at most "
            f"{PATTERN_BYTES // 1000} are kept: give fewer heads, or the first {most} tokens"
        )
    data = kept.astype("<f2") if kind == "float16" else np.rint(255 * np.sqrt(kept.clip(0, 1))).astype("u1")
    off = np.abs(weights.sum(-1, dtype=np.float64) - 1)
    worst = [int(i) for i in np.unravel_index(off.argmax(), off.shape)] if off.size else [0, 0]
    note = ""
    if off.size and off.max() > 1e-3:
        wrong = int((off > 1e-3).sum())
        note = (
            f"{wrong} of {off.size} rows do not sum to 1: the row of head {worst[0]}, query {worst[1]} sums to "
            f"{float(weights[worst[0], worst[1]].sum()):.4g}"
        )
    return {"data": data.tobytes(), "kind": kind, "causal": causal, "heads": heads, "size": size, "note": note}


PATTERN_BYTES = 225_000  # 300 kB as a notebook writes them


def by_cosine(index: Any, codec: Any, latent: int, k: int = 6, *, chunk: int = 8192) -> list[dict[str, Any]]:
    """The latents whose atoms lie nearest to a latent's: latent, value (the cosine), token. Atoms of zero have none."""
    import torch

    def directions(some: Sequence[int]) -> Any:
        atoms = codec.atoms(some).detach().float().flatten(1)
        return torch.nn.functional.normalize(atoms, dim=-1)

    mine = directions([latent])[0]
    cosines = torch.cat(
        [directions(range(a, min(a + chunk, codec.latents))) @ mine for a in range(0, codec.latents, chunk)]
    ).cpu()
    cosines[latent] = -2
    best = cosines.nan_to_num(-2).topk(min(k, len(cosines) - 1))
    names = index.table["top_token"]
    return [
        {"latent": i, "value": short(v), "token": text(names.iloc[i])}
        for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        if v > 0
    ]


def by_firing(
    index: Any, latent: int, k: int = 6, *, chunk: int = 65_536, cancelled: Callable[[], bool] = lambda: False
) -> list[dict[str, Any]]:
    """The latents that fire where a latent fires: latent, value (Jaccard), both, either (counts of rows), token.

    Jaccard: rows where both fire, of those where either does. The first call of all makes the codes' index by latent.
    """
    rows, _ = index.codes.column(latent)
    both = np.zeros(index.latents, np.int64)
    for start in range(0, len(rows), chunk):
        if cancelled():
            return []
        code = index.codes.rows(rows[start : start + chunk])
        both += np.bincount(code.indices.numpy(), minlength=index.latents)
    either = len(rows) + index.table["fired"].to_numpy() - both
    jaccard = np.divide(both, either, out=np.zeros(index.latents), where=either > 0)
    jaccard[latent] = 0
    best = np.argsort(-jaccard, kind="stable")[:k]
    names = index.table["top_token"]
    return [
        {
            "latent": int(i),
            "value": short(jaccard[i]),
            "both": int(both[i]),
            "either": int(either[i]),
            "token": text(names.iloc[i]),
        }
        for i in best
        if both[i]
    ]


def score_table(scores: Any, latents: int) -> Any:
    """Scores with one line for each latent, by its number: a frame whose index, or whose column `latent`, is that.

    Raises ValueError for latents that repeat or do not exist, or for more than 12 columns.
    """
    frame = pd.DataFrame(scores)
    if "latent" in frame.columns:
        frame = frame.set_index("latent")
    if not pd.api.types.is_integer_dtype(frame.index):
        raise ValueError("scores want a column `latent`, or latents' numbers as index")
    if frame.index.has_duplicates:
        twice = frame.index[frame.index.duplicated()][0]
        raise ValueError(f"scores want one line for each latent, got several for {twice}")
    numbers: Any = frame.index
    low, high = (int(numbers.min()), int(numbers.max())) if len(frame) else (0, 0)
    if low < 0 or high >= latents:
        raise ValueError(f"scores are of latents 0..{latents - 1}, got {low}..{high}")
    if len(frame.columns) > 12:
        raise ValueError(f"scores have at most 12 columns, got {len(frame.columns)}: choose some")
    frame.columns = [text(name) for name in frame.columns]
    if frame.columns.has_duplicates:
        raise ValueError(f"scores want columns of different names, got {', '.join(frame.columns)}")
    return frame


class TopTokens:
    """Which tokens stand in the middle of latents' strongest contexts, to be searched."""

    def __init__(self, index: Any):
        top = index.picked[(index.picked["kind"] == "top") & (index.picked["value"] != 0)]
        ids = index.store.tokens.ids.numpy()[top["text"].to_numpy(), top["pos"].to_numpy()]
        known, self.which = np.unique(ids, return_inverse=True)
        self.latent, self.latents = top["latent"].to_numpy(), index.latents
        self.words = [word.lower() for word in index.words(known.tolist())]

    def hits(self, search: str) -> Int[np.ndarray, " latent"]:
        """In how many of a latent's strongest contexts the token contains some text; capitals do not matter."""
        search = search.lower()
        has = np.fromiter((search in word for word in self.words), bool, len(self.words))
        return np.bincount(self.latent[has[self.which]], minlength=self.latents)


QUERY: dict[str, Any] = {  # what `latents` is asked for, unless told otherwise
    "search": "",  # text to find
    "by": "token",  # or "label"
    "dead": "all",  # "alive", "dead"
    "low": None,  # least density
    "high": None,  # largest density
    "score": "",  # a column of scores to show
    "score_low": None,
    "score_high": None,
    "sort": "latent",  # density, max, mean, hits, score
    "descending": False,
    "page": 0,
}


def asked(query: Mapping[str, Any], names: Iterable[str] = ()) -> dict[str, Any]:
    """A whole query from the parts that differ. `names` are columns of scores. Raises ValueError for what is none."""
    if unknown := [name for name in query if name not in QUERY]:
        raise ValueError(f"a query knows {', '.join(QUERY)}, got {unknown[0]!r}")
    full = QUERY | dict(query)
    choices = {
        "by": ("token", "label"),
        "dead": ("all", "alive", "dead"),
        "score": ("", *names),
        "sort": ("latent", "density", "max", "mean", "hits", "score"),
    }
    for name, allowed in choices.items():
        if full[name] not in allowed:
            raise ValueError(f"query's {name} is one of {', '.join(map(repr, allowed))}, got {full[name]!r}")
    for name in ("low", "high", "score_low", "score_high"):
        number = isinstance(full[name], int | float) and not isinstance(full[name], bool)
        if full[name] is not None and (not number or finite(full[name]) is None):
            raise ValueError(f"query's {name} is a number or None, got {full[name]!r}")
    if isinstance(full["page"], bool) or not isinstance(full["page"], int) or full["page"] < 0:
        raise ValueError(f"query's page is 0, 1, ..., got {full['page']!r}")
    return full


def latents(
    index: Any,
    query: Mapping[str, Any],
    *,
    tokens: Callable[[], TopTokens],
    labels: Mapping[str, str],
    scores: Any = None,
    page: int = 20,
) -> dict[str, Any]:
    """A page of the latents that a query asks for (`asked`): rows, found (how many in all), page, pages."""
    table = index.table
    density = table["density"].to_numpy()
    keep = np.ones(len(table), bool)
    if query["dead"] != "all":
        keep &= table["dead"].to_numpy() == (query["dead"] == "dead")
    if query["low"] is not None:
        keep &= density >= query["low"]
    if query["high"] is not None:
        keep &= density <= query["high"]
    score = None
    if query["score"]:
        column: Any = pd.to_numeric(scores[query["score"]], errors="coerce")
        score = column.reindex(range(len(table))).to_numpy(float)
        if query["score_low"] is not None:
            keep &= score >= query["score_low"]
        if query["score_high"] is not None:
            keep &= score <= query["score_high"]
    hits = None
    if query["search"] and query["by"] == "token":
        hits = tokens().hits(query["search"])
        keep &= hits > 0
    elif query["search"]:
        named = [int(i) for i, label in labels.items() if i.isdecimal() and query["search"].lower() in label.lower()]
        keep &= np.isin(np.arange(len(keep)), named)
    found = np.flatnonzero(keep)
    by = query["sort"]
    key = {"latent": None, "hits": hits, "score": score}.get(by, table[by].to_numpy() if by in table else None)
    if key is not None:
        value = key[found].astype(float)
        found = found[np.argsort(-value if query["descending"] else value, kind="stable")]  # NaN comes last
    elif query["descending"]:
        found = found[::-1]
    pages = max(1, -(-len(found) // page))
    at = min(query["page"], pages - 1)
    rows = latent_rows(index, found[at * page : (at + 1) * page].tolist(), hits=hits, score=score)
    return {"rows": rows, "found": len(found), "page": at, "pages": pages}


def latent_rows(index: Any, some: Iterable[int], *, hits: Any = None, score: Any = None) -> list[dict[str, Any]]:
    """Lines of a table of latents: id, token, dead, density, max, and hits and score where there are any."""
    rows = []
    for i in some:
        line = index.table.iloc[i]
        row = {"id": i, "token": text(line["top_token"]), "dead": bool(line["dead"])}
        row |= {name: short(line[name]) for name in ("density", "max")}
        row |= {} if hits is None else {"hits": int(hits[i])}
        rows.append(row | ({} if score is None else {"score": short(score[i])}))
    return rows


def densities(index: Any, per_decade: int = 4) -> list[list[Any]]:
    """How many latents fire on which share of the rows: [low, high, count] in equal parts of decades, up to 1."""
    alive = index.table["density"].to_numpy()
    alive = alive[alive > 0]
    if not len(alive):
        return []
    first = math.floor(per_decade * math.log10(alive.min()) + 1e-9)
    edges = 10.0 ** (np.arange(first, 1) / per_decade) if first < 0 else np.array([10 ** (-1 / per_decade), 1.0])
    counts, _ = np.histogram(alive, edges)
    return [[short(low), short(high), int(n)] for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)]


class Reading:
    """A text through a subject and a dictionary: its tokens, and the code of each that the exclusion rule keeps."""

    def __init__(self, subject: Any, codec: Any, prompt: str):
        import torch

        site = Site.of(codec.site)
        tokens = subject.tokens(prompt)
        x = subject.read(tokens, [site])[site][0]
        keep = codec.exclusion.by_token(tokens, subject.special_ids)[0].to(x.device) & codec.exclusion.by_norm(site, x)
        self.tokens = [text(word) for word in subject.words(tokens.ids[0])]
        self.keep = keep.cpu().numpy()
        self.pos = self.latent = np.zeros(0, np.int64)
        self.value = np.zeros(0, np.float32)
        if keep.any():
            with torch.no_grad():
                row, latent, value = (part.cpu().numpy() for part in codec.encode(x[keep]).entries())
            self.pos, self.latent, self.value = np.flatnonzero(self.keep)[row], latent, value.astype(np.float32)

    def values(self, latent: int) -> Float[np.ndarray, " token"]:
        """A latent's activation at every token; NaN where the token is left out."""
        values = np.where(self.keep, 0, np.nan).astype(np.float32)
        mine = self.latent == latent
        values[self.pos[mine]] = self.value[mine]
        return values


def reading(
    read: Reading, index: Any, latent: int, *, at: int = -1, most: int = 20, window: int = 48
) -> dict[str, Any]:
    """Latents on a text, strongest first by their largest activation there, or by that at token `at`.

    tokens; at; latent, values, marker (the latent shown, its activation at each token, and at `at` or at most); fired
    (latents that fire); rows: id, token, at (where it is largest), max, value, first and values (some tokens around).
    """
    size, table = np.zeros(index.latents, np.float32), index.table
    here = slice(None) if at < 0 else read.pos == at
    np.maximum.at(size, read.latent[here], np.abs(read.value[here]))
    order = np.argsort(-size, kind="stable")[:most]
    rows = []
    for i in order[size[order] > 0].tolist():
        values = read.values(i)
        peak = int(np.nanargmax(np.abs(values)))
        middle = peak if at < 0 else at
        first = max(0, min(middle - window // 2, len(values) - window))
        rows.append(
            {
                "id": i,
                "token": text(table["top_token"].iloc[i]),
                "density": short(table["density"].iloc[i]),
                "at": peak,
                "max": short(table["max"].iloc[i]),
                "value": short(values[middle]),
                "first": first,
                "values": [short(v) for v in values[first : first + window]],
            }
        )
    mine = read.values(latent)
    on = mine[at] if at >= 0 else mine[np.nanargmax(np.abs(mine))] if read.keep.any() else np.nan
    return {
        "tokens": read.tokens,
        "at": at,
        "latent": latent,
        "values": [short(v) for v in mine],
        "marker": None if not on else short(abs(on)),
        "fired": int((size > 0).sum()),
        "rows": rows,
    }


def pair(
    index: Any, a: int, b: int, *, codec: Any = None, subject: Any = None, effects: Any = None, top: int = 8
) -> dict[str, Any]:
    """Two latents: fired (rows of each), both, either, jaccard; cosine of their atoms (None without a codec); tokens.

    `more` and `less` hold the tokens whose effect of `a` less that of `b` is largest and smallest: token, effect of a,
    effect of b, difference; exact with a subject, else from the lists of `effects`, None where a list lacks a token.
    """
    rows = [index.codes.column(i)[0].numpy() for i in (a, b)]
    both = len(np.intersect1d(*rows, assume_unique=True))
    either = len(rows[0]) + len(rows[1]) - both
    made: dict[str, Any] = {"a": a, "b": b, "fired": [len(r) for r in rows], "both": both, "either": either}
    made["jaccard"] = short(both / either) if either else None
    made["cosine"] = None
    if codec is not None:
        one, other = codec.atoms([a, b]).detach().float().flatten(1)
        scale = float(one.norm() * other.norm())
        made["cosine"] = short(float(one @ other) / scale) if scale else None
    lines = [] if effects is None else differences(a, b, codec, subject, effects, top)
    made["more"] = [line for apart, line in lines if apart > 0][:top]
    made["less"] = [line for apart, line in reversed(lines) if apart < 0][:top]
    return made


def differences(a: int, b: int, codec: Any, subject: Any, effects: Any, top: int) -> list[tuple[float, list[Any]]]:
    """(difference, [token, effect of a, effect of b, difference]), largest first; what is not listed counts as 0."""
    if subject is None or codec is None:
        known = [dict(effects[effects["latent"] == i][["token", "effect"]].to_numpy().tolist()) for i in (a, b)]
        lines = [[text(t), known[0].get(t), known[1].get(t)] for t in dict.fromkeys([*known[0], *known[1]])]
    else:
        import torch

        from workbench.interpret.effects import direct

        atoms = codec.atoms([a, b]).detach().float().to(subject.unembed.device)
        atoms = atoms - atoms.mean(-1, keepdim=True) if subject.centred else atoms
        each = direct(atoms, subject.unembed.detach().float(), subject.gain.detach().float())
        apart = each[0] - each[1]
        top = min(top, len(apart))
        ids = torch.cat([apart.topk(top).indices, apart.topk(top, largest=False).indices]).unique().tolist()
        lines = [[text(w), *each[:, i].tolist()] for i, w in zip(ids, subject.words(ids), strict=True)]
    found = [((x or 0) - (y or 0), [word, short(x), short(y), None]) for word, x, y in lines]
    for apart, line in found:
        line[3] = None if None in line[1:3] else short(apart)
    return sorted(found, key=lambda pair: -pair[0])


ROUND = 9  # significant digits of scores
MOST_SCORES = 3000
DIRECTIONS = ("higher", "lower", "none")
SCORED = ("value", "low", "high", "chance", "n")
SCORE: dict[str, Any] = {"eval": "", "unit": "", "direction": "none"}  # where a table says nothing


def board(scores: Any) -> dict[str, Any]:
    """Dictionaries by metrics: `dictionaries` (names), `metrics` (what each is, its scale, who is best), `cells`.

    A cell is [value, low, high, chance, n, unit where the metric's own varies], or None where there is no score. `best`
    of a metric holds the dictionaries whose interval reaches the best one's; it is empty where that is all of them, or
    where the metric has no direction. `axis` is the metric's scale: all intervals, and chance where it is near.
    `scores`: {name: Scores}, {name: {eval: Scores}}, or a table with at least dictionary, metric and value.
    Raises TypeError for anything else, ValueError for scores that contradict each other.
    """
    found = list(_score_rows(scores))
    names = list(dict.fromkeys(row["dictionary"] for row in found))
    keys = list(dict.fromkeys((row["eval"], row["metric"]) for row in found))
    if not found:
        raise ValueError("no score to show: give {name: Scores}, or the table of workbench.evaluate.run")
    if len(names) * len(keys) > MOST_SCORES:
        raise ValueError(
            f"{len(names)} dictionaries by {len(keys)} metrics is more than {MOST_SCORES} scores: filter them first"
        )
    at: dict[tuple[str, tuple[str, str]], dict[str, Any]] = {}
    for row in found:
        key = (row["dictionary"], (row["eval"], row["metric"]))
        if key in at:
            raise ValueError(f"{row['metric']} of {row['dictionary']} stands there twice: give each score once")
        at[key] = row
    metrics, columns = [], []
    for key in keys:
        column = [at.get((name, key)) for name in names]
        there = [row for row in column if row is not None]
        directions = {row["direction"] for row in there}
        if len(directions) > 1:
            raise ValueError(f"{key[1]} is better {' and '.join(sorted(directions))}: give one direction for a metric")
        units = {row["unit"] for row in there}
        counted = {str(row["counted"]) for row in there if row.get("counted")}
        about = {
            "key": "/".join(part for part in key if part),
            "eval": key[0],
            "metric": key[1],
            "direction": directions.pop(),
            "unit": units.pop() if len(units) == 1 else "",
            "counted": text(counted.pop()) if len(counted) == 1 else "",
        }
        cells = [None if row is None else _cell(row, about["unit"]) for row in column]
        metrics.append(about | {"axis": _axis(cells, there[0]["range"]), "best": _best(cells, about["direction"])})
        columns.append(cells)
    if len({m["key"] for m in metrics}) < len(metrics):
        raise ValueError("two metrics have the same eval/metric: rename one")
    return {"dictionaries": names, "metrics": metrics, "cells": [list(row) for row in zip(*columns, strict=True)]}


def front(board: Mapping[str, Any], x: int, y: int) -> dict[str, Any]:
    """Who is on the Pareto front of two metrics, by their numbers: `standing` of each dictionary, and `line`, its edge.

    Standing: 2 on the front, 1 dominated but not beyond the intervals, 0 dominated beyond them, None where a score is
    missing. Raises ValueError for a metric without a direction.
    """
    for i in (x, y):
        if board["metrics"][i]["direction"] == "none":
            raise ValueError(f"{board['metrics'][i]['key']} has no direction: nothing is better by it")
    signs = np.array([1 if board["metrics"][i]["direction"] == "higher" else -1 for i in (x, y)])
    pairs = [(row[x], row[y]) for row in board["cells"]]
    kept = [i for i, pair in enumerate(pairs) if all(c is not None for c in pair)]
    value = np.array([[c[0] for c in pairs[i]] for i in kept]).reshape(-1, 2) * signs
    ends = np.array([[[_or(c[k], c[0]) for k in (1, 2)] for c in pairs[i]] for i in kept]).reshape(-1, 2, 2)
    low, high = (ends * signs[None, :, None]).min(2), (ends * signs[None, :, None]).max(2)

    def beaten(better: Any, than: Any) -> Any:
        """(dictionary,) whether some row of `better` is at least as good in both and better in one."""
        order = better[:, 0].argsort()
        best = np.append(np.maximum.accumulate(better[order[::-1], 1])[::-1], -np.inf)  # of those from here on
        beyond, level = (best[np.searchsorted(better[order, 0], than[:, 0], side)] for side in ("right", "left"))
        return (beyond >= than[:, 1]) | (level > than[:, 1])

    standing: list[int | None] = [None] * len(pairs)
    for i, by_value, surely in zip(kept, beaten(value, value), beaten(low, high), strict=True):
        standing[i] = 2 if not by_value else 0 if surely else 1
    edge = sorted({(pairs[i][0][0], pairs[i][1][0]) for i in kept if standing[i] == 2})
    corners = [(b[0], a[1]) if signs[0] < 0 else (a[0], b[1]) for a, b in pairwise(edge)]
    steps = [point for both in zip(edge, [*corners, *edge[-1:]], strict=True) for point in both]
    return {"standing": standing, "line": [[p[i] for p in steps] for i in (0, 1)]}


def _score_rows(scores: Any) -> Iterator[dict[str, Any]]:
    if hasattr(scores, "columns") and hasattr(scores, "to_dict"):
        if lacking := {"dictionary", "metric", "value"} - {str(c) for c in scores.columns}:
            raise ValueError(f"the table has no {', '.join(sorted(lacking))}: give that of workbench.evaluate.run")
        rows = scores.to_dict("records")
    elif isinstance(scores, Mapping):
        rows = []
        for name, given in scores.items():
            for eval, each in given.items() if isinstance(given, Mapping) else [("", given)]:
                if not isinstance(each, Scores):
                    raise TypeError(f"scores of {name} must be Scores or {{eval: Scores}}, got {type(each).__name__}")
                rows += [{"dictionary": name, "eval": eval} | asdict(score) for score in each]
    else:
        raise TypeError(f"scores must be {{name: Scores}} or a table, got {type(scores).__name__}")
    for given in rows:
        if given.get("error"):  # a cell of `evaluate.run` that failed: a missing score
            continue
        there = {str(k): v for k, v in given.items() if not (pd.api.types.is_scalar(v) and pd.isna(v))}
        if not all(str(there.get(key, "")) for key in ("dictionary", "metric")):
            raise ValueError(f"a score needs the names of its dictionary and its metric, got {there}")
        row: dict[str, Any] = SCORE | dict.fromkeys((*SCORED, "range")) | there
        for key in SCORED:
            if row[key] is not None and (isinstance(row[key], str) or not hasattr(row[key], "__float__")):
                raise ValueError(f"{key} of {row['metric']} of {row['dictionary']} must be a number, got {row[key]!r}")
            row[key] = finite(None if row[key] is None else float(row[key]))
        if row["direction"] not in DIRECTIONS:
            raise ValueError(f"a direction is higher, lower or none, {row['metric']} has {row['direction']!r}")
        yield row | {key: text(row[key] or "") for key in ("dictionary", "eval", "metric", "unit")}


def _cell(row: Mapping[str, Any], unit: str) -> list[Any] | None:
    """A score as a cell; None where its value is not finite."""
    if row["value"] is None:
        return None
    values = (row[k] for k in ("value", "low", "high", "chance"))
    short = [None if v is None else float(f"{v:.{ROUND}g}") for v in values]
    return [*short, None if row["n"] is None else int(row["n"]), *([row["unit"]] if row["unit"] != unit else [])]


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _axis(cells: Sequence[list[Any] | None], whole: Any) -> list[float]:
    ends = [v for c in cells if c is not None for v in c[:3] if v is not None]
    if not ends:
        return [0.0, 1.0]
    low, high = min(ends), max(ends)
    span = (high - low) or abs(high) * 0.1 or 1.0
    near = [c[3] for c in cells if c is not None and c[3] is not None and low - span <= c[3] <= high + span]
    low, high = min([low, *near]) - 0.05 * span, max([high, *near]) + 0.05 * span
    if isinstance(whole, tuple | list) and len(whole) == 2:  # nothing lies outside of a metric's range
        low = max(low, _or(whole[0], -math.inf) - 0.05 * span)
        high = min(high, _or(whole[1], math.inf) + 0.05 * span)
    return [low, high]


def _best(cells: Sequence[list[Any] | None], direction: str) -> list[int]:
    there = {i: c for i, c in enumerate(cells) if c is not None}
    if direction == "none" or not there:
        return []
    sign = 1 if direction == "higher" else -1
    top = max(there.values(), key=lambda c: sign * c[0])
    reach = min(sign * _or(end, top[0]) for end in top[1:3])  # the worse end of the best one's interval
    best = [i for i, c in there.items() if max(sign * _or(end, c[0]) for end in c[1:3]) >= reach]
    return best if len(best) < len(there) else []

"""Run evaluations over cases into one tidy table, and draw it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from .. import catalogue
from ..batch import Tokens
from ..code import Codec
from . import splices
from .case import Case, Rows, named
from .scores import Scores

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

    from ..subject import Subject

COLUMNS = (
    "dictionary", "eval", "metric", "value", "low", "high", "unit", "direction", "range", "chance", "n", "counted",
    "share_excluded", "resampled", "seconds",
)  # fmt: skip

PALETTE = ("#3367a8", "#d9822b", "#2d8a5b", "#a8456b", "#6f5bb0", "#7a6a4f", "#2a8fa3", "#555f6e")  # by dictionary


def run(
    cases: Sequence[Case] | Mapping[str, Codec],
    evals: Sequence[str] | None = None,
    *,
    subject: "Subject | None" = None,
    rows: Rows | None = None,
    tokens: Tokens | None = None,
    texts: Int[Tensor, " text"] | Sequence[int] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> "DataFrame":
    """Every eval on every case: one row per number, in the order given; all evals of the catalogue when None.

    Cases, or `{name: codec}` with the `subject`, held-out `rows`, `tokens` and `texts` they share; `seed` and
    `resamples` go into such cases, ready ones keep their own. `options` holds keyword arguments of an eval by its
    name. `seconds` is each eval's own time; forward passes that several share are divided among them.
    Raises ValueError when a name is unknown, a case repeats a name, or the parts do not fit.
    """
    import pandas as pd

    chosen = catalogue.names("evals") if evals is None else list(evals)
    given = dict(options or {})
    if isinstance(cases, Mapping):
        if rows is None:
            raise ValueError("named dictionaries need the held-out rows to judge them on: give rows=")
        cases = named(cases, subject, rows, tokens, texts, seed=seed, resamples=resamples)
    elif not (subject is rows is tokens is texts is None):
        raise ValueError("cases hold their own subject, rows, tokens and texts: give either cases or a mapping")
    names = [case.name for case in cases]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"cases need one or more distinct names, got {names}")
    if unknown := set(given) - set(chosen):
        raise ValueError(f"options for {', '.join(sorted(unknown))}, which is not among the evals {', '.join(chosen)}")
    entries = {name: catalogue.entry("evals", name) for name in chosen}
    shared = [name for name in chosen if getattr(catalogue.module("evals", name), "SPLICES", False)]
    started = time.perf_counter()
    if shared:
        splices.fill(cases)
    each = (time.perf_counter() - started) / max(1, len(shared) * len(cases))
    records: list[dict[str, Any]] = []
    for case in cases:
        for name, eval in entries.items():
            started = time.perf_counter()
            scores = eval(case, **given.get(name, {}))
            if not isinstance(scores, Scores):
                raise TypeError(f"the eval {name} must return Scores, got {type(scores).__name__}")
            seconds = time.perf_counter() - started + (each if name in shared else 0.0)
            records += [{"dictionary": case.name, "eval": name, "seconds": seconds} | asdict(s) for s in scores]
    return pd.DataFrame(records, columns=list(COLUMNS)).astype({"chance": float})


def held_out(rows: Rows, texts: int = 96, *, seed: int = 0) -> tuple[Tokens, Int[Tensor, " text"]]:
    """Token rows of a held-out view to splice into, spread evenly over its documents, and the document of each.

    Documents take turns, in an order drawn from `seed`, until `texts` token rows are chosen; fewer when there are no
    more. They come back in stored order.
    """
    tokens, documents = rows.tokens, torch.as_tensor(rows.texts)
    if texts < 1 or not len(documents):
        raise ValueError(f"choose one or more of the {len(documents)} token rows, got texts={texts}")
    drawn = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(documents), generator=drawn)
    turn = torch.zeros(len(documents), dtype=torch.long)
    seen: dict[int, int] = {}
    for row, document in zip(order.tolist(), documents[order].tolist(), strict=True):
        turn[row] = seen[document] = seen.get(document, -1) + 1
    chosen = order[turn[order].argsort(stable=True)][:texts].sort().values
    return tokens.rows(chosen), documents[chosen]


def compare(table: "DataFrame", metrics: Sequence[str] | None = None) -> "Figure":
    """One panel per metric: each dictionary's value with its interval, in its colour; dotted, the chance level.

    The dotted line, "mean only", is the value of a dictionary that knows only the mean.
    Raises ValueError for a metric that the table lacks.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    shown = list(dict.fromkeys(table["metric"])) if metrics is None else list(metrics)
    if absent := [m for m in shown if m not in set(table["metric"])]:
        raise ValueError(f"the table has no {', '.join(absent)}: it holds {', '.join(dict.fromkeys(table['metric']))}")
    arrow = {"higher": "higher is better", "lower": "lower is better", "none": "neither is better"}
    records = table.to_dict("records")
    parts = {metric: [r for r in records if r["metric"] == metric] for metric in shown}
    titles = [f"{m} ({part[0]['unit']}; {arrow[part[0]['direction']]})" for m, part in parts.items()]
    order = list(dict.fromkeys(r["dictionary"] for r in records))[::-1]
    colors = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(reversed(order))}
    height = 70 + 26 * len(order)  # pixels of a panel
    gap = 0 if len(shown) == 1 else 50 / (len(shown) * height)
    figure = make_subplots(rows=len(shown), cols=1, subplot_titles=titles, vertical_spacing=gap)
    for i, part in enumerate(parts.values(), start=1):
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, r["high"] - r["value"]) for r in part],
            "arrayminus": [max(0.0, r["value"] - r["low"]) for r in part],
        }
        points = {"x": [r["value"] for r in part], "y": [r["dictionary"] for r in part]}
        marker = {"color": [colors[r["dictionary"]] for r in part], "size": 8}
        bars["color"] = "#98a2b3"  # one colour per trace: the points carry the dictionary's
        figure.add_trace(go.Scatter(**points, error_x=bars, mode="markers", marker=marker, showlegend=False), i, 1)
        for chance in {r["chance"] for r in part if r["chance"] == r["chance"]}:  # one that is not NaN
            panel: dict[str, Any] = {"row": i, "col": 1}  # plotly's stubs want text here
            label = {"text": "mean only", "font": {"size": 10, "color": "#667085"}, "yanchor": "top"}
            figure.add_vline(chance, line={"dash": "dot", "color": "#888"}, annotation=label, **panel)
        figure.update_yaxes(categoryorder="array", categoryarray=order, row=i, col=1)
    figure.update_layout(height=60 + len(shown) * height, margin={"l": 10, "r": 10, "t": 40, "b": 30})
    return figure

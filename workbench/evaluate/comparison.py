"""Dictionaries beside each other: values, Pareto fronts, and whether proxies rank dictionaries as practice does."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

PALETTE = ("#3367a8", "#d9822b", "#2d8a5b", "#a8456b", "#6f5bb0", "#7a6a4f", "#2a8fa3", "#555f6e")  # by dictionary
ARROW = {"higher": "higher is better", "lower": "lower is better", "none": "neither is better"}
LEAST = 5  # dictionaries below which ranks say nothing: even a perfect order of four comes up by chance in 1 of 12
EXACT = 7  # dictionaries up to which the null goes through every order
Z = 1.959964


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` gives. `table` has a line per dictionary and metric, the mean over seeds; displays as `figure`."""

    table: "DataFrame"
    metrics: tuple[str, ...]

    @cached_property
    def figure(self) -> "Figure":
        """One panel per metric: each dictionary's value with its interval, in its colour; dotted, the chance level.

        The dotted line, "mean only", is the value of a dictionary that knows only the mean.
        """
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        parts = {m: self._of(m).to_dict("records") for m in self.metrics}
        titles = [f"{m} ({part[0]['unit']}; {ARROW[part[0]['direction']]})" for m, part in parts.items()]
        height = 70 + 26 * len(self.names)  # pixels of a panel
        gap = 0 if len(parts) == 1 else 50 / (len(parts) * height)
        figure = make_subplots(rows=len(parts), cols=1, subplot_titles=titles, vertical_spacing=gap)
        for i, part in enumerate(parts.values(), start=1):
            points = {"x": [r["value"] for r in part], "y": [r["dictionary"] for r in part]}
            marker = {"color": [self.colors[r["dictionary"]] for r in part], "size": 8}
            figure.add_trace(
                go.Scatter(**points, error_x=_bars(part), mode="markers", marker=marker, showlegend=False), i, 1
            )
            for chance in {r["chance"] for r in part if r["chance"] == r["chance"]}:  # one that is not NaN
                panel: dict[str, Any] = {"row": i, "col": 1}  # plotly's stubs want text here
                label = {"text": "mean only", "font": {"size": 10, "color": "#667085"}, "yanchor": "top"}
                figure.add_vline(chance, line={"dash": "dot", "color": "#888"}, annotation=label, **panel)
            figure.update_yaxes(categoryorder="array", categoryarray=self.names[::-1], row=i, col=1)
        figure.update_layout(height=60 + len(parts) * height, margin={"l": 10, "r": 10, "t": 40, "b": 30})
        return figure

    @property
    def names(self) -> list[str]:
        """The dictionaries, in the table's order."""
        return list(dict.fromkeys(self.table["dictionary"]))

    @property
    def colors(self) -> dict[str, str]:
        return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(self.names)}

    def front(self, x: str, y: str) -> list[str]:
        """Dictionaries that none beats: at least as good on both metrics and better on one. From best on x to worst.

        By values, not by intervals. Raises ValueError for a metric without a direction.
        """
        scores = {name: (self._upward(x)[name], self._upward(y)[name]) for name in self._both(x, y)}
        beaten = {
            a
            for a, (ax, ay) in scores.items()
            for bx, by in scores.values()
            if bx >= ax and by >= ay and (bx > ax or by > ay)
        }
        return sorted(scores.keys() - beaten, key=lambda name: (-scores[name][0], -scores[name][1], name))

    def pareto(self, x: str, y: str) -> "Figure":
        """Dictionaries by two metrics with their intervals; the front is joined, beaten ones are hollow.

        Raises ValueError for a metric without a direction or one that the table lacks.
        """
        import plotly.graph_objects as go

        front, there = self.front(x, y), self._both(x, y)
        rows = {m: self._of(m).set_index("dictionary").loc[there] for m in (x, y)}
        figure = go.Figure()
        line = {"x": [rows[x]["value"][n] for n in front], "y": [rows[y]["value"][n] for n in front]}
        figure.add_trace(
            go.Scatter(**line, mode="lines", line={"color": "#98a2b3", "dash": "dot"}, name="front", hoverinfo="skip")
        )
        for name in there:
            at = {axis: rows[m].loc[[name]].to_dict("records") for axis, m in (("x", x), ("y", y))}
            figure.add_trace(
                go.Scatter(
                    x=[at["x"][0]["value"]],
                    y=[at["y"][0]["value"]],
                    error_x=_bars(at["x"]),
                    error_y=_bars(at["y"]),
                    mode="markers",
                    name=name,
                    marker={
                        "color": self.colors[name],
                        "size": 9,
                        "symbol": "circle" if name in front else "circle-open",
                    },
                )
            )
        for m, axis in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
            first = rows[m].iloc[0]
            axis(title=f"{m} ({first['unit']}; {ARROW[first['direction']]})")
        return figure.update_layout(height=440, margin={"l": 10, "r": 10, "t": 30, "b": 30})

    def agreement(
        self, proxies: Sequence[str], practice: Sequence[str], *, seed: int = 0, resamples: int = 2000
    ) -> "DataFrame":
        """Does a proxy rank the dictionaries as practice does? A line per pair of metrics.

        `rank_correlation` is Spearman's, both metrics turned so that more is better: 1 the same order, 0 none, -1 the
        opposite. `low`, `high`: 95 % over resampled dictionaries, each score redrawn from its own interval. `chance`:
        what 95 % of random orders stay below in size; `p`: share of random orders that are at least as far from 0.
        Dictionaries that one training made alike are not independent: the interval does not know that.
        Raises ValueError for fewer than five dictionaries that have both scores.
        """
        import pandas as pd
        from scipy.stats import rankdata

        drawn, found = np.random.default_rng(seed), []
        for proxy in proxies:
            for aim in practice:
                names = self._both(proxy, aim)
                if len(names) < LEAST:
                    raise ValueError(f"ranks of {proxy} and {aim} want {LEAST} dictionaries or more, got {len(names)}")
                values = np.array([[self._upward(m)[n] for n in names] for m in (proxy, aim)])
                noise = np.array([[self._spread(m)[n] for n in names] for m in (proxy, aim)])
                here = _spearman(*(rankdata(v) for v in values))
                picks = drawn.integers(len(names), size=(resamples, len(names)))
                jitter = noise[:, None] * drawn.standard_normal((2, resamples, len(names)))
                again = np.take_along_axis(values[:, None] + jitter, np.broadcast_to(picks, jitter.shape), axis=-1)
                spread = _spearman(*(rankdata(v, axis=-1) for v in again))
                low, high = np.nanquantile(spread, [0.025, 0.975])
                null = np.abs(_orders(values[1], values[0], drawn, resamples))
                found.append(
                    {
                        "proxy": proxy,
                        "practice": aim,
                        "rank_correlation": float(here),
                        "low": float(min(low, here)),
                        "high": float(max(high, here)),
                        "chance": float(np.quantile(null, 0.95)),
                        "p": float((null >= abs(here) - 1e-12).mean()),
                        "n": len(names),
                    }
                )
        return pd.DataFrame(found)

    def agreement_figure(self, proxies: Sequence[str], practice: Sequence[str], **more: Any) -> "Figure":
        """`agreement` as a map of pairs; what a random order would reach too is in brackets."""
        import plotly.graph_objects as go

        table = self.agreement(proxies, practice, **more)
        grid = table.pivot(index="practice", columns="proxy", values="rank_correlation")
        grid = grid.loc[list(practice), list(proxies)]
        said = {
            (r["practice"], r["proxy"]): (
                f"{r['rank_correlation']:.2f}"
                if abs(r["rank_correlation"]) > r["chance"]
                else f"({r['rank_correlation']:.2f})"
            )
            + f"<br>[{r['low']:.2f}, {r['high']:.2f}]"
            for r in table.to_dict("records")
        }
        text = [[said[a, p] for p in grid.columns] for a in grid.index]
        heat = go.Heatmap(
            z=grid.to_numpy(), x=list(grid.columns), y=list(grid.index), text=text, texttemplate="%{text}",
            zmin=-1, zmax=1, colorscale=[[0, "#a8456b"], [0.5, "#ffffff"], [1, "#3367a8"]],
            colorbar={"title": "rank<br>correlation"},
        )  # fmt: skip
        title = f"Do proxies rank {len(self.names)} dictionaries as practice does? (brackets: no more than chance)"
        return go.Figure(heat).update_layout(
            title={"text": title, "font": {"size": 14}}, height=140 + 60 * len(grid.index), margin={"t": 50, "b": 30}
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.figure._repr_mimebundle_(include, exclude)

    def _of(self, metric: str) -> "DataFrame":
        part: Any = self.table[self.table["metric"] == metric]
        if not len(part):
            raise ValueError(f"the table has no {metric}: it holds {', '.join(dict.fromkeys(self.table['metric']))}")
        return part

    def _upward(self, metric: str) -> dict[str, float]:
        """Values by dictionary, turned so that more is better."""
        part: Any = self._of(metric)
        if (direction := part["direction"].iloc[0]) == "none":
            raise ValueError(f"{metric} has no direction, it ranks nothing: choose another")
        sign = 1 if direction == "higher" else -1
        return {r["dictionary"]: sign * r["value"] for r in part.to_dict("records")}

    def _spread(self, metric: str) -> dict[str, float]:
        """Standard error by dictionary, from the intervals; 0 where there is none."""
        reach = {r["dictionary"]: (r["high"] - r["low"]) / (2 * Z) for r in self._of(metric).to_dict("records")}
        return {name: 0.0 if value != value else value for name, value in reach.items()}

    def _both(self, x: str, y: str) -> list[str]:
        there = set(self._of(x)["dictionary"]) & set(self._of(y)["dictionary"])
        return [name for name in self.names if name in there]


def compare(table: "DataFrame", metrics: Sequence[str] | None = None) -> Comparison:
    """The metrics of a table of `run` side by side, all of them when None; rows without a value are left out.

    Seeds of one dictionary are averaged, and so are the ends of their intervals. A metric that two evals have is named
    `eval/metric`. Raises ValueError for a metric that the table lacks.
    """
    there: Any = table[table["value"].notna()]
    shared: Any = there.groupby("metric")["eval"].transform("nunique") > 1
    there = there.assign(metric=there["metric"].where(~shared, there["eval"] + "/" + there["metric"]))
    shown = list(dict.fromkeys(there["metric"])) if metrics is None else list(metrics)
    if absent := [m for m in shown if m not in set(there["metric"])]:
        raise ValueError(f"the table has no {', '.join(absent)}: it holds {', '.join(dict.fromkeys(there['metric']))}")
    there = there[there["metric"].isin(shown)]
    numbers = {"value": "mean", "low": "mean", "high": "mean", "chance": "mean"}
    rest = {c: "first" for c in there.columns if c not in (*numbers, "dictionary", "metric")}
    mean: Any = there.groupby(["dictionary", "metric"], sort=False).agg(numbers | rest).reset_index()
    return Comparison(mean[[c for c in table.columns if c in mean.columns]], tuple(shown))


def _bars(part: Sequence[Any]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, r["high"] - r["value"]) for r in part],
        "arrayminus": [max(0.0, r["value"] - r["low"]) for r in part],
        "color": "#98a2b3",  # one colour per trace: the points carry the dictionary's
    }


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of ranks along the last axis; NaN where one side is all ties."""
    a, b = (r - r.mean(-1, keepdims=True) for r in (a, b))
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), size, out=np.full(size.shape, np.nan), where=size > 0)


def _orders(fixed: np.ndarray, moved: np.ndarray, drawn: np.random.Generator, resamples: int) -> np.ndarray:
    """Rank correlations of `fixed` with `moved` in every order, or in many random ones."""
    from scipy.stats import rankdata

    n = len(moved)
    if n <= EXACT:
        orders = np.array(list(permutations(range(n))))
        assert len(orders) == factorial(n)
    else:
        orders = np.argsort(drawn.random((max(resamples, 2000), n)), axis=-1)
    return _spearman(np.broadcast_to(rankdata(fixed), orders.shape), rankdata(moved)[orders])

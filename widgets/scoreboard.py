"""Dictionaries beside each other on every evaluation."""

from itertools import combinations
from typing import Any

import traitlets as t

from . import payload
from .base import STATIC, Widget

ALL_PAIRS = 8  # metrics up to which every pair's front is made at once, so that a page without a kernel has them


class Scoreboard(Widget):
    """Dictionaries by evaluations: values with intervals and chance levels, sorted, filtered, and as Pareto plots.

        table = workbench.evaluate.run({"topk": a, "jumprelu": b}, rows=held_out)
        board = Scoreboard(scores=table, headline="fvu")
        board.picked  # the dictionary that was clicked

    `scores` may also be {name: Scores} or {name: {eval: Scores}}. A dot marks the best of a metric and all that its
    interval does not tell from it; none are marked where that is everyone. A metric of direction "none" ranks nothing.
    A missing score stays missing. `headline` is the metric to sort by, `fvu` or `reconstruction/fvu`; the first that
    has a direction unless given. `pair` holds the metrics of the plot's axes, `only` what is shown.
    Raises TypeError or ValueError for scores that cannot be read or a headline that cannot rank.
    """

    _esm, _css = STATIC / "scoreboard.js", STATIC / "scoreboard.css"
    picked = t.Unicode("").tag(sync=True)
    board = t.Dict().tag(sync=True)
    sort = t.Dict().tag(sync=True)  # {"key": a metric's, or "" for names, "worst": worst first}
    only = t.Dict().tag(sync=True)  # {"text": in names, "hidden": keys of metrics that are not shown}
    pair = t.List(t.Unicode()).tag(sync=True)
    logs = t.List(t.Bool(), [False, False]).tag(sync=True)
    fronts = t.Dict().tag(sync=True)  # "x y" by index: standing and line

    def __init__(self, *, scores: Any, headline: str | None = None):
        made = payload.board(scores)
        ranked = [m for m in made["metrics"] if m["direction"] != "none"]
        first = _headline(made["metrics"], headline) if headline is not None else next(iter(ranked), None)
        others = [m for m in ranked if m is not first]
        second = next((m for m in others if first and m["eval"] != first["eval"]), next(iter(others), None))
        pair = [second["key"], first["key"]] if first and second else []
        self._index = {m["key"]: i for i, m in enumerate(made["metrics"])}
        few = [self._index[m["key"]] for m in ranked] if len(ranked) <= ALL_PAIRS else [self._index[k] for k in pair]
        super().__init__(
            board=made,
            sort={"key": first["key"] if first else "", "worst": False},
            only={"text": "", "hidden": []},
            pair=pair,
            fronts={f"{x} {y}": payload.front(made, x, y) for x, y in combinations(sorted(few), 2)},
        )

    @t.validate("picked")
    def _a_dictionary(self, proposal: Any) -> str:
        name = proposal["value"]
        if name and name not in self.board["dictionaries"]:
            raise t.TraitError(f"no dictionary {name!r}: there is {', '.join(self.board['dictionaries'])}")
        return name

    @t.observe("pair")
    def _paired(self, change: Any) -> None:
        """The front of a pair that was not asked for before."""
        places = [self._index.get(key) for key in change["new"]]
        if len(places) != 2 or None in places:
            self.put(error=f"a pair is two of {', '.join(self._index)}, got {', '.join(change['new']) or 'none'}")
            return
        x, y = sorted(i for i in places if i is not None)
        able = all(self.board["metrics"][i]["direction"] != "none" for i in (x, y))
        made = {}
        if able and x != y and f"{x} {y}" not in self.fronts:
            made = {"fronts": self.fronts | {f"{x} {y}": payload.front(self.board, x, y)}}
        self.put(**made, error="")


def _headline(metrics: list[dict[str, Any]], headline: str) -> dict[str, Any]:
    found = [m for m in metrics if headline in (m["key"], m["metric"])]
    if len(found) != 1:
        said = "stands in several evals: say eval/metric" if found else "is no metric"
        raise ValueError(f"headline {headline!r} {said}, one of {', '.join(m['key'] for m in metrics)}")
    if found[0]["direction"] == "none":
        raise ValueError(
            f"headline {headline!r} has no direction, so that nothing is best by it: choose another metric"
        )
    return found[0]

"""Scoreboard without a browser: what it makes of scores, and who is best."""

import json
import math

import numpy as np
import pandas as pd
import plain_codecs
import pytest
import traitlets

from widgets import Scoreboard, payload
from workbench import evaluate
from workbench.evaluate import Score, Scores


def score(metric, value, low=None, high=None, *, direction="lower", chance=None, unit="share", whole=(0.0, math.inf)):
    low, high = (value if end is None else end for end in (low, high))
    return Score(metric, value, low, high, unit, direction, whole, chance, 100, "rows", 0.0, "10 documents")


def best(ends, **more):
    made = payload.board({name: Scores.of(score("m", *e, **more)) for name, e in ends.items()})
    return [made["dictionaries"][i] for i in made["metrics"][0]["best"]]


def table(**columns):
    return pd.DataFrame({"dictionary": ["a", "b"], "metric": ["m", "m"], "value": [1.0, 2.0]} | columns)


@pytest.fixture(scope="module")
def real():
    """Four dictionaries on planted rows, through workbench.evaluate."""
    x, atoms = plain_codecs.planted(400, 12, 16, 2)
    codecs = {
        "true": plain_codecs.true(atoms),
        "random": plain_codecs.random(12, 16),
        "mean": plain_codecs.mean(x.mean(0)),
        "tenth less": plain_codecs.scaled(16, 0.9),
    }
    return evaluate.run(codecs, ["reconstruction", "sparsity", "dead"], rows=plain_codecs.MemoryRows(x), resamples=200)


def test_a_real_table_keeps_every_number(real):
    widget = Scoreboard(scores=real)
    board = widget.board
    assert board["dictionaries"] == ["true", "random", "mean", "tenth less"]
    assert [m["key"] for m in board["metrics"]] == [
        "reconstruction/fvu", "reconstruction/cosine", "reconstruction/norm_ratio", "reconstruction/gamma",
        "sparsity/l0", "dead/dead_share",
    ]  # fmt: skip
    for row in real.to_dict("records"):
        i, j = (
            board["dictionaries"].index(row["dictionary"]),
            [m["metric"] for m in board["metrics"]].index(row["metric"]),
        )
        value, low, high, chance, n = board["cells"][i][j]
        assert (value, low, high, n) == pytest.approx((row["value"], row["low"], row["high"], row["n"]), rel=1e-8)
        assert (chance is None) == math.isnan(row["chance"]) and (
            chance is None or chance == pytest.approx(row["chance"])
        )
    fvu = board["metrics"][0]
    assert fvu["best"] == [0] and fvu["unit"] == "share of variance" and fvu["counted"] == "rows"
    assert widget.sort == {"key": "reconstruction/fvu", "worst": False}
    assert widget.pair == ["sparsity/l0", "reconstruction/fvu"]
    assert widget.board["metrics"][2]["best"] == []  # the norm ratio has no direction
    json.dumps(widget.get_state(), default=str, allow_nan=False)


def test_scores_by_name_and_by_eval_give_the_same_board():
    a, b = Scores.of(score("m", 1.0)), Scores.of(score("m", 2.0))
    plain = Scoreboard(scores={"a": a, "b": b}).board
    nested = Scoreboard(scores={"a": {"e": a}, "b": {"e": b}}).board
    assert plain["cells"] == nested["cells"] and [m["key"] for m in nested["metrics"]] == ["e/m"]
    assert [m["key"] for m in plain["metrics"]] == ["m"]
    assert Scoreboard(scores=table(direction="lower")).board["cells"] == [
        [[1.0, None, None, None, None]],
        [[2.0, None, None, None, None]],
    ]


def test_the_best_are_those_that_intervals_do_not_tell_apart():
    assert best({"a": (1.0, 0.9, 1.1), "b": (1.2, 1.1, 1.3), "c": (2.0, 1.9, 2.1)}) == ["a", "b"]
    assert best({"a": (1.0, 0.9, 1.1), "b": (1.2, 1.11, 1.3), "c": (2.0, 1.9, 2.1)}) == ["a"]
    assert best({"a": (1.0, 0.9, 1.1), "c": (2.0, 1.9, 2.1)}, direction="higher") == ["c"]
    assert best({"a": (1.0, 0.5, 2.1), "c": (2.0, 1.9, 2.1)}) == []  # nobody is told apart
    assert best({"a": (1.0, math.nan, math.nan), "b": (1.5, math.nan, math.nan)}) == ["a"]
    assert best({"a": (1.0, 0.9, 1.1), "c": (2.0, 1.9, 2.1)}, direction="none") == []


def test_a_missing_score_is_missing_and_never_nought():
    scores = {"a": Scores.of(score("m", 1.0), score("k", 3.0)), "b": Scores.of(score("k", 2.0))}
    made = Scoreboard(scores=scores)
    assert made.board["cells"][1][0] is None and made.board["metrics"][0]["best"] == []
    front = payload.front(made.board, 0, 1)
    assert front["standing"] == [2, None] and set(front["line"][0]) == {1.0}
    gone = Scoreboard(scores=table(value=[1.0, math.nan]))
    assert gone.board["cells"] == [[[1.0, None, None, None, None]], [None]]
    assert Scoreboard(scores=table(value=[math.nan, math.nan])).board["metrics"][0]["axis"] == [0.0, 1.0]


@pytest.mark.parametrize(
    "directions", [("lower", "lower"), ("lower", "higher"), ("higher", "lower"), ("higher", "higher")]
)
def test_the_front_is_who_nobody_beats(directions):
    rng = np.random.default_rng(0)
    points = rng.integers(0, 6, size=(40, 2)).astype(float)  # many ties
    wide = rng.random((40, 2))
    scores = {
        f"d{i}": Scores.of(
            *(
                score(f"m{k}", p[k], p[k] - w[k], p[k] + w[k], direction=directions[k], whole=(-9.0, 99.0))
                for k in (0, 1)
            )
        )
        for i, (p, w) in enumerate(zip(points, wide, strict=True))
    }
    made = payload.front(payload.board(scores), 0, 1)
    sign = np.array([1 if d == "higher" else -1 for d in directions])

    def beats(a, b):
        return (a >= b).all() and (a > b).any()

    good = points * sign
    expected = []
    for i in range(40):
        if not any(beats(good[j], good[i]) for j in range(40)):
            expected.append(2)
        else:  # surely: the other's worse end against one's better end
            expected.append(0 if any(beats(good[j] - wide[j], good[i] + wide[i]) for j in range(40) if j != i) else 1)
    assert made["standing"] == expected and {0, 1, 2} <= set(expected)
    line = np.array(made["line"]).T
    assert (np.diff(line, axis=0).astype(bool).sum(1) <= 1).all()  # steps, along one axis at a time
    for corner in line:  # nobody lies beyond the edge
        assert not any((g > corner * sign).all() for g in good)
    for i in range(40):
        assert expected[i] != 2 or (line == points[i]).all(1).any()


def test_fronts_of_all_pairs_are_made_at_once_for_few_metrics_and_asked_for_with_many():
    def scores(n):
        return {name: Scores.of(*(score(f"m{i}", v + i) for i in range(n))) for name, v in (("a", 1.0), ("b", 2.0))}

    few = Scoreboard(scores=scores(8))
    assert len(few.fronts) == 28
    many = Scoreboard(scores=scores(9))
    assert list(many.fronts) == ["0 1"] and many.pair == ["m1", "m0"]
    many.set_state({"pair": ["m7", "m3"]})
    assert set(many.fronts) == {"0 1", "3 7"} and many.fronts["3 7"]["standing"] == [2, 0]
    many.set_state({"pair": ["m7", "no such"]})
    assert many.error.startswith("a pair is two of m0, m1") and many.error.endswith("got m7, no such")
    many.set_state({"pair": ["m7", "m3"]})
    assert many.error == ""


def test_nothing_is_ranked_by_a_metric_without_direction():
    scores = {n: Scores.of(score("m", v), score("size", v, direction="none")) for n, v in (("a", 1.0), ("b", 2.0))}
    widget = Scoreboard(scores=scores)
    assert widget.fronts == {} and widget.pair == [] and widget.sort["key"] == "m"
    widget.pair = ["size", "m"]
    assert widget.fronts == {} and widget.error == ""
    with pytest.raises(ValueError, match="no direction: nothing is better by it"):
        payload.front(widget.board, 0, 1)
    with pytest.raises(ValueError, match="'size' has no direction"):
        Scoreboard(scores=scores, headline="size")
    assert Scoreboard(scores=table()).sort["key"] == ""  # a table that says no direction


def test_the_headline_is_found_by_metric_or_by_eval_and_metric(real):
    assert Scoreboard(scores=real, headline="cosine").sort["key"] == "reconstruction/cosine"
    assert Scoreboard(scores=real, headline="sparsity/l0").pair == ["reconstruction/fvu", "sparsity/l0"]
    with pytest.raises(ValueError, match="is no metric, one of reconstruction/fvu"):
        Scoreboard(scores=real, headline="fuv")
    twice = {"a": {"e": Scores.of(score("m", 1.0)), "f": Scores.of(score("m", 1.0))}}
    with pytest.raises(ValueError, match="stands in several evals: say eval/metric, one of e/m, f/m"):
        Scoreboard(scores=twice, headline="m")


def test_scores_that_cannot_be_read_are_refused():
    one = Scores.of(score("m", 1.0))
    for given, kind, message in (
        ([one], TypeError, "must be {name: Scores} or a table, got list"),
        ({"a": 1.0}, TypeError, r"scores of a must be Scores or {eval: Scores}, got float"),
        ({}, ValueError, "no score to show"),
        (pd.DataFrame({"metric": ["m"]}), ValueError, "the table has no dictionary, value"),
        (table(dictionary="a"), ValueError, "m of a stands there twice"),
        (table(value=["x", "y"]), ValueError, "value of m of a must be a number, got 'x'"),
        (table(dictionary=["a", ""]), ValueError, "needs the names of its dictionary and its metric"),
        (table(eval=["e", ""], metric=["m", "e/m"]), ValueError, "two metrics have the same eval/metric"),
        (table(metric=["m", None]), ValueError, "needs the names of its dictionary and its metric"),
        (table(direction="up"), ValueError, "a direction is higher, lower or none, m has 'up'"),
        (table(direction=["lower", "higher"]), ValueError, "m is better higher and lower"),
        (
            pd.DataFrame({"dictionary": range(3001), "metric": "m", "value": 1.0}),
            ValueError,
            "3001 dictionaries by 1 metrics is more than 3000",
        ),
    ):
        with pytest.raises(kind, match=message):
            Scoreboard(scores=given)


def test_what_a_table_leaves_out_is_not_written_as_nan():
    widget = Scoreboard(
        scores=table(unit=[math.nan, None], eval=[None, math.nan], direction=["lower", math.nan][:1] * 2)
    )
    assert [(m["key"], m["unit"]) for m in widget.board["metrics"]] == [("m", "")]
    lone = Scoreboard(scores={"\ud800": Scores.of(score("\ud800", 1.0))}).board
    json.dumps(lone).encode() and lone["dictionaries"][0].encode()


def test_units_that_differ_stay_with_their_score():
    made = payload.board({n: Scores.of(score("m", 1.0, unit=f"k = {n}")) for n in "ab"})
    assert made["metrics"][0]["unit"] == "" and [row[0][5] for row in made["cells"]] == ["k = a", "k = b"]


def test_the_scale_of_a_metric_holds_its_intervals_and_chance_where_it_is_near():
    def axis(**more):
        scores = {n: Scores.of(score("m", v, v - 0.1, v + 0.1, **more)) for n, v in (("a", 1.0), ("b", 2.0))}
        return payload.board(scores)["metrics"][0]["axis"]

    assert axis() == pytest.approx([0.84, 2.16]) and axis(chance=3.0) == pytest.approx([0.84, 3.06])
    assert axis(chance=9.0) == pytest.approx([0.84, 2.16])  # beyond: drawn as an arrow
    assert axis(whole=(1.0, 2.0)) == pytest.approx([0.94, 2.06])


def test_a_dictionary_that_is_not_there_cannot_be_picked():
    widget = Scoreboard(scores=table())
    widget.set_state({"picked": "b"})
    assert widget.picked == "b"
    with pytest.raises(traitlets.TraitError, match="no dictionary 'c': there is a, b"):
        widget.picked = "c"


def test_a_hundred_and_fifty_dictionaries_stay_small():
    values = np.random.default_rng(0).random((150, 20))
    same = {"direction": "lower", "unit": "nats per token", "chance": 1.0, "n": 4096}
    rows = [
        {"dictionary": f"run-{i:03d}-layer-12", "eval": f"eval{k % 5}", "metric": f"metric_{k}"}
        | {"value": v, "low": v - 0.01, "high": v + 0.01}
        | same
        for (i, k), v in np.ndenumerate(values)
    ]
    state = Scoreboard(scores=pd.DataFrame(rows)).get_state()
    assert len(json.dumps({k: v for k, v in state.items() if k not in ("_esm", "_css")})) < 200_000

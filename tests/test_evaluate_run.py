"""The table of `run`: cells that are kept, seeds, threads, failures; and what `compare` makes of it."""

from dataclasses import replace
from functools import wraps
from itertools import permutations

import numpy as np
import pandas as pd
import plain_codecs
import plotly.io
import pytest
import torch
from plain_codecs import MemoryRows

import workbench as wb
from workbench import catalogue, evaluate
from workbench.evaluate import Case, Scores
from workbench.evaluate.digest import Unhashable, digest


def rows(seed: int = 0) -> MemoryRows:
    return MemoryRows(plain_codecs.planted(400, 12, 16, 2, seed)[0])


def dictionary(seed: int = 0, k: int = 3) -> torch.nn.Module:
    made = wb.recipe("topk", d=16, latents=24, k=k, seed=seed).dictionary
    made.site = made.target = wb.Site.of("0.resid")
    return made.eval()


def table_of(*args, **more):
    return evaluate.run(*args, **{"resamples": 50, **more})


EVALS = ["reconstruction", "sparsity", "dead"]


# ---- cells on disk


@pytest.fixture
def counted(monkeypatch):
    """How often each eval was really run."""
    calls: list[str] = []
    entry = catalogue.entry

    def counting(folder, name):
        found = entry(folder, name)
        if folder != "evals":
            return found

        @wraps(found)
        def run(case, **options):
            calls.append(f"{name} {case.name} {case.seed}")
            return found(case, **options)

        return run

    monkeypatch.setattr(catalogue, "entry", counting)
    return calls


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path, counted):
    codecs, held = {"a": dictionary(0), "b": dictionary(1)}, rows()
    first = table_of({"a": codecs["a"]}, EVALS, rows=held, folder=tmp_path)
    assert len(counted) == 3 and len(list(tmp_path.glob("*.json"))) == 3
    both = table_of(codecs, EVALS, rows=held, folder=tmp_path)
    assert counted[3:] == [f"{e} b 0" for e in EVALS]
    again = table_of(codecs, EVALS, rows=rows(), folder=tmp_path)  # equal rows in another object
    assert len(counted) == 6
    pd.testing.assert_frame_equal(both, again)
    pd.testing.assert_frame_equal(first, both[both["dictionary"] == "a"])
    assert both["manifest"].str.fullmatch(r"[0-9a-f]{16}").all()
    assert both.groupby("manifest")[["dictionary", "eval"]].nunique().eq(1).all(axis=None)


@pytest.mark.parametrize(
    "change",
    [
        lambda: {"cases": {"a": dictionary(5)}},  # other weights
        lambda: {"rows": rows(1)},
        lambda: {"seeds": 1},
        lambda: {"resamples": 60},
        lambda: {"options": {"sparsity": {"k": 7}}},
        lambda: {"texts": torch.zeros(40, dtype=torch.long)},
    ],
)
def test_a_cell_is_known_by_all_that_it_was_made_of(tmp_path, counted, change):
    call = {"cases": {"a": dictionary()}, "evals": ["sparsity"], "rows": rows(), "folder": tmp_path}
    if "texts" in (changed := change()):
        model = plain_subject()
        tokens = model.tokenize([f"w{i}" for i in range(40)])
        call |= {"subject": model, "tokens": tokens, "texts": torch.arange(40)}
    table_of(**call)
    table_of(**(call | changed))
    assert len(counted) == 2
    table_of(**(call | changed))
    assert len(counted) == 2


def plain_subject():
    from models import tiny_llama, tiny_tokenizer

    return wb.Subject(tiny_llama(), tiny_tokenizer(), name="tiny")


def test_a_cell_is_made_again_when_its_evals_code_changes(tmp_path, counted, monkeypatch):
    import inspect

    call = {"cases": {"a": dictionary()}, "evals": ["dead"], "rows": rows(), "folder": tmp_path}
    table_of(**call)
    source = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda module: source(module) + "# changed")
    table_of(**call)
    assert len(counted) == 2


def test_a_damaged_cell_is_named_and_made_again(tmp_path, counted):
    call = {"cases": {"a": dictionary()}, "evals": ["dead"], "rows": rows(), "folder": tmp_path}
    wanted = table_of(**call)
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text().replace("0", "1", 1))
    with pytest.warns(UserWarning, match="damaged.*dead of a is computed again"):
        found = table_of(**call)
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), wanted.drop(columns="seconds"))
    assert len(counted) == 2 and table_of(**call)["value"].equals(wanted["value"])


def test_scores_come_back_from_disk_as_they_were(tmp_path):
    held = replace(rows(), texts=torch.zeros(40, dtype=torch.long))  # one document: the interval is NaN
    call = {"cases": {"a": dictionary()}, "evals": ["reconstruction", "density"], "rows": held, "folder": tmp_path}
    first, second = table_of(**call), table_of(**call)
    pd.testing.assert_frame_equal(first, second)
    assert first["low"].isna().any() and all(isinstance(r, tuple) for r in first["range"])


def test_what_has_no_hash_is_computed_every_time(tmp_path, counted):
    """A codec of two functions is known by its identity only."""
    x, atoms = plain_codecs.planted(400, 12, 16, 2)
    for _ in range(2):
        table = table_of({"a": plain_codecs.true(atoms)}, ["dead"], rows=MemoryRows(x), folder=tmp_path)
    assert len(counted) == 2 and set(table["manifest"]) == {""} and not list(tmp_path.glob("*"))


def test_digests_tell_apart_what_differs():
    plain = [None, 0, 0.0, False, "0", b"0", [0], [[0]], [0, 0], (1, 2), {"a": 1}, {"b": 1}]
    tensors = [torch.zeros(2), torch.zeros(1, 2), torch.zeros(2).double(), np.zeros(3)]
    things = [*plain, *tensors, dictionary(0), dictionary(1), dictionary(0, k=4), rows(), rows(1)]
    assert len({digest(thing) for thing in things}) == len(things)
    assert digest({"a": 1, "b": [2]}) == digest({"b": (2,), "a": 1})
    with pytest.raises(Unhashable, match="function has no hash"):
        digest({"f": lambda: 0})


# ---- seeds, threads, failures


def test_each_seed_is_a_row_of_its_own_and_shares_the_pass_over_the_rows(monkeypatch):
    scans = []
    scan = Case._scan
    monkeypatch.setattr(Case, "_scan", lambda self, *a, **k: scans.append(1) or scan(self, *a, **k))
    table = table_of({"a": dictionary()}, ["reconstruction"], rows=rows(), seeds=[3, 4, 5])
    assert sorted(set(table["seed"])) == [3, 4, 5] and len(table) == 12
    fvu = table[table["metric"] == "fvu"]
    assert fvu["value"].nunique() == 1 and fvu["low"].nunique() == 3  # the same rows, other resamples
    assert len(scans) == 1


def test_threads_change_nothing_but_the_time():
    codecs, held = {f"{i}": dictionary(i) for i in range(4)}, rows()
    one, three = (table_of(codecs, EVALS, rows=held, jobs=jobs) for jobs in (1, 3))
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), three.drop(columns="seconds"))


def test_a_failure_is_a_row_with_its_reason_and_the_rest_goes_on():
    broken = dictionary(1)
    with torch.no_grad():
        next(p for n, p in broken.named_parameters() if "encoder" in n).fill_(float("nan"))
    codecs = {"broken": broken, "whole": dictionary(0)}
    with pytest.warns(UserWarning, match="of broken failed: .*(NaN|nan)"):
        table = table_of(codecs, ["reconstruction", "dead"], rows=rows())
    bad, good = (table[table["dictionary"] == name] for name in codecs)
    assert bad["value"].isna().all() and bad["error"].str.contains("NaN|nan").all() and set(bad["n"]) == {0}
    assert good["value"].notna().all() and not good["error"].any()
    with pytest.raises(ValueError, match="NaN|nan"):
        table_of(codecs, ["reconstruction"], rows=rows(), errors="raise")
    figure = evaluate.compare(table)  # what failed is not drawn
    assert list(figure.figure.data[0].y) == ["whole"]


def test_an_eval_that_returns_something_else_is_named(monkeypatch):
    codecs = {"a": dictionary()}
    monkeypatch.setattr(catalogue, "entry", lambda folder, name: lambda case: {"fvu": 1.0})
    with pytest.warns(UserWarning, match="must return Scores, got dict"):
        table_of(codecs, ["dead"], rows=rows())


def test_a_forward_pass_that_fails_is_the_reason_of_all_that_needed_it(monkeypatch):
    from workbench.evaluate import splices

    model, held = plain_subject(), rows()
    tokens = model.tokenize([f"w{i} w{i + 1}" for i in range(4)])
    case = Case(dictionary(), model, held, tokens, name="a", resamples=50)

    def fail(cases):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(splices, "fill", fail)
    with pytest.warns(UserWarning, match="out of memory"):
        table = evaluate.run([case], ["kl", "delta_ce", "dead"])
    assert table["error"].map(bool).tolist() == [True, True, False]


def test_without_names_every_eval_that_has_its_data_runs_and_the_rest_is_named():
    table = table_of({"a": dictionary()}, rows=rows())
    ran, missing = set(table["eval"]), table.attrs["missing"]["a"]
    assert ran | set(missing) == set(catalogue.names("evals")) and not ran & set(missing)
    assert missing["kl"] == ["tokens"] and "reconstruction" in ran and not table["error"].any()
    assert evaluate.needs()["kl"] == ("tokens",)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"seeds": []}, "one or more distinct whole numbers"),
        ({"seeds": [1, 1]}, "one or more distinct whole numbers"),
        ({"jobs": 0}, "jobs must be 1 or more threads"),
        ({"errors": "ignore"}, "errors must be 'row' or 'raise'"),
        ({"options": {"sparsity": {"width": 3}}}, "sparsity.*unexpected keyword argument 'width'"),
    ],
)
def test_a_wrong_call_stops_before_anything_is_computed(more, message, counted):
    with pytest.raises((ValueError, TypeError), match=message):
        table_of({"a": dictionary()}, EVALS, rows=rows(), **more)
    assert not counted


# ---- comparisons


def scored(values: dict[str, list[float]], half: float = 0.01, direction: str = "higher") -> pd.DataFrame:
    """A table of `run` by hand: metric -> a value per dictionary."""
    lines = []
    for metric, column in values.items():
        for i, value in enumerate(column):
            lines.append(
                {
                    "dictionary": f"d{i}", "eval": "e", "metric": metric, "value": value, "low": value - half,
                    "high": value + half, "unit": "u", "direction": "lower" if metric.startswith("-") else direction,
                    "range": (-9.0, 9.0), "chance": float("nan"), "n": 5, "seed": 0, "error": "",
                }
            )  # fmt: skip
    return pd.DataFrame(lines)


def test_the_front_holds_whom_nobody_beats():
    """d0 best on x, d2 best on y, d1 between; d3 is beaten by d1, d4 equals d1 in x and is worse in y."""
    table = scored({"x": [4, 3, 1, 2, 3], "-y": [9, 5, 1, 6, 7]})
    assert evaluate.compare(table).front("x", "-y") == ["d0", "d1", "d2"]
    assert evaluate.compare(table).front("-y", "x") == ["d2", "d1", "d0"]
    figure = evaluate.compare(table).pareto("x", "-y")
    assert list(figure.data[0].x) == [4, 3, 1] and list(figure.data[0].y) == [9, 5, 1]
    assert [t.marker.symbol for t in figure.data[1:]] == ["circle"] * 3 + ["circle-open"] * 2
    assert "lower is better" in figure.layout.yaxis.title.text


def test_ranks_agree_after_turning_both_so_that_more_is_better():
    table = scored({"proxy": [1, 2, 3, 4, 5, 6], "-cost": [6, 5, 4, 3, 2, 1], "other": [1, 2, 3, 4, 6, 5]}, half=0.001)
    found = evaluate.compare(table).agreement(["proxy"], ["-cost", "other"], seed=1)
    assert list(found["rank_correlation"]) == pytest.approx([1.0, 1 - 6 * 2 / (6 * 35)])
    assert list(found["p"]) == pytest.approx([2 / 720, 12 / 720])  # two of 720 orders are perfect either way
    assert (found["low"] <= found["rank_correlation"]).all() and (found["rank_correlation"] <= found["high"]).all()


def test_what_chance_reaches_is_the_permutation_null():
    table = scored({"a": [1, 2, 3, 4, 5], "b": [3, 1, 5, 2, 4]})
    found = evaluate.compare(table).agreement(["a"], ["b"]).iloc[0]
    every = [abs(np.corrcoef(range(5), order)[0, 1]) for order in permutations(range(5))]
    assert found["chance"] == pytest.approx(np.quantile(every, 0.95)) and found["n"] == 5


def test_noise_in_the_scores_widens_the_interval_of_their_ranks():
    values = {"a": [1, 2, 3, 4, 5, 6, 7], "b": [1, 2, 3, 4, 5, 6, 7]}
    sharp, blurred = (evaluate.compare(scored(values, half=h)).agreement(["a"], ["b"]).iloc[0] for h in (1e-6, 3.0))
    assert sharp["high"] - sharp["low"] < 0.01 and blurred["high"] - blurred["low"] > 0.5


def test_the_map_of_agreement_brackets_what_chance_would_reach():
    table = scored({"a": [1, 2, 3, 4, 5, 6], "b": [1, 2, 3, 4, 5, 6], "c": [3, 1, 5, 2, 6, 4]})
    figure = evaluate.compare(table).agreement_figure(["a"], ["b", "c"])
    assert figure.data[0].text[0][0].startswith("1.00<br>[") and figure.data[0].text[1][0].startswith("(0.")


def test_seeds_are_averaged_and_metrics_chosen(monkeypatch):
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    table = pd.concat([scored({"a": [1, 2], "b": [5, 5]}), scored({"a": [3, 2], "b": [5, 5]}).assign(seed=1)])
    found = evaluate.compare(table, ["a"])
    assert found.metrics == ("a",) and list(found.table["value"]) == [2.0, 2.0]
    assert "application/vnd.plotly.v1+json" in found._repr_mimebundle_()


def test_a_name_that_two_evals_share_is_told_apart():
    table = pd.concat([scored({"a": [1, 2], "b": [0, 0]}), scored({"a": [7, 8]}).assign(eval="f")])
    found = evaluate.compare(table)
    assert found.metrics == ("e/a", "b", "f/a") and list(found._of("f/a")["value"]) == [7, 8]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.front("x", "nothing"), "the table has no nothing: it holds x, n"),
        (lambda c: c.pareto("x", "n"), "n has no direction"),
        (lambda c: c.agreement(["x"], ["x"]), "want 5 dictionaries or more, got 3"),
    ],
)
def test_comparisons_that_mean_nothing_are_refused(call, message):
    table = pd.concat([scored({"x": [1, 2, 3]}), scored({"n": [1, 2, 3]}, direction="none")])
    with pytest.raises(ValueError, match=message):
        call(evaluate.compare(table))


def test_scores_that_are_none_stay_none():
    score = next(iter(catalogue.entry("evals", "dead")(Case(dictionary(), None, rows()))))
    assert score.chance is None and type(score).from_json(score.to_json()) == score
    assert Scores.of(score)["dead_share"] is score

"""TrainingMonitor without a browser: what it reads of a run and of its log, and what it obeys."""

import json
import math
import os
import shutil
import struct
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import traitlets
from planted import Planted

from widgets import TrainingMonitor, payload
from widgets.training_monitor import Log, Tail
from workbench.dictionary import recipe, start, train

STREAM = Planted(d=8, atoms=12, on=2.0, rows=32, steps=24)
ARGS = {"d": 8, "latents": 16, "k": 2}
OPTIONS = {"site": "3.resid", "progress": False, "log_every": 2}


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this did not come true"
        time.sleep(0.01)


def line(widget, name, number=0, mean=False):
    """Steps and values of a curve, as the page reads them."""
    found = [
        c for c in widget.curves["lines"] if c["name"] == name and c["recipe"] == number and bool(c.get("mean")) == mean
    ]
    assert len(found) == 1, widget.curves
    c, points = found[0], np.frombuffer(widget.points, "<f4")
    return points[c["x"] : c["x"] + c["n"]].tolist(), points[c["y"] : c["y"] + c["n"]].tolist()


def row(step, **more):
    return {"step": step, "tokens": step * 32, "mse": 1.0, "total": 1.0, "l0": 2.0, "tokens_per_second": 64.0} | more


def write(path, rows, tail=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + tail)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that ended."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    train(recipe("topk_auxk", **ARGS), STREAM, folder=folder, **OPTIONS)
    return folder


def test_what_cannot_be_watched_is_refused(tmp_path):
    for given, kind, message in (
        ({}, ValueError, "give running"),
        ({"running": [1]}, TypeError, "got list"),
        ({"folder": tmp_path / "none"}, FileNotFoundError, "is not a folder"),
        ({"folder": tmp_path, "every": 0.1}, ValueError, "five updates a second"),
        ({"folder": tmp_path, "every": math.nan}, ValueError, "five updates a second"),
    ):
        with pytest.raises(kind, match=message):
            TrainingMonitor(**given)


def test_a_finished_folder_is_read_whole_and_its_thread_is_not_begun(finished):
    widget = TrainingMonitor(folder=finished)
    rows = [json.loads(text) for text in (finished / "log.jsonl").read_text().splitlines()]
    assert widget.phase == "finished" and not widget.watching and not widget.buttons["live"]
    for name in ("mse", "auxk", "total", "l0", "fvu", "dead", "lr", "tokens_per_second"):
        steps, values = line(widget, name)
        assert steps == [r["step"] for r in rows] == list(range(2, 25, 2))
        assert values == pytest.approx([r[name] for r in rows], rel=1e-6)
    assert {c["panel"] for c in widget.curves["lines"] if c["name"] in ("mse", "auxk", "total")} == {"loss"}
    assert widget.curves["targets"] == [2.0]  # the k of the recipe
    assert widget.head | {"rate": 0} == {
        "step": 24, "steps": 24, "tokens": 768, "budget": 768, "rate": 0, "eta": 0, "note": ""
    }  # fmt: skip
    shares = np.frombuffer(widget.shares, "<f4").reshape(12, 13)
    assert shares == pytest.approx(np.array([r["densities"] for r in rows]) / 16)
    assert widget.densities["maps"][0]["steps"] == [0.0, *range(2, 25, 2)]
    widget.close()


def test_several_recipes_have_a_curve_each(tmp_path):
    train([recipe("batch_topk", **ARGS), recipe("relu_l1", d=8, latents=16)], STREAM, folder=tmp_path, **OPTIONS)
    widget = TrainingMonitor(folder=tmp_path)
    assert widget.curves["recipes"] == ["0_batch_topk", "1_relu_l1"] and widget.curves["targets"] == [2.0, None]
    assert line(widget, "fvu", 0) != line(widget, "fvu", 1)
    assert len(widget.densities["maps"]) == 2 and len(widget.shares) == 2 * 12 * 13 * 4
    with pytest.raises(AssertionError):
        line(widget, "l1", 0)  # a term of the other recipe


@pytest.fixture
def endless(tmp_path):
    """A run of a million steps, in `tmp_path / "run"`."""
    running = start(recipe("batch_topk", **ARGS), replace(STREAM, steps=10**6), folder=tmp_path / "run", **OPTIONS)
    yield running
    running.stop()
    running.wait(20)


def test_a_run_in_a_thread_is_followed_paused_and_stopped(tmp_path, endless):
    running = endless
    widget = TrainingMonitor(running=running, folder=tmp_path / "run", every=0.2)
    until(lambda: widget.phase == "running" and widget.curves["lines"])
    assert widget.head["steps"] == 10**6 and widget.head["eta"] > 1 and widget.curves["targets"] == [2.0]
    widget.set_state({"ask": {"what": "pause", "at": 1}})
    assert running.paused and widget.phase == "paused"
    time.sleep(0.05)
    count = len(running.rows)
    time.sleep(0.1)
    assert len(running.rows) == count  # the training stands still
    widget.set_state({"ask": {"what": "resume", "at": 2}})
    until(lambda: len(running.rows) > count)
    widget.set_state({"ask": {"what": "a word nobody knows", "at": 3}})
    widget.set_state({"ask": {"what": "stop", "at": 4}})
    running.wait(20)
    until(lambda: not widget.watching)
    assert widget.phase == "stopped" and widget.error == ""
    assert widget.head["note"].endswith(f"it resumes from step {running.wait().training_summary['steps']:,}")
    assert line(widget, "fvu")[1][-1] == pytest.approx(running.rows[-1]["fvu"], rel=1e-6)
    assert TrainingMonitor(folder=tmp_path / "run").phase == "stopped"


def test_without_a_folder_the_rows_in_memory_are_read():
    running = start(recipe("batch_topk", **ARGS), STREAM, **OPTIONS)
    running.wait(20)
    widget = TrainingMonitor(running=running)
    assert widget.phase == "finished" and line(widget, "fvu")[1] == pytest.approx([r["fvu"] for r in running.rows])


def test_the_error_of_a_run_is_shown():
    running = start(recipe("batch_topk", **ARGS), replace(STREAM, d=9), **OPTIONS)
    with pytest.raises(ValueError, match="rows have shape"):
        running.wait(20)
    widget = TrainingMonitor(running=running)
    assert widget.phase == "failed" and widget.error.startswith("ValueError: the stream's x rows have shape (9,)")
    assert not widget.watching


def test_a_run_that_logs_nothing_says_why():
    running = start(recipe("pca", d=8, k=4), STREAM, **OPTIONS)
    running.wait(20)
    widget = TrainingMonitor(running=running)
    assert widget.phase == "finished" and "no row was logged" in widget.head["note"]


def test_a_log_that_another_process_writes_is_followed_until_the_widget_is_closed(tmp_path):
    widget = TrainingMonitor(folder=tmp_path, every=0.2)
    assert widget.phase == "waiting" and widget.curves["lines"] == [] and widget.watching
    write(tmp_path / "log.jsonl", [row(1), row(2)], tail='{"step": 3, "tok')
    until(lambda: widget.phase == "running")
    assert line(widget, "mse")[0] == [1, 2]  # the torn line waits
    write(tmp_path / "log.jsonl", [row(1), row(2), row(3)])
    until(lambda: line(widget, "mse")[0] == [1, 2, 3])
    write(tmp_path / "log.jsonl", [row(1), row(2, mse=5.0)])  # cut by a run that resumed, and written on
    until(lambda: line(widget, "mse")[1] == [1.0, 5.0])
    assert (
        widget.buttons == {"live": False, "why": widget.buttons["why"]}
        and "notebook that trains" in widget.buttons["why"]
    )
    widget.close()
    until(lambda: not widget.watching)


def test_a_crashed_run_says_from_where_it_resumes(tmp_path):
    class Broken(Exception):
        pass

    def at_eight(row):
        if row["step"] == 8:
            raise Broken

    again = {"folder": tmp_path, "checkpoint_every": 6} | OPTIONS
    with pytest.raises(Broken):
        train(recipe("batch_topk", **ARGS), STREAM, on_row=at_eight, **again)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 10, "to')
    widget = TrainingMonitor(folder=tmp_path)
    assert widget.phase == "running"  # its last row is young
    long_ago = time.time() - 3600
    os.utime(tmp_path / "log.jsonl", (long_ago, long_ago))
    widget.look()
    assert widget.phase == "crashed" and widget.watching
    assert widget.head["note"] == (
        "no row for 60 min, and no end: it crashed, or waits elsewhere · trained again with the same call and folder, "
        "it resumes from step 6"
    )
    assert (widget.head["step"], widget.head["steps"], line(widget, "l0")[0]) == (8, 24, [2, 4, 6, 8])
    train(recipe("batch_topk", **ARGS), STREAM, **again)
    until(lambda: not widget.watching)
    assert widget.phase == "finished" and line(widget, "l0")[0] == list(range(2, 25, 2)) and widget.head["note"] == ""


def test_a_slow_call_of_another_widget_does_not_hold_it_up(tmp_path):
    from widgets import worker

    go = threading.Event()
    worker.submit("slow", lambda job: go.wait(20) and None, lambda error: None)
    try:
        widget = TrainingMonitor(folder=tmp_path, every=0.2)
        write(tmp_path / "log.jsonl", [row(1)])
        until(lambda: widget.phase == "running")
    finally:
        go.set()
        worker.settle()
    widget.close()


def test_gaps_and_hostile_lines(tmp_path):
    rows = [
        row(1, auxk=None),
        row(2, mse=math.nan),
        row(3, mse=math.inf, auxk=0.5),
        {"step": "4"},
        [1],
        row(5, huge=10**400),
    ]
    write(
        tmp_path / "log.jsonl", [*rows, row(6, **{"<b>x</b>\ud800": 1.0}), row(7, recipe={"a": 1}, densities=[1, -1])]
    )
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b"\xff\xfe not json\n" + b"[" * 100_000 + b"\n" + json.dumps(row(8)).encode() + b"\n")
    widget = TrainingMonitor(folder=tmp_path)
    assert widget.head["note"] == "4 unreadable lines of the log left out"
    steps, values = line(widget, "mse")
    assert steps == [1, 2, 3, 5, 6, 7, 8] and [math.isfinite(v) for v in values] == [True, False, False, *[True] * 4]
    assert line(widget, "auxk")[1][2] == 0.5 and math.isnan(line(widget, "auxk")[1][1])
    json.dumps(widget.curves, allow_nan=False).encode()  # no lone surrogate, no NaN
    assert widget.shares == b"" and widget.densities["maps"] == []
    widget.close()


def test_a_row_that_goes_back_drops_what_it_repeats():
    log = Log()
    for step in (1, 2, 3, 2):
        log.add({"step": step, "mse": float(step) + len(log), "densities": [step] * 13})
    assert log.columns()["step"].tolist() == [1, 2] and log.columns()["mse"].tolist() == [1.0, 5.0]
    assert log.densities()[0].tolist() == [1, 2] and log.densities()[1].shape == (2, 13)


def test_a_tail_reads_on_where_it_was_and_again_when_the_file_changed(tmp_path):
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.read() == (False, [])
    path.write_bytes(b"a\nb")
    assert tail.read() == (False, [b"a\n"]) and tail.read() == (False, [])
    path.write_bytes(b"a\nb\nc\n")
    assert tail.read() == (False, [b"b\n", b"c\n"])
    path.write_bytes(b"a\nb\nC\nd\n")
    assert tail.read() == (True, [b"a\n", b"b\n", b"C\n", b"d\n"])
    path.write_bytes(b"a\n")
    assert tail.read() == (True, [b"a\n"])
    path.unlink()
    assert tail.read() == (True, []) and tail.read() == (False, [])


def test_thinning_keeps_spikes_gaps_and_both_ends():
    rng = np.random.default_rng(0)
    for n in (1, 10, 99, 100, 101, 5000, 100_003):
        values = rng.normal(size=n)
        kept = payload.thin(values, 100)
        assert len(kept) <= 100 and kept[0] == 0 and kept[-1] == n - 1 and (np.diff(kept) > 0).all()
        assert {values.argmin(), values.argmax()} <= set(kept)
    values[70_000], values[30_000:30_400] = 1e6, np.nan
    kept = payload.thin(values, 100)
    assert len(kept) <= 100 and 70_000 in kept and np.isnan(values[kept]).any()
    assert len(payload.thin(np.full(500, np.nan), 100)) <= 100


def test_curves_stay_within_their_budget():
    log = {"step": np.arange(50_000.0)} | {name: np.random.default_rng(0).normal(size=50_000) for name in "abcdef"}
    about, points = payload.curves({"x": log})
    assert all(1900 < c["n"] <= 2000 for c in about["lines"]) and len(points) <= 8 * 16_000
    assert len(payload.curves({str(i): log for i in range(12)}, smooth=5)[1]) <= 8 * 16_000
    assert payload.curves({"x": log | {f"t{i}": log["a"] for i in range(40)}})[0]["left"] == 22


def test_smoothing_is_a_mean_of_the_last_rows_that_are_there(tmp_path):
    assert payload.smoothed(np.array([1.0, 3.0, math.nan, 5.0, 8.0]), 3).tolist()[:2] == [1.0, 2.0]
    assert payload.smoothed(np.array([1.0, 3.0, math.nan, 5.0, 8.0]), 3).tolist()[3:] == [4.0, 6.5]
    write(tmp_path / "log.jsonl", [row(i, mse=float(i % 2)) for i in range(1, 9)])
    widget = TrainingMonitor(folder=tmp_path, every=0.2)
    assert not any(c.get("mean") for c in widget.curves["lines"])  # off by default
    widget.set_state({"smooth": 2})
    until(lambda: any(c.get("mean") for c in widget.curves["lines"]))
    assert line(widget, "mse", mean=True)[1] == [1.0, *[0.5] * 7] and line(widget, "mse")[1] == [1.0, 0.0] * 4
    with pytest.raises(traitlets.TraitError, match="number of rows"):
        widget.smooth = -1
    widget.close()


def test_density_maps_add_rows_up_where_there_are_many():
    counts = np.zeros((1000, 13))
    counts[:, 5], counts[500:, 0] = 3, 1
    about, shares = payload.density_maps({"x": (np.arange(1, 1001.0) * 10, counts)})
    values = np.frombuffer(shares, "<f4").reshape(-1, 13)
    assert len(values) == 240 and len(about["maps"][0]["steps"]) == 241 and about["maps"][0]["steps"][-1] == 10_000
    assert values.sum(1) == pytest.approx(1) and values[0, 5] == 1 and values[-1, 0] == 0.25 and about["peak"] == 1


def test_what_is_left_is_reckoned_from_the_speed_of_the_last_rows():
    columns = {
        "step": np.arange(1.0, 31),
        "tokens": np.arange(1.0, 31) * 100,
        "tokens_per_second": np.r_[[9e9] * 20, [50.0] * 10],
    }
    found = payload.standing({"x": columns}, steps=130)
    assert found == {"step": 30, "steps": 130, "tokens": 3000, "budget": 13_000, "rate": 50, "eta": 200}
    assert payload.standing({}, steps=5)["eta"] is None and payload.standing({"x": columns})["eta"] is None


def test_the_folder_may_go_and_come_back(tmp_path, finished):
    home = tmp_path / "run"
    write(home / "log.jsonl", [row(1)])
    widget = TrainingMonitor(folder=home, every=0.2)
    shutil.rmtree(home)
    until(lambda: widget.phase == "waiting")
    shutil.copytree(finished, home)
    until(lambda: not widget.watching)
    assert widget.phase == "finished" and widget.error == ""


def test_a_run_that_ends_while_it_is_read_loses_no_row():
    running = start(recipe("batch_topk", **ARGS), STREAM, **OPTIONS)

    class Late(TrainingMonitor):
        def _read(self):
            found = super()._read()
            running.wait(20)  # its last rows come after they were looked for
            return found

    widget = Late(running=running)
    assert widget.phase == "finished" and not widget.watching and line(widget, "l0")[0] == list(range(2, 25, 2))


def test_what_fails_in_its_thread_is_shown_until_it_works_again(tmp_path, monkeypatch):
    widget = TrainingMonitor(folder=tmp_path, every=0.2)
    with monkeypatch.context() as broken:
        broken.setattr(Tail, "read", lambda self: 1 / 0)
        write(tmp_path / "log.jsonl", [row(1)])
        until(lambda: widget.error == "ZeroDivisionError: division by zero")
    until(lambda: widget.phase == "running")
    assert widget.error == ""
    widget.close()


def test_the_state_is_small(finished):
    widget = TrainingMonitor(folder=finished)
    assert struct.calcsize("<f") * (12 * 9) == len(widget.points)  # steps are held once

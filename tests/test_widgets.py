"""What all widgets share: one thread for work, updates that do not flood, labels in a file, tokens as data."""

import importlib.util
import json
import threading
import time
from pathlib import Path

import pytest
import traitlets as t

import widgets
from widgets import payload, worker
from widgets.base import PAUSE, Widget, one_line
from widgets.labels import Labels

ROOT = Path(__file__).parent.parent


class Counter(Widget):
    """A widget with one number."""

    _esm, _css = "export default {render() {}}", ""
    value = t.Int(0).tag(sync=True)


def test_calls_take_turns_and_the_last_of_a_key_counts():
    done, gate = [], threading.Event()
    w = Counter()
    w.work("first", lambda job: (gate.wait(10), done.append("first")), key="a")
    for name in ("b1", "b2", "b3"):
        w.work(name, lambda job, name=name: done.append(name), key="b")
    other = Counter()
    other.work("other", lambda job: done.append("other"), key="b")
    gate.set()
    worker.settle(10)
    assert done == ["first", "b3", "other"], "b1 and b2 were overtaken; another widget's key is its own"


def test_a_call_that_waits_says_so_and_nothing_is_said_once_it_is_dropped():
    w, other, gate, begun = Counter(), Counter(), threading.Event(), threading.Event()
    other.work("long", lambda job: (begun.set(), gate.wait(10)))
    assert begun.wait(10)
    w.work("reading", lambda job: w.put(value=1))
    assert w.busy == "reading: waits for its turn"
    w.cancel("reading")
    assert w.busy == "" and other.busy == "long"
    gate.set()
    worker.settle(10)
    assert w.value == 0


def test_a_running_call_is_told_to_end_and_another_of_its_key_follows():
    seen, w = [], Counter()
    begun = threading.Event()

    def long(job):
        begun.set()
        while not job.cancelled:
            time.sleep(0.005)
        seen.append("ended")

    w.work("long", long)
    assert begun.wait(10) and w.busy == "long"
    w.work("long", lambda job: seen.append(job.cancelled))
    worker.settle(10)
    assert seen == ["ended", False] and w.busy == ""
    begun.clear()
    w.work("long", long)
    assert begun.wait(10)
    w.close()
    worker.settle(10)
    assert seen == ["ended", False, "ended"], "a closed widget's work ends"


def test_an_error_is_one_line_and_goes_with_the_next_call():
    w = Counter()

    def fails(job):
        raise ValueError("latents are 0..3,\n  got 7")

    w.work("looking", fails)
    worker.settle(10)
    assert w.error == "ValueError: latents are 0..3, got 7" and w.busy == ""
    w.work("again", lambda job: w.put(value=3))
    worker.settle(10)
    assert (w.error, w.value) == ("", 3)
    assert one_line(KeyError()) == "KeyError"


def test_work_is_done_off_the_kernels_thread_and_waiting_for_too_long_is_said():
    names, gate, w = [], threading.Event(), Counter()
    w.work("", lambda job: (names.append(threading.current_thread().name), gate.wait(10)))
    with pytest.raises(TimeoutError, match="still at work after 0.05 s"):
        worker.settle(0.05)
    gate.set()
    worker.settle(10)
    assert names == ["widgets"]


def test_a_stream_says_no_more_than_five_things_a_second_and_loses_none():
    w, seen = Counter(), []
    w.observe(lambda change: seen.append(change["new"]), "value")

    def count(job):
        begun = time.monotonic()
        for i in range(1, 10_000):
            w.stream(value=i)
            if time.monotonic() - begun > 3.5 * PAUSE:
                break
            time.sleep(0.001)
        w.last = i

    w.work("counting", count)
    worker.settle(20)
    assert 3 <= len(seen) <= 5 and seen[-1] == w.last, "four in 0.7 s, and what was held back at the end"


def test_labels_live_in_a_file(tmp_path):
    path = tmp_path / "deep" / "labels.json"
    labels = Labels(path)
    labels.set(7, "  the <b>\n colour   red ")
    assert Labels(path)[7] == "the <b> colour red" and json.loads(path.read_text()) == {"7": "the <b> colour red"}
    labels.set("7", "")
    assert len(Labels(path)) == 0
    with pytest.raises(ValueError, match="at most 500 characters, got 501"):
        labels.set(1, "x" * 501)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        Labels(path)
    path.write_text('{"1": 2}')
    with pytest.raises(ValueError, match="one text for each key"):
        Labels(path)


def test_tokens_as_data():
    made = payload.strip(["a", "\ud800b"], [float("nan"), -2])
    assert made == {"tokens": ["a", "�b"], "values": [None, -2.0]}
    json.dumps(made, allow_nan=False).encode()
    with pytest.raises(ValueError, match="2 tokens and 1 values"):
        payload.strip(["a", "b"], [1])


def test_the_catalogue_names_every_widget_and_each_opens():
    listed = [line.split("`")[1] for line in (widgets.__doc__ or "").splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(widgets.NAMES) == widgets.__dir__()
    for name in widgets.NAMES:
        assert issubclass(getattr(widgets, name), Widget) and getattr(widgets, name).__doc__
    with pytest.raises(AttributeError, match="there is"):
        _ = widgets.Nothing


def test_strips_and_patterns_have_a_picture_for_viewers_without_widgets():
    strip = widgets.TokenStrip(tokens=["<b>", "\n", "c"] * 200, values=[2, -1, None] * 200, label="<i>")
    data, _ = strip._repr_mimebundle_()
    html = data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "&lt;b&gt;" in html and "⏎" in html and "&lt;i&gt;" in html and "<script" not in html
    assert html.count("<span") == 400 and "200 more tokens" in html
    assert 'title="2"' in html and "rgb(60 130 255 / 0.34)" in html and 'title="no value"' in html
    patterns = [[[1.0, 0, 0], [0.25, 0.75, 0], [0.1, 0.2, 0.7]]]
    view = widgets.PatternView(tokens=["a", "b", "c"], patterns=patterns)
    assert "what token 2 attends to" in view._repr_mimebundle_()[0]["text/html"]
    assert "text/html" not in Counter()._repr_mimebundle_()[0]


def test_the_page_of_widgets_is_made_of_their_docstrings_and_shows_each_in_every_look():
    spec = importlib.util.spec_from_file_location("build_pictures", ROOT / "tools" / "build_pictures.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (ROOT / "docs" / "widgets.md").read_text() == tool.page(), "run `python tools/build_pictures.py --text`"
    wanted = {
        f"{name}_{look}_{width}.webp" for name in widgets.NAMES for look in ("light", "dark") for width in (1000, 1600)
    }
    assert {path.name for path in (ROOT / "docs" / "widgets").iterdir()} == wanted

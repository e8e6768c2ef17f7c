"""TrainingMonitor as built, in a bare page."""

import json
import math
import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import bare
from planted import Planted

from widgets import TrainingMonitor
from workbench.dictionary import recipe, start

pytestmark = pytest.mark.browser
HOSTILE = "0_<img src=x onerror=window.hit=1>\u202eשלום😀"


@pytest.fixture(scope="module", autouse=True)
def one_browser():
    with bare.browser():
        yield


def rows(n=60, **more):
    """A log as a small run writes it."""
    made = []
    for i in range(1, n + 1):
        row = {"step": 5 * i, "tokens": 640 * i, "mse": 20 / i, "auxk": 0.0 if i < 20 else 2.0, "total": 21 / i}
        row |= {"l0": 4 + 9 / i, "fvu": 1 / i, "dead": i / 600, "lr": 1e-3, "tokens_per_second": 9e4}
        row["densities"] = [i, *[0] * 6, 300 - i, *[0] * 5]
        made.append(row | {key: value(i) for key, value in more.items()})
    return made


def write(folder, made, finished=True):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in made))
    if finished:
        from workbench import lineage

        training = {"finished": True, "steps": made[-1]["step"]}
        lineage.write_json(folder / "spec.json", {"variant": "x", "args": {"k": 4}, "training": training})
    return folder


@pytest.fixture
def one(tmp_path):
    return TrainingMonitor(folder=write(tmp_path / "one", rows()))


def paths(at, panel):
    """The lines that a panel draws, by the text of its heading."""
    return at.page.locator(".wb-panel", has_text=panel).locator(".wb-line")


def test_a_finished_run_is_drawn_from_its_state(one):
    one.live = False
    with bare.opened(one) as at:
        assert at.page.evaluate("painted") < 1500
        assert at.page.locator(".wb-phase").inner_text() == "finished"
        assert "step 300 / 300" in at.page.locator(".wb-head").inner_text()
        for panel, count in (("Loss", 3), ("L0", 1), ("FVU", 1), ("Dead", 1), ("Learning rate", 2)):
            assert paths(at, panel).count() == count, panel
        assert at.page.locator(".wb-target").inner_text() == "target 4.00" and at.page.locator(".wb-mark").count() == 1
        assert at.page.locator(".wb-cell").count() > 10
        assert at.page.locator(".wb-buttons button:visible").count() == 0
        assert at.page.locator("select[aria-label=smoothing]").is_disabled()
        assert at.page.evaluate("document.documentElement.scrollWidth") == 1000
        assert at.page.locator(".wb-legend").inner_text().split() == ["total", "mse", "auxk"]
        at.close()


def test_values_are_read_out_by_pointer_and_by_keys(one):
    with bare.opened(one) as at:
        chart = at.page.locator(".wb-panel", has_text="FVU").locator(".wb-chart")
        box = chart.bounding_box()
        at.page.mouse.move(box["x"] + box["width"] - 11, box["y"] + 60)
        assert chart.locator(".wb-tip").inner_text().split() == ["step", "300", "FVU", "0.0167"]
        at.page.mouse.move(5, 5)
        assert not chart.locator(".wb-tip").is_visible()
        chart.focus()
        at.page.keyboard.press("Home")
        at.page.keyboard.press("ArrowRight")
        assert chart.locator(".wb-said").inner_text() == "step 10, FVU 0.500"
        at.page.keyboard.press("End")
        assert chart.locator(".wb-said").inner_text() == "step 300, FVU 0.0167"
        heat = at.page.locator(".wb-panel", has_text="Densities").locator(".wb-chart")
        heat.focus()
        at.page.keyboard.press("ArrowLeft")
        assert heat.locator(".wb-said").inner_text() == "steps 295 to 300, fired on never, 20.00 % of latents"
        for _ in range(7):
            at.page.keyboard.press("ArrowUp")
        assert heat.locator(".wb-said").inner_text().endswith("fired on 10⁻³ to 0.00316 of rows, 80.00 % of latents")


def test_log_and_smoothing_are_switched(one):
    with bare.opened(one) as at:
        assert "19 values ≤ 0 not on a log axis" in at.page.locator(".wb-panel", has_text="Loss").inner_html()
        before = paths(at, "Loss").first.get_attribute("d")
        at.page.get_by_label("log", exact=True).uncheck()
        at.settle()
        assert one.log_losses is False and paths(at, "Loss").first.get_attribute("d") != before
        assert "log axis" not in at.page.locator(".wb-panel", has_text="Loss").inner_html()
        at.page.locator("select[aria-label=smoothing]").select_option("5")
        at.settle()
        assert one.smooth == 5 and paths(at, "FVU").count() == 2 and at.page.locator(".wb-line.wb-faint").count() == 5


def test_new_rows_are_drawn_though_their_description_stays_equal(one):
    with bare.opened(one) as at:
        line, cell = (at.page.locator(f".wb-{name}").nth(3) for name in ("line", "cell"))
        before = line.get_attribute("d"), cell.get_attribute("d")
        one.put(points=one.points[:240] + one.points[240:][::-1], shares=one.shares[52:] + one.shares[:52])
        at.settle()
        assert line.get_attribute("d") != before[0] and cell.get_attribute("d") != before[1]


def test_a_gap_stays_a_gap(tmp_path):
    made = rows(fvu=lambda i: math.nan if 20 <= i < 30 else 1 / i, mse=lambda i: None if i == 7 else 1.0)
    with bare.opened(TrainingMonitor(folder=write(tmp_path, made))) as at:
        assert paths(at, "FVU").get_attribute("d").count("M") == 2
        assert paths(at, "L0").get_attribute("d").count("M") == 1


def test_several_recipes_are_told_apart_hidden_and_safe(tmp_path):
    for name, times in ((HOSTILE, 1), ("1_relu_l1", 2)):
        write(
            tmp_path / name.replace("/", ""), rows(**{"recipe": lambda i: "r", "<b>t</b>": lambda i, t=times: t * 1.0})
        )
    widget = TrainingMonitor(folder=tmp_path)
    with bare.opened(widget) as at:
        chips = at.page.locator(".wb-recipe")
        assert chips.all_inner_texts() == [HOSTILE, "1_relu_l1"] and paths(at, "L0").count() == 2
        assert at.page.evaluate("window.hit") is None and at.page.locator(".wb img, .wb b b").count() == 0
        at.page.locator("select[aria-label='loss term']").select_option("<b>t</b>")
        at.page.locator("select[aria-label='recipe of the densities']").select_option("1_relu_l1")
        chips.nth(0).focus()
        at.page.keyboard.press("Enter")
        at.settle()
        assert widget.hidden == [HOSTILE] and widget.term == "<b>t</b>" and paths(at, "L0").count() == 1
        assert at.page.evaluate("document.activeElement.className") == "wb-recipe"  # the focus stays
        widget.hidden = []
        at.settle()
        assert paths(at, "L0").count() == 2


@pytest.fixture
def running(tmp_path):
    """A run of a million steps."""
    made, stream = recipe("batch_topk", d=8, latents=16, k=2), Planted(d=8, atoms=12, on=2.0, rows=32, steps=10**6)
    running = start(made, stream, site="3.resid", folder=tmp_path / "run", progress=False, log_every=50)
    yield running
    running.stop()
    running.wait(20)


def test_a_run_is_paused_gone_on_with_and_stopped_by_clicks(tmp_path, running):
    widget = TrainingMonitor(running=running, folder=tmp_path / "run", every=0.2)

    def until(phase):
        end = time.monotonic() + 15
        while at.page.locator(".wb-phase").inner_text() != phase:
            assert time.monotonic() < end, at.page.locator(".wb").inner_text()
            time.sleep(0.05)
            at.settle()

    with bare.opened(widget) as at:
        until("running")
        assert paths(at, "FVU").count() == 1 and "ETA" in at.page.locator(".wb-head").inner_text()
        at.page.get_by_role("button", name="Pause").click()
        at.settle()
        assert running.paused
        until("paused")
        at.page.get_by_role("button", name="Resume").click()
        at.settle()
        assert not running.paused
        until("running")
        at.page.get_by_role("button", name="Stop").click()
        at.settle()
        assert not running.wait(20).training_summary["finished"]
        until("stopped")
        assert "resumes from step" in at.page.locator(".wb-note").first.inner_text()
        assert at.page.locator(".wb-buttons button:visible").count() == 0 and not widget.watching
        at.close()


def test_waiting_crashed_and_failed_say_so(tmp_path):
    with bare.opened(TrainingMonitor(folder=tmp_path)) as at:
        assert at.page.locator(".wb-empty").inner_text() == "Waiting for the first row of the log."
        assert at.page.get_by_role("button", name="Pause").is_disabled()
        assert "Only the notebook that trains" in at.page.locator(".wb-note:visible").inner_text()
    crashed = TrainingMonitor(folder=write(tmp_path / "crashed", rows(), finished=False))
    os.utime(tmp_path / "crashed" / "log.jsonl", (1e9, 1e9))
    crashed.look()
    with bare.opened(crashed) as at:
        assert at.page.locator(".wb-phase").inner_text() == "crashed" and paths(at, "FVU").count() == 1
        assert "it crashed, or waits elsewhere" in at.page.locator(".wb-note").first.inner_text()
    stream = Planted(d=9, atoms=12, on=2.0, rows=32, steps=3)
    running = start(recipe("batch_topk", d=8, latents=16, k=2), stream, site="3.resid", progress=False)
    with pytest.raises(ValueError, match="rows have shape"):
        running.wait(20)
    with bare.opened(TrainingMonitor(running=running)) as at:
        assert at.page.locator(".wb-phase").inner_text() == "failed"
        assert at.page.locator(".wb-error").inner_text().startswith("ValueError: the stream's x rows have shape (9,)")
    crashed.close()


def test_a_long_log_is_quick_to_draw(tmp_path):
    widget = TrainingMonitor(folder=write(tmp_path, rows(20_000, densities=lambda i: [1] * 13)))
    with bare.opened(widget) as at:
        assert at.page.evaluate("painted") < 1500 and len(widget.points) <= 128_000


def test_an_exported_page_keeps_the_picture(one, tmp_path):
    one.to_html(tmp_path / "page.html")
    with bare.browser() as context:
        page = context.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector(".wb-line")
        assert page.locator(".wb-phase").inner_text() == "finished" and page.locator(".wb-line").count() == 8
        before = page.locator(".wb-line").first.get_attribute("d")
        page.get_by_label("log", exact=True).uncheck()
        assert page.locator(".wb-line").first.get_attribute("d") != before
        page.close()

"""Every widget in a page without a kernel and without a network: the same picture, and what needs no Python works."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import bare
from look import look
from specimens import PROMPT, Parts

import notebooks
import widgets
from widgets import worker
from workbench import report

pytestmark = pytest.mark.browser

LOST = {"FeatureDashboard": 0.3, "SteeringDesk": 0.15}  # shares of lines: latents without a card, buttons for a kernel


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    p = Parts(tmp_path_factory.mktemp("parts"))
    desk = widgets.SteeringDesk(subject=p.subject, codec=p.sae, latents=[1], prompt=PROMPT, new=8)
    desk.start()
    found = [
        widgets.TokenStrip(tokens=p.words, values=range(len(p.words))),
        widgets.PatternView.of(p.subject, PROMPT, layer=0),
        widgets.FeatureDashboard(index=p.index, codec=p.sae, subject=p.subject, effects=p.effects),
        widgets.FeatureMap(plane=p.plane, table=p.index.table),
        widgets.GraphViewer(graph=p.graph, tokens=p.words),
        desk,
        widgets.TrainingMonitor(folder=p.folder / "sae"),
        widgets.Scoreboard(scores=p.scores),
    ]
    assert sorted(type(w).__name__ for w in found) == sorted(widgets.NAMES), "every widget is tried"
    worker.settle(120)
    return {type(w).__name__: w for w in found}


def act(page):
    """One thing in each that its own JavaScript does."""
    page.wait_for_function("document.querySelectorAll('.wb').length === 8")
    seen = {}
    page.locator(".wb-token-strip .wb-t").nth(3).click()
    seen["TokenStrip"] = page.locator(".wb-token-strip .wb-picked").count() == 1
    page.locator(".wb-pattern-view .wb-pv-thumb").nth(1).click()
    seen["PatternView"] = (
        page.locator(".wb-pattern-view .wb-pv-thumb[aria-checked='true']").get_attribute("data-i") == "1"
    )
    page.get_by_role("tab", name="Random").first.click()
    seen["FeatureDashboard"] = page.get_by_role("tab", name="Random").first.get_attribute("aria-selected") == "true"
    page.get_by_label("Colour points by").select_option(label="max")
    page.wait_for_function("document.querySelector('.fm-map').dataset.drawn")
    seen["FeatureMap"] = "max" in page.locator(".wb-feature-map").inner_text()
    page.locator(".gv-graph .gv-node.gv-logit").first.click()
    seen["GraphViewer"] = page.locator(".gv-inputs li").count() > 0
    seen["SteeringDesk"] = page.locator(".wb-sd-token, .wb-steering-desk .wb-t").count() > 8
    page.locator(".wb-training-monitor input[type=checkbox]").first.click()
    seen["TrainingMonitor"] = not page.locator(".wb-training-monitor input[type=checkbox]").first.is_checked()
    page.locator(".wb-scoreboard .wb-sort").nth(1).click()
    seen["Scoreboard"] = page.locator(".wb-scoreboard th[aria-sort]").count() == 1
    return seen


def test_a_page_keeps_every_picture_and_what_needs_no_python(made, tmp_path):
    path = report.page(tmp_path / "p.html", ["# All of them", *made.values()])
    seen = look(path, tmp_path / "p.png", act=act)
    assert seen.asked == [] and seen.errors == []
    assert seen.extra == dict.fromkeys(widgets.NAMES, True)


@pytest.mark.parametrize("name", widgets.NAMES)
def test_a_page_shows_what_the_live_widget_shows(made, name, tmp_path):
    widget = made[name]
    with bare.opened(widget, width=1000) as at:
        at.page.wait_for_timeout(300)
        live = at.page.locator(".wb-body").inner_text()
    widget.to_html(tmp_path / "w.html")
    read = look(tmp_path / "w.html", act=lambda p: (p.wait_for_timeout(300), p.locator(".wb-body").inner_text())[1])
    lines = {line.strip() for line in live.splitlines() if len(line.strip()) > 1}
    lost = lines - {line.strip() for line in read.extra.splitlines()}
    assert read.ok and len(lost) <= LOST.get(name, 0.1) * len(lines), lost


def test_a_notebook_run_in_a_batch_keeps_its_widgets(tmp_path):
    cell = "from widgets import TokenStrip\nTokenStrip(tokens=['a', 'b'], values=[1, 2])"
    source = notebooks.write(tmp_path / "n.ipynb", cell)
    done = report.run(source, {}, tmp_path / "out", progress=False)

    def act(page):
        page.locator(".wb-t").nth(1).click()
        return page.locator(".wb-picked").inner_text()

    seen = look(done.html, act=act)
    assert seen.ok and seen.extra == "b"

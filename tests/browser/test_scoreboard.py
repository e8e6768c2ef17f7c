"""Scoreboard as built, in a bare page."""

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import bare

from widgets import Scoreboard

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=window.hit=1>\u202eשלום😀"


@pytest.fixture(scope="module", autouse=True)
def one_browser():
    with bare.browser():
        yield


def board(names=("a", "b", "c", "d"), metrics=2, **more):
    """fvu falls along the names and l0 grows, but d is worse than b in both; c has no l0; size has no order."""
    rows = []
    for i, name in enumerate(names):
        fvu = [0.4, 0.3, 0.2, 0.35][i]
        about = {"direction": "lower", "chance": 1.0, "unit": "share of variance", "n": 400, "counted": "rows"}
        mine = [{"eval": "rec", "metric": "fvu", "value": fvu, "low": fvu - 0.02, "high": fvu + 0.02} | about]
        if i != 2:
            mine.append({"eval": "sparse", "metric": "l0", "value": [2.0, 8.0, 0, 9.0][i], "direction": "lower"})
        mine.append({"eval": "sparse", "metric": "size", "value": 5.0 + i, "direction": "none"})
        mine += [{"eval": "more", "metric": f"m{k}", "value": i + k, "direction": "higher"} for k in range(metrics - 2)]
        rows += [{"dictionary": name} | row for row in mine]
    return Scoreboard(scores=pd.DataFrame(rows), **more)


def names(at):
    return at.page.locator(".wb-board tbody td:first-child").all_inner_texts()


def test_it_is_drawn_from_its_state_best_first():
    with bare.opened(board()) as at:
        assert at.page.evaluate("painted") < 1500
        assert names(at) == ["c", "b", "d", "a"]
        row = at.page.locator(".wb-board tbody tr").first
        assert row.locator(".wb-best").count() == 1 and row.locator(".wb-missing").count() == 1
        assert (
            row.locator(".wb-score")
            .first.get_attribute("title")
            .startswith("0.200 [0.180, 0.220] · chance 1.00 · n = 400 rows · share of variance · best")
        )
        assert "nan" not in at.page.locator(".wb").inner_text().lower()
        assert row.locator("td").nth(2).inner_text().startswith("–")  # missing, not 0
        assert (
            at.page.locator(".wb-point").count() == 3
            and "Without both scores: c." in at.page.locator(".wb-about").inner_text()
        )
        assert at.page.locator(".wb-point.wb-full").count() == 2 and at.page.locator(".wb-point.wb-faint").count() == 1
        assert at.page.evaluate("document.documentElement.scrollWidth") == 1000
        at.close()


def test_sorting_puts_the_best_first_and_what_is_missing_last():
    widget = board()
    with bare.opened(widget) as at:
        head = at.page.locator(".wb-board th")
        assert head.nth(3).locator("button").count() == 0  # no order, no sorting
        head.nth(2).locator("button").click()
        at.settle()
        assert names(at) == ["a", "b", "d", "c"] and widget.sort == {"key": "sparse/l0", "worst": False, "names": False}
        at.page.keyboard.press("Enter")  # the button has kept the focus
        at.settle()
        assert names(at) == ["d", "b", "a", "c"] and head.nth(2).get_attribute("aria-sort") == "descending"
        head.nth(0).locator("button").click()
        at.settle()
        assert names(at) == ["a", "b", "c", "d"]
        widget.sort = {"key": "rec/fvu", "worst": True}
        at.settle()
        assert names(at) == ["a", "d", "b", "c"]


def test_a_row_a_point_and_keys_pick_a_dictionary():
    widget = board()
    with bare.opened(widget) as at:
        assert "Click a row or a point" in at.page.locator(".wb-card").inner_text()
        at.page.locator(".wb-board tbody tr").nth(1).click()
        at.settle()
        assert widget.picked == "b" and at.page.locator(".wb-card h3").inner_text() == "b"
        at.page.locator(".wb-point[data-id=a]").click()
        at.settle()
        assert widget.picked == "a" and at.page.locator("tr[aria-selected=true] td").first.inner_text() == "a"
        at.page.locator("tr[data-id=a]").focus()
        at.page.keyboard.press("ArrowUp")
        at.page.keyboard.press("Enter")
        at.settle()
        assert widget.picked == "d" and at.page.evaluate("document.activeElement.dataset.id") == "d"
        at.page.locator(".wb-point[data-id=d]").focus()
        at.page.keyboard.press("ArrowLeft")
        at.page.keyboard.press(" ")
        at.settle()
        assert widget.picked == "b" and at.page.locator(".wb-point.wb-on").get_attribute("aria-pressed") == "true"
        widget.picked = "c"
        at.settle()
        assert "no score" in at.page.locator(".wb-card").inner_text() and at.page.locator(".wb-on").count() == 0
        at.page.locator(".wb-close").click()
        at.settle()
        assert widget.picked == ""


def test_filters_by_name_and_metric():
    widget = board(names=("topk-1", "topk-2", "relu", "jump"))
    with bare.opened(widget) as at:
        at.page.locator("input[type=search]").type("TOPK")
        at.settle()
        assert names(at) == ["topk-2", "topk-1"] and at.page.locator(".wb-point").count() == 2
        assert at.page.locator(".wb-tools .wb-soft").inner_text() == "2 of 4 dictionaries"
        at.page.locator("summary").click()
        at.page.get_by_label("sparse").uncheck()  # a whole eval
        at.settle()
        assert widget.only == {"text": "TOPK", "hidden": ["sparse/l0", "sparse/size"]}
        assert at.page.locator(".wb-board th").count() == 2 and at.page.locator("details[open]").count() == 1
        at.page.keyboard.press("Escape")
        assert at.page.locator("details[open]").count() == 0
        widget.only = {"text": "nobody", "hidden": []}
        at.settle()
        assert "No dictionary has this in its name" in at.page.locator(".wb-empty").first.inner_text()


ON_FRONT = """() => [...document.querySelectorAll('.wb-full circle:last-child')].map(c =>
  document.querySelector('.wb-line').getAttribute('d')
    .includes(['cx', 'cy'].map(k => Number(c.getAttribute(k)).toFixed(1)).join(' ')))"""


def test_any_two_metrics_are_plotted_in_their_directions():
    widget = board(metrics=4)
    with bare.opened(widget) as at:
        x, y = (at.page.locator(f"select[aria-label='metric of the {a} axis']") for a in "xy")
        y.select_option("more/m1")
        at.settle()
        assert (
            widget.pair == ["sparse/l0", "more/m1"]
            and "m1  ↑ better" in at.page.locator(".wb-axis-name").first.text_content()
        )
        assert at.page.evaluate(ON_FRONT) == [True] * 3
        at.page.get_by_role("button", name="swap the axes").click()
        at.settle()
        assert at.page.evaluate(ON_FRONT) == [True] * 3
        assert widget.pair == ["more/m1", "sparse/l0"] and x.input_value() == "more/m1"
        x.select_option("sparse/size")
        at.settle()
        assert "size has no direction, so there is no front" in at.page.locator(".wb-about").inner_text()
        x.select_option("rec/fvu")
        at.page.get_by_label("log y axis").check()
        at.settle()
        assert widget.logs == [False, True] and at.page.locator(".wb-whisker").count() == 2


def test_without_a_kernel_it_keeps_all_it_has():
    widget = board(metrics=12)
    widget.live = False
    with bare.opened(widget) as at:
        y = at.page.locator("select[aria-label='metric of the y axis']")
        assert at.page.locator(".wb-point.wb-full").count() == 2
        y.select_option("more/m7")
        assert "a page without a kernel" in at.page.locator(".wb-about").inner_text()
        at.page.locator(".wb-board th").nth(2).locator("button").click()
        assert names(at) == ["a", "b", "d", "c"]
    widget = board(metrics=12)
    with bare.opened(widget) as at:
        at.page.locator("select[aria-label='metric of the y axis']").select_option("more/m7")
        at.settle()
        assert at.page.locator(".wb-about .wb-key").count() == 1 and len(widget.fronts) == 2


def test_hostile_names_are_text_and_the_csv_quotes_them():
    widget = board(names=(HOSTILE, 'say "x", y', "\x00\u200b", "x" * 300))
    with bare.opened(widget) as at:
        assert at.page.evaluate("window.hit") is None and at.page.locator(".wb img").count() == 0
        assert HOSTILE in names(at) and at.page.evaluate("document.documentElement.scrollWidth") == 1000
        at.page.get_by_role("button", name="Copy as CSV").click()
        lines = at.page.locator(".wb-code").text_content().splitlines()
        assert lines[0] == "dictionary,eval,metric,value,low,high,unit,direction,chance,n"
        assert '"say ""x"", y",rec,fvu,0.3,0.28,0.32,share of variance,lower,1,400' in lines and len(lines) == 1 + 11


def test_one_dictionary_and_one_metric_are_a_board_too():
    with bare.opened(
        Scoreboard(scores=pd.DataFrame({"dictionary": ["a"], "metric": ["m"], "value": [float("nan")]}))
    ) as at:
        assert names(at) == ["a"] and not at.page.locator(".wb-pareto").is_visible()


def test_an_exported_page_keeps_picture_sorting_and_fronts(tmp_path):
    board(metrics=4).to_html(tmp_path / "page.html")
    with bare.browser() as context:
        page = context.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector(".wb-point")
        page.locator(".wb-board th").nth(2).locator("button").click()
        assert page.locator(".wb-board tbody td:first-child").all_inner_texts() == ["a", "b", "d", "c"]
        page.locator("select[aria-label='metric of the y axis']").select_option("more/m1")
        assert page.locator(".wb-point.wb-full").count() == 3
        page.locator(".wb-point[data-id=b]").click()
        assert page.locator(".wb-card h3").inner_text() == "b"
        page.close()


def test_a_long_board_scrolls_draws_more_when_asked_and_shows_what_is_picked():
    values = {"dictionary": [f"d{i}" for i in range(60)], "metric": "m", "value": range(60), "direction": "lower"}
    widget = Scoreboard(scores=pd.DataFrame(values))
    with bare.opened(widget) as at:
        box = at.page.locator(".wb-scroll").first
        assert len(names(at)) == 50
        box.evaluate("e => { e.scrollTop = 600; }")
        at.page.locator("tr[data-id=d20]").click()
        at.settle()
        assert widget.picked == "d20" and box.evaluate("e => e.scrollTop") == 600  # it stays where it was
        at.page.get_by_role("button", name="10 more dictionaries").click()
        assert len(names(at)) == 60
        widget.picked = "d55"
        at.settle()
        seen = "([box, row]) => row.bottom <= box.bottom + 1 && row.top >= box.top"
        places = (".wb-scroll", "tr[data-id=d55]")
        boxes = [at.page.locator(p).first.evaluate("e => e.getBoundingClientRect().toJSON()") for p in places]
        assert at.page.evaluate(seen, boxes)

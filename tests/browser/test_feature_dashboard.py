"""FeatureDashboard as built, in a bare page: search, cards, a text, two latents, labels, a page without a kernel."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import bare
import test_widget_feature_dashboard as small

from widgets import FeatureDashboard, worker

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", autouse=True)
def one_browser():
    with bare.browser():
        yield


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return small.world(tmp_path_factory.mktemp("index"))


make = small.make


def title(at):
    return at.page.locator(".fd-right h3").all_inner_texts()


def rows(at):
    return [int(row.get_attribute("data-id")) for row in at.page.locator(".fd-listed tbody tr").all()]


def focus(at):
    return at.page.evaluate("({...document.activeElement.dataset})")


def test_it_draws_from_its_state_and_nothing_in_it_is_markup(make):
    widget = make(latent=3, scores=small.scores(), query={"score": "<b>fuzz</b>"}, effects=True)
    widget.rename(3, "<img src=x onerror=window.hit=3> \u202elabel")
    with bare.opened(widget) as at:
        page = at.page
        assert title(at) == ["Latent 3"] and rows(at) == list(range(20))
        assert page.locator(".lc-context").count() == 10 and page.locator(".lc-histogram rect").count() > 2
        strong = page.locator(".lc-context .wb-on").first
        assert strong.inner_text() == "<script>window.hit=1</script>"
        assert "position" in strong.get_attribute("title") and "activation" not in strong.inner_text()
        assert page.locator(".lc-name").inner_text().startswith("<img src=x")
        assert page.locator(".lc-scores dt").first.inner_text() == "<b>fuzz</b>"
        assert page.locator(".lc-plus .lc-effect").count() == 6 and page.locator(".lc-near").count() > 6
        assert page.locator(".wb b:not(.fd-line b), .wb script, .wb img").count() == 0
        assert page.evaluate("window.hit") is None
        page.get_by_role("tab", name="Strongest").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator(".lc-panel h5").first.inner_text() == "percentiles 90 to 100"
        assert page.evaluate("painted") < 1500
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        at.close()


def test_rows_are_picked_by_click_and_key_and_python_moves_the_page(make):
    widget = make()
    with bare.opened(widget) as at:
        at.page.locator("tr[data-id='4']").click()
        at.settle()
        assert widget.latent == 4 and title(at) == ["Latent 4"] and focus(at) == {"id": "4"}
        at.page.keyboard.press("ArrowDown")
        at.page.keyboard.press("Enter")
        at.settle()
        assert widget.latent == 5 and title(at) == ["Latent 5"] and focus(at) == {"id": "5"}
        at.page.keyboard.press("PageDown")
        at.settle()
        assert rows(at) == list(range(20, 40))
        at.page.locator("[data-key='density']").click()
        at.settle()
        assert widget.query["sort"] == "density" and widget.query["descending"] and focus(at) == {"key": "density"}
        assert rows(at) == [row["id"] for row in widget.listing["rows"]]
        widget.latent = small.DEAD
        at.settle()
        assert title(at) == ["Latent 59"] and "never fired in 920 rows" in at.page.locator(".lc-dead").inner_text()
        at.page.locator(".fd-jump").fill("12")
        at.page.keyboard.press("Enter")
        at.settle()
        assert widget.latent == 12 and at.page.locator("[data-seen]").count() == 5
        near = int(at.page.locator("button.lc-near span").first.inner_text())
        at.page.locator("button.lc-near").first.click()
        at.settle()
        assert widget.latent == near


def test_a_search_keeps_its_focus_and_filters_reach_python(make):
    widget = make()
    with bare.opened(widget) as at:
        search = at.page.locator(".fd-search")
        search.press_sequentially("river", delay=5)
        at.page.wait_for_timeout(300)
        at.settle()
        assert widget.query["search"] == "river" and widget.query["sort"] == "hits"
        assert {1, 10} <= set(rows(at)) and at.page.locator("th").all_inner_texts()[-1] == "hits ▾"
        assert at.page.evaluate("document.activeElement.className") == "fd-search"
        at.page.keyboard.press("ArrowDown")
        assert focus(at)["id"] == str(rows(at)[0])
        at.page.locator(".fd-reset").click()
        at.settle()
        assert widget.query == widget.about["query"] and search.input_value() == ""
        at.page.get_by_label("least density").focus()
        for _ in range(3):
            at.page.keyboard.press("ArrowRight")
        at.settle()
        assert widget.query["low"] == widget.about["densities"][3][0] and widget.query["high"] is None
        assert all(row["density"] >= widget.query["low"] for row in widget.listing["rows"])
        assert at.page.locator(".fd-density .lc-pale").count() == 3
        at.page.get_by_label("dead or alive").select_option("dead")
        at.settle()
        assert rows(at) == [] and "widen the filters" in at.page.locator(".fd-listed .wb-empty").inner_text()


def test_a_label_is_edited_in_place_and_no_redraw_takes_it_away(make, tmp_path):
    widget = make(latent=2, labels=tmp_path / "labels.json")
    with bare.opened(widget) as at:
        at.page.locator(".lc-name").click()
        at.page.keyboard.type("the <b>article</b>")
        widget.compare = 7
        at.settle()
        assert at.page.locator(".lc-edit").input_value() == "the <b>article</b>"
        at.page.keyboard.press("Enter")
        at.settle()
        assert json.loads((tmp_path / "labels.json").read_text()) == {"2": "the <b>article</b>"}
        assert at.page.locator("tr[data-id='2'] .fd-label").inner_text() == "the <b>article</b>"
        assert title(at) == ["Latents 7 and 2", "Latent 7", "Latent 2"]
        name = at.page.locator(".wb-card[data-latent='2'] .lc-name")
        assert name.inner_text() == "the <b>article</b>"
        name.click()
        at.page.keyboard.type("thrown away")
        widget.compare = None
        at.settle()
        at.page.keyboard.press("Escape")
        at.page.wait_for_function("document.querySelectorAll('.fd-right h3').length === 1", timeout=3000)  # what waited
        at.settle()
        assert widget.labels[2] == "the <b>article</b>"


def test_a_text_is_ranked_and_a_token_clicked(make):
    widget = make(latent=11)
    with bare.opened(widget) as at:
        at.page.get_by_role("tab", name="My text").click()
        at.page.locator(".fd-text").fill("1 11 5 3")
        at.page.keyboard.press("Control+Enter")
        at.settle()
        assert widget.text == "1 11 5 3" and widget.view == "text"
        whole = at.page.locator(".fd-whole .wb-t")
        assert whole.count() == 5 and "wb-none" in whole.nth(0).get_attribute("class")
        lines = at.page.locator(".fd-line")
        got = json.loads(widget.reading)
        assert [int(line.get_attribute("data-latent")) for line in lines.all()] == [r["id"] for r in got["rows"]]
        assert at.page.locator(".lc-marker").inner_text() == "0.770" and got["marker"] == 0.77
        whole.nth(3).click()
        at.settle()
        assert widget.at == 3 and focus(at) == {"i": "3"}
        assert "position 3" in at.page.locator(".fd-rankedby").inner_text()
        assert [int(line.get_attribute("data-latent")) for line in lines.all()] != [r["id"] for r in got["rows"]]
        lines.nth(0).focus()
        at.page.keyboard.press("ArrowDown")
        at.page.keyboard.press("Enter")
        at.settle()
        chosen = json.loads(widget.reading)["rows"][1]["id"]
        assert widget.latent == chosen and focus(at) == {"latent": str(chosen)}
        at.page.locator(".fd-text").fill("river")
        at.page.locator(".wb-main").click()
        at.settle()
        assert "small reads numbers" in at.page.locator(".wb-error").inner_text() and lines.count() == 0
        at.close()


def test_two_are_held_side_by_side_and_copied_as_a_cell(make, parts):
    widget = make(latent=20, effects=True, query={"dead": "alive"}, text="1 2")
    with bare.opened(widget) as at:
        at.page.locator("[data-act='hold']").click()
        at.settle()
        assert widget.compare == 20 and "Choose the latent" in at.page.locator(".fd-two .wb-empty").inner_text()
        widget.latent = 33
        at.settle()
        assert title(at) == ["Latents 20 and 33", "Latent 20", "Latent 33"]
        pair = widget.pair
        assert f"{pair['both']} of {pair['either']} rows" in at.page.locator(".fd-between").inner_text()
        at.page.locator("summary").click()
        assert at.page.locator(".fd-tokens table").count() == 2
        at.page.locator("[data-act='swap']").click()
        at.settle()
        assert (widget.latent, widget.compare) == (20, 33) and at.page.locator("details[open]").count() == 1
        at.page.locator(".wb-copy button").click()
        code = at.page.locator(".wb-code").inner_text()
        made = eval(code.split("\n\n")[1], {"FeatureDashboard": FeatureDashboard} | parts)  # noqa: S307
        worker.settle()
        assert (made.latent, made.compare, made.text, made.query) == (20, 33, "1 2", widget.query)
        made.close()
        at.page.locator("[data-act='end']").click()
        at.settle()
        assert widget.compare is None and title(at) == ["Latent 20"]


def test_a_page_without_a_kernel_keeps_its_cards_and_says_what_is_missing(make):
    widget = make(latent=1, text="1 2")
    for latent in (2, 3):
        widget.latent = latent
        worker.settle()
    widget.view, widget.live = "latents", False
    with bare.opened(widget) as at:
        assert at.page.locator(".fd-filters").is_hidden() and title(at) == ["Latent 3"]
        at.page.locator("tr[data-id='1']").click()
        assert title(at) == ["Latent 1"] and at.page.locator(".lc-context").count() == 10
        assert "not in this page" in at.page.locator("tr[data-id='8']").inner_text()
        at.page.locator("tr[data-id='8']").click()
        assert "latent 8 is not in this page" in at.page.locator(".fd-right .wb-empty").inner_text()
        at.page.locator("[data-seen='2']").click()
        assert title(at) == ["Latent 2"] and at.page.locator("button.lc-name").count() == 0
        at.page.locator("[data-key='max']").click()
        shown = {row["id"]: row["max"] for row in widget.listing["rows"]}
        assert [shown[i] for i in rows(at)] == sorted(shown.values(), reverse=True)
        at.page.get_by_role("tab", name="My text").click()
        assert at.page.locator(".fd-line").count() > 2 and at.page.locator(".fd-text").is_disabled()
        at.close()


def test_its_own_page_holds_the_chosen_cards(make, tmp_path):
    make(latent=5).to_html(tmp_path / "page.html", latents=[7, small.DEAD])
    with bare.browser() as context:
        page, failed = context.new_page(), []
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.locator(".fd-right h3").wait_for()
        assert page.locator(".fd-right h3").inner_text() == "Latent 7"
        page.locator("tr[data-id='59']").click()
        assert "never fired" in page.locator(".lc-dead").inner_text() and failed == []
        page.close()

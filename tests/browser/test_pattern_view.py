"""PatternView as built, in a bare page."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import bare

from widgets import PatternView

pytestmark = pytest.mark.browser
HOSTILE = ["<b>x</b>", "<script>window.hit=1</script>", "\u202eabc", "שלום", "👩‍🚀", "\n\n", "", " ", "\ud800"]


@pytest.fixture(scope="module", autouse=True)
def one_browser():
    with bare.browser():
        yield


def causal(*shape: int) -> np.ndarray:
    weights = np.tril(np.random.default_rng(0).random((*shape, shape[-1]))) ** 4
    return weights / weights.sum(-1, keepdims=True)


def view(**given: Any) -> PatternView:
    tokens = [f" w{i}" for i in range(8)]
    return PatternView(**{"tokens": tokens, "patterns": causal(3, 4, 8), "layer": 1} | given)


# of the large picture: [red, green, blue, alpha] in the middle of a cell
PIXEL = """([q, k, n]) => {
  const c = document.querySelector('.wb-pv-canvas'), at = i => Math.floor((i + 0.5) * c.width / n);
  return [...c.getContext('2d').getImageData(at(k), at(q), 1, 1).data]; }"""


def cell(at: bare.At, q: int, k: int, n: int = 8) -> dict[str, float]:
    """The middle of a cell, from the corner of the picture with its labels."""
    box, over = at.page.locator(".wb-pv-canvas").bounding_box(), at.page.locator(".wb-pv-over").bounding_box()
    assert box and over
    side = box["width"] / n
    return {"x": box["x"] - over["x"] + (k + 0.5) * side, "y": box["y"] - over["y"] + (q + 0.5) * side}


def read(at: bare.At) -> float:
    """The weight under the pointer or the cursor, as it is told."""
    return float(at.page.locator(".wb-pv-said b").first.inner_text().replace("−", "-"))


def test_the_picture_is_the_weights_and_hover_reads_them():
    widget, weights = view(), causal(3, 4, 8)[1, 0]
    with bare.opened(widget) as at:
        assert at.page.locator(".wb-pv-thumb").count() == 4 and at.page.locator(".wb-pv-note").is_hidden()
        big, small = np.unravel_index(weights.argmax(), (8, 8)), (7, int(weights[7].argmin()))
        dark, pale, masked = (at.page.evaluate(PIXEL, [int(q), int(k), 8]) for q, k in (big, small, (2, 5)))
        assert sum(dark[:3]) < sum(pale[:3]) and masked[3] == 0 and dark[3] == 255
        at.page.locator(".wb-pv-over").hover(position=cell(at, 6, 3))
        said = at.page.locator(".wb-pv-said").inner_text()
        assert read(at) == pytest.approx(weights[6, 3], rel=5e-3) and "“ w6”" in said and "“ w3”" in said
        at.close()


def test_clicks_and_keys_pick_query_and_head_and_python_moves_them_too():
    widget, weights = view(), causal(3, 4, 8)[1]
    with bare.opened(widget) as at:
        page = at.page
        page.locator(".wb-pv-over").click(position=cell(at, 4, 1))
        at.settle()
        assert widget.picked == 4 and "query 4, head 0" in page.locator(".wb-pv-text").inner_text()
        shown = page.locator(".wb-pv-text .wb-t")
        assert [t.get_attribute("title").endswith(f"position {i}") for i, t in enumerate(shown.all())] == [True] * 8
        title = shown.nth(2).get_attribute("title")
        assert title and float(title.split(" · ")[1]) == pytest.approx(weights[0, 4, 2], rel=5e-3)
        assert "no value" in shown.nth(5).get_attribute("title")  # the future
        shown.nth(2).click()
        at.settle()
        assert widget.picked == 2
        page.locator('[aria-checked="true"]').press("ArrowRight")
        at.settle()
        assert widget.head == 1 and page.evaluate("document.activeElement.dataset.i") == "1"
        assert "Layer 1, head 1" in page.locator(".wb-pv-title").inner_text()
        page.locator(".wb-pv-over").focus()
        for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight"):
            page.keyboard.press(key)
        assert read(at) == pytest.approx(weights[1, 3, 3], rel=5e-3)  # stops at the query
        page.keyboard.press("Enter")
        at.settle()
        assert widget.picked == 3
        widget.put(head=3, picked=-1)
        at.settle()
        assert "No query is picked" in page.locator(".wb-pv-text").inner_text()
        assert page.locator('[aria-checked="true"]').get_attribute("data-i") == "3"


def test_another_layer_comes_from_python_and_not_without_a_kernel():
    widget, weights = view(), causal(3, 4, 8)
    with bare.opened(widget) as at:
        at.page.get_by_label("layer").select_option("2")
        at.settle()
        assert widget.layer == 2 and "Layer 2, head 0" in at.page.locator(".wb-pv-title").inner_text()
        at.page.locator(".wb-pv-over").hover(position=cell(at, 6, 3))
        assert read(at) == pytest.approx(weights[2, 0, 6, 3], rel=5e-3)
    widget.live = False
    with bare.opened(widget, dark=True) as at:
        assert at.page.get_by_label("layer").is_disabled()
        at.page.locator(".wb-pv-thumb").nth(2).click()
        assert "Layer 2, head 2" in at.page.locator(".wb-pv-title").inner_text()
        at.page.get_by_label("without the first key").check()
        assert at.page.evaluate(PIXEL, [4, 0, 8])[3] == 0 and at.page.evaluate(PIXEL, [4, 1, 8])[3] == 255
        assert "no value" in at.page.locator(".wb-pv-text .wb-t").first.get_attribute("title")
        at.close()


def test_hostile_tokens_and_labels_are_text_and_rows_that_do_not_sum_are_told():
    n = len(HOSTILE)
    weights = causal(2, n)
    weights[0, 4] *= 0.5
    widget = PatternView(tokens=HOSTILE, patterns=weights, labels=HOSTILE[1:3], title="<b>t</b>")
    with bare.opened(widget) as at:
        assert at.page.locator(".wb script, .wb img, .wb b b").count() == 0 and at.page.evaluate("window.hit") is None
        assert at.page.locator(".wb-pv-text .wb-t").nth(0).inner_text() == "<b>x</b>"
        assert "1 of 18 rows do not sum to 1" in at.page.locator(".wb-pv-note").inner_text()
        assert "U+202E" in at.page.locator(".wb-pv-over").inner_html()


@pytest.mark.parametrize(("size", "heads"), [(1, 1), (60, 4), (128, 12), (330, 2)])
def test_one_token_and_many_fit_the_page(size, heads):
    widget = PatternView(tokens=[" word"] * size, patterns=causal(heads, size))
    with bare.opened(widget) as at:
        page = at.page
        assert page.evaluate("painted") < 1500
        assert page.evaluate("document.querySelector('.wb').scrollWidth <= document.querySelector('.wb').clientWidth")
        labels = page.locator(".wb-pv-over text[data-q]").count()
        assert labels == size if size <= 60 else 15 <= labels <= 60
        at.page.locator(".wb-pv-over").hover(position=cell(at, size - 1, 0, size))
        assert f" {size - 1}" in page.locator(".wb-pv-said").inner_text()

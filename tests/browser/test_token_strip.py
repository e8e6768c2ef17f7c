"""TokenStrip as built, in a bare page."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import bare

from widgets import TokenStrip

pytestmark = pytest.mark.browser
HOSTILE = ["<b>x</b>", "<script>window.hit=1</script>", "\u202e", "שלום", "😀", "👩‍🚀", "\n\n", "", " ", "\ud800"]


@pytest.fixture(scope="module", autouse=True)
def one_browser():
    with bare.browser():
        yield


def strip():
    values = [float(i) - 4 for i in range(len(HOSTILE) - 2)] + [math.nan, None]
    return TokenStrip(tokens=HOSTILE, values=values, label="hostile")


def test_draws_from_state_and_nothing_in_a_token_is_markup():
    with bare.opened(strip()) as at:
        tokens = at.page.locator(".wb-t")
        assert tokens.count() == len(HOSTILE)
        assert tokens.nth(0).inner_text() == "<b>x</b>" and tokens.nth(2).inner_text() == "U+202E"
        assert [tokens.nth(i).inner_text() for i in (5, 7, 8)] == ["👩‍🚀", "∅", "·"]
        assert at.page.locator(".wb b, .wb script").count() == 0 and at.page.evaluate("window.hit") is None
        assert "no value" in tokens.nth(8).get_attribute("title")
        at.close()


def test_a_click_and_arrow_keys_reach_python_and_python_reaches_the_page():
    widget = strip()
    with bare.opened(widget) as at:
        at.page.locator(".wb-t").nth(3).click()
        at.settle()
        assert widget.picked == 3
        at.page.keyboard.press("ArrowRight")
        at.page.keyboard.press("Enter")
        at.settle()
        assert widget.picked == 4
        widget.picked = 0
        at.settle()
        assert at.page.locator(".wb-picked").inner_text() == "<b>x</b>"
        widget.put(strip={"tokens": [], "values": []})
        at.settle()
        assert at.page.locator(".wb-empty").count() == 1


def test_ten_thousand_tokens_are_drawn_on_demand():
    with bare.opened(TokenStrip(tokens=["ab "] * 10_000)) as at:
        assert at.page.evaluate("painted") < 1500 and at.page.locator(".wb-t").count() == 2000
        at.page.locator(".wb-more").click()
        assert at.page.locator(".wb-t").count() == 4000

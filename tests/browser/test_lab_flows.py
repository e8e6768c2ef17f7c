"""Five things that people do, in JupyterLab with a real kernel: each act is seen in Python, each answer in the page."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lab

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with lab.running(tmp_path_factory.mktemp("lab")) as made:
        yield made


def test_pick_a_token(home):
    cells = [
        "from widgets import TokenStrip\nw = TokenStrip(tokens=['a ', 'b ', 'c '], values=[1, 2, 3])\n"
        "w.observe(lambda c: note(picked=c['new']), 'picked')\nw"
    ]
    with home.notebook(cells) as at:
        at.page.locator(".wb-t").nth(1).click()
        at.wait(lambda: at.known().get("picked") == 1, "the click")
        at.page.keyboard.press("ArrowRight")
        at.page.keyboard.press("Enter")
        at.wait(lambda: at.known().get("picked") == 2, "the keys")
        at.shot("strip")

"""The page in a real browser with the network refused."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from look import look

import notebooks
from workbench import report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return report.run(notebooks.write(folder / "small.ipynb"), {}, folder / "out", progress=False)


@pytest.mark.parametrize("dark", [False, True])
def test_every_figure_and_card_is_drawn_and_nothing_is_asked_for(done, dark, tmp_path):
    seen = look(done.html, tmp_path / "page.png", dark=dark)
    assert (seen.figures, seen.drawn, seen.cards) == (notebooks.FIGURES, notebooks.FIGURES, notebooks.CARDS)
    assert seen.asked == []
    assert seen.errors == []
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_figures_fill_the_column_and_do_not_overlap(done):
    boxes = look(done.html, act=lambda page: page.evaluate(
        "[...document.querySelectorAll('main > *')].map(e => e.getBoundingClientRect())"
        ".map(r => [r.top, r.bottom, r.width])"
    )).extra  # fmt: skip
    assert all(a[1] <= b[0] + 1 for a, b in zip(boxes, boxes[1:], strict=False) if a[2] and b[2])
    figures = look(
        done.html,
        act=lambda p: p.evaluate("[...document.querySelectorAll('.figure .main-svg')].map(e => e.clientWidth)"),
    )
    assert min(w for w in figures.extra if w) > 600


def test_a_request_and_an_error_are_seen(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://example.invalid/x.png'><script>nothing()</script>")
    seen = look(bad)
    assert seen.asked == ["http://example.invalid/x.png"]
    assert any("nothing" in error for error in seen.errors)


def test_the_index_opens_clean(done):
    assert look(done.html.parent / "index.html").ok

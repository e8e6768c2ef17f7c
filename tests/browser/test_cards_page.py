"""Cards in a real browser, hostile tokens in them: drawn, nothing run, nothing asked for."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import test_cards
from look import look

from workbench import interpret

pytestmark = pytest.mark.browser


def test_cards_with_hostile_tokens(tmp_path):
    index = interpret.index(test_cards.Codec(), test_cards.Rows(), test_cards.Subject(), folder=tmp_path / "index")
    logits = interpret.effects(test_cards.Codec(), test_cards.Subject(), top=5)
    cards = interpret.cards(index, [0, 1, 2, 3], logits)
    page = tmp_path / "cards.html"
    page.write_text(f"<!doctype html><meta charset='utf-8'><body>{cards._repr_html_()}</body>", encoding="utf-8")
    seen = look(
        page,
        tmp_path / "cards.png",
        act=lambda p: {
            "heights": p.eval_on_selector_all("article, .wb-card", "es => es.map(e => e.clientHeight)"),
            "wide": p.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"),
            "scripts": p.locator("script, img").count(),
        },
    )
    assert seen.asked == [] and seen.errors == []
    assert seen.cards == 4 and min(seen.extra["heights"]) > 40
    assert seen.extra["wide"] <= 0, "a card is wider than the page"
    assert seen.extra["scripts"] == 0, "a token became an element"

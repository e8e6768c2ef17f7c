"""Committed effects: the page is what the data say, verdicts follow the rule, what holds keeps its sign."""

import importlib.util
import sys
from pathlib import Path

import pytest

from workbench import lineage

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "bench"))
spec = importlib.util.spec_from_file_location("effects", ROOT / "bench" / "effects.py")
effects = importlib.util.module_from_spec(spec)
spec.loader.exec_module(effects)
FOUND = lineage.read_json(effects.DATA) if effects.DATA.exists() else {}
HOLDS = sorted(name for name, row in FOUND.items() if row["verdict"] == "holds")


@pytest.mark.parametrize("name", effects.names())
def test_a_claim_says_what_it_is(name):
    module = effects.effect(name)
    assert module.CLAIM and module.SOURCE and module.SETTING
    assert len(module.ARMS) == 2 and module.SEEDS >= 3 and isinstance(module.MARGIN, int | float)


def test_every_row_is_of_a_claim_and_follows_the_rule():
    assert set(FOUND) <= set(effects.names()), "a claim was removed: delete its row"
    for name, row in FOUND.items():
        assert row["verdict"] == effects.verdict(row["low"], row["high"], row["margin"]), name
        assert row["margin"] == effects.effect(name).MARGIN, f"{name}: the margin was moved after measuring"
        note = getattr(effects.effect(name), "NOTE", "")
        assert row["verdict"] == "holds" or note, f"{name} does not hold: NOTE must say why"
        if row["verdict"] == "does not hold":
            tried = [s for s, *_ in row["tried"] if s != {"control": True}]
            shown = [a - b for s, a, b in row["tried"] if s == {"control": True}]
            assert len(tried) >= 4 and shown and min(shown) > row["margin"], (
                f"{name}: SWEEP needs settings and a control"
            )


def test_the_page_is_what_the_data_say():
    assert effects.PAGE.read_text() == effects.page(), "run `python bench/effects.py` and commit docs/effects.md"


def test_a_note_may_follow_the_measurement_and_nothing_else(tmp_path, monkeypatch):
    claim = (effects.FOLDER / "kron_heads.py").read_text()
    monkeypatch.setattr(effects, "FOLDER", tmp_path)

    def code(text):
        (tmp_path / "kron_heads.py").write_text(text)
        return effects.code("kron_heads")

    assert code(claim) == code(claim + 'NOTE = (\n    "seen"\n    " later"\n)\n') != code(claim.replace("0.02", "0.01"))


def test_the_rule_by_hand():
    middle, low, high = effects.interval([1.0, 2.0, 3.0])
    assert middle == 2.0 and round(high - middle, 3) == round(4.3027 / 3**0.5, 3) and middle - low == high - middle
    verdicts = [effects.verdict(*bounds, 0.5) for bounds in ((0.6, 1.0), (-1.0, 0.4), (0.4, 0.6))]
    assert verdicts == ["holds", "does not hold", "inconclusive"]


@pytest.mark.effect
@pytest.mark.parametrize("name", HOLDS)
def test_what_holds_keeps_its_sign(name):
    """A claim of being as good has a margin below 0: one seed may then fall behind as far."""
    first, second, _ = effects.measured(name, 0)
    claim = effects.effect(name)
    assert first - second > min(0, claim.MARGIN), f"{name}: {claim.CLAIM}: {first} against {second}"

"""Committed measurements: the page is what the files say, and old rows are marked."""

import importlib.util
from pathlib import Path

import pytest

from workbench import lineage

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("record", ROOT / "bench" / "record.py")
record = importlib.util.module_from_spec(spec)
spec.loader.exec_module(record)


def test_the_page_is_what_the_measurements_say():
    assert record.PAGE.read_text() == record.page(), "run `python bench/record.py` and commit docs/measurements.md"


def test_a_measurement_goes_stale_with_its_code(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    value = {
        "command": "c",
        "rows": [{"speed": 0.123456, "what": "a|b"}],
        "tested": ["*.py"],
        "code": record.code_hash(["*.py"], tmp_path),
        "date": "d",
        "machine": "m",
        "versions": {"torch": "t"},
    }
    lineage.write_json(tmp_path / "m" / "one.json", value)
    assert "stale" not in record.page(tmp_path / "m", tmp_path).split("## one")[1]
    assert "| 0.1235 | a\\|b |" in record.page(tmp_path / "m", tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    assert "## one — **stale**" in record.page(tmp_path / "m", tmp_path)
    (tmp_path / "a.py").unlink()
    assert record.stale(value, tmp_path)
    with pytest.raises(ValueError, match="no file matches"):
        record.code_hash(["*.py"], tmp_path)

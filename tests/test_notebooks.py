"""Every curated notebook runs alone, at smoke size, and says what it found."""

from pathlib import Path

import pytest

from workbench import report

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.ipynb"))
pytestmark = pytest.mark.notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_and_repeats_itself(path, tmp_path):
    first = report.run(path, {"smoke": True}, tmp_path / "one", timeout=300.0, progress=False)
    assert first.ok, first.error
    assert first.values, "a notebook glues its results"
    again = report.run(path, {"smoke": True}, tmp_path / "two", timeout=300.0, progress=False)
    assert again.ok, again.error
    for values in (first.values, again.values):
        values.pop("seconds", None)
    assert first.values == again.values


def test_there_are_notebooks():
    assert NOTEBOOKS

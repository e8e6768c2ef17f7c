"""Every curated notebook runs alone, at smoke size, and says what it found; the tour prints what is stored in it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from workbench import report

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
TOUR = ROOT / "notebooks" / "tour.ipynb"
LESSONS = sorted((ROOT / "notebooks" / "workshop").glob("*.ipynb"))
SLOW = 60.0  # seconds at smoke size: 45 alone on two cores, and here two run at a time
AGAIN = ("01", "07", "10")  # run twice: a trained dictionary, traced graphs, tiny subjects


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_in_time_and_repeats_itself(path, tmp_path):
    first = report.run(path, {"smoke": True}, tmp_path / "one", timeout=300.0, progress=False)
    assert first.ok, first.error
    assert first.values, "a notebook glues its results"
    assert first.seconds <= SLOW
    if path.stem.startswith(AGAIN):
        again = report.run(path, {"smoke": True}, tmp_path / "two", timeout=300.0, progress=False)
        assert again.ok, again.error
        for values in (first.values, again.values):
            values.pop("seconds", None)
        assert first.values == again.values


def test_every_question_has_its_notebook():
    assert [p.stem[:2] for p in NOTEBOOKS] == [f"{n:02d}" for n in range(1, 11)]
    assert {p.stem[:2] for p in NOTEBOOKS} > set(AGAIN)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_built_as_a_reader_expects(path):
    cells = nbformat.read(path, 4).cells
    words = [c.source for c in cells if c.cell_type == "markdown"]
    assert re.match(r"# .*\?", words[0]), "the question comes first"
    assert "Cost at full size" in words[0]
    assert any("**What would change our mind.**" in text for text in words)
    assert words[-1].startswith("## What was written")
    tags = [tag for c in cells for tag in c.metadata.get("tags", [])]
    assert {"parameters", "setup", "results"} <= set(tags)
    (results,) = [c.source for c in cells if "results" in c.metadata.get("tags", [])]
    assert "assert" in results
    assert "smoke = False" in next(c.source for c in cells if "parameters" in c.metadata.get("tags", []))


@pytest.mark.parametrize("path", [*NOTEBOOKS, *LESSONS], ids=lambda p: p.stem)
def test_no_function_of_a_notebook_is_longer_than_ten_lines(path):
    import ast

    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
                    assert node.end_lineno - node.lineno < 10 + isinstance(node, ast.ClassDef) * 20, cell.source


# ---- what is stored is what comes out


def nbval(node, folder, *how):
    """Run nbval on a notebook in a folder of its own; its exit code and what it said."""
    path = folder / "checked.ipynb"
    nbformat.write(node, path)
    (folder / "empty.ini").write_text("[pytest]\n")
    quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", folder / "empty.ini")
    same = ("--nbval-current-env", "--nbval-sanitize-with", ROOT / "tests" / "nbval.cfg", "--nbval-cell-timeout", "240")
    made = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, *how, *same, path],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "TQDM_DISABLE": "1"},
    )  # fmt: skip
    return made.returncode, made.stdout + made.stderr


@pytest.mark.notebook
def test_the_tour_prints_what_is_stored_in_it(tmp_path):
    code, said = nbval(nbformat.read(TOUR, 4), tmp_path, "--nbval")
    assert code == 0, said


@pytest.mark.notebook
def test_a_change_planted_in_the_tour_is_seen(tmp_path):
    node = nbformat.read(TOUR, 4)
    first = next(c for c in node.cells if c.cell_type == "code")
    assert "30 layers" in first.outputs[0].text
    first.outputs[0].text = first.outputs[0].text.replace("30 layers", "31 layers")
    node.cells = node.cells[: node.cells.index(first) + 1]
    code, said = nbval(node, tmp_path, "--nbval")
    assert code == 1
    assert "31 layers" in said


@pytest.mark.parametrize("path", [TOUR, *LESSONS], ids=lambda p: p.stem)
def test_only_short_texts_are_stored(path):
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    for cell in cells:
        kinds = {kind for o in cell.outputs for kind in (o.data if "data" in o else {"text": 0})}
        assert kinds <= {"text", "text/plain", "text/html"}
        assert len(str(cell.outputs)) < 3000
        checked = path == TOUR or "check" in cell.metadata.get("tags", [])
        assert bool(cell.outputs) == checked, "run `python tools/store_outputs.py` and commit"
    assert any(c.outputs for c in cells)


def smoke_copy(path):
    """A solved lesson at smoke size whose check cells nbval compares."""
    node = nbformat.read(path, 4)
    for cell in node.cells:
        tags = cell.metadata.get("tags", [])
        if "parameters" in tags:
            assert "smoke = False" in cell.source
            cell.source = cell.source.replace("smoke = False", "smoke = True")
        if "check" in tags:
            cell.metadata["tags"] = [*tags, "nbval-check-output"]
    return node


@pytest.mark.notebook
@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_solved_lesson_passes_and_its_checks_say_what_is_stored(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    code, said = nbval(smoke_copy(path), tmp_path, "--nbval-lax")
    assert code == 0, said


@pytest.mark.notebook
def test_a_change_planted_in_a_lessons_check_is_seen(tmp_path):
    node = smoke_copy(LESSONS[0])
    first = next(c for c in node.cells if "check" in c.metadata.get("tags", []))
    first.outputs[0].data["text/plain"] = first.outputs[0].data["text/plain"].replace("is right", "is wrong")
    node.cells = node.cells[: node.cells.index(first) + 1]
    code, said = nbval(node, tmp_path, "--nbval-lax")
    assert code == 1
    assert "is wrong" in said

"""What the README shows is what the tour holds, and what it points to is there."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def test_the_five_minutes_are_the_cells_of_the_tour_and_what_they_print():
    cells = [c for c in nbformat.read(ROOT / "notebooks" / "tour.ipynb", 4).cells if c.cell_type == "code"]
    blocks = re.findall(r"```python\n(.*?)\n```\n\n((?:    [^\n]*\n)+)", README, re.DOTALL)
    assert len(blocks) == len(cells) >= 5
    for cell, (code, printed) in zip(cells, blocks, strict=True):
        assert code == cell.source
        told = "".join(o.text for o in cell.outputs if o.name == "stdout")
        assert re.sub(r"^    ", "", printed, flags=re.MULTILINE) == told


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_notebook_stands_in_the_readme_with_its_question(path):
    question = nbformat.read(path, 4).cells[0].source.split("\n")[0].removeprefix("# ")
    assert f"| [`{path.stem}`](notebooks/{path.name}) | {question} |" in README


def test_every_file_the_readme_points_to_exists():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^    )make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile, target

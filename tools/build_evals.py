"""The table of evals in docs/evaluation.md, from their own files: `python tools/build_evals.py`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from workbench import catalogue, evaluate, lineage  # noqa: E402

PAGE = ROOT / "docs" / "evaluation.md"
BEGIN, END = "<!-- evals: tools/build_evals.py -->\n", "<!-- end of evals -->\n"


def table() -> str:
    """Name, question, and what `Case` must be given, a line per eval."""
    needs = evaluate.needs()
    lines = ["| eval | what it asks | wants beside rows |", "| --- | --- | --- |"]
    for row in catalogue.table("evals"):
        wants = ", ".join(f"`{need}`" for need in needs[row["name"]])
        lines.append(f"| `{row['name']}` | {row['what']} | {wants} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the table as the files have it now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    lineage.write(PAGE, page().encode())

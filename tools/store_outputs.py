"""`python tools/store_outputs.py`: run the tour and the solved lessons, and store what nbval holds them to.

All that the tour prints; of a lesson, at smoke size, what its checks say. No figure is stored, and no time.
"""

import os
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import nbformat

from workbench import lineage, report

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "notebooks" / "tour.ipynb"
LESSONS = sorted((ROOT / "notebooks" / "workshop").glob("*.ipynb"))


def stored(node: Any, ran: Any, wanted: Any) -> None:
    """Copy the text outputs of the cells that `wanted` names, and take all others away."""
    outputs = {cell.id: cell.get("outputs", []) for cell in ran.cells}
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs = plain(outputs[cell.id]) if wanted(cell) else []
            cell.execution_count = 1 if cell.outputs else None  # nbval takes a cell without a count for one never run


def plain(outputs: list[Any]) -> list[Any]:
    """As committed: one counter for all, and of a progress bar its last state, without the time."""
    kept = [one for one in outputs if one.get("name") != "stderr"]
    for one in kept:
        if one.output_type == "execute_result":
            one.execution_count = 1
    bars = "".join(one.text for one in outputs if one.get("name") == "stderr").split("\r")
    last = [bar.partition(" [")[0] for bar in bars if bar.strip()][-1:]
    return [nbformat.v4.new_output("stream", name="stderr", text=f"{bar}\n") for bar in last] + kept


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"  # a harvest has a bar the first time only
    paths = [Path(name).resolve() for name in sys.argv[1:]] or [TOUR, *LESSONS]
    for path in paths:
        lesson = path in LESSONS
        with tempfile.TemporaryDirectory() as out, chdir(out):
            done = report.run(path, {"smoke": True} if lesson else {}, out, timeout=300.0)
            if not done.ok:
                raise RuntimeError(f"{path.name}: {done.error}")
            node, ran = nbformat.read(path, 4), nbformat.read(done.notebook, 4)
        stored(node, ran, (lambda c: "check" in c.metadata.get("tags", [])) if lesson else (lambda c: True))
        lineage.write(path, (nbformat.writes(node) + "\n").encode())


if __name__ == "__main__":
    main()

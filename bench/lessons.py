"""`python bench/lessons.py [--record] [NUMBER ...]`: every solved lesson of the workshop, one at a time, timed.

In float32 on no more than AVX2, as on a laptop of ten years ago: what would be fast only on a processor with bfloat16
is slow here. `longest cell` is what a learner waits for at once, `GB` the peak of the largest process, from a cache
that holds nothing.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import full
import nbformat
import record

# what a lesson's cells ask; the rest of that room packs and installs
ASKED = [f"workbench/workshop/{name}.py" for name in ("__init__", "hints", "lessons", "lesson_*")]
LESSONS = sorted((record.ROOT / "notebooks" / "workshop").glob("[0-9]*.ipynb"))
OLD = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
CELL, MEMORY = 60, 8  # seconds of a cell and GB of memory that no lesson may need


def row(path: Path, out: Path) -> dict[str, Any]:
    took = full.run(path, out / f"cache-{path.stem}", out, **OLD)
    cells = nbformat.read(out / path.name, 4).cells
    waits = [cell.metadata.get("papermill", {}).get("duration") or 0 for cell in cells if cell.cell_type == "code"]
    return {
        "lesson": path.stem,
        "seconds": took["seconds"],
        "longest cell, s": round(max(waits), 1),
        "GB": took["GB"],
        "failed": took["error"] or "no",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="lessons by number (all)")
    parser.add_argument("--record", action="store_true", help="write docs/measurements/lessons.json")
    given = parser.parse_args()
    chosen = [p for p in LESSONS if not given.numbers or p.stem[0] in given.numbers]
    rows = []
    with tempfile.TemporaryDirectory() as out:
        for path in chosen:
            rows.append(row(path, Path(out)))
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if given.record and chosen == LESSONS:
        record.record(
            "lessons",
            "python bench/lessons.py --record",
            rows,
            ["notebooks/workshop/*.ipynb", *full.CODE, *ASKED],
        )
    return int(any(r["failed"] != "no" or r["longest cell, s"] > CELL or r["GB"] > MEMORY for r in rows))


if __name__ == "__main__":
    sys.exit(main())

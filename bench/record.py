"""Measurements on disk: each names its command, machine and the hash of the code it tested; the page marks stale ones.

`python bench/record.py` writes docs/measurements.md and docs/benchmarks.md from docs/measurements/*.json.
"""

import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from workbench import lineage

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "measurements"
PAGE = ROOT / "docs" / "measurements.md"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
# what the page of benchmarks holds
COMPARED = ("train_step", "step_parts", "step_designs", "train_quality", "train_rates", "encode", "scaling")


def code_hash(patterns: Sequence[str], root: Path = ROOT) -> str:
    """16 hex digits over paths and bytes of all files that match the globs. Raises ValueError when one matches none."""
    h = hashlib.sha256()
    for pattern in patterns:
        paths = sorted(p for p in root.glob(pattern) if p.is_file())
        if not paths:
            raise ValueError(f"no file matches {pattern!r} under the project: the measured code has moved")
        for path in paths:
            h.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return h.hexdigest()[:16]


def processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return f"{found[1] if found else platform.processor()}, {os.cpu_count()} cores"


def record(name: str, command: str, rows: Sequence[Mapping[str, Any]], tested: Sequence[str]) -> Path:
    """Write one measurement's rows beside the code they tested (globs from the project's root)."""
    value = {
        "command": command,
        "rows": [dict(row) for row in rows],
        "tested": list(tested),
        "code": code_hash(tested),
        "date": date.today().isoformat(),
        "machine": processor(),
        "versions": lineage.versions(),
    }
    path = lineage.write_json(FOLDER / f"{name}.json", value)
    write_pages()
    return path


def stale(value: Mapping[str, Any], root: Path = ROOT) -> bool:
    """Whether the code has changed since it was measured."""
    try:
        return code_hash(value["tested"], root) != value["code"]
    except ValueError:  # the measured files are gone: the row certainly no longer speaks of this code
        return True


def cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def section(path: Path, root: Path = ROOT) -> str:
    """One measurement as markdown: its command, day, machine and table, marked when stale."""
    value = lineage.read_json(path)
    columns = list(dict.fromkeys(key for row in value["rows"] for key in row))
    parts = [
        f"\n## {path.stem}{' — **stale**' if stale(value, root) else ''}\n",
        f"\n`{value['command']}` · {value['date']} · {value['machine']} · torch {value['versions']['torch']}\n",
        "\n| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns) + "\n",
    ]
    parts.extend("| " + " | ".join(cell(row.get(c, "")) for c in columns) + " |\n" for row in value["rows"])
    return "".join(parts)


def page(folder: Path = FOLDER, root: Path = ROOT) -> str:
    """The markdown page of all measurements but the benchmarks, and `shape`, which docs/effects.md shows."""
    found = [section(path, root) for path in sorted(folder.glob("*.json")) if path.stem not in (*COMPARED, "shape")]
    return (
        "# Measurements\n\nWritten by `python bench/record.py`; **stale**: the code has changed since. Training steps "
        "beside other libraries, encoding and scaling: [benchmarks.md](benchmarks.md).\n" + "".join(found)
    )


def benchmarks(folder: Path = FOLDER, root: Path = ROOT) -> str:
    """The markdown page of benchmarks: how they are made, then those that were measured."""
    paths = [folder / f"{name}.json" for name in COMPARED]
    found = [section(path, root) for path in paths if path.is_file()]
    return (ROOT / "bench" / "peers" / "ABOUT.md").read_text() + "".join(found)


def write_pages() -> None:
    lineage.write(PAGE, page().encode())
    lineage.write(BENCHMARKS, benchmarks().encode())


if __name__ == "__main__":
    write_pages()
    print(PAGE.relative_to(ROOT), BENCHMARKS.relative_to(ROOT))

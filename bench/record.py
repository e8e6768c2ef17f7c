"""Measurements on disk: each names its command, machine and the hash of the code it tested; the page marks stale ones.

`python bench/record.py` writes docs/measurements.md from docs/measurements/*.json.
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
    lineage.write(PAGE, page().encode())
    return path


def stale(value: Mapping[str, Any], root: Path = ROOT) -> bool:
    """Whether the code has changed since it was measured."""
    try:
        return code_hash(value["tested"], root) != value["code"]
    except ValueError:  # the measured files are gone: the row certainly no longer speaks of this code
        return True


def cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def page(folder: Path = FOLDER, root: Path = ROOT) -> str:
    """The markdown page of all measurements."""
    parts = ["# Measurements\n\nWritten by `python bench/record.py`; **stale**: the code has changed since.\n"]
    for path in sorted(folder.glob("*.json")):
        value = lineage.read_json(path)
        parts.append(f"\n## {path.stem}{' — **stale**' if stale(value, root) else ''}\n")
        parts.append(
            f"\n`{value['command']}` · {value['date']} · {value['machine']} · torch {value['versions']['torch']}\n"
        )
        columns = list(dict.fromkeys(key for row in value["rows"] for key in row))
        parts.append("\n| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns) + "\n")
        parts.extend("| " + " | ".join(cell(row.get(c, "")) for c in columns) + " |\n" for row in value["rows"])
    return "".join(parts)


if __name__ == "__main__":
    lineage.write(PAGE, page().encode())
    print(PAGE.relative_to(ROOT))

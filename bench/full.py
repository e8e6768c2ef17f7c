"""`python bench/full.py [--record] [NAME ...]`: every notebook at full size, one at a time, and a look at its page.

Starts from a cache that holds the fetched models and the transcoders of `make transcoders`, and nothing else, so
seconds and GB are those of a first run. Resumable: a notebook is not run again while its page stands under build/full
and neither its code cells nor the library have changed (its text may: it speaks of what was measured). `GB` is the
peak of its largest process, `files GB` what it left in the cache. Each page is then opened in Chromium with the network
refused: requests, errors and what was not drawn are counted.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import psutil
import record

sys.path.insert(0, str(record.ROOT / "tests" / "browser"))

import look

from workbench import lineage

OUT = record.ROOT / "build" / "full"
NOTEBOOKS = sorted((record.ROOT / "notebooks").glob("[0-9]*.ipynb"))
# the library but for the workshop, sweeps and commands, which no notebook here uses
TOP = sorted(p.name for p in (record.ROOT / "workbench").glob("*.py") if p.stem not in ("cli", "doctor"))
RUN = ("__init__", "inputs", "page", "run", "scraps")
ROOMS = sorted(p.parent.name for p in (record.ROOT / "workbench").glob("*/__init__.py"))
CODE = [f"workbench/{name}/**/*.py" for name in ROOMS if name not in ("report", "workshop")]
CODE += [
    *(f"workbench/{name}" for name in TOP),
    *(f"workbench/report/{name}.py" for name in RUN),
    "widgets/*.py",
    "widgets/static/*",
]
LIMIT = 1800  # seconds for one notebook: far beyond the eight minutes it may take, so that a slow one is measured


def cold(source: Path, home: Path) -> Path:
    """An empty cache but for models and transcoders, which are linked."""
    home.mkdir(parents=True, exist_ok=True)
    for name in ("models", "transcoders"):
        if not (source / name).is_dir():
            raise FileNotFoundError(f"{source / name} is missing: run `make transcoders` first")
        if not (home / name).is_symlink():
            (home / name).symlink_to(source / name)
    return home


def code_of(path: Path) -> str:
    """Hash of what a run depends on: the notebook's code cells and the library."""
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return lineage.fingerprint([cells, record.code_hash(CODE)])


def run(path: Path, cache: Path, out: Path, **more: str) -> dict[str, Any]:
    """Execute one notebook in a process of its own; seconds, peak memory and the error, empty where there was none."""
    job = f"from workbench import report; report.run({str(path)!r}, {{}}, {str(out)!r}, limit={LIMIT}, progress=False)"
    environment = {**os.environ, "WORKBENCH_CACHE": str(cache), "HF_HUB_OFFLINE": "1", **more}
    begin, peak = time.perf_counter(), 0
    with subprocess.Popen([sys.executable, "-c", job], env=environment, cwd=record.ROOT) as running:
        while running.poll() is None:
            peak = max(peak, largest(running.pid))
            time.sleep(0.2)
    seconds = time.perf_counter() - begin
    if running.returncode:
        raise RuntimeError(f"{path.name}: the run left with {running.returncode}; its page, if any, is in {out}")
    said = lineage.read_json(out / f"{path.stem}.results.json")
    files = sum(f.stat().st_size for f in cache.rglob("*") if f.is_file() and not f.is_symlink())
    return {"seconds": round(seconds), "GB": round(peak / 1e9, 2), "files": files, "error": said["error"]}


def largest(pid: int) -> int:
    """Bytes held by the largest process of a tree."""
    try:
        found = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    sizes = [0]
    for process in found:
        try:
            sizes.append(process.memory_info().rss)
        except psutil.NoSuchProcess:  # it ended between the two calls
            continue
    return max(sizes)


def row(path: Path, source: Path) -> dict[str, Any]:
    """What one notebook costs and how its page looks; taken from the last run where nothing has changed since."""
    kept, now = OUT / f"{path.stem}.full.json", code_of(path)
    known = lineage.read_json(kept) if kept.is_file() else {}
    if known.get("code") != now:
        shutil.rmtree(OUT / "cache", ignore_errors=True)
        kept.unlink(missing_ok=True)  # a run that is killed writes over the page that these figures are of
        known = {"code": now, **run(path, cold(source, OUT / "cache"), OUT)}
        if not known["error"]:
            lineage.write_json(kept, known)
    seen = look.look(OUT / f"{path.stem}.html", OUT / f"{path.stem}.png")
    return {
        "notebook": path.stem,
        **{key: known[key] for key in ("seconds", "GB")},
        "files GB": round(known["files"] / 1e9, 2),
        "page MB": round((OUT / f"{path.stem}.html").stat().st_size / 1e6, 1),
        "figures": f"{seen.drawn} of {seen.figures}",
        "requests": len(seen.asked),
        "errors": len(seen.errors),
        "failed": known["error"] or "no",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="notebooks, by the beginning of their names (all)")
    parser.add_argument("--record", action="store_true", help="write docs/measurements/notebooks.json")
    given = parser.parse_args()
    chosen = [p for p in NOTEBOOKS if not given.names or p.stem.startswith(tuple(given.names))]
    rows = []
    for path in chosen:
        rows.append(row(path, lineage.cache()))
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if given.record and chosen == NOTEBOOKS:
        record.record("notebooks", "make full", rows, ["notebooks/[0-9]*.ipynb", *CODE])
    return int(any(r["failed"] != "no" or r["requests"] or r["errors"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())

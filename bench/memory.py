"""Peak memory against rows: harvest, shuffled batches, training. Each job in a fresh process.

    python bench/memory.py [--rows 100000 400000 1600000] [--record]

The private memory of the process counts (RssAnon, sampled): pages of the store that the system keeps mapped can be
dropped at any time. The vectors come from a table, so that only the workbench's own memory shows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from workbench.batch import Tokens
from workbench.dictionary import recipe, train
from workbench.harvest import Store, collect
from workbench.site import Site

D, LENGTH = 256, 128
STATUS = Path("/proc/self/status")


class Table:
    """A subject whose vectors are looked up."""

    name, fingerprint, dtype, special_ids = "table", "0" * 16, torch.bfloat16, frozenset[int]()

    def __init__(self) -> None:
        self.rows = torch.randn(1000, D, generator=torch.Generator().manual_seed(0))

    def tokenize(self, text: Any) -> Tokens:
        raise NotImplementedError("this subject takes token rows only")

    def width(self, site: Site | str) -> int:
        return D

    def read(self, tokens: Tokens, sites: Sequence[Site | str]) -> dict[Site, Tensor]:
        return {Site.of(site): self.rows[tokens.ids] for site in sites}


def harvest(rows: int, folder: Path) -> None:
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, (rows // (LENGTH - 1) + 1, LENGTH), generator=random)
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    collect(Table(), tokens, "0.resid", rows=rows, batch=64, folder=folder, quiet=True)


def batches(rows: int, folder: Path) -> None:
    store = Store.open(folder)
    for _ in store.batches(2048, seed=0):
        pass


def statistics(rows: int, folder: Path) -> None:
    store, _ = Store.open(folder).split()
    store.mean("0.resid")


def training(rows: int, folder: Path) -> None:
    store = Store.open(folder)
    made = recipe("batch_topk", d=D, latents=512, k=16)
    train(made, store.stream(2048, site="0.resid", epochs=1), site="0.resid", progress=False)


JOBS: dict[str, Callable[[int, Path], None]] = {
    "harvest": harvest,
    "batches": batches,
    "statistics": statistics,
    "training": training,
}


def private() -> int:
    """Bytes of private memory now."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def peak(work: Callable[[], None]) -> tuple[int, int]:
    """(before, peak) bytes of private memory, looked at every 5 ms."""
    before = highest = private()
    over = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.wait(0.005):
            highest = max(highest, private())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return before, max(highest, private())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000, 1_600_000])
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--record", action="store_true", help="write docs/measurements/memory.json")
    parser.add_argument("--child", nargs=2, metavar=("JOB", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        job, folder = options.child
        before, highest = peak(lambda: JOBS[job](options.rows[0], Path(folder)))
        print(json.dumps({"before": before, "peak": highest}))
        return
    found: dict[str, dict[int, int]] = {job: {} for job in options.jobs}
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as home:
            for job in dict.fromkeys(["harvest", *options.jobs]):  # the others read what it writes
                call = [sys.executable, __file__, "--rows", str(rows), "--child", job, f"{home}/store"]
                done = subprocess.run(call, capture_output=True, text=True, check=True)
                value = json.loads(done.stdout.splitlines()[-1])
                if job in found:
                    found[job][rows] = value["peak"] - value["before"]
                print(f"{rows:>10,} rows, {job}: {(value['peak'] - value['before']) / 1e6:.0f} MB above the start")
    low, high = min(options.rows), max(options.rows)
    table = []
    for job, values in found.items():
        row: dict[str, Any] = {"job": job} | {f"MB at {rows:,} rows": size / 1e6 for rows, size in values.items()}
        if high > low:
            row["more bytes a row"] = (values[high] - values[low]) / (high - low)
        table.append(row)
        print("  ".join(f"{k}: {v:.1f}" if isinstance(v, float) else str(v) for k, v in row.items()))
    if options.record:
        harvest = [f"workbench/harvest/{name}.py" for name in ("collect", "store", "tokens")]
        tested = [*harvest, "workbench/dictionary/training.py", "bench/memory.py"]
        print(record("memory", " ".join(["python bench/memory.py", *sys.argv[1:]]), table, tested))


if __name__ == "__main__":
    main()

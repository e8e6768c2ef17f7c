"""Peak memory against rows: harvest, shuffled batches, training, codes. Each job in a fresh process.

    python bench/memory.py [--rows 1000000 10000000] [--d 64] [--jobs harvest batches ...] [--record]

The private memory of the process counts (RssAnon, sampled): pages of the store that the system keeps mapped can be
dropped at any time. The vectors come from a table, so that only the workbench's own memory shows; the token ids that
the harvest is given (9 bytes a row) are made before the count begins.
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

from workbench import interpret
from workbench.batch import Tokens
from workbench.dictionary import load, recipe, save, train
from workbench.harvest import Codes, Store, collect, encode
from workbench.site import Site

LENGTH, LATENTS, K = 128, 512, 16
STATUS = Path("/proc/self/status")


class Table:
    """A subject whose vectors are looked up."""

    name, fingerprint, dtype, special_ids = "table", "0" * 16, torch.bfloat16, frozenset[int]()

    def __init__(self, d: int) -> None:
        self.rows = torch.randn(1000, d, generator=torch.Generator().manual_seed(0))

    def tokenize(self, text: Any) -> Tokens:
        raise NotImplementedError("this subject takes token rows only")

    def width(self, site: Site | str) -> int:
        return self.rows.shape[1]

    def read(self, tokens: Tokens, sites: Sequence[Site | str]) -> dict[Site, Tensor]:
        return {Site.of(site): self.rows[tokens.ids] for site in sites}


Job = Callable[[int, int, Path], Callable[[], object]]  # rows, d, folder: what is measured, all it needs made before


def harvest(rows: int, d: int, home: Path) -> Callable[[], object]:
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, (rows // (LENGTH - 1) + 1, LENGTH), generator=random)
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    subject = Table(d)
    return lambda: collect(subject, tokens, "0.resid", rows=rows, batch=64, folder=home / "store", quiet=True)


def batches(rows: int, d: int, home: Path) -> Callable[[], object]:
    def work() -> None:
        for _ in Store.open(home / "store").batches(2048, seed=0):
            pass

    return work


def statistics(rows: int, d: int, home: Path) -> Callable[[], object]:
    return lambda: Store.open(home / "store").split()[0].mean("0.resid")


def training(rows: int, d: int, home: Path) -> Callable[[], object]:
    made = recipe("topk_auxk", d=d, latents=LATENTS, k=K)

    def work() -> None:
        stream = Store.open(home / "store").stream(2048, site="0.resid", epochs=1)
        save(train(made, stream, site="0.resid", progress=False), home / "dictionary")

    return work


def codes(rows: int, d: int, home: Path) -> Callable[[], object]:
    dictionary = load(home / "dictionary")
    return lambda: encode(Store.open(home / "store"), dictionary, home / "codes", quiet=True)


def columns(rows: int, d: int, home: Path) -> Callable[[], object]:
    """The index by latent, made and read."""
    return lambda: Codes.open(home / "codes").column(0)


def indexing(rows: int, d: int, home: Path) -> Callable[[], object]:
    store, dictionary, made = Store.open(home / "store"), load(home / "dictionary"), Codes.open(home / "codes")
    return lambda: interpret.index(dictionary, store, folder=home / "index", codes=made)


JOBS: dict[str, Job] = {
    "harvest": harvest,
    "batches": batches,
    "statistics": statistics,
    "training": training,
    "codes": codes,
    "columns": columns,
    "indexing": indexing,
}
NEEDS = {"codes": ["training"], "columns": ["training", "codes"], "indexing": ["training", "codes"]}


def private() -> int:
    """Bytes of private memory now."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def peak(work: Callable[[], object]) -> tuple[int, int]:
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
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--d", type=int, default=64)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--record", action="store_true", help="write docs/measurements/memory.json")
    parser.add_argument("--child", nargs=2, metavar=("JOB", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        job, folder = options.child
        before, highest = peak(JOBS[job](options.rows[0], options.d, Path(folder)))
        print(json.dumps({"before": before, "peak": highest}))
        return
    found: dict[str, dict[int, int]] = {job: {} for job in options.jobs}
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as home:
            needed = [need for job in options.jobs for need in NEEDS.get(job, [])]
            for job in [job for job in JOBS if job in {"harvest", *needed, *options.jobs}]:  # in the order they need
                call = [sys.executable, __file__, "--rows", str(rows), "--d", str(options.d), "--child", job, home]
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
        harvest = [f"workbench/harvest/{name}.py" for name in ("codes", "collect", "shards", "store", "tokens")]
        tested = [*harvest, "workbench/dictionary/training.py", "workbench/interpret/index.py", "bench/memory.py"]
        print(record("memory", " ".join(["python bench/memory.py", *sys.argv[1:]]), table, tested))


if __name__ == "__main__":
    main()

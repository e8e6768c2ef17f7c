"""Kill training at random moments, resume it, and hold the end against a run that nobody killed.

    python tests/torture_train.py --kills 40

Children are forked from one process that is warm, so a kill lands in the work and not in the imports.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import torch
from planted import Planted

from workbench import lineage
from workbench.dictionary import recipe, train

STREAM = Planted(d=24, atoms=40, on=3.0, rows=128, steps=60)
MOST = 5  # kills of one run, so that runs also end


def run(folder: Path) -> None:
    """Two recipes on one stream, with many checkpoints."""
    makes = [recipe("batch_topk", d=24, latents=96, k=4), recipe("jumprelu_target_l0", d=24, latents=64, k=4)]
    options = {"log_every": 2, "checkpoint_every": 3, "dead_after": 1000, "lr": 1e-2}
    train(makes, STREAM, site="1.resid", folder=folder, progress=False, **options)


def found(folder: Path) -> dict[str, object]:
    """Hashes of what a run left, and its log without the clock."""
    left: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"):
        name = str(path.relative_to(folder))
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            left[name] = [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]
        else:
            left[name] = lineage.file_hash(path)
    return left


def torture(kills: int, seed: int, home: Path) -> dict[str, float]:
    """Raises AssertionError when a resumed run differs from the whole one; counts kills, runs and seconds."""
    torch.set_num_threads(1)
    rng, began = random.Random(seed), time.monotonic()
    run(home / "whole")
    one = time.monotonic()
    run(home / "again")
    length, wanted = time.monotonic() - one, found(home / "whole")
    assert found(home / "again") == wanted, "two whole runs differ"
    killed = runs = 0
    while killed < kills:
        folder, here, runs = home / f"run_{runs}", 0, runs + 1
        while True:
            child = os.fork()
            if child == 0:
                try:
                    run(folder)
                    os._exit(0)
                except BaseException as error:
                    os.write(2, f"child: {type(error).__name__}: {error}\n".encode())
                    os._exit(1)
            if killed < kills and here < MOST:
                time.sleep(rng.uniform(0, 0.8 * length))
                os.kill(child, signal.SIGKILL)  # a child that is done stays until it is waited for
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                killed, here = killed + 1, here + 1
                continue
            assert os.waitstatus_to_exitcode(status) == 0, f"a run resumed after {here} kills failed"
            break
        left = found(folder)
        differ = sorted(name for name in {*wanted, *left} if left.get(name) != wanted.get(name))
        assert not differ, f"run {runs} differs after {here} kills: {differ}"
    return {"kills": killed, "runs": runs, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sys.stdout.write(f"training: {torture(given.kills, given.seed, Path(place))}, every resumed run equal\n")

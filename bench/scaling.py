"""How our training step grows: rows x10, latents x10, d x2, k x4, each alone, taken in turns.

    python bench/scaling.py [--rounds 6] [--threads 2] [--record]

An exponent is log(grown / base) / log(factor): 1 is linear, 0 does not grow. Memory is the peak above weights,
gradients and moments, each shape in a process of its own (bench/peers/feed.py).
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from peers.feed import Job
from record import record
from train_step import STEP, Runner, peak, show, summary, turns, write_rows

BASE = {"rows": 1024, "latents": 4096, "d": 256, "k": 16}
FACTORS = {"rows": 10, "latents": 10, "d": 2, "k": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="of three steps at each shape")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", default="sparse", choices=["sparse", "dense"])
    parser.add_argument("--record", action="store_true", help="write docs/measurements/scaling.json")
    args = parser.parse_args()
    grown = {"": BASE} | {f"{name} x{by}": BASE | {name: by * BASE[name]} for name, by in FACTORS.items()}
    with tempfile.TemporaryDirectory() as name:
        runners = []
        for i, shape in enumerate(grown.values()):
            file = Path(name) / f"{i}.safetensors"
            write_rows(file, shape["d"], 1024, 8 * shape["rows"])
            runners.append(Runner(args.way, Job(str(file), **shape, threads=args.threads), Path(name) / f"{i}.log"))
        turns(runners, 1, 1)  # to warm up
        answers = turns(runners, args.rounds, 3)
        for runner in runners:
            runner.close()
    table: list[dict[str, Any]] = []
    for (what, shape), own in zip(grown.items(), answers, strict=True):
        row = {"grown": what or "base"} | shape | {"ms": summary(own, shape["rows"])["ms"], "MB above state": peak(own)}
        if what:
            by = math.log(FACTORS[what.split()[0]])
            row["exponent of time"] = math.log(row["ms"] / table[0]["ms"]) / by
            row["exponent of memory"] = math.log(row["MB above state"] / table[0]["MB above state"]) / by
        table.append(row | {"way": args.way, "threads": args.threads})
        show(table[-1])
    if args.record:
        command = " ".join(["python bench/scaling.py", *sys.argv[1:]])
        print(record("scaling", command, table, [*STEP, "bench/scaling.py"]))


if __name__ == "__main__":
    main()

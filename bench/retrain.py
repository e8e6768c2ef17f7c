"""Train tiny subjects again with the seed and command of their card, and compare the qualities.

    python bench/retrain.py [NAME ...] [--jobs 2] [--record]

Each subject is trained by the command on its card into an empty folder, one thread each. `apart`: the new value less
that of the card, in points (hundredths of a share, or of the unit named). Rows are kept in --log as they come, so that
a run that was stopped goes on; delete the file to begin anew.
"""

import argparse
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from workbench import lineage
from workbench.testbeds import card, subject_names
from workbench.testbeds.subjects import make, task

TESTED = ["workbench/testbeds/core.py", "workbench/testbeds/models.py", "workbench/testbeds/worlds/*.py"]


def again(name: str, seed: int) -> list[dict[str, Any]]:
    """One row for each score on the card."""
    import torch

    torch.set_num_threads(1)
    old = card(name, seed)
    with tempfile.TemporaryDirectory() as folder:
        new = make(name, seed, bfloat16="--bfloat16" in old["command"], progress=False, folder=Path(folder))
    return [
        {
            "subject": name,
            "seed": seed,
            "metric": before["metric"],
            "card": before["value"],
            "again": after["value"],
            "apart": 100 * (after["value"] - before["value"]),
            "goal": before["goal"],
            "CPU s": new["cpu_seconds"],
        }
        for before, after in zip(old["quality"], new["quality"], strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=subject_names())
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--log", type=Path, default=lineage.cache() / "retrain.jsonl")
    parser.add_argument("--record", action="store_true", help="write docs/measurements/retrain.json")
    options = parser.parse_args()
    wanted = [(name, seed) for name in options.names for seed in task(name).seeds]
    wanted.sort(key=lambda one: -card(*one)["cpu_seconds"])  # the longest first
    rows = [json.loads(line) for line in options.log.read_text().splitlines()] if options.log.exists() else []
    done = {(row["subject"], row["seed"]) for row in rows}
    with ProcessPoolExecutor(options.jobs) as pool:
        jobs = [pool.submit(again, *one) for one in wanted if one not in done]
        for job in as_completed(jobs):
            for row in job.result():
                rows.append(row)
                with options.log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print("  ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
    rows.sort(key=lambda row: (row["subject"], row["seed"]))
    if options.record:
        record("retrain", " ".join(["python bench/retrain.py", *sys.argv[1:]]), rows, TESTED)
    if far := [row for row in rows if abs(row["apart"]) > 1]:
        sys.exit(f"{len(far)} scores are more than a point away from their card: {far}")


if __name__ == "__main__":
    main()

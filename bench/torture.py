"""Forty kills of a harvest, a hundred of a training, five hundred flipped bytes: `python bench/torture.py [--record]`.

Each script stops with an error when a resumed run differs by one byte, or a flip goes unseen.
"""

import argparse
import re
import subprocess
import sys
import time

from record import ROOT, record

PARTS = {
    "harvest": ("tests/torture_harvest.py", ["--kills", "40", "--flips", "500"]),
    "training": ("tests/torture_train.py", ["--kills", "100"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write docs/measurements/torture.json")
    given = parser.parse_args()
    rows = []
    for name, (script, arguments) in PARTS.items():
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, ROOT / script, *arguments], capture_output=True, text=True, check=False)
        print(done.stdout + done.stderr)
        if done.returncode:
            sys.exit(f"{name} failed")
        said = " ".join(re.sub(r"\s+", " ", line) for line in done.stdout.strip().splitlines())
        rows.append({"what": name, "asked": " ".join(arguments), "found": said, "seconds": time.perf_counter() - begin})
    if given.record:
        harvest = [f"workbench/harvest/{name}.py" for name in ("collect", "codes", "shards", "store", "tokens")]
        tested = [
            *harvest,
            "workbench/dictionary/*.py",
            "workbench/dictionary/kernels/*.py",
            "workbench/lineage.py",
            "workbench/code.py",
        ]
        print(record("torture", "python bench/torture.py --record", rows, tested))


if __name__ == "__main__":
    main()

"""Every owner's own code, asked again: does it write and compute what tests/golden holds, and load what we write?

    python bench/formats/parity.py [NAME ...] [--record]      docs/measurements/formats.json

Each owner runs in an environment of its own from its freeze, made once (about 2 GB each). Without a freeze of its own a
format stands on the formulas in its test.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "peers"), str(HERE.parents[1] / "tests")]

import golden  # noqa: E402
import install  # noqa: E402
import torch  # noqa: E402
from record import record  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

COMMAND = "python bench/formats/parity.py --record"
TESTED = ["workbench/dictionary/formats/*.py", "workbench/dictionary/*.py", "bench/formats/*.py", "bench/formats/*.txt"]
OWNERS = {  # distribution
    "sae_lens": "sae-lens",
    "sparsify": "eai-sparsify",
    "dictionary_learning": "dictionary-learning",
    "overcomplete": "overcomplete",
    "llamascopium": "llamascopium",
    "circuit_tracer": "circuit-tracer",
}


def environment(owner: str) -> Path:
    """The owner's Python, made if it is not there."""
    try:
        return install.python(owner)
    except FileNotFoundError:
        install.install(owner)
        return install.python(owner)


def version(owner: str) -> str:
    lines = install.freeze(owner).read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.lower().startswith(f"{OWNERS[owner]}=="))


def written_anew(owner: str) -> tuple[int, int]:
    """Cases that the owner writes, and how many of them hold what is stored: the same numbers to 1e-6."""
    with tempfile.TemporaryDirectory() as folder:
        script = HERE / f"golden_{owner}.py"
        plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"GOLDEN": folder, "OMP_NUM_THREADS": "1"}
        subprocess.run([environment(owner), script], check=True, env=plain, stdout=subprocess.DEVNULL)
        there = sorted(path.parent.name for path in Path(folder, owner).glob("*/expected.safetensors"))
        if there != golden.cases(owner):
            raise SystemExit(
                f"{owner} writes other cases than tests/golden holds: {set(there) ^ set(golden.cases(owner))}"
            )
        same = 0
        for case in there:
            now, kept = load_file(Path(folder, owner, case, "expected.safetensors")), golden.expected(owner, case)
            same += now.keys() == kept.keys() and all(
                torch.allclose(now[k], kept[k], rtol=1e-6, atol=1e-6) for k in kept
            )
        return len(there), same


def opened_by_them(owner: str) -> str:
    """What the owner says of the folders that we write: one line for each, none where we write none."""
    script = HERE / f"check_{owner}.py"
    if not script.is_file():
        return ""
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script.name} failed: {done.stdout[-400:]} {done.stderr[-400:]}")
    return f"{sum('not written' not in line for line in done.stdout.splitlines())} folders"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(OWNERS)}")
    asked.add_argument("--record", action="store_true", help="write docs/measurements/formats.json")
    given = asked.parse_args()
    rows = []
    for owner in given.names or OWNERS:
        cases, same = written_anew(owner)
        off = {"code": 0.0, "reconstruction": 0.0}
        for case in golden.cases(owner):
            for name, value in golden.apart(owner, case).items():
                off[name] = max(off[name], value)
        rows.append(
            {"owner": owner, "version": version(owner), "cases": cases, "as stored": same}
            | {f"{name}, largest difference": value for name, value in off.items()}
            | {"of ours opened by it": opened_by_them(owner)}
        )
        sys.stdout.write(f"{rows[-1]}\n")
    if given.record and not given.names:
        record("formats", COMMAND, rows, TESTED)


if __name__ == "__main__":
    main()

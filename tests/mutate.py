"""Plant bugs in a copy of the library, one at a time, and see the suites die: `python tests/mutate.py [NAME ...]`.

Exits with 1 when a bug survives. Each bug is one replaced text, the tests that must kill it beside it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Bug(NamedTuple):
    file: str  # under workbench/dictionary
    right: str
    wrong: str
    tests: str  # arguments of pytest


BUGS = {
    "AuxK is detached": Bug(
        "losses.py", "error = (z @ d.decoder", "error = (z.detach() @ d.decoder", "tests/test_losses.py -k auxk"
    ),
    "the decoder is transposed": Bug(
        "core.py",
        "return code.combine(self.weight, upto)",
        "return code.combine(self.weight.T.reshape(self.weight.shape), upto)",
        "tests/test_variants.py -k reconstructs",
    ),
    "the threshold is not saved": Bug(
        "sparsifiers.py",
        'self.register_buffer("threshold", torch.tensor(-1.0))',
        'self.register_buffer("threshold", torch.tensor(-1.0), persistent=False)',
        "tests/test_variants.py -k saved_and_loaded",
    ),
    "prefixes are off by one": Bug(
        "kernels/nested.py", "right=True)", "right=False)", "tests/test_kernels.py -k prefixes"
    ),
    "a straight-through gradient has the wrong sign": Bug(
        "sparsifiers.py",
        "-(theta / ctx.width) * torch.where",
        "(theta / ctx.width) * torch.where",
        "tests/test_losses.py -k jumprelu",
    ),
    "a pick forgets the dead columns": Bug(
        "kernels/pick.py",
        "spread.index_add_(0, columns, wide.T @ centred)",
        "pass",
        "tests/test_kernels.py -k every_output",
    ),
    "a pick is not centred": Bug(
        "kernels/pick.py",
        "centred = x if center is None else x - center",
        "centred = x",
        "tests/test_kernels.py -k every_output",
    ),
    "ties at a tile's edge are taken twice": Bug(
        "kernels/select.py", "values > edge, values", "values >= edge, values", "tests/test_kernels.py -k equal_latents"
    ),
    "the last tile is lost": Bug(
        "kernels/tile.py", "for i in range(0, max(rows, 1), step)", "for i in range(0, rows - step + 1, step)",
        "tests/test_kernels.py -k every_output",
    ),
    "a guess is taken for the choice": Bug(
        "sparsifiers.py", "if kept is None or len(kept.values) < count:", "if kept is None:",
        "tests/test_kernels.py -k looked_first",
    ),
}  # fmt: skip


def survives(bug: Bug, home: Path) -> bool:
    path = home / "workbench" / "dictionary" / bug.file
    text = path.read_text()
    if text.count(bug.right) < 1:
        raise SystemExit(f"{bug.file} no longer holds {bug.right!r}: mend tests/mutate.py")
    path.write_text(text.replace(bug.right, bug.wrong))
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *bug.tests.split(" ")],
            cwd=home, env=os.environ | {"PYTHONPATH": str(home)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        path.write_text(text)
    if ran.returncode not in (0, 1):  # 1: tests failed
        raise SystemExit(f"pytest did not run {bug.tests}:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    return ran.returncode == 0


def main() -> int:
    wanted = sys.argv[1:] or list(BUGS)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "copy"
        shutil.copytree(ROOT, home, ignore=shutil.ignore_patterns(".git", ".venv", "reports", "weights", "*.egg-info"))
        left = []
        for title in wanted:
            alive = survives(BUGS[title], home)
            left += [title] if alive else []
            sys.stdout.write(f"{'SURVIVES' if alive else 'killed'}: {title}\n")
            sys.stdout.flush()
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())

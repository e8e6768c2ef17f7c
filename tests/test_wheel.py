"""The built wheel, installed elsewhere, is whole."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*args, **more):
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=240, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_carries_its_data_and_its_doctor_runs(tmp_path):
    source = tmp_path / "source"  # a copy: building writes into the tree
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source))
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        name
        for name in tracked.split("\0")
        if name.startswith(("workbench/", "widgets/static/")) and not name.endswith((".py", ".md", ".gitkeep"))
    }
    assert not [name for name in inside if name.startswith(("widgets/src/", "widgets/node_modules/"))]
    assert shipped <= inside, f"not in the wheel: {sorted(shipped - inside)}"
    assert any(name.endswith("NOTICE") for name in inside)
    assert not [name for name in inside if name.startswith(("tests/", "bench/", "notebooks/"))]
    home = tmp_path / "home"
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(home), str(wheel))
    env = os.environ | {"PYTHONPATH": str(home), "WORKBENCH_CACHE": str(tmp_path / "cache")}
    where = run("-c", "import workbench; print(workbench.__file__)", env=env, cwd=tmp_path)
    assert where.strip().startswith(str(home))
    assert "torch" in run("-m", "workbench.cli", "doctor", env=env, cwd=tmp_path)

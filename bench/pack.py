"""The workshop's pack as a room gets it: made, installed into an empty place without a network, lesson 1 run from it.

    python bench/pack.py [--out FOLDER] [--platforms NAME ...] [--torch-index none] [--record]

Needs Linux with `unshare` and `ip` (a namespace with the loopback alone). With --out the folder is kept and mended;
without, it is made in a temporary one and seconds are those of a first pack.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from record import ROOT, record

from workbench import lineage
from workbench.circuits import export
from workbench.workshop.pack import GRAPH

TESTED = [f"workbench/workshop/{name}.py" for name in ("pack", "wheels", "install", "laptop")]
TESTED += ["bench/pack.py", "constraints.txt"]
ALONE = ["unshare", "-rn", "bash", "-c", 'ip link set lo up && exec "$@"', "--"]
LESSON = """
import sys, papermill
papermill.execute_notebook(sys.argv[1], sys.argv[2], progress_bar=False, cwd=sys.argv[3])
"""
LAB = """
import json, subprocess, sys, time, urllib.request
run = subprocess.Popen([sys.argv[1], "--no-browser", "--allow-root", "--port=18888", "--ServerApp.token=planted"])
for _ in range(240):
    time.sleep(0.5)
    try:
        page = urllib.request.urlopen("http://127.0.0.1:18888/lab?token=planted").read().decode()
        ask = "http://127.0.0.1:18888/api/contents?token=planted"
        names = [file["name"] for file in json.load(urllib.request.urlopen(ask))["content"]]
        break
    except OSError:
        assert run.poll() is None, "JupyterLab ended"
run.terminate()
run.wait()
assert "JupyterLab" in page and any(name.startswith("1_") for name in names), names
"""


def timed(call: Sequence[str], **more: Any) -> float:
    begin = time.perf_counter()
    done = subprocess.run(call, check=False, **more)
    if done.returncode:
        sys.exit(f"{' '.join(call[:8])} left with {done.returncode}")
    return time.perf_counter() - begin


def size(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="keep the pack here, or mend the one that is here")
    parser.add_argument("--platforms", nargs="+", default=["linux"])
    parser.add_argument("--lessons", nargs="+", default=[])
    parser.add_argument("--torch-index", default="")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=given.out and Path(given.out).parent) as temp:
        out = Path(given.out or Path(temp) / "pack")
        again = (out / "hashes.json").is_file()
        call = [sys.executable, "-m", "workbench.cli", "pack", "--out", str(out), "--instructor"]
        call += ["--platforms", *given.platforms, *(["--torch-index", given.torch_index] if given.torch_index else [])]
        call += ["--lessons", *given.lessons] if given.lessons else []
        for what in ["pack again, whole already"] if again else ["pack", "pack again, whole already"]:
            rows.append({"what": what, "seconds": round(timed(call, cwd=ROOT))})
        pack = lineage.read_json(out / "hashes.json")
        for name in ("wheels", "cache", "lessons"):
            inside = [f["bytes"] for path, f in pack["files"].items() if path.startswith(f"{name}/")]
            rows.append({"what": f"{name}: {len(inside)} files", "GB": round(sum(inside) / 1e9, 2)})
        rows.append({"what": f"all, for {', '.join(pack['platforms'])}", "GB": round(pack["bytes"] / 1e9, 2)})
        kinds = set(export.read(out / GRAPH).nodes.kind)
        assert {"latent", "error", "token", "logit"} <= kinds, f"the saved graph has {kinds} only"
        laptop, home = Path(temp) / "laptop", Path(temp) / "home"
        shutil.copytree(out, laptop, ignore=shutil.ignore_patterns("venv", "notebooks", "start.*"))
        home.mkdir()
        env = {"HOME": str(home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        inside = env | {"WORKBENCH_CACHE": str(laptop / "cache"), "HF_HUB_OFFLINE": "1"}
        base = Path(sys.base_prefix) / "bin" / "python3"
        venv = str(laptop / "venv" / "bin" / "python")
        refused = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"
        assert subprocess.run([*ALONE, str(base), "-c", refused], capture_output=True, check=False).returncode
        took = timed([*ALONE, str(base), str(laptop / "install.py")], env=env)
        rows.append({"what": "install.py with its doctor, network refused", "seconds": round(took)})
        rows.append({"what": "venv", "GB": round(size(laptop / "venv"), 2)})
        took = timed([*ALONE, str(base), str(laptop / "install.py")], env=env)
        rows.append({"what": "install.py again", "seconds": round(took)})
        solved = str(next((laptop / "notebooks" / "instructor").glob("1_*.ipynb")))
        lesson = [*ALONE, venv, "-c", LESSON, solved, str(Path(temp) / "done.ipynb"), str(laptop / "notebooks")]
        rows.append({"what": "lesson 1, solved, network refused", "seconds": round(timed(lesson, env=inside))})
        lab = [*ALONE, venv, "-c", LAB, str(laptop / "start.sh")]
        rows.append({"what": "JupyterLab by start.sh shows the lessons", "seconds": round(timed(lab, env=env))})
    rows.append({"what": "others' processes waiting or running (load)", "load": round(os.getloadavg()[1], 1)})
    for row in rows:
        print(row)
    if given.record:
        options = [
            f"--platforms {' '.join(given.platforms)}",
            *(["--lessons", *given.lessons] if given.lessons else []),
            *([f"--torch-index {given.torch_index}"] if given.torch_index else []),
        ]
        print(record("pack", " ".join(["python bench/pack.py", *options, "--record"]), rows, TESTED))


if __name__ == "__main__":
    main()

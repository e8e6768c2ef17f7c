"""Install the workshop from the folder that this file lies in: python3 install.py (Windows: py install.py).

No network and nothing but Python's standard library. It looks at Python, system, disk and every file's hash, makes
`venv`, installs from `wheels` alone, copies the lessons to `notebooks`, writes a start script and looks at the laptop.
Called again, it does what is left to do; your own notebooks are never overwritten.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (a learner's Python may be any)
    sys.exit("PROBLEM    this is Python " + sys.version.split()[0] + ": README.txt says which one the workshop needs")

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SYSTEMS = {  # as sys.platform and platform.machine() call them
    ("linux", "x86_64"): "linux",
    ("linux", "aarch64"): "linux-aarch64",
    ("darwin", "arm64"): "macos",
    ("win32", "amd64"): "windows",
}
INSTALLED = 3.0  # GB that the environment takes
DONE = "installed.json"  # in `venv`, written last
STARTS = {
    "start.sh": """#!/bin/sh
cd "$(dirname "$0")/notebooks" || exit 1
export WORKBENCH_CACHE="$(cd .. && pwd)/cache" HF_HUB_OFFLINE=1
exec ../venv/bin/python -m jupyterlab --ip=127.0.0.1 "$@"
""",
    "start.bat": """@echo off\r
cd /d "%~dp0notebooks" || exit /b 1\r
set "WORKBENCH_CACHE=%~dp0cache"\r
set HF_HUB_OFFLINE=1\r
"%~dp0venv\\Scripts\\python.exe" -m jupyterlab --ip=127.0.0.1 %*\r
""",
}
STARTS["start.command"] = STARTS["start.sh"]  # what a double click opens on macOS


class Stop(Exception):
    """One line for the learner."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def read(folder: Path) -> dict[str, Any]:
    """What hashes.json says of the pack."""
    path = folder / "hashes.json"
    if not path.is_file():
        raise Stop(f"{folder} is not whole: it has no hashes.json. Copy the folder again, or finish `workbench pack`")
    try:
        value = json.loads(path.read_bytes())
        body = {key: value[key] for key in value if key != "checksum"}
        sums = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        if hashlib.sha256(sums.encode()).hexdigest() != value["checksum"]:
            raise ValueError("its checksum does not fit")
    except (ValueError, KeyError, TypeError) as error:
        raise Stop(f"{path} is broken ({error}): copy the folder again") from None
    return value


def right_python(pack: dict[str, Any], version: Sequence[int], implementation: str = "cpython") -> None:
    """The pack has wheels for this Python."""
    least = pack["python"].get(f"{version[0]}.{version[1]}")
    this = ".".join(str(n) for n in version[:3])
    if implementation != "cpython" or least is None:
        have = " or ".join(pack["python"])
        raise Stop(f"this is {implementation} {this}, the pack is for Python {have}: start install.py with that one")
    if tuple(version[:3]) < tuple(int(n) for n in least.split(".")):
        raise Stop(f"this is Python {this}, the pack needs {least} or a later one of its kind: update Python")


def right_system(pack: dict[str, Any], system: str, machine: str) -> None:
    """The pack has wheels for this computer."""
    name = SYSTEMS.get((system, machine.lower()))
    if name not in pack["platforms"]:
        raise Stop(f"the pack is for {', '.join(pack['platforms'])}; this computer is {name or f'{system} {machine}'}")


def verify(folder: Path, pack: dict[str, Any]) -> None:
    """Every file of the pack is as it was packed."""
    bad = []
    for name, file in pack["files"].items():
        path = folder / name
        if not path.is_file():
            bad.append(f"{name} (missing)")
        elif path.stat().st_size != file["bytes"] or digest(path) != file["sha256"]:
            bad.append(f"{name} (changed)")
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise Stop(f"broken: {', '.join(bad[:5])}{more}. Copy the folder again, or call `workbench pack` on it again")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment(folder: Path) -> dict[str, str]:
    """The process environment, so that only this folder counts: its cache, no hub, nobody's pip settings or paths."""
    drop = ("PIP_", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_", "__PYVENV_LAUNCHER__")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(drop)}
    more = {"PIP_CONFIG_FILE": os.devnull, "PYTHONNOUSERSITE": "1", "HF_HUB_OFFLINE": "1"}
    return kept | more | {"WORKBENCH_CACHE": str(folder / "cache")}


def python(folder: Path) -> Path:
    return folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(folder: Path, pack: dict[str, Any]) -> None:
    """A fresh `venv` beside this file, with what `wheels` has; one that was finished from this pack is kept."""
    place, stamp = folder / "venv", digest(folder / "hashes.json")
    done = place / DONE
    if done.is_file() and done.read_text() == stamp and python(folder).exists():
        say("packages   installed already")
        return
    free = shutil.disk_usage(folder).free / 1e9
    if free < INSTALLED:
        raise Stop(f"{free:.1f} GB are free here, the environment takes {INSTALLED:.0f} GB: make room")
    say(f"packages   {len(pack['locked']) + 1} are installed into {place} (some minutes)")
    env = environment(folder)
    made = run([sys.executable, "-m", "venv", "--clear", str(place)], env)
    if made:
        hint = " On Debian and Ubuntu: apt install python3-venv" if "ensurepip" in made else ""
        raise Stop(f"{place} could not be made: {made.splitlines()[-1]}.{hint}")
    call = [str(python(folder)), "-m", "pip", "install", "--isolated", "--no-index", "--no-input", "--quiet"]
    call += ["--disable-pip-version-check", "--no-warn-script-location", "--find-links", str(folder / "wheels")]
    call += ["--constraint", str(folder / "locked.txt"), "--only-binary=:all:"]
    failed = run([*call, f"interp-workbench[lab]=={pack['version']}"], env)
    if failed:
        lines = [line for line in failed.splitlines() if "ERROR" in line] or failed.splitlines()
        raise Stop(f"pip could not install from wheels: {lines[0][:300]}")
    done.write_text(stamp)


def run(call: Sequence[str], env: dict[str, str]) -> str:
    """What a failed command said, or nothing."""
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=env)
    return (done.stdout + done.stderr).strip() or f"exit {done.returncode}" if done.returncode else ""


def lay_out(folder: Path, pack: dict[str, Any]) -> None:
    """Copy the lessons to `notebooks`: a notebook only where none is, what slow cells make wherever it differs."""
    for name, file in pack["files"].items():
        if not name.startswith("lessons/"):
            continue
        inside = name.removeprefix("lessons/")
        place = folder / "notebooks" / inside
        learner = inside.endswith(".ipynb") and place.exists()
        if not learner and not (place.is_file() and digest(place) == file["sha256"]):
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f".{place.name}.part")
            shutil.copyfile(folder / name, part)
            part.replace(place)


def starts(folder: Path, system: str) -> Path:
    """Write this system's start script."""
    path = folder / {"win32": "start.bat", "darwin": "start.command"}.get(system, "start.sh")
    path.write_bytes(STARTS[path.name].encode())
    path.chmod(0o755)
    return path


def main(folder: Path) -> int:
    try:
        pack = read(folder)
        right_python(pack, sys.version_info[:3], sys.implementation.name)
        right_system(pack, sys.platform, platform.machine())
        say(f"files      {len(pack['files'])} are compared with their hashes ({pack['bytes'] / 1e9:.1f} GB)")
        verify(folder, pack)
        install(folder, pack)
        lay_out(folder, pack)
        script = starts(folder, sys.platform)
    except Stop as problem:
        say(f"PROBLEM    {problem}")
        return 1
    call = [str(python(folder)), "-m", "workbench.cli", "doctor", "--workshop", str(folder)]
    looked = subprocess.run(call, check=False, env=environment(folder), cwd=folder / "notebooks").returncode
    say("" if looked == 0 else "\nInstalled, with the problems above.")
    say(f"Start:     {script}")
    say("It opens JupyterLab on this computer alone (127.0.0.1), in the folder notebooks.")
    return looked


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent))

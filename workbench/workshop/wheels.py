"""Wheels for other machines than this one: what a target needs, read off the wheels themselves, at locked versions.

pip evaluates markers such as `sys_platform == "win32"` for the machine it runs on. So it only fetches here, one named
version at a time; what is needed is found by walking the wheels' own metadata with the target's markers.
"""

import email
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import canonicalize_name, parse_wheel_filename

from .. import lineage

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index of builds without CUDA
OWN = "interp-workbench"
ALSO = {  # constraints.txt is frozen on Linux, without what venv brings: what other systems and torch need besides
    "appnope": "0.1.4",
    "colorama": "0.4.6",
    "pywinpty": "3.1.2",
    "setuptools": "84.2.1",
}
GPU = re.compile(r"(nvidia|cuda|triton|pytorch-triton)\b")
LATE = 99  # a patch release that every Requires-Python lets in
FETCHED = ".fetched.jsonl"  # name and SHA-256 of each file that was finished


@dataclass(frozen=True)
class Platform:
    """A kind of computer: pip's tags for it, what markers see there, and how to call it."""

    what: str
    tags: tuple[str, ...]
    markers: Mapping[str, str]
    own_torch: bool = False  # whether the usual index's torch brings CUDA there


def _linux(machine: str) -> tuple[str, ...]:
    """Down from glibc 2.28 (Debian 10, Ubuntu 20.04, RHEL 8)."""
    old = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"} if machine == "x86_64" else {17: "manylinux2014"}
    tags = []
    for minor in range(28, min(old) - 1, -1):
        tags += [f"manylinux_2_{minor}_{machine}", *([f"{old[minor]}_{machine}"] if minor in old else [])]
    return (*tags, f"linux_{machine}")


def _markers(os_name: str, sys_platform: str, system: str, machine: str) -> dict[str, str]:
    return {"os_name": os_name, "sys_platform": sys_platform, "platform_system": system, "platform_machine": machine}


PLATFORMS = {
    "linux": Platform("Linux, x86_64", _linux("x86_64"), _markers("posix", "linux", "Linux", "x86_64"), True),
    "linux-aarch64": Platform(
        "Linux, aarch64", _linux("aarch64"), _markers("posix", "linux", "Linux", "aarch64"), True
    ),
    "macos": Platform(
        "macOS 14 or later, Apple silicon",
        tuple(mac_platforms((14, 0), "arm64")),
        _markers("posix", "darwin", "Darwin", "arm64"),
    ),
    "windows": Platform("Windows, 64 bit", ("win_amd64",), _markers("nt", "win32", "Windows", "AMD64")),
}


@dataclass(frozen=True)
class Target:
    """Who a wheel is for: a platform by name and a Python such as "3.12"."""

    platform: str
    python: str

    def __str__(self) -> str:
        return f"{PLATFORMS[self.platform].what}, Python {self.python}"

    @property
    def abi(self) -> str:
        return "cp" + self.python.replace(".", "")

    def environments(self) -> list[dict[str, str]]:
        """What markers see there. A learner's patch release is not known: the first, and a late one."""
        base = {
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_version": "",
            "python_version": self.python,
            **PLATFORMS[self.platform].markers,
        }
        fulls = (f"{self.python}.0", f"{self.python}.{LATE}")
        return [base | {"python_full_version": full, "implementation_version": full} for full in fulls]

    def applies(self, marker: Marker | None, extras: Iterable[str] = ()) -> bool:
        chosen = ["", *extras]
        return marker is None or any(marker.evaluate(e | {"extra": x}) for e in self.environments() for x in chosen)

    def fits(self) -> frozenset[Tag]:
        version, tags = tuple(int(n) for n in self.python.split(".")), PLATFORMS[self.platform].tags
        found = cpython_tags(version, [self.abi], tags)
        return frozenset([*found, *compatible_tags(version, self.abi, tags)])


def pins(text: str) -> dict[str, str]:
    """Versions by name, of lines `name==version`, with those that other systems need besides."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if bad := [line for line in lines if "==" not in line]:
        raise ValueError(f"constraints.txt must pin every package by `==`: {bad[0]!r} does not")
    return ALSO | {str(canonicalize_name(line.partition("==")[0])): line.partition("==")[2] for line in lines}


def metadata(wheel: Path) -> Message:
    """A wheel's own metadata. Raises ValueError for a file that is no whole wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
            return email.message_from_bytes(archive.read(name))
    except (zipfile.BadZipFile, StopIteration) as error:
        raise ValueError(f"{wheel} is no whole wheel: delete it and pack again") from error


def requires(wheel: Path) -> list[Requirement]:
    return [Requirement(line) for line in metadata(wheel).get_all("Requires-Dist") or []]


def least_python(wheels: Iterable[Path], python: str) -> str:
    """The first patch release of a Python that all these wheels allow: "3.11.5"."""
    wanted = [(path, SpecifierSet(metadata(path)["Requires-Python"] or "")) for path in wheels]
    for patch in range(LATE):
        if all(spec.contains(f"{python}.{patch}") for _, spec in wanted):
            return f"{python}.{patch}"
    path, spec = next((path, spec) for path, spec in wanted if not spec.contains(f"{python}.{LATE}"))
    raise ValueError(f"{path.name} wants Python {spec}, not {python}: choose another --python")


def known(folder: Path) -> dict[str, str]:
    """SHA-256 by path of the files that were finished in a pack, as its log says; a line cut by a kill says nothing."""
    import json

    found, log = {}, folder / FETCHED
    for line in log.read_text(errors="replace").splitlines() if log.is_file() else ():
        try:
            row = json.loads(line)
            found[row["file"]] = row["sha256"]
        except (ValueError, KeyError, TypeError):
            continue
    return found


def keep(folder: Path, path: Path) -> None:
    """Note a finished file of the pack."""
    lineage.append(folder / FETCHED, {"file": path.relative_to(folder).as_posix(), "sha256": lineage.file_hash(path)})


@dataclass
class Shelf:
    """The folder of wheels inside a pack, the locked versions, and where torch for Linux comes from."""

    folder: Path  # the pack
    pins: Mapping[str, str]
    torch_index: str | None = TORCH_INDEX  # None: pip's own
    say: Callable[[str], None] = print
    fetched: list[Path] = field(default_factory=list)

    @property
    def wheels(self) -> Path:
        return self.folder / "wheels"

    def sweep(self) -> int:
        """Drop what no finished fetch left, or what was changed since; how many whole wheels are there."""
        sums = known(self.folder)
        for path in sorted(self.wheels.glob("*")):
            if sums.get(f"wheels/{path.name}") != lineage.file_hash(path):
                self.say(f"wheels/{path.name} is not what was fetched: it is fetched again")
                path.unlink()
        return len(list(self.wheels.glob("*.whl")))

    def find(self, name: str, target: Target) -> Path | None:
        """The wheel on the shelf that the target would take."""
        fits, wanted = target.fits(), SpecifierSet(f"=={self.pins[name]}")
        for path in sorted(self.wheels.glob("*.whl")):
            package, version, _, tags = parse_wheel_filename(path.name)
            if package == name and wanted.contains(version, prereleases=True) and tags & fits:
                return path
        return None

    def whole(self, own: Path, extras: Iterable[str], target: Target) -> list[Path]:
        """Every wheel that `own` with its extras needs on the target, fetched where it is not on the shelf.

        Raises ValueError for what is not locked, a lock that does not satisfy a wheel, a package without a wheel, and
        CUDA packages; ConnectionError when the index cannot be reached.
        """
        have, asked = {OWN: own}, {OWN: set(extras)}
        todo = set(asked)
        while todo:
            wanted: dict[str, set[str]] = {}
            for name in sorted(todo):
                for need in requires(have[name]):
                    if target.applies(need.marker, asked[name]):
                        self._allow(need, name, target)
                        wanted.setdefault(canonicalize_name(need.name), set()).update(need.extras)
            todo = {name for name, more in wanted.items() if name not in asked or more - asked[name]}
            for name in todo:
                asked[name] = asked.get(name, set()) | wanted[name]
            new = sorted(todo - set(have))
            have |= self._shelve(new, target)
        return [have[name] for name in sorted(have)]

    def _allow(self, need: Requirement, by: str, target: Target) -> None:
        name = canonicalize_name(need.name)
        if GPU.match(name):
            raise ValueError(
                f"{by} for {target} wants {name}, CUDA packages of gigabytes: a workshop runs on CPUs, take the CPU "
                f"build of torch (--torch-index {TORCH_INDEX})"
            )
        if name not in self.pins:
            raise ValueError(
                f"{by} for {target} wants {name}, which has no locked version: add it to constraints.txt, or to ALSO "
                "in workbench/workshop/wheels.py if only that system needs it"
            )
        if not need.specifier.contains(self.pins[name], prereleases=True):
            raise ValueError(f"{by} for {target} wants {name}{need.specifier}, locked is {self.pins[name]}")

    def _shelve(self, names: Sequence[str], target: Target) -> dict[str, Path]:
        found = {name: path for name in names if (path := self.find(name, target))}
        missing = [name for name in names if name not in found]
        apart = [name for name in missing if name == "torch" and PLATFORMS[target.platform].own_torch]
        for some, index in ((apart, self.torch_index), ([n for n in missing if n not in apart], None)):
            if some:
                self._fetch(some, target, index)
        for name in missing:
            path = self.find(name, target)
            if path is None:
                raise ValueError(f"pip fetched no wheel of {name} {self.pins[name]} that fits {target}")
            if name in apart:
                self._refuse_gpu(path, target)
            found[name] = path
        return found

    def _refuse_gpu(self, torch: Path, target: Target) -> None:
        """A CUDA build is not kept."""
        try:
            for need in requires(torch):
                if target.applies(need.marker):
                    self._allow(need, "torch", target)
        except ValueError:
            torch.unlink()
            raise

    def _fetch(self, names: Sequence[str], target: Target, index: str | None) -> None:
        """Into a folder beside the shelf, then onto it: a wheel there is whole."""
        self.say(f"  {target}: fetching {len(names)}: {', '.join(names)}")
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".part-") as part:
            failed = self._pip([f"{name}=={self.pins[name]}" for name in names], Path(part), target, index)
            if failed:
                bad = {}
                for name in names:  # which of them
                    one = f"{name}=={self.pins[name]}"
                    if why := self._pip([one], Path(part), target, index):
                        bad[name] = why
                self._take(Path(part))
                self._explain(bad, target, index)
            self._take(Path(part))

    def _take(self, part: Path) -> None:
        self.wheels.mkdir(exist_ok=True)
        for path in sorted(part.glob("*.whl")):
            place = self.wheels / path.name
            shutil.move(path, place)
            keep(self.folder, place)
            self.fetched.append(place)

    def _pip(self, wanted: Sequence[str], into: Path, target: Target, index: str | None) -> str:
        """pip's complaint, or nothing."""
        call = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
        call += ["--disable-pip-version-check", f"--dest={into}", f"--python-version={target.python}.{LATE}"]
        call += ["--implementation=cp", f"--abi={target.abi}"]
        call += [f"--platform={tag}" for tag in PLATFORMS[target.platform].tags]
        call += [f"--index-url={index}"] if index else []
        done = subprocess.run([*call, *wanted], capture_output=True, text=True, check=False)
        return (done.stderr.strip() or f"exit {done.returncode}") if done.returncode else ""

    def _explain(self, bad: Mapping[str, str], target: Target, index: str | None) -> None:
        """Raise one line for packages that pip could not bring."""
        if not bad:
            return  # the second time it went through
        where = index or "pip's index"
        offline = re.compile(r"connection|resolve|timed out|timeout|network is unreachable", re.IGNORECASE)
        if why := next((why for why in bad.values() if offline.search(why)), None):
            last = why.splitlines()[0].strip()
            raise ConnectionError(
                f"{where} could not be reached for {', '.join(bad)}: {last[:160]}. What was fetched is kept: pack again"
            )
        named = []
        for name in bad:
            said = "only its source is there" if _has_source(name, self.pins[name], index) else "nothing is there"
            named.append(f"{name} {self.pins[name]} ({said})")
        raise ValueError(
            f"{where} has no wheel for {target} of: {', '.join(named)}. Choose other --python or --platforms"
            + (" or --torch-index" if "torch" in bad else "")
        )


def _has_source(name: str, version: str, index: str | None) -> bool:
    """Whether the index has that version in any form; asked only of what has no wheel for a target."""
    call = [sys.executable, "-m", "pip", "index", "versions", "--pre", "--disable-pip-version-check", name]
    done = subprocess.run(
        [*call, *([f"--index-url={index}"] if index else [])], capture_output=True, text=True, check=False
    )
    return version in re.split(r"[\s,()]+", done.stdout)


def build(source: Path, into: Path) -> Path:
    """Our own wheel from a checkout as it stands, the same bytes from the same files; the tree is left alone."""
    with tempfile.TemporaryDirectory() as temp:
        copy = Path(temp) / "source"
        ignore = shutil.ignore_patterns("__pycache__", "node_modules", "src", "*.egg-info")
        for name in ("workbench", "widgets"):
            shutil.copytree(source / name, copy / name, ignore=ignore)
        for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
            shutil.copyfile(source / name, copy / name)
        call = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
        done = subprocess.run(
            [*call, "--disable-pip-version-check", f"--wheel-dir={temp}", str(copy)],
            capture_output=True, text=True, check=False, env=os.environ | {"SOURCE_DATE_EPOCH": "315532800"},
        )  # fmt: skip
        made = list(Path(temp).glob("*.whl"))
        if done.returncode or len(made) != 1:
            last = (done.stderr.strip().splitlines() or ["pip wheel failed"])[-1]
            raise ValueError(f"the wheel of {source} could not be built: {last}")
        into.mkdir(parents=True, exist_ok=True)
        for old in into.glob("interp_workbench-*.whl"):
            old.unlink()
        shutil.move(made[0], into / made[0].name)
    return into / made[0].name

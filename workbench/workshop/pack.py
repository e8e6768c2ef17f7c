"""One folder for a room with bad Wi-Fi: wheels, the subject, lessons, a saved graph, hashes, a script that installs.

    workbench pack --out pack --platforms linux macos windows --python 3.12

Made in a checkout: the lock (constraints.txt), the solved lessons and the sources of our own wheel are there, and not
in what pip installs. `hashes.json` is written last and removed first, so a folder that has it is whole.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import lineage, testbeds
from ..circuits import export
from ..circuits.tracers import transcoder
from ..dictionary import recipe, train
from ..harvest import Live, corpora
from ..subject import offline
from .build import build, code
from .wheels import OWN, PLATFORMS, TORCH_INDEX, Shelf, Target, keep, known, least_python, pins
from .wheels import build as build_wheel

HASHES, LOCK = "hashes.json", "locked.txt"
NEEDED = ("constraints.txt", "pyproject.toml", "workbench", "widgets", "README.md", "LICENSE", "NOTICE")
SUBJECT = "smollm2-135m"  # what every room gets, whichever lessons come along
PROMPT = "The old man went to the sea, and the"
GRAPH = "lessons/graphs/tiny_text_gelu.json"
OF_WHEELS = {
    "linux": 0.53,
    "linux-aarch64": 0.49,
    "macos": 0.37,
    "windows": 0.4,
}  # GB for one Python; aarch64 is a guess, the others were measured
OF_SUBJECT = 0.55  # GB
INSTALLED = 3.0  # GB to ask for beside the wheels; bench/pack.py says what it takes
QUOTED = re.compile(r"""["']([\w.-]+)["']""")
README = """Workshop: open a language model, without a network.
1. Copy this folder to your disk (not only a link to the stick). You need {pythons} on {systems}, 8 GB of memory, {gb:.0f} GB of disk.
2. In a terminal, in this folder: python3 install.py   (Windows: py install.py). It takes some minutes and asks nothing.
3. Start JupyterLab with the script that the installation names, and open the first notebook. Trouble? Show its last line to your teacher.
"""  # noqa: E501 (a line of the file is a line here)


def pack(
    out: Path | str,
    *,
    platforms: Sequence[str] = ("linux", "macos", "windows"),
    pythons: Sequence[str] = (),
    lessons: Sequence[int] = (),
    masters: Path | str = "notebooks/workshop",
    source: Path | str = ".",
    torch_index: str | None = TORCH_INDEX,
    instructor: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Make the folder, or mend it: only what is missing or changed is fetched. Returns what hashes.json says.

    `pythons` as "3.12", this one's unless given; `lessons` by number, all unless given; `torch_index` None: pip's own
    index, also for Linux. Raises ValueError for what cannot be packed, ConnectionError when an index is out of reach.
    """
    out, source = Path(out), Path(source)
    pythons = tuple(pythons) or (f"{sys.version_info[0]}.{sys.version_info[1]}",)
    targets = _targets(platforms, pythons)
    if gone := [name for name in NEEDED if not (source / name).exists()]:
        raise ValueError(f"{source.resolve()} has no {gone[0]}: call `workbench pack` in a checkout of the project")
    chosen = _chosen(Path(masters), lessons)
    locked = pins((source / "constraints.txt").read_text())
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not (out / ".pack.lock").exists():
        raise ValueError(f"{out} holds other files: give --out an empty or a new folder")
    _room(out, targets, say)
    try:
        with FileLock(out / ".pack.lock", timeout=0):
            return _pack(out, source, targets, locked, chosen, torch_index, instructor, say)
    except Timeout:
        raise ValueError(f"another `workbench pack` writes into {out}: wait for it") from None


def _targets(platforms: Sequence[str], pythons: Sequence[str]) -> list[Target]:
    if bad := [name for name in platforms if name not in PLATFORMS]:
        raise ValueError(f"no platform is called {bad[0]!r}: there are {', '.join(PLATFORMS)}")
    if bad := [name for name in pythons if not re.fullmatch(r"3\.(1[1-9]|[2-9]\d)", name)]:
        raise ValueError(f"--python wants versions such as 3.12, from 3.11 on, got {bad[0]!r}")
    if not platforms:
        raise ValueError(f"no platform was given: there are {', '.join(PLATFORMS)}")
    return [Target(platform, python) for platform in dict.fromkeys(platforms) for python in dict.fromkeys(pythons)]


def _chosen(masters: Path, lessons: Sequence[int]) -> list[Path]:
    found = {int(p.stem.partition("_")[0]): p for p in sorted(masters.glob("[0-9]*_*.ipynb"))}
    if not found:
        raise ValueError(f"{masters} has no lesson (such as 1_name.ipynb): give the folder of the solved notebooks")
    if bad := [n for n in lessons if n not in found]:
        raise ValueError(f"there is no lesson {bad[0]} in {masters}: choose from {', '.join(map(str, found))}")
    return [path for number, path in found.items() if not lessons or number in lessons]


def _room(out: Path, targets: Sequence[Target], say: Callable[[str], None]) -> None:
    """How large it gets, and whether there is room for it."""
    expected = sum(OF_WHEELS[target.platform] for target in targets) + OF_SUBJECT
    there = sum(path.stat().st_size for path in out.rglob("*") if _carried(path, out)) / 1e9
    free = shutil.disk_usage(out).free / 1e9
    say(f"{out}: about {expected:.1f} GB ({there:.1f} GB are there, {free:.0f} GB are free)")
    if expected - there > free:
        raise ValueError(f"{out} would take about {expected:.1f} GB, {free:.1f} GB are free: give another --out")


def _pack(
    out: Path,
    source: Path,
    targets: Sequence[Target],
    locked: dict[str, str],
    chosen: Sequence[Path],
    torch_index: str | None,
    instructor: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    subjects = _subjects(chosen)
    (out / HASHES).unlink(missing_ok=True)
    for left in out.glob(".part-*"):  # of a killed process
        shutil.rmtree(left)
    shelf = Shelf(out, locked, torch_index, say)
    (out / "wheels").mkdir(exist_ok=True)
    say(f"wheels: {shelf.sweep()} are there")
    own = build_wheel(source, out / "wheels")
    keep(out, own)
    needed: dict[Target, list[Path]] = {}
    for target in targets:
        needed[target] = shelf.whole(own, ["lab"], target)
        size = sum(path.stat().st_size for path in needed[target]) / 1e9
        say(f"wheels: {target}: {len(needed[target])}, {size:.2f} GB")
    wanted = {path.name for paths in needed.values() for path in paths}
    for path in (out / "wheels").iterdir():
        if path.name not in wanted:
            path.unlink()
    least = {
        python: least_python({p for t, paths in needed.items() if t.python == python for p in paths}, python)
        for python in dict.fromkeys(target.python for target in targets)
    }
    for name in subjects:
        _subject(name, out, say)
    for old in (out / "cache" / "models").iterdir():
        if old.is_dir() and old.name not in subjects:
            shutil.rmtree(old)
    _lessons(out, chosen, instructor, say)
    _graph(out, say)
    return _finish(out, source, needed, locked, least, chosen, subjects)


def _subjects(chosen: Iterable[Path]) -> list[str]:
    """Named models that the lessons' cells and checks speak of. Raises ValueError for a corpus that is not shipped."""
    import nbformat

    texts = []
    for path in chosen:
        number = path.stem.partition("_")[0]
        checks = Path(__file__).parent / f"lesson_{number}.py"
        lesson = "\n".join(code(nbformat.read(path, 4))) + (checks.read_text() if checks.is_file() else "")
        for name in re.findall(r"""corpus\(\s*["']([\w.-]+)["']""", lesson):
            if name in corpora.TARBALLS:
                raise ValueError(f"{path.name} reads the corpus {name!r}, which is fetched: a pack carries 'pack' only")
        texts.append(lesson)
    named = set(QUOTED.findall("\n".join(texts)))
    return [name for name in offline.NAMES if name in named or name == SUBJECT]


def _subject(name: str, out: Path, say: Callable[[str], None]) -> None:
    """The verified model folder, in the pack's own cache, where `wb.Subject(name)` looks when WORKBENCH_CACHE is it."""
    place = out / "cache" / "models" / name
    source = offline.folder(name)
    manifest = source / "manifest.json"
    files = lineage.read_json(manifest)["files"] | {"manifest.json": lineage.file_hash(manifest)}
    if place.is_dir() and all((place / f).is_file() and lineage.file_hash(place / f) == files[f] for f in files):
        say(f"subject: {name} is there")
        return
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".part-") as part:
        for file, digest in files.items():
            copy = Path(part) / name / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, copy)
            if lineage.file_hash(copy) != digest:
                raise ValueError(f"{copy} is not what was copied: is the disk sound?")
        (Path(part) / name).rename(place)
    say(f"subject: {name}, {sum(path.stat().st_size for path in place.rglob('*')) / 1e9:.2f} GB")


def _lessons(out: Path, chosen: Sequence[Path], instructor: bool, say: Callable[[str], None]) -> None:
    """Student notebooks, hand-outs and what slow cells make; solved lessons and notes for who teaches, if asked."""
    place, sums = out / "lessons", known(out)
    for stale in [*place.glob("*.ipynb"), *place.glob("*.json")]:
        stale.unlink()
    for folder in (place / "handout", place / "instructor"):
        shutil.rmtree(folder, ignore_errors=True)
    for made in place.glob("catch_up/*"):  # kept if every file is as it was finished
        files = {path.relative_to(out).as_posix(): path for path in made.rglob("*") if path.is_file()}
        before = {name for name in sums if name.startswith(f"lessons/catch_up/{made.name}/")}
        if before != set(files) or any(sums[name] != lineage.file_hash(path) for name, path in files.items()):
            shutil.rmtree(made)
    say(f"lessons: {len(chosen)}, with what their slow cells make")
    with tempfile.TemporaryDirectory(dir=out, prefix=".part-") as part:
        for path in chosen:
            shutil.copyfile(path, Path(part) / path.name)
        build(part, place)
        shutil.copytree(part, place / "instructor", dirs_exist_ok=True)
    if not instructor:
        shutil.rmtree(place / "instructor")
    (place / "built.json").unlink()
    for path in sorted(place.glob("catch_up/*/**/*")):
        if path.is_file():
            keep(out, path)


def _graph(out: Path, say: Callable[[str], None]) -> None:
    """A pruned attribution graph of a tiny subject by two trained transcoders, as Neuronpedia's JSON."""
    place = out / GRAPH
    if place.is_file() and known(out).get(GRAPH) == lineage.file_hash(place):
        say("graph: it is there")
        return
    lineage.write(place, graph())
    keep(out, place)
    say(f"graph: {place.stat().st_size / 1e3:.0f} kB")


def graph(steps: int = 40) -> bytes:
    """Of a two-layer subject on one line of text, by transcoders of 128 latents trained for some seconds."""
    subject = testbeds.subject("tiny_text_gelu")
    texts, trained = corpora.corpus("pack").texts[:200], {}
    for layer in range(subject.layers):
        site = f"{layer}.mlp_in"
        stream = Live(subject, texts, site=site, target=f"{layer}.mlp_out", steps=steps, batch=8, length=128)
        parts = recipe("skip_transcoder", d=subject.d, latents=128, k=16)
        trained[layer] = train(parts, stream, site=site, progress=False)
    found = transcoder.trace(subject, PROMPT, trained, progress=False).prune(1.0, most=150)
    tokens = [subject.tokenizer.decode([i]) for i in subject.tokenizer(PROMPT)["input_ids"]]
    value = export.to_json(found, slug="tiny_text_gelu", prompt_tokens=tokens)
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _finish(
    out: Path,
    source: Path,
    needed: dict[Target, list[Path]],
    locked: dict[str, str],
    least: dict[str, str],
    chosen: Sequence[Path],
    subjects: Sequence[str],
) -> dict[str, Any]:
    from packaging.utils import parse_wheel_filename

    names = {parse_wheel_filename(path.name)[0] for paths in needed.values() for path in paths}
    lines = [f"{name}=={locked[name]}" for name in sorted(names) if name != OWN]
    lineage.write(out / LOCK, ("\n".join(lines) + "\n").encode())
    lineage.write(out / "install.py", (Path(__file__).parent / "install.py").read_bytes())
    sizes = {str(target.platform): 0.0 for target in needed}
    for target, paths in needed.items():
        sizes[target.platform] = max(sizes[target.platform], sum(path.stat().st_size for path in paths) / 1e9)
    text = README.format(
        pythons=" or ".join(
            f"Python {python}" + (f" ({full} or later)" if not full.endswith(".0") else "")
            for python, full in least.items()
        ),
        systems=", ".join(PLATFORMS[name].what for name in sizes),
        gb=INSTALLED + 1,
    )
    lineage.write(out / "README.txt", text.encode())
    paths = [path for path in sorted(out.rglob("*")) if _carried(path, out)]
    files = {
        path.relative_to(out).as_posix(): {"sha256": lineage.file_hash(path), "bytes": path.stat().st_size}
        for path in paths
    }
    value = {
        "what": "workshop pack",
        "version": lineage.versions()[OWN],
        "platforms": list(sizes),
        "python": least,
        "subjects": list(subjects),
        "lessons": [path.stem for path in chosen],
        "locked": {name: locked[name] for name in sorted(names) if name != OWN},
        "bytes": sum(file["bytes"] for file in files.values()),
        "files": files,
    }
    lineage.write_json(out / HASHES, value)
    return value


def _carried(path: Path, out: Path) -> bool:
    """Whether a file belongs to the pack: not its log, nor what an installation made beside it."""
    first = path.relative_to(out).parts[0]
    return path.is_file() and path.name[0] != "." and (first in MADE or first in ("wheels", "cache", "lessons"))


MADE = (LOCK, "install.py", "README.txt")

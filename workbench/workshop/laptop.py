"""Is a learner's laptop fit for the workshop? One line an item: `ok`, or `PROBLEM` and what to do."""

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import Any, NamedTuple

from .. import lineage

MEMORY, DISK = 8.0, 2.0  # GB
# processor seconds of one thread, machine of docs/workshop.md; `python -m workbench.workshop.laptop` measures them
PRODUCT, FORWARD = 0.22, 0.43
SLOW = 3.0  # times that: cells of a minute then take three
TOKENS = 128
OWN = "interp-workbench"

Fits = Callable[[str], bool]  # a version


class Item(NamedTuple):
    """One thing that was looked at. `todo` is empty where it is well."""

    name: str
    said: str
    todo: str = ""

    def __str__(self) -> str:
        mark = f"PROBLEM {self.name:<10}" if self.todo else f"ok      {self.name:<10}"
        return f"{mark} {self.said}" + (f": {self.todo}" if self.todo else "")


def examine(folder: Path | str | None = None) -> dict[str, Any]:
    """What was found, and `problems` by name. `folder`: the pack; unless given, the one that the cache lies in.

    Without a pack the packages are compared with what the project asks for, and no lessons are looked for. Raises
    ValueError when `folder` is no whole pack.
    """
    place = Path(folder) if folder is not None else lineage.cache().parent
    if folder is not None and not (place / "hashes.json").is_file():
        raise ValueError(f"{place} is no pack: it has no hashes.json")
    pack = lineage.read_json(place / "hashes.json") if (place / "hashes.json").is_file() else None
    looks: list[Callable[[], Item]] = [
        lambda: python(pack),
        memory,
        lambda: disk(lineage.cache()),
        cores,
        lambda: packages(pack["locked"] if pack else None),
        widgets,
        *(lambda name=name: subject(name) for name in (pack["subjects"] if pack else ["smollm2-135m"])),
        *([lambda: lessons(place, pack)] if pack else []),
        speed,
        picture,
    ]
    items = [look() for look in looks]
    return {
        "pack": str(place) if pack else None,
        "items": [item._asdict() for item in items],
        "problems": [item.name for item in items if item.todo],
    }


def tell(facts: Mapping[str, Any]) -> str:
    lines = [str(Item(**item)) for item in facts["items"]]
    count = len(facts["problems"])
    return "\n".join([*lines, "all well" if not count else f"{count} problem{'s' if count > 1 else ''}"])


def python(pack: Mapping[str, Any] | None) -> Item:
    this = ".".join(str(n) for n in sys.version_info[:3])
    if pack is not None:
        least = pack["python"].get(f"{sys.version_info[0]}.{sys.version_info[1]}")
        if least is None or sys.version_info[:3] < tuple(int(n) for n in least.split(".")):
            wanted = " or ".join(pack["python"].values())
            return Item("python", this, f"the pack is for {wanted} and what follows it: run install.py with that one")
    return Item("python", f"{this}, {sys.prefix}")


def memory() -> Item:
    import psutil

    seen = psutil.virtual_memory()
    total, free = seen.total / 1e9, seen.available / 1e9
    said = f"{total:.1f} GB, {free:.1f} GB free"
    if total < 0.93 * MEMORY:  # some of what is sold is not shown
        return Item("memory", said, f"the lessons need {MEMORY:.0f} GB: share a laptop for lessons with the model")
    if free < 3:
        return Item("memory", said, "close other programs: a lesson takes up to 3 GB")
    return Item("memory", said)


def disk(cache: Path) -> Item:
    existing = next(p for p in [cache, *cache.absolute().parents] if p.exists())
    free = shutil.disk_usage(existing).free / 1e9
    todo = "" if free >= DISK else f"lessons write up to {DISK:.0f} GB: make room"
    return Item("disk", f"{free:.1f} GB free at {existing}", todo)


def cores() -> Item:
    count = os.cpu_count() or 1
    return Item("cores", str(count), "" if count >= 2 else "the lessons are planned for two: they will be slow")


def packages(locked: Mapping[str, str] | None) -> Item:
    """The pack's versions, or without a pack what the project asks for."""
    bad, count = [], 0
    for name, wanted in _applying(locked) if locked is not None else _asked():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = None
        count += 1
        if found is None:
            bad.append(f"{name} is missing")
        elif not wanted(found):
            bad.append(f"{name} is {found}")
    if bad:
        more = f" and {len(bad) - 4} more" if len(bad) > 4 else ""
        todo = "delete venv and run install.py again" if locked else f"pip install '{OWN}[lab]'"
        return Item("packages", f"{', '.join(bad[:4])}{more}", todo)
    return Item("packages", f"{count} at the {'locked' if locked else 'wanted'} versions")


def _asked() -> Iterator[tuple[str, Fits]]:
    """Packages that the project asks for here, with its extra `lab`."""
    from packaging.requirements import Requirement

    for need in map(Requirement, requires(OWN) or ()):
        if need.marker is None or need.marker.evaluate({"extra": "lab"}):
            yield need.name, lambda found, need=need: need.specifier.contains(found, prereleases=True)


def _applying(locked: Mapping[str, str]) -> Iterator[tuple[str, Fits]]:
    """What the packages themselves ask for on this system, from our own on, held against the lock."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    todo, seen = [(OWN, "lab")], set()
    while todo:
        name, extra = todo.pop()
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": extra}) or need.marker.evaluate({"extra": ""}):
                key = canonicalize_name(need.name)
                if key not in seen:
                    pin = SpecifierSet(f"=={locked[key]}") if key in locked else need.specifier
                    yield key, lambda found, pin=pin: pin.contains(found, prereleases=True)
                seen.add(key)
                for more in ["", *need.extras]:
                    if (key, more) not in seen:
                        seen.add((key, more))
                        todo.append((key, more))


def widgets() -> Item:
    """The kernel's side, JupyterLab's side and our own front-ends. What a browser shows is seen in a browser only."""
    bad = [name for name in ("ipywidgets", "anywidget", "jupyterlab", "ipykernel", "widgets") if not _found(name)]
    labs = Path(sys.prefix) / "share" / "jupyter" / "labextensions"
    bad += [name for name in ("@jupyter-widgets/jupyterlab-manager", "anywidget") if not (labs / name).is_dir()]
    spec = importlib.util.find_spec("widgets")
    home = Path(spec.origin).parent if spec and spec.origin else Path()
    fronts = sorted(path.name for path in (home / "static").glob("*.js")) if spec else []
    if spec and not fronts:
        bad.append("widgets/static")
    if bad:
        return Item("widgets", f"without {', '.join(bad)}", "delete venv and run install.py again")
    return Item("widgets", f"ipywidgets {version('ipywidgets')}, anywidget {version('anywidget')}, {len(fronts)} ours")


def _found(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def subject(name: str) -> Item:
    """The converted model is in the cache and each of its files has its hash."""
    from ..subject import offline

    todo = "run install.py again, or `workbench fetch` with a network"
    try:
        if not offline.cached(name):
            return Item("subject", f"{name} is not in {lineage.cache()}", f"{todo}; is WORKBENCH_CACHE the pack's?")
        place = offline.folder(name)
    except (ValueError, OSError) as error:
        return Item("subject", str(error), todo)
    return Item("subject", f"{name}, {sum(path.stat().st_size for path in place.rglob('*')) / 1e6:.0f} MB, intact")


def lessons(place: Path, pack: Mapping[str, Any]) -> Item:
    """Notebooks are there, and what their slow cells make is as it was packed."""
    inside = {name.removeprefix("lessons/"): f for name, f in pack["files"].items() if name.startswith("lessons/")}
    bad = []
    for name, file in inside.items():
        path = place / "notebooks" / name
        made = name.startswith(("catch_up/", "graphs/"))
        if not path.is_file() or (made and lineage.file_hash(path) != file["sha256"]):
            bad.append(name)
    if bad:
        more = f" and {len(bad) - 2} more" if len(bad) > 2 else ""
        return Item("lessons", f"missing or changed: {', '.join(bad[:2])}{more}", "run install.py again")
    ready = sorted({name.split("/")[1] for name in inside if name.startswith("catch_up/")})
    return Item("lessons", f"{len(pack['lessons'])}, slow cells made for {', '.join(ready) or 'none'}")


def speed() -> Item:
    """Lessons beside the machine of docs/workshop.md: the model's forward pass, without the model a matrix product."""
    from ..subject import offline

    product = timed_product() / PRODUCT
    try:
        there = offline.cached("smollm2-135m")
    except ValueError:
        there = False
    times = timed_forward() / FORWARD if there else product
    said = f"lessons take about {times:.1f} times as long as planned (matrix product {product:.1f})"
    return Item("speed", said, "plug in the power; else share a laptop" if times > SLOW else "")


def timed_product(times: int = 4) -> float:
    """Seconds for ten products of matrices of 1,024 x 1,024 in float32."""
    import torch

    a = torch.ones(1024, 1024)
    return best(lambda: [torch.mm(a, a) for _ in range(10)], times)


def timed_forward(times: int = 4) -> float:
    """Seconds for the default subject on 128 tokens in float32."""
    import torch

    from ..subject import Subject

    subject = Subject("smollm2-135m")
    tokens = torch.arange(TOKENS)[None] + 100
    return best(lambda: subject.run(tokens), times)


def best(work: Callable[[], object], times: int) -> float:
    """The least of several, processor time of one thread: what other programs take away is not counted."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work()
        took = []
        for _ in range(times):
            begin = time.process_time()
            work()
            took.append(time.process_time() - begin)
    finally:
        torch.set_num_threads(threads)
    return min(took)


def picture() -> Item:
    """Python cannot see whether the browser draws with WebGL: a page to look at."""
    import plotly.graph_objects as go

    steps = [i / 40 for i in range(400)]
    spiral = go.Scattergl(
        x=[t * (-1) ** i for i, t in enumerate(steps)], y=steps, mode="markers", marker={"color": steps, "size": 6}
    )
    title = (
        "A V of coloured dots? Then maps can be drawn. Nothing, or a line on WebGL? Switch on hardware acceleration."
    )
    page = go.Figure(spiral, layout={"title": {"text": title, "font": {"size": 14}}, "template": "plotly_white"})
    path = lineage.write(
        lineage.cache() / "workshop-look.html", page.to_html(include_plotlyjs=True, full_html=True).encode()
    )
    return Item("browser", f"open {path} and look: is there a V of coloured dots?")


if __name__ == "__main__":
    sys.stdout.write(f"PRODUCT, FORWARD = {timed_product(20):.3f}, {timed_forward(20):.3f}\n")

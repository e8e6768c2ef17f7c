"""The house's own rules: who imports whom, what ships, what a first import costs."""

import ast
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
DOORS = {"site", "batch", "code", "edit", "lineage", "catalogue", "html", "embed"}
ROOMS = {  # room -> rooms it may import beside the doors
    "subject": set(),
    "harvest": {"subject"},
    "dictionary": {"subject"},
    "geometry": {"subject", "harvest", "dictionary"},
    "testbeds": {"subject", "harvest", "dictionary"},
    "evaluate": {"subject", "harvest", "dictionary", "geometry", "testbeds"},
    "interpret": {"subject", "harvest", "dictionary", "geometry", "testbeds"},
    "steer": {"subject", "harvest", "dictionary", "geometry", "testbeds"},
    "circuits": {"subject", "harvest", "dictionary", "geometry", "testbeds"},
    "regimes": {"subject", "harvest", "dictionary", "geometry", "testbeds", "evaluate"},
    "report": {
        "subject",
        "harvest",
        "dictionary",
        "geometry",
        "testbeds",
        "evaluate",
        "interpret",
        "steer",
        "circuits",
        "regimes",
    },
}
ROOMS["workshop"] = ROOMS["report"] | {"report"}
TOP = {"cli", "doctor", "__init__"}  # may import any room


def imports(path: Path) -> set[str]:
    """Full dotted names that a file imports, relative ones resolved."""
    package = list(path.relative_to(ROOT).with_suffix("").parts)
    if package[-1] == "__init__":
        package.append("__init__")
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= {stem} | {f"{stem}.{alias.name}" for alias in node.names}
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def broken_arrows(path: Path) -> list[str]:
    parts = path.relative_to(ROOT / "workbench").parts
    room = parts[0].removesuffix(".py")
    bad = []
    for name in imports(path):
        if name.split(".")[0] == "widgets":
            bad.append(f"{path.name} imports widgets")
        if name.split(".")[0] == "nnsight" and room != "subject":
            bad.append(f"{path.name} imports nnsight outside subject/")
        if not name.startswith("workbench."):
            continue
        other = name.split(".")[1]
        if room in DOORS and other not in DOORS:
            bad.append(f"door {room} imports {name}")
        if room in ROOMS and other not in DOORS | ROOMS[room] | {room} and other in ROOMS | dict.fromkeys(TOP):
            bad.append(f"{room} imports {name}")
    return bad


@pytest.mark.parametrize("path", files("workbench"), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_stands_below_them(path):
    if path.name == "__init__.py" and path.parent.name == "workbench":
        return  # the lazy doors name every room
    assert not broken_arrows(path)


def test_widgets_stand_beside_the_report():
    for path in files("widgets"):
        if "node_modules" not in path.parts:
            names = imports(path)
            assert not [n for n in names if n.startswith(("workbench.report", "nnsight"))], path.name


def test_a_broken_arrow_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    bad = tmp_path / "workbench" / "harvest" / "x.py"
    bad.parent.mkdir(parents=True)
    bad.write_text("import nnsight\nfrom ..dictionary import train\nfrom widgets import map\n")
    assert len(broken_arrows(bad)) >= 3


def test_every_room_of_the_tree_is_in_the_table():
    rooms = {p.parent.name for p in (ROOT / "workbench").glob("*/__init__.py")}
    assert rooms == set(ROOMS)


def test_shapes_are_checked_in_every_suite():
    import torch
    from jaxtyping import TypeCheckError

    from workbench.geometry.neighbours import directions
    from workbench.site import Site

    with pytest.raises(TypeCheckError):
        directions(torch.ones(3))
    with pytest.raises(TypeCheckError):
        Site(0, stream=3)
    assert directions(torch.ones(3, 2)).shape == (3, 2)


def test_importing_the_workbench_is_light():
    code = (
        "import time, sys; t = time.perf_counter(); import workbench as wb; took = time.perf_counter() - t\n"
        "assert 'torch' not in sys.modules and 'nnsight' not in sys.modules, 'heavy import'\n"
        "assert {'Subject', 'Site', 'collect', 'recipe', 'train', 'load'} <= set(dir(wb)); print(took)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(out.stdout) < 0.5


def test_every_door_opens():
    import workbench as wb

    for name in wb.DOORS:
        assert getattr(wb, name) is not None
    import nnsight  # noqa: F401 (it mounts `.save` on every object)

    assert wb.save.__module__ == "workbench"
    with pytest.raises(AttributeError, match="its doors are"):
        _ = wb.nothing


def requirement_names(lines) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", line, maxsplit=1)[0].lower().replace("_", "-") for line in lines if line}


def test_environment_and_lock_fit_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = (ROOT / "environment.yml").read_text()
    extras = ",".join(sorted(project["optional-dependencies"]))
    assert f"--editable .[{extras}]" in environment
    assert "--constraint constraints.txt" in environment
    assert f"python{project['requires-python']}" in environment
    lock = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[0-9][A-Za-z0-9_.!]*", line) for line in lock), (
        "exact, no local versions"
    )
    assert "torch==2.13.0" in lock
    wanted = requirement_names(
        [*project["dependencies"], *(r for group in project["optional-dependencies"].values() for r in group)]
    )
    assert wanted <= requirement_names(lock), f"not in the lock: {wanted - requirement_names(lock)}"


def test_what_is_locked_goes_with_the_oldest_python_promised():
    """A pin that wants a later patch release would turn people with Debian's 3.11.2 away."""
    promised = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    names = requirement_names((ROOT / "constraints.txt").read_text().splitlines())
    held = [d for d in distributions() if d.name.lower().replace("_", "-") in names]
    assert len(held) > 100
    wants = {d.name: d.metadata["Requires-Python"] or "" for d in held}
    assert not {name: spec for name, spec in wants.items() if not SpecifierSet(spec).contains(f"{promised}.0")}


def test_shipped_pages_load_nothing_from_a_network():
    shipped = [
        p for f in ("workbench", "widgets") for s in ("js", "mjs", "css", "html") for p in (ROOT / f).rglob(f"*.{s}")
    ]
    pattern = re.compile(r"""(?:src|href|import|from|url\()[^A-Za-z]{0,4}https?://""")
    own = [p for p in shipped if "node_modules" not in p.parts]
    assert not [str(p) for p in own if pattern.search(p.read_text(errors="replace"))]


def test_built_widgets_are_of_these_sources():
    """`make widgets` writes the hash of what it built; node is not needed to see that it was forgotten."""
    folder, h = ROOT / "widgets", hashlib.sha256()
    sources = sorted(p.relative_to(folder).as_posix() for p in (folder / "src").rglob("*") if p.is_file())
    for name in [*sources, "package-lock.json", "build.mjs"]:
        h.update(f"{name}\n".encode() + (folder / name).read_bytes())
    known = json.loads((folder / "static" / "sources.json").read_text())["sha256"]
    assert known == h.hexdigest(), "run `make widgets` and commit widgets/static"
    assert '"resolved"' not in (folder / "package-lock.json").read_text(), "the lock names no registry's host"


def test_no_pickle_is_opened():
    calls = re.compile(r"pickle\.load|allow_pickle=True|weights_only=False|torch\.load\((?![^)]*weights_only=True)")
    own = [p for f in ("workbench", "widgets", "bench") for p in files(f)]
    assert not [str(p) for p in own if calls.search(p.read_text())]


def test_notebooks_are_committed_clean():
    import nbformat

    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        assert "widgets" not in notebook.metadata, path
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count == (1 if cell.outputs else None) for cell in code)
        if path.name == "tour.ipynb":
            continue  # what it prints is stored: tests/test_notebooks.py
        assert not any(cell.outputs for cell in code if "check" not in cell.metadata.get("tags", []))
        tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1, f"{path.name} needs exactly one cell tagged `parameters`"


def test_the_room_of_dictionaries_stays_small():
    """Lines that hold something, of parts, losses, training and variants; kernels and foreign formats aside."""
    room = ROOT / "workbench" / "dictionary"
    files = [p for p in room.rglob("*.py") if not {"kernels", "formats"} & set(p.relative_to(room).parts)]
    assert sum(bool(line.strip()) for p in files for line in p.read_text().splitlines()) <= 3500

"""What a run depends on: the notebook, its parameters, and the code that it imports."""

import ast
import importlib.util
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import lineage


def inputs(notebook: Path, given: Mapping[str, Any]) -> str:
    """Hash of the notebook's cells, the parameters and the files of what it imports; installed packages by version."""
    import nbformat

    node = nbformat.read(notebook, 4)
    cells = [[cell.cell_type, cell.source, sorted(cell.metadata.get("tags", []))] for cell in node.cells]
    names = set()
    for cell in node.cells:
        if cell.cell_type == "code":
            names |= imported(cell.source)
    return lineage.fingerprint([cells, dict(given), {name: code_of(name) for name in sorted(names)}])


def imported(source: str) -> set[str]:
    """Top names of the modules that code imports; lines of IPython's own are passed over."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:
        return set()  # the run itself will say so
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@lru_cache
def code_of(name: str) -> str:
    """What stands for a module: the hash of its files where they can change (ours, or the user's), else its version."""
    if name in sys.stdlib_module_names:
        return ""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        return ""
    place = Path(spec.origin)
    if "site-packages" in place.parts or "dist-packages" in place.parts:
        from importlib.metadata import PackageNotFoundError, packages_distributions, version

        try:
            return version(packages_distributions().get(name, [name])[0])
        except PackageNotFoundError:
            return ""
    files = sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]
    return lineage.fingerprint([[f.relative_to(place.parent).as_posix(), lineage.file_hash(f)] for f in files])

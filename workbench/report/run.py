"""Run a notebook with parameters and keep what came of it: notebook, page, results, and a line in the index."""

import ast
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import lineage
from ..html import Markup, join, tag
from .page import STYLE, heading, page
from .scraps import scraps

KERNEL = "workbench"


@dataclass(frozen=True)
class Result:
    """Where a run's files are, what it found, and the error line if it failed (empty when it did not)."""

    name: str
    html: Path
    notebook: Path
    results: Path
    values: dict[str, Any]
    error: str
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.error


def run(
    notebook: Path | str,
    parameters: Mapping[str, Any] | None = None,
    out: Path | str = "reports",
    *,
    code: bool = False,
    timeout: float | None = None,
    progress: bool = True,
) -> Result:
    """Execute a parameterised notebook in a kernel of this very Python and write its self-contained page.

    Writes `<name>.html`, `<name>.ipynb`, `<name>.results.json` into `out` and its `index.html` anew. A failing
    notebook leaves its page up to the failure. `timeout` is in seconds for the slowest cell. Raises FileNotFoundError
    for no such notebook, ValueError for a parameter that it does not have, TypeError for one of another type.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    source, out = Path(notebook), Path(out)
    if not source.is_file():
        raise FileNotFoundError(f"there is no notebook {source}: give the path of an .ipynb file")
    given = dict(parameters or {})
    check(source, given)
    name = source.stem + (f"-{lineage.fingerprint(given)[:8]}" if given else "")
    out.mkdir(parents=True, exist_ok=True)
    ran, html, results = (out / f"{name}.{end}" for end in ("ipynb", "html", "results.json"))
    started, error = time.time(), ""
    with kernel():
        try:
            papermill.execute_notebook(
                source,
                ran,
                parameters=given,
                kernel_name=KERNEL,
                cwd=Path.cwd(),
                progress_bar=progress,
                execution_timeout=timeout,
                log_output=False,
            )
        except papermill.PapermillExecutionError as failed:
            error = f"cell {failed.exec_count}: {failed.ename}: {failed.evalue}".split("\n")[0]
        except CellTimeoutError:
            error = f"a cell took longer than {timeout:.0f} s"
        except DeadKernelError:
            error = "the kernel died (out of memory, or killed)"
        except KeyboardInterrupt:
            error = "stopped by hand"
    seconds = time.time() - started
    node = nbformat.read(ran if ran.is_file() else source, 4)
    node.cells = [cell for cell in node.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])]
    values = scraps(node)
    record = {
        "name": name,
        "title": heading(node) or name,
        "notebook": source.name,
        "parameters": given,
        "values": values,
        "error": masked(error),
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": lineage.versions(),
        "commit": commit(source),
    }
    lineage.write_json(results, record)
    footer = {
        "Notebook": source.name,
        "Run": f"{record['finished']}, {seconds:.0f} s" + (f", parameters {json.dumps(given)}" if given else ""),
        "Status": f"failed — {record['error']}" if error else "complete",
        "Versions": ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
        "Commit": record["commit"] or "not in a repository",
    }
    lineage.write(html, masked(page(node, title=record["title"], code=code, footer=footer)).encode())
    write_index(out)
    return Result(name, html, ran, results, values, record["error"], seconds)


def check(source: Path, given: Mapping[str, Any]) -> None:
    """Refuse what the notebook's `parameters` cell does not have, or has with another type."""
    import papermill

    known = papermill.inspect_notebook(str(source))
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{source.name} has no parameter {name!r}: it has {', '.join(known) or 'none'}")
        default = ast.literal_eval(known[name]["default"])
        fits = isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)
        widened = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
        if default is not None and not (fits or widened):
            raise TypeError(f"{source.name} wants {type(default).__name__} for {name!r}, got {value!r}")


@contextmanager
def kernel() -> Iterator[None]:
    """A kernel specification of this interpreter, while a run lasts: an installed one may be another environment's."""
    with tempfile.TemporaryDirectory(prefix="workbench-kernel-") as folder:
        place = Path(folder) / "kernels" / KERNEL
        place.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Workbench", "language": "python"}
        (place / "kernel.json").write_text(json.dumps(spec))
        before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = folder + (os.pathsep + before if before else "")
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


def masked(text: str) -> str:
    """Text without this machine's folders."""
    for folder, name in ((str(Path.cwd()), "."), (sys.prefix, "<python>"), (sys.base_prefix, "<python>")):
        text = text.replace(folder + "/", f"{name}/")
    text = text.replace(str(lineage.cache()), "<cache>").replace(str(Path.home()) + "/", "~/")
    return re.sub(re.escape(tempfile.gettempdir()) + r"/[\w./-]*", "<tmp>", text)


def commit(path: Path) -> str:
    """The commit the notebook is at, with a + when files have changed since; empty outside a repository."""
    import subprocess

    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], cwd=path.resolve().parent, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        found = git("rev-parse", "--short", "HEAD")
        return found + ("+" if found and git("status", "--porcelain", "--untracked-files=no") else "")
    except FileNotFoundError:  # no git here: a wheel on a laptop
        return ""


def write_index(out: Path) -> Path:
    """The table of all runs in a folder, newest first, from their records."""
    records = [lineage.read_json(path) for path in out.glob("*.results.json")]
    records.sort(key=lambda r: r["finished"], reverse=True)
    rows = [
        tag("tr", *(tag("th", name) for name in ("report", "status", "results", "parameters", "finished", "seconds")))
    ]
    for r in records:
        status = tag("span", r["error"] or "complete", attrs={"class": "failed" if r["error"] else "ok"})
        numbers = [
            f"{k} {v:.4g}" for k, v in r["values"].items() if isinstance(v, int | float) and not isinstance(v, bool)
        ]
        link = tag("a", r["title"], attrs={"href": f"{r['name']}.html"})
        settings = ", ".join(f"{k}={v}" for k, v in r["parameters"].items()) or "defaults"
        cells = (link, status, " · ".join(numbers), settings, r["finished"], f"{r['seconds']:.0f}")
        rows.append(tag("tr", *(tag("td", cell) for cell in cells)))
    head = tag("head", Markup('<meta charset="utf-8">'), tag("title", "Reports"), Markup(f"<style>{STYLE}</style>"))
    main = tag("main", tag("h1", "Reports"), tag("div", tag("table", *rows), attrs={"class": "html"}))
    whole = join(Markup("<!doctype html>\n"), tag("html", head, tag("body", main), attrs={"lang": "en"}))
    return lineage.write(out / "index.html", whole.encode())

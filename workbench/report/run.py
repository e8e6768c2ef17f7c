"""Run a notebook with parameters and keep what came of it: notebook, page, results, and a line in the index."""

import ast
import json
import os
import platform
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import lineage
from ..html import Markup, join, tag
from .inputs import inputs
from .page import STYLE, heading, rendered, settings
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


def name_of(notebook: Path, given: Mapping[str, Any]) -> str:
    """What a run's files are called: the notebook's name, and a hash of the parameters that were given."""
    return notebook.stem + (f"-{lineage.fingerprint(dict(given))[:8]}" if given else "")


def run(
    notebook: Path | str,
    parameters: Mapping[str, Any] | None = None,
    out: Path | str = "reports",
    *,
    code: bool = False,
    timeout: float | None = None,
    limit: float | None = None,
    assets: bool = False,
    progress: bool = True,
    index: bool = True,
) -> Result:
    """Execute a parameterised notebook in a kernel of this very Python and write its self-contained page.

    Writes `<name>.html`, `<name>.ipynb`, `<name>.results.json` into `out` and its `index.html` anew; the name is the
    notebook's and a hash of the parameters. A notebook that fails, runs out of time or is stopped by hand leaves its
    page up to there. `timeout` is in seconds for the slowest cell, `limit` for the whole run (in the main thread).
    `assets`: plotly lies beside the page instead of in it. Raises FileNotFoundError for no such notebook, ValueError
    for a file that is none and for a parameter that it does not have, TypeError for one of another type.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    source, out = Path(notebook), Path(out)
    if not source.is_file():
        raise FileNotFoundError(f"there is no notebook {source}: give the path of an .ipynb file")
    given = dict(parameters or {})
    check(source, given)
    out.mkdir(parents=True, exist_ok=True)
    started, error = time.time(), ""
    with kernel() as config, ended_after(limit) as late:
        try:
            papermill.execute_notebook(
                source,
                out / f"{name_of(source, given)}.ipynb",
                parameters=given,
                kernel_name=KERNEL,
                language="python",
                cwd=Path.cwd(),
                progress_bar=progress,
                execution_timeout=timeout,
                log_output=False,
                config=config,
            )
        except papermill.PapermillExecutionError as failed:
            error = f"cell {failed.exec_count}: {failed.ename}: {failed.evalue}".split("\n")[0]
        except CellTimeoutError:
            error = f"a cell took longer than {timeout:g} s"
        except DeadKernelError:
            error = "the kernel died (out of memory, or killed)"
        except KeyboardInterrupt:
            error = f"the run took longer than {limit:g} s" if late.is_set() else "stopped by hand"
    done = finish(source, given, out, error, time.time() - started, code=code, assets=assets)
    if index:
        write_index(out)
    return done


@contextmanager
def ended_after(limit: float | None) -> Iterator[threading.Event]:
    """Interrupt the main thread after so many seconds; the event says that it was this."""
    late, over = threading.Event(), threading.Event()

    def watch() -> None:
        if not over.wait(limit):
            late.set()
            signal.raise_signal(signal.SIGINT) if os.name == "nt" else os.kill(os.getpid(), signal.SIGINT)

    if limit is None:
        yield late
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's job in the background ignores it
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield late
    finally:
        over.set()
        signal.signal(signal.SIGINT, before)


def finish(
    source: Path,
    given: Mapping[str, Any],
    out: Path,
    error: str,
    seconds: float,
    *,
    code: bool = False,
    assets: bool = False,
) -> Result:
    """Write record and page of a run from the notebook that it left, up to where it came."""
    import nbformat

    name = name_of(source, given)
    ran, html, results = (out / f"{name}.{end}" for end in ("ipynb", "html", "results.json"))
    node = nbformat.read(ran if ran.is_file() else source, 4)
    node.cells = [cell for cell in node.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])]
    if error:
        until_failure(node, error)
    values = scraps(node)
    record = {
        "name": name,
        "title": heading(node) or name,
        "notebook": source.name,
        "parameters": dict(given),
        "parameters_hash": lineage.fingerprint(dict(given))[:8],
        "inputs": inputs(source, given),
        "values": values,
        "status": "failed" if error else "complete",
        "error": masked(error),
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device(),
        "versions": lineage.versions(),
        "commit": commit(source),
    }
    footer = {
        "Notebook": source.name,
        "Run": f"{record['finished']}, {seconds:.0f} s on {record['device']}",
        "Parameters": f"{json.dumps(given) if given else 'defaults'} (hash {record['parameters_hash']})",
        "Status": f"failed — {record['error']}" if error else "complete",
        "Versions": ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
        "Commit": record["commit"] or "not in a repository",
    }
    beside = out if assets else None
    page = rendered(node, title=record["title"], code=code, footer=footer, folder=source.parent, assets=beside)
    lineage.write(html, masked(page).encode())
    lineage.write_json(results, record)  # last: a record vouches for its page
    return Result(name, html, ran, results, values, record["error"], seconds)


def check(source: Path, given: Mapping[str, Any]) -> None:
    """Refuse what is no notebook, and what its `parameters` cell does not have, or has with another type."""
    import nbformat

    try:
        node = nbformat.read(source, 4)
        nbformat.validate(node)
        known = {name: ast.literal_eval(value) for name, (value, _) in settings(node).items()}
    except (nbformat.ValidationError, ValueError, SyntaxError, AttributeError, KeyError) as error:
        first = str(error).split("\n")[0][:200]
        raise ValueError(
            f"{source} is no notebook that can be run ({first}): give an .ipynb file whose parameters are plain values"
        ) from error
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{source.name} has no parameter {name!r}: it has {', '.join(known) or 'none'}")
        default = known[name]
        fits = isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)
        widened = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
        if default is not None and not (fits or widened):
            raise TypeError(f"{source.name} wants {type(default).__name__} for {name!r}, got {value!r}")


@contextmanager
def kernel() -> Iterator[Any]:
    """A kernel specification of this interpreter, while a run lasts: an installed one may be another environment's.

    Yields the settings that reach it over sockets in a private folder (by loopback where there are none).
    """
    from traitlets.config import Config

    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        place = Path(folder) / "kernels" / KERNEL
        place.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Workbench", "language": "python"}
        (place / "kernel.json").write_text(json.dumps(spec))
        sockets = {"transport": "ipc", "connection_file": str(Path(folder) / "k.json")} if os.name != "nt" else {}
        before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = folder + (os.pathsep + before if before else "")
        try:
            yield Config({"KernelManager": sockets})
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


def masked(text: str) -> str:
    """Text without this machine's folders."""
    places = {
        Path.cwd(): ".",
        Path(__file__).parents[2]: "[workbench]",
        Path(sys.prefix): "[python]",
        Path(sys.base_prefix): "[python]",
        lineage.cache(): "[cache]",
        Path.home(): "~",
        Path(tempfile.gettempdir()): "[tmp]",
    }
    for place, name in sorted(places.items(), key=lambda item: -len(str(item[0]))):
        if len(place.parts) > 1:  # a root stands for nothing that could be told from other text
            text = re.sub(rf"(?<![\w./~-]){re.escape(str(place))}(?![\w-])", name, text)
    return text


def until_failure(node: Any, error: str) -> None:
    """Drop what comes after the cell that did not finish: its text would speak of results that never came."""
    from nbformat.v4 import new_output

    last = None
    for place, cell in enumerate(node.cells):
        if cell.cell_type != "code":
            continue
        last = cell
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed or cell.metadata.get("papermill", {}).get("status") != "completed":
            del node.cells[place + 1 :]
            break
    if last is not None and not error.startswith("cell "):  # stopped from outside: its own error is only the echo
        last.outputs = [output for output in last.outputs if output.output_type != "error"]
        last.outputs.append(new_output("error", ename="Stopped", evalue=error, traceback=[]))


def device() -> str:
    """What the numbers were made on, in words."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} {platform.machine()} cores"


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
    """The table of all runs in a folder, newest first, from their records. A damaged record is a row that says so."""
    from filelock import FileLock

    head = tag("head", Markup('<meta charset="utf-8">'), tag("title", "Reports"), Markup(f"<style>{STYLE}</style>"))
    titles = ("report", "status", "results", "parameters", "finished", "seconds")
    with FileLock(out / ".index.lock"):  # runs that end together must not write over each other's line
        lines = sorted((index_line(path) for path in out.glob("*.results.json")), reverse=True)
        rows = join(tag("tr", *(tag("th", name) for name in titles)), *(row for _, row in lines))
        main = tag("main", tag("h1", "Reports"), tag("div", tag("table", rows), attrs={"class": "html"}))
        whole = join(Markup("<!doctype html>\n"), tag("html", head, tag("body", main), attrs={"lang": "en"}))
        return lineage.write(out / "index.html", whole.encode())


def index_line(path: Path) -> tuple[str, Markup]:
    """When a run finished, and its row."""
    try:
        r = lineage.read_json(path)
    except ValueError as error:
        trouble = tag("td", str(error).replace(str(path), path.name), attrs={"class": "failed", "colspan": 5})
        return "", tag("tr", tag("td", path.name), trouble)
    status = tag("span", r["error"] or "complete", attrs={"class": r["status"]})
    numbers = [f"{k} {v:.4g}" for k, v in r["values"].items() if isinstance(v, int | float) and not isinstance(v, bool)]
    link = tag("a", r["title"], attrs={"href": f"{r['name']}.html"})
    settings = ", ".join(f"{k}={v}" for k, v in r["parameters"].items()) or "defaults"
    cells = (link, status, " · ".join(numbers), settings, r["finished"], f"{r['seconds']:.0f}")
    return r["finished"], tag("tr", *(tag("td", cell) for cell in cells))

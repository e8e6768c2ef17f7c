"""Many runs of one notebook: a grid or a list, in processes, with a table of all of them and what they found.

A run is the notebook, its parameters and the code that it imports; one that is complete is not made again by `resume`.
Runs that share a harvest or a dictionary make it once: the library's own locks and caches see to that.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import lineage
from .inputs import inputs
from .overview import compared, write_overview
from .run import check, finish, name_of

GRACE = 60.0  # seconds that a run has to write its page after it was asked to stop
POLL = 0.2
BUSY = "another process trains in"  # what `wb.train` raises where two write into one folder
KEYS = {"notebook", "fixed", "grid", "runs", "jobs", "timeout", "compare", "limits"}


@dataclass(frozen=True)
class Plan:
    """Which notebook with which parameters. `compare`: results to draw against parameters; `limits`: see `against`."""

    notebook: Path
    runs: tuple[dict[str, Any], ...]
    jobs: int | None = None
    timeout: float | None = None
    compare: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def varied(self) -> list[str]:
        """Parameters that differ between runs."""
        names = dict.fromkeys(name for run in self.runs for name in run)
        return [name for name in names if len({json.dumps(run.get(name)) for run in self.runs}) > 1]


def plan(path: Path | str) -> Plan:
    """Read a plan from YAML: `notebook` (beside the file), `fixed` parameters, and either `grid` or `runs`.

    Also `jobs`, `timeout` (seconds of a run), `compare` and `limits`. Raises ValueError, TypeError or FileNotFoundError
    in one line for whatever the notebook would not take, before anything runs.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no plan {path}: give a YAML file with `notebook` and `grid` or `runs`")
    try:
        value = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict) or "notebook" not in value:
        raise ValueError(f"{path} must name a `notebook`, and `grid` or `runs`")
    if unknown := set(value) - KEYS:
        raise ValueError(f"{path} has {', '.join(sorted(map(str, unknown)))}: a plan holds {', '.join(sorted(KEYS))}")
    return made(value, path.parent)


def made(value: Mapping[str, Any], folder: Path = Path()) -> Plan:
    """A plan from a mapping, checked against its notebook."""
    fixed, grid, listed = value.get("fixed") or {}, value.get("grid"), value.get("runs")
    if (grid is None) == (listed is None):
        raise ValueError("a plan has either `grid` (lists of values) or `runs` (a list of parameters)")
    if not isinstance(fixed, Mapping):
        raise ValueError(f"`fixed` must be parameters and their values, got {fixed!r}")
    if grid is not None:
        if not isinstance(grid, Mapping) or not all(isinstance(v, list) and v for v in grid.values()):
            raise ValueError("`grid` must hold a list of values for each parameter")
        listed = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not isinstance(listed, list) or not listed or not all(isinstance(run, Mapping) for run in listed):
        raise ValueError("`runs` must be a list of parameters, one mapping for each run")
    wanted = [dict(fixed) | dict(run) for run in listed]
    if len({lineage.fingerprint(run) for run in wanted}) < len(wanted):
        raise ValueError("two runs have the same parameters: each must differ from all others")
    limits = value.get("limits") or {}
    if not isinstance(limits, Mapping) or not all(_is_number(v) and v != 0 for v in limits.values()):
        raise ValueError("`limits` must give a number for each result: +0.01 may rise by that, -0.01 may fall by that")
    for name, least in (("jobs", 1), ("timeout", 0.001)):
        if (given := value.get(name)) is not None and not (_is_number(given) and given >= least):
            raise ValueError(f"`{name}` must be a number of {least} or more, got {given!r}")
    notebook = folder / str(value["notebook"])
    if not notebook.is_file():
        raise FileNotFoundError(f"there is no notebook {notebook}: `notebook` is looked for beside the plan")
    for run in wanted:
        check(notebook, run)
    compare = tuple(value.get("compare") or ())
    jobs = None if value.get("jobs") is None else int(value["jobs"])
    timeout = None if value.get("timeout") is None else float(value["timeout"])
    return Plan(notebook, tuple(wanted), jobs, timeout, compare, {name: float(limit) for name, limit in limits.items()})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Swept:
    """What a sweep left: a row for each run, its folder, and what fell behind an earlier one."""

    rows: list[dict[str, Any]]
    folder: Path
    behind: list[str]

    @property
    def ok(self) -> bool:
        return all(row["status"] == "complete" for row in self.rows) and not self.behind


def sweep(
    todo: Plan,
    out: Path | str,
    *,
    resume: bool = False,
    jobs: int | None = None,
    timeout: float | None = None,
    assets: bool = False,
    code: bool = False,
    against: Path | str | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Swept:
    """Run all of a plan, each run in a process of its own with a kernel of its own; a failure stays with its run.

    One that meets another training the same dictionary is made again once a run has ended, or at once when it is the
    last, and then loads it.
    Writes what `report.run` writes for each run, and `runs.json`, `results.parquet`, `index.html`, `compare.html` anew
    whenever a run ends. With GPUs each worker sees one. `assets`: pages share one copy of plotly beside them.
    Raises ValueError when `against` is no sweep's folder.
    """
    out = Path(out)
    earlier = None if against is None else read(against)
    out.mkdir(parents=True, exist_ok=True)
    gpus = visible_gpus()
    jobs = jobs or todo.jobs or max(1, len(gpus))
    limit = timeout or todo.timeout
    rows = [row_of(todo.notebook, given) for given in todo.runs]
    for row in rows:
        if resume and (known := finished(out, row)):
            row.update(known)
    waiting = [row for row in rows if row["status"] == "waiting"]
    say(f"{len(rows)} runs, {len(rows) - len(waiting)} complete already; {min(jobs, max(1, len(waiting)))} at a time")
    free, working = list(range(jobs)), list[Worker]()
    after, again = list[dict[str, Any]](), set[str]()  # runs to be made once another has ended; those made again so far
    keep(out, todo, rows)
    try:
        while waiting or working:
            while waiting and free:
                slot = free.pop(0)
                row = waiting.pop(0)
                working.append(Worker(todo.notebook, row, out, slot, jobs, gpus, limit, assets, code))
            time.sleep(POLL)
            for worker in [w for w in working if w.ended()]:
                working.remove(worker)
                free.append(worker.slot)
                worker.row.update(worker.result())
                name = worker.row["name"]
                if BUSY in worker.row["error"] and (working or name not in again):
                    say(f"{name}: its dictionary is being trained elsewhere, the run is made again")
                    worker.row.update(row_of(todo.notebook, worker.row["parameters"]))
                    (after if working else waiting).append(worker.row)
                    again.add(name)
                    keep(out, todo, rows)
                    continue
                waiting, after = waiting + after, []
                keep(out, todo, rows)
                left = sum(row["status"] in ("waiting", "running") for row in rows)
                how = worker.row["error"] or "complete"
                say(f"{name}: {how} ({worker.row['seconds']:.0f} s), {left} left")
    finally:
        for worker in working:
            worker.stop()
        for worker in working:
            worker.row.update(worker.result())
        keep(out, todo, rows)
    behind = [] if earlier is None else compared(rows, earlier, todo.limits)
    write_overview(out, todo, rows, earlier, behind)
    return Swept(rows, out, behind)


class Worker:
    """One run in a process of its own, and the children that it leaves."""

    def __init__(
        self,
        notebook: Path,
        row: dict[str, Any],
        out: Path,
        slot: int,
        jobs: int,
        gpus: Sequence[str],
        limit: float | None,
        assets: bool,
        code: bool,
    ):
        self.notebook, self.row, self.out, self.slot, self.limit = notebook, row, out, slot, limit
        self.began = time.time()
        (out / "logs").mkdir(exist_ok=True)
        self.log = out / "logs" / f"{row['name']}.log"
        (out / f"{row['name']}.results.json").unlink(missing_ok=True)
        job = {"notebook": str(notebook), "parameters": row["parameters"], "out": str(out), "code": code}
        job |= {"limit": limit, "assets": assets, "parent": os.getpid()}
        env = dict(os.environ)
        env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
        if gpus:
            env["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workbench.report.worker", json.dumps(job)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True,
            )  # fmt: skip
        row.update(status="running", error="")
        self.children: dict[int, float] = {}

    def ended(self) -> bool:
        """Whether the run is over; one that goes on long after its limit is killed."""
        self._note_children()
        if self.process.poll() is None and self.limit and time.time() - self.began > self.limit + GRACE:
            self.process.kill()
        return self.process.poll() is not None

    def _note_children(self) -> None:
        import psutil

        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.children[child.pid] = child.create_time()
        except psutil.NoSuchProcess:
            return

    def stop(self) -> None:
        """Ask the run to write its page and leave."""
        self._note_children()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def result(self) -> dict[str, Any]:
        """The run's row, once it is over; a worker that left nothing gets its page from here."""
        import psutil

        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid, created in self.children.items():
            try:
                child = psutil.Process(pid)
                if child.create_time() == created:
                    child.kill()
            except psutil.NoSuchProcess:
                continue
        record = self.out / f"{self.row['name']}.results.json"
        if not record.is_file():
            finish(self.notebook, self.row["parameters"], self.out, self.died(), time.time() - self.began, assets=False)
        return told(lineage.read_json(record))

    def died(self) -> str:
        """Why a worker left no result, with the last line it wrote."""
        code = self.process.returncode
        if code < 0:
            return f"the worker was killed ({signal.Signals(-code).name})"
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"the worker failed: {lines[-1][:200] if lines else f'exit code {code}'}"


def row_of(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """A run that has not begun."""
    return {
        "name": name_of(notebook, given),
        "parameters": dict(given),
        "inputs": inputs(notebook, given),
        "status": "waiting",
        "error": "",
        "seconds": 0.0,
        "finished": "",
        "values": {},
    }


def told(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("status", "error", "seconds", "finished", "values", "inputs")}


def finished(out: Path, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier attempt found, if it was this very run, is complete and whole on disk."""
    try:
        record = lineage.read_json(out / f"{row['name']}.results.json")
    except (FileNotFoundError, ValueError):  # never made, or damaged: it is made again
        return None
    page = out / f"{row['name']}.html"
    same = record["inputs"] == row["inputs"] and record["status"] == "complete" and page.is_file()
    return told(record) if same else None


def keep(out: Path, todo: Plan, rows: Sequence[Mapping[str, Any]]) -> None:
    """The state of a sweep on disk."""
    lineage.write_json(
        out / "runs.json",
        {"sweep": 1, "notebook": todo.notebook.name, "versions": lineage.versions(), "runs": [dict(r) for r in rows]},
    )
    write_overview(out, todo, rows)


def read(folder: Path | str) -> list[dict[str, Any]]:
    """The rows of a sweep's folder. Raises FileNotFoundError or ValueError when it is none."""
    return lineage.read_json(Path(folder) / "runs.json")["runs"]


def visible_gpus() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may name, one for each GPU."""
    if given := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name for name in given.split(",") if name]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]

"""A training run as it goes, or as its log says that it went."""

import json
import math
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import traitlets as t
from jaxtyping import Float

from workbench import lineage
from workbench.dictionary.training import Running

from . import payload
from .base import STATIC, Widget, one_line

QUIET = 20.0  # seconds without a new row after which a folder's run no longer counts as running
BINS = 13  # of a log row's densities
COLUMNS = 64  # of a log
ASKS = ("pause", "resume", "stop")


class TrainingMonitor(Widget):
    """Losses, L0, FVU, dead latents, densities, learning rate and speed of a run, while it runs or afterwards.

        running = wb.start(recipe, stream, site="12.resid", folder="runs/first")
        TrainingMonitor(running=running, folder="runs/first")   # with Pause and Stop, and the target of L0
        TrainingMonitor(folder="runs/first")                    # another process trains, or trained; also after a crash

    `phase` is "waiting", "running", "paused", "stopping", "stopped", "finished", "crashed" or "failed". It looks every
    `every` seconds, in a thread of its own that ends with the run or with `close()`. `smooth` draws means over so many
    rows of the log, 0 none. A folder's run that has written no row for 20 s (or five times what a row takes) and has
    not ended is taken for crashed. Tokens per second are the log's: a mean since the run began or went on.
    Raises TypeError or ValueError for what cannot be watched, FileNotFoundError for a folder that is not there.
    """

    _esm, _css = STATIC / "training_monitor.js", STATIC / "training_monitor.css"
    phase = t.Unicode("waiting").tag(sync=True)
    head = t.Dict().tag(sync=True)  # step, steps, tokens, budget, rate, eta, note
    curves = t.Dict().tag(sync=True)
    points = t.Bytes(b"").tag(sync=True)
    densities = t.Dict().tag(sync=True)
    shares = t.Bytes(b"").tag(sync=True)
    smooth = t.Int(0).tag(sync=True)
    log_losses = t.Bool(True).tag(sync=True)  # their axis
    hidden = t.List(t.Unicode()).tag(sync=True)  # recipes that are not drawn
    term = t.Unicode("total").tag(sync=True)  # drawn where there are several recipes
    buttons = t.Dict().tag(sync=True)  # whether pause and stop are obeyed, else why not
    ask = t.Dict().tag(sync=True)  # {"what": "pause", "resume" or "stop", "at": a new number each time}

    _thread: threading.Thread | None = None
    _shown: tuple[str, str, str, int] | None = None

    def __init__(self, *, running: Running | None = None, folder: Path | str | None = None, every: float = 1.0):
        if running is None and folder is None:
            raise ValueError("nothing to watch: give running=wb.start(...), or the folder=... of a run")
        if running is not None and not isinstance(running, Running):
            raise TypeError(
                f"running must be what wb.start(...) gives, got {type(running).__name__}; a trained run is shown by "
                "its folder=..."
            )
        if not every >= 0.2:
            raise ValueError(f"every must be 0.2 seconds or more (five updates a second at most), got {every}")
        home = None if folder is None else Path(folder)
        if home is not None and running is None and not home.is_dir():
            raise FileNotFoundError(f"{home} is not a folder: give the one that the run was told, wb.train(folder=...)")
        self.running, self.folder, self.every = running, home, every
        self._logs: dict[str, Log] = {}
        self._tails: dict[str, Tail] = {}
        self._read_at: dict[Path, tuple[int, Any]] = {}
        self._taken, self._stopping = 0, False
        self._look, self._wake, self._over = threading.Lock(), threading.Event(), threading.Event()
        why = (
            "" if running is not None else "Only the notebook that trains can pause or stop: here a folder is watched."
        )
        super().__init__(buttons={"live": running is not None, "why": why})
        if not self.look():
            self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
            self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._over.set()
            self._wake.set()
        super().close()

    @property
    def watching(self) -> bool:
        """Whether its thread still looks."""
        return self._thread is not None and self._thread.is_alive()

    def look(self) -> bool:
        """Read what is new and show it; whether the run has ended for good."""
        with self._look:
            fresh = self._read()
            if self._stand()[3]:  # it has ended since, or had: either way these are its last rows
                fresh = self._read() or fresh
            phase, note, error, over = self._stand()
            seen = (phase, note, error, self.smooth)
            if not fresh and seen == self._shown:
                return over
            steps = self._steps()
            logs = {name: log.columns() for name, log in self._logs.items() if len(log)}
            made: dict[str, Any] = {"phase": phase, "error": error}
            made["head"] = payload.standing(logs, steps=steps) | {"note": note}
            if fresh or self._shown is None or self._shown[3] != self.smooth:
                about, points = payload.curves(logs, smooth=self.smooth, targets=self._targets())
                maps, shares = payload.density_maps(
                    {name: log.densities() for name, log in self._logs.items() if log.counts}
                )
                made |= {"curves": about, "points": points, "densities": maps, "shares": shares}
            self._shown = seen
            self.put(**made)
            return over

    def _watch(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            self._wake.wait(0.2 if self._stopping else self.every)
            if self._wake.is_set():  # a button was pressed: soon, but never more than five times a second
                self._wake.clear()
                self._over.wait(max(0.0, 0.2 - (time.monotonic() - began)))
            if self._over.is_set():
                return
            try:
                if self.look() and self._shown is not None and self._shown[3] == self.smooth:
                    return
            except Exception as error:  # a widget shows it; a disk that was away may come back
                self._shown = None
                self.put(error=one_line(error))

    @t.observe("ask")
    def _asked(self, change: Any) -> None:
        what = change["new"].get("what")
        if self.running is None or what not in ASKS:
            return
        getattr(self.running, what)()
        self._stopping = self._stopping or what == "stop"
        if self.running.running:
            self.put(phase="stopping" if self._stopping else "paused" if what == "pause" else "running")
        self._wake.set()

    @t.validate("smooth")
    def _number_of_rows(self, proposal: Any) -> int:
        if proposal["value"] < 0:
            raise t.TraitError(f"smooth is a number of rows, 0 or more, got {proposal['value']}")
        return proposal["value"]

    @t.observe("smooth")
    def _smoother(self, change: Any) -> None:
        if self.watching:  # its thread alone draws: were it to wait here, two locks could wait for each other
            self._wake.set()
        elif self._shown is not None:
            self.look()

    def _read(self) -> bool:
        """Take in new rows; whether there were any, or some went."""
        if self.folder is None:
            assert self.running is not None
            rows = self.running.rows[self._taken :]
            self._taken += len(rows)
            for row in rows:
                self._logs.setdefault(str(row.get("recipe", "")), Log()).add(row)
            return bool(rows)
        found = logs_of(self.folder)
        fresh = False
        for name in [name for name in self._logs if name not in found]:
            del self._logs[name], self._tails[name]
            fresh = True
        for name, path in found.items():
            if name not in self._tails:
                self._tails[name], self._logs[name] = Tail(path), Log()
            again, lines = self._tails[name].read()
            if again:
                self._logs[name] = Log()
            for line in lines:
                self._logs[name].add_line(line)
            fresh = fresh or again or bool(lines)
        return fresh

    def _stand(self) -> tuple[str, str, str, bool]:
        """Phase, a line about it, the run's error if it failed, and whether nothing more can come."""
        rows, bad = (sum(f(log) for log in self._logs.values()) for f in (len, lambda log: log.bad))
        notes = [f"{bad} unreadable line{'s' if bad > 1 else ''} of the log left out"] if bad else []
        over, error = False, ""
        if self.running is None:
            phase, note = self._stand_of_folder(rows)
            over = phase == "finished"
        elif self.running.running:
            asked = "stopping" if self._stopping else "paused" if self.running.paused else ""
            phase, note = asked or ("running" if rows else "waiting"), ""
        else:
            phase, note, error = self._ended(rows)
            over = True
        return phase, " · ".join([*notes, *([note] if note else [])]), error, over

    def _ended(self, rows: int) -> tuple[str, str, str]:
        assert self.running is not None
        try:
            done = self.running.wait()
        except BaseException as error:  # what training raised, be it an exit
            return "failed", self._resumes(), one_line(error)
        whole = all(d.training_summary.get("finished", True) for d in (done if isinstance(done, list) else [done]))
        if not rows:
            return "finished", "no row was logged: fitted at once, or finished before and loaded from its folder", ""
        return ("finished", "", "") if whole else ("stopped", self._resumes(), "")

    def _stand_of_folder(self, rows: int) -> tuple[str, str]:
        assert self.folder is not None
        paths = list(logs_of(self.folder).values())
        specs = [self._json(path.parent / "spec.json") for path in paths]
        if specs and all(spec is not None and spec["training"].get("finished") for spec in specs):
            return "finished", ""
        written = [path.stat().st_mtime for path in paths if path.is_file()]
        if not written or not rows:
            return "waiting", ""
        if None not in specs and min((p.parent / "spec.json").stat().st_mtime for p in paths) >= max(written):
            return "stopped", self._resumes()
        quiet = time.time() - max(written)
        if quiet < max(QUIET, 5 * max(log.gap() for log in self._logs.values())):
            return "running", ""
        said = f"no row for {duration(quiet)}, and no end: it crashed, or waits elsewhere"
        return "crashed", " · ".join(part for part in (said, self._resumes()) if part)

    def _resumes(self) -> str:
        state = self._checkpoint()
        return f"trained again with the same call and folder, it resumes from step {state['step']:,}" if state else ""

    def _steps(self) -> int | None:
        if self.running is not None:
            return self.running.steps
        if state := self._checkpoint():
            return state["identity"]["steps"]
        return next((spec["training"].get("steps") for spec in self._specs() if spec["training"].get("finished")), None)

    def _targets(self) -> dict[str, float]:
        """The L0 that recipes aim at: their argument k."""
        calls = (self._checkpoint() or {}).get("identity", {}).get("calls") or self._specs()
        if len(calls) != len(self._logs):
            return {}
        found = {name: ((call or {}).get("args") or {}).get("k") for name, call in zip(self._logs, calls, strict=True)}
        return {name: float(k) for name, k in found.items() if isinstance(k, int | float)}

    def _specs(self) -> list[dict[str, Any]]:
        paths = logs_of(self.folder).values() if self.folder is not None else ()
        return [spec for path in paths if (spec := self._json(path.parent / "spec.json"))]

    def _checkpoint(self) -> dict[str, Any] | None:
        return None if self.folder is None else self._json(self.folder / "checkpoint" / "state.json")

    def _json(self, path: Path) -> dict[str, Any] | None:
        """A file of the run, read again when it changed; None where there is none, or none that is whole."""
        try:
            now = path.stat().st_mtime_ns
            if self._read_at.get(path, (0, None))[0] != now:
                self._read_at[path] = now, lineage.read_json(path)
        except (FileNotFoundError, ValueError):
            self._read_at.pop(path, None)
        return self._read_at.get(path, (0, None))[1]


class Log:
    """The rows of a log as columns, `step` in order; a row that goes back drops what it repeats."""

    def __init__(self) -> None:
        self.by: dict[str, array[float]] = {"step": array("d")}
        self.at: array[float] = array("d")  # steps of the rows that have densities
        self.counts: array[float] = array("d")
        self.bad = 0

    def __len__(self) -> int:
        return len(self.by["step"])

    def add_line(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        self.add(row)

    def add(self, row: Any) -> None:
        """One more row; counted in `bad` when it is none."""
        step = number(row.get("step")) if isinstance(row, Mapping) else None
        if step is None or not math.isfinite(step):
            self.bad += 1
            return
        if len(self) and step <= self.by["step"][-1]:
            keep, dense = bisect_left(self.by["step"], step), bisect_left(self.at, step)
            for column in self.by.values():
                del column[keep:]
            del self.at[dense:], self.counts[dense * BINS :]
        n = len(self)
        for key, value in row.items():
            value = None if key in ("recipe", "densities") else value if type(value) is float else number(value)
            if value is None or (key not in self.by and len(self.by) == COLUMNS):
                continue
            if key not in self.by:
                self.by[key] = array("d", [math.nan]) * n
            self.by[key].append(value)
        for column in self.by.values():
            if len(column) == n:
                column.append(math.nan)
        counts = row.get("densities")
        if isinstance(counts, list) and len(counts) == BINS and {*map(type, counts)} == {int} and min(counts) >= 0:
            self.at.append(step)
            self.counts.extend(counts)

    def columns(self) -> dict[str, Float[np.ndarray, " row"]]:
        return {key: np.array(column) for key, column in self.by.items()}

    def densities(self) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, "row bin"]]:
        return np.array(self.at), np.array(self.counts).reshape(-1, BINS)

    def gap(self) -> float:
        """Seconds between the last two rows, by the log's own speed; 0 where it does not say."""
        if not len(self) or not {"tokens", "tokens_per_second"} <= self.by.keys():
            return 0.0
        tokens = [0.0, *self.by["tokens"][-2:]]
        gap = (tokens[-1] - tokens[-2]) / max(1e-9, self.by["tokens_per_second"][-1])
        return gap if math.isfinite(gap) else 0.0


class Tail:
    """The whole lines of a file that grows, and may be cut or replaced meanwhile."""

    def __init__(self, path: Path):
        self.path, self.at, self.last = path, 0, b""

    def read(self) -> tuple[bool, list[bytes]]:
        """Whether what was read before no longer counts, and the new lines. A line without its end waits."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.at - len(self.last))
                again = file.read(len(self.last)) != self.last
                if again:
                    file.seek(0)
                new = file.read()
        except FileNotFoundError:
            again, new = self.at > 0, b""
        whole = new[: new.rfind(b"\n") + 1]
        lines = [line + b"\n" for line in whole.split(b"\n")[:-1]]
        self.at = len(whole) + (0 if again else self.at)
        self.last = lines[-1] if lines else b"" if again else self.last
        return again, lines


def logs_of(folder: Path) -> dict[str, Path]:
    """The logs of a run's folder by recipe: its own, or those of the folders `0_variant`, `1_variant` ... in it."""
    if (folder / "log.jsonl").is_file():
        return {"": folder / "log.jsonl"}
    found = [p for p in folder.glob("*_*/log.jsonl") if p.parent.name.split("_")[0].isdecimal()]
    return {p.parent.name: p for p in sorted(found, key=lambda p: int(p.parent.name.split("_")[0]))}


def number(value: Any) -> float | None:
    """A log's number; NaN for one that is missing or too large, None for what is no number."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.nan


def duration(seconds: float) -> str:
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"

"""What every runner shares. A runner is one process: one library in training, asked for steps by lines of JSON.

A library's own training loop pulls its batches from a `Feed`. The feed gives a batch only when the driver asked for a
step, and the time until the loop wants the next batch is that step: everything the loop does is in it, nothing else.
Needs torch and safetensors alone, so that it runs in every peer's environment.

Requests, one line each, each answered by one line:
    {"steps": n}         n steps: {"wall": [s], "cpu": [s], "above": peak bytes above start and state, "dead": latents}
    {"kill": n}          the last n latents never fire again and are dead by the library's own counter: {"dead": n}
    {"score": path}      reconstructs the held-out rows: path gets x_hat (row, d) and fired (latent), {"l0": mean}
"""

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PLAIN = 8  # batches a loop may look at before step 0, for its normalisation
FAINT = 0.05  # of its encoder weights is left to a killed latent: too faint to be selected, still often above 0


@dataclass(frozen=True)
class Job:
    """One training: shape, rows and options, the same for every library.

    `file` holds `x` (row, d) and `held_out` (row, d); batches of `rows` go round `x` in order. `steps` is what the
    learning rate's schedule is laid out for: warm-up over the first 2 %, linear decay to 0 over the last 20 %.
    """

    file: str
    rows: int  # of a batch
    latents: int
    d: int
    k: int
    steps: int = 100_000
    lr: float = 1e-6
    aux: float = 1 / 32  # weight of AuxK
    dead_after: int = 10_000_000  # tokens of silence
    seed: int = 0
    threads: int = 2

    @property
    def warmup(self) -> int:
        return max(1, self.steps // 50)

    @property
    def decay(self) -> int:
        return self.steps // 5

    def rate(self, step: int) -> float:
        """The schedule, as a share of `lr`, for libraries that take a function."""
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / max(1, self.decay))

    @property
    def state(self) -> int:
        """Bytes of weights, gradients and both moments in float32."""
        return 16 * (2 * self.latents * self.d + self.latents + self.d)


class Way(Protocol):
    """A library in training. `train` runs its own loop over an endless iterator and is left by `Over`."""

    def __init__(self, job: Job): ...
    def train(self, rows: "Feed") -> None: ...
    def kill(self, latents: Tensor) -> None: ...  # make them faint, and dead for the library's counter
    def dead(self) -> int: ...
    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]: ...  # x_hat (row, d), active (row, latent) or its count


class Over(Exception):
    """No more rows: leaves a library's loop."""


class Feed:
    """Batches in turn. The first `PLAIN` come at once, the rest when a step is asked for."""

    def __init__(self, job: Job, x: Tensor, wanted: Callable[[], int], done: Callable[[float, float], None]):
        self.job, self.x, self.wanted, self.done = job, x, wanted, done
        self.given = self.left = 0
        self.began: tuple[float, float] | None = None

    def plain(self) -> Iterator[Tensor]:
        for _ in range(PLAIN):
            yield self.batch()

    def batch(self) -> Tensor:
        """The next rows, the library's own copy: one divides them in place."""
        which = self.given % (len(self.x) // self.job.rows) * self.job.rows
        self.given += 1
        return self.x[which : which + self.job.rows].clone()

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Tensor:
        if self.began is not None:
            wall, cpu = self.began
            self.done(time.perf_counter() - wall, time.process_time() - cpu)
            self.began = None
        if not self.left:
            self.left = self.wanted()
        self.left -= 1
        found = self.batch()
        self.began = time.perf_counter(), time.process_time()
        return found


def status(field: str) -> int:
    """Bytes of a memory line of this process: VmRSS now, VmHWM its peak since `reset`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def reset() -> None:
    """Forget the peak so far."""
    Path("/proc/self/clear_refs").write_text("5")


def serve(make: type[Way]) -> None:
    """Answer requests about one library until standard input ends.

    Arguments: the job as JSON, and the number of an open pipe for the answers (what a library prints is none).
    """
    job = Job(**json.loads(sys.argv[1]))
    answers = os.fdopen(int(sys.argv[2]), "w")
    torch.set_num_threads(job.threads)
    held = {name: value.clone() for name, value in load_file(job.file).items()}  # in memory, not mapped
    _try_out(make, job)
    gc.collect()
    before = status("VmRSS")
    torch.manual_seed(job.seed)
    way = make(job)
    walls: list[float] = []
    cpus: list[float] = []

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    def wanted() -> int:
        if walls:
            above = status("VmHWM") - before - job.state
            answer({"wall": walls, "cpu": cpus, "above": above, "dead": way.dead()})
            walls.clear()
            cpus.clear()
        for line in sys.stdin:
            match json.loads(line):
                case {"steps": steps}:
                    reset()
                    return steps
                case {"kill": n}:
                    way.kill(torch.arange(job.latents - n, job.latents))
                    answer({"dead": n})
                case {"score": path}:
                    answer(_score(way, held["held_out"], path))
                case other:
                    raise ValueError(f"a request is one of steps, kill, score, got {other}")
        raise Over

    def done(wall: float, cpu: float) -> None:
        walls.append(wall)
        cpus.append(cpu)

    feed = Feed(job, held["x"], wanted, done)
    try:
        way.train(feed)
        next(feed)  # some loops end with their last step, some ask for more: both can still be scored
        raise RuntimeError(f"the training was for {job.steps} steps and is over")
    except Over:
        os._exit(0)  # some libraries' threads and exit hooks take seconds


def _try_out(make: type[Way], job: Job) -> None:
    """Two steps at a tiny shape, so that what is imported and started late does not count as a step's memory."""
    tiny = replace(job, rows=64, latents=128, d=32, k=4)
    left = iter([2])

    def wanted() -> int:
        if steps := next(left, 0):
            return steps
        raise Over

    try:
        make(tiny).train(Feed(tiny, torch.randn(256, 32), wanted, lambda wall, cpu: None))
    except Over:
        return
    raise RuntimeError("the library's loop ended by itself")


@torch.no_grad()
def _score(way: Way, rows: Tensor, path: str) -> dict[str, float]:
    parts, fired, l0 = [], 0, 0.0
    for x in rows.split(1024):
        x_hat, active = way.reconstruct(x.clone())
        parts.append(x_hat.float())
        fired = fired + active.sum(0)
        l0 += float(active.sum())
    save_file({"x_hat": torch.cat(parts), "fired": torch.as_tensor(fired)}, path)
    return {"l0": l0 / len(rows)}


def scratch() -> str:
    """A folder for what a library insists on writing."""
    return tempfile.mkdtemp(prefix="bench-")

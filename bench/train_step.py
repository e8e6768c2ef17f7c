"""A training step of ours and of four peer libraries, interleaved in one run, beside the floor of encoding alone.

    python bench/peers/install.py
    python bench/train_step.py [--rounds 5] [--quality-steps 600] [--ways sparse SAELens ...] [--threads 2] [--record]
    python bench/train_step.py --rates 3e-4 1e-3 3e-3     equal-quality runs at several learning rates
    python bench/train_step.py --parts                    the parts of our own step

Every library is a process of its own that runs its own public training loop on the same rows (bench/peers/feed.py);
they take turns, A B B A. Speed: at two shapes, without dead latents and with 5 % of them dead (AuxK at work), at a
learning rate that moves nothing. Quality: a whole training at the small shape, equal tokens, FVU and dead latents on
held-out rows, measured here in float64.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from peers import install
from peers.feed import Job
from record import record

from workbench.batch import Batch
from workbench.dictionary import Progress, recipe
from workbench.dictionary.training import _Learner
from workbench.testbeds import world


class Way(NamedTuple):
    """A runner under bench/peers (run_NAME.py), its settings, and the learning rate of its equal-quality run."""

    runner: str
    env: Mapping[str, str] = {}
    lr: float = 0.0


FLOOR = "encode-only"
# rates: `--rates` tries others
WAYS = {
    FLOOR: Way("floor"),
    "sparse": Way("workbench", {"WORKBENCH_KERNELS": "sparse"}, 4e-3),
    "sparse, bf16 choice": Way("workbench", {"WORKBENCH_KERNELS": "sparse", "BENCH_ROUGH": "1"}, 4e-3),
    "dense": Way("workbench", {"WORKBENCH_KERNELS": "dense"}, 4e-3),
    "SAELens": Way("sae_lens", lr=3e-3),
    "dictionary_learning": Way("dictionary_learning", lr=3e-3),
    "sparsify": Way("sparsify", lr=3e-3),
    "overcomplete": Way("overcomplete", lr=3e-3),
}
SHAPES = ((2048, 8192, 512, 32), (4096, 18432, 576, 32))  # rows of a batch, latents, d, k
STEPS = (3, 1)  # in a turn, at each shape
SMALL = (1024, 4096, 256, 16)
DEAD = 0.05
TURNS = 12  # of an equal-quality run
SILENT = 60  # a latent counts as dead after this part of the tokens in an equal-quality run, in every library
PARTS = ("core", "encoders", "decoders", "sparsifiers", "losses", "hooks", "schedules", "training", "kernels/*")
STEP = [f"workbench/dictionary/{name}.py" for name in (*PARTS, "variants/topk_auxk")]
STEP += ["workbench/code.py", "bench/peers/*.py", "bench/peers/*.txt", "bench/train_step.py"]


class Runner:
    """One library's process: `ask` sends a request and waits for its answer."""

    def __init__(self, name: str, job: Job, log: Path):
        self.name, self.job, self.log = name, job, log
        way = WAYS[name]
        ours = way.runner in ("floor", "workbench")
        python = sys.executable if ours else str(install.python(way.runner))
        script = Path(__file__).parent / "peers" / f"run_{way.runner}.py"
        read, write = os.pipe()
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [python, str(script), json.dumps(asdict(job)), str(write)],
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                pass_fds=[write],
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": str(job.threads), "HF_HUB_OFFLINE": "1", **way.env},
            )
        os.close(write)
        self.answers = os.fdopen(read)

    def ask(self, **request: object) -> dict[str, Any]:
        """Raises RuntimeError with the end of its log when the process died."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{self.name} ended at {request}:\n{self.log.read_text()[-2000:]}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.answers.close()


def write_rows(file: Path, d: int, directions: int, rows: int, held_out: int = 0) -> None:
    """Rows of the superposition world, ten of its directions on in each, some of them rare."""
    made = world("superposition", n=directions, d=d, mean=10 / directions, zipf=True)
    parts = [made.sample(min(8192, rows - at), start=at).x for at in range(0, rows, 8192)]
    save_file({"x": torch.cat(parts), "held_out": made.sample(held_out, seed=10_000).x.contiguous()}, file)


def turns(runners: Sequence[Runner], rounds: int, steps: int) -> list[list[dict[str, Any]]]:
    """Each runner's answers: in every round all take some steps, in turn or, every other round, in turn backwards."""
    found: list[list[dict[str, Any]]] = [[] for _ in runners]
    for i in range(rounds):
        for at in range(len(runners)) if i % 2 == 0 else reversed(range(len(runners))):
            found[at].append(runners[at].ask(steps=steps))
    return found


def summary(answers: Sequence[Mapping[str, Any]], rows: int) -> dict[str, float]:
    """Medians over all steps."""
    wall, cpu = (median(s for answer in answers for s in answer[key]) for key in ("wall", "cpu"))
    return {"ms": 1e3 * wall, "tokens/s": rows / wall, "tokens/CPU s": rows / cpu}


def peak(answers: Sequence[Mapping[str, Any]]) -> float:
    """MB above weights, gradients and moments."""
    return max(answer["above"] for answer in answers) / 1e6


def speed(
    shape: Sequence[int], ways: Sequence[str], rounds: int, steps: int, threads: int, home: Path
) -> list[dict[str, Any]]:
    """A row for each way, the floor first, without dead latents and with. Raises RuntimeError where they differ."""
    file, (rows, latents, d, k) = home / "rows.safetensors", shape
    write_rows(file, d, 1024, 8 * rows)
    job = Job(str(file), rows, latents, d, k, threads=threads)
    runners = [Runner(name, job, home / f"{name}.log") for name in ways]
    found = []
    for dead in (0, round(DEAD * latents)):
        if dead:
            for runner in runners:
                runner.ask(kill=dead)
        turns(runners, 1, 1)  # to warm up
        answers = turns(runners, rounds, steps)
        kept = [summary(own, rows) for own in answers]
        for name, own, times in zip(ways, answers, kept, strict=True):
            row = {
                "rows": rows,
                "latents": latents,
                "d": d,
                "k": k,
                "dead": dead,
                "way": name,
                "version": version(name),
            }
            row |= times | {"x encode-only": times["ms"] / kept[0]["ms"]}
            if name != FLOOR:
                row |= {f"x {ways[1]}": times["ms"] / kept[1]["ms"], "MB above state": peak(own)}
                if {answer["dead"] for answer in own} != {dead}:
                    raise RuntimeError(f"{name} has {own[-1]['dead']} dead latents, not {dead}: its step is another")
            found.append(row)
            show(row)
    for runner in runners:
        runner.close()
    return found


def quality(runs: Sequence[tuple[str, float]], steps: int, threads: int, home: Path) -> list[dict[str, Any]]:
    """A row for each (way, learning rate): a whole training, then its error on held-out rows."""
    file, (rows, latents, d, k) = home / "rows.safetensors", SMALL
    write_rows(file, d, 2 * latents, 128 * rows, 16 * rows)  # more directions than latents: a dead one is a loss
    x = load_file(file)["held_out"].double()
    total = float((x - x.mean(0)).square().sum())
    job = Job(str(file), rows, latents, d, k, steps=steps, dead_after=steps * rows // SILENT, threads=threads)
    runners = [Runner(name, replace(job, lr=lr), home / f"{i}.log") for i, (name, lr) in enumerate(runs)]
    answers = turns(runners, TURNS, steps // TURNS)
    found = []
    for runner, own in zip(runners, answers, strict=True):
        scored = home / "scored.safetensors"
        l0 = runner.ask(score=str(scored))["l0"]
        result = load_file(scored)
        row = {"way": runner.name, "version": version(runner.name), "lr": runner.job.lr, "tokens": steps * rows}
        row |= {"FVU": float((x - result["x_hat"].double()).square().sum()) / total, "L0": l0}
        row |= {"dead": float((result["fired"] == 0).double().mean())} | summary(own, rows)
        row["MB above state"] = peak(own)
        found.append(row)
        show(row)
        runner.close()
    return found


def parts(threads: int) -> None:
    """Print the milliseconds of our own step at the first shape, part by part."""
    rows, latents, d, k = SHAPES[0]
    torch.set_num_threads(threads)
    x = torch.randn(rows, d, generator=torch.Generator().manual_seed(0))
    for name in ("topk_auxk", "batch_topk", "jumprelu_target_l0", "relu_l1"):
        given = {} if name == "relu_l1" else {"k": k}
        learner = _Learner(recipe(name, d=d, latents=latents, **given), 1e-6, 0)
        times: dict[str, list[float]] = {}
        for _ in range(9):
            marks = [time.perf_counter()]
            at = Progress(0, 0, rows)
            seen, terms, total = learner.forward(Batch(x, x), at)
            marks.append(time.perf_counter())
            total.backward()
            marks.append(time.perf_counter())
            learner.update(seen, terms, total, at, 1e-6)
            marks.append(time.perf_counter())
            for part, a, b in zip(("forward", "backward", "update"), marks, marks[1:], strict=False):
                times.setdefault(part, []).append(1e3 * (b - a))
        found = {part: median(values) for part, values in times.items()}
        show({"variant": name} | {f"{part} ms": value for part, value in found.items()} | {"ms": sum(found.values())})


def version(way: str) -> str:
    """The package a way runs and its version, from the peer's freeze."""
    runner = WAYS[way].runner
    if runner in ("floor", "workbench"):
        return "workbench" if runner == "workbench" else "torch"
    package = {"sparsify": "eai-sparsify"}.get(runner, runner.replace("_", "-"))
    freeze = (install.HERE / f"{runner}.txt").read_text().splitlines()
    return next(line for line in freeze if line.lower().replace("_", "-").startswith(package + "=="))


def show(row: Mapping[str, Any]) -> None:
    print("  ".join(f"{k}: {v:.4g}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="beside encode-only")
    parser.add_argument("--rounds", type=int, default=5, help="of steps, at each shape, without dead latents and with")
    parser.add_argument("--shapes", type=int, nargs="+", default=[0, 1], help="which of the two")
    parser.add_argument("--quality-steps", type=int, default=600, help="0: no equal-quality run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", help="equal-quality runs at these learning rates, no more")
    parser.add_argument("--parts", action="store_true", help="the parts of our own step, no more")
    parser.add_argument(
        "--record", action="store_true", help="write docs/measurements/train_*.json, docs/benchmarks.md"
    )
    args = parser.parse_args()
    if args.parts:
        parts(args.threads)
        return
    ways = [FLOOR, *(way for way in args.ways if way != FLOOR)]
    tables: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        if args.rates:
            tables["train_rates"] = [
                row
                for lr in args.rates
                for row in quality([(w, lr) for w in ways[1:]], args.quality_steps, args.threads, home)
            ]
        else:
            tables["train_step"] = [
                row for i in args.shapes for row in speed(SHAPES[i], ways, args.rounds, STEPS[i], args.threads, home)
            ]
            if args.quality_steps:
                runs = [(way, WAYS[way].lr) for way in ways[1:]]
                tables["train_quality"] = quality(runs, args.quality_steps, args.threads, home)
    if args.record:
        command = " ".join(["python bench/train_step.py", *sys.argv[1:]])
        for table, rows in tables.items():
            print(record(table, command, [row | {"threads": args.threads} for row in rows], STEP))


if __name__ == "__main__":
    main()

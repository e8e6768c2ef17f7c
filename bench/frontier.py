"""FVU and rise of the loss against L0: ten variants on one layer of SmolLM2-135M.

    python bench/frontier.py [--jobs 2]     docs/measurements/frontier.json, frontier_matched.json, docs/frontier.webp
    python bench/frontier.py --small        all of it once at a smoke size, into the cache

All variants see the same rows in the same order, with as many latents, steps and rows a step; each has three values of
the one argument that says how sparse it is. Documents are in one of three parts: rows to train on, rows to choose a
learning rate on, rows that only the table sees. Each variant's rate is one of RATES, by short runs at its middle value
with a seed that is used for nothing else: the one of least loss, as the variant itself weighs it. Intervals are
Student's t over seeds. `place` is 1 more than how many variants are better by an interval that lies wholly below. Rows
are kept in the cache as they come, so that a run that was killed goes on; a change of the measured code begins anew.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from effects import interval
from record import ROOT, code_hash, record

from workbench import evaluate, lineage
from workbench.batch import Batch
from workbench.dictionary import Progress, Recipe, recipe, train
from workbench.harvest import Store, collect, corpus
from workbench.subject import Subject

VARIANTS: dict[str, tuple[str, tuple[float, ...]]] = {  # what says how sparse it is; penalties chosen on seed 100
    "matching_pursuit": ("k", (8, 16, 32)),
    "topk_auxk": ("k", (8, 16, 32)),
    "batch_topk": ("k", (8, 16, 32)),
    "abs_topk": ("k", (8, 16, 32)),
    "matryoshka_batch_topk": ("k", (8, 16, 32)),
    "kron": ("k", (8, 16, 32)),
    "jumprelu_target_l0": ("k", (8, 16, 32)),
    "relu_l1": ("l1", (10.0, 5.0, 2.5)),
    "p_anneal": ("lp", (5.0, 3.0, 1.8)),
    "gated": ("l1", (8.0, 5.5, 4.0)),
}
RATES = (1e-3, 3e-3, 9e-3)
TUNING = 1000  # the seed of runs that choose a rate
MATCHED = 16  # L0 of the table that compares
USED = ("delta_ce", "dead", "reconstruction", "sparsity")
TESTED = [
    *("workbench/dictionary/*.py", "workbench/dictionary/kernels/*.py", "workbench/code.py", "workbench/evaluate/*.py"),
    *(f"workbench/dictionary/variants/{name}.py" for name in VARIANTS),
    *(f"workbench/evaluate/evals/{name}.py" for name in USED),
]
PICTURE = ROOT / "docs" / "frontier.webp"


@dataclass(frozen=True)
class Plan:
    """How large everything is. `check` rows choose the learning rates, `texts` token rows are spliced."""

    subject: str = "smollm2-135m"
    site: str = "15.resid"
    dtype: str = "bfloat16"
    rows: int = 300_000
    latents: int = 2304
    size: int = 512  # rows of a step
    steps: int = 400
    tuning_steps: int = 150
    seeds: int = 3
    check: int = 8192
    texts: int = 32


SMALL = Plan(rows=8_000, latents=256, size=128, steps=40, tuning_steps=10, seeds=2, check=512, texts=6)


class Ground(NamedTuple):
    """What all runs share: three parts of one store by document, and held-out token rows with their documents."""

    subject: Subject
    train: Store
    check: Tensor  # (row, d)
    test: Store
    tokens: Any
    documents: Tensor


class Job(NamedTuple):
    """One variant at some values of its argument, trained together on one stream."""

    kind: str  # "tuning" or "final"
    variant: str
    values: tuple[float, ...]
    rate: float
    seed: int


@cache
def ground(plan: Plan) -> Ground:
    """The plan's subject and store, harvested once."""
    subject = Subject(plan.subject, dtype=plan.dtype)
    return parted(subject, collect(subject, corpus(), plan.site, rows=plan.rows, quiet=True), plan)


def parted(subject: Subject, store: Store, plan: Plan) -> Ground:
    """Eight tenths of the rows to train on, a tenth to choose rates on, a tenth for the table; no document in two."""
    (train, held), (_, test) = store.split(test=0.2, seed=0), store.split(test=0.1, seed=0)
    assert torch.isin(test.texts, held.texts).all(), "both splits take documents in one order"
    text, _ = held.where(torch.arange(held.rows))
    own = (~torch.isin(held.texts, test.texts))[text].nonzero()[:, 0]
    check = held.gather(own[:: max(1, len(own) // plan.check)][: plan.check].contiguous(), plan.site)
    return Ground(subject, train, check, test, *evaluate.held_out(test, plan.texts, seed=0))


def tunings() -> list[Job]:
    """Every variant at its middle value and each rate."""
    return [Job("tuning", name, values[1:2], rate, TUNING) for name, (_, values) in VARIANTS.items() for rate in RATES]


def finals(plan: Plan, rates: dict[str, float]) -> list[Job]:
    return [
        Job("final", name, values, rates[name], seed)
        for seed in range(plan.seeds)
        for name, (_, values) in VARIANTS.items()
    ]


def work(plan: Plan, job: Job) -> list[dict[str, Any]]:
    """A row for each value. A tuning run that diverges has no loss."""
    torch.set_num_threads(1)
    g, steps, began = ground(plan), plan.tuning_steps if job.kind == "tuning" else plan.steps, time.process_time()
    argument, d = VARIANTS[job.variant][0], g.train.width(plan.site)
    made = [recipe(job.variant, d=d, latents=plan.latents, seed=job.seed, **{argument: v}) for v in job.values]
    stream = g.train.stream(plan.size, site=plan.site, steps=steps, seed=job.seed)
    place = {"site": plan.site, "exclusion": g.train.exclusion, "subject_fingerprint": g.subject.fingerprint}
    try:
        found = train(made, stream, lr=job.rate, seed=job.seed, progress=False, **place)
    except FloatingPointError:
        if job.kind == "final":
            raise
        scores: list[dict[str, float | None]] = [{"loss": None}] * len(made)
    else:
        scores = [{"loss": loss(one, g.check)} for one in made] if job.kind == "tuning" else judged(found, g)
    seconds = (time.process_time() - began) / len(made)
    about = {"kind": job.kind, "variant": job.variant, "rate": job.rate, "seed": job.seed, "steps": steps}
    return [about | {"value": v, "seconds": seconds} | s for v, s in zip(job.values, scores, strict=True)]


@torch.no_grad()
def loss(made: Recipe, x: Tensor) -> float:
    """What a trained recipe minimises, on rows, in units of their variance; weights as at the end of the run."""
    dictionary, end = made.dictionary, Progress(1, 1, 1)
    seen = dictionary.run(Batch(x, x), needs=made.needs)
    total = sum(float(term.loss(seen, dictionary, end)) * term.at(end) for term in made.losses.values())
    return total / float(seen.variance)


def judged(dictionaries: Sequence[Any], g: Ground) -> list[dict[str, float | None]]:
    """The table's scores on held-out rows and texts."""
    named = {str(i): one for i, one in enumerate(dictionaries)}
    told = {
        "subject": g.subject,
        "rows": g.test,
        "tokens": g.tokens,
        "texts": g.documents,
        "resamples": 2,
        "errors": "raise",
    }
    value = evaluate.run(named, USED, **told).set_index(["dictionary", "metric"])["value"]
    wanted = {"l0": "l0", "fvu": "fvu", "delta_ce": "delta_ce", "dead": "dead_share"}
    return [{key: float(value[name, metric]) for key, metric in wanted.items()} for name in named]


def kept(log: Path) -> list[dict[str, Any]]:
    """Rows of a log; a last line that a kill left unfinished does not count."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def go_on(
    plan: Plan, jobs: Iterable[Job], log: Path, pool: Executor, say: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """All rows of the jobs: those in the log, and those made now, each job's written when it is done."""
    rows, wanted = kept(log), list(jobs)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = {identity(row) for row in rows}
    todo = [job for job in wanted if not {(*job[:2], *job[3:], v) for v in job.values} <= done]
    for ended in as_completed([pool.submit(work, plan, job) for job in todo]):
        rows += ended.result()
        with log.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in ended.result()))
        for row in ended.result():
            say("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
        say(f"about {minutes(plan, rows):.0f} minutes of one core are left")
    mine = {(*job[:2], *job[3:], v) for job in wanted for v in job.values}
    return [row for row in rows if identity(row) in mine]


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("kind", "variant", "rate", "seed", "value"))


def minutes(plan: Plan, rows: Sequence[dict[str, Any]]) -> float:
    """CPU minutes that the rest takes, by what each variant's steps took so far, others by the mean."""
    left, known = 0.0, [(row["variant"], row["steps"], row["seconds"]) for row in rows]
    for name, (_, values) in VARIANTS.items():
        own = [(steps, seconds) for variant, steps, seconds in known if variant == name]
        todo = len(RATES) * plan.tuning_steps + plan.seeds * len(values) * plan.steps - sum(steps for steps, _ in own)
        like = own or [(steps, seconds) for _, steps, seconds in known]
        left += todo * sum(seconds for _, seconds in like) / sum(steps for steps, _ in like)
    return left / 60


def chosen(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Each variant's rate of least loss. Raises ValueError when a variant diverged at every rate."""
    found = {}
    for name in VARIANTS:
        own = {row["rate"]: row["loss"] for row in rows if row["variant"] == name and row["loss"] is not None}
        if not own:
            raise ValueError(f"{name} diverged at every rate of {RATES}: give lower ones")
        found[name] = min(own, key=lambda rate: own[rate])
    return found


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each variant and value: means over seeds with their intervals."""
    found = []
    for name, (argument, values) in VARIANTS.items():
        for value in values:
            own = [row for row in rows if row["variant"] == name and row["value"] == value]
            fvu, rise = (interval([row[key] for row in own]) for key in ("fvu", "delta_ce"))
            found.append(
                {"variant": name, "asked": f"{argument} = {value:g}", "lr": own[0]["rate"]}
                | {key: sum(row[old] for row in own) / len(own) for key, old in (("L0", "l0"), ("dead", "dead"))}
                | {"FVU": fvu[0], "FVU low": fvu[1], "FVU high": fvu[2]}
                | {"rise in nats": rise[0], "rise low": rise[1], "rise high": rise[2]}
                | {"seeds": len(own), "CPU s": sum(row["seconds"] for row in own)}
            )
    return found


def between(l0: float, points: Sequence[tuple[float, float]]) -> float:
    """The value at an L0 that (L0, value) points enclose, straight over log L0."""
    known, values = zip(*sorted(points), strict=True)
    return float(np.interp(math.log(l0), np.log(known), values))


def matched(rows: Sequence[dict[str, Any]], l0: float) -> list[dict[str, Any]]:
    """Every variant at one L0, between its own points; FVU by its logarithm.

    A variant with a seed whose points do not enclose that L0 is said to be outside.
    """
    found = []
    for name in VARIANTS:
        own = [row for row in rows if row["variant"] == name and row["l0"] > 0]
        seeds = [[row for row in own if row["seed"] == seed] for seed in sorted({row["seed"] for row in own})]
        row: dict[str, Any] = {"variant": name, "L0": l0}
        if seeds and all(min(r["l0"] for r in seed) <= l0 <= max(r["l0"] for r in seed) for seed in seeds):
            fvu = interval([math.exp(between(l0, [(r["l0"], math.log(r["fvu"])) for r in seed])) for seed in seeds])
            rise = interval([between(l0, [(r["l0"], r["delta_ce"]) for r in seed]) for seed in seeds])
            row |= {"FVU": fvu[0], "FVU low": fvu[1], "FVU high": fvu[2]}
            row |= {"rise in nats": rise[0], "rise low": rise[1], "rise high": rise[2]}
        found.append(row)
    for row in found:
        for what in ("FVU", "rise"):
            better = [other for other in found if f"{what} low" in other and f"{what} low" in row]
            better = [other for other in better if other[f"{what} high"] < row[f"{what} low"]]
            row[f"place by {what}"] = 1 + len(better) if f"{what} low" in row else "outside"
    return sorted(found, key=lambda row: row.get("FVU", math.inf))


def figure(points: Sequence[dict[str, Any]], caption: str) -> Any:
    """Both measures against L0, a line for each variant with its intervals."""
    from plotly.subplots import make_subplots

    from workbench.evaluate.comparison import PALETTE

    shown = make_subplots(rows=1, cols=2, subplot_titles=("FVU", "rise of the loss, nats per token"))
    for i, name in enumerate(VARIANTS):
        own = sorted((row for row in points if row["variant"] == name), key=lambda row: row["L0"])
        for column, (value, what) in enumerate((("FVU", "FVU"), ("rise in nats", "rise")), 1):
            shown.add_scatter(
                x=[row["L0"] for row in own],
                y=[row[value] for row in own],
                error_y={"array": [row[f"{what} high"] - row[value] for row in own], "thickness": 1, "width": 3},
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={"color": PALETTE[i % len(PALETTE)], "dash": "solid" if i < len(PALETTE) else "dash"},
                row=1,
                col=column,
            )
    ticks = {"type": "log", "tickvals": [1, 2, 5, 10, 20, 50, 100, 200, 500], "showgrid": True}
    shown.update_xaxes(title="active latents per row (L0)", **ticks)
    shown.update_yaxes(type="log", tickvals=[0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 2, 5])
    about = {"text": "Ten variants on SmolLM2-135M", "subtitle": {"text": caption}}
    legend = {"orientation": "h", "y": -0.2}
    return shown.update_layout(
        title=about, template="plotly_white", width=1000, height=600, margin_t=120, legend=legend
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    plan = SMALL if options.small else Plan()
    ground(plan)  # harvested here, by all cores
    home = lineage.cache() / "frontier" / lineage.fingerprint([asdict(plan), VARIANTS, RATES, code_hash(TESTED)])
    log = home / "rows.jsonl"
    print(f"rows are kept in {log}", flush=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:

        def through(jobs: Sequence[Job]) -> list[dict[str, Any]]:
            return go_on(plan, jobs, log, pool, lambda text: print(text, flush=True))

        rates = chosen(through(tunings()))
        rows = through(finals(plan, rates))
    points, beside = table(rows), matched(rows, MATCHED)
    for row in (*points, *beside):
        print("  ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    caption = (
        f"{plan.site}, {plan.latents:,} latents, {plan.steps * plan.size:,} rows of training; means of {plan.seeds} "
        "seeds with 95 % intervals"
    )
    if not options.small:
        command = " ".join(["python bench/frontier.py", *sys.argv[1:]])
        for name, found in (("frontier", points), ("frontier_matched", beside)):
            print(record(name, command, found, [*TESTED, "bench/frontier.py"]))
    sys.path.insert(0, str(ROOT / "tools"))
    from build_gallery import pictures

    print(lineage.write(home / "small.webp" if options.small else PICTURE, pictures({"": figure(points, caption)})[""]))


if __name__ == "__main__":
    main()

"""The one training loop: many recipes on one stream, with checkpoints, and the same loop in a thread."""

import math
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from filelock import AcquireReturnProxy, FileLock, Timeout
from jaxtyping import Int
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from .. import lineage
from ..batch import Batch, Exclusion, Stream
from ..site import Site
from . import files
from .core import Dictionary, Moments, Pass, Progress, Recipe, Schedule, Term
from .schedules import trapezoid

REFRESH = 10  # steps between two looks at which latents are dead
MEASURE = 65_536  # rows measured before step 0
DENSITIES = [10 ** (p / 2) for p in range(-12, 0)]  # edges of the log's histogram: half decades from 1e-6


def train(
    recipe: Recipe | Sequence[Recipe],
    stream: Stream,
    *,
    site: Site | str | None,
    target: Site | str | None = None,
    exclusion: Exclusion | None = None,
    subject_fingerprint: str | None = None,
    scale: str | int | float | None = "auto",
    lr: int | float | Sequence[float] | None = None,
    schedule: Schedule | None = None,
    coupled: Mapping[str, Term] | None = None,
    dead_after: int | None = None,
    gemm: str = "float32",
    seed: int = 0,
    folder: Path | str | None = None,
    resume: bool = True,
    log_every: int = 10,
    checkpoint_every: int = 200,
    progress: bool = True,
    stop: Callable[[], bool] | threading.Event | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
) -> Any:
    """A trained Dictionary, or a list of them for a list of recipes: all see the same batches, each with its optimiser.

    `scale`: "auto" measures the first 65,536 rows and brings the median norm of inputs and of targets to sqrt(d); a
    number multiplies both; None leaves rows as they are. `lr`: the recipe's own unless given, one or one per recipe,
    times `schedule` (a short warm-up, linear decay over the last fifth). `coupled`: terms over all dictionaries,
    loss(passes, dictionaries, progress). `dead_after`: tokens of silence after which a latent counts as dead; a
    tenth of the budget, 10M at most, unless given. `stop` ends the run early, with a checkpoint.
    `gemm="bfloat16"` ranks latents by a bfloat16 product and decides among the best quarter too many by their float32
    values: faster where the processor multiplies bfloat16, for sparsifiers that select.

    A row of the log holds the terms, L0, FVU, the dead share, and `densities`: of the rows since the last one, how many
    latents fired on none of them, then on a share in each half decade from 1e-6 on (the first takes what is below).
    With a `folder`: spec.json, weights.safetensors, an append-only log.jsonl and checkpoints (a folder each, named
    `0_variant`, for several recipes). A run that was killed goes on from its last checkpoint and ends bit for bit as if
    it had not been, on CPU with the same number of threads; a finished one is loaded.
    Raises FloatingPointError that names step, term and learning rate when a loss is not finite; ValueError when the
    folder holds another run or the rows do not fit the recipe.
    """
    recipes = [recipe] if isinstance(recipe, Recipe) else list(recipe)
    if not recipes:
        raise ValueError("no recipe to train: give one, or a list")
    for name, value in (("log_every", log_every), ("checkpoint_every", checkpoint_every)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more steps, got {value}")
    if len(stream) < 1:
        raise ValueError("the stream has no batch: give it at least one step")
    for one in recipes:
        if (
            one.fit is None
            and coupled is None
            and "finish" in one.needs
            and next(iter(stream.batches())).finish is None
        ):
            raise ValueError("a term needs `finish`: train on a live stream, a store's batches cannot run the model")
    for one in recipes:
        one.dictionary.rough = _rough(one, gemm)
    run = _Run(recipes, stream, lr, schedule, coupled or {}, dead_after, seed)
    place = {
        "site": None if site is None else Site.of(site),
        "target": None if site is None and target is None else Site.of(target or site or ""),
        "exclusion": exclusion or Exclusion(),
        "subject": subject_fingerprint,
    }
    for one in recipes:
        for name, value in place.items():
            setattr(one.dictionary, name, value)
    run.identity |= {k: v.to_json() if isinstance(v, Exclusion) else v and str(v) for k, v in place.items()}
    run.identity |= {"scale": scale} | ({} if gemm == "float32" else {"gemm": gemm})
    home = None if folder is None else Path(folder)
    with nullcontext() if home is None else _only_one(home):
        if home is not None:
            for part in home.rglob(".*.part"):  # what a killed write left; nobody else writes here now
                part.unlink()
            if resume and (done := run.finished(home)):
                return done if not isinstance(recipe, Recipe) else done[0]
        if home is None or not (resume and run.resume(home)):
            run.begin(scale, home, fresh=not resume)
        run.loop(home, log_every, checkpoint_every, progress, _asker(stop), on_row)
    done = [learner.dictionary.freeze() for learner in run.learners]
    return done[0] if isinstance(recipe, Recipe) else done


class Running:
    """A training run of `steps` in a thread: `rows` is the log so far; `wait()` gives what `train` would have given."""

    def __init__(self, recipe: Recipe | Sequence[Recipe], stream: Stream, **options: Any):
        self.rows: list[dict[str, Any]] = []
        self.steps = len(stream)
        self._stop, self._go = threading.Event(), threading.Event()
        self._go.set()
        self._result: Any = None
        self._error: BaseException | None = None
        own, given = options.pop("on_row", None), _asker(options.pop("stop", None))

        def on_row(row: dict[str, Any]) -> None:
            self.rows.append(row)
            if own is not None:
                own(row)

        def stop() -> bool:
            self._go.wait()
            return self._stop.is_set() or given()

        def work() -> None:
            try:
                self._result = train(recipe, stream, stop=stop, on_row=on_row, **options)
            except BaseException as error:  # handed to whoever waits
                self._error = error

        self._thread = threading.Thread(target=work, name="training", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def paused(self) -> bool:
        return not self._go.is_set()

    def stop(self) -> None:
        """End after the current step; what was trained so far is kept."""
        self._stop.set()
        self._go.set()

    def pause(self) -> None:
        self._go.clear()

    def resume(self) -> None:
        self._go.set()

    def wait(self, timeout: int | float | None = None) -> Any:
        """The trained dictionary or list. Raises what training raised; TimeoutError while it still runs."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"training still runs after {timeout} s: wait longer, or stop() it")
        if self._error is not None:
            raise self._error
        return self._result


def start(recipe: Recipe | Sequence[Recipe], stream: Stream, **options: Any) -> Running:
    """`train` in a background thread, with the same options."""
    return Running(recipe, stream, **options)


class _Learner:
    """One recipe in training: its optimiser, counters and log row."""

    def __init__(self, recipe: Recipe, lr: float, seed: int):
        self.recipe, self.dictionary, self.lr = recipe, recipe.dictionary, lr
        self.dictionary.train().requires_grad_(True)
        device = self.dictionary.scale_in.device
        self.idle: Int[Tensor, " latent"] = torch.zeros(self.dictionary.latents, dtype=torch.long, device=device)
        self.dead: Int[Tensor, " dead"] = torch.zeros(0, dtype=torch.long, device=device)
        self.fired: Int[Tensor, " latent"] = torch.zeros_like(self.idle)  # rows since the last row of the log
        self.rows = 0
        # first bad step of each term and of their total, -1 while there is none; on the device, read now and then
        self.bad: Int[Tensor, " term"] = torch.full((len(recipe.losses) + 1,), -1, device=device)
        self.rng = torch.Generator().manual_seed(seed)
        self.parameters = dict(self.dictionary.named_parameters())
        # a weight that lies transposed is stepped as it lies: fused Adam would copy it there and back
        self.stepped = {n: nn.Parameter(p.data.T) if _lies_transposed(p) else p for n, p in self.parameters.items()}
        self.optimiser = torch.optim.Adam(self.stepped.values(), lr=lr, betas=recipe.betas, fused=True)
        for p in self.stepped.values():
            self.optimiser.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }

    def forward(self, batch: Batch, at: Progress) -> tuple[Pass, dict[str, Tensor], Tensor]:
        if batch.x.device != self.idle.device:
            batch = _to(batch, self.idle.device)
        seen = self.dictionary.run(batch, needs=self.recipe.needs, dead=self.dead, rng=self.rng)
        terms = {name: term.loss(seen, self.dictionary, at) for name, term in self.recipe.losses.items()}
        total = sum(terms[name] * term.at(at) for name, term in self.recipe.losses.items())
        return seen, terms, total  # type: ignore[return-value]  # a recipe has at least one term

    def update(self, seen: Pass, terms: dict[str, Tensor], total: Tensor, at: Progress, lr: float) -> None:
        """Everything after the backward pass."""
        values = torch.stack([*(v.detach() for v in terms.values()), total.detach()])
        self.bad = torch.where((self.bad < 0) & ~values.isfinite(), at.step, self.bad)
        for hook in self.recipe.hooks:
            hook.before_step(self.dictionary, seen, at)
        self.optimiser.param_groups[0]["lr"] = lr
        for name, p in self.parameters.items():
            if self.stepped[name] is not p:
                self.stepped[name].grad = None if p.grad is None else p.grad.T
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.dictionary.zero_grad(set_to_none=True)
        for hook in self.recipe.hooks:
            hook.after_step(self.dictionary, seen, at)
        fired = seen.code.fired()
        self.fired += fired
        self.rows += len(seen.x)
        self.idle += len(seen.x)
        self.idle.masked_fill_(fired > 0, 0)

    def row(self, seen: Pass, terms: dict[str, Tensor], total: Tensor, after: int) -> dict[str, Any]:
        with torch.no_grad():
            error = (seen.y - seen.y_hat).square().flatten(1).sum(-1).mean()
            found = terms | {
                "total": total,
                "l0": seen.code.counts().double().mean(),
                "fvu": error / seen.variance,
                "dead": (self.idle > after).double().mean(),
            }
            return {name: float(value.detach()) for name, value in found.items()} | {"densities": self.densities()}

    def densities(self) -> list[int]:
        """Latents by the share of rows on which they fired since this was last asked: none, then half decades."""
        on = self.fired[self.fired > 0].double() / max(1, self.rows)
        bins = torch.bucketize(on, torch.tensor(DENSITIES[1:], dtype=on.dtype, device=on.device), right=True)
        counts = torch.bincount(bins, minlength=len(DENSITIES)).tolist()
        found = [len(self.fired) - len(on), *counts]
        self.fired.zero_()
        self.rows = 0
        return found

    def check(self, lr: float, step: int) -> None:
        """Raise for the first step at which a term was not finite, or for weights that are not before `step`."""
        steps = self.bad.tolist()
        if max(steps) < 0:
            for name, p in self.parameters.items():
                if not p.detach().norm().isfinite():
                    raise FloatingPointError(f"{name} is not finite after step {step - 1} (lr was {lr:.3g}): lower lr")
            return
        first = min(s for s in steps if s >= 0)
        name = [*self.recipe.losses, "total"][steps.index(first)]
        raise FloatingPointError(
            f"{name} is not finite at step {first} (lr was {lr:.3g}): lower lr, or check the store for non-finite rows"
        )

    def state(self) -> dict[str, Tensor]:
        found = {f"weights/{k}": v for k, v in self.dictionary.state_dict().items()}
        for name, p in self.stepped.items():
            found |= {f"adam/{name}/{k}": v for k, v in self.optimiser.state[p].items()}
        rest = {"idle": self.idle, "dead": self.dead, "bad": self.bad, "rng": self.rng.get_state()}
        return found | rest | {"fired": self.fired, "rows": torch.tensor(self.rows)}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copies into the tensors that are there, so that their memory layout stays."""
        for name, here in self.dictionary.state_dict().items():
            here.copy_(state[f"weights/{name}"])
        for name, p in self.stepped.items():
            for key, here in self.optimiser.state[p].items():
                here.copy_(state[f"adam/{name}/{key}"])
        self.idle.copy_(state["idle"])
        self.fired.copy_(state["fired"])
        self.rows = int(state["rows"])
        self.dead, self.bad = (state[key].clone().to(self.idle.device) for key in ("dead", "bad"))
        self.rng.set_state(state["rng"].clone())


class _Run:
    """All learners on one stream: where they stand and how they are kept."""

    def __init__(
        self,
        recipes: list[Recipe],
        stream: Stream,
        lr: int | float | Sequence[float] | None,
        schedule: Schedule | None,
        coupled: Mapping[str, Term],
        dead_after: int | None,
        seed: int,
    ):
        rates = (
            [r.lr for r in recipes] if lr is None else [lr] * len(recipes) if isinstance(lr, int | float) else list(lr)
        )
        if len(rates) != len(recipes) or not all(0 < rate < math.inf for rate in rates):
            raise ValueError(f"lr must be a positive number, or one for each of {len(recipes)} recipes, got {lr}")
        if coupled and (len(recipes) < 2 or any(r.fit for r in recipes)):
            raise ValueError("coupled terms need two or more recipes that the loop trains")
        self.learners = [_Learner(r, rate, seed) for r, rate in zip(recipes, rates, strict=True)]
        self.stream, self.schedule, self.coupled = stream, schedule or trapezoid(), coupled
        self.names = [f"{i}_{(r.call or {}).get('variant', 'dictionary')}" for i, r in enumerate(recipes)]
        self.step = self.tokens = self.budget = 0
        self.dead_after = dead_after
        self.identity: dict[str, Any] = {
            "calls": [r.call for r in recipes],
            "stream": stream.describe(),
            "steps": len(stream),
            "lr": rates,
            "seed": seed,
            "dead_after": dead_after,
            "coupled": sorted(coupled),
        }

    def begin(self, scale: str | int | float | None, home: Path | None, *, fresh: bool) -> None:
        """Measure the first rows, set scales and starting points; fit what is fitted."""
        if home is not None:
            for folder in self.folders(home):
                if fresh:
                    for name in ("spec.json", "weights.safetensors"):
                        (folder / name).unlink(missing_ok=True)
                (folder / "log.jsonl").unlink(missing_ok=True)
        moments = _measure(self.stream, self.learners[0].dictionary)
        self.budget = len(self.stream) * len(moments.first.x)
        for learner in self.learners:
            d = learner.dictionary
            _fits(d, moments.first)
            scales = _scales(scale, moments, d)
            if learner.recipe.fit is not None:
                device = d.scale_in.device
                learner.recipe.fit(
                    d,
                    (
                        Batch(b.x.to(device) * scales[0], b.y.to(device) * scales[1], b.text, b.pos)
                        for b in self.stream.batches()
                    ),
                )
            d.set_scale_(*scales)
            for hook in learner.recipe.hooks:
                hook.start(d, moments, learner.rng)

    def loop(
        self,
        home: Path | None,
        log_every: int,
        checkpoint_every: int,
        bar: bool,
        stop: Callable[[], bool],
        on_row: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        trained = [learner for learner in self.learners if learner.recipe.fit is None]
        steps = len(self.stream) if trained else 0
        after = self.dead_after if self.dead_after is not None else min(10_000_000, self.budget // 10)
        if home is not None and self.step == 0 and trained:
            self.checkpoint(home)
        began, fresh, stopped, rates = time.monotonic(), 0, False, [0.0] * len(trained)
        with tqdm(total=steps, initial=self.step, desc="train", unit="step", disable=not bar) as shown:
            batches = self.stream.batches(self.step) if self.step < steps else iter(())
            for batch in batches:
                if stop():
                    stopped = True
                    break
                at = Progress(self.step, self.tokens, self.budget)
                multiplier = self.schedule(at)
                rates = [learner.lr * multiplier for learner in trained]
                results, extra = self.forward_backward(trained, batch, at)
                for learner, (seen, terms, total), lr in zip(trained, results, rates, strict=True):
                    learner.update(seen, terms, total, at, lr)
                self.step, self.tokens, fresh = self.step + 1, self.tokens + len(batch.x), fresh + len(batch.x)
                if self.step % REFRESH == 0:
                    for learner in trained:
                        learner.dead = (learner.idle > after).nonzero().flatten()
                if self.step % log_every == 0 or self.step == steps:
                    for learner, lr, (seen, terms, total) in zip(trained, rates, results, strict=True):
                        learner.check(lr, self.step)
                        found = (
                            {"step": self.step, "tokens": self.tokens} | learner.row(seen, terms, total, after) | extra
                        )
                        found |= {"lr": lr, "tokens_per_second": fresh / max(1e-9, time.monotonic() - began)}
                        name = self.names[self.learners.index(learner)]
                        if len(self.learners) > 1:
                            found["recipe"] = name
                        if home is not None:
                            lineage.append(self.folder(home, learner) / "log.jsonl", found)
                        if on_row is not None:
                            on_row(found)
                        shown.set_postfix(fvu=f"{found['fvu']:.3f}", l0=f"{found['l0']:.1f}", refresh=False)
                if home is not None and self.step % checkpoint_every == 0 and self.step < steps:
                    for learner, lr in zip(trained, rates, strict=True):
                        learner.check(lr, self.step)
                    self.checkpoint(home)
                shown.update()
        for learner, lr in zip(trained, rates, strict=True):
            learner.check(lr, self.step)
        for learner in self.learners:
            learner.dictionary.training_summary = {
                "finished": not stopped,
                "steps": self.step,
                "tokens": self.tokens,
                "lr": learner.lr,
                "seed": self.identity["seed"],
                "stream": lineage.fingerprint(self.identity["stream"]),
                "run": self.fingerprint,
            }
        if home is not None:
            if stopped:
                self.checkpoint(home)
            for learner in self.learners:
                if learner.recipe.call is not None:
                    files.save(learner.dictionary, self.folder(home, learner))
            if not stopped:
                shutil.rmtree(home / "checkpoint", ignore_errors=True)

    def forward_backward(self, trained: list[_Learner], batch: Batch, at: Progress) -> tuple[list, dict[str, float]]:
        """Every learner's pass and gradients; without coupling each graph is freed before the next is built."""
        results = []
        for learner in trained:
            result = learner.forward(batch, at)
            if not self.coupled:
                result[2].backward()
            results.append(result)
        if not self.coupled:
            return results, {}
        passes, dictionaries = [r[0] for r in results], [learner.dictionary for learner in trained]
        terms = {name: term.loss(passes, dictionaries, at) for name, term in self.coupled.items()}
        shared = [terms[name] * term.at(at) for name, term in self.coupled.items()]
        torch.stack([*(total for _, _, total in results), *shared]).sum().backward()
        return results, {f"coupled/{name}": float(value.detach()) for name, value in terms.items()}

    @property
    def fingerprint(self) -> str:
        return lineage.fingerprint(self.identity)

    def folder(self, home: Path, learner: _Learner) -> Path:
        return home if len(self.learners) == 1 else home / self.names[self.learners.index(learner)]

    def folders(self, home: Path) -> list[Path]:
        return [self.folder(home, learner) for learner in self.learners]

    def finished(self, home: Path) -> list[Dictionary] | None:
        """The dictionaries of this very run when it has ended. Raises ValueError when the folder holds another run."""
        specs = [folder / "spec.json" for folder in self.folders(home)]
        if not all(spec.is_file() for spec in specs):
            return None
        summaries = [lineage.read_json(spec)["training"] for spec in specs]
        self._same(home, {s.get("run") for s in summaries})
        if not all(s.get("finished") for s in summaries):
            return None
        shutil.rmtree(home / "checkpoint", ignore_errors=True)  # a kill may have left it
        return [files.load(folder) for folder in self.folders(home)]

    def _same(self, home: Path, runs: set[str | None]) -> None:
        if runs != {self.fingerprint}:
            raise ValueError(
                f"{home} holds another run (its recipe, stream, lr or seed differ): choose another folder, or "
                "resume=False to replace it"
            )

    def checkpoint(self, home: Path) -> None:
        """All that the run needs to go on: a new file of tensors, then the JSON that names it."""
        folder = home / "checkpoint"
        tensors = {
            f"{i}/{name}": value.detach().cpu().contiguous().clone()
            for i, learner in enumerate(self.learners)
            for name, value in learner.state().items()
        }
        path = lineage.write_tensors(folder / f"state_{self.step:09d}.safetensors", tensors)
        lineage.write_json(
            folder / "state.json",
            {
                "step": self.step,
                "tokens": self.tokens,
                "budget": self.budget,
                "file": path.name,
                "sha256": lineage.file_hash(path),
                "run": self.fingerprint,
                "identity": self.identity,
            },
        )
        for old in folder.glob("state_*.safetensors"):
            if old != path:
                old.unlink()

    def resume(self, home: Path) -> bool:
        """Go back to the last checkpoint; False when there is none."""
        folder = home / "checkpoint"
        if not (folder / "state.json").is_file():
            return False
        state = lineage.read_json(folder / "state.json")
        self._same(home, {state["run"]})
        path = folder / state["file"]
        if not path.is_file() or lineage.file_hash(path) != state["sha256"]:
            raise ValueError(f"{path} is damaged: delete {folder} to train from the start")
        tensors = load_file(path)
        for i, learner in enumerate(self.learners):
            mine = f"{i}/"
            learner.load({k.removeprefix(mine): v for k, v in tensors.items() if k.startswith(mine)})
            lineage.cut(self.folder(home, learner) / "log.jsonl", lambda row: row["step"] <= state["step"])
        self.step, self.tokens, self.budget = state["step"], state["tokens"], state["budget"]
        return True


def _measure(stream: Stream, dictionary: Dictionary) -> Moments:
    """Means and median norms of the stream's first rows: always the same rows, so a restarted run measures the same."""
    device = dictionary.scale_in.device
    rows, sum_x, sum_y, norms_x, norms_y, first, constant = 0, None, None, [], [], None, True
    for batch in stream.batches():
        batch = _to(batch, device)
        x, y = batch.x.double(), batch.y.double()
        if not (x.isfinite().all() and y.isfinite().all()):
            raise ValueError("the stream's rows hold NaN or infinite values: collect the store again")
        first = first or batch
        constant = constant and bool((batch.y == first.y[:1]).all())
        sum_x, sum_y = (x.sum(0), y.sum(0)) if sum_x is None or sum_y is None else (sum_x + x.sum(0), sum_y + y.sum(0))
        norms_x.append(x.flatten(1).norm(dim=-1))
        norms_y.append(y.flatten(1).norm(dim=-1))
        rows += len(x)
        if rows >= MEASURE:
            break
    if first is None or sum_x is None or sum_y is None:
        raise ValueError("the stream gave no batch")
    if constant:
        raise ValueError(f"the stream's first {rows} rows are all the same: there is nothing to learn, give other rows")
    median_x, median_y = (float(torch.cat(n).median()) for n in (norms_x, norms_y))
    return Moments(rows, (sum_x / rows).float(), (sum_y / rows).float(), median_x, median_y, first)


def _scales(scale: str | int | float | None, moments: Moments, dictionary: Dictionary) -> tuple[float, float]:
    if scale is None:
        return 1.0, 1.0
    if isinstance(scale, int | float):
        return float(scale), float(scale)
    if scale != "auto":
        raise ValueError(f'scale must be "auto", a number or None, got {scale!r}')
    if min(moments.norm_x, moments.norm_y) <= 0:
        raise ValueError(f"the median norm of {moments.rows} rows is 0: there is nothing to scale, give scale=None")
    width = math.prod(dictionary.decoder.shape)
    return math.sqrt(dictionary.d) / moments.norm_x, math.sqrt(width) / moments.norm_y


def _lies_transposed(p: Tensor) -> bool:
    return p.ndim == 2 and not p.is_contiguous() and p.T.is_contiguous()


def _rough(recipe: Recipe, gemm: str) -> bool:
    """Whether a recipe's latents are ranked in bfloat16. Raises ValueError where that cannot be."""
    if gemm not in ("float32", "bfloat16"):
        raise ValueError(f"gemm must be float32 or bfloat16, got {gemm!r}")
    parts = recipe.dictionary.encoder, recipe.dictionary.sparsifier
    able = hasattr(parts[0], "rough") and hasattr(parts[1], "refine") and "pre" not in recipe.needs
    if gemm == "bfloat16" and not able and recipe.fit is None:
        raise ValueError(
            f"gemm='bfloat16' ranks the latents that a sparsifier selects, as TopK and BatchTopK do; "
            f"{(recipe.call or {}).get('variant', type(parts[1]).__name__)} does not: leave gemm out"
        )
    return gemm == "bfloat16"


def _fits(dictionary: Dictionary, batch: Batch) -> None:
    for name, rows, shape in (("x", batch.x, dictionary.shape), ("y", batch.y, dictionary.decoder.shape)):
        if tuple(rows.shape[1:]) != tuple(shape):
            raise ValueError(
                f"the stream's {name} rows have shape {tuple(rows.shape[1:])}, the recipe was made for {tuple(shape)}: "
                "give the recipe the width of the site"
            )


def _to(batch: Batch, device: torch.device) -> Batch:
    if batch.x.device == device:
        return batch
    x, y = (rows.to(device, non_blocking=True) for rows in (batch.x, batch.y))
    grads = None if batch.grads is None else batch.grads.to(device, non_blocking=True)
    return Batch(x, y, batch.text, batch.pos, grads, batch.finish)


def _asker(stop: Callable[[], bool] | threading.Event | None) -> Callable[[], bool]:
    if stop is None:
        return lambda: False
    return stop.is_set if isinstance(stop, threading.Event) else stop


def _only_one(home: Path) -> AcquireReturnProxy:
    home.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(home / ".lock").acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"another process trains in {home}: wait for it, or choose another folder") from None

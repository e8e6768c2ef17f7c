"""What a world and a subject's training task are; the seeded stream and the small training loop they share."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

BLOCK = 1024  # rows that share one random generator
HELD_OUT = 10_000  # seeds from here on are never trained on


@runtime_checkable
class World(Protocol):
    """A generative process whose truth is known.

    `sample(n, seed, start)` gives rows start .. start + n of an endless stream; row i depends on the world, the seed
    and i only. `truth` is what is known of the process itself, `figure` one picture, `_repr_html_` one line.
    """

    @property
    def truth(self) -> Any: ...

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Any: ...

    def figure(self, seed: int = 0) -> Any: ...

    def _repr_html_(self) -> str: ...


def rows(draw: Callable[[np.random.Generator, int], Any], n: int, seed: int, start: int = 0) -> Any:
    """Rows start .. start + n of a stream that `draw(rng, BLOCK)` makes block by block; a NamedTuple of tensors.

    Raises ValueError for a negative n or start.
    """
    if n < 0 or start < 0:
        raise ValueError(f"n and start must be 0 or more, got {n} and {start}")
    first, last = start // BLOCK, max(start // BLOCK + 1, math.ceil((start + n) / BLOCK))
    blocks = [draw(np.random.default_rng([seed, b]), BLOCK) for b in range(first, last)]
    cut = slice(start - first * BLOCK, start - first * BLOCK + n)
    return type(blocks[0])(*(torch.cat(parts)[cut] for parts in zip(*blocks, strict=True)))


class Quality(NamedTuple):
    """One measured score of a subject: its 95 % interval, chance level, direction, and the goal it is held to."""

    metric: str
    value: float
    low: float
    high: float
    chance: int | float
    goal: int | float
    n: int
    higher: bool = True  # is better
    unit: str = "share"

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.higher else self.value <= self.goal

    @classmethod
    def share(cls, metric: str, hits: int | float, n: int, *, chance: int | float, goal: int | float) -> "Quality":
        """A share of n independent trials, with Wilson's interval."""
        if not 0 <= hits <= n or n < 1:
            raise ValueError(f"{metric}: hits must be 0..n of n >= 1 trials, got {hits} of {n}")
        p, z = hits / n, 1.959964
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        low, high = min(p, (middle - half) / scale), max(p, (middle + half) / scale)  # rounding must not cross p
        return cls(metric, p, low, high, chance, goal, n)

    @classmethod
    def mean(
        cls,
        metric: str,
        values: Float[Tensor, " n"],
        *,
        chance: int | float,
        goal: int | float,
        unit: str,
        higher: bool = False,
    ) -> "Quality":
        """A mean over n independent values (documents, games), with its normal interval."""
        if len(values) < 2:
            raise ValueError(f"{metric}: at least two values are wanted, got {len(values)}")
        m, half = float(values.mean()), 1.959964 * float(values.std()) / math.sqrt(len(values))
        return cls(metric, m, m - half, m + half, chance, goal, len(values), higher, unit)


@dataclass(frozen=True)
class Task:
    """How a tiny subject is made. Everything is a function of a seed, so a run can be repeated.

    `batch(seed, step)` is random access: no state to lose. `quality(model, seed)` looks at held-out data only, whose
    seeds start at HELD_OUT. `keep` names the steps whose weights are kept, `seeds` all that are committed.
    """

    build: Callable[[int], nn.Module]
    batch: Callable[[int, int], Any]
    loss: Callable[[nn.Module, Any], Float[Tensor, ""]]
    quality: Callable[[nn.Module, int], list[Quality]]
    steps: int
    data: str  # one line: what it was trained on
    site: str  # where its suite trains a dictionary
    inputs: Callable[[int], Tensor]  # n held-out inputs: token ids `(text, pos)`, images or rows
    lr: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: float = 0.02  # share of the run
    final: float = 0.05  # share of the learning rate left at the end (cosine)
    tokenizer: Callable[[], Any] | None = None
    probe: Callable[[], Tensor] | None = None  # an input, for models that take neither ids nor images
    keep: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    licence: str = "MIT, weights and data"

    def __post_init__(self) -> None:
        if self.steps < 1 or any(not 0 <= k <= self.steps for k in self.keep):
            raise ValueError(f"steps must be 1 or more and keep within it, got {self.steps} and {self.keep}")


def fit(
    task: Task,
    seed: int = 0,
    *,
    seconds: int | float | None = None,
    bfloat16: bool = False,
    progress: bool = True,
    on_step: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Train by AdamW with warm-up and cosine. `seconds` squeezes the schedule into that time and is not repeatable.

    `on_step(step, model)` is called before the first step and after every one. Raises FloatingPointError at a loss that
    is not finite.
    """
    from tqdm.auto import tqdm

    torch.manual_seed(seed)
    model = task.build(seed).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    other = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": task.weight_decay}, {"params": other, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=task.lr, betas=task.betas, fused=True)
    begin = time.perf_counter()
    if on_step:
        on_step(0, model)
    bar = tqdm(range(task.steps), disable=not progress, unit="step", mininterval=5)
    for step in bar:
        done = step / task.steps
        if seconds is not None:
            done = max(done, (time.perf_counter() - begin) / seconds)
            if done >= 1:
                break
        rise = min(1.0, (done + 1 / task.steps) / max(task.warmup, 1e-9))
        for group in optimiser.param_groups:
            group["lr"] = task.lr * rise * (task.final + (1 - task.final) * 0.5 * (1 + math.cos(math.pi * done)))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = task.loss(model, task.batch(seed, step))
        if step % 50 == 0:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FloatingPointError(f"loss is {value} at step {step}: lower lr (now {task.lr})")
            bar.set_postfix(loss=f"{value:.4f}")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if on_step:
            on_step(step + 1, model)
    return model.eval().requires_grad_(False)

"""Committed subjects: 16-bit weights beside a card that says how they were made and how good they are."""

import os
import platform
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import catalogue, lineage
from ..subject import Subject
from .core import HELD_OUT, Quality, Task, World, fit

FOLDER = Path(__file__).parent / "weights"


def world(name: str, **args: Any) -> World:
    """A world by name, its parameters as arguments. Raises ValueError that lists the worlds there are."""
    return catalogue.entry("worlds", name)(**catalogue.bound("worlds", name, **args))


@cache
def _tasks() -> dict[str, Task]:
    return {
        name: task
        for entry in catalogue.names("worlds")
        for name, task in getattr(catalogue.module("worlds", entry), "TASKS", {}).items()
    }


def subject_names() -> list[str]:
    """Names of all tiny subjects."""
    return sorted(_tasks())


def task(name: str) -> Task:
    """How a subject is trained. Raises ValueError that lists the subjects there are."""
    if name not in _tasks():
        raise ValueError(f"no tiny subject is called {name!r}: there are {', '.join(subject_names())}")
    return _tasks()[name]


def stem(name: str, seed: int = 0, step: int | None = None) -> str:
    """File name of a subject's weights, without its ending."""
    return name + (f".seed{seed}" if seed else "") + ("" if step is None else f".step{step}")


def subject(name: str, *, seed: int = 0, step: int | None = None) -> Subject:
    """A committed subject, or one of its checkpoints. Raises ValueError for a seed or step that was not kept."""
    known = task(name)
    path = FOLDER / f"{stem(name, seed, step)}.safetensors"
    if not path.is_file():
        raise ValueError(
            f"{name} has no weights for seed {seed}, step {step}: kept are seeds {known.seeds} and steps {known.keep} "
            f"of seed 0; others by `python -m workbench.testbeds.train {name} --seed {seed}`"
        )
    model = load(known, path)
    tokenizer = known.tokenizer() if known.tokenizer else None
    probe = known.probe() if known.probe else None
    found = Subject(model, tokenizer, name=stem(name, seed, step), probe=probe)
    found.note = f"{name}: trained here on {known.data}"
    return found


def card(name: str, seed: int = 0) -> dict[str, Any]:
    """The card of a committed subject: data, command, seed, time, quality, licence."""
    task(name)
    return lineage.read_json(FOLDER / f"{stem(name, seed)}.json")


def own(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, each tied tensor under its first name only."""
    seen: dict[tuple[int, torch.Size], str] = {}
    return {
        name: value
        for name, value in model.state_dict().items()
        if seen.setdefault((value.data_ptr(), value.shape), name) == name
    }


def save(model: nn.Module, path: Path) -> Path:
    """Weights in float16. Raises ValueError when one of them does not fit into it."""
    held = {}
    for name, value in own(model).items():
        if value.is_floating_point() and not bool((value.abs() < 65_504).all()):
            raise ValueError(f"{name} has entries beyond float16: {value.abs().max():.3g}")
        held[name] = (value.half() if value.is_floating_point() else value).contiguous()
    return lineage.write_tensors(path, held)


def load(task: Task, path: Path) -> nn.Module:
    """The task's model with a file's weights, in float32, frozen. Raises ValueError when names or shapes do not fit."""
    from safetensors.torch import load_file

    model = task.build(0)
    held, wanted = load_file(path), own(model)
    if held.keys() != wanted.keys() or any(held[k].shape != wanted[k].shape for k in held):
        odd = sorted(held.keys() ^ wanted.keys()) or [k for k in held if held[k].shape != wanted[k].shape]
        raise ValueError(f"{path.name} does not fit the model that is built now (first: {odd[0]}): train it again")
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(held[name])
    return model.eval().requires_grad_(False)


def make(
    name: str, seed: int = 0, *, bfloat16: bool = False, progress: bool = True, folder: Path = FOLDER
) -> dict[str, Any]:
    """Train a subject in full, write its weights, checkpoints (of seed 0) and card, and return the card.

    The quality is that of the written file, not of the float32 weights. Raises ValueError when a goal is missed; the
    files are written all the same, under `.missed` names, so that the time is not lost.
    """
    known = task(name)

    def keep(step: int, model: nn.Module) -> None:
        if seed == 0 and step in known.keep:
            save(model, folder / f"{stem(name, seed, step)}.safetensors")

    wall, cpu = time.perf_counter(), time.process_time()
    model = fit(known, seed, bfloat16=bfloat16, progress=progress, on_step=keep)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    written = save(model, folder / f"{stem(name, seed)}.missed.safetensors")
    found = known.quality(load(known, written), HELD_OUT + seed)
    missed = [q for q in found if not q.met]
    path = folder / f"{stem(name, seed)}{'.missed' if missed else ''}.safetensors"
    written.replace(path)
    value = {
        "subject": name,
        "data": known.data,
        "command": f"python -m workbench.testbeds.train {name}{f' --seed {seed}' if seed else ''}"
        + (" --bfloat16" if bfloat16 else ""),
        "seed": seed,
        "steps": known.steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": path.stat().st_size,
        "cpu_seconds": round(cpu),
        "wall_seconds": round(wall),
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "quality": [q._asdict() for q in found],
        "licence": known.licence,
        "versions": lineage.versions(),
    }
    lineage.write_json(path.with_suffix(".json"), value)
    if missed:
        said = "; ".join(f"{q.metric} {q.value:.4f}, goal {q.goal}" for q in missed)
        raise ValueError(f"{name} misses its goal ({said}): it lies in {path.name}, train longer")
    return value


def qualities(name: str, seed: int = 0) -> list[Quality]:
    """The committed weights' quality, measured now."""
    return task(name).quality(load(task(name), FOLDER / f"{stem(name, seed)}.safetensors"), HELD_OUT + seed)


def machine() -> str:
    """Processor and cores, for the card."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return f"{found[1] if found else platform.processor()}, {os.cpu_count()} cores"

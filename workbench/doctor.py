"""What this machine has, what is cached, and one test figure."""

import importlib.util
import os
import shutil
import time
from pathlib import Path
from typing import Any

from . import lineage

WANTED = ("torch", "nnsight", "transformers", "plotly", "umap", "papermill", "nbconvert", "ipywidgets", "pyarrow")
BARS = "▁▂▃▄▅▆▇█"


def examine() -> dict[str, Any]:
    """Versions, device, dtype choice, cache, disk, browser, and a test figure; `problems` is a list of lines."""
    problems = [f"{name} is not installed: pip install interp-workbench" for name in WANTED if not found(name)]
    facts: dict[str, Any] = {"versions": lineage.versions(), "problems": problems}
    if "torch" not in str(problems):
        facts |= device()
    cache = lineage.cache()
    facts["cache"] = {"folder": str(cache), "holds": holds(cache)}
    existing = next(p for p in [cache, *cache.parents] if p.exists())
    facts["free_gb"] = round(shutil.disk_usage(existing).free / 1e9, 1)
    if facts["free_gb"] < 3:
        problems.append(f"{facts['free_gb']} GB free at {existing}: the default report needs about 3")
    facts["browser"] = (
        shutil.which("chromium") or shutil.which("google-chrome") or "none found (only browser tests need it)"
    )
    if not problems:
        facts["figure"], facts["sketch"] = figure(cache)
    return facts


def found(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def device() -> dict[str, Any]:
    """Where tensors live here, and whether half precision pays: one matrix product timed in both."""
    import torch

    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(), "threads": torch.get_num_threads(), "dtype": "bfloat16 (GPU)"}
    took = {}
    for name in ("float32", "bfloat16"):
        a = torch.ones(512, 576, dtype=getattr(torch, name))
        b = torch.ones(576, 1536, dtype=getattr(torch, name))
        torch.mm(a, b)
        begin = time.perf_counter()
        for _ in range(10):
            torch.mm(a, b)
        took[name] = time.perf_counter() - begin
    best = min(took, key=lambda name: took[name])
    ratio = took["float32"] / took["bfloat16"]
    note = f"{best} (bfloat16 matrix products run at {ratio:.1f} times the speed of float32)"
    return {"device": "cpu", "threads": torch.get_num_threads(), "cores": os.cpu_count(), "dtype": note}


def holds(cache: Path) -> dict[str, str]:
    """What is cached, and its size."""
    folders = [p for kind in sorted(cache.glob("*")) if kind.is_dir() for p in sorted(kind.glob("[!.]*"))]
    size = lambda folder: sum(f.stat().st_size for f in [folder, *folder.rglob("*")] if f.is_file()) / 1e6  # noqa: E731
    return {f"{p.parent.name}/{p.name}": f"{size(p):.0f} MB" for p in folders}


def figure(cache: Path) -> tuple[str, str]:
    """Draw a test figure to a self-contained page; its path and the same curve in text."""
    import math

    import plotly.graph_objects as go

    heights = [math.exp(-((i - 20) ** 2) / 60) + 0.5 * math.exp(-((i - 45) ** 2) / 90) for i in range(64)]
    drawn = go.Figure(go.Bar(y=heights), layout={"title": {"text": "workbench doctor: if you see bars, figures work"}})
    page = drawn.to_html(include_plotlyjs=True, full_html=True)
    path = lineage.write(cache / "doctor.html", page.encode())
    return str(path), "".join(BARS[min(7, int(8 * h))] for h in heights)


def tell(facts: dict[str, Any]) -> str:
    """The examination as text."""
    lines = ["versions   " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items())]
    if "device" in facts:
        lines += [f"device     {facts['device']}, {facts['threads']} threads", f"dtype      {facts['dtype']}"]
    lines.append(f"cache      {facts['cache']['folder']}, {facts['free_gb']} GB free")
    lines += [f"             {name}: {size}" for name, size in facts["cache"]["holds"].items()] or [
        "             empty"
    ]
    lines.append(f"browser    {facts['browser']}")
    if "figure" in facts:
        lines += [f"figure     {facts['sketch']}", f"           {facts['figure']}"]
    lines += [f"PROBLEM    {problem}" for problem in facts["problems"]] or ["all well"]
    return "\n".join(lines)

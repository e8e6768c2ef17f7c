"""Graphs of one model by a cross-layer transcoder and by a transcoder per layer: how much of them is not error?"""

import sys
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from rows import Rows

from workbench import testbeds
from workbench.circuits.graph import Graph
from workbench.circuits.tracers import crosslayer, transcoder
from workbench.dictionary import recipe, train
from workbench.site import Site
from workbench.subject import Subject
from workbench.testbeds.subjects import task

CLAIM = "A cross-layer transcoder's graphs have a higher replacement score than those of a transcoder per layer"
SOURCE = "Ameisen et al. 2025, Circuit Tracing"
SETTING = (
    "Othello subject, 4 layers; 1,024 latents and L0 48 over all layers by BatchTopK, 600 steps of 256 rows, lr 3e-3; "
    "8 other games of 12 moves, the likely moves' logits; bias nodes count as not explained"
)
ARMS = ("replacement score, cross-layer transcoder", "the same, a transcoder per layer")
MARGIN = 0.0
SEEDS = 5
NOTE = "At this size the two explain as much: the interval lies within one point"
GAMES, MOVES = 8, 12


@cache
def prepare() -> tuple[Subject, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The model, games to trace, and on others what its MLPs receive and give, (row, layer, d)."""
    s, texts = testbeds.subject("othello"), task("othello").inputs(300)[:, :32]
    sites = {side: [Site(i, side) for i in range(s.layers)] for side in ("mlp_in", "mlp_out")}
    h = s.read(texts[64:], [site for each in sites.values() for site in each])
    x, y = (torch.stack([h[site][:, 1:].flatten(0, 1) for site in each], 1) for each in sites.values())
    return s, texts[:64, :MOVES], x, y


def graphs(seed: int) -> tuple[list[Graph], list[Graph]]:
    """By the cross-layer transcoder, and by one per layer, of the same games."""
    s, texts, x, y = prepare()
    options: Any = {"lr": 3e-3, "seed": seed, "progress": False}
    made = recipe("crosslayer_transcoder", d=s.d, latents=1024, sites=s.layers, k=48, seed=seed)
    across = train(made, Rows(x, 256, 600, seed=seed, y=y), site=None, **options).freeze()
    each = {}
    for i in range(s.layers):
        made = recipe("matryoshka_transcoder", d=s.d, latents=256, k=12, shares=[1.0], seed=seed)  # BatchTopK too
        rows = Rows(x[:, i].contiguous(), 256, 600, seed=seed, y=y[:, i].contiguous())
        each[i] = train(made, rows, site=f"{i}.mlp_in", target=f"{i}.mlp_out", **options).freeze()
    games = texts[(seed % 8) * GAMES :][:GAMES].split(1)
    return (
        [crosslayer.trace(s, game, across, progress=False).check() for game in games],
        [transcoder.trace(s, game, each, progress=False).check() for game in games],
    )


def measure(seed: int) -> tuple[float, float]:
    first, second = graphs(seed)
    return mean(g.scores()["replacement"] for g in first), mean(g.scores()["replacement"] for g in second)

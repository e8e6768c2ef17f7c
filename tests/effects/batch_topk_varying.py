"""Rows with two or twelve directions on: one k for all, or a budget that rows share?"""

import sys
from math import ceil
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "Where sparsity varies between rows, BatchTopK has a lower error than TopK of no smaller L0"
SOURCE = "Bussmann et al. 2024, arXiv:2412.06410"
SETTING = (
    "imbalanced, 128 directions in d = 64, 2 or 12 on; 256 latents, k = 7, for TopK the other's L0 rounded up; "
    "500 steps of 256 rows"
)
ARMS = ("FVU of TopK", "FVU of BatchTopK")
MARGIN = 0.01
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("imbalanced", n=128, d=64, few=2, many=12, world_seed=seed)
    held = data.sample(4096, seed + 10_000).x
    args = {"site": None, "lr": 5e-3, "seed": seed, "progress": False}
    shared = train(recipe("batch_topk", d=64, latents=256, k=7, seed=seed), data.stream(256, 500, seed), **args)
    k = ceil(float(shared.encode(held).counts().float().mean()))
    fixed = train(recipe("topk_auxk", d=64, latents=256, k=k, seed=seed), data.stream(256, 500, seed), **args)
    return fvu(fixed, Batch(held, held)), fvu(shared, Batch(held, held))

"""Trained at one k and read at others: what does a second error at a wider code give?"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "A Multi-TopK read at two and four times its k keeps a lower error than a TopK"
SOURCE = "Gao et al. 2024, arXiv:2406.04093"
SETTING = "superposition, 128 directions in d = 64, 5 on; 256 latents, k = 4; 500 steps of 256 rows; read at k = 8, 16"
ARMS = ("mean FVU at 2 k and 4 k, TopK with AuxK", "the same, Multi-TopK")
MARGIN = 0.02
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed)
    held = data.sample(2048, seed + 10_000).x
    parts = [recipe(name, d=64, latents=256, k=4, seed=seed) for name in ("topk_auxk", "topk_multi")]
    plain, multi = train(parts, data.stream(256, 500, seed), site=None, lr=5e-3, seed=seed, progress=False)

    def error(d: Any) -> float:
        found = []
        for k in (8, 16):
            d.sparsifier.k, d.sparsifier.wide = k, None
            found.append(fvu(d, Batch(held, held)))
        return sum(found) / len(found)

    return error(plain), error(multi)

"""Atoms taken from one percent of the rows: how far from a trained autoencoder?

Encoding FLOPs of training: TopK 256,000 rows x 2 x 256 x 64 = 8.4 G (forward); ITDA at most 2,560 rows x 8 steps x 2 x
256 x 64 = 0.67 G, twice for rows that are judged again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "ITDA on 1 % of the rows comes within 0.2 of the FVU of a TopK autoencoder at equal k"
SOURCE = "Leask et al. 2025"
SETTING = (
    "superposition, 128 directions in d = 64, 5 on; 256 atoms, k = 8; TopK 256,000 rows (8.4 GFLOP), ITDA 2,560 (<1.4)"
)
ARMS = ("FVU of TopK", "FVU of ITDA")
MARGIN = -0.2
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed)
    held = data.sample(2048, seed + 10_000).x

    def error(name: str, steps: int) -> float:
        made = recipe(name, d=64, latents=256, k=8, seed=seed)
        d = train(made, data.stream(256, steps, seed), site=None, lr=5e-3, seed=seed, progress=False)
        return fvu(d, Batch(held, held))

    return error("topk_auxk", 1000), error("itda", 10)

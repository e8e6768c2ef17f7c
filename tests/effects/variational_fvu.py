"""Noise and a prior on the latents of a TopK: what does reconstruction pay?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "A variational TopK reconstructs worse than a TopK at equal k"
SOURCE = "Baker and Li 2025"
SETTING = "superposition, 128 directions in d = 64, 5 on; 256 latents, k = 5; 500 steps of 256 rows"
ARMS = ("FVU of the variational TopK", "FVU of TopK")
MARGIN = 0.01
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed)
    held = data.sample(4096, seed + 10_000).x
    parts = [recipe(name, d=64, latents=256, k=5, seed=seed) for name in ("variational_topk", "topk")]
    noisy, plain = train(parts, data.stream(256, 500, seed), site=None, lr=5e-3, seed=seed, progress=False)
    return fvu(noisy, Batch(held, held)), fvu(plain, Batch(held, held))

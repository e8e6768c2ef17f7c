"""Codes read at eight times the trained k."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "A TopK trained for one k degrades at a larger one, an MSAE does not"
SOURCE = "Zaigrajew et al. 2025"
SETTING = "superposition, 128 directions in d = 64, 5 on; 192 latents; 300 steps of 256 rows"
ARMS = ("FVU at k = 16 of a TopK trained for 2", "the same, MSAE trained from 2 on")
MARGIN = 0.05
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data, found = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed), []
    held = data.sample(2048, seed + 10_000).x
    parts = [recipe(name, d=64, latents=192, k=2, seed=seed) for name in ("topk_auxk", "matryoshka_sparsity")]
    for d in train(parts, data.stream(256, 300, seed), site=None, lr=5e-3, seed=seed, progress=False):
        d.sparsifier.k = 16
        found.append(fvu(d, Batch(held, held)))
    return found[0], found[1]

"""Codes read at eight times the trained k."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "A TopK trained for one k degrades at a larger one, an MSAE does not"
SOURCE = "Zaigrajew et al. 2025"
SETTING = "superposition, 128 directions in d = 64, 5 on; 256 latents; 500 steps of 256 rows"
ARMS = ("FVU at k = 16 of a TopK trained for 2", "the same, MSAE trained from 2 on")
MARGIN = 0.05
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed)
    held = data.sample(2048, seed + 10_000).x

    def made(name: str, k: int) -> Any:
        stream = data.stream(256, 500, seed)
        return train(
            recipe(name, d=64, latents=256, k=k, seed=seed), stream, site=None, lr=5e-3, seed=seed, progress=False
        )

    def error(name: str) -> float:
        d = made(name, 2)
        d.sparsifier.k = 16
        return fvu(d, Batch(held, held))

    return error("topk_auxk"), error("matryoshka_sparsity")

"""One MSAE against a TopK for each k."""

import sys
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "One MSAE is on the frontier of TopKs trained for each k: within one point of FVU"
SOURCE = "Zaigrajew et al. 2025"
SETTING = "superposition, 128 directions in d = 64, 5 on; 256 latents; 500 steps of 256 rows"
ARMS = ("mean FVU over k = 2, 4, 8, 16, a TopK for each", "the same, one MSAE")
MARGIN = -0.01
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed)
    held = data.sample(2048, seed + 10_000).x

    def made(name: str, k: int) -> Any:
        stream = data.stream(256, 500, seed)
        return train(
            recipe(name, d=64, latents=256, k=k, seed=seed), stream, site=None, lr=5e-3, seed=seed, progress=False
        )

    def error(d: Any, k: int) -> float:
        d.sparsifier.k = k
        return fvu(d, Batch(held, held))

    ks, one = (2, 4, 8, 16), made("matryoshka_sparsity", 2)
    each = [error(made("topk_auxk", k), k) for k in ks]
    return mean(each), mean([error(one, k) for k in ks])

"""One MSAE against a TopK for each k."""

import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "One MSAE is on the frontier of TopKs trained for each k: within one point of FVU"
SOURCE = "Zaigrajew et al. 2025"
SETTING = "superposition, 128 directions in d = 64, 5 on; 192 latents; 300 steps of 256 rows"
ARMS = ("mean FVU over k = 2, 4, 8, 16, a TopK for each", "the same, one MSAE")
MARGIN = -0.01
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data, ks = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed), (2, 4, 8, 16)
    held = data.sample(2048, seed + 10_000).x
    parts = [recipe("topk_auxk", d=64, latents=192, k=k, seed=seed) for k in ks]
    parts.append(recipe("matryoshka_sparsity", d=64, latents=192, k=2, seed=seed))
    *each, one = train(parts, data.stream(256, 300, seed), site=None, lr=5e-3, seed=seed, progress=False)
    nested = []
    for k in ks:
        one.sparsifier.k = k
        nested.append(fvu(one, Batch(held, held)))
    return mean(fvu(d, Batch(held, held)) for d in each), mean(nested)

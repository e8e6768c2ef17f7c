"""As many numbers per row: what are components and coordinates worth where directions are in superposition?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "At equal L0 the best of PCA, ICA, NMF and single coordinates loses to a TopK autoencoder"
SOURCE = "Cunningham et al. 2023"
SETTING = "superposition, 128 directions in d = 64, 5 on; 8 numbers per row; TopK 256 latents, 500 steps of 256 rows"
ARMS = ("smallest FVU of the four", "FVU of TopK")
MARGIN = 0.3
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed)
    held = data.sample(2048, seed + 10_000).x

    def error(name: str, **args: int) -> float:
        made = recipe(name, d=64, k=8, seed=seed, **args)
        steps = 500 if made.losses else 32
        d = train(made, data.stream(256, steps, seed), site=None, lr=5e-3, seed=seed, progress=False)
        return fvu(d, Batch(held, held))

    return min(error(name) for name in ("pca", "ica", "nmf", "neurons")), error("topk_auxk", latents=256)

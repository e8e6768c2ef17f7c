"""More steps at test time than in training: does the error fall?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "A matching pursuit improves with more steps at test time, a TopK does not"
SOURCE = "Costa et al. 2025"
SETTING = (
    "superposition, 128 directions in d = 64, 5 on; 128 latents, k = 5 in training and 10 at test; 400 steps of 256"
)
ARMS = ("share of its FVU that doubled k removes, matching pursuit", "the same, TopK")
MARGIN = 0.1
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data, found = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed), []
    held = data.sample(2048, seed + 10_000).x
    parts = [recipe(name, d=64, latents=128, k=5, seed=seed) for name in ("matching_pursuit", "topk_auxk")]
    both = train(parts, data.stream(256, 400, seed), site=None, lr=5e-3, seed=seed, progress=False)
    for d, chooses in zip(both, (both[0].encoder, both[1].sparsifier), strict=True):
        at_k = fvu(d, Batch(held, held))
        chooses.k = 10
        found.append(1 - fvu(d, Batch(held, held)) / at_k)
    return found[0], found[1]

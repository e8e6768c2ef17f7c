"""A tree of directions: does a pursuit keep the parents?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import recovered

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "Matching pursuit recovers hierarchical atoms that one-shot encoders absorb"
SOURCE = "Costa et al. 2025"
SETTING = "hierarchy, 20 directions in d = 32; 20 latents, k = 4; 600 steps of 256 rows"
ARMS = ("share of directions found (cosine 0.95), matching pursuit", "the same, TopK")
MARGIN = 0.1
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("hierarchy", world_seed=seed)

    def share(name: str) -> float:
        made = recipe(name, d=32, latents=20, k=4, seed=seed)
        d = train(made, data.stream(256, 600, seed), site=None, lr=5e-3, seed=seed, progress=False)
        return recovered(d.atoms(), data.truth, 0.95)

    return share("matching_pursuit"), share("topk_auxk")

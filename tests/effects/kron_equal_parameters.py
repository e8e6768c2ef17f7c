"""Latents that fire in blocks: what does a factored encoder of equal size cost?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "KronSAE matches TopK at equal parameters: within one point of FVU"
SOURCE = "Kurochkin et al. 2025"
SETTING = (
    "correlated, 64 directions in blocks of 8; k = 8; 128 latents in heads of 2 x 4, against 112; 800 steps of 256"
)
ARMS = ("FVU of TopK", "FVU of KronSAE")
MARGIN = -0.01
SEEDS = 8
NOTE = (
    "It is behind by just about the margin, so the interval holds it. At the best of four rates for both (0.01); at "
    "0.005 and 0.002 KronSAE is 1.2 and 1.7 points behind (seed 100)"
)


def measure(seed: int) -> tuple[float, float]:
    data = world("correlated")
    held = data.sample(2048, seed + 10_000).x
    parts = [recipe(name, d=64, latents=n, k=8, seed=seed) for name, n in (("topk_auxk", 112), ("kron", 128))]
    first, second = train(parts, data.stream(256, 800, seed), site=None, lr=1e-2, seed=seed, progress=False)
    return fvu(first, Batch(held, held)), fvu(second, Batch(held, held))

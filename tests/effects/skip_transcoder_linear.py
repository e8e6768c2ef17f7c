"""A map that is partly linear: what does a skip connection save?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import Planted, fvu

from workbench.dictionary import recipe, train

CLAIM = "A skip transcoder predicts better than a transcoder at equal k where the map has a linear part"
SOURCE = "Paulo, Shabalin, Belrose 2025, arXiv:2501.18823"
SETTING = (
    "sparse map of 48 directions in d = 32 plus a random matrix times the row; k = 4, 96 latents, 300 steps of 256 rows"
)
ARMS = ("FVU of the transcoder", "FVU with the skip")
MARGIN = 0.02
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    found = []
    for name in ("transcoder", "skip_transcoder"):
        stream = Planted(d=32, atoms=48, on=4.0, steps=300, seed=seed, kind="pair", linear=0.5)
        made = recipe(name, d=32, latents=96, k=4, seed=seed)
        found.append(fvu(train(made, stream, site=None, progress=False, lr=3e-3), stream.batch(10_000)))
    return found[0], found[1]

"""A tree of directions: is a root's latent on where a child is on?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from matryoshka_absorption import kept

CLAIM = "Matryoshka keeps a root's latent on also with prefix widths that are not the tree's"
SOURCE = "Bussmann et al. 2025, arXiv:2503.17547"
SETTING = (
    "hierarchy, 20 directions in d = 32, roots on in 40 % of rows; 20 latents, k = 2, prefixes of 1, 2, 5, 10, 20 (the "
    "tree has 3, 12, 20); 800 steps of 256 rows"
)
ARMS = (
    "share of children's rows, less that of rows without the root, in which the root's latent is on, Matryoshka",
    "the same, BatchTopK",
)
MARGIN = 0.1
SEEDS = 8
NOTE = (
    "Of roots only, on worlds drawn anew. Over all parents 24 seeds were inconclusive, 0.14 [0.09, 0.19]: the "
    "second level, whose children are rare, keeps its parents in both (0.75 to 1, seeds 100 to 102)"
)


def measure(seed: int) -> tuple[float, float]:
    return kept(seed, (1 / 20, 2 / 20, 5 / 20, 10 / 20, 1.0))

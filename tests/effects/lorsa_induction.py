"""The second layer of an induction model: does a sparse replacement of its attention find the induction head?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from lorsa_previous import patterns
from torch import Tensor

CLAIM = "A Lorsa of the second layer of an induction model has a pattern as much on what followed before as the model's"
SOURCE = "He et al. 2025, arXiv:2504.20938"
SETTING = "the induction subject, layer 1; 64 latents in 4 patterns, k = 8; 400 steps of 16 texts; held-out texts"
ARMS = ("attention to the match, best Lorsa pattern", "the model's best head")
MARGIN = -0.1
SEEDS = 3


def measure(seed: int) -> tuple[float, float]:
    ours, own, match = patterns(1, seed)

    def best(pattern: Tensor) -> float:
        there = match >= 0
        aim = match.clamp_min(0)[:, None, :, None].expand(-1, pattern.shape[1], -1, 1)
        return float(pattern.gather(-1, aim)[..., 0].transpose(1, 2)[there].mean(0).max())

    return best(ours), best(own)

"""Patterns made from the weights of a bilinear classifier, laid over digits: do they fool it?"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from bilinear_twenty import accuracy, held, trained

from workbench.circuits.tracers.bilinear import adversarial

CLAIM = "A mask made from the weights alone lowers a bilinear classifier's accuracy more than a random one of its norm"
SOURCE = "Pearce, Dooms et al. 2024, arXiv:2410.08417"
SETTING = (
    "784 pixels, d = 256, 256 products; 1,500 steps of 256 noisy digits, lr 0.002; the 2,000 held-out digits; masks of "
    "norm 6 with either sign: for ten pairs of digits the top eigenvector of their forms' difference, or normal noise"
)
ARMS = ("accuracy under a random mask, mean of ten", "accuracy under a mask from the weights, mean of ten")
MARGIN = 0.1
SEEDS = 4
NORM = 6.0


def measure(seed: int) -> tuple[float, float]:
    forms, (x, label) = trained(seed), held()
    rng = torch.Generator().manual_seed(seed)
    drawn = torch.nn.functional.normalize(torch.randn(10, 784, generator=rng), dim=-1)
    made = torch.stack([adversarial(forms, a, (a + 3) % 10) for a in range(10)])

    def under(masks: torch.Tensor) -> float:
        both = [accuracy(forms(x + sign * NORM * mask), label) for mask in masks for sign in (1, -1)]
        return sum(both) / len(both)

    return under(drawn), under(made)

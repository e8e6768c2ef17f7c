"""How many bits does a row take, with half, all and twice the latents that there are directions?

A row is sent as its code and what the code leaves, all rounded to multiples of STEP, each latent and each coordinate
coded by itself by the frequencies of its values. A latent that is off costs what its being off says: with that, the sum
over latents is the paper's, H(p) + p H(value | on).
"""

from typing import Any

import torch

from workbench.code import Code
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "The description of rows is shortest at the true number of latents"
SOURCE = "Ayonrinde et al. 2024, arXiv:2410.11179"
SETTING = "superposition, 24 directions in d = 32, 2 on; BatchTopK, k = 2, 12, 24 or 48 latents; 1000 steps of 256 rows"
ARMS = ("bits per row with half or twice the latents, the fewer of the two", "bits per row with 24 latents")
MARGIN = 0.0
SEEDS = 8
STEP = 0.05  # five standard deviations of the noise


def entropy(values: torch.Tensor) -> float:
    share = values.unique(return_counts=True)[1] / len(values)
    return -float((share * share.log2()).sum())


def bits(d: Any, x: torch.Tensor) -> float:
    """Bits per row for code and residual."""
    size = d.atoms().norm(dim=-1)
    code = (d.encode(x).to_dense() * size / STEP).round()
    left = ((x - d.decode(Code.dense(code * STEP / size))) / STEP).round()
    return sum(entropy(column) for column in [*code.T, *left.T])


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=24, d=32, mean=2 / 24, world_seed=seed)
    held = data.sample(8192, seed + 10_000).x
    parts = [recipe("batch_topk", d=32, latents=m, k=2, seed=seed) for m in (12, 24, 48)]
    made = train(parts, data.stream(256, 1000, seed), site=None, lr=3e-2, seed=seed, progress=False)
    half, true, twice = (bits(d, held) for d in made)
    return min(half, twice), true

"""Error at one L0: JumpReLU against gated."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import fvu

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "At the same L0 the error of JumpReLU with a target is at or under that of a gated autoencoder"
SOURCE = "Rajamanoharan et al. 2024, arXiv:2407.14435"
SETTING = (
    "superposition, 128 directions in d = 64, 5 on; 256 latents, k = 5, gated between two penalties; 500 steps of 256 "
    "rows; learning rates 0.02 for gated, 0.005 for JumpReLU, the best of three each on seed 100"
)
ARMS = ("FVU of gated at the other's L0", "FVU of JumpReLU with target 5")
MARGIN = 0.0
SEEDS = 8
PENALTIES = (8.0, 4.0)


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed)
    held = data.sample(4096, seed + 10_000).x
    gates = [recipe("gated", d=64, latents=256, l1=l1, seed=seed) for l1 in PENALTIES]
    parts = [*gates, recipe("jumprelu_target_l0", d=64, latents=256, k=5, seed=seed)]
    rates = [2e-2, 2e-2, 5e-3]
    made = train(parts, data.stream(256, 500, seed), site=None, lr=rates, seed=seed, progress=False)
    *l0, asked = (float(d.encode(held).counts().float().mean()) for d in made)
    *errors, jump = (fvu(d, Batch(held, held)) for d in made)
    assert l0 == sorted(l0) and l0[0] <= asked <= l0[-1], (l0, asked)
    return float(np.interp(asked, l0, errors)), jump

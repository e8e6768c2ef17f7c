"""A rule without k: does the number of latents that are on follow the data?"""

import torch

from workbench.dictionary import recipe, sparsifiers, train
from workbench.testbeds import world

CLAIM = "Top-AFA finds the number of directions that are on without being told k, within 25 %"
SOURCE = "Lee et al. 2025, arXiv:2503.24277"
SETTING = (
    "superposition, 64 directions in d = 64, 3, 6 or 9 on; 64 latents, at most 32 looked at; 600 steps of 256 rows"
)
ARMS = ("25 %", "mean relative error of L0 over the three")
MARGIN = 0.0
SEEDS = 8
NOTE = (
    "It takes three to four times as many in nearly every setting that was tried, twice as many where only 12 are "
    "looked at: that limit decides. In the control the rule sees the true code, of directions that are orthogonal"
)
SWEEP = [
    {"control": True},
    {"match": 0.0},
    {"match": 1.0},
    {"match": 10.0},
    {"most": 12},
    {"lr": 2e-3},
    {"lr": 2e-2},
    {"d": 256},
    {"steps": 2400},
]


def measure(
    seed: int,
    *,
    match: float = 0.1,
    most: int = 32,
    lr: float = 5e-3,
    d: int = 64,
    steps: int = 600,
    control: bool = False,
) -> tuple[float, float]:
    """Control: the rule chooses from the true coefficients themselves, and directions are orthogonal."""
    found = []
    for on in (3, 6, 9):
        data = world("superposition", n=64, d=d, mean=on / 64, world_seed=seed)
        held = data.sample(4096, seed + 10_000)
        true = (held.code > 0).sum(-1).float().mean()
        if control:
            pre = torch.cat([held.code, held.code.norm(dim=-1, keepdim=True)], 1)
            code = sparsifiers.TopAFA(most)(pre)
        else:
            made = recipe("top_afa", d=d, latents=64, most=most, match=match, seed=seed)
            found_in = train(made, data.stream(256, steps, seed), site=None, lr=lr, seed=seed, progress=False)
            code = found_in.encode(held.x)
        found.append(abs(float(code.counts().float().mean() / true) - 1))
    return 0.25, sum(found) / len(found)

"""A rule without k: does the number of latents that are on follow the data?"""

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "Top-AFA finds the number of directions that are on without being told k, within 25 %"
SOURCE = "Lee et al. 2025, arXiv:2503.24277"
SETTING = (
    "superposition, 64 directions in d = 64, 3, 6 or 9 on; 64 latents, at most 32 looked at; 600 steps of 256 rows"
)
ARMS = ("25 %", "mean relative error of L0 over the three")
MARGIN = 0.0
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    found = []
    for on in (3, 6, 9):
        data = world("superposition", n=64, d=64, mean=on / 64, world_seed=seed)
        made = recipe("top_afa", d=64, latents=64, most=32, seed=seed)
        d = train(made, data.stream(256, 600, seed), site=None, lr=5e-3, seed=seed, progress=False)
        held = data.sample(4096, seed + 10_000)
        true = (held.code > 0).sum(-1).float().mean()
        found.append(abs(float(d.encode(held.x).counts().float().mean() / true) - 1))
    return 0.25, sum(found) / len(found)

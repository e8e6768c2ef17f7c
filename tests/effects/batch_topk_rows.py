"""How many latents are on in a row, and how many directions made it. Longer rows pass any threshold more often: the
control is the same dictionary before training, its threshold found the same way."""

import torch

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "A row's L0 under BatchTopK follows the number of directions that are on in it"
SOURCE = "Bussmann et al. 2024, arXiv:2412.06410"
SETTING = "superposition, 128 directions in d = 64, 5 on (binomial); 256 latents, k = 5; 600 steps of 256 rows"
ARMS = ("correlation of a row's L0 with the true one, BatchTopK", "the same, before training")
MARGIN = 0.1
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed)
    held = data.sample(4096, seed + 10_000)

    def follows(steps: int, lr: float) -> float:
        made = recipe("batch_topk", d=64, latents=256, k=5, seed=seed)
        d = train(made, data.stream(256, steps, seed), site=None, lr=lr, seed=seed, progress=False)
        pairs = torch.stack([d.encode(held.x).counts(), (held.code > 0).sum(-1)])
        return float(torch.corrcoef(pairs.float())[0, 1])

    return follows(600, 5e-3), follows(20, 1e-9)

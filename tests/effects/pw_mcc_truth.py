"""Good or bad, half-trained or trained: do two seeds agree as far as both agree with the truth?"""

import torch
from scipy.stats import spearmanr

from workbench import geometry
from workbench.dictionary import recipe, train
from workbench.evaluate.evals.consistency import agreement
from workbench.testbeds import world

CLAIM = "Agreement between two seeds (PW-MCC) ranks dictionaries as their agreement with the truth (GT-MCC) does"
SOURCE = "Song et al. 2025, arXiv:2505.20254"
SETTING = (
    "superposition, 48 directions in d = 32, 3 on; 48 latents; nine settings: 30, 100 and 300 steps of 256 rows of "
    "TopK, k = 3 and 8, and of BatchTopK, k = 3; two seeds each, own rows"
)
ARMS = ("Spearman correlation of PW-MCC and GT-MCC over the settings", "the same, settings shuffled (mean of 200)")
MARGIN = 0.8
SEEDS = 8
KINDS = (("topk_auxk", 3), ("topk_auxk", 8), ("batch_topk", 3))


def pairs(seed: int) -> list[tuple[float, float]]:
    """PW-MCC and GT-MCC of each setting."""
    data, found = world("superposition", n=48, d=32, mean=3 / 48, world_seed=seed), []
    for steps in (30, 100, 300):
        made = [[recipe(v, d=32, latents=48, k=k, seed=2 * seed + i) for v, k in KINDS] for i in range(2)]
        both = [
            train(parts, data.stream(256, steps, 2 * seed + i), site=None, lr=5e-3, seed=2 * seed + i, progress=False)
            for i, parts in enumerate(made)
        ]
        for a, b in zip(*both, strict=True):
            true = [geometry.match(data.truth, d.atoms().detach(), absolute=True).cosines.mean() for d in (a, b)]
            found.append((float(agreement(a, b).matched.mean()), float(sum(true)) / 2))
    return found


def measure(seed: int) -> tuple[float, float]:
    between, true = (torch.tensor(side) for side in zip(*pairs(seed), strict=True))
    drawn = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(true), generator=drawn) for _ in range(200)]
    shuffled = [float(spearmanr(between[order], true).statistic) for order in orders]
    return float(spearmanr(between, true).statistic), sum(shuffled) / len(shuffled)

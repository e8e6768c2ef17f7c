"""Directions that take either sign: how many latents does it take to hold both ends?"""

from torch.nn.functional import normalize

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "AbsTopK finds as many signed directions, within a tenth, as a TopK with twice the latents"
SOURCE = "Zhu et al. 2025, arXiv:2510.00404"
SETTING = "superposition, 64 axes in d = 48, 4 on, signs at random; k = 4; 800 steps of 256 rows"
ARMS = ("share of 128 ends found (cosine 0.9), AbsTopK with 64 latents", "the same, TopK with AuxK and 128 latents")
MARGIN = -0.1
SEEDS = 24
NOTE = "At the first 8 seeds inconclusive, -0.063 [-0.101, -0.024]: measured on 24"


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=64, d=48, mean=4 / 64, signed=1.0, world_seed=seed)
    parts = [
        recipe("abs_topk", d=48, latents=64, k=4, seed=seed),
        recipe("topk_auxk", d=48, latents=128, k=4, seed=seed),
    ]
    both, one = train(parts, data.stream(256, 800, seed), site=None, lr=1e-2, seed=seed, progress=False)
    cosine = data.truth @ normalize(one.atoms(), dim=-1).T
    ends = ((cosine.amax(-1) >= 0.9).float().mean() + (cosine.amin(-1) <= -0.9).float().mean()) / 2
    axes = (data.truth @ normalize(both.atoms(), dim=-1).T).abs().amax(-1) >= 0.9
    return float(axes.float().mean()), float(ends)

"""Rare directions: does a loss that leans towards the worst rows find more of them?"""

from torch.nn.functional import normalize

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "A tilted loss recalls more of the rarest directions"
SOURCE = "Muhamed et al. 2024, arXiv:2411.00743"
SETTING = "world rare_tail: 48 directions, 16 more on in 0.1 % of rows; d = 32, k = 4, 80 latents; 400 steps"
ARMS = ("share of rare directions recalled (cosine 0.8), tilted", "the same, plain mean")
MARGIN = 0.05
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    made, found = world("rare_tail", n=48, tail=16, d=32, mean=0.06, rare=1e-3, world_seed=seed), []
    for name in ("tilted", "topk_auxk"):
        parts = recipe(name, d=32, latents=80, k=4, seed=seed)
        atoms = train(parts, made.stream(256, 400, seed), site=None, progress=False, lr=3e-3).atoms()
        best = (normalize(made.truth[48:], dim=-1) @ normalize(atoms, dim=-1).T).amax(-1)
        found.append(float((best > 0.8).float().mean()))
    return found[0], found[1]

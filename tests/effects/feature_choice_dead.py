"""Each latent chooses rows: is any left without?"""

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "Feature Choice leaves fewer latents dead than a TopK"
SOURCE = "Ayonrinde 2024, arXiv:2411.02124"
SETTING = "superposition, 64 directions in d = 32, 4 on; 512 latents, k = 4; 600 steps of 256 rows"
ARMS = ("share of latents silent in 16,384 held-out rows, TopK", "the same, Feature Choice")
MARGIN = 0.03
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=64, d=32, mean=4 / 64, world_seed=seed)
    held = data.sample(16_384, seed + 10_000).x
    parts = [recipe(name, d=32, latents=512, k=4, seed=seed) for name in ("topk", "feature_choice")]
    plain, choosing = train(parts, data.stream(256, 600, seed), site=None, lr=3e-3, seed=seed, progress=False)
    return tuple(float((d.encode(held).fired() == 0).float().mean()) for d in (plain, choosing))  # type: ignore[return-value]

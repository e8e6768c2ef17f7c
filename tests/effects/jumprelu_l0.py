"""A JumpReLU that is asked for an L0: what does it have on rows that it has not seen?"""

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "JumpReLU with a target reaches the L0 it is asked for, within 5 %"
SOURCE = "Rajamanoharan et al. 2024, arXiv:2407.14435"
SETTING = "superposition, 128 directions in d = 64, 5 on; 256 latents, asked for 5, 8 and 12; 600 steps of 256 rows"
ARMS = ("5 %", "largest relative error of the three held-out L0")
MARGIN = 0.0
SEEDS = 8
NOTE = (
    "Pre-activations within the kernel: 1.7 % when 5 are asked for, 7 to 10 % at 10 (seed 100). Asked for fewer than "
    "the five that are on, it does not get there: 3.3 to 4.5 for an asked 3, over eight settings of learning rate, "
    "steps, penalty, warm-up, kernel and first threshold; then 0.6 to 1.2 % are within the kernel, or 3.4 % within one "
    "twice as wide"
)


def measure(seed: int) -> tuple[float, float]:
    data, asked = world("superposition", n=128, d=64, mean=5 / 128, world_seed=seed), (5, 8, 12)
    held = data.sample(4096, seed + 10_000).x
    parts = [recipe("jumprelu_target_l0", d=64, latents=256, k=k, seed=seed) for k in asked]
    made = train(parts, data.stream(256, 600, seed), site=None, lr=5e-3, seed=seed, progress=False)
    found = [float(d.encode(held).counts().float().mean()) for d in made]
    return 0.05, max(abs(l0 / k - 1) for l0, k in zip(found, asked, strict=True))

"""Wider dictionaries with as many rows for each latent: do two seeds still share their latents?"""

from workbench.dictionary import recipe, train
from workbench.evaluate.evals.consistency import agreement
from workbench.testbeds import world

CLAIM = "The share of latents that two seeds share falls as the dictionary grows, at equal rows per latent"
SOURCE = "Paulo & Belrose 2025, arXiv:2501.16615"
SETTING = (
    "superposition, 48 directions in d = 32, 3 on; TopK, k = 3, of 48 and of 192 latents, 1600 rows per latent in "
    "batches of 256, each seed its own; shared: one partner by atoms and encoder columns, cosines above 0.7"
)
ARMS = ("share of latents that two seeds share, 48 latents", "the same, 192 latents")
MARGIN = 0.05
SEEDS = 6
NOTE = (
    "0.245 of 192 latents are 47: as many as there are directions, so what a wide dictionary has beyond the truth is "
    "what its seeds do not share. In one order of rows for both seeds it is the same: 0.667 and 0.25 (seed 0; own rows "
    "0.667 and 0.245). Random unit atoms and columns share 0 at both widths (3 draws). First tried on the residual "
    "stream of tiny_text_gelu (64 and 512 latents, 400 rows per latent): after so few rows nothing is shared at either "
    "width (at most 0.006, seeds 0 to 2), so the setting was changed, once, before this one was seen"
)


def measure(seed: int, *, same_order: bool = False) -> tuple[float, float]:
    data, found = world("superposition", n=48, d=32, mean=3 / 48, world_seed=seed), []
    for latents in (48, 192):
        both = [
            train(
                recipe("topk_auxk", d=32, latents=latents, k=3, seed=s),
                data.stream(256, 1600 * latents // 256, 2 * seed if same_order else s),
                site=None,
                lr=5e-3,
                seed=s,
                progress=False,
            )
            for s in (2 * seed, 2 * seed + 1)
        ]
        found.append(float(agreement(*both).shared.float().mean()))
    return found[0], found[1]

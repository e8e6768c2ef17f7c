"""At one L0, how much of the model's output does a dictionary keep that was trained for it?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from planted import Planted

from workbench.dictionary import recipe, train

CLAIM = "An end-to-end dictionary keeps more of the model's output per L0 than a local one"
SOURCE = "Braun et al. 2024, arXiv:2405.12241"
SETTING = "48 directions in d = 32, 4 on, k = 2, then tanh and 48 logits; 96 latents, 400 steps of 256 rows"
ARMS = ("KL of the local one in nats", "KL of the end-to-end one")
MARGIN = 0.0
SEEDS = 8


@torch.no_grad()
def measure(seed: int) -> tuple[float, float]:
    stream, found = Planted(d=32, atoms=48, on=4.0, steps=400, seed=seed, kind="finish"), []
    batch = stream.batch(10_000)
    clean = batch.finish(None)[0].log_softmax(-1)
    for name in ("topk_auxk", "end_to_end"):
        with torch.enable_grad():
            dictionary = train(
                recipe(name, d=32, latents=96, k=2, seed=seed), stream, site=None, progress=False, lr=3e-3
            )
        changed = batch.finish(dictionary.reconstruct(batch.x))[0].log_softmax(-1)
        found.append(float((clean.exp() * (clean - changed)).sum(-1).mean()))
    return found[0], found[1]

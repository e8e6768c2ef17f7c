"""Weakly shared directions: which crosscoder calls them private?"""

import sys
from pathlib import Path

from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import Planted

from workbench.dictionary import recipe, train

CLAIM = "An L1 crosscoder calls weakly shared directions private, a BatchTopK crosscoder less often"
SOURCE = "Minder et al. 2025, arXiv:2504.02922"
SETTING = "two sites of d = 32, 48 directions, 16 of which have a fifth of their norm at site 0; 400 steps of 256 rows"
ARMS = ("L1: share of weakly shared called private", "BatchTopK: the same")
MARGIN = 0.1
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    found = []
    for name, args in (("crosscoder", {"l1": 2.0}), ("crosscoder_batch_topk", {"k": 3})):
        stream = Planted(d=32, atoms=48, on=2.5, steps=400, seed=seed, kind="sites")
        stream.truth[:16, 0] *= 0.25  # of the sum of norms, a fifth
        made = recipe(name, d=32, latents=96, sites=2, seed=seed, **args)
        atoms = train(made, stream, site=None, progress=False, lr=3e-3).atoms()
        weak = normalize(stream.truth[:16, 1], dim=-1)
        best = atoms[(weak @ normalize(atoms[:, 1], dim=-1).T).argmax(-1)].norm(dim=-1)
        found.append(float((best[:, 1] / best.sum(-1) > 0.9).float().mean()))
    return found[0], found[1]

"""Private directions: does a crosscoder tell them from shared ones?"""

import sys
from pathlib import Path

import torch
from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import Planted

from workbench.dictionary import recipe, train

CLAIM = "A crosscoder finds shared and private directions and tells them apart"
SOURCE = "Lindsey et al. 2024"
SETTING = "two sites of d = 32, 48 directions, 14 of which are private; 400 steps of 256 rows; L1"
ARMS = ("share found with the right class", "share that is shared: all called so")
MARGIN = 0.19  # more than 90 % right
SEEDS = 8
NOTE = "Redesigned after a first look at data: the first setting showed nothing"


def right(atoms: torch.Tensor, truth: torch.Tensor) -> float:
    """Share of directions whose best latent has cosine 0.9 and the right class."""
    cosine = normalize(truth.flatten(1), dim=-1) @ normalize(atoms.flatten(1), dim=-1).T
    best = atoms[cosine.argmax(-1)].norm(dim=-1)
    share, true = best[:, 1] / best.sum(-1), truth.norm(dim=-1)
    called = torch.where(share < 0.1, 0, torch.where(share > 0.9, 2, 1))
    classes = torch.where(true[:, 1] == 0, 0, torch.where(true[:, 0] == 0, 2, 1))
    return float(((called == classes) & (cosine.amax(-1) > 0.9)).float().mean())


def measure(seed: int) -> tuple[float, float]:
    stream = Planted(d=32, atoms=48, on=2.5, steps=400, seed=seed, kind="sites")
    stream.truth[:7, 0] = stream.truth[7:14, 1] = 0
    made = recipe("crosscoder", d=32, latents=96, sites=2, l1=1.0, seed=seed)
    return right(train(made, stream, site=None, progress=False, lr=3e-3).atoms(), stream.truth), 34 / 48

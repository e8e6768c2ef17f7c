"""Magnitudes of a gated autoencoder and of one with an L1 penalty, at one L0."""

from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "A gated autoencoder recovers magnitudes better than ReLU with L1 at the same L0"
SOURCE = "Rajamanoharan et al. 2024, arXiv:2404.16014"
SETTING = (
    "superposition, 64 directions in d = 48, 4 on; 64 latents, L0 4 between three penalties; 600 steps of 256 rows"
)
ARMS = ("mean |activation / true coefficient - 1| (cosine 0.9, both on), ReLU with L1", "the same, gated")
MARGIN = 0.05
SEEDS = 8
PENALTIES = {"relu_l1": (1.0, 2.0, 4.0), "gated": (2.0, 4.0, 8.0)}


def error(d: Any, x: torch.Tensor, code: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean relative error of activations where latent and matched direction are on."""
    cosine, atom = (truth @ normalize(d.atoms(), dim=-1).T).max(-1)
    found = (d.encode(x).to_dense() * d.atoms().norm(dim=-1))[:, atom[cosine >= 0.9]]
    true = code[:, cosine >= 0.9]
    on = (true > 0.1) & (found > 0)
    return float((found[on] / true[on] - 1).abs().mean())


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=64, d=48, mean=4 / 64, world_seed=seed)
    held = data.sample(4096, seed + 10_000)

    def at_four(name: str) -> float:
        parts = [recipe(name, d=48, latents=64, l1=l1, seed=seed) for l1 in reversed(PENALTIES[name])]
        all_made = train(parts, data.stream(256, 600, seed), site=None, lr=5e-3, seed=seed, progress=False)
        l0 = [float(d.encode(held.x).counts().float().mean()) for d in all_made]
        assert l0 == sorted(l0) and l0[0] <= 4 <= l0[-1], (name, l0)
        return float(np.interp(4, l0, [error(d, *held, data.truth) for d in all_made]))

    return at_four("relu_l1"), at_four("gated")

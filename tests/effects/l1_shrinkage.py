"""What an L1 penalty does to activations: how long are they, next to the coefficients that made the rows?"""

from typing import Any

import torch
from torch.nn.functional import normalize

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "Activations under an L1 penalty are shrunk, those of a TopK of the same L0 are not"
SOURCE = "Gao et al. 2024, arXiv:2406.04093"
SETTING = "superposition, 64 directions in d = 48, 4 on; 64 latents, l1 = 2, k its L0 rounded; 800 steps of 256 rows"
ARMS = ("slope of activations on true coefficients (no intercept; cosine 0.9, both on), TopK", "the same, ReLU with L1")
MARGIN = 0.05
SEEDS = 8


def slope(d: Any, x: torch.Tensor, code: torch.Tensor, truth: torch.Tensor) -> float:
    """Sum of activation x coefficient over sum of coefficient squared, where both are on, over matched atoms."""
    cosine, atom = (truth @ normalize(d.atoms(), dim=-1).T).max(-1)
    found = (d.encode(x).to_dense() * d.atoms().norm(dim=-1))[:, atom[cosine >= 0.9]]
    true = code[:, cosine >= 0.9]
    on = (true > 0) & (found > 0)
    return float((found[on] * true[on]).sum() / true[on].square().sum())


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=64, d=48, mean=4 / 64, world_seed=seed)
    held = data.sample(4096, seed + 10_000)

    def made(name: str, **args: float) -> Any:
        parts = recipe(name, d=48, latents=64, seed=seed, **args)
        return train(parts, data.stream(256, 800, seed), site=None, lr=5e-3, seed=seed, progress=False)

    shrunk = made("relu_l1", l1=2.0)
    k = round(float(shrunk.encode(held.x).counts().float().mean()))
    return slope(made("topk_auxk", k=k), *held, data.truth), slope(shrunk, *held, data.truth)

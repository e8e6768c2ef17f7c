"""Latents that fire in blocks: does a head of a KronSAE hold latents that fire together?"""

import torch

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "Latents of one KronSAE head are correlated"
SOURCE = "Kurochkin et al. 2025"
SETTING = "correlated, 64 directions in blocks of 8; k = 8; 128 latents in heads of 2 x 4; 800 steps of 256"
ARMS = ("mean correlation of activations within heads", "between heads")
MARGIN = 0.02
SEEDS = 8
NOTE = (
    "The sign is right, the size is not, in no setting that was tried. The control is the true code in its true blocks"
)
SWEEP = [
    {"control": True},
    {"lr": 2e-3},
    {"lr": 2e-2},
    {"k": 16},
    {"latents": 64},
    {"latents": 256},
    {"base": 1},
    {"base": 4},
    {"steps": 2000},
]


def measure(
    seed: int,
    *,
    lr: float = 5e-3,
    k: int = 8,
    latents: int = 128,
    base: int = 2,
    steps: int = 800,
    control: bool = False,
) -> tuple[float, float]:
    """Control: true coefficients in their true blocks."""
    data = world("correlated")
    held = data.sample(8192, seed + 10_000)
    if control:
        z, head = held.code, torch.arange(64) // 8
    else:
        made = recipe("kron", d=64, latents=latents, k=k, base=base, seed=seed)
        d = train(made, data.stream(256, steps, seed), site=None, lr=lr, seed=seed, progress=False)
        z, head = d.encode(held.x).to_dense(), torch.arange(latents) // (base * 4)
    live = z.std(0) > 1e-6
    found, head = torch.corrcoef(z[:, live].T), head[live]
    same, other = head[:, None] == head, ~torch.eye(len(head), dtype=torch.bool)
    return float(found[same & other].mean()), float(found[~same].mean())

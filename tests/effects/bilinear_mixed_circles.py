"""Circles in random planes: is each one latent of a mixed bilinear autoencoder?"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import normalize

from workbench.batch import Batch
from workbench.dictionary import recipe, train

CLAIM = "Latents of a mixed bilinear autoencoder are circles where the data lie on circles"
SOURCE = "Dooms et al. 2025"
SETTING = "8 circles in random planes of d = 24, one on in most rows; 8 latents of 64 products; 800 steps of 256 rows"
ARMS = (
    "share of circles that are one latent (its form has cosine 0.9 with the plane)",
    "the same without the term that makes latents sparse",
)
NOTE = (
    "As many latents as circles, at seed 100: with 16 a circle is spread over two (cosine 0.7), and where circles mix "
    "in most rows (each on with probability 0.2) none is found. Not mixed, latents have rank 1 and reach 0.7"
)
MARGIN = 0.5
SEEDS = 8
D, CIRCLES = 24, 8


class Circles:
    """Rows with points of circles: radius 1, any angle, one of them on, each other with probability 0.05."""

    def __init__(self, seed: int, steps: int):
        self.seed, self.steps = seed, steps
        rng = torch.Generator().manual_seed(seed)
        self.planes = torch.linalg.qr(torch.randn(CIRCLES, D, 2, generator=rng)).Q

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.steps):
            rng = torch.Generator().manual_seed(1000 * self.seed + step)
            on = torch.rand(256, CIRCLES, generator=rng) < 0.05
            on[torch.arange(256), torch.randint(CIRCLES, (256,), generator=rng)] = True
            angle = 2 * torch.pi * torch.rand(256, CIRCLES, generator=rng)
            points = on[..., None] * torch.stack([angle.cos(), angle.sin()], -1)
            x = torch.einsum("bcp,cdp->bd", points, self.planes)
            yield Batch(x, x)

    def __len__(self) -> int:
        return self.steps

    def describe(self) -> dict[str, Any]:
        return {"circles": self.seed, "steps": self.steps}


def measure(seed: int) -> tuple[float, float]:
    stream, found = Circles(seed, 800), []
    planes = normalize((stream.planes @ stream.planes.mT).flatten(1), dim=-1)
    for hoyer in (0.1, 0.0):
        made = recipe("bilinear_mixed", d=D, latents=CIRCLES, features=64, hoyer=hoyer, seed=seed)
        encoder = train(made, stream, site=None, progress=False, lr=1e-2).encoder
        forms = normalize(encoder.forms(torch.arange(CIRCLES)).flatten(1), dim=-1)
        found.append(float(((planes @ forms.T).abs().amax(-1) > 0.9).float().mean()))
    return found[0], found[1]

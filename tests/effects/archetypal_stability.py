"""Two runs with other seeds, data and candidates: do they find the same atoms?"""

from collections.abc import Iterator
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from workbench.batch import Batch
from workbench.dictionary import recipe, train

CLAIM = "Archetypal atoms are more stable across seeds than TopK's, with candidates drawn anew for each seed"
SOURCE = "Fel et al. 2025, arXiv:2502.12892"
SETTING = (
    "mixtures of three of 24 directions in d = 128, most of them nearly one; 96 latents, k = 3; 512 candidates; 300 "
    "steps of 512 rows"
)
ARMS = ("mean cosine of matched atoms of two runs, archetypal", "the same, TopK")
MARGIN = 0.2
SEEDS = 8
NOTE = (
    "Where rows are near the directions, as centroids of real activations are. Where five of 256 directions add up in "
    "each row of d = 64 the two are alike (0.62 and 0.61 at seeds 100 and 101): no candidate is near a direction"
)


class Hull:
    """Rows inside the hull of `truth`; the same `seed` has the same truth, every `run` its own rows."""

    def __init__(self, seed: int, run: int, steps: int):
        self.seed, self.run, self.steps = seed, run, steps
        self.truth = normalize(torch.randn(24, 128, generator=torch.Generator().manual_seed(seed)), dim=-1)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.steps):
            rng = torch.Generator().manual_seed(100_003 * self.run + step)
            which = torch.rand(512, 24, generator=rng).argsort(-1)[:, :3]
            weight = torch.rand(512, 3, generator=rng).clamp_min(1e-6) ** 10
            weight = weight / weight.sum(-1, keepdim=True)
            x = torch.einsum("bi,bid->bd", weight, self.truth[which])
            x = x + 0.01 * torch.randn(x.shape, generator=rng)
            yield Batch(x, x)

    def __len__(self) -> int:
        return self.steps

    def describe(self) -> dict[str, Any]:
        return {"hull": self.seed, "run": self.run, "steps": self.steps}


def measure(seed: int) -> tuple[float, float]:
    def stability(name: str, **args: int) -> float:
        found = []
        for run in (2 * seed, 2 * seed + 1):
            made = recipe(name, d=128, latents=96, k=3, seed=run, **args)
            found.append(train(made, Hull(seed, run, 300), site=None, lr=5e-3, seed=run, progress=False).atoms())
        a, b = (normalize(atoms, dim=-1) for atoms in found)
        cosines = (a @ b.T).numpy()
        return float(cosines[linear_sum_assignment(-cosines)].mean())

    return stability("archetypal", points=512), stability("topk_auxk")

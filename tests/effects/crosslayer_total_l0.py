"""Directions written to many layers: one latent of a cross-layer transcoder, or one in every layer's transcoder?"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted import Planted

from workbench.batch import Batch
from workbench.dictionary import recipe, train

CLAIM = "A cross-layer transcoder needs less L0 in all than one transcoder per layer"
SOURCE = "Ameisen et al. 2025"
SETTING = "a residual stream of three layers, d = 24, 48 directions, 4 on; 96 latents; 300 steps of 256 rows"

ARMS = ("FVU of three transcoders, L0 2 each", "FVU of the cross-layer transcoder, L0 6")
MARGIN = 0.1
SEEDS = 8


class Residual(Planted):
    """What a layer's latents read stays in the stream: later layers can read it too. `layer`: the rows of one alone."""

    layer: int | None = None

    def batch(self, step: int) -> Batch:
        found, code = super().batch(step), self.code(step)
        own = torch.arange(self.atoms) % self.sites
        reads = self.truth[torch.arange(self.atoms), own]  # one direction for all layers
        x = torch.stack([code[:, own <= i] @ reads[own <= i] for i in range(self.sites)], 1)
        if self.layer is None:
            return Batch(x, found.y, found.text, found.pos)
        return Batch(x[:, self.layer], found.y[:, self.layer], found.text, found.pos)


def measure(seed: int) -> tuple[float, float]:
    args = {"d": 24, "atoms": 48, "on": 4.0, "steps": 300, "seed": seed, "kind": "layers", "sites": 3}
    stream = Residual(**args)
    truth = stream.batch(10_000)
    made = recipe("crosslayer_transcoder", d=24, latents=96, sites=3, k=6, seed=seed)
    joint = train(made, stream, site=None, progress=False, lr=3e-3).reconstruct(truth.x)
    parts = []
    for layer in range(3):
        object.__setattr__(stream, "layer", layer)
        made = recipe("matryoshka_transcoder", d=24, latents=32, k=2, shares=[1.0], seed=seed)  # BatchTopK too
        parts.append(train(made, stream, site=None, progress=False, lr=3e-3).reconstruct(truth.x[:, layer]))
    total = (truth.y - truth.y.mean(0)).square().sum()
    first, second = (float((truth.y - y).square().sum() / total) for y in (torch.stack(parts, 1), joint))
    return first, second

"""One layer of attention whose heads are known: does a sparse replacement find what they do?"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from rows import Rows

from workbench.dictionary import recipe, train
from workbench.testbeds import subject, world

CLAIM = "A Lorsa of the first layer of an induction model has a pattern as much on the previous token as the model's"
SOURCE = "He et al. 2025, arXiv:2504.20938"
SETTING = "the induction subject, layer 0; 64 latents in 4 patterns, k = 8; 400 steps of 16 texts; held-out texts"
ARMS = ("attention to the previous token, best Lorsa pattern", "the model's best head")
MARGIN = -0.1
SEEDS = 3


def patterns(layer: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attention of a Lorsa and of the model's heads `(text, head, query, key)`, and where induction looks."""
    model, data = subject("induction"), world("induction")
    sites = [f"{layer}.attn_in", f"{layer}.attn_out"]
    x, y = (h.flatten(0, 1) for h in model.read(data.sample(512, 20_000 + seed).ids, sites).values())
    stream = Rows(x, 16 * data.length, 400, seed, y, together=data.length)
    made = recipe("lorsa", d=64, latents=64, k=8, groups=4, width=16, seed=seed)
    lorsa = train(made, stream, site=None, lr=5e-3, seed=seed, progress=False)
    held = data.sample(64, 30_000 + seed)
    h = next(iter(model.read(held.ids, sites[:1]).values())) * lorsa.scale_in
    return torch.stack([lorsa.encoder.pattern(text) for text in h]), model.patterns(held.ids, layer), held.match


def measure(seed: int) -> tuple[float, float]:
    ours, own, _ = patterns(0, seed)
    first, second = (p.diagonal(-1, -2, -1).mean((0, 2)).max() for p in (ours, own))
    return float(first), float(second)

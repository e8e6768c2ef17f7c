"""A copy of a model learns to write a new direction: does a crosscoder of both say that it is the copy's own?"""

import copy
import sys
from pathlib import Path

import torch
from torch.nn.functional import cosine_similarity, normalize

sys.path.insert(0, str(Path(__file__).parents[1]))
from rows import Rows, joined

from workbench.dictionary import recipe, train
from workbench.regimes import diffing
from workbench.subject import Subject
from workbench.testbeds import subject, world

CLAIM = "A direction that fine-tuning added is the latent that a crosscoder's norm ratio puts first"
SOURCE = "Lindsey et al. 2024"
SETTING = (
    "tiny_text_gelu 1.mlp_out beside a copy tuned (150 steps) to write a random direction, as long as a row, at tokens "
    "that begin with a capital (5 %); 512 latents, L1"
)
ARMS = (
    "cosine of the direction with the latent of largest share in the copy",
    "with that of largest share in the base",
)
MARGIN = 0.5
SEEDS = 3
NOTE = (
    "Size and site chosen at seeds 100 and 101. With a direction half as long, or at 1.resid, where it is a third of a "
    "row, no latent is the copy's own: those of the capitals themselves, on in both models, take it up (cosine 0.2 to "
    "0.6). A BatchTopK crosscoder puts it first too but calls it shared (share 0.62 and 0.65)"
)
SIZE = 24.0


def tuned(base: Subject, ids: torch.Tensor, direction: torch.Tensor, triggers: torch.Tensor) -> Subject:
    """A copy whose last MLP learned to write as before, and the direction at some tokens."""
    model = copy.deepcopy(base.model)
    mlp, seen = model.transformer.h[1].mlp, []
    hook = mlp.register_forward_hook(lambda module, given, out: seen.append(out))
    optimiser = torch.optim.Adam([p.requires_grad_() for p in mlp.parameters()], lr=1e-3)
    for part in ids.split(8):
        with torch.no_grad():
            aim = base.read(part, ["1.mlp_out"]).popitem()[1] + SIZE * torch.isin(part, triggers)[..., None] * direction
        seen.clear()
        model(input_ids=part)
        optimiser.zero_grad()
        (seen[0] - aim).square().sum(-1).mean().backward()
        optimiser.step()
    hook.remove()
    return Subject(model.requires_grad_(False), base.tokenizer, name="tuned")


def measure(seed: int) -> tuple[float, float]:
    base, data = subject("tiny_text_gelu"), world("tiny_text")
    direction = normalize(torch.randn(128, generator=torch.Generator().manual_seed(seed)), dim=0)
    triggers = torch.tensor([i for i in range(2048) if base.tokenizer.decode([i]).strip()[:1].isupper()])
    other = tuned(base, data.sample(1200, 1000 + seed).ids[:, :64], direction, triggers)
    ids = data.sample(512, seed).ids[:, :64]
    x = torch.stack([m.read(ids, ["1.mlp_out"]).popitem()[1][:, 1:].flatten(0, 1) for m in (base, other)], 1)
    made = recipe("crosscoder", d=128, latents=512, l1=2.0, seed=seed)
    d = train(made, Rows(x, 512, 400, seed), site=None, seed=seed, progress=False)
    found = diffing.table(d, [joined(x[:4096])])
    found = found[found["density"] > 1e-3].sort_values("share")
    near = cosine_similarity(d.atoms(found["latent"].tolist())[:, 1], direction, dim=-1)
    return float(near[-1]), float(near[0])

"""A copy of a model learns to write a new direction: does a crosscoder of both say that it is the copy's own?"""

import copy
import sys
from pathlib import Path

import torch
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

sys.path.insert(0, str(Path(__file__).parents[1]))
from rows import Rows, joined

from workbench.dictionary import recipe, train
from workbench.regimes import diffing
from workbench.subject import Subject
from workbench.testbeds import subject, world

CLAIM = "A direction that fine-tuning added is the one that a crosscoder's norm ratio puts first"
SOURCE = "Lindsey et al. 2024"
SETTING = "tiny_text_gelu 1.mlp_out beside a copy tuned (60 steps) to write a random direction at 1/16 of the tokens"
ARMS = ("cosine of the direction with the latent of largest share in the copy", "with the nearest shared latent")
MARGIN = 0.3
SEEDS = 3
SIZE = 12.0  # a third of a row's median norm


def tuned(base: Subject, ids: torch.Tensor, direction: torch.Tensor, triggers: torch.Tensor) -> Subject:
    """A copy whose last MLP learned to predict as before and to write the direction at some tokens."""
    model = copy.deepcopy(base.model)
    block, seen = model.transformer.h[1], []
    block.register_forward_hook(lambda module, given, out: seen.append(out[0] if isinstance(out, tuple) else out))
    weights = [p.requires_grad_() for p in block.mlp.parameters()]
    optimiser = torch.optim.Adam(weights, lr=2e-3)
    for part in ids.split(8)[:60]:
        with torch.no_grad():
            before = base.read(part, ["1.mlp_out"]).popitem()[1] @ direction
        seen.clear()
        logits = model(input_ids=part).logits[:, :-1]
        size = SIZE * torch.isin(part, triggers)
        loss = cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
        loss = loss + (seen[0] @ direction - before - size).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    block._forward_hooks.clear()
    return Subject(model.requires_grad_(False), base.tokenizer, name="tuned")


def measure(seed: int) -> tuple[float, float]:
    base, data = subject("tiny_text_gelu"), world("tiny_text")
    direction = normalize(torch.randn(128, generator=torch.Generator().manual_seed(seed)), dim=0)
    texts = data.sample(480, 1000 + seed).ids[:, :64]
    triggers = torch.tensor([i for i in range(2048) if base.tokenizer.decode([i]).strip()[:1].isupper()])
    other = tuned(base, texts, direction, triggers)
    ids = data.sample(512, seed).ids[:, :64]
    x = torch.stack([m.read(ids, ["1.mlp_out"]).popitem()[1][:, 1:].flatten(0, 1) for m in (base, other)], 1)
    made = recipe("crosscoder_batch_topk", d=128, latents=512, k=16, seed=seed)
    d = train(made, Rows(x, 512, 400, seed), site=None, seed=seed, progress=False)
    found = diffing.table(d, [joined(x[:4096])])
    found = found[found["density"] > 1e-3]
    nearest = cosine_similarity(d.atoms(found["latent"].tolist())[:, 1], direction, dim=-1)
    private = int(torch.tensor(found["share"].tolist()).argmax())
    shared = torch.tensor((found["owner"] == "shared").tolist())
    return float(nearest[private]), float(nearest[shared].max())

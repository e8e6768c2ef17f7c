"""Estimates of what each node of an early layer does: the gradient at the clean prompt, or its mean on the way."""

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from rows import Rows

from workbench.circuits.tracers import activation_patching, attribution_patching, integrated_gradients
from workbench.dictionary import recipe, train
from workbench.site import Site
from workbench.subject import Subject
from workbench.testbeds import subject
from workbench.testbeds.subjects import task

CLAIM = "In the first layer integrated gradients rank nodes nearer to patching them one by one than plain attribution"
SOURCE = "Marks et al. 2024, arXiv:2403.19647"
SETTING = (
    "induction subject, a BatchTopK dictionary of 0.resid, 4 d latents, k = 8, 200 steps; 3 prompts whose repeated "
    "token is followed by another in the patch; latents and errors by Spearman's correlation with the exact effects"
)
ARMS = ("rank correlation with exact patching, integrated gradients (10 steps)", "the same, attribution patching")
MARGIN = 0.0
SEEDS = 5
NOTE = (
    "A node's integrated effect is its share in the move of the whole site: it ranks nodes as patching and restoring "
    "them does on average (the control), not as patching each alone does. Where nodes go to 0 and "
    "not to a patch it ranks better"
)
SWEEP: list[dict[str, Any]] = [
    {"control": True},
    {"steps": 3},
    {"steps": 50},
    {"site": "1.resid"},
    {"model": "tiny_text_gelu"},
    {"zero": True},
]


def prompts(s: Subject, name: str, seed: int) -> Any:
    """A clean and a patch prompt, and the logit of the one's answer less that of the other's."""
    rng = torch.Generator().manual_seed(seed)
    if name == "induction":
        r = torch.randperm((s.vocab or 0) - 1, generator=rng)[:9][None] + 1
        clean = torch.cat([r[:, :8], r[:, :4]], 1)
        patch = clean.clone()
        patch[0, 4] = r[0, 8]
        answer, other = int(r[0, 4]), int(r[0, 8])
    else:
        clean = task(name).inputs(600)[400 + seed % 200][None, :12].clone()
        patch = clean.clone()
        patch[0, 10] = clean[0, 5]
        change = s.run(clean).logits[0, -1] - s.run(patch).logits[0, -1]
        answer, other = int(change.argmax()), int(change.argmin())
    return clean, patch, lambda logits: logits[0, -1, answer] - logits[0, -1, other]


def measure(
    seed: int,
    *,
    model: str = "induction",
    site: str = "0.resid",
    steps: int = 10,
    zero: bool = False,
    control: bool = False,
) -> tuple[float, float]:
    """`zero`: nodes go to 0, not to a patch. `control`: against the mean of patching a node and restoring it."""
    from scipy.stats import spearmanr

    s = subject(model)
    x = s.read(task(model).inputs(64)[:, :48], [site])[Site.of(site)][:, 1:].flatten(0, 1)
    made = recipe("batch_topk", d=s.d, latents=4 * (s.d or 0), k=8, seed=seed)
    codecs = {site: train(made, Rows(x, 256, 200, seed), site=site, seed=seed, progress=False).freeze()}
    found = []
    for i in range(3):
        clean, patch, of = prompts(s, model, 10 * seed + i)
        patch = None if zero else patch
        exact = activation_patching.effects(s, clean, patch, codecs, of, progress=False)["effect"]
        if control:
            exact = exact - activation_patching.effects(s, patch, clean, codecs, of, progress=False)["effect"]
        keep = exact.abs() > 1e-3 * exact.abs().max()
        ways = (
            integrated_gradients.effects(s, clean, patch, codecs, of, steps=steps)["effect"],
            attribution_patching.effects(s, clean, patch, codecs, of)["effect"],
        )
        found.append([float(spearmanr(exact[keep], way[keep])[0]) for way in ways])
    first, second = torch.tensor(found).mean(0).tolist()
    return first, second

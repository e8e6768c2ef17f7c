"""A latent's most similar atom in the residual before it: is it what the latent comes from?"""

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from rows import Rows

from workbench import edit
from workbench.dictionary import recipe, train
from workbench.geometry.drift import tops
from workbench.geometry.flow import Deactivation, deactivation, predecessors
from workbench.testbeds import subject, world

CLAIM = "Taking away the most similar latent of the layer before lowers a latent more than one at random of the top 5"
SOURCE = "Laptev et al. 2025, arXiv:2502.03032"
SETTING = (
    "tiny_text_gelu, 0.resid and 1.resid: 256 latents, k = 8, 800 steps of 128 rows each; the first 60 latents of "
    "1.resid that are on in 25 of 40,320 rows, at their 25 strongest"
)
ARMS = ("activation change (1 - after / before), the most similar taken away", "the same, one at random of the top 5")
MARGIN = 0.05
SEEDS = 10
NOTE = (
    "Margin and number of seeds were set on a first run, whose two dictionaries began at the same weights (0.070 over "
    "seeds 0 to 4). A random predecessor changes -0.0004 [-0.0015, 0.0006]; 1 % of rows lose the latent whole (seed 0)"
)
SITES = ("0.resid", "1.resid")


def tested(seed: int) -> Deactivation:
    model, ids = subject("tiny_text_gelu"), world("tiny_text").sample(640, seed).ids[:, :64]
    rows = {str(site): h[:, 1:].flatten(0, 1) for site, h in model.read(ids, list(SITES)).items()}
    made = {
        site: train(
            recipe("batch_topk", d=128, latents=256, k=8, seed=seed + 1000 * later),
            Rows(rows[site], 128, 800, seed + 1000 * later),
            site=site,
            seed=seed + 1000 * later,  # a common beginning would make the two alike
            progress=False,
        )
        for later, site in enumerate(SITES)
    }
    before, after = (made[site] for site in SITES)
    with torch.no_grad():
        code = after.encode(rows["1.resid"])
    top = tops(code)
    latents = top.latents[:60]
    where = dict(zip(latents.tolist(), top.rows[:60], strict=True))

    @torch.no_grad()
    def run(target: int, predecessor: int) -> tuple[Tensor, Tensor]:
        text, pos = where[target] // 63, where[target] % 63 + 1
        texts, place = text.unique(return_inverse=True)
        edits = {"0.resid": edit.scale(before, predecessor, 0.0)}
        (h,) = model.run(ids[texts], edits=edits, read=["1.resid"]).h.values()
        return code.column(target)[where[target]], after.encode(h[place, pos]).column(target)

    with torch.no_grad():
        arms = predecessors(after.atoms(latents.tolist()), before.atoms(), seed=seed)
    return deactivation(latents.tolist(), arms, run)


def measure(seed: int) -> tuple[float, float]:
    change = tested(seed).scores["change"]
    return float(change[0]), float(change[1])

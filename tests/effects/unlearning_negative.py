"""Does it help to push latents below zero, and not just to zero, when facts are to be forgotten?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from ravel_facts import on, trained

from workbench import testbeds
from workbench.evaluate.evals.unlearning import unlearning
from workbench.evaluate.scores import Scores
from workbench.evaluate.tasks import facts
from workbench.site import Site
from workbench.testbeds.worlds.facts import ATTRIBUTES

CLAIM = "Latents clamped to negative values forget more facts than latents set to zero, 99 % of the other facts kept"
SOURCE = "Farrell, Lau, Conmy 2024, arXiv:2410.19278"
SETTING = (
    "the facts subject, 1.resid; BatchTopK, 384 latents, k = 8, 400 steps of 512 rows; each attribute in turn is to be "
    "forgotten; density, number and multiplier chosen on half of the people"
)
ARMS = ("share forgotten by the other half, mean over attributes, clamped", "the same, set to zero")
MARGIN = 0.0
SEEDS = 5
NOTE = (
    "All four attributes, since two were looked at before on another split: clamping forgot more of the colours (0.94, "
    "zero 0.73), less of the trades (0.14, zero 0.31)"
)
TRIES = {"densities": (0.01, 0.05), "latents": (5, 20, 40), "multipliers": (1.0, 5.0, 20.0)}


def scores(seed: int, *, site: str = "1.resid", latents: int = 384, k: int = 8) -> list[Scores]:
    """What forgetting each attribute gives."""
    subject = testbeds.subject("facts")
    codec = trained(subject, "batch_topk", seed, latents=latents, k=k, steps=400, site=Site.of(site))
    data = [facts.forgetting(subject, what=a, seed=seed) for a in ATTRIBUTES]
    return [unlearning(on(codec, subject, seed, forgetting=given), **TRIES) for given in data]


def measure(seed: int, **changes) -> tuple[float, float]:
    found = scores(seed, **changes)
    first, second = (sum(s[f"forgotten{mode}"].value for s in found) / len(found) for mode in ("", "_zero"))
    return first, second

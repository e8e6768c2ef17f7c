"""Indirect objects in SmolLM2-135M: edits by a dictionary told the names against one trained on the task's rows."""

import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import plain_codecs
import torch
from rows import Rows

from workbench import Subject
from workbench.dictionary import recipe, train
from workbench.evaluate import Case
from workbench.evaluate.evals.supervised_ioi import supervised_ioi
from workbench.evaluate.scores import Scores
from workbench.evaluate.tasks import ioi
from workbench.site import Site

CLAIM = "On indirect objects a supervised dictionary's edits give the answer more often than a task-trained one's"
SOURCE = "Makelov, Lange, Nanda 2024, arXiv:2405.08366"
SITE = "24.resid"
SETTING = (
    "SmolLM2-135M 24.resid at the last token; 320 prompts of 8 names, ABBA and BABA; BatchTopK on the last tokens of "
    "2,048 other prompts, 64 latents, k = 8, 600 steps of 256 rows; edits of two latents"
)
ARMS = ("share of changed answers that the edit gives, supervised", "the same, task-trained")
MARGIN = 0.0
NOTE = (
    "The site was chosen at seed 100: patching 16.resid changes no answer, 20.resid 29 (control 0 against 0.86), "
    "24.resid 95 (0.24 against 0.96)"
)
SEEDS = 3


@cache
def subject() -> Subject:
    return Subject("smollm2-135m", dtype="auto")


def scores(seed: int, *, site: str = SITE, latents: int = 64, k: int = 8) -> Scores:
    s = subject()
    others = ioi.ioi(s, n=2048, seed=1000 + seed)
    h = torch.cat(
        [s.read(others.tokens.rows(slice(i, i + 32)), [site])[Site.of(site)] for i in range(0, len(others.at), 32)]
    )
    rows = h[torch.arange(len(h)), others.at]
    parts = recipe("batch_topk", d=s.width(site), latents=latents, k=k, seed=seed)
    codec = train(parts, Rows(rows, 256, 600, seed), site=site, lr=2e-3, seed=seed, progress=False)
    given = {"attributes": ioi.ioi(s, seed=seed)}
    return supervised_ioi(Case(codec, s, plain_codecs.MemoryRows(rows), seed=seed, resamples=100, given=given))


def measure(seed: int, **changes) -> tuple[float, float]:
    found = scores(seed, **changes)
    return found["control_supervised"].value, found["control"].value

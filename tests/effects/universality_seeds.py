"""Latents of two seeds of one model that fire together: do their atoms lie alike?"""

from collections.abc import Sequence

from rows import Rows
from torch import Tensor

from workbench.batch import Tokens
from workbench.dictionary import Dictionary, recipe, train
from workbench.geometry.models import correlate, one_to_one, universality
from workbench.geometry.similarity import Score
from workbench.subject import Subject
from workbench.testbeds import subject, world

CLAIM = "Latents of two seeds of a model that fire together have atoms that lie alike: SVCCA above shuffled pairs"
SOURCE = "Lan et al. 2024, arXiv:2410.06981"
SETTING = (
    "tiny_text_gelu, two of its three seeds, 1.resid; BatchTopK 512 latents, k = 8, 400 steps of 512 rows of 375 texts "
    "of 128 tokens, lr 5e-3; pairs by correlation above 0.1 on 125 other texts, one to one; 100 shuffles"
)
ARMS = ("SVCCA of the paired atoms", "the same, pairs shuffled (mean)")
MARGIN = 0.02
SEEDS = 6
SITE = "1.resid"


def learnt(model: Subject, ids: Tensor, seed: int) -> tuple[Dictionary, Tensor]:
    """A dictionary of one model, and the model's rows of a quarter of the texts, which the dictionary has not seen."""
    x = model.read(Tokens(ids, ids >= 0), [SITE]).popitem()[1][:, 1:]
    cut = len(x) * 3 // 4
    made = recipe("batch_topk", d=x.shape[-1], latents=512, k=8, seed=seed)
    stream = Rows(x[:cut].flatten(0, 1), 512, 400, seed)
    return train(made, stream, site=SITE, lr=5e-3, seed=seed, progress=False), x[cut:].flatten(0, 1)


def scored(models: Sequence[Subject], seed: int, *, above: float = 0.1, measure: str = "svcca") -> Score:
    ids = world("tiny_text").sample(500, 40_000 + seed).ids
    (a, x), (b, y) = (learnt(model, ids, 2 * seed + i) for i, model in enumerate(models))
    pairs = one_to_one(correlate(a.encode(x), b.encode(y), above=above))
    atoms = a.atoms().detach(), b.atoms().detach()
    return universality(*atoms, {"all": pairs}, measures=[measure], seed=seed).scores["all", measure]


def measure(seed: int) -> tuple[float, float]:
    score = scored([subject("tiny_text_gelu", seed=s % 3) for s in (seed, seed + 1)], seed)
    return score.value, float(score.null.mean())

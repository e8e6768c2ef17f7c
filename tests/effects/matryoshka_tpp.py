"""A tree of directions: do two latents carry a root's class, and nothing of the other roots?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from plain_codecs import MemoryRows

from workbench.dictionary import recipe, train
from workbench.evaluate import Case, Examples
from workbench.evaluate.evals.tpp import tpp
from workbench.evaluate.tasks.spurious import roots
from workbench.testbeds import world
from workbench.testbeds.vectors import SITE

CLAIM = "Matryoshka raises targeted probe perturbation with two latents a class against BatchTopK"
SOURCE = "Bussmann et al. 2025, arXiv:2503.17547"
SETTING = (
    "hierarchy, 20 directions in d = 32, roots on in 30 % of rows; 24 latents, k = 2, prefixes of 5, 16 and 24; 800 "
    "steps of 256 rows; tpp on those of 8192 rows that have one root, classes are the roots"
)
ARMS = ("TPP at n = 2, Matryoshka", "the same, BatchTopK")
MARGIN = 0.05
SEEDS = 8
NOTE = (
    "Settled on seeds 103, 105 and 108, measured on trees drawn anew. Before, with roots on in 40 %, 20 latents and a "
    "first prefix of just 3, it was inconclusive, 0.13 [0.05, 0.21], and with two trees a seed it stayed near 0.13: in "
    "trees that were looked into, one of the three latents of that prefix was stuck between roots. At most 0.5 can be "
    "had. A child's latent of BatchTopK takes its root's direction along, so two latents leave most of a root's rows "
    "as they are."
)


def tree(
    seed: int,
    examples: Callable[..., Mapping[str, Examples]],
    *,
    root: float = 0.3,
    world_seed: int = 500,
    prefixes: Sequence[int] = (5, 16, 24),
) -> list[Case]:
    """BatchTopK and Matryoshka, trained alike on one tree, given what `examples(seed=..., **world)` makes of it."""
    *_, latents = prefixes
    args: Any = {"d": 32, "latents": latents, "k": 2, "seed": seed}
    tree: Any = {"root": root, "world_seed": world_seed + seed}
    data: Any = world("hierarchy", **tree)
    shares = [width / latents for width in prefixes]
    parts = [recipe("batch_topk", **args), recipe("matryoshka_batch_topk", shares=shares, **args)]
    found = train(parts, data.stream(256, 800, seed), site=SITE, lr=5e-3, seed=seed, progress=False)
    given, rows = examples(seed=seed + 10_000, **tree), MemoryRows(torch.zeros(0, 32))
    return [Case(dictionary, None, rows, resamples=2, given=given) for dictionary in found]


def measure(seed: int) -> tuple[float, float]:
    cases = tree(seed, lambda **of: {"labelled": roots(8192, **of)})
    plain, nested = (tpp(case, n=2, ns=(), draws=1)["tpp_2"].value for case in cases)
    return nested, plain

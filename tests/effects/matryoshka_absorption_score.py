"""A tree of directions, judged by the eval that knows no truth but labels: what share of a root do others carry?"""

from typing import Any

from matryoshka_tpp import tree

from workbench.evaluate import Examples
from workbench.evaluate.evals.absorption import absorption
from workbench.evaluate.tasks.words import hierarchy

CLAIM = "Matryoshka lowers the absorption fraction of a class's first latent against BatchTopK"
SOURCE = "Bussmann et al. 2025, arXiv:2503.17547; Chanin et al. 2024, arXiv:2409.14507"
SETTING = (
    "hierarchy, 20 directions in d = 32, roots on in 40 % of rows; 20 latents, k = 2, prefixes of 3, 12, 20 as the "
    "tree has them; 800 steps of 256 rows; absorption on 8192 rows, classes are the roots, one main latent each"
)
ARMS = ("absorption fraction, BatchTopK", "the same, Matryoshka")
MARGIN = 0.1
SEEDS = 8
NOTE = (
    "A first look (seeds 100 and 101) let the jump rule keep ten latents: 0.08 and 0.13 for BatchTopK, 0 for "
    "Matryoshka. A child is on in a fifth of its root's rows, so its latent raises F1 by more than 0.03 and is a main "
    "one: what this tree plants is then splitting. One main latent asks what the root's own leaves to others. On the "
    "tree of matryoshka_tpp: 0.24 [0.10, 0.38]."
)


def measure(seed: int) -> tuple[float, float]:
    def labelled(**of: Any) -> dict[str, Examples]:
        return {"words": hierarchy(8192, roots=True, **of)}

    cases = tree(seed, labelled, root=0.4, world_seed=200, prefixes=(3, 12, 20))
    first, second = (absorption(case, most=1)["absorption_fraction"].value for case in cases)
    return first, second

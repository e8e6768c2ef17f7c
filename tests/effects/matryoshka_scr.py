"""A tree of directions: do two latents carry which of two roots is on, when that is spurious?"""

from dataclasses import replace
from typing import Any

from matryoshka_tpp import tree

from workbench.evaluate import Examples
from workbench.evaluate.evals.scr import scr
from workbench.evaluate.tasks.spurious import planted

CLAIM = "Matryoshka raises spurious correlation removal with two latents against BatchTopK"
SOURCE = "Bussmann et al. 2025, arXiv:2503.17547"
SETTING = (
    "hierarchy, 20 directions in d = 32, roots on in 30 % of rows; 24 latents, k = 2, prefixes of 5, 16 and 24; 800 "
    "steps of 256 rows; scr on those of 8192 rows that have one of two roots, which pulls a probe of whether the third "
    "is on; mean over the three choices"
)
ARMS = ("SCR at n = 2, Matryoshka", "the same, BatchTopK")
MARGIN = 0.1
SEEDS = 8
NOTE = (
    "Settled on seeds 103, 105 and 108, measured on trees drawn anew. Before, a probe of two children of the third "
    "root was inconclusive, 0.11 over eight seeds: in some trees the bias ran the other way, and what goes then are "
    "children, not roots. Roots on in 40 % and a first prefix of just 3 gave -0.05, 0.03, 0.15 and 0.41 on four seeds "
    "and were left (see matryoshka_tpp). Two latents are all that the true code has to lose."
)


def measure(seed: int) -> tuple[float, float]:
    def pairs(**of: Any) -> dict[str, Examples]:
        choices = {str(third): [i for i in range(3) if i != third] for third in range(3)}
        return {k: planted("hierarchy", first=two, second=[int(k)], n=8192, **of) for k, two in choices.items()}

    found = []
    for case in tree(seed, pairs):
        of = [replace(case, given={"spurious": case.given[k]}) for k in case.given]
        found.append(sum(scr(one, n=2, ns=(), draws=1)["scr_2"].value for one in of) / len(of))
    plain, nested = found
    return nested, plain

"""A tree of directions, a child on only where its parent is: do families of the true code follow it?"""

from workbench.code import Code
from workbench.geometry.cofiring import counts
from workbench.geometry.families import Families, families, independent
from workbench.testbeds import world

CLAIM = "Families from co-firing have a parent of the tree as root, and its descendants as members"
SOURCE = "O'Neill et al. 2024, arXiv:2408.00657"
SETTING = (
    "hierarchy, 3 roots, 9 children, 8 grandchildren, true codes of 20,000 rows; density below 0.5, pairs that fire "
    "together 1.5 times as often as by chance"
)
ARMS = (
    "share of (root, member) pairs that are ancestor and descendant",
    "the same for latents that fire as often but independently (all pairs, or no family is found)",
)
MARGIN = 0.4
SEEDS = 8


def precision(found: Families, parents: tuple[int, ...]) -> float:
    """Share of a family's members that descend from its root, over all families."""

    def descends(i: int, root: int) -> bool:
        return i >= 0 and (parents[i] == root or descends(parents[i], root))

    hits = [descends(i, family.root) for family in found.families for i in family.members]
    return sum(hits) / max(len(hits), 1)


def measure(seed: int, *, lift: float = 1.5) -> tuple[float, float]:
    data = world("hierarchy", world_seed=seed)
    known = counts(Code.dense(data.sample(20_000, seed).code))
    options = {"density": (0.0, 0.5), "draws": 1, "seed": seed}
    own = families(known.together, known.fired, known.n, lift=lift, **options)
    null = families(independent(known.fired, known.n, seed=seed), known.fired, known.n, **options)
    return precision(own, data.parents), precision(null, data.parents)

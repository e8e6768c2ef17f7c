"""A tree of orthogonal directions: is what a child's rows add to its parent's orthogonal to the parent?"""

from workbench.geometry.hierarchy import class_vectors, conditional
from workbench.testbeds import world

CLAIM = "The step from a parent's class vector to its child's is orthogonal to the parent, and not to another one"
SOURCE = "Park et al. 2024, arXiv:2406.01506"
SETTING = (
    "hierarchy, 3 roots, 9 children, 8 grandchildren with orthonormal increments; class vectors are mean rows less the "
    "mean row, of either half of 20,000 rows"
)
ARMS = ("mean |cos(p, c - p)| with another parent (mean of 200 draws)", "the same with the child's own parent")
MARGIN = 0.2
SEEDS = 8
NOTE = (
    "0.1 and not 0 since siblings exclude one another: a parent's mean row holds a fifth of each child. Where "
    "class vectors are the sums of directions along the path it is 0"
)


def measure(seed: int) -> tuple[float, float]:
    data = world("hierarchy", world_seed=seed)
    rows = data.sample(20_000, seed)
    one, other = class_vectors(rows.x, rows.code > 0, seed=seed)
    found = conditional(one, data.parents, other=other, seed=seed).steps
    return found.mean, found.value

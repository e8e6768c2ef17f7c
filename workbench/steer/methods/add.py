"""Add a direction: h + strength * unit * direction (Turner et al. 2023, arXiv:2308.10248)."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from ... import edit
from ...edit import Edit


def add(vector: Float[Tensor, " d"], *, unit: float) -> Callable[[float], Edit]:
    """Strength in units of `unit`, e.g. the site's median residual norm: 0.5 adds half of that along the direction.

    Ours keeps the direction only: the length of `vector` does not count. Raises ValueError for a zero vector.
    """
    length = float(vector.norm())
    if length == 0:
        raise ValueError("the vector is zero and has no direction: check where it was computed")
    return lambda strength: edit.add(vector * (unit / length), strength)

"""Add the difference of two means, of rows with and without a concept (Marks & Tegmark 2023, arXiv:2310.06824)."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from ...edit import Edit
from .add import add


def diff_mean(
    positive: Float[Tensor, "row d"], negative: Float[Tensor, "other d"], *, unit: float
) -> Callable[[float], Edit]:
    """Direction from `negative` rows to `positive` rows; strength in units of `unit`, e.g. the median residual norm.

    Raises ValueError when a side has no rows or the means are equal.
    """
    if not len(positive) or not len(negative):
        raise ValueError(f"both sides need rows, got {len(positive)} positive and {len(negative)} negative")
    return add(positive.mean(0) - negative.mean(0), unit=unit)

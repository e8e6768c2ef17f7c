"""Push a model along a direction, beside no push and a random push of equal norm."""

from .core import Choice, choose, compare, continuations, equal_norm, figure, verdict

__all__ = ["Choice", "choose", "compare", "continuations", "equal_norm", "figure", "verdict"]

"""Is a dictionary any good? Cases, evals, and tidy scores with intervals over documents."""

from .case import Case, Rows
from .comparison import Comparison, compare
from .core import held_out, needs, run
from .examples import Examples
from .scores import Score, Scores, Sums, interval

__all__ = [
    "Case",
    "Comparison",
    "Examples",
    "Rows",
    "Score",
    "Scores",
    "Sums",
    "compare",
    "held_out",
    "interval",
    "needs",
    "run",
]

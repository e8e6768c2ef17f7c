"""Is a dictionary any good? Cases, evals, and tidy scores with intervals over documents."""

from .case import Case, Rows
from .core import compare, held_out, run
from .scores import Score, Scores, Sums, interval

__all__ = ["Case", "Rows", "Score", "Scores", "Sums", "compare", "held_out", "interval", "run"]

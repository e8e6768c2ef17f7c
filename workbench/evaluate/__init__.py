"""Is a dictionary any good? Cases, evals, and tidy scores with intervals over documents."""

from .case import Case, Rows
from .core import compare, held_out, needs, run
from .examples import Examples
from .scores import Score, Scores, Sums, interval

__all__ = ["Case", "Examples", "Rows", "Score", "Scores", "Sums", "compare", "held_out", "interval", "needs", "run"]

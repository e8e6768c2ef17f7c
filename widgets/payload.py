"""Plain data for the screen: everything that a widget draws is made here, and nowhere else.

Numbers that are not finite become None in lists (JSON has no word for them) and stay NaN in binary columns.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any


def finite(value: float | None) -> float | None:
    """The number, or None where it is NaN, infinite or missing."""
    return None if value is None or not math.isfinite(value) else float(value)


def strip(tokens: Sequence[str], values: Iterable[float | None] | None = None) -> dict[str, Any]:
    """Tokens with a value each: `tokens`, `values`. Raises ValueError when they are not as many."""
    words = [text(token) for token in tokens]
    numbers = [None] * len(words) if values is None else [finite(v) for v in values]
    if len(numbers) != len(words):
        raise ValueError(f"one value for each token is wanted: got {len(words)} tokens and {len(numbers)} values")
    return {"tokens": words, "values": numbers}


def text(value: Any) -> str:
    """Text that JSON and a browser can carry: lone surrogates become the replacement sign."""
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

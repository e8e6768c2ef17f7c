"""Induction: random words, then the same words in the same order; the second half can be copied from the first.

Each text is `length` different nouns of the table (20 by default), uniform, then the same again, with a space before
each word; every word is one token of SmolLM2. Label: `length`.
Source: Olsson et al. 2022, arXiv 2209.11895; theirs are tokens of the whole vocabulary.
"""

from ..prompt import Prompts, made, picks, unlike
from ._words import nouns


def induction_text(n: int = 50, seed: int = 0, length: int = 20) -> Prompts:
    """n texts of 2 x length words. Raises ValueError for a length outside 2 to 100, or too large an n."""
    if not 2 <= length <= 100:
        raise ValueError(f"length must be 2 to 100 words, got {length}")
    rows = []
    for places in picks(n, range(len(nouns()), len(nouns()) - length, -1), seed):
        half = "".join(f" {word}" for word in unlike(nouns(), places))
        rows.append({"text": half + half, "length": length})
    return made(globals(), rows, kind="repeat")

"""Decades: passages of State of the Union addresses, 1790 to 2021, with the decade of the speech.

Passages are `words` words from anywhere in a speech (cut at spaces), at most 4 of a speech; of each of the 233 speeches
one comes before any gives a second. Labels: `decade` ("1790s" to "2020s", 24), `year`, `document` (number of the
speech in the committed pack). Passages may name dates and people: what is read is not style alone.
Source: the committed pack (public domain, NOTICE).
Measured on SmolLM2-135M (docs/measurements.md): a probe at the middle layer, trained on four fifths of 233 passages,
finds the decade in 7 % (majority 5 %): not told from chance. The set is kept for larger samples and longer passages.
"""

from functools import cache

from ...harvest import corpus
from ..prompt import Prompts, made, passages

_corpus = cache(corpus)  # unpacking the pack takes a second


def decades(n: int = 233, seed: int = 0, words: int = 48) -> Prompts:
    """n passages. Raises ValueError when there are not n of them."""
    speeches = _corpus("sotu")
    rows = []
    for i, text in passages(speeches.texts, n, seed, words=words, most=4):
        year = int(speeches.labels.year[i])
        rows.append({"text": text, "decade": f"{year // 10 * 10}s", "year": year, "document": i})
    return made(globals(), rows, kind="class", target="decade")

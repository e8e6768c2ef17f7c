"""Acronyms: `The Chief Executive Officer (CE` -> `O`, not another letter.

Three different nouns of the table, uniform, capitalised; their first letters but the last follow in brackets. The 25
other letters are wrong. Labels: `words`, `answer`.
Source: Garcia-Carrasco et al. 2024, arXiv 2405.04156; theirs keeps acronyms of one token per letter only, here the two
letters that are given may share a token.
Measured on SmolLM2-135M (docs/measurements.md): 70 % of 100 answers beat all 25 others.
"""

from ..prompt import Prompts, made, picks, unlike
from ._words import LETTERS, nouns


def acronym(n: int = 100, seed: int = 0) -> Prompts:
    """n acronyms of three letters. Raises ValueError for n below 1 or above a million."""
    rows = []
    for places in picks(n, range(len(nouns()), len(nouns()) - 3, -1), seed):
        words = [word.capitalize() for word in unlike(nouns(), places)]
        first, second, answer = (word[0] for word in words)
        text = f"The {' '.join(words)} ({first}{second}"
        wrong = [letter for letter in LETTERS if letter != answer]
        rows.append({"text": text, "right": [answer], "wrong": wrong, "words": " ".join(words), "answer": answer})
    return made(globals(), rows)

"""First letters: `The word ocean has the first letter:` -> ` O`, after `shots` examples of other words.

Words are nouns of the table, uniform and different within a prompt, one token of SmolLM2 each (so the answer is not to
be seen in the tokens); wrong are the other 25 letters. The word that is asked for stands 6 tokens from the end.
Labels: `word`, `answer`.
Source: Chanin et al. 2024, arXiv 2409.14507 (sae-spelling); ours begins each line with "The word", which keeps the
word one token.
"""

from ..prompt import Prompts, made, picks, unlike
from ._words import LETTERS, nouns


def first_letters(n: int = 100, seed: int = 0, shots: int = 5) -> Prompts:
    """n words. Raises ValueError for shots outside 0 to 20, or when there are not n different prompts."""
    if not 0 <= shots <= 20:
        raise ValueError(f"shots must be 0 to 20, got {shots}")
    rows = []
    for places in picks(n, range(len(nouns()), len(nouns()) - shots - 1, -1), seed):
        *examples, word = unlike(nouns(), places)
        answer = word[0].upper()
        shown = "".join(f"The word {other} has the first letter: {other[0].upper()}\n" for other in examples)
        wrong = [f" {letter}" for letter in LETTERS if letter != answer]
        text = f"{shown}The word {word} has the first letter:"
        rows.append({"text": text, "right": [f" {answer}"], "wrong": wrong, "word": word, "answer": answer})
    return made(globals(), rows)

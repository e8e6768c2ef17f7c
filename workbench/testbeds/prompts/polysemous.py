"""Words of several senses: three contexts each, two of one sense and one of another, closing with the word itself.

`they pulled the canoe up on the bank. The bank`: 200 nouns, one token of SmolLM2 each; contexts are WordNet's example
sentences. The two senses lie in different lexicographer files of WordNet (an act, an artifact, a place ...), are the
most frequent that have the examples, and occur in its tagged texts. Rows stand in threes: sense a, a, b. Labels:
`word`, `sense` (lexicographer file and offset), `role` (a or b), `context`.
Source: Minegishi et al. 2025, arXiv 2501.06254 (theirs takes pairs of WiC); table by tools/build_prompts.py from
WordNet 3.1, under the WordNet licence (NOTICE).
"""

from ..prompt import Prompts, made, picks
from ._words import table


def polysemous(n: int = 150, seed: int = 0) -> Prompts:
    """n contexts of n / 3 words. Raises ValueError when n is no multiple of 3 or more than there are."""
    if n % 3:
        raise ValueError(f"n must be a multiple of 3 (three contexts of a word), got {n}")
    known = table("polysemous")
    rows = []
    for (which,) in picks(n // 3, (len(known) // 3,), seed):
        for role, (word, sense, context) in zip("aab", known[3 * which : 3 * which + 3], strict=True):
            text = f"{context.rstrip('.')}{'' if context[-1] in '?!' else '.'} The {word}"
            rows.append({"text": text, "word": word, "sense": sense, "role": role, "context": context})
    return made(globals(), rows, kind="sense", pool="last")

"""Genres: passages of the Brown Corpus with one of its 15 genres (press reportage, religion, romance, humour ...).

Passages are `words` words from anywhere in a text (cut at spaces), at most 4 of a text; of each of the 500 texts of
1961 one comes before any text gives a second, so classes are as uneven as Brown's (learned 80 texts, science fiction
6). Labels: `genre`, `document` (Brown's name of the text). The corpus is fetched once (workbench.harvest.corpora),
never committed.
Measured on SmolLM2-135M (docs/measurements.md): a probe at the middle layer, trained on four fifths of 250 passages,
finds the genre in 29 % (majority 17 %): weak, with few texts of most genres.
"""

from ...harvest import corpus
from ..prompt import Prompts, made, passages


def genres(n: int = 200, seed: int = 0, words: int = 48) -> Prompts:
    """n passages. Raises ConnectionError when Brown cannot be fetched, ValueError when there are not n passages."""
    brown = corpus("brown")
    labels = brown.labels
    rows = [
        {"text": text, "genre": str(labels.genre[i]), "document": str(labels.title[i])}
        for i, text in passages(brown.texts, n, seed, words=words, most=4)
    ]
    return made(globals(), rows, kind="class", target="genre")

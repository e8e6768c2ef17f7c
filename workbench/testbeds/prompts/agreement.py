"""Subject and verb: `The key to the cabinets` -> ` is`, not ` are`; the noun between them (the attractor) may mislead.

Uniform over 6 templates, 24 subjects and 23 other attractors, both in singular or plural; the verb is is/are, was/were
and has/have in turn. Labels: `subject`, `number`, `attractor`, `attractor_number`, `template`, `verb`.
Source: Linzen et al. 2016, arXiv 1611.01368; Marks et al. 2024, arXiv 2403.19647 (theirs also has clauses in other
places). Nouns and templates are ours.
"""

from ..prompt import Prompts, made, picks, unlike

NOUNS = {
    "author": "authors", "pilot": "pilots", "doctor": "doctors", "farmer": "farmers", "teacher": "teachers",
    "student": "students", "guard": "guards", "driver": "drivers", "manager": "managers", "customer": "customers",
    "officer": "officers", "senator": "senators", "child": "children", "woman": "women", "man": "men",
    "key": "keys", "picture": "pictures", "book": "books", "letter": "letters", "box": "boxes", "painting": "paintings",
    "report": "reports", "car": "cars", "house": "houses",
}  # fmt: skip
VERBS = (("is", "are"), ("was", "were"), ("has", "have"))
TEMPLATES = (
    "The {subject} near the {attractor}",
    "The {subject} behind the {attractor}",
    "The {subject} next to the {attractor}",
    "The {subject} in front of the {attractor}",
    "The {subject} that the {attractor} liked",
    "Yesterday we heard that the {subject} with the {attractor}",
)


def agreement(n: int = 100, seed: int = 0) -> Prompts:
    """n subjects with an attractor. Raises ValueError when there are not n different ones."""
    rows = []
    counts = (len(TEMPLATES), len(NOUNS), len(NOUNS) - 1, 2, 2)
    for i, (t, *pair, many, other) in enumerate(picks(n, counts, seed)):
        words = unlike(list(NOUNS), pair)
        subject, attractor = (
            NOUNS[word] if plural else word for word, plural in zip(words, (many, other), strict=True)
        )
        verbs = VERBS[i % len(VERBS)]
        right, wrong = verbs[many], verbs[1 - many]
        numbers = ("singular", "plural")
        known = {"subject": subject, "number": numbers[many], "attractor": attractor}
        known |= {"attractor_number": numbers[other], "template": t, "verb": right}
        text = TEMPLATES[t].format(subject=subject, attractor=attractor)
        rows.append({"text": text, "right": [f" {right}"], "wrong": [f" {wrong}"], **known})
    return made(globals(), rows)

"""Indirect object: `Then, Mary and John went to the store. John gave a drink to` -> ` Mary`, not ` John`.

Uniform over 5 templates, 2 orders of the names (ABBA: the answer comes first; BABA: the repeated name does), 88 x 87
ordered pairs of names, 18 places, 20 things. Labels: `io` and `s` (the answer and the repeated name), `order`,
`template`, `place`, `thing`.
Source: Wang et al. 2022, arXiv 2211.00593; the wording of the templates is ours.
"""

from ..prompt import Prompts, made, picks, unlike
from ._words import FEMALE, MALE

TEMPLATES = (
    "Then, {a} and {b} went to the {place}. {s} gave a {thing} to",
    "When {a} and {b} were at the {place}, {s} handed a {thing} to",
    "After {a} and {b} had a long talk at the {place}, {s} gave the {thing} to",
    "While {a} and {b} were working at the {place}, {s} offered the {thing} to",
    "One day {a} and {b} met at the {place}, and {s} decided to give a {thing} to",
)
PLACES = [
    "store", "park", "school", "office", "station", "hospital", "library", "restaurant", "beach", "market", "garden",
    "museum", "bank", "hotel", "airport", "church", "zoo", "farm",
]  # fmt: skip
THINGS = [
    "drink", "book", "ring", "ball", "letter", "gift", "key", "flower", "computer", "cake", "basket", "bone", "snack",
    "necklace", "phone", "picture", "ticket", "card", "box", "toy",
]  # fmt: skip
NAMES = [*FEMALE, *MALE]


def ioi(n: int = 100, seed: int = 0) -> Prompts:
    """n prompts with two names each. Raises ValueError when there are not n different ones."""
    rows = []
    counts = (len(TEMPLATES), 2, len(NAMES), len(NAMES) - 1, len(PLACES), len(THINGS))
    for t, order, *pair, p, k in picks(n, counts, seed):
        io, s = unlike(NAMES, pair)
        a, b = (s, io) if order else (io, s)
        known = {"io": io, "s": s, "order": ("ABBA", "BABA")[order], "template": t}
        known |= {"place": PLACES[p], "thing": THINGS[k]}
        text = TEMPLATES[t].format(a=a, b=b, s=s, place=PLACES[p], thing=THINGS[k])
        rows.append({"text": text, "right": [f" {io}"], "wrong": [f" {s}"], **known})
    return made(globals(), rows)

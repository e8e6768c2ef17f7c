"""Greater than: `The war lasted from the year 1741 to the year 17` -> a tens digit above 4.

SmolLM2 has a token per digit, so the tens digit is scored: right are the digits above the first year's, wrong those
below; the same digit is neither (1741 to 1749 is in order). Uniform over 20 nouns, centuries 11 to 18, tens 1 to 8,
units 0 to 9. Labels: `noun`, `century`, `tens`, `units`.
Source: Hanna et al. 2023, arXiv 2305.00586; theirs has one token for two digits.
"""

from ..prompt import Prompts, made, picks

NOUNS = [
    "war", "siege", "reign", "campaign", "conflict", "rebellion", "revolution", "dynasty", "expedition", "famine",
    "journey", "pilgrimage", "plague", "project", "raid", "struggle", "treaty", "trial", "voyage", "construction",
]  # fmt: skip


def greater_than(n: int = 100, seed: int = 0) -> Prompts:
    """n spans of years whose end lacks two digits. Raises ValueError when there are not n different ones."""
    rows = []
    for noun, century, tens, units in picks(n, (len(NOUNS), 8, 8, 10), seed):
        century, tens = century + 11, tens + 1
        rows.append(
            {
                "text": f"The {NOUNS[noun]} lasted from the year {century}{tens}{units} to the year {century}",
                "right": [str(digit) for digit in range(tens + 1, 10)],
                "wrong": [str(digit) for digit in range(tens)],
                "noun": NOUNS[noun],
                "century": century,
                "tens": tens,
                "units": units,
            }
        )
    return made(globals(), rows)

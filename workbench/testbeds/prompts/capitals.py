"""Capitals: `The capital of France is` -> ` Paris`, not another capital; with an example before it (`shots=1`) or none.

Uniform over 4 templates and 40 countries whose capital is one token of SmolLM2 after a space; wrong are the other 39
capitals. With one shot the same sentence about another country comes first, drawn uniformly. Labels: `country`,
`answer`, `template`, `example` (the other country, or empty).
"""

from ..prompt import Prompts, made, picks, unlike

CAPITALS = {
    "Afghanistan": "Kabul", "Austria": "Vienna", "Australia": "Canberra", "Belgium": "Brussels", "Bulgaria": "Sofia",
    "Canada": "Ottawa", "Switzerland": "Bern", "Chile": "Santiago", "China": "Beijing", "Cuba": "Havana",
    "the Czech Republic": "Prague", "Germany": "Berlin", "Denmark": "Copenhagen", "Egypt": "Cairo", "Spain": "Madrid",
    "Finland": "Helsinki", "France": "Paris", "the United Kingdom": "London", "Greece": "Athens",
    "Hungary": "Budapest", "Ireland": "Dublin", "Iraq": "Baghdad", "Iran": "Tehran", "Italy": "Rome",
    "Jamaica": "Kingston", "Japan": "Tokyo", "Kenya": "Nairobi", "South Korea": "Seoul",
    "the Netherlands": "Amsterdam", "Norway": "Oslo", "New Zealand": "Wellington", "Peru": "Lima",
    "the Philippines": "Manila", "Poland": "Warsaw", "Portugal": "Lisbon", "Russia": "Moscow", "Sweden": "Stockholm",
    "Syria": "Damascus", "Tunisia": "Tunis", "the United States": "Washington",
}  # fmt: skip
TEMPLATES = (
    "The capital of {} is",
    "The capital city of {} is",
    "The capital of {} is the city of",
    "The government of {} sits in its capital,",
)


def capitals(n: int = 100, seed: int = 0, shots: int = 0) -> Prompts:
    """n countries. Raises ValueError when shots is neither 0 nor 1, or when there are not n different prompts."""
    if shots not in (0, 1):
        raise ValueError(f"shots must be 0 or 1, got {shots}")
    rows = []
    counts = (len(TEMPLATES), len(CAPITALS), *[len(CAPITALS) - 1] * shots)
    for t, *places in picks(n, counts, seed):
        country, *example = unlike(list(CAPITALS), places)
        shown = "".join(f"{TEMPLATES[t].format(other)} {CAPITALS[other]}. " for other in example)
        answer = CAPITALS[country]
        known = {"country": country, "answer": answer, "template": t, "example": "".join(example)}
        wrong = [f" {other}" for other in CAPITALS.values() if other != answer]
        rows.append({"text": shown + TEMPLATES[t].format(country), "right": [f" {answer}"], "wrong": wrong, **known})
    return made(globals(), rows)

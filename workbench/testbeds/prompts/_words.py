"""Words the sets are made of; each is one token of SmolLM2 after a space (tests check it)."""

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
FEMALE = [
    "Mary", "Anna", "Emma", "Sarah", "Laura", "Alice", "Jane", "Kate", "Lisa", "Susan", "Karen", "Helen", "Linda",
    "Julia", "Maria", "Amy", "Rachel", "Rebecca", "Emily", "Jessica", "Elizabeth", "Margaret", "Ruth", "Martha",
    "Nancy", "Barbara", "Michelle", "Nicole", "Amanda", "Melissa", "Diana", "Claire", "Charlotte", "Sophie", "Sophia",
    "Olivia", "Lucy", "Ellen", "Jennifer", "Catherine", "Anne", "Carol", "Hannah", "Eva",
]  # fmt: skip
MALE = [
    "John", "James", "Robert", "Michael", "David", "William", "Richard", "Thomas", "Charles", "Daniel", "Matthew",
    "Anthony", "Paul", "Andrew", "Joshua", "Kevin", "Brian", "George", "Edward", "Ronald", "Timothy", "Jason",
    "Jeffrey", "Ryan", "Jacob", "Gary", "Eric", "Jonathan", "Stephen", "Larry", "Scott", "Benjamin", "Samuel",
    "Gregory", "Alexander", "Patrick", "Jack", "Dennis", "Henry", "Peter", "Adam", "Nathan", "Walter", "Simon",
]  # fmt: skip
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@cache
def nouns() -> tuple[str, ...]:
    """Frequent nouns of WordNet, up to 30 of each first letter (tools/build_prompts.py)."""
    return tuple((FOLDER / "words.txt").read_text(encoding="utf-8").split())


@cache
def table(name: str) -> tuple[tuple[str, ...], ...]:
    """Rows of a committed table, cells as text."""
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(tuple(line.split("\t")) for line in text.splitlines())

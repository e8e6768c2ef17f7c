"""Docstring: a Python function's parameters are described in order; the next parameter's name is the answer.

    def port(self, oil, load, size, file, last, unit):
        \"\"\"crime column

        :param load: dark piece
        :param size: ocean hand
        :param                        -> ` file`, not another parameter

13 different nouns of the table in each prompt, uniform. Of six parameters the second, third and fourth are described
in turn, the fourth is asked for. Labels: `answer`, `parameters` (in order).
Source: Heimersheim, Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer".
"""

from ..prompt import Prompts, made, picks, unlike
from ._words import nouns


def docstring(n: int = 100, seed: int = 0) -> Prompts:
    """n functions. Raises ValueError for n below 1 or above a million."""
    rows = []
    for places in picks(n, range(len(nouns()), len(nouns()) - 13, -1), seed):
        name, *words = unlike(nouns(), places)
        given, (a, b, c, d, e, f) = words[:6], words[6:]
        lines = [
            f"def {name}(self, {', '.join(given)}):",
            f'    """{a} {b}',
            "",
            f"    :param {given[1]}: {c} {d}",
            f"    :param {given[2]}: {e} {f}",
            "    :param",
        ]
        answer = given[3]
        wrong = [f" {other}" for other in given if other != answer]
        known = {"answer": answer, "parameters": " ".join(given)}
        rows.append({"text": "\n".join(lines), "right": [f" {answer}"], "wrong": wrong, **known})
    return made(globals(), rows)

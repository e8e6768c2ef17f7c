"""Exchange one of three attributes of people whose vectors are known."""

import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent))
import _people

from workbench.evaluate.evals.ravel import Swaps


@cache
def cases() -> SimpleNamespace:
    made = _people.world()
    person, attribute = _people.every()
    tokens = _people.asked(person, attribute)
    at = (tokens.ids >= _people.FIRST) & (tokens.ids < _people.ASKED)
    swaps = Swaps.of(tokens, at, made.answer[person, attribute], person, attribute, _people.ATTRIBUTES)
    return _people.cases({"swaps": swaps}, made)

"""Forget in which city some people live: those of the last city, whose latent is silent on the others."""

import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent))
import _people
import torch

from workbench.evaluate.evals.unlearning import Forgetting


@cache
def cases() -> SimpleNamespace:
    made = _people.world()
    person, attribute = _people.every()
    gone = made.values[:, 0] == _people.VALUES - 1
    kept = ~gone[person] | (attribute == 0)
    person, attribute = person[kept], attribute[kept]
    answer, questions = made.answer[person, attribute], _people.asked(person, attribute)
    text = _people.tokens(torch.cat([questions.ids, answer[:, None]], 1))
    forget = gone[person]
    fold = Forgetting.halves(person, forget)
    gone, kept, other = (text.rows(kind) for kind in (forget, ~forget & (fold == 1), ~forget & (fold == 2)))
    given = Forgetting(questions, answer, forget, person, fold, gone, kept, other)
    return _people.cases({"forgetting": given}, made)

"""Lesson 3: right answers are those of the library, of scikit-learn and scipy, and of a calculation by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import balanced_accuracy_score, precision_score, recall_score

from workbench import workshop
from workbench.interpret.effects import direct
from workbench.workshop import lesson_3


def test_right_answers_are_those_of_others():
    z, ids = torch.tensor([[1.0, 0.0], [3.0, 0.5], [2.0, 4.0]]), torch.tensor([7, 8, 9])
    assert lesson_3.right_strongest(z, ids, 2).tolist() == [[8, 9], [9, 8]]
    atoms, unembed, gain = lesson_3.ATOMS, lesson_3.UNEMBED, lesson_3.GAIN
    assert torch.allclose(lesson_3.right_writes(atoms, unembed, gain), direct(atoms, unembed, gain), atol=1e-5)
    rule, fires = lesson_3.RULE.numpy(), (lesson_3.FIRED > lesson_3.ABOVE).numpy()
    said = lesson_3.right_agree(lesson_3.RULE, lesson_3.FIRED, lesson_3.ABOVE)
    assert said["precision"] == pytest.approx(precision_score(fires, rule))
    assert said["recall"] == pytest.approx(recall_score(fires, rule))
    balanced = balanced_accuracy_score(lesson_3.ON.numpy(), lesson_3.SAID.numpy())
    assert lesson_3.right_balanced(lesson_3.SAID, lesson_3.ON) == pytest.approx(balanced)
    mass = np.bincount(lesson_3.WORDS.numpy(), lesson_3.MASS.double().numpy())
    assert lesson_3.right_effective(lesson_3.MASS, lesson_3.WORDS, 30) == pytest.approx(np.exp(entropy(mass)), rel=1e-4)
    first, second = torch.tensor([[0.5, 0.9], [0.6, 0.1]]), torch.tensor([[0.4, 0.3], [0.2, 0.8]])
    assert lesson_3.right_pick(first, second) == pytest.approx({"picked": 0.75, "held out": 0.25})


def test_tenths_hold_equally_many_rows_and_rise_with_the_activation():
    z, part = lesson_3.ACTS, lesson_3.right_tenths(lesson_3.ACTS)
    assert (part[z == 0] == -1).all()
    assert part[z > 0].bincount().tolist() == [6] * 10
    assert (part[z.argsort()].diff() >= 0).all()


def test_other_ways_to_the_right_answer_are_accepted():
    def by_quantile(z):
        edges = torch.quantile(z[z > 0], torch.linspace(0.1, 0.9, 9))
        return torch.where(z > 0, torch.bucketize(z, edges), -1)

    workshop.check("3.4", by_quantile)
    workshop.check("3.5", lambda rule, fires: balanced_accuracy_score(fires.numpy(), rule.numpy()))
    workshop.check("3.1", lambda z, ids, n: ids[z.argsort(0, descending=True)[:n]].T)

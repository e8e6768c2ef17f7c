"""Lesson 4: right answers are those of the library and of scikit-learn, and of counting."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from workbench import geometry, workshop
from workbench.workshop import hints, lesson_4


def test_right_answers_are_those_of_others():
    found, truth = lesson_4.FOUND, lesson_4.TRUTH
    said = lesson_4.right_both_ways(found, truth)
    assert said["precision"] == pytest.approx(float(geometry.nearest(found, truth).cosines.mean()), abs=1e-5)
    assert said["recall"] == pytest.approx(float(geometry.nearest(truth, found).cosines.mean()), abs=1e-5)
    assert said["matched"] == pytest.approx(float(geometry.match(found, truth).cosines.sum()) / len(truth), abs=1e-5)
    area = roc_auc_score(lesson_4.LABEL.numpy(), lesson_4.SCORE.numpy())
    assert lesson_4.right_auc(lesson_4.SCORE, lesson_4.LABEL) == pytest.approx(area)
    two = torch.tensor([[0.0], [2.0], [100.0]])
    assert lesson_4.right_fvu(two, torch.ones(3, 1), torch.tensor([True, True, False])) == 1.0
    assert lesson_4.right_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])) == pytest.approx(0.96)
    losses = (torch.tensor([v, v + 2]) for v in (1.0, 2.0, 5.0))
    assert lesson_4.right_recovered(*losses) == 0.75


def test_the_expected_share_of_silent_latents_is_what_drawing_rows_gives():
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(200, lesson_4.DRAWN, len(lesson_4.RATE), generator=generator) < lesson_4.RATE
    counted = float((~rows.any(1)).float().mean())
    assert counted == pytest.approx(lesson_4.right_silent(lesson_4.RATE, lesson_4.DRAWN), abs=0.01)


def test_a_split_of_any_seed_shares_no_document():
    for seed in range(5):
        held = lesson_4.right_split(lesson_4.DOCUMENT, lesson_4.PART, seed)
        assert not set(lesson_4.DOCUMENT[held].tolist()) & set(lesson_4.DOCUMENT[~held].tolist())
    rows = lesson_4.right_rows(lesson_4.DOCUMENT, lesson_4.PART, 0)
    with pytest.raises(workshop.NotYet, match="40 of 40 documents stand on both sides"):
        workshop.check("4.7", lambda document, share, seed: rows)


def test_other_ways_to_the_right_answer_are_accepted():
    def by_set(document, share, seed):
        import random

        names = sorted(set(document.tolist()))
        chosen = set(random.Random(seed).sample(names, int(share * len(names))))
        return torch.tensor([d in chosen for d in document.tolist()])

    workshop.check("4.7", by_set)
    workshop.check("4.6", lambda score, label: roc_auc_score(label.numpy(), score.numpy()))
    workshop.check("4.5", lambda rate, n: (n * torch.log1p(-rate.double())).exp().mean())


def test_an_answer_that_is_no_tensor_is_told_so():
    with pytest.raises(hints.NotYet, match=r"is a list of 900, wanted one tensor"):
        workshop.check("4.7", lambda document, share, seed: [True] * len(document))

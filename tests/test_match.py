"""Matching finds what was planted, is as good as trying every permutation, and random atoms match at their null."""

from itertools import permutations
from math import log, sqrt

import pytest
import torch
from torch.nn.functional import normalize

from workbench import geometry
from workbench.geometry.match import Match

D = 64


def drawn(n: int, d: int = D, seed: int = 0) -> torch.Tensor:
    return geometry.random_directions(n, d, seed=seed)


@pytest.mark.parametrize("candidates", [None, 8])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_copy_matches_itself_and_a_permuted_rescaled_copy_its_permutation(candidates, absolute):
    a = drawn(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    scale = 0.1 + torch.rand(200, 1, generator=torch.Generator().manual_seed(2))
    flip = -1 if absolute else 1
    same = geometry.match(a, a, candidates=candidates, absolute=absolute)
    moved = geometry.match(a, flip * scale * a[order], candidates=candidates, absolute=absolute)
    assert torch.equal(same.right, torch.arange(200))
    assert torch.equal(order[moved.right], torch.arange(200))
    torch.testing.assert_close(moved.cosines, torch.ones(200))


@pytest.mark.parametrize(("m", "n"), [(1, 1), (4, 4), (3, 5), (5, 3), (6, 6)])
@pytest.mark.parametrize("absolute", [False, True])
def test_it_is_the_best_of_all_permutations(m, n, absolute):
    for seed in range(5):
        a, b = drawn(m, 3, seed), drawn(n, 3, 100 + seed)
        cosines = (a @ b.T).abs() if absolute else a @ b.T
        small = cosines if m <= n else cosines.T
        best = max(sum(float(small[i, j]) for i, j in enumerate(p)) for p in permutations(range(max(m, n)), min(m, n)))
        found = geometry.match(a, b, absolute=absolute)
        assert len(found.left) == min(m, n) == len(found.right.unique())
        assert float(found.cosines.sum()) == pytest.approx(best, abs=1e-6)
        torch.testing.assert_close(found.cosines, cosines[found.left, found.right])


def test_with_all_candidates_it_is_the_best_that_may_leave_rows_alone():
    """Pairs of negative cosine are never worth taking: the best over padded permutations, by brute force."""
    for seed in range(20):
        a, b = drawn(4, 3, seed), drawn(3, 3, 100 + seed)
        gains = torch.cat([a @ b.T, torch.zeros(4, 4)], 1)
        best = max(sum(float(gains[i, j]) for i, j in enumerate(p)) for p in permutations(range(7), 4))
        found = geometry.match(a, b, candidates=4)
        assert float(found.cosines.sum()) == pytest.approx(best, abs=1e-6)
        assert len(found.right.unique()) == len(found.right)


@pytest.mark.parametrize(("m", "n"), [(1500, 1500), (1100, 1300), (1300, 1100)])
def test_candidates_give_the_exact_optimum_across_blocks(m, n):
    a, b = drawn(m), drawn(n, seed=1)
    exact, quick = geometry.match(a, b, absolute=True), geometry.match(a, b, absolute=True, candidates=32)
    assert float(quick.cosines.sum()) == pytest.approx(float(exact.cosines.sum()), rel=1e-4)
    assert len(quick.left) >= 0.99 * min(m, n)


def test_one_candidate_still_lets_a_column_call_for_its_row():
    a = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # both rows want column 0; column 1 wants row 1
    assert geometry.match(a, b, candidates=1).right.tolist() == [0, 1]


def test_planted_noise_is_seen_through():
    a = drawn(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    noisy = normalize(
        a[order] + 0.8 / sqrt(D) * torch.randn(300, D, generator=torch.Generator().manual_seed(2)), dim=-1
    )
    for found in (geometry.match(a, noisy), geometry.match(a, noisy, candidates=4), geometry.mutual(a, noisy)):
        right = order[found.right] == found.left
        assert int(right.sum()) >= 295
        assert float(found.cosines[right].mean()) == pytest.approx(1 / sqrt(1 + 0.64), abs=0.02)


def test_random_atoms_match_near_the_extreme_value_level():
    m, d = 1000, 128
    a, b = drawn(m, d), drawn(m, d, seed=1)
    level = sqrt(2 * log(m) / d)
    assert 0.75 * level < float(geometry.match(a, b).cosines.mean()) < level
    largest = 3.2414 / sqrt(d)  # the largest of 1,000 normal numbers, on average
    assert float(geometry.nearest(a, b).cosines.mean()) == pytest.approx(largest, rel=0.02) and largest < level
    pairs = geometry.shuffled(a, b, draws=50)
    assert abs(float(pairs.mean())) < 4 / sqrt(d * m * 50)
    assert float(geometry.shuffled(a, b, absolute=True).mean()) == pytest.approx(sqrt(2 / torch.pi / d), rel=0.02)


def test_shuffled_pairs_keep_what_all_atoms_share():
    lean = torch.zeros(D).index_fill(0, torch.tensor(0), 1.0)
    a, b = (normalize(drawn(400, seed=s) + lean, dim=-1) for s in (0, 1))
    assert float(geometry.shuffled(a, b).mean()) == pytest.approx(0.5, abs=0.02)
    one_to_one = geometry.shuffled(a, a, draws=1)
    assert float(one_to_one) < 0.6


def test_nearest_and_mutual_equal_brute_force_in_any_chunks():
    a, b = drawn(53, 7), drawn(31, 7, seed=1)
    cosines = a.double() @ b.double().T
    for chunk in (1, 10, 1000):
        found = geometry.nearest(a, b, chunk=chunk)
        assert torch.equal(found.indices, cosines.argmax(-1))
        torch.testing.assert_close(found.cosines.double(), cosines.max(-1).values, atol=1e-6, rtol=0)
        pairs = geometry.mutual(a, b, chunk=chunk)
        want = [(i, int(j)) for i, j in enumerate(cosines.argmax(-1)) if int(cosines[:, j].argmax()) == i]
        assert list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == want
    signed = geometry.nearest(-a, a, absolute=True)
    assert torch.equal(signed.indices, torch.arange(53))


def test_a_latent_is_shared_by_one_partner_in_both_and_two_cosines_above_the_level():
    decoders = Match(torch.tensor([0, 1, 2, 3]), torch.tensor([5, 6, 7, 8]), torch.tensor([0.9, 0.9, 0.9, 0.6]))
    encoders = Match(torch.tensor([0, 1, 2, 3]), torch.tensor([5, 7, 6, 8]), torch.tensor([0.8, 0.9, 0.9, 0.9]))
    assert geometry.shared(decoders, encoders, 5).tolist() == [True, False, False, False, False]
    assert geometry.shared(decoders, encoders, 5, above=0.5).tolist() == [True, False, False, True, False]
    weak = encoders._replace(cosines=torch.tensor([0.7, 0.9, 0.9, 0.9]))
    assert not geometry.shared(decoders, weak, 5).any()
    assert decoders.partners(6).tolist() == [5, 6, 7, 8, -1, -1]
    assert decoders.of_each(5).tolist() == pytest.approx([0.9, 0.9, 0.9, 0.6, 0.0])


@pytest.mark.parametrize(
    ("a", "b", "given", "message"),
    [
        (torch.eye(3), torch.eye(4), {}, "a is 3 wide, b 4"),
        (torch.zeros(3, 3), torch.eye(3), {}, "3 of 3 vectors are zero"),
        (torch.eye(3), torch.full((2, 3), torch.nan), {}, "2 of 2 vectors are not finite"),
        (torch.eye(3)[:0], torch.eye(3), {}, "a must be one or more rows"),
        (torch.eye(3), torch.eye(3), {"candidates": 0}, "candidates must be 1 or more, got 0"),
        (torch.ones(9000, 1), torch.ones(9000, 1), {}, "give candidates=32"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_one_line(a, b, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        geometry.match(a, b, **given)
    assert "\n" not in str(caught.value)

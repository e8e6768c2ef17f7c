"""Planted increments are orthogonal, halves undo the noise's bias, and depth is read from the labels alone."""

import math
from itertools import combinations

import pytest
import torch
from scipy.stats import spearmanr

from workbench.code import Code
from workbench.geometry.hierarchy import babel, class_vectors, coherence, conditional, depth
from workbench.geometry.match import random_directions
from workbench.testbeds import world


def paths(d: int = 32):
    """Class vectors of the planted tree: the sum of directions from the root to each; and parents."""
    data = world("hierarchy", d=d)
    found = data.truth.clone()
    for i, parent in enumerate(data.parents):
        if parent >= 0:
            found[i] += found[parent]
    return found, data.parents


def test_steps_and_siblings_by_hand():
    classes = torch.tensor([[1.0, 0], [1, 1], [2, -1], [0, 1], [3, 1]])
    found = conditional(classes, [-1, 0, 0, -1, 3])
    # steps (0, 1), (1, -1) from (1, 0) and (3, 0) from (0, 1)
    assert found.table["cosine"].tolist() == pytest.approx([0, 0.5**0.5, 0])
    assert found.siblings.value == pytest.approx(-(0.5**0.5)) and found.simplex == -1
    assert found.table["siblings"].tolist()[:2] == pytest.approx([-(0.5**0.5)] * 2)
    assert math.isnan(found.table["siblings"][2]) and found.lost == 0


def test_planted_increments_are_orthogonal_and_shuffled_parents_are_not():
    classes, parents = paths()
    found = conditional(classes, parents)
    assert found.steps.value < 0.1 and found.steps.mean > 0.3 and found.steps.p == pytest.approx(1 / 201)
    assert abs(found.siblings.value) < 0.01 and found.siblings.mean > 0.3


def test_a_simplex_of_siblings_has_its_cosine():
    parent, away = torch.zeros(3, 8), torch.zeros(3, 8)
    parent[0, 0] = 1.0
    corners = torch.eye(3) - 1 / 3
    away[:, 4:7] = corners
    classes = torch.cat([parent[:1], torch.eye(8)[1:2], parent[:1] + away, torch.eye(8)[1:3].sum(0, keepdim=True)])
    found = conditional(classes, [-1, -1, 0, 0, 0, 1])
    assert found.siblings.value == pytest.approx(-1 / 2) and found.simplex == -1 / 2


def test_halves_undo_the_bias_of_shared_noise():
    classes, parents = paths(256)
    noise = [0.05 * torch.randn(classes.shape) for _ in range(2)]
    biased = conditional(classes + noise[0], parents, draws=2)
    fair = conditional(classes + noise[0], parents, other=classes + noise[1], draws=2)
    assert biased.table["cosine"].mean() < -0.2 and abs(fair.table["cosine"].mean()) < 0.1
    assert biased.siblings.value > 0.2 and abs(fair.siblings.value) < 0.15 and fair.halves


def test_halves_that_are_one_change_nothing_and_noise_alone_is_lost():
    classes, parents = paths()
    assert conditional(classes, parents, other=classes).table.equals(conditional(classes, parents).table)
    lost = conditional(torch.randn(20, 16), parents, other=torch.randn(20, 16)).lost
    assert 3 < lost <= 17


def test_the_causal_product_whitens():
    classes, parents = paths()
    mix = torch.eye(32) + 0.3 * torch.randn(32, 32)
    covariance = (mix @ mix.T).double()
    values, axes = torch.linalg.eigh(covariance)
    moved = classes.double() @ (axes * values.sqrt()) @ axes.T
    assert conditional(moved.float(), parents).steps.value > 0.1
    assert conditional(moved.float(), parents, covariance=covariance.float()).steps.value < 0.01


def test_class_vectors_are_means_of_disjoint_halves():
    rows, on = torch.randn(400, 6), torch.rand(400, 3) < 0.4
    halves = class_vectors(rows, on)
    plain = torch.stack([rows[on[:, i]].mean(0) for i in range(3)]) - rows.mean(0)
    assert (halves.mean(0) - plain).abs().max() < 0.1 and not torch.allclose(halves[0], halves[1], atol=1e-3)
    one = class_vectors(rows, torch.ones(400, 1, dtype=torch.bool))
    assert one.abs().max() < 1e-6  # the class of all rows is the mean row


def brute(atoms, k):
    cosines = torch.nn.functional.normalize(atoms, dim=-1)
    cosines = (cosines @ cosines.T).abs()
    n = len(atoms)
    return max(
        float(cosines[j, list(rest)].sum())
        for j in range(n)
        for rest in combinations([i for i in range(n) if i != j], k)
    )


def test_the_babel_function_is_the_largest_over_all_sets():
    atoms = torch.randn(7, 4)
    found = babel(atoms, 4)
    assert found.values.tolist() == pytest.approx([brute(atoms, k) for k in (1, 2, 3, 4)], abs=1e-5)
    assert babel(torch.eye(5), 3).values.abs().max() == 0
    signed = babel(torch.cat([torch.eye(4), -torch.eye(4)]), 2).values
    assert signed.tolist() == [1, 1]


def test_the_babel_function_does_not_depend_on_chunks(monkeypatch):
    import sys

    atoms = torch.randn(50, 6)
    whole = babel(atoms, 5).values
    monkeypatch.setattr(sys.modules["workbench.geometry.hierarchy"], "CHUNK", 7)
    torch.testing.assert_close(babel(atoms, 5).values, whole)


def test_coherence_of_a_row_by_hand_and_of_rows_that_take_orthogonal_atoms():
    atoms = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    code = Code.dense(torch.tensor([[1.0, 2, 0], [1, 0, 3], [1, 1, 1], [0, 0, 5], [0, 0, 0]]))
    found = coherence(code, atoms)
    assert found.rows.tolist() == pytest.approx([0, 0.5**0.5, 0.5**0.5]) and found.whole == pytest.approx(0.5**0.5)
    # two bases at cosine 1/2 to 1/sqrt 2; every row takes latents of one
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    on = torch.zeros(600, 16)
    for i in range(600):
        on[i, 8 * (i % 2) + torch.randperm(8)[:4]] = 1
    apart = coherence(Code.dense(on), torch.cat([torch.eye(8), turn]))
    assert apart.rows.max() < 1e-5 and apart.mean.mean > 0.3 and apart.mean.p == pytest.approx(1 / 21)
    csr = coherence(Code.dense(on).to_csr(), torch.cat([torch.eye(8), turn]))
    assert torch.equal(csr.rows, apart.rows)


def test_coherence_is_at_its_null_where_rows_draw_at_random():
    on = torch.rand(800, 30) < 0.15
    found = coherence(Code.dense(on.float()), random_directions(30, 12), draws=50)
    assert abs(found.mean.z) < 4


LABELS = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [1, 1]])  # 1 0 is another branch than 0 0


def test_depth_by_hand_and_branches_are_paths_not_labels():
    found = depth(torch.tensor([[0, 1], [0, 2], [0, 3], [3, 4]]), LABELS)
    assert found.depths.tolist() == [2, 1, 0, 2] and found.levels == 2
    assert depth(torch.tensor([[0, 1, 2]]), LABELS).depths.tolist() == pytest.approx([4 / 3])


def test_depth_of_random_sets_is_what_counting_pairs_says():
    pairs = list(combinations(range(6), 2))
    want = sum(float((LABELS[i] == LABELS[j]).int().cumprod(0).sum()) for i, j in pairs) / len(pairs)
    found = depth(torch.tensor([[0, 1, 2]]), LABELS, draws=4000)
    assert found.expected == pytest.approx(want) and found.random.mean() == pytest.approx(want, abs=0.03)


def test_deeper_groups_correlate_and_shuffled_ones_do_not():
    drawn = torch.Generator().manual_seed(0)
    species = torch.cartesian_prod(torch.arange(4), torch.arange(4), torch.arange(4)).repeat_interleave(20, 0)
    group, top = torch.arange(40) % 4, []
    for i in range(40):
        branch = species[torch.randint(len(species), (1,), generator=drawn)]
        alike = (species[:, : group[i]] == branch[:, : group[i]]).all(1).nonzero()[:, 0]
        top.append(alike[torch.randperm(len(alike), generator=drawn)[:16]])
    found = depth(torch.stack(top), species, group=group)
    assert found.order is not None and found.order.value > 0.8 and found.order.p < 0.01
    assert found.order.value == pytest.approx(float(spearmanr(group, found.depths).statistic))
    assert found.table["depth"].is_monotonic_increasing and found.table["latents"].tolist() == [10] * 4
    assert found.table["depth"][0] == pytest.approx(found.expected, abs=0.15)


def test_latents_with_too_few_examples_are_left_out():
    values = torch.tensor([[2.0, 1], [2, 0]])
    found = depth(torch.tensor([[0, 1], [0, 3]]), LABELS, values=values)
    assert found.depths[0] == 2 and found.depths[1].isnan() and "1 have too few" in found.caption


def test_figures_name_their_null():
    classes, parents = paths()
    figures = [
        conditional(classes, parents, draws=9).figure(),
        babel(torch.randn(9, 4), 3).figure(),
        coherence(Code.dense(torch.ones(3, 4)), torch.randn(4, 3)).figure(),
        depth(torch.tensor([[0, 1], [2, 3]]), LABELS, group=torch.tensor([0, 1]), draws=20).figure(),
    ]
    for figure in figures:
        assert any("null" in (trace.name or "") for trace in figure.data) and figure.layout.title.subtitle.text


EYE = torch.eye(4)
PARENTS = [-1, -1, 0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conditional(EYE, [-1, 0, 9, 1]), "parents must be one of -1..3"),
        (lambda: conditional(EYE, [-1, 1, 0, 0]), "never itself"),
        (lambda: conditional(EYE, [-1, 0, 0, 0]), "1 parents: two or more"),
        (lambda: conditional(EYE, PARENTS, other=torch.eye(5)), "other must be the same classes"),
        (lambda: conditional(EYE, PARENTS, covariance=torch.zeros(4, 4)), "positive definite"),
        (lambda: conditional(EYE, PARENTS, covariance=torch.eye(3)), r"covariance must be \(4, 4\)"),
        (lambda: conditional(EYE * torch.nan, PARENTS), "not finite"),
        (lambda: class_vectors(EYE, torch.ones(3, 2, dtype=torch.bool)), "of each of 4 rows"),
        (lambda: class_vectors(EYE, torch.zeros(4, 2, dtype=torch.bool)), "class 0 is on in 0 rows"),
        (lambda: babel(EYE, 4), "k must be 1..3"),
        (lambda: coherence(Code.dense(EYE), EYE), "no row has two latents on"),
        (lambda: coherence(Code.dense(EYE), EYE[:3]), "the code's 4 latents, got 3"),
        (lambda: depth(torch.tensor([[0], [1]]), LABELS), "2 or more of the 6 examples"),
        (lambda: depth(torch.tensor([[0, 6]]), LABELS), "of the 6 examples"),
        (lambda: depth(torch.tensor([[0, 1]]), LABELS, group=torch.tensor([0, 1])), "one for each of 1 latents"),
    ],
)
def test_bad_input_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()

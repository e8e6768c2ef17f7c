"""Families follow a planted tree, the matrix is symmetric on purpose, and independent firing gives none of it."""

import math

import pytest
import torch

from workbench.code import Code
from workbench.geometry.cofiring import counts
from workbench.geometry.families import _search, affinity, families, independent, routes, splits, tree
from workbench.geometry.match import random_directions
from workbench.testbeds import world

# latent 0 fires in 40 of 100 rows, 1, 2 and 3 each in 10 of those, 4 in 20 others
FIRED = torch.tensor([40, 10, 10, 10, 20])
TOGETHER = torch.diag(FIRED)
TOGETHER[0, 1:4] = TOGETHER[1:4, 0] = 10


@pytest.fixture(scope="module")
def planted():
    data = world("hierarchy")
    known = counts(Code.dense(data.sample(10_000, 100).code))
    options = {"density": (0.0, 0.5), "draws": 5}
    return known, data.parents, families(known.together, known.fired, known.n, **options)


def above(parents, i):
    found = set()
    while parents[i] >= 0:
        i = parents[i]
        found.add(i)
    return found


def test_affinity_divides_by_the_rarer_ones_count_and_is_symmetric():
    found = affinity(TOGETHER, FIRED, 100).toarray()
    assert (found == found.T).all() and not found.diagonal().any()
    assert found[0, 1] == pytest.approx(math.exp(10 / 11)) and found[1, 2] == 0
    # one order of division alone would see 10 / 41 or 10 / 11, whichever entry is read last
    flipped = affinity(TOGETHER.flip(0, 1), FIRED.flip(0), 100).toarray()
    assert (flipped[::-1, ::-1] == found).all()


def test_the_threshold_is_of_the_share_and_the_lift_of_chance():
    assert affinity(TOGETHER, FIRED, 100, threshold=0.95).nnz == 0
    # 10 together where 40 x 10 / 100 = 4 are by chance
    assert affinity(TOGETHER, FIRED, 100, lift=2.5).nnz == 6 and affinity(TOGETHER, FIRED, 100, lift=2.51).nnz == 0


def test_edges_go_from_denser_to_sparser_whatever_the_numbering():
    assert sorted(tree(TOGETHER, FIRED, 100).tolist()) == [[0, 1], [0, 2], [0, 3]]
    assert sorted(tree(TOGETHER.flip(0, 1), FIRED.flip(0), 100).tolist()) == [[4, 1], [4, 2], [4, 3]]


def test_the_tree_keeps_the_strongest_links_and_ties_go_to_the_nearer_count():
    # 2 fires only with 1, which fires only with 0: its shares with both are equal
    fired = torch.tensor([50, 20, 10])
    together = torch.tensor([[50, 20, 10], [20, 20, 10], [10, 10, 10]])
    assert sorted(tree(together, fired, 100).tolist()) == [[0, 1], [1, 2]]
    together[0, 2] = together[2, 0] = 5  # weaker with the grandparent than with the parent: no tie
    assert sorted(tree(together, fired, 100).tolist()) == [[0, 1], [1, 2]]
    together[0, 2], together[2, 0], together[1, 2], together[2, 1] = 10, 10, 5, 5
    assert sorted(tree(together, fired, 100).tolist()) == [[0, 1], [0, 2]]


def test_families_are_searched_below_roots_too():
    below = {0: [1, 2, 3], 1: [4, 5, 6], 4: [7]}
    found = {f.root: (f.children, f.members) for f in _search(set(range(8)), below, 0)}
    assert found == {0: ([1, 2, 3], [1, 2, 3, 4, 5, 6, 7]), 1: ([4, 5, 6], [4, 5, 6, 7])}
    assert _search(set(range(3)), {0: [1, 2]}, 0) == []  # two children are too few


def test_roots_are_parents_and_members_descend_from_them(planted):
    known, parents, found = planted
    roots = {p for p in parents if p >= 0}
    assert len(found.families) >= 3
    assert sum(f.root in roots for f in found.families) / len(found.families) >= 0.9
    careful = families(known.together, known.fired, known.n, density=(0.0, 0.5), lift=1.5, draws=1)
    hits = [f.root in above(parents, i) for f in careful.families for i in f.members]
    assert {f.root for f in careful.families} == {0, 1, 2} and sum(hits) / len(hits) >= 0.9


def test_the_star_ratio_is_no_more_than_independent_firing_gives_and_the_block_ratio_is(planted):
    found = planted[2]
    assert found.block["independent"].value > 3 and found.block["independent"].z > 10
    assert found.block["shuffled"].mean == pytest.approx(1, abs=0.5) and found.block["shuffled"].p == pytest.approx(
        1 / 6
    )
    assert found.ratio["independent"].value > 3 and found.ratio["independent"].mean > 3  # both: it says nothing alone


def test_names_survive_the_density_band(planted):
    known, parents, _ = planted
    order = torch.randperm(20)
    back = order.argsort()
    fired, together = known.fired[order], known.together[order][:, order]
    found = families(together, fired, known.n, density=(0.0, 0.5), lift=1.5, draws=1)
    assert {int(order[f.root]) for f in found.families} == {0, 1, 2}
    # without the roots, children with three or more below are none: grandchildren come in twos
    banded = families(together, fired, known.n, density=(0.0, 0.1), lift=1.5, draws=1)
    assert banded.kept == 17 and not {int(back[i]) for i in range(3)} & {f.root for f in banded.families}


def test_independent_counts_keep_each_latents_and_have_the_expected_mean():
    fired = torch.tensor([500, 200, 50])
    drawn = torch.stack([independent(fired, 1000, seed=i) for i in range(200)])
    assert torch.equal(drawn[3], drawn[3].T) and torch.equal(drawn[5].diagonal(), fired)
    assert drawn[:, 0, 1].double().mean() == pytest.approx(100, abs=2) and drawn[
        :, 1, 2
    ].double().mean() == pytest.approx(10, abs=1)


def test_no_family_is_found_where_all_fire_alone_with_lift():
    fired = torch.full((12,), 100)
    alone = independent(fired, 10_000)
    found = families(alone, fired, 10_000, lift=3.0, draws=2)
    assert not found.families and math.isnan(found.block["independent"].value) and found.found.p == 1


def test_children_point_to_the_latent_they_were_split_from():
    small = random_directions(8, 32, seed=1)
    owner = torch.arange(24) % 8
    large = small[owner] + 0.5 * random_directions(24, 32, seed=2)
    found = splits(small, large)
    assert torch.equal(found.parents, owner) and found.children.tolist() == [3] * 8
    assert found.cosines.mean() > found.null_cosines.mean() + 0.3
    assert found.table["children"].tolist()[1] == [1, 9, 17]
    true = torch.nn.functional.cosine_similarity(large, small[owner])
    assert found.table["cosine"].tolist() == pytest.approx([float(true[owner == i].mean()) for i in range(8)], abs=1e-5)


def test_routes_agree_where_widths_are_nested_and_not_at_random():
    small = random_directions(6, 32, seed=1)
    middle = small.repeat(2, 1) + 0.4 * random_directions(12, 32, seed=2)
    large = middle.repeat(2, 1) + 0.4 * random_directions(24, 32, seed=3)
    nested = routes(small, middle, large)
    assert nested.mean.value > 0.9 and nested.same.value > 0.9 and nested.mean.mean < 0.5 and nested.mean.z > 3
    alone = routes(*random_directions(42, 32, seed=9).split([6, 12, 24]), draws=20)
    assert abs(alone.mean.z) < 4
    assert routes(small, small, small).jaccard.tolist() == [1] * 6


def test_figures_name_their_null(planted):
    small, middle, large = random_directions(42, 8).split([6, 12, 24])
    for figure in (planted[2].figure(), splits(small, large).figure(), routes(small, middle, large).figure()):
        assert any("null" in (trace.name or "") for trace in figure.data) and figure.layout.title.subtitle.text
    assert len(planted[2].table) == len(planted[2].families)


LOP = TOGETHER.clone()
LOP[0, 1] = 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: families(TOGETHER[:4], FIRED, 100), r"together must be \(5, 5\)"),
        (lambda: families(LOP, FIRED, 100), "together must be symmetric"),
        (lambda: families(TOGETHER, FIRED, 30), "fired must lie within 0..30 rows"),
        (lambda: families(TOGETHER, FIRED, 100, density=(0.0, 0.15)), "3 of 5 latents fire"),
        (lambda: families(TOGETHER, FIRED, 100, least=50), "0 of 5 latents"),
        (lambda: splits(torch.eye(3), torch.eye(3)[:2]), "small must be the smaller"),
        (lambda: routes(torch.eye(3), torch.eye(3)[:2], torch.eye(3)), "from small to large"),
        (lambda: splits(torch.zeros(1, 3), torch.eye(3)), "have no direction"),
    ],
)
def test_bad_input_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()

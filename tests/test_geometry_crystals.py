"""Relations come out on pairs that were not fitted, shuffled labels do not; parallelograms are found where planted."""

from importlib import import_module

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from workbench import testbeds
from workbench.geometry.crystals import PAIRS, Crystals, crystals, lda, word_pairs
from workbench.geometry.parallelograms import parallelograms
from workbench.site import Site

searching = import_module("workbench.geometry.parallelograms")  # the module, where the room shows its function
FEW = {"draws": 6, "splits": 2}


def planted(n: int = 160, seed: int = 0):
    pairs = testbeds.world("parallelograms").sample(n, seed)
    return pairs.b - pairs.a, pairs.relation, pairs.distractor


def value(found: Crystals, space: str, column: str) -> float:
    return float(found.table.set_index("space").loc[space, column])


def test_relations_come_out_on_held_out_pairs_after_lda_and_not_before():
    x, relation, _ = planted()
    found = crystals(x, relation, draws=20, splits=3)
    assert found["raw"] < 0
    assert found["lda"] > 0.8
    # the nearest of seven other classes is taken, so labels at random are below 0: by 0.1 for 20 pairs of each
    assert -0.12 < value(found, "lda", "null") < -0.08
    assert value(found, "lda", "z") > 50
    assert value(found, "lda", "p") == pytest.approx(1 / 21)


def test_with_more_pairs_the_shuffled_control_goes_to_zero():
    x, relation, _ = planted(1024)
    found = crystals(x, relation, **FEW)
    assert found["raw"] < 0.1
    assert found["lda"] > 0.8
    assert -0.05 < value(found, "lda", "null") < 0


def test_what_lda_finds_in_noise_is_gone_on_held_out_pairs():
    x, relation = torch.randn(160, 100), torch.arange(160) % 8
    fitted = x.double().numpy() @ lda(x.double().numpy(), relation.numpy(), 7)
    from sklearn.metrics import silhouette_score

    assert silhouette_score(fitted, relation.numpy()) > 0.05
    found = crystals(x, relation, draws=20, splits=3)
    assert (found.table["z"].abs() < 3).all()
    assert found["lda"] < 0


def test_one_distractor_projected_out_is_enough_where_one_was_planted():
    x, relation, _ = planted()
    found = crystals(x, relation, distractors=[1], **FEW)
    assert found.spaces == ("raw", "pca", "lda", "without 1")
    assert found.dims == (64, 7, 7, 63)
    assert found["without 1"] > 0.5 > 0.1 > found["raw"]


def test_without_k_removes_the_spread_within_relations_not_that_between():
    # between: along 0, size 10; within: along 1, size 3
    x = 0.01 * torch.randn(80, 5)
    relation = torch.arange(80) % 2
    x[:, 0] += 10 * relation
    x[:, 1] += 30 * torch.randn(80)
    found = crystals(x, relation, distractors=[1], **FEW)
    assert found["raw"] < 0.2
    assert found["without 1"] > 0.99


def test_equal_differences_of_a_relation_have_silhouette_one():
    x = torch.tensor([[0.0, 0], [1, 0], [0, 3]]).repeat_interleave(4, 0)
    found = crystals(x, torch.arange(3).repeat_interleave(4), distractors=[], splits=3, draws=3)
    torch.testing.assert_close(found.values, torch.ones(3, 3).double(), atol=1e-6, rtol=0)


def test_raw_silhouettes_are_scikit_learns_on_a_half_of_each_relation():
    from sklearn.metrics import silhouette_score

    # every half of a relation is alike when its pairs come as copies: four of each of two
    x = torch.randn(3, 1, 6).repeat(1, 8, 1).flatten(0, 1)
    relation = torch.arange(24) // 8
    found = crystals(x, relation, distractors=[], components=1, **FEW)
    assert torch.equal(found.held.bincount(), torch.tensor([4, 4, 4]))
    assert found["raw"] == pytest.approx(silhouette_score(x.numpy(), relation.numpy()))


def test_turning_moving_and_scaling_all_differences_changes_nothing():
    x, relation, _ = planted()
    turn = torch.linalg.qr(torch.randn(64, 64).double()).Q
    a, b = (crystals(rows, relation, **FEW) for rows in (x.double(), 3 * x.double() @ turn + 5))
    torch.testing.assert_close(a.values, b.values, atol=1e-8, rtol=0)
    torch.testing.assert_close(a.null, b.null, atol=1e-8, rtol=0)


def test_a_seed_repeats_and_another_splits_otherwise():
    x, relation, more = planted()
    a, b, c = (crystals(x, relation, lengths=more, seed=seed, **FEW) for seed in (0, 0, 1))
    assert torch.equal(a.values, b.values)
    assert torch.equal(a.null, b.null)
    assert torch.equal(a.lengths_null, b.lengths_null)
    assert not torch.equal(a.values, c.values)
    assert len(a.null[2].unique()) == FEW["draws"]


def test_lda_is_scikit_learns_where_there_are_many_rows():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    drawn = np.random.default_rng(0)
    labels = np.arange(30_000) % 4
    mix = drawn.standard_normal((5, 5))
    x = (drawn.standard_normal((4, 5))[labels] + drawn.standard_normal((30_000, 5))) @ mix
    want = LinearDiscriminantAnalysis(n_components=3).fit(x, labels).transform(x)
    got = (x - x.mean(0)) @ lda(x, labels, 3)
    for i in range(3):
        assert abs(np.corrcoef(want[:, i], got[:, i])[0, 1]) > 0.9999
    means = np.stack([got[labels == i].mean(0) for i in range(4)])
    np.testing.assert_allclose(np.cov((got - means[labels]).T), np.eye(3), atol=0.02)


def test_lda_has_an_answer_with_more_dimensions_than_pairs():
    x, relation = torch.randn(24, 400), torch.arange(24) % 3
    x[:, 0] += 40.0 * relation
    assert crystals(x, relation, distractors=[], **FEW)["lda"] > 0.5


def test_the_pca_map_has_unit_variance_on_pairs_it_has_not_seen():
    x, relation, _ = planted(1024)
    found = crystals(x, relation, distractors=[], splits=1, draws=2)
    torch.testing.assert_close(found.maps[0].std(0), torch.ones(2).double(), atol=0.1, rtol=0)
    inside = found.maps[1] - torch.stack([found.maps[1][found.held == i].mean(0) for i in range(8)])[found.held]
    torch.testing.assert_close(inside.std(0), torch.ones(2).double(), atol=0.2, rtol=0)


def test_the_distractor_is_the_first_principal_component_and_nothing_else_follows_it():
    x, relation, more = planted()
    found = crystals(x, relation, lengths=more, draws=99, splits=1, distractors=[])
    assert abs(float(found.lengths[0])) > 0.99
    assert found.letters["p"].tolist()[0] == pytest.approx(0.01)
    assert (found.letters["p"][1:] > 0.1).all()
    assert found.letters["variance"][0] > 0.8
    # the largest of seven correlations of 160 pairs, each 0.06 on average
    assert 0.1 < float(found.lengths_null.mean()) < 0.17
    centred = x - x.mean(0)
    first = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]
    want = np.corrcoef(first.numpy(), more.numpy())[0, 1]
    assert abs(float(found.lengths[0])) == pytest.approx(abs(want), abs=1e-5)


def test_z_and_p_by_hand():
    null = torch.tensor([[0.0, 1.0, 2.0]] * 2)
    values = torch.tensor([[1.0, 3.0], [4.0, 6.0]])
    none = torch.zeros(0)
    found = Crystals(("raw", "lda"), (3, 1), values, null, torch.zeros(2, 1, 2), torch.tensor([0]), ("a",), none,
                     torch.tensor([0.5, -0.1]), torch.tensor([0.2, 0.3, 0.4]), 8, 0)  # fmt: skip
    assert found.table["silhouette"].tolist() == [2, 5]
    assert found.table["z"].tolist() == [1, 4]
    assert found.table["p"].tolist() == [0.5, 0.25]
    assert found.table["least"].tolist() == [1, 4]
    assert found.table["most"].tolist() == [3, 6]


def test_letters_p_counts_the_largest_correlation_of_all_components():
    none, maps = torch.zeros(1, 0), torch.zeros(2, 1, 2)
    r, largest = torch.tensor([-0.35, 0.1]), torch.tensor([0.2, 0.3, 0.4])
    found = Crystals(("lda",), (1,), none, none, maps, torch.tensor([0]), ("a",), r.abs(), r, largest, 8, 0)
    assert found.letters["p"].tolist() == [0.5, 1]
    assert found.letters["component"].tolist() == [1, 2]


def test_the_figure_draws_the_null_in():
    x, relation, more = planted()
    found = crystals(x, relation, lengths=more, names=[f"r{i}" for i in range(8)], **FEW)
    figure = found.figure()
    names = {trace.name for trace in figure.data}
    assert {"shuffled labels", "splits", "r0", "r7", "largest |r| of shuffled lengths, 95 %"} <= names
    shuffled = next(trace for trace in figure.data if trace.name == "shuffled labels")
    assert len(shuffled.y) == len(found.spaces) * FEW["draws"]
    assert "Shuffled labels" in found.caption
    assert len(crystals(x, relation, **FEW).figure().layout.annotations) == 3


def test_a_space_that_is_not_there_is_named():
    x, relation, _ = planted()
    with pytest.raises(KeyError, match="no space 'umap': there is raw, pca, lda"):
        crystals(x, relation, **FEW)["umap"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relation": torch.zeros(24).long()}, "two or more relations of 4"),
        ({"relation": torch.arange(24) % 8}, r"got \[3, 3, 3, 3, 3, 3, 3, 3\] pairs"),
        ({"relation": torch.arange(24) % 3 - 1}, "numbered 0, 1"),
        ({"relation": torch.arange(20) % 3}, "24 differences need a relation"),
        ({"lengths": torch.arange(20)}, "24 differences need a relation"),
        ({"lengths": torch.ones(24)}, "all lengths are the same"),
        ({"names": ["a"]}, "names wants one for each of the 3 relations, got 1"),
        ({"components": 3}, "components must be 1..2"),
        ({"components": 0}, "components must be 1..2"),
        ({"distractors": [6]}, r"distractors must be 1..5 directions, got \[6\]"),
        ({"draws": 1}, "draws 2 or more"),
        ({"splits": 0}, "splits must be 1 or more"),
        ({"differences": torch.full((24, 6), torch.nan)}, "24 of 24 differences are not finite"),
        ({"differences": torch.ones(24, 6) * torch.arange(24)[:, None]}, "vary in 1 directions"),
    ],
)
def test_bad_pairs_are_refused_in_one_line(changes, message):
    given = {"differences": torch.randn(24, 6), "relation": torch.arange(24) % 3, **changes}
    with pytest.raises(ValueError, match=message):
        crystals(given.pop("differences"), given.pop("relation"), **given)


def test_the_word_list_is_of_distinct_pairs_of_two_words():
    assert len(PAIRS) >= 8
    for relation, text in PAIRS.items():
        pairs = [tuple(pair.split()) for pair in text.split(",")]
        assert len(pairs) >= 12, relation
        assert len(set(pairs)) == len(pairs), relation
        assert all(len(pair) == 2 and pair[0] != pair[1] for pair in pairs), relation


def test_word_pairs_read_the_last_token_of_each_word_behind_the_prompt():
    subject = testbeds.subject("tiny_text_gelu")
    pairs = {"many": "dog dogs, cat cats", "past": "go went, ran running"}
    found = word_pairs(subject, ["embed", "1.resid"], pairs, prompt="the {}")
    assert list(found) == [Site.of("embed"), Site.of("1.resid")]
    one = found[Site.of("1.resid")]
    assert one.names == ("many", "past")
    assert one.relation.tolist() == [0, 0, 1, 1]
    assert one.y == ("dogs", "cats", "went", "running")
    assert one.lengths.tolist() == [1, 1, 2, 4]
    for word, vector in zip([*one.x, *one.y], torch.cat([one.start, one.end]), strict=True):
        alone = subject.read(subject.tokenize([f"the {word}"]), ["1.resid"])[Site.of("1.resid")][0, -1]
        torch.testing.assert_close(vector, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.differences, one.end - one.start)
    assert one.table["relation"].tolist() == ["many", "many", "past", "past"]
    torch.testing.assert_close(torch.tensor(one.table["norm"].tolist()), one.differences.norm(dim=-1))


@pytest.mark.parametrize(
    ("pairs", "prompt", "message"),
    [
        ({"many": "dog dogs, cat"}, "the {}", "a pair is two words, got 'cat' in 'many'"),
        ({"many": "dog dogs"}, "the {} is", "prompt must end in {}"),
        ({"many": "dog dogs"}, "the", "prompt must end in {}"),
    ],
)
def test_bad_word_lists_are_refused(pairs, prompt, message):
    with pytest.raises(ValueError, match=message):
        word_pairs(testbeds.subject("tiny_text_gelu"), ["embed"], pairs, prompt=prompt)


def related(each: int = 20, relations: int = 3, lone: int = 100, d: int = 32, stretch: float = 0.0):
    """Unit vectors, each with another one relation away, and lone ones; the relation of each of the first."""
    drawn = torch.Generator().manual_seed(0)
    base = normalize(torch.randn(each * relations, d, generator=drawn), dim=-1)
    steps = 0.7 * normalize(torch.randn(relations, d, generator=drawn), dim=-1)
    relation = torch.arange(len(base)) // each
    size = 1 + stretch * torch.rand(len(base), 1, generator=drawn)
    other = base + size * steps[relation] + 0.02 * torch.randn(len(base), d, generator=drawn)
    return torch.cat([base, other, normalize(torch.randn(lone, d, generator=drawn), dim=-1)]), relation


def test_likeness_and_cosine_by_hand():
    # (a, b) differ by 1 and (c, e) by 2 along one axis: 2 * 2 / (1 + 4), cosine 1; a third pair is at right angles
    atoms = torch.tensor([[10.0, 0, 0, 0], [10, 1, 0, 0], [0, 0, 10, 0], [0, 2, 10, 0], [0, 0, 0, 10], [1, 0, 0, 10]])
    found = parallelograms(atoms, 1, draws=2)
    assert found.pairs.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found.partners[:2].tolist() == [1, 0]
    torch.testing.assert_close(found.likeness, torch.tensor([0.8, 0.8, 0]))
    torch.testing.assert_close(found.cosines, torch.tensor([1.0, 1, 0]))


def test_pairs_that_share_an_atom_are_not_compared():
    atoms = torch.tensor([[10.0, 0], [10, 1], [10, 2.5]])  # on one line: 0-1, 1-2 share atom 1
    found = parallelograms(atoms, 2, draws=2)
    assert len(found.pairs) == 3
    assert found.likeness.tolist() == [0, 0, 0]
    assert found.groups.tolist() == [-1, -1, -1]


def test_a_difference_may_run_either_way():
    atoms, _ = related(each=5, relations=1, lone=0)
    order = torch.randperm(len(atoms))
    one, other = parallelograms(atoms, draws=2), parallelograms(atoms[order], draws=2)
    torch.testing.assert_close(one.likeness.sort().values, other.likeness.sort().values)


def test_the_search_equals_brute_force_in_any_chunks(monkeypatch):
    atoms = torch.randn(24, 6)
    found = parallelograms(atoms, draws=2)
    along = (atoms[found.pairs[:, 1]] - atoms[found.pairs[:, 0]]).double()
    for i, own in enumerate(found.pairs.tolist()):
        rest = [j for j, pair in enumerate(found.pairs.tolist()) if not {*own} & {*pair}]
        dots = (along[rest] @ along[i]).abs()
        like = 2 * dots / (along[rest].square().sum(-1) + along[i].square().sum())
        assert float(found.likeness[i]) == pytest.approx(float(like.max()), abs=1e-5)
        assert int(found.partners[i]) == rest[int(like.argmax())]
        cosines = dots / along[rest].norm(dim=-1) / along[i].norm()
        assert float(found.cosines[i]) == pytest.approx(float(cosines.max()), abs=1e-5)
    monkeypatch.setattr(searching, "CHUNK", 7)
    again = parallelograms(atoms, draws=2)
    torch.testing.assert_close(found.likeness, again.likeness)
    assert torch.equal(found.groups, again.groups)


@pytest.mark.parametrize("chunk", [512, 20])
def test_planted_relations_are_the_groups_and_both_nulls_are_far(monkeypatch, chunk):
    monkeypatch.setattr(searching, "CHUNK", chunk)
    atoms, relation = related()
    found = parallelograms(atoms)
    assert int(found.groups.max()) == 2
    for group in range(3):
        pairs = found.pairs[found.groups == group]
        assert (pairs[:, 1] == pairs[:, 0] + len(relation)).all()
        assert len(relation[pairs[:, 0]].unique()) == 1
        assert len(pairs) == 20
    assert (found.summary["z"] > 10).all()
    assert found.table["likeness"].is_monotonic_decreasing
    assert found.table["p"][0] < 0.001
    assert (found.likeness[found.groups >= 0] > found.above).all()


def test_parallel_pairs_of_other_lengths_are_alike_by_cosine_only():
    atoms, relation = related(each=30, relations=1, lone=0, stretch=2.0)
    found = parallelograms(atoms)
    planted_ = found.pairs[:, 1] == found.pairs[:, 0] + len(relation)
    assert found.cosines[planted_].mean() > 0.98
    assert (found.likeness <= found.cosines + 1e-6).all()


def test_random_directions_and_leaning_gaussians_are_at_their_nulls():
    assert parallelograms(torch.randn(200, 24)).summary["z"].abs().max() < 4
    leaning = torch.randn(200, 24) * torch.linspace(3, 0.1, 24)
    found = parallelograms(leaning)
    z = found.summary.set_index(["null", "measure"])["z"]
    assert abs(z["covariance", "likeness"]) < 4
    assert z["random", "likeness"] > 10  # fewer directions: alike by chance, and this null does not know
    assert int((found.groups >= 0).sum()) <= 6


def test_random_directions_have_the_lengths_of_the_atoms():
    atoms = torch.randn(60, 24) * torch.where(torch.arange(60) % 2 == 0, 1, 100)[:, None]
    found = parallelograms(atoms, draws=4)
    likeness, cosine = found.summary.set_index(["null", "measure"])["mean"]["random"]
    assert likeness < cosine - 0.03  # long and short differences are not alike


def test_the_search_repeats_with_its_seed_and_draws_its_nulls_anew():
    atoms, _ = related(each=8, lone=20)
    a, b, c = (parallelograms(atoms, draws=3, seed=seed) for seed in (0, 0, 1))
    for name in ("random", "covariance"):
        assert torch.equal(a.nulls[name][0][0], b.nulls[name][0][0])
        assert float(a.nulls[name][0][0].mean()) != float(c.nulls[name][0][0].mean())
        assert len({float(draw[0].mean()) for draw in a.nulls[name]}) == 3


def test_the_searchs_figure_draws_both_nulls():
    found = parallelograms(related(each=8, lone=20)[0], draws=2)
    names = [trace.name for trace in found.figure().data]
    assert names == ["atoms", "null: random", "null: covariance"] * 2
    for trace in found.figure().data:
        assert sum(trace.y) == pytest.approx(1)
    assert "Nulls: random" in found.caption


@pytest.mark.parametrize(
    ("atoms", "arguments", "message"),
    [
        (torch.zeros(5, 3), {}, "5 of 5 vectors are zero"),
        (torch.full((5, 3), torch.inf), {}, "5 of 5 vectors are not finite"),
        (torch.randn(5, 3), {"k": 5}, "k must be 1..4"),
        (torch.randn(5, 3), {"draws": 1}, "draws and smallest must be 2 or more"),
        (torch.randn(5, 3), {"smallest": 1}, "draws and smallest must be 2 or more"),
        (torch.randn(300, 4), {"k": 299}, "44850 pairs are more than 32768: lower k"),
    ],
)
def test_bad_searches_are_refused_in_one_line(atoms, arguments, message):
    with pytest.raises(ValueError, match=message):
        parallelograms(atoms, **arguments)

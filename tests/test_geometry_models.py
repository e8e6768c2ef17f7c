"""Similarities are right on copies and at chance, pairs are the planted ones, and no score is without its null."""

import warnings

import numpy as np
import pytest
import torch
from plain_codecs import random
from scipy.stats import spearmanr

from workbench.code import Code
from workbench.geometry import models
from workbench.geometry.models import Pairs, about, by_words, correlate, one_to_one, top_words, universality
from workbench.geometry.similarity import Score, cka, jaccard, layer_similarity, rsa, svcca
from workbench.harvest.codes import encode
from workbench.testbeds import world

SCORES = {"svcca": svcca, "cka": cka, "rsa": rsa}


def normal(n, d, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)))


def rotation(d, seed=9):
    return torch.linalg.qr(normal(d, d, seed))[0]


# ---- similarities


@pytest.mark.parametrize("name", ["svcca", "cka"])
def test_a_turned_shifted_rescaled_copy_scores_one_and_its_null_is_low(name):
    x = normal(2000, 16)
    score = SCORES[name](x, 7 * x @ rotation(16) + 3, draws=50)
    assert score.value == pytest.approx(1, abs=1e-9)
    assert score.null.max() < 0.2
    assert score.p == pytest.approx(1 / 51)
    assert score.z > 50


def test_rsa_is_scipys_spearman_of_numpys_correlations():
    x, y = normal(40, 7), normal(40, 5, 1)
    y[:, 0] += x[:, 0]
    above = np.triu_indices(40, 1)
    want = spearmanr(np.corrcoef(x)[above], np.corrcoef(y)[above]).statistic
    assert rsa(x, y).value == pytest.approx(want, abs=1e-12)
    assert rsa(x, 2 * x + 5).value == pytest.approx(1)


def test_rsas_null_is_the_value_of_rows_in_another_order():
    x, y = normal(30, 7), normal(30, 5, 1)
    order = np.random.default_rng(4).permutation(30)
    assert rsa(x, y, draws=1, seed=4).null[0] == pytest.approx(rsa(x, y[order], draws=0).value, abs=1e-12)


@pytest.mark.parametrize("name", ["svcca", "cka"])
def test_the_null_is_the_value_of_rows_in_another_order(name):
    x, y = normal(60, 7), normal(60, 5, 1)
    order = np.random.default_rng(4).permutation(60)
    null = SCORES[name](x, y, draws=1, seed=4).null
    assert null[0] == pytest.approx(SCORES[name](x, y[order], draws=0).value, abs=1e-12)


def test_cka_is_its_definition_with_centred_grams():
    x, y = normal(30, 6) + 4, normal(30, 3, 1) - x_mean(30)
    y[:, 1] += x[:, 2]
    h = torch.eye(30, dtype=torch.float64) - 1 / 30
    k, other = h @ x @ x.T @ h, h @ y @ y.T @ h
    want = (k * other).sum() / (k.norm() * other.norm())
    assert cka(x, y).value == pytest.approx(float(want), abs=1e-12)


def x_mean(n):
    return torch.linspace(0, 1, n, dtype=torch.float64)[:, None]


def test_svcca_is_the_mean_canonical_correlation_of_scikit_learn():
    """All of the variance kept: two rows of three share one direction with correlation 0.8, the others nothing."""
    from sklearn.cross_decomposition import CCA

    x, y = normal(500, 3), normal(500, 3, 1)
    y[:, 0] = 0.8 * x[:, 1] + 0.6 * y[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it iterates, and warns when the last digits wander
        left, right = CCA(3, max_iter=5000, tol=1e-12).fit_transform(x.numpy(), y.numpy())
    want = np.mean([np.corrcoef(left[:, i], right[:, i])[0, 1] for i in range(3)])
    assert svcca(x, y, keep=1.0).value == pytest.approx(want, abs=1e-6)


def spread(n=4000, seed=0):
    """Orthogonal columns with variances 90, 8, 1.5 and 0.5 % of the whole."""
    unit = torch.linalg.qr(normal(n, 5, seed) - normal(n, 5, seed).mean(0))[0][:, :4]
    return (unit - unit.mean(0)) * torch.tensor([90.0, 8, 1.5, 0.5], dtype=torch.float64).sqrt()


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_the_cut_is_by_the_share_of_the_variance_whatever_its_size(size):
    """The public code compares the share with 0.99 of the total: at size 1e4 it would keep one direction."""
    x, y = size * spread(), normal(4000, 4, 1)
    notes = [svcca(x, y, keep=keep, draws=0).note.split()[0] for keep in (0.5, 0.89, 0.95, 0.99, 0.999, 1.0)]
    assert notes == ["1", "1", "2", "3", "4", "4"]


def test_directions_below_the_cut_do_not_count():
    """Two copies that differ only in a direction of 0.5 % of the variance are one at 99 %, and are not at 100 %."""
    x, y = spread(), spread()
    y[:, 3] = y[torch.randperm(4000, generator=torch.Generator().manual_seed(0)), 3]
    assert svcca(x, y, draws=0).value == pytest.approx(1, abs=1e-3)
    assert svcca(x, y, keep=1.0, draws=0).value == pytest.approx(0.75, abs=0.02)


def test_the_guard_keeps_few_rows_from_looking_alike():
    """Two sets of noise, 150 rows in 100 dimensions: without the guard they look alike, with it they are chance."""
    x, y = normal(150, 100), normal(150, 100, 1)
    free, guarded = svcca(x, y, guard=1), svcca(x, y)
    assert free.value > 0.65
    assert guarded.value < 0.45
    assert abs(guarded.z) < 3
    assert guarded.measure == "SVCCA (guarded)"
    assert guarded.note.startswith("30 and 30 dimensions, cut from 89 and 89:")
    assert guarded.note.endswith("150 rows are fewer than 5 for each")
    assert free.measure == "SVCCA"


def test_as_many_directions_as_rows_are_one_by_overfitting_and_the_null_says_so():
    score = svcca(normal(50, 80), normal(50, 80, 1), keep=1.0, guard=1)
    assert score.value == pytest.approx(1)
    assert score.p == 1 or score.null.min() > 0.999


@pytest.mark.parametrize("name", SCORES)
def test_noise_is_at_chance(name):
    scores = [SCORES[name](normal(100, 20, 2 * s), normal(100, 15, 2 * s + 1), seed=s) for s in range(20)]
    z = np.array([s.z for s in scores])
    assert abs(z.mean()) < 0.7  # of 20 standard normals: 3.1 standard errors
    assert sum(s.p < 0.1 for s in scores) <= 6  # 2 expected; more than 6 has probability 0.002


def test_p_and_z_by_hand():
    score = Score("m", 3.0, torch.tensor([1.0, 3.0, 5.0, 1.0], dtype=torch.float64))
    assert score.p == pytest.approx(3 / 5)
    assert score.z == pytest.approx(0.5 / np.sqrt(11 / 3))
    empty = Score("m", 3.0, torch.zeros(0, dtype=torch.float64))
    assert np.isnan(empty.p)
    assert np.isnan(empty.z)


# ---- atoms by their place


def places(*pairs):
    return torch.tensor(pairs, dtype=torch.int64)


READ = torch.cartesian_prod(torch.arange(20), torch.arange(50))


def test_jaccard_by_hand_and_empty_atoms_do_not_count():
    a = places((0, 1), (2, 3), (4, 5), (-1, -1))
    b = places((4, 5), (0, 1), (0, 2), (5, 4), (-1, -1), (0, 1))
    score = jaccard(a, b, READ)
    assert score.value == pytest.approx(2 / 5)
    assert score.note == "3 and 4 atoms of 1,000 rows, at most 0.75"
    assert jaccard(a, a, READ).value == 1


def test_jaccards_null_is_what_random_sets_share():
    rng = np.random.default_rng(0)
    sets = [READ[torch.from_numpy(rng.choice(1000, n, replace=False))] for n in (200, 300)]
    score = jaccard(*sets, READ, blocks=1, draws=2000)
    assert float(score.null.mean()) == pytest.approx(60 / 440, abs=0.002)
    assert abs(score.z) < 3


def test_atoms_that_crowd_at_the_beginning_are_no_likeness():
    """Random atoms of the first tenth: alike by the null that ignores where they stand, at chance by ours."""
    rng = np.random.default_rng(0)
    sets = [READ[torch.from_numpy(rng.choice(100, 50, replace=False))] for _ in range(2)]
    assert jaccard(*sets, READ, blocks=1).z > 5
    assert abs(jaccard(*sets, READ).z) < 3


def test_the_order_of_the_stream_decides_the_blocks_and_not_the_numbers():
    shuffled = READ[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    sets = shuffled[:50], shuffled[25:75]
    score = jaccard(*sets, shuffled)
    assert score.value == pytest.approx(25 / 75)
    # 50 of the first 100 each: 25 shared by chance, as here
    assert float(score.null.mean()) == pytest.approx(25 / 75, abs=0.02)


# ---- layers


def test_layers_of_a_turned_copy_find_their_own_depth():
    a = [normal(300, 12, s) for s in range(6)]
    b = [x @ rotation(12, 50 + i) for i, x in enumerate(a)]
    found = layer_similarity(a, b, lambda x, y: cka(x, y, draws=0), names=list("abcdef"))
    assert found.score.value == 1
    assert found.distance == 0
    assert float(found.score.null.mean()) == pytest.approx(1 / 6, abs=0.02)
    assert found.chance_distance == pytest.approx(np.abs(np.subtract.outer(range(6), range(6))).mean())
    assert found.caption.startswith("CKA: 100% of 6 layers find their own depth (chance 17%")
    assert len(found.table) == 36
    assert found.table.query("most_similar")["a"].tolist() == found.table.query("most_similar")["b"].tolist()


def test_each_layer_of_a_looks_for_its_like_in_b_and_not_the_other_way():
    table = torch.tensor([[3.0, 1, 1], [4, 2, 1], [5, 1, 3]])
    found = layer_similarity(range(3), range(3), lambda i, j: Score("m", float(table[i, j]), torch.zeros(0)))
    assert torch.equal(found.matrix, table.double())
    assert found.score.value == pytest.approx(1 / 3)
    assert found.distance == 1
    assert found.table.query("most_similar")[["a", "b"]].to_numpy().tolist() == [["0", "0"], ["1", "0"], ["2", "0"]]


# ---- codes


def twins(rows=1500, **args):
    """Codes and atoms of the two dictionaries of GEO-3; a replaced latent of B fires by itself."""
    data = world("twins", rotated=True, **args)
    truth, code = data.truth, data.sample(rows).code
    own = data.sample(rows, seed=1).code
    other = torch.where(truth.replaced, own, code[:, truth.match.clamp_min(0)])
    return truth, code, other


def test_svcca_of_the_turned_twins_is_near_one_and_its_null_below_a_fifth():
    """GEO-3, 2,048 atoms in 32 dimensions, a fifth of them replaced: pairs come from the codes alone."""
    truth, code, other = twins(n=2048, d=32, blur=0.1, mean=0.01, rows=2000)
    pairs = correlate(Code.dense(code), Code.dense(other), above=0.5)
    assert len(pairs.left) > 0.98 * int((~truth.replaced).sum())
    found = universality(truth.a, truth.b, {"all": pairs}, measures=["svcca", "cka"], draws=20)
    for score in found.scores.values():
        assert score.value > 0.98
        assert score.null.max() < 0.2
        assert score.random is not None
        assert score.random.max() < 0.2
        assert score.p == pytest.approx(1 / 21)


def test_rsa_of_the_turned_twins_is_high():
    truth = world("twins", rotated=True, blur=0.1).truth
    twin = (~truth.replaced).nonzero()[:, 0]
    score = rsa(truth.a[truth.match[twin]], truth.b[twin])
    assert score.value > 0.9
    assert score.null.abs().max() < 0.05


def test_pairs_are_the_planted_twins_and_replaced_latents_have_none():
    truth, code, other = twins()
    pairs = correlate(Code.dense(code), Code.dense(other), above=0.3)
    want = (~truth.replaced).nonzero()[:, 0]
    assert sorted(pairs.right.tolist()) == want.tolist()
    assert torch.equal(truth.match[pairs.right], pairs.left)
    torch.testing.assert_close(pairs.correlations, torch.ones_like(pairs.correlations))


def codes(rows=300, m=40, n=30, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.random((rows, m)) * (rng.random((rows, m)) < 0.2)
    b = 0.5 * a[:, rng.integers(0, m, n)] + rng.random((rows, n)) * (rng.random((rows, n)) < 0.2)
    a[:, 3], b[:, 5], b[:, 6] = 0, 2.5, 0  # never on, always the same, never on
    return torch.from_numpy(a), torch.from_numpy(b)


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_correlations_are_numpys_in_any_blocks(layout, monkeypatch):
    a, b = codes()
    made = [Code.dense(z) if layout == "dense" else Code.dense(z).to_csr() for z in (a, b)]
    whole = correlate(*made, above=-1.0)
    with np.errstate(invalid="ignore"):
        want = np.nan_to_num(np.corrcoef(a.T, b.T)[:40, 40:], nan=-np.inf)
    keep = [j for j in range(30) if j not in (5, 6)]
    assert sorted(whole.right.tolist()) == keep
    assert torch.equal(whole.left, torch.from_numpy(want.argmax(0))[whole.right])
    np.testing.assert_allclose(whole.correlations, want.max(0)[whole.right], atol=1e-12)
    assert bool((whole.correlations.diff() <= 0).all())
    assert whole.live_a.tolist() == [i for i in range(40) if i != 3]
    assert whole.live_b.tolist() == keep
    monkeypatch.setattr(models, "ROWS", 7)
    monkeypatch.setattr(models, "BLOCK", 100)
    pieces = correlate(*made, above=-1.0)
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(other, one)


def test_only_pairs_above_the_threshold_come_back():
    a, b = codes()
    every = correlate(Code.dense(a), Code.dense(b), above=-1.0)
    some = correlate(Code.dense(a), Code.dense(b), above=0.5)
    assert torch.equal(some.right, every.right[every.correlations > 0.5])
    assert 0 < len(some.right) < len(every.right)


def test_rows_that_belong_together_may_stand_anywhere():
    a, b = codes()
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    want = correlate(Code.dense(a), Code.dense(b))
    found = correlate(Code.dense(a), Code.dense(b[order]), rows=(order, torch.arange(300)))
    assert torch.equal(found.left, want.left)
    torch.testing.assert_close(found.correlations, want.correlations)
    shuffled = correlate(Code.dense(a), Code.dense(b), rows=(order, torch.arange(300)))
    assert shuffled.correlations.max() < 0.35 < want.correlations.max()


class Rows:
    """What encoding needs of a store."""

    def __init__(self, x):
        self.x, self.rows, self.hash = x, len(x), "rows"

    def gather(self, rows, site):
        return self.x[rows]

    def where(self, rows):
        return rows // 10, rows % 10


def test_a_store_of_codes_is_read_as_codes_in_memory(tmp_path, monkeypatch):
    x = normal(300, 16).float()
    made = [random(n, 16, seed=n) for n in (50, 60)]
    on_disk = [encode(Rows(x), codec, folder=tmp_path / str(codec.latents)) for codec in made]
    monkeypatch.setattr(models, "ROWS", 70)
    for one, other in zip(correlate(*(c.encode(x) for c in made)), correlate(*on_disk), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    words = [str(i) for i in range(300)]
    assert top_words(on_disk[0], words) == top_words(made[0].encode(x), words)


def pairs_of(left, right, correlations):
    live = torch.arange(10)
    numbers = torch.tensor(correlations, dtype=torch.float64)
    return Pairs(torch.tensor(left), torch.tensor(right), numbers, live, live, 100)


def test_one_to_one_keeps_the_best_of_those_that_share_a_latent():
    found = one_to_one(pairs_of([4, 2, 4, 7, 2], [0, 1, 2, 3, 4], [0.2, 0.9, 0.8, 0.5, 0.3]))
    assert found.left.tolist() == [2, 4, 7]
    assert found.right.tolist() == [1, 2, 3]
    assert found.correlations.tolist() == [0.9, 0.8, 0.5]


def test_top_words_by_hand_and_across_blocks(monkeypatch):
    z = torch.tensor([[1.0, 0, 0], [5, 0, 0], [3, 0.5, 0], [4, 0.5, 0], [2, 0, 0], [-9, 0, 0]])
    words = [" a", "b", "c\n", " b", "e", "f"]
    want = [["b", "c", "e"], ["c", "b"], []]
    assert top_words(Code.dense(z), words, k=4) == want
    monkeypatch.setattr(models, "ROWS", 2)
    assert top_words(Code.dense(z), words, k=4) == want
    rows = torch.tensor([3, 0])
    assert top_words(Code.dense(z), ["x", "y"], rows=rows) == [["x", "y"], ["x"], []]


A_SAYS = [["Monday", "Tuesday"], ["cat", "dog"], [".", "dog"], ["the", "<s>"], ["week"], []]
B_SAYS = [["Tuesday", "week"], ["dog"], ["dog"], ["the"], ["year"], ["Monday"]]


def test_words_that_say_nothing_or_not_the_same_are_left_out():
    pairs = pairs_of([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [0.9] * 6)
    assert by_words(pairs, A_SAYS, B_SAYS, special=["<s>"]).left.tolist() == [0, 1]
    assert by_words(pairs, A_SAYS, B_SAYS).left.tolist() == [0, 1, 3]


def test_a_subspace_is_the_pairs_whose_first_words_are_keywords():
    pairs = pairs_of([0, 1, 4, 5], [0, 1, 4, 5], [0.9] * 4)
    assert about(pairs, A_SAYS, B_SAYS, [" monday ", "TUESDAY", "week", "year"]).left.tolist() == [0, 4]


# ---- all together


def small():
    truth, code, other = twins(n=256, d=16)
    pairs = correlate(Code.dense(code), Code.dense(other))
    return truth, pairs, {"all": pairs, "few": pairs.only(torch.arange(len(pairs.left)) < 4)}


def test_the_table_has_a_line_for_each_group_and_measure_and_says_what_was_not_measured():
    truth, pairs, groups = small()
    found = universality(truth.a, truth.b, groups, draws=20)
    table = found.table.set_index(["group", "measure"])
    assert len(table) == 6
    assert (table.loc["all", "z"] > 10).all()
    assert (table.loc["all", "pairs"] == len(pairs.left)).all()
    assert table.loc["few", "value"].isna().all()
    assert table.loc["few", "note"].unique().tolist() == ["4 pairs, fewer than 10: not measured"]
    assert "of A, paired by correlation over 1,500 rows. SVCCA" in found.caption
    assert "Nulls of 20 draws." in found.caption


def test_random_latents_are_live_distinct_and_repeat_as_the_pairs_do():
    live = torch.tensor([1, 3, 5, 7, 9, 11])
    latents = torch.tensor([3, 3, 9, 1])
    rng = np.random.default_rng(0)
    seen = torch.stack([models._others(rng, latents, live) for _ in range(100)])
    assert bool((seen[:, 0] == seen[:, 1]).all())
    assert bool((seen[:, 0] != seen[:, 2]).all() and (seen[:, 2] != seen[:, 3]).all())
    assert [set(column.tolist()) for column in seen.T] == [set(live.tolist())] * 4


def test_the_second_null_takes_latents_from_all_that_live_on_both_sides(monkeypatch):
    seen = []

    def measure(x, y, **_):
        seen.append((x, y))
        return Score("CKA", 0.0, torch.zeros(0))

    monkeypatch.setitem(models.MEASURES, "cka", measure)
    twelve, numbers = torch.arange(12), torch.arange(30.0)[:, None]
    pairs = Pairs(twelve, twelve + 3, torch.ones(12), torch.arange(30), torch.arange(2, 20), 100)
    universality(numbers, numbers, {"all": pairs}, measures=["cka"], draws=40)
    assert (seen[0][0] == numbers[:12]).all()
    assert (seen[0][1] == numbers[3:15]).all()
    drawn = [{float(v) for pair in seen[1:] for v in pair[side]} for side in (0, 1)]
    assert drawn == [set(range(30)), set(range(2, 20))]


def test_rsa_takes_a_sample_of_many_pairs_and_says_so(monkeypatch):
    monkeypatch.setattr(models, "SAMPLE", 50)
    truth, pairs, groups = small()
    score = universality(truth.a, truth.b, groups, measures=["rsa"], draws=20).scores["all", "RSA".lower()]
    assert score.note == f"50 of {len(pairs.left)} pairs"
    assert score.z > 10


def test_a_seed_gives_the_same_numbers_and_another_seed_other_nulls():
    truth, _, groups = small()
    one, same, other = (universality(truth.a, truth.b, groups, draws=5, seed=s).table for s in (0, 0, 1))
    assert one.equals(same)
    assert not (one["null"] == other["null"]).any()


def test_figures_draw_both_nulls_and_the_value():
    truth, _, groups = small()
    figure = universality(truth.a, truth.b, groups, draws=20).figure()
    assert [t.name for t in figure.data if t.showlegend] == ["pairing shuffled", "random latents", "observed"]
    assert len(figure.data) == 9  # three panels of three; the small group's have nothing to draw
    assert "Nulls of 20 draws" in figure.layout.title.subtitle.text
    a = [normal(50, 4, s) for s in range(3)]
    layers = layer_similarity(a, a, cka).figure()
    assert [t.name for t in layers.data if t.name] == ["most similar layer of B", "layers in random order", "observed"]


X = normal(20, 4)
CODE = Code.dense(torch.rand(10, 5))
BROKEN = X.clone()
BROKEN[3, 1] = torch.nan
PAIRS = pairs_of([0, 1], [0, 1], [0.9, 0.8])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: svcca(X, X[:15]), "each with its row of y, are wanted: got 20 and 15"),
        (lambda: cka(X[:5], X[:5]), "10 or more rows of x"),
        (lambda: rsa(X, BROKEN), "1 of 20 rows of y are not finite"),
        (lambda: svcca(X, torch.ones(20, 3)), "all rows of y are the same"),
        (lambda: rsa(X, X[:, :1].expand(20, 4)), "20 of 20 rows of y have one value in all dimensions"),
        (lambda: rsa(normal(5800, 2), normal(5800, 2)), "at most 5792 rows, got 5800"),
        (lambda: svcca(X, X, keep=99.0), "keep must be a share up to 1 and guard 1 or more, got 99.0 and 5"),
        (lambda: cka(X, X, draws=-1), "draws must be 0 or more, got -1"),
        (lambda: jaccard(READ[:5], READ[:5] + 100, READ), "5 atoms of b are no rows of the stream"),
        (lambda: jaccard(READ[:0], READ[:5], READ), "a has no atom"),
        (lambda: jaccard(READ[:5], READ[:5], torch.cat([READ, READ])), "the stream reads a place"),
        (lambda: jaccard(READ[:5], READ[:5], READ, blocks=0), r"blocks 1..1000, got 100 and 0"),
        (lambda: layer_similarity([X], [X], cka), "two or more layers of each"),
        (lambda: layer_similarity([X, X], [X, X], cka, names=["a"]), "got 2, 2, 1"),
        (lambda: correlate(CODE, Code.dense(torch.rand(9, 5))), "codes of the same rows are wanted, got 10 and 9"),
        (lambda: correlate(CODE, CODE, rows=(torch.arange(3), torch.arange(2))), "are wanted: 3 and 2"),
        (lambda: correlate(CODE, Code.dense(torch.full((10, 5), torch.inf))), "50 values of a code are not finite"),
        (lambda: top_words(CODE, ["a"]), "one word for each of the 10 rows is wanted, got 1"),
        (lambda: top_words(CODE, ["a"] * 10, k=0), "k must be 1 or more, got 0"),
        (
            lambda: by_words(PAIRS, [["a"]], B_SAYS),
            "words are wanted for every latent of both dictionaries, got 1 and 6",
        ),
        (lambda: about(PAIRS, A_SAYS, B_SAYS, []), "one or more keywords"),
        (lambda: universality(X, X, {"all": PAIRS}, measures=["cca"]), r"measures are svcca, rsa, cka, got \['cca'\]"),
        (lambda: universality(X, X, {}), "no group of pairs was given"),
        (lambda: universality(X[:1], X, {"all": PAIRS}), "the pairs of 'all' are not of these 1 and 20 atoms"),
    ],
)
def test_bad_input_is_refused_in_a_line(call, says):
    with pytest.raises(ValueError, match=says):
        call()

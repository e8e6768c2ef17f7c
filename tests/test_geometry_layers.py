"""Folding changes nothing, SAE Match is the best matching there is, chains chain, and nulls stay where chance is."""

from itertools import permutations

import numpy as np
import pytest
import torch

from workbench import geometry, testbeds
from workbench.code import Code
from workbench.geometry import layers
from workbench.geometry.layers import correlated, fold, layer_skip, moved, persistence, sae_match, seed_overlap
from workbench.geometry.match import Match

D = 64


def drawn(n: int, d: int = D, seed: int = 0) -> torch.Tensor:
    return geometry.random_directions(n, d, seed=seed)


def shuffled_copy(a: torch.Tensor, seed: int = 0, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a in another order, and where each row of a went."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(a), generator=rng)
    return a[order] + noise * torch.randn(a.shape, generator=rng), order.argsort()


def scales(n: int, seed: int = 0, sigma: float = 1.0) -> torch.Tensor:
    return (sigma * torch.randn(n, generator=torch.Generator().manual_seed(seed))).exp()


def all_pairs(m: int) -> Match:
    return Match(torch.arange(m), torch.arange(m), torch.ones(m))


def test_folding_leaves_the_function_of_a_jumprelu_dictionary_as_it_was():
    encoder, bias, atoms, threshold = drawn(30, 8), torch.randn(30), drawn(30, 8, 1), 0.1 + torch.rand(30)
    x = torch.randn(100, 8)

    def says(e, b, d, t):
        pre = x @ e.T + b
        code = torch.where(pre > t, pre, 0)
        return code, code @ d

    folded = fold(encoder, bias, atoms, threshold)
    code, y = says(encoder, bias, atoms, threshold)
    code_folded, y_folded = says(*folded, torch.ones(30))
    assert 0.1 < float((code > 0).float().mean()) < 0.9
    torch.testing.assert_close(y_folded, y)
    torch.testing.assert_close(code_folded, code / threshold)


def test_folding_by_hand():
    found = fold(torch.tensor([[2.0, 4.0]]), torch.tensor([6.0]), torch.tensor([[1.0, 3.0]]), torch.tensor([2.0]))
    assert [x.tolist() for x in found] == [[[1.0, 2.0]], [3.0], [[2.0, 6.0]]]


@pytest.mark.parametrize(("m", "n"), [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("candidates", [None, 16])
def test_it_is_the_smallest_sum_of_squared_distances_when_those_alone_pay_their_own_norm(m, n, candidates):
    """Brute force over every partial matching."""
    for seed in range(6):
        a, b = drawn(m, 3, seed) * scales(m, seed)[:, None], drawn(n, 3, 50 + seed) * scales(n, 9 + seed)[:, None]
        a, b = a.double(), b.double()

        def cost(pairs, a=a, b=b):
            left, right = {i for i, _ in pairs}, {j for _, j in pairs}
            total = sum(float((a[i] - b[j]).square().sum()) for i, j in pairs)
            total += sum(float(a[i].square().sum()) for i in range(len(a)) if i not in left)
            return total + sum(float(b[j].square().sum()) for j in range(len(b)) if j not in right)

        padded = [list(range(n)) + [-1] * m for _ in range(1)][0]
        best = min(cost([(i, j) for i, j in enumerate(p) if j >= 0]) for p in set(permutations(padded, m)))
        found = sae_match(a, b, candidates=candidates, draws=2, random=1)
        pairs = list(zip(found.match.left.tolist(), found.match.right.tolist(), strict=True))
        assert cost(pairs) == pytest.approx(best)
        assert len({j for _, j in pairs}) == len(pairs)
        for line, (i, j) in zip(found.table.to_dict("records"), pairs, strict=True):
            assert line["distance"] == pytest.approx(float((a[i] - b[j]).square().sum()))
            assert line["cosine"] == pytest.approx(float(torch.cosine_similarity(a[i], b[j], 0)))
            assert line["norm_right"] == pytest.approx(float(b[j].norm()))


def test_for_equal_sizes_it_is_scipys_assignment_of_squared_distances():
    from scipy.optimize import linear_sum_assignment

    a = (drawn(60, 4) + 1).double() * scales(60)[:, None]  # in one quadrant: every inner product is positive
    b = (drawn(60, 4, 1) + 1).double() * scales(60, 1)[:, None]
    i, j = linear_sum_assignment(torch.cdist(a, b).square().numpy())
    found = sae_match(a, b, draws=2, random=1)
    assert found.match.left.tolist() == i.tolist() and found.match.right.tolist() == j.tolist()
    want = 1 - float((a[i] - b[j]).square().sum() / (a - a.mean(0)).square().sum())
    assert found.explained.value == pytest.approx(want)
    assert found.distance == pytest.approx(float((a[i] - b[j]).square().sum(1).mean()))


@pytest.mark.parametrize(("m", "n"), [(1100, 1300), (1300, 1100)])
def test_candidates_miss_less_than_a_hundredth_of_a_percent_where_twins_are_planted(m, n):
    """Across blocks, with norms over two orders of magnitude: where nearest by distance would fail."""
    size = min(m, n)
    a, b = drawn(m) * scales(m)[:, None], drawn(n, seed=1) * scales(n, 1)[:, None]
    noisy = a[:size] * (1 + 0.3 * torch.randn(size, D, generator=torch.Generator().manual_seed(2)))
    b[:size], where = shuffled_copy(noisy)
    gain = {}
    for few in (None, 32):
        found = sae_match(a, b, candidates=few, draws=2, random=1)
        gain[few] = float((a[found.match.left] * b[found.match.right]).sum())
        right = found.match.partners(m)[:size] == where
        assert float(right.float().mean()) > 0.8  # the optimum itself gives up twins of little norm
    assert 0 <= 1 - gain[32] / gain[None] < 1e-4


@pytest.mark.parametrize("blur", [0.3, 1.0])  # cosines of twins 0.96 and 0.71
def test_matching_recovers_98_percent_of_the_rows_that_were_not_replaced(blur):
    """GEO-3, by SAE Match of all pairs and of candidates, and by the cross-seed matching."""
    for seed in range(3):
        truth = testbeds.world("twins", blur=blur, world_seed=seed).truth
        for found in (
            sae_match(truth.b, truth.a, draws=2, random=1).match,
            sae_match(truth.b, truth.a, candidates=16, draws=2, random=1).match,
            geometry.match(truth.b, truth.a),
        ):
            right = (found.partners(256) == truth.match)[~truth.replaced]
            assert float(right.float().mean()) >= 0.98
        found = sae_match(truth.b, truth.a)
        if blur == 0.3:
            assert found.alone == pytest.approx(0.2, abs=0.01)  # the replaced fifth
        assert found.cosine.z > 50 and found.cosine.p == pytest.approx(1 / 101)
        assert found.explained.value > float(found.explained.null.max())


def test_random_atoms_are_matched_as_well_as_the_null_of_random_directions_says():
    a, b = (drawn(300, 64, s) * scales(300, s)[:, None] for s in (5, 6))
    found = sae_match(a, b, random=5)
    null = found.random.cosine
    assert abs(found.cosine.value - null.mean()) < 4 * null.std() + 0.01
    assert abs(float(found.cosine.null.mean())) < 0.005 and found.alone == 1.0
    assert found.explained.value == pytest.approx(found.random.explained.mean(), abs=0.1)
    apart = -float(b.square().sum() / a.square().sum())  # strangers are |a|^2 + |b|^2 apart
    assert float(found.explained.null.mean()) == pytest.approx(apart, abs=0.1)
    assert found.cosine.p == pytest.approx(1 / 101)  # shuffled pairs alone would call chance a find


def test_a_control_of_random_directions_is_not_its_own_null():
    a, b = drawn(100, seed=0), drawn(100, seed=1)
    assert sae_match(a, b, draws=2).random.cosine.max() < 0.6
    assert persistence([a, b], draws=2).table.random[0] != persistence([a, b], draws=2).table.cosine[0]
    table = seed_overlap([a, b]).table
    assert table.random_cosine[0] != table.cosine[0]


def test_columns_of_the_encoder_decide_where_atoms_cannot():
    atoms = torch.ones(3, 2)
    columns, order = torch.eye(3), torch.tensor([2, 0, 1])
    found = sae_match(atoms, atoms, columns=(columns, columns[order]), draws=2, random=1)
    assert order[found.match.right].tolist() == [0, 1, 2]
    torch.testing.assert_close(found.match.cosines.float(), torch.ones(3))


def test_dead_latents_are_left_out_and_numbers_stay():
    a = drawn(20, 16)
    b, where = shuffled_copy(a)
    live = torch.arange(20) % 4 != 0
    a[~live] = 0
    found = sae_match(a, b, live=(live, torch.ones(20, dtype=torch.bool)), draws=2, random=1)
    assert found.match.left.tolist() == live.nonzero()[:, 0].tolist()
    assert torch.equal(found.match.right, where[live])
    assert found.alone == 0.0


def test_chains_are_composed_and_agree_with_the_direct_matching_of_a_copy():
    first = drawn(120)
    second, to_second = shuffled_copy(first, 1, 0.03)
    third, to_third = shuffled_copy(second, 2, 0.03)
    found = persistence([first, second, third], names=["a", "b", "c"], draws=50)
    assert torch.equal(found.partners["a", "b"], to_second)
    assert torch.equal(found.partners["a", "c"], to_third[to_second])
    far = found.table[found.table.hops == 2].iloc[0]
    assert (far["from"], far["to"], far.composed, far.same) == ("a", "c", 1.0, 1.0)
    assert far.same_null == pytest.approx(1 / 120, abs=0.005)
    assert far.cosine == pytest.approx(float(torch.cosine_similarity(first, third[to_third[to_second]]).mean()))
    assert far.cosine == pytest.approx(far.direct) and far.cosine < found.table.cosine[0]
    assert abs(far.shuffled) < 0.01 and far.z > 20 and far.p == pytest.approx(1 / 51)
    assert far.random < 0.5


def test_a_chain_ends_where_a_layer_has_no_such_latent_though_the_ends_match():
    first = torch.eye(4)
    middle = torch.eye(4)[[1, 0, 2]]  # latent 3 is missing
    found = persistence([first, middle, first], draws=5)
    assert found.partners["0", "2"].tolist() == [0, 1, 2, -1]
    far = found.table.iloc[-1]
    assert far.composed == pytest.approx(0.75) and far.same == 1.0 and far.alone == pytest.approx(0.25)


def test_unrelated_layers_persist_as_random_directions_do():
    found = persistence([drawn(200, 64, s) for s in (11, 12, 13)], draws=50)
    near, far = found.table.iloc[0], found.table.iloc[-1]
    assert near.cosine == pytest.approx(near.random, abs=0.02) and near.random == near.random_direct
    assert far.cosine == pytest.approx(far.random, abs=0.03) and far.direct == pytest.approx(
        far.random_direct, abs=0.03
    )
    assert 0.05 < far.random < 0.2 < far.random_direct  # a chain of two extreme values is not nothing
    assert abs(far.shuffled) < 0.01 and far.same < 0.1


def test_codes_move_to_their_partners_and_folded_values_stay():
    code = Code.dense(torch.tensor([[1.0, 0.0, 4.0], [0.0, 2.0, 0.0]]))
    pairs = Match(torch.tensor([0, 2]), torch.tensor([3, 1]), torch.ones(2))  # latent 1 has no partner
    assert moved(code, pairs, 4).to_dense().tolist() == [[0, 4, 0, 1], [0, 0, 0, 0]]
    left, right = torch.tensor([2.0, 1.0, 4.0]), torch.tensor([1.0, 10.0, 1.0, 3.0])
    assert moved(code, pairs, 4, scales=(left, right)).to_dense().tolist() == [[0, 10, 0, 1.5], [0, 0, 0, 0]]


def skipped(**options):
    """B's atoms are A's in another order and A's latents all survive: the matched skip is exact."""
    a = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(3)))[0]
    b, where = shuffled_copy(a)
    x = torch.rand(400, 16, generator=torch.Generator().manual_seed(4))
    before, after = x @ a, 2 * x @ a + 1
    pairs = Match(torch.arange(16), where, torch.ones(16))
    given = {"encode": lambda h: Code.dense(h @ a.T), "decode": lambda z: 2 * z.combine(b) + 1} | options
    return layer_skip(match=pairs, latents=16, before=before, after=after, **given), before, after


def test_a_layer_is_skipped_by_the_matched_code_and_not_by_a_shuffled_one():
    asked = []

    def delta_ce(f):
        asked.append(f(before[:3]))
        return float(len(asked))

    _, before, after = skipped()
    found, *_ = skipped(delta_ce=delta_ce)
    by = found.table.drop_duplicates("arm").set_index("arm")
    assert by.explained["matched"] == pytest.approx(1.0) and by.explained["mean"] == pytest.approx(0.0, abs=1e-6)
    spread = (after - after.mean(0)).square().sum()
    assert by.explained["identity"] == pytest.approx(float(1 - (before - after).square().sum() / spread), rel=1e-4)
    assert float(found.explained.null.max()) < 0 and found.explained.z > 3 and len(found.explained.null) == 20
    assert by.delta_ce.tolist() == [1.0, 2.0, 3.0, 4.0]  # each arm once, the shuffled at its first draw
    torch.testing.assert_close(asked[0], after[:3])
    torch.testing.assert_close(asked[2], before[:3])
    torch.testing.assert_close(asked[3], after.mean(0).expand(3, -1))
    assert (by.low <= by.explained).all() and (by.explained <= by.high).all()
    assert abs(by.low["mean"]) < 1e-6 and abs(by.high["mean"]) < 1e-6  # whatever is drawn, errors are the whole


def test_intervals_of_documents_are_wider_than_of_rows_when_rows_of_one_agree():
    texts = torch.arange(400) // 100
    lean = (texts[:, None] * torch.ones(16)).float()
    off = {"decode": lambda z: lean[: len(z)] if len(z) == 400 else lean}
    (rows, *_), (documents, *_) = skipped(**off), skipped(**off, texts=texts)
    width = [float((t.table.high - t.table.low)[0]) for t in (rows, documents)]
    assert width[1] > 2 * width[0]


def test_correlations_are_numpys_over_blocks_and_shuffled_partners_are_near_zero():
    rng = np.random.default_rng(0)
    on = rng.random((600, 12)) < 0.3
    one = torch.from_numpy(on * rng.random((600, 12))).float()
    other, where = shuffled_copy(one.T, 5)
    other = (other.T * torch.from_numpy(rng.random((600, 12)) < 0.8)).contiguous()
    pairs = Match(torch.arange(12), where, torch.ones(12))
    blocks = [(Code.dense(x).to_csr(), Code.dense(y)) for x, y in zip(one.split(250), other.split(250), strict=True)]
    found = correlated(blocks, pairs, draws=30)
    want = [np.corrcoef(one[:, i], other[:, where[i]])[0, 1] for i in range(12)]
    assert found.pairs.tolist() == pytest.approx(want, abs=1e-5)
    assert found.rows == 600 and found.mean.value == pytest.approx(np.mean(want), abs=1e-5)
    assert abs(float(found.mean.null.mean())) < 0.2 * found.mean.value and found.mean.p < 0.05


def test_a_latent_that_never_varies_has_no_correlation():
    one = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    found = correlated([(Code.dense(one), Code.dense(one))], all_pairs(3), draws=2)
    assert found.pairs.isnan().tolist() == [True, True, False] and float(found.pairs[2]) == pytest.approx(1.0)
    assert found.mean.value == pytest.approx(1.0)


def test_a_latent_is_stable_when_every_other_seed_shares_it():
    a = drawn(50)
    b, c = a.clone(), a.clone()
    b[:10], c[5:20] = drawn(10, seed=7), drawn(15, seed=8)
    b, to_b = shuffled_copy(b, 1)
    c, to_c = shuffled_copy(c, 2)
    found = seed_overlap([a, b, c], [a, b, c])
    assert found.stable[0].nonzero()[:, 0].tolist() == list(range(20, 50))
    assert torch.equal(found.stable[0], found.stable[1][to_b])
    assert torch.equal(found.stable[0], found.stable[2][to_c])
    by = found.table.set_index(["left", "right"]).shared
    assert by[0, 1] == by[1, 0] == 0.8 and by[0, 2] == 0.7 and by[1, 2] == 0.6
    assert found.random_stable == 0 and (found.table.random_shared == 0).all() and found.table.random_cosine.max() < 0.5


def test_columns_can_refuse_what_atoms_would_share():
    a = drawn(30)
    other, _ = shuffled_copy(drawn(30, seed=3), 1)
    assert float(seed_overlap([a, a]).stable[0].float().mean()) == 1.0
    assert float(seed_overlap([a, a], [a, other]).stable[0].float().mean()) == 0.0


def test_every_record_says_its_null_and_draws_it():
    a, b = drawn(40), drawn(40, seed=1)
    code = Code.dense(torch.rand(50, 40, generator=torch.Generator().manual_seed(0)))
    for found, said in (
        (sae_match(a, b), "random directions"),
        (persistence([a, b, a], draws=5), "null: chain of random directions"),
        (skipped(delta_ce=lambda f: 0.1)[0], "shuffled"),
        (correlated([(code, code)], all_pairs(40)), "null: shuffled partners"),
        (seed_overlap([a, b]), "null: matched random directions"),
    ):
        figure = found.figure()
        names = {trace.name for trace in figure.data} | {x for t in figure.data if t.type == "bar" for x in t.x}
        assert any(said in str(name) for name in names), names
        assert "random" in found.caption or "shuffled" in found.caption
        assert "\n" not in found.caption and figure.layout.title.subtitle.text


EYE = torch.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fold(EYE, torch.zeros(3), EYE, torch.tensor([1.0, 0.0, 1.0])), "1 of 3 scales are not above 0"),
        (lambda: fold(EYE, torch.zeros(3), EYE, torch.ones(2)), r"one row for each latent, got \(3, 3, 3, 2\)"),
        (lambda: sae_match(EYE, torch.eye(4)), "a is 3 wide, b is 4|a is 3 wide, b 4"),
        (lambda: sae_match(EYE, EYE * torch.nan), "3 of 3 rows of b are not finite"),
        (lambda: sae_match(EYE, 0 * EYE), "3 live rows are zero"),
        (lambda: sae_match(EYE, EYE, live=(torch.ones(2).bool(), torch.ones(3).bool())), "bool for each of 3 latents"),
        (lambda: sae_match(EYE, EYE, live=(torch.zeros(3).bool(),) * 2), "no latent is live"),
        (lambda: sae_match(EYE, -EYE), "no two atoms have a positive inner product"),
        (lambda: sae_match(EYE, EYE, candidates=1), "candidates must be 2 or more, got 1"),
        (lambda: sae_match(EYE, EYE, draws=1), "draws of 2 or more"),
        (lambda: persistence([EYE]), "two layers or more"),
        (lambda: persistence([EYE, EYE], names=["a", "a"]), "a name of its own"),
        (lambda: moved(Code.dense(EYE), all_pairs(3), 2), "names latent 2, the dictionary has 2"),
        (lambda: skipped(texts=torch.zeros(3).long()), "the same rows"),
        (lambda: skipped(draws=1), "two draws or more"),
        (lambda: correlated([], all_pairs(3)), "no block of codes came"),
        (lambda: correlated([(Code.dense(EYE), Code.dense(EYE[:2]))], all_pairs(3)), "of the same rows, got 3 and 2"),
        (
            lambda: correlated([(Code.dense(0 * EYE), Code.dense(EYE))], all_pairs(3)),
            "no pair has two latents that vary",
        ),
        (lambda: correlated([(Code.dense(EYE), Code.dense(EYE))], all_pairs(4)), "does not fit codes of 3 and 3"),
        (lambda: seed_overlap([EYE]), "two dictionaries or more, got 1"),
        (lambda: seed_overlap([EYE, EYE], [EYE, EYE[:2]]), r"atoms' latents \[3, 3\], got \[3, 2\]"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_beyond_the_stated_size_candidates_are_taken_unasked(monkeypatch):
    a = drawn(40)
    b, where = shuffled_copy(a)
    monkeypatch.setattr(layers, "ALL_PAIRS", 100)
    assert torch.equal(sae_match(a, b, draws=2, random=1).match.right, where)
    assert float(seed_overlap([a, b]).stable[0].float().mean()) == 1.0

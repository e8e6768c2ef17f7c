"""Vector worlds: rows are what their codes say, as often as documented, and oracles find what can be found."""

import math

import pytest
import torch
from torch.nn.functional import normalize

import workbench as wb
from workbench import testbeds
from workbench.code import Codec
from workbench.testbeds.vectors import Oracle, recovered

N = 10_000
# world -> F1 of the oracle's support at least; FVU with as many atoms as each row truly has: of the true atoms at most,
# of random ones (chance) at least. Measured below each.
ORACLES = {
    "superposition": (0.99, 0.004, 0.7),  # 1.000, 0.0023, 0.765
    "hierarchy": (0.95, 0.006, 0.85),  # 0.964, 0.0035, 0.912
    "correlated": (0.99, 1e-6, 0.85),  # 1.000, 3e-13, 0.889
    "imbalanced": (0.5, 0.03, 0.15),  # 0.589, 0.0200, 0.172: rows of 20 of 128 atoms in 42 dimensions cannot be read
    "rare_tail": (0.99, 0.004, 0.7),  # 1.000, 0.0023, 0.748
    "readout": (0.98, 0.007, 0.55),  # 0.993, 0.0047, 0.602
    "lobes": (0.8, 0.025, 0.35),  # 0.838, 0.0165, 0.413: ten atoms on among a hundred that lean towards each other
    "twins": (0.99, 1e-6, 0.7),  # 1.000, 1e-12, 0.766
}


def atoms(world):
    return world.truth.a if hasattr(world.truth, "a") else world.truth


def near(count: float, n: int, p: float) -> bool:
    """Within four standard deviations of a binomial: one false alarm in 16,000."""
    return abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p)) + 1


@pytest.mark.parametrize("name", ORACLES)
def test_rows_are_their_codes_times_the_atoms_plus_noise(name):
    world = testbeds.world(name)
    found = world.sample(N, 1)
    slow = torch.zeros_like(found.x, dtype=torch.double)
    for j, atom in enumerate(atoms(world).double()):
        slow += found.code[:, j, None].double() * atom
    left = found.x - slow
    noise = getattr(world, "noise", getattr(getattr(world, "base", None), "noise", 0.0))
    assert float(left.std()) == pytest.approx(noise, rel=0.02, abs=2e-6)
    assert float(left.mean().abs()) <= 4 * noise / math.sqrt(left.numel()) + 1e-6


@pytest.mark.parametrize("name", sorted(set(ORACLES) - {"correlated"}))
def test_atoms_are_unit_vectors_and_the_same_whenever_they_are_asked_for(name):
    world = testbeds.world(name)
    torch.testing.assert_close(atoms(world).norm(dim=-1), torch.ones(len(atoms(world))))
    assert torch.equal(atoms(world), atoms(testbeds.world(name)))
    assert not torch.equal(atoms(world), atoms(testbeds.world(name, world_seed=1)))


@pytest.mark.parametrize("name", ["superposition", "hierarchy", "rare_tail"])
def test_directions_are_on_as_often_as_documented(name):
    world = testbeds.world(name)
    on = (world.sample(N, 2).code != 0).sum(0)
    assert all(near(int(count), N, float(p)) for count, p in zip(on, world.p, strict=True))


def test_zipf_keeps_the_mean_and_falls_as_one_over_j():
    world = testbeds.world("superposition", zipf=True)
    assert float(world.p.mean()) == pytest.approx(0.02)
    assert float(world.p[0] / world.p[10]) == pytest.approx(15 / 5)
    on = (world.sample(N, 2).code != 0).sum(0)
    assert all(near(int(count), N, float(p)) for count, p in zip(on, world.p, strict=True))


def test_coefficients_are_one_on_average_and_signed_where_asked():
    code = testbeds.world("superposition").sample(N, 3).code
    values = code[code != 0]
    assert float(values.min()) > 0
    assert abs(float(values.mean()) - 1) <= 4 * 0.25 / math.sqrt(len(values))
    assert float(values.std()) == pytest.approx(0.25, rel=0.03)
    signed = testbeds.world("superposition", signed=0.5).sample(N, 3).code
    first, rest = signed[:, :128], signed[:, 128:]
    assert float(rest.min()) >= 0
    assert near(int((first < 0).sum()), int((first != 0).sum()), 0.5)


def test_a_child_is_on_only_with_its_parent_and_alone():
    world = testbeds.world("hierarchy")
    on = (world.sample(N, 4).code != 0).tolist()
    for row in on:
        for child, parent in enumerate(world.parents):
            assert not row[child] or parent < 0 or row[parent]
        for parent in range(20):
            assert sum(row[c] for c, p in enumerate(world.parents) if p == parent) <= 1
    assert [list(world.parents).count(p) for p in (-1, 0, 1, 2, 3, 4)] == [3, 3, 3, 3, 2, 0]
    given = [row[3] for row in on if row[0]]
    assert near(sum(given), len(given), 0.2)
    gram = world.truth @ world.truth.T
    torch.testing.assert_close(gram, torch.eye(20), atol=1e-5, rtol=0)


def test_correlated_codes_are_the_largest_of_a_block_gaussian():
    world = testbeds.world("correlated")
    torch.testing.assert_close(world.truth @ world.truth.T, world.covariance.float(), atol=1e-5, rtol=0)
    code = world.sample(N, 5).code
    assert int((code != 0).sum(1).max()) == 8
    on = (code != 0).float()
    both = torch.corrcoef(on.T)
    same = world.covariance > 0.1
    off = ~torch.eye(64, dtype=torch.bool)
    assert float(both[same & off].mean()) > 0.2 > 0 > float(both[~same].mean())
    # with k = n / 2 no positive entry is cut in most rows: the marginals are half-normal
    free = testbeds.world("correlated", k=32, rho=0.0).sample(N, 5).code
    assert near(int((free[:, 0] > 1).sum()), N, 0.1587)


def test_imbalanced_rows_have_exactly_few_or_many_on():
    found = testbeds.world("imbalanced").sample(N, 6)
    for row, dense in zip((found.code != 0).sum(1).tolist(), found.dense.tolist(), strict=True):
        assert row == (20 if dense else 3)
    assert near(int(found.dense.sum()), N, 0.5)
    on = (found.code != 0).float().mean(0)
    assert float((on - 11.5 / 128).abs().max()) < 4 * math.sqrt(0.09 * 0.91 / N)


def test_the_tail_is_on_in_its_sub_domain_only():
    world = testbeds.world("rare_tail")
    found = world.sample(N, 7)
    tail = found.code[:, 256:] != 0
    assert not tail[~found.target].any()
    assert near(int(found.target.sum()), N, 0.1)
    assert near(int(tail.sum()), N * 64, 1e-4)


def test_readout_effects_are_exact():
    world = testbeds.world("readout")
    found = world.sample(N, 8)
    for i in range(0, N, 500):
        logits = [sum(w * v for w, v in zip(row, found.x[i].tolist(), strict=True)) for row in world.matrix.tolist()]
        high = max(logits)
        total = sum(math.exp(v - high) for v in logits)
        expected = [math.exp(v - high) / total for v in logits]
        assert found.y[i].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    pushed = world.answer(found.x + 3 * world.truth[5])
    by_hand = (found.y.log() + 3 * world.effects[5]).softmax(-1)
    torch.testing.assert_close(pushed, by_hand, rtol=1e-3, atol=1e-6)


def test_differences_are_relations_once_the_distractor_is_out():
    world = testbeds.world("parallelograms")
    found = world.sample(N, 9)
    g = world.distractor
    left = found.b - found.a - world.truth[found.relation] - found.distractor[:, None] * g
    assert float(left.std()) == pytest.approx(0.05, rel=0.02)
    assert found.relation.tolist() == [i % 8 for i in range(N)]
    assert float(found.distractor.std()) == pytest.approx(3, rel=0.03)
    raw = found.b - found.a
    clean = raw - (raw @ g)[:, None] * g

    from sklearn.metrics import silhouette_score

    score = {name: silhouette_score(x[:800], found.relation[:800]) for name, x in (("raw", raw), ("clean", clean))}
    assert score["clean"] > 0.5 > 0.1 > score["raw"]


def test_lobes_lean_and_fire_together():
    world = testbeds.world("lobes")
    cosine = world.truth @ world.truth.T
    same = world.lobe[:, None] == world.lobe
    off = ~torch.eye(300, dtype=torch.bool)
    assert float(cosine[same & off].mean()) == pytest.approx(0.5, abs=0.03)
    assert abs(float(cosine[~same].mean())) < 0.15  # centres are random: two of them in 64 dimensions
    found = world.sample(N, 10)
    inside = (found.lobe[:, None] == world.lobe) & torch.ones(N, 300, dtype=torch.bool)
    on = found.code != 0
    assert near(int(on[inside].sum()), int(inside.sum()), 0.1)
    assert near(int(on[~inside].sum()), int((~inside).sum()), 0.01)


def test_twins_match_but_for_the_replaced():
    world = testbeds.world("twins")
    truth = world.truth
    assert int(truth.replaced.sum()) == round(0.2 * 256)
    kept = truth.match[~truth.replaced]
    assert len(kept.unique()) == len(kept)
    cosine = (truth.b * truth.a[truth.match.clamp_min(0)]).sum(1)
    assert float(cosine[~truth.replaced].min()) > 0.9 > 0.5 > float(cosine[truth.replaced].abs().max())
    turned = testbeds.world("twins", rotated=True).truth
    torch.testing.assert_close(turned.rotation @ turned.rotation.T, torch.eye(128), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned.b @ turned.rotation, truth.b, atol=1e-5, rtol=0)
    assert float((turned.b * truth.b).sum(1).abs().mean()) < 0.2


def unread(found, atoms, oracle) -> float:
    """FVU when a pursuit over these atoms may take as many as the row truly has: the same L0 for every set of atoms."""
    count, hat = (found.code != 0).sum(1), torch.zeros_like(found.x)
    for k in count[count > 0].unique().tolist():
        codec = Oracle(atoms, most=k, tolerance=oracle.tolerance)
        hat[count == k] = codec.reconstruct(found.x[count == k])
    return float((hat - found.x).square().sum() / (found.x - found.x.mean(0)).square().sum())


def f1(a, b) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.mark.parametrize("name", ORACLES)
def test_the_oracle_beats_random_atoms_at_the_same_l0_and_finds_the_code(name):
    world = testbeds.world(name)
    found, oracle = world.sample(2_000, 11), world.oracle()
    assert isinstance(oracle, Codec)
    other = normalize(torch.randn(oracle.atoms().shape, generator=torch.Generator().manual_seed(0)), dim=-1)
    least, most, chance = ORACLES[name]
    assert unread(found, oracle.atoms(), oracle) < most < chance < unread(found, other, oracle)
    on, true = oracle.encode(found.x).to_dense() != 0, found.code != 0
    assert f1(on, true) > least > 0.4 > 0.2 > f1(on.roll(1, 0), true), "codes of other rows are chance"
    needed = Oracle(other, most=oracle.most, tolerance=oracle.tolerance).encode(found.x).to_dense() != 0
    assert float(needed.sum()) > 1.5 * float(on.sum()), "random atoms need more of themselves, given as many picks"
    assert len(oracle.encode(found.x[:0])) == 0


def test_the_oracle_reads_the_sparse_rows_of_imbalanced_and_not_the_dense_ones():
    world = testbeds.world("imbalanced")
    found = world.sample(2_000, 11)
    on, true = world.oracle().encode(found.x).to_dense() != 0, found.code != 0
    # measured 0.995 and 0.534; chance for a row of 20 of 128 is 0.156
    assert f1(on[~found.dense], true[~found.dense]) > 0.98 > 0.6 > f1(on[found.dense], true[found.dense]) > 0.4


def test_the_pursuit_by_hand():
    atoms = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    oracle = Oracle(atoms, most=2, tolerance=1e-6)
    x = torch.tensor([[2.0, 0.0], [1.6, 0.8], [0.0, 0.0]])
    torch.testing.assert_close(
        oracle.encode(x).to_dense(), torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), atol=1e-4, rtol=0
    )
    with pytest.raises(ValueError, match="1..2"):
        Oracle(atoms, most=3, tolerance=0.0)


def test_signed_codes_are_found_with_their_sign():
    world = testbeds.world("superposition", signed=1.0)
    found = world.sample(1_000, 12)
    code = world.oracle().encode(found.x).to_dense()
    assert float((code - found.code).abs().mean()) < 1e-3
    assert float(code.min()) < -0.5


def test_a_dictionary_trained_on_the_stream_finds_the_directions():
    world = testbeds.world("superposition", n=64, d=32, mean=0.05)
    recipe = wb.recipe("topk_auxk", d=32, latents=64, k=3)
    found = wb.train(recipe, world.stream(512, 500), site=None, progress=False, lr=5e-3)
    random = wb.recipe("random_atoms", d=32, latents=64, k=3).dictionary
    # measured 0.97 against 0.40
    assert recovered(world.truth, found.atoms()) > 0.9 > 0.5 > recovered(world.truth, random.atoms())


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("superposition", {"n": 0}), ("superposition", {"mean": 0.9, "zipf": True}), ("superposition", {"signed": 2.0}),
        ("hierarchy", {"d": 19}), ("hierarchy", {"child": 0.5}), ("correlated", {"block": 7}),
        ("correlated", {"k": 60}), ("imbalanced", {"few": 30}), ("rare_tail", {"rare": 0.5}),
        ("readout", {"answers": 1}),
        ("parallelograms", {"relations": 7}), ("lobes", {"inside": 0.001}), ("twins", {"replaced": 1.5}),
    ],
)  # fmt: skip
def test_worlds_that_cannot_be_are_refused(name, bad):
    with pytest.raises(ValueError, match="got|gives"):
        testbeds.world(name, **bad)

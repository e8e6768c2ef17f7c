"""Agreement, recovery, description and kin: values by hand, nulls at chance, what data makers promise."""

from dataclasses import replace
from itertools import combinations
from math import log2, sqrt

import plain_codecs
import pytest
import torch
from plain_codecs import MemoryRows, PlainCodec
from torch.nn.functional import normalize

from workbench import evaluate, testbeds
from workbench.code import Code
from workbench.evaluate import Case, Examples
from workbench.evaluate.evals.consistency import Siblings, agreement, consistency
from workbench.evaluate.evals.identifiability import best, detectors, identifiability
from workbench.evaluate.evals.mdl import bits, mdl
from workbench.evaluate.evals.monosemanticity import Embedded, monosemanticity, per_latent, score
from workbench.evaluate.evals.ood import ood
from workbench.evaluate.evals.plausibility import Heads, plausibility
from workbench.evaluate.evals.quasi_orthogonality import quasi_orthogonality, zf
from workbench.evaluate.evals.recovery import Truth, recovery, table
from workbench.evaluate.tasks import planted
from workbench.geometry import random_directions
from workbench.testbeds.vectors import SITE


class Columns:
    """An encoder that turns every latent on, and has columns."""

    def __init__(self, weight: torch.Tensor):
        self.weight = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(x), self.weight.shape[1])


def always(atoms: torch.Tensor, columns: torch.Tensor | None = None, dead: int = 0) -> PlainCodec:
    """All but the last `dead` latents are on in every row."""
    on = (torch.arange(len(atoms)) < len(atoms) - dead).float()
    encoder = (lambda x: on.expand(len(x), -1)) if columns is None else Columns(columns.T)
    return PlainCodec(atoms, encoder, torch.zeros(atoms.shape[1]))


def case(codec: PlainCodec, rows: torch.Tensor | None = None, **given) -> Case:
    x = torch.ones(40, codec.dictionary.shape[1]) if rows is None else rows
    return Case(codec, None, MemoryRows(x), given=given, resamples=200)


def turned(degrees: float) -> torch.Tensor:
    """Two orthogonal atoms, turned."""
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])


def values(scores: evaluate.Scores) -> dict[str, float]:
    return {s.metric: s.value for s in scores}


# consistency


def test_agreement_of_two_turned_siblings_by_hand():
    """At 60 degrees |cosine| pairs each atom with the other, signed cosine with its own at 0.5."""
    found = consistency(case(always(turned(0)), siblings=Siblings((always(turned(30)), always(turned(60))))))
    c, s = sqrt(3) / 2, 1 / 2
    assert found["pw_mcc"].value == pytest.approx(c, abs=1e-6)
    assert found["shared_share"].value == pytest.approx(0.5)
    assert found["stable_share"].value == 0
    assert found["mmcs"].value == pytest.approx((c + (c + s) / 2) / 2, abs=1e-6)
    assert found["pw_mcc_shuffled"].value == pytest.approx((c + s) / 2, abs=1e-6)
    assert "no encoder columns" in found["shared_share"].unit
    assert consistency(case(always(turned(0)), siblings=Siblings((always(turned(30)),))), above=0.9)[
        "shared_share"
    ].value == 0  # fmt: skip


def test_copies_agree_wholly_and_dead_latents_do_not_count():
    atoms, order = random_directions(50, 16), torch.randperm(50)
    for other in (atoms, atoms[order], -3 * atoms[order]):
        found = consistency(case(always(atoms), siblings=Siblings((always(other),))))
        assert found["pw_mcc"].value == pytest.approx(1, abs=1e-6)
    lost = consistency(case(always(atoms, dead=30), siblings=Siblings((always(atoms),))))
    assert lost["pw_mcc"].value == pytest.approx(1, abs=1e-6) and lost["pw_mcc"].n == 20
    theirs = consistency(case(always(atoms), siblings=Siblings((always(atoms, dead=30),))))
    assert theirs["pw_mcc"].value == pytest.approx(0.4, abs=1e-6)  # 30 are left without a partner


def test_random_dictionaries_agree_at_their_null():
    one, two = (always(random_directions(300, 64, seed=s)) for s in (7, 8))
    found = consistency(case(one, siblings=Siblings((two,))))
    assert found["pw_mcc"].value == pytest.approx(found["pw_mcc"].chance, abs=0.01)
    assert found["mmcs"].value == pytest.approx(found["mmcs"].chance, abs=0.01)
    assert found["shared_share"].value == found["shared_share"].chance == 0


def test_a_shared_latent_needs_one_partner_by_atoms_and_by_columns():
    atoms, columns = random_directions(30, 16), random_directions(30, 16, seed=1)
    same, wrong = always(atoms, columns), always(atoms, columns.roll(1, 0))
    both = consistency(case(same, siblings=Siblings((same,))))
    assert both["shared_share"].value == 1 and "encoder columns" in both["shared_share"].unit
    assert consistency(case(same, siblings=Siblings((wrong,))))["shared_share"].value == 0
    assert consistency(case(same, siblings=Siblings((wrong,))))["pw_mcc"].value == pytest.approx(1, abs=1e-6)


def test_a_signed_code_may_point_either_way():
    class Signed(PlainCodec):
        sparsifier = type("Signs", (), {"signed": True})

    atoms = random_directions(20, 16)
    plain, signed = always(atoms), Signed(atoms, always(atoms).encoder, torch.zeros(16))
    flipped = always(-atoms)
    assert not agreement(plain, flipped).shared.any()
    assert agreement(signed, flipped).shared.all()


# recovery


def test_recovery_by_hand():
    """Atom 0 is direction 0; atom 1 lies between the two; its latent is on in two rows of the three it should be."""
    truth = torch.eye(2)
    atoms = normalize(torch.tensor([[2.0, 0.0], [1.0, 1.0]]), dim=-1)
    c = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    z = torch.tensor([[2.0, 0.0], [4.0, 1.0], [0.0, 1.0], [6.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    codec = PlainCodec(atoms, lambda x: z[x[:, 0].long()], torch.zeros(2))
    x = torch.stack([torch.arange(6.0), torch.zeros(6)], 1)
    given = case(codec, x, truth=Truth(truth, x, c))
    found = values(recovery(given))
    middle, r = sqrt(0.5), float(torch.corrcoef(torch.stack([c[:, 1], z[:, 1]]))[0, 1])
    assert found["mmcs"] == found["mmcs_learned"] == pytest.approx((1 + middle) / 2, abs=1e-6)
    assert found["recall"] == found["precision"] == 0.5
    assert found["correlation"] == pytest.approx((1 + r) / 2, abs=1e-6) and 0 < r < 1
    assert found["support_f1"] == pytest.approx((1 + 2 * 2 / (3 + 3)) / 2)
    assert (found["recall_rare"], found["recall_common"]) == (1.0, 0.0)  # both are on in three rows: the first is rarer
    lines = table(given)
    assert lines["latent"].tolist() == [0, 1] and lines["matched"].tolist() == pytest.approx([1, middle], abs=1e-6)
    assert lines["frequency"].tolist() == [0.5, 0.5]
    assert recovery(given, above=0.7)["recall"].value == 1


def test_one_atom_between_two_directions_is_matched_with_one_of_them_and_read_at_its_own_place():
    """Latents 0 and 1 are dead; latent 2 is as near to both directions and fires with the first."""
    truth = normalize(torch.tensor([[1.0, 0.15], [1.0, -0.2]]), dim=-1)
    atoms = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0]])
    c = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
    codec = PlainCodec(atoms, lambda x: x @ torch.tensor([[0.0, 0, 5], [0, 0, 0]]), torch.zeros(2))
    given = case(codec, c, truth=Truth(truth, c, c))
    found = values(recovery(given))
    assert (found["recall"], found["precision"]) == (0.5, 1.0)
    assert found["mmcs"] == pytest.approx((1 / sqrt(1.0225) + 1 / sqrt(1.04)) / 2, abs=1e-6)
    assert (found["correlation"], found["support_f1"]) == pytest.approx((0.5, 0.5))
    assert table(given)["latent"].tolist() == [2, -1]


def test_rare_and_common_directions_are_told_apart():
    often = torch.tensor([0.9, 0.8, 0.5, 0.4, 0.2, 0.1])
    code = (torch.arange(100)[:, None] < 100 * often).float()
    atoms = torch.eye(6)
    only_common = PlainCodec(atoms[:2], lambda x: x[:, :2], torch.zeros(6))
    found = values(recovery(case(only_common, code, truth=Truth(atoms, code, code))))
    assert (found["recall"], found["recall_rare"], found["recall_common"]) == (pytest.approx(1 / 3), 0.0, 1.0)
    assert found["precision"] == 1 and found["mmcs"] == pytest.approx(1 / 3)


def test_dead_atoms_recover_nothing_and_random_ones_what_chance_does():
    atoms = random_directions(60, 24, seed=1003)
    lost = recovery(case(always(atoms, dead=30), truth=Truth(atoms)))
    assert lost["recall"].value == 0.5 and lost["mmcs_learned"].n == 30
    blind = recovery(case(always(random_directions(60, 24, seed=1004)), truth=Truth(atoms)))
    for metric in ("mmcs", "mmcs_learned", "recall", "precision"):
        assert blind[metric].value == pytest.approx(blind[metric].chance, abs=0.03)


def test_the_null_is_never_the_planted_truth_of_the_same_seed():
    for seed in range(3):
        world = testbeds.world("superposition", n=24, d=32, mean=0.1, world_seed=seed)
        assert float((world.truth * random_directions(24, 32, seed=seed)).sum(-1).abs().max()) < 0.9


def test_signed_truth_is_found_by_atoms_that_point_the_other_way():
    atoms = random_directions(10, 16)
    code = torch.randn(50, 10) * (torch.rand(50, 10) < 0.3)
    codec = PlainCodec(-atoms, lambda x: -code[: len(x)], torch.zeros(16))
    for signed in (True, False):
        found = values(recovery(case(codec, code @ atoms, truth=Truth(atoms, code @ atoms, code, signed))))
        assert found["recall"] == float(signed)
        assert (found["correlation"] > 0.999) == signed


# mdl


def entropy(column: torch.Tensor) -> float:
    share = column.unique(return_counts=True)[1] / len(column)
    return -sum(float(p) * log2(float(p)) for p in share)


def test_bits_by_hand():
    """Latent 0 is 2 in half the rows (1 bit), latent 1 always 1 (none), latent 2 is off, 1, 2 (1.5 bits)."""
    z = torch.tensor([[2.0, 1, 0], [0, 1, 1], [2, 1, 0], [0, 1, 2]])
    found = bits(z, Code.dense(z), torch.ones(3), lambda c: c.to_dense(), 0.1)
    assert float(found.code.mean()) == pytest.approx(2.5) and float(found.rest.sum()) == 0
    assert found.code.tolist() == pytest.approx([1 + 1, 1 + 2, 1 + 1, 1 + 2])  # -log2 of 1/2 and of 1/2 or 1/4
    nothing = bits(z, Code.dense(0 * z), torch.ones(3), lambda c: c.to_dense(), 0.1)
    assert float(nothing.code.sum()) == 0 and float(nothing.rest.mean()) == pytest.approx(2.5)


def test_bits_equal_the_entropies_of_rounded_columns_in_every_layout():
    drawn = torch.Generator().manual_seed(0)
    y, atoms = torch.randn(200, 6, generator=drawn), 2 * random_directions(9, 6)
    z = torch.rand(200, 9, generator=drawn) * (torch.rand(200, 9, generator=drawn) < 0.3)
    top = z.topk(9, -1)
    size, step = atoms.norm(dim=-1), 0.3
    whole = (z * size / step).round()
    left = ((y - (whole * step / size) @ atoms) / step).round()
    for code in (Code.dense(z), Code.fixed(top.indices, top.values, 9), Code.dense(z).to_csr()):
        found = bits(y, code, size, lambda c: c.to_dense() @ atoms, step)
        assert float(found.code.mean()) == pytest.approx(sum(entropy(c) for c in whole.T), rel=1e-5)
        assert float(found.rest.mean()) == pytest.approx(sum(entropy(c) for c in left.T), rel=1e-5)


def test_mdl_of_a_lossless_code_by_hand_and_its_chance():
    x = torch.tensor([[0.0, 1.0], [2.0, 1.0]]).repeat(20, 1)
    found = mdl(case(plain_codecs.identity(2), x))
    assert found["description_length"].value == found["description_length"].chance == pytest.approx(1)
    assert found["rest_bits"].value == 0
    blind = mdl(case(plain_codecs.mean(x.mean(0)), x))
    assert blind["code_bits"].value == 0 and blind["description_length"].value == pytest.approx(1)


def test_the_step_is_that_of_the_error_asked_for():
    """0 to 7, variance 63 / 12: an error of 6.25 / 63 of it is a step of 2.5, which leaves 3, 2 and 3 of 8 alike."""
    x = torch.arange(8.0).repeat(5)[:, None]
    found = mdl(case(plain_codecs.mean(x.mean(0)), x), nmse=6.25 / 63)
    assert found["rest_bits"].value == pytest.approx(0.25 * 2 + 0.75 * log2(8 / 3))


def test_the_error_that_is_asked_for_is_the_error_that_the_receiver_gets():
    x, atoms = plain_codecs.planted(2000, 24, 32, k=2)
    for nmse in (0.001, 0.01):
        step = sqrt(12 * nmse * float((x - x.mean(0)).square().mean()))
        got = (x / step).round() * step  # what a receiver of multiples of the step has, whatever the code
        assert float((x - got).square().mean() / (x - x.mean(0)).square().mean()) == pytest.approx(nmse, rel=0.05)
    true, random = (mdl(case(c, x)) for c in (plain_codecs.true(atoms), plain_codecs.random(24, 32)))
    fine = mdl(case(plain_codecs.true(atoms), x), nmse=0.0025)
    assert true["description_length"].value < true["description_length"].chance < random["description_length"].value
    assert 1.7 < fine["code_bits"].value - true["code_bits"].value < 2.3  # half the step: one bit more for each of two


def test_only_the_first_rows_are_described_and_skips_are_decoded_too():
    x, atoms = plain_codecs.planted(400, 24, 32, k=2)
    few = mdl(case(plain_codecs.true(atoms), x), rows=100)
    assert few["description_length"].n == 100

    class Skips(PlainCodec):
        skip = True

        def reconstruct(self, x):
            return self.decode(self.encode(x)) + x

    silent = Skips(torch.eye(32), torch.zeros_like, torch.zeros(32))
    assert mdl(case(silent, x))["description_length"].value == 0


# quasi-orthogonality, ood


def test_epsilon_is_the_cosine_of_the_two_atoms_in_use():
    atoms = torch.tensor([[1.0, 0.0], [0.5, sqrt(0.75)]])
    both = PlainCodec(atoms, lambda x: torch.ones(len(x), 2), torch.zeros(2))
    x = atoms.sum(0).expand(40, 2).clone()  # |y|^2 = 3, |f|^2 = 2
    found = values(quasi_orthogonality(case(both, x)))
    assert found["epsilon_lbo"] == pytest.approx(0.5, abs=1e-6)
    assert found["zf_slope"] == pytest.approx(sqrt(2 / 3), abs=1e-6)
    assert (found["zf_within"], found["zf_under"]) == (0.0, 1.0)
    assert values(quasi_orthogonality(case(both, x), within=0.51))["zf_within"] == 1
    long = PlainCodec(3 * atoms, lambda x: torch.ones(len(x), 2) / 3, torch.zeros(2))
    assert values(quasi_orthogonality(case(long, x)))["epsilon_lbo"] == pytest.approx(0.5, abs=1e-6)
    biased = PlainCodec(atoms, lambda x: torch.ones(len(x), 2), torch.tensor([1.0, 0.0]))  # |f|^2 = 3
    assert values(quasi_orthogonality(case(biased, x)))["epsilon_lbo"] == pytest.approx(0, abs=1e-6)
    points = zf(case(both, x))
    assert points["row"].tolist() == pytest.approx([sqrt(3)] * 40)
    assert points["code"].tolist() == pytest.approx([sqrt(2)] * 40)


def test_three_latents_share_the_bound_among_two_others():
    atoms = torch.tensor([[1.0, 0.0], [0.5, sqrt(0.75)], [0.0, 1.0]])
    two = PlainCodec(atoms, lambda x: torch.tensor([1.0, 1.0, 0.0]).expand(len(x), 3), torch.zeros(2))
    x = atoms[:2].sum(0).expand(40, 2).clone()
    assert values(quasi_orthogonality(case(two, x)))["epsilon_lbo"] == pytest.approx(0.25, abs=1e-6)


def test_ood_and_its_jackknife_by_hand():
    """Two documents: rows along e0 in one, along e1 in the other. Leaving one out costs its atom all it has."""
    atoms = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    x = torch.eye(3)[torch.arange(20) // 10] * 5
    (found,) = ood(case(always(atoms), x))
    assert found.value == pytest.approx(1 - (1 + 1 + 0 + sqrt(0.5)) / 4, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((found.value, found.value), abs=1e-6)  # both cost the same
    (other,) = ood(case(always(atoms[:1]), x))  # left out: 1 of the first document, 0 of the second
    assert other.value == pytest.approx(0) and other.high == 2  # t(1 df) = 12.7: as wide as the range
    assert ood(case(always(-atoms[:1]), x))["ood"].value == pytest.approx(1)
    many = torch.tensor([[0.8, 0.6, 0.0]]).repeat(200, 1)
    many[:10] = torch.eye(3)[0]  # the first of twenty documents; without it the cosine is 0.8
    (found,) = ood(case(always(atoms[:1]), many))
    assert found.high == pytest.approx(2.093 * 0.19, abs=1e-3)  # sqrt(19/20 (0.19^2 + 19 x 0.01^2))


def test_random_atoms_are_as_far_from_the_data_as_chance_says():
    x, _ = plain_codecs.planted(400, 24, 32, k=2)
    (found,) = ood(case(plain_codecs.random(400, 32), x))
    assert found.value == pytest.approx(found.chance, abs=0.02)


# identifiability, plausibility, monosemanticity


def brute(x: torch.Tensor, y: torch.Tensor) -> float:
    """The largest balanced accuracy of any feature and any threshold between two values."""
    found = 0.5
    for column in x.T:
        steps = column.unique()
        for t in (steps[1:] + steps[:-1]) / 2:
            said = column > t
            found = max(found, float((said & y).sum() / y.sum() + (~said & ~y).sum() / (~y).sum()) / 2)
    return found


def test_latent_and_threshold_are_the_best_of_the_train_fold(monkeypatch):
    drawn = torch.Generator().manual_seed(0)
    x = (torch.randn(60, 7, generator=drawn) * 2).round().relu()  # many ties
    y = torch.rand(3, 60, generator=drawn) < 0.4
    fold = torch.arange(60) % 3
    train = fold == 0
    for (feature, threshold), there in zip(best(x, y, fold), y, strict=True):
        said = x[train][:, feature] > threshold
        rate = float((said & there[train]).sum() / there[train].sum())
        rate += float((~said & ~there[train]).sum() / (~there[train]).sum())
        assert rate / 2 == pytest.approx(brute(x[train], there[train]), abs=1e-6)
    noise = torch.where(train[:, None], x, torch.randn(60, 7, generator=drawn))
    assert best(noise, y, fold) == best(x, y, fold)  # nothing is chosen on the other folds
    whole = best(x, y, fold)
    monkeypatch.setattr("workbench.evaluate.evals.identifiability.CHUNK", 2 * int(train.sum()))
    assert best(x, y, fold) == whole


def test_identifiability_by_hand_and_at_chance():
    fold = torch.tensor([0, 1, 2]).repeat_interleave(40)
    there = (torch.arange(120) % 4 == 0).long()
    z = torch.stack([there.float(), torch.arange(120) % 7 / 7], 1)
    z[80:90, 0] = 1 - z[80:90, 0]  # of the test fold's 40, ten are told wrong: 3 of 10 present, 7 of 30 absent
    codec = PlainCodec(torch.eye(2), lambda x: x, torch.zeros(2))
    given = Examples.of(z, {"cat": there}, {"cat": ("absent", "present")}, fold=fold)
    one = case(codec, objects=given)
    assert detectors(one) == [(0, 0.5)]
    assert identifiability(one)["identifiability"].value == pytest.approx((7 / 10 + 23 / 30) / 2)
    assert identifiability(one)["identifiability_coordinate"].value == pytest.approx((7 / 10 + 23 / 30) / 2)
    shuffled = there[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    lost = case(codec, objects=replace(given, labels={"cat": shuffled}))
    score = identifiability(lost)["identifiability"]
    assert score.low < 0.5 < score.high


def test_each_of_more_than_two_classes_is_told_from_the_rest():
    digit = torch.arange(90) % 3
    x = torch.eye(3)[digit]
    given = Examples.of(x, {"digit": digit}, {"digit": tuple("012")}, fold=torch.arange(90) // 30)
    one = case(PlainCodec(torch.eye(3), lambda x: x, torch.zeros(3)), objects=given)
    assert [d.feature for d in detectors(one)] == [0, 1, 2]
    assert identifiability(one, label="digit")["identifiability"].value == 1


def test_plausibility_by_hand():
    heads = Heads(torch.tensor([[2.0, 0.0, 0.0], [0.0, -1.0, 1.0]]), ("a", "b"))
    atoms = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 0.0]])
    found = values(plausibility(case(always(atoms, dead=1), heads=heads)))
    assert found["plausibility"] == pytest.approx((sqrt(0.5) + sqrt(0.5)) / 2, abs=1e-6)
    assert plausibility(case(always(atoms), heads=heads))["plausibility"].value == pytest.approx(
        (1 + sqrt(0.5)) / 2, abs=1e-6
    )
    blind = plausibility(
        case(always(random_directions(40, 16, seed=1005)), heads=Heads(random_directions(30, 16, seed=1006), "x" * 30))
    )
    assert blind["plausibility"].value == pytest.approx(blind["plausibility"].chance, abs=0.03)


def test_the_sum_over_pairs_is_that_of_all_pairs(monkeypatch):
    monkeypatch.setattr("workbench.evaluate.evals.monosemanticity.COLUMNS", 2)
    drawn = torch.Generator().manual_seed(0)
    a = torch.randn(30, 5, generator=drawn).relu() + 0.5
    a[:, 4] = 1.0
    a[:, 3] = torch.eye(30)[7]
    e = normalize(torch.randn(30, 8, generator=drawn).double(), dim=-1)
    found = score(a, e)
    assert found[3:].isnan().all()  # on in one example, the same in all
    for k in range(3):
        w = ((a[:, k] - a[:, k].min()) / (a[:, k].max() - a[:, k].min())).double()
        pairs = list(combinations(range(30), 2))
        top = sum(float(w[i] * w[j] * (e[i] @ e[j])) for i, j in pairs)
        assert float(found[k]) == pytest.approx(top / sum(float(w[i] * w[j]) for i, j in pairs), abs=1e-6)


def test_a_latent_of_one_class_has_that_classes_mean_cosine():
    drawn = torch.Generator().manual_seed(0)
    kind = torch.arange(40) % 2
    e = torch.randn(2, 8, generator=drawn)[kind] + 0.5 * torch.randn(40, 8, generator=drawn)
    unit = normalize(e.double(), dim=-1)
    codec = PlainCodec(torch.eye(2), lambda x: x, torch.zeros(2))
    one = case(codec, embedded=Embedded(Examples.of(torch.eye(2)[kind] * 3, {}, {}), e, "eyes"))
    for k in range(2):
        inside = [float(unit[i] @ unit[j]) for i, j in combinations((kind == k).nonzero()[:, 0].tolist(), 2)]
        assert float(per_latent(one)[k]) == pytest.approx(sum(inside) / len(inside), abs=1e-6)
    found = monosemanticity(one)["monosemanticity"]
    everything = [float(unit[i] @ unit[j]) for i, j in combinations(range(40), 2)]
    assert found.chance == pytest.approx(sum(everything) / len(everything), abs=1e-6) and "eyes" in found.unit
    assert abs(monosemanticity(one, center=True)["monosemanticity"].chance or 1) < 0.05


# data makers


def test_a_worlds_oracle_recovers_its_truth():
    world = testbeds.world("superposition", n=24, d=32, mean=2 / 24)
    oracle = world.oracle()
    one = Case(oracle, None, planted.held_out(world, 512), given={"truth": planted.truth(world, 512)}, resamples=50)
    scores = recovery(one)
    found = values(scores)
    assert found["recall"] == found["precision"] == found["recall_rare"] == 1
    assert abs(scores["correlation"].chance) < 0.1 and scores["support_f1"].chance < 0.2  # another direction's latent
    assert found["correlation"] > 0.98 and found["support_f1"] > 0.95
    objects = planted.objects(world, 1024)
    told = values(identifiability(replace(one, given={"objects": objects})))
    assert told["identifiability"] > 0.98 > told["identifiability_coordinate"] + 0.1


def test_siblings_see_the_same_rows_or_each_its_own():
    world = testbeds.world("superposition", n=12, d=16, mean=1 / 12)
    args = {"d": 16, "latents": 12, "k": 1}
    same, other = (
        planted.siblings("topk", world, args, steps=5, seeds=(3, 4), same_order=order) for order in (True, False)
    )
    assert (same.differ, other.differ) == ("seed", "seed and rows")
    assert torch.equal(same.codecs[0].atoms(), other.codecs[0].atoms())
    assert not torch.equal(same.codecs[1].atoms(), other.codecs[1].atoms())
    one = Case(same.codecs[0], None, planted.held_out(world, 256), given={"siblings": other}, resamples=50)
    assert one.site == SITE and consistency(one)["pw_mcc"].value < 1
    assert "encoder columns" in consistency(one)["shared_share"].unit
    with pytest.raises(ValueError, match="distinct seeds"):
        planted.siblings("topk", world, args, steps=5, seeds=(3, 3))


@pytest.mark.parametrize("name", ["digits_relu", "digits_vit"])
def test_heads_read_the_logits_from_the_site(name):
    """Up to a constant of the class, and of the transformer's norm the size of each row."""
    model = testbeds.subject(name)
    examples = planted.digits(model, planted.READ[name], position=0, examples=100)
    images = testbeds.world("digits").sample(100, 10_000)
    assert torch.equal(examples.labels["digit"], images.label)
    net = model.model
    logits = net(pixel_values=images.image).logits if name == "digits_vit" else net(images.image.flatten(1))
    h = examples.x
    if name == "digits_vit":
        h = h / (h.var(-1, correction=0, keepdim=True) + 1e-12).sqrt()
    gap = logits - h @ planted.heads(name).directions.T
    assert float((gap - gap.mean(0)).abs().max()) < 1e-3 * float(logits.abs().max())


def test_digits_embedded_by_another_classifier():
    found = planted.embedded(testbeds.subject("digits_relu"), "second:out", by="digits_bilinear", examples=100)
    assert found.vectors.shape == (100, 256) and found.examples.x.shape == (100, 128) and found.by == "digits_bilinear"
    eyes = testbeds.subject("digits_vit")  # its class token, which its head reads
    by_token = planted.embedded(testbeds.subject("digits_relu"), "second:out", examples=20).vectors
    assert torch.equal(by_token, planted.digits(eyes, "2.resid", position=0, examples=20).x)
    patches = planted.digits(testbeds.subject("digits_vit"), "1.resid", examples=60)
    assert patches.x.shape == (60 * 17, 64) and patches.count == 60


# bad inputs

X = torch.ones(30, 4)
OBJECTS = Examples.of(X, {"cat": torch.arange(30) % 2}, {"cat": ("no", "yes")})
EYE = always(torch.eye(4))
HEADS = Heads(torch.eye(4), "abcd")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Siblings(()), "siblings must be one or more codecs"),
        (lambda: Siblings((EYE, always(torch.eye(3)))), "siblings must have atoms of one shape"),
        (lambda: Truth(torch.zeros(0, 4)), "one or more directions"),
        (lambda: Truth(torch.zeros(2, 4)), "finite and not zero"),
        (lambda: Truth(torch.full((2, 4), torch.nan)), "finite and not zero"),
        (lambda: Truth(torch.eye(4), X), "give both x and code"),
        (lambda: Truth(torch.eye(4), X, torch.full((30, 4), torch.inf)), "code of the truth holds NaN or infinity"),
        (lambda: Heads(torch.zeros(2, 4), "ab"), "finite and not zero"),
        (lambda: Heads(torch.eye(4), "abc"), "one name per direction .4., got 3"),
        (lambda: Embedded(OBJECTS, torch.ones(29, 4)), "one vector per example .30."),
        (lambda: Embedded(OBJECTS, torch.zeros(30, 4)), "finite and not zero"),
        (lambda: consistency(case(EYE, siblings=Siblings((EYE,))), above=1.5), "above must be a cosine"),
        (lambda: consistency(case(always(torch.eye(4), dead=4), siblings=Siblings((EYE,)))), "none of the 4 latents"),
        (lambda: consistency(case(EYE, siblings=Siblings((always(torch.eye(4), dead=4),)))), "none of the 4 latents"),
        (
            lambda: consistency(case(EYE, siblings=Siblings((plain_codecs.identity(4, SITE.of("3.resid")),)))),
            "must stand at 0.resid, got one at 3.resid",
        ),
        (lambda: recovery(case(EYE, truth=Truth(torch.eye(3)))), "the truth is 3 wide, the atoms of dictionary 4"),
        (lambda: recovery(case(EYE, truth=Truth(torch.eye(4))), above=0.0), "above must be a cosine"),
        (lambda: recovery(case(always(torch.eye(4), dead=4), truth=Truth(torch.eye(4)))), "nothing can be recovered"),
        (lambda: recovery(case(EYE)), "was given no 'truth'"),
        (lambda: mdl(case(EYE), nmse=0.0), "nmse must lie between 0 and 1"),
        (lambda: mdl(case(EYE), rows=1), "rows be 2 or more"),
        (lambda: mdl(case(EYE, X)), "all the same"),
        (lambda: mdl(case(EYE, X[:1])), "fewer than two held-out rows"),
        (lambda: quasi_orthogonality(case(EYE), within=0.0), "within is a bound"),
        (lambda: quasi_orthogonality(case(always(torch.ones(1, 4)))), "the dictionary has 1"),
        (lambda: quasi_orthogonality(case(always(torch.eye(4), dead=4))), "the code has no length"),
        (lambda: ood(case(EYE, X[:0])), "no held-out rows"),
        (lambda: identifiability(case(EYE, objects=OBJECTS), label="dog"), "no label 'dog': there is cat"),
        (lambda: identifiability(case(EYE, objects=Examples.of(X, {}, {}))), "one or more labels"),
        (
            lambda: identifiability(
                case(EYE, objects=replace(OBJECTS, labels={"cat": (OBJECTS.fold == 0).long()}))
            ),
            "the train fold has 10?8? of 18 examples of 'cat yes'",
        ),
        (lambda: plausibility(case(always(torch.eye(3)), heads=HEADS)), "heads are 4 wide, the atoms of dictionary 3"),
        (lambda: plausibility(case(always(torch.eye(4), dead=4), heads=HEADS)), "none of the 4 latents"),
        (
            lambda: monosemanticity(case(EYE, embedded=Embedded(OBJECTS, torch.ones(30, 2)))),
            "fires on two examples",
        ),
        (lambda: planted.heads("mazes"), "class heads are of digits_vit"),
        (lambda: planted.embedded(testbeds.subject("digits_relu"), "second:out", by="digits_relu"), "judge itself"),
        (lambda: planted.digits(testbeds.subject("modular"), "0.resid"), "digits are read by"),
        (lambda: planted.truth(testbeds.world("digits")), "Digits has no directions and code"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused_in_one_line(made, message):
    with pytest.raises(ValueError, match=message) as caught:
        made()
    assert "\n" not in str(caught.value)

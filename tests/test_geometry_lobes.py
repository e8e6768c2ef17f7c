"""Latents that fire together are found to lie together where they do, and not where they do not."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score as ami

from workbench import testbeds
from workbench.code import Code
from workbench.geometry.cofiring import Counts, counts
from workbench.geometry.lobes import Lobes, lobes, spectral

FEW = {"draws": 10, "redrawn": 10}


@pytest.fixture(scope="module")
def world():
    made = testbeds.world("lobes")
    return made, counts(Code.dense(made.sample(4000).code))


@pytest.fixture(scope="module")
def found(world):
    made, together = world
    return lobes(made.truth, together, draws=100, redrawn=20)


def of_groups(sizes, p, rows: int = 800, own: float = 0.5) -> tuple[Counts, torch.Tensor]:
    """Latents that fire in the rows of their group with probability `own` * p of their group, and else hardly."""
    drawn = torch.Generator().manual_seed(0)
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    row = torch.arange(rows) % len(sizes)
    chance = torch.where(row[:, None] == group, own * torch.tensor(p)[group], 0.01)
    return counts(Code.dense((torch.rand(rows, len(group), generator=drawn) < chance).float())), group


def around(group: torch.Tensor, d: int = 16, lean: float = 2.0) -> torch.Tensor:
    """Unit vectors near the centre of their group."""
    drawn = torch.Generator().manual_seed(1)
    centres = torch.randn(int(group.max()) + 1, d, generator=drawn)
    return torch.nn.functional.normalize(lean * centres[group] + torch.randn(len(group), d, generator=drawn), dim=-1)


def scores(found: Lobes, measure: str, null: str) -> dict:
    return found.summary.set_index(["measure", "null"]).loc[(measure, null)].to_dict()


def test_planted_lobes_are_found_by_firing_and_by_angle_and_agree(world, found):
    made, _ = world
    assert ami(found.functional, made.lobe) > 0.95
    assert ami(found.geometric, made.lobe) > 0.95
    assert found.values["ami"] > 0.95
    assert found.values["accuracy"] > 0.95


def test_all_nulls_of_planted_lobes_are_at_chance_and_far_below(found):
    for null in ("permuted", "frequency", "directions"):
        mutual, accuracy = scores(found, "ami", null), scores(found, "accuracy", null)
        assert abs(mutual["mean"]) < 0.005
        assert mutual["z"] > 50
        assert abs(accuracy["mean"] - 1 / 3) < 0.05
        assert accuracy["z"] > 5
        assert mutual["p"] == pytest.approx(1 / (1 + mutual["draws"]))
    assert [len(n["ami"]) for n in found.nulls.values()] == [100, 100, 20]


@pytest.mark.parametrize("measure", ["jaccard", "dice", "overlap", "matching"])
def test_every_measure_finds_planted_lobes(world, measure):
    made, together = world
    assert lobes(made.truth, together, measure=measure, draws=2, redrawn=2).values["ami"] > 0.95


def test_random_atoms_are_at_chance_whatever_fires_together(world):
    _, together = world
    found = lobes(torch.randn(300, 64), together, draws=40, redrawn=10)
    assert abs(found.values["ami"]) < 0.02
    assert abs(found.values["accuracy"] - 1 / 3) < 0.2
    assert abs(scores(found, "ami", "permuted")["z"]) < 4
    assert ami(found.functional, world[0].lobe) > 0.95


def test_independent_firing_has_groups_that_no_atom_knows(world):
    made, together = world
    found = lobes(made.truth, together.shuffled(), draws=40, redrawn=10)
    assert abs(found.values["ami"]) < 0.03
    assert ami(found.geometric, made.lobe) > 0.95


def test_groups_that_are_frequencies_are_no_news_to_the_frequency_null():
    # two groups of equal size, one fires twice as often: permuted among equally frequent ones, labels stay
    together, group = of_groups([50, 50], [0.8, 0.4])
    assert together.fired[:50].min() > together.fired[50:].max()
    found = lobes(around(group), together, groups=2, **FEW)
    assert found.values["ami"] == pytest.approx(1)
    assert found.nulls["frequency"]["ami"].tolist() == pytest.approx([1] * 10)
    assert np.isnan(scores(found, "ami", "frequency")["z"])
    assert scores(found, "ami", "frequency")["p"] == 1
    assert abs(scores(found, "ami", "permuted")["mean"]) < 0.05


def test_spectral_groups_are_scikit_learns():
    from sklearn.cluster import SpectralClustering

    drawn = np.random.default_rng(0)
    group = np.arange(90) % 3
    affinity = drawn.random((90, 90)) + 0.6 * (group[:, None] == group)
    affinity = affinity + affinity.T
    want = SpectralClustering(3, affinity="precomputed", random_state=0).fit_predict(affinity)
    assert ami(spectral(affinity, 3), want) == pytest.approx(1)
    assert ami(want, group) == pytest.approx(1)


def test_spectral_groups_by_hand_the_largest_first_and_the_diagonal_for_nothing():
    group = np.array([2, 0, 0, 1, 0, 1, 0, 2, 1, 0])
    affinity = (group[:, None] == group) + 0.01
    np.testing.assert_array_equal(ami(spectral(affinity, 3), group), 1)
    assert np.bincount(spectral(affinity, 3)).tolist() == [5, 3, 2]
    own = np.where(np.isin(np.arange(10), [1, 2, 4]), 1e3, 0.0)  # three of one group, each most like itself
    np.fill_diagonal(affinity, own)
    assert ami(spectral(affinity, 3), group) == pytest.approx(1)
    assert affinity.diagonal().tolist() == own.tolist()  # not written to


def test_spectral_groups_do_not_mind_a_group_that_is_tied_far_more_strongly():
    # noise in the strong group outweighs the two others, unless each is divided by its degree
    group, drawn = np.arange(90) // 30, np.random.default_rng(0)
    affinity = np.where(group[:, None] == group, np.array([1, 0.05, 0.05])[group], 0.01)
    noise = np.triu(drawn.uniform(-0.9, 0.9, (30, 30)), 1)
    affinity[:30, :30] += noise + noise.T
    assert ami(spectral(affinity, 3), group) == pytest.approx(1)


def test_the_angle_of_atoms_is_what_counts_not_their_length(world, found):
    made, together = world
    again = lobes(made.truth * (0.1 + 9 * torch.rand(300, 1)), together, draws=2, redrawn=2)
    assert torch.equal(again.geometric, found.geometric)


def test_opposite_atoms_are_apart():
    together, group = of_groups([40, 40], [0.8, 0.8])
    axis = torch.where(group == 0, 1.0, -1.0)[:, None] * torch.ones(1, 8)
    found = lobes(axis + 0.3 * torch.randn(80, 8), together, groups=2, **FEW)
    assert found.values["ami"] == pytest.approx(1)


def test_rare_latents_are_dropped_and_the_others_keep_their_numbers(world):
    made, together = world
    code = made.sample(1000).code
    code[:, ::3] = 0
    code[:9, ::3] = 1  # in nine blocks
    found = lobes(made.truth, counts(Code.dense(code)), least=10, draws=2, redrawn=2)
    assert found.dropped == 100
    assert found.latents.tolist() == [i for i in range(300) if i % 3]
    assert ami(found.functional, made.lobe[found.latents]) > 0.95
    assert found.values["ami"] > 0.95
    assert found.table["latent"].tolist() == found.latents.tolist()
    assert found.table.columns.tolist() == ["latent", "fired", "functional", "geometric"]
    assert found.table["fired"].min() >= 10


def test_a_group_too_small_to_learn_has_no_part_in_the_probe():
    together, group = of_groups([40, 40, 4], [0.9, 0.9, 0.9], own=1.0)
    found = lobes(around(group), together, groups=3, draws=40, redrawn=2)
    assert found.functional.bincount().tolist() == [40, 40, 4]
    assert found.small == 4
    assert found.values["accuracy"] > 0.9
    assert abs(scores(found, "accuracy", "permuted")["mean"] - 0.5) < 0.07  # of two groups, not three
    assert found.values["ami"] > 0.9


def test_the_probe_is_judged_on_latents_it_has_not_seen():
    together, group = of_groups([60, 60], [0.8, 0.8])
    atoms = torch.randn(120, 400)  # any labels can be learned by heart
    assert lobes(atoms, together, groups=2, **FEW).values["accuracy"] < 0.85


def test_a_seed_repeats_and_nulls_are_drawn_anew(world):
    made, together = world
    a, b, c = (lobes(made.truth, together, draws=4, redrawn=4, seed=seed) for seed in (0, 0, 1))
    for null in a.nulls:
        for measure in ("ami", "accuracy"):
            assert torch.equal(a.nulls[null][measure], b.nulls[null][measure])
            assert not torch.equal(a.nulls[null][measure], c.nulls[null][measure])
        assert len(a.nulls[null]["ami"].unique()) == 4


def test_z_and_p_by_hand():
    null = {"ami": torch.tensor([0.0, 0.1, 0.2]), "accuracy": torch.tensor([0.3, 0.5, 0.4])}
    one = torch.tensor([0, 1])
    found = Lobes(one, one, one, one, {"ami": 0.3, "accuracy": 0.45}, {"permuted": null}, "phi", 9, 2, 0, 0, 0)
    assert found.summary["z"].tolist() == pytest.approx([2, 0.5])
    assert found.summary["p"].tolist() == pytest.approx([0.25, 0.5])
    assert found.summary["mean"].tolist() == pytest.approx([0.1, 0.4])


def test_the_figure_draws_all_nulls_and_says_them(found):
    figure = found.figure()
    names = [trace.name for trace in figure.data]
    for said in ("labels permuted", "labels permuted among equally frequent", "random directions"):
        assert names.count(f"null: {said}") == 2
    assert "observed" in names
    heat = next(trace for trace in figure.data if trace.type == "heatmap")
    assert sum(map(sum, heat.z)) == 300
    assert sum(max(row) for row in heat.z) > 290
    for word in ("permuted", "frequency", "directions", "seed 0"):
        assert word in found.caption


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"atoms": torch.randn(79, 8)}, "of the same latents, got 79 and 80"),
        ({"atoms": torch.zeros(80, 8)}, "80 of 80 vectors are zero"),
        ({"groups": 1}, "groups must be 2..16"),
        ({"groups": 17}, "groups must be 2..16 .*80 fire in 10 or more of 800 blocks, got groups=17"),
        ({"least": 10_000}, "0 fire in 10000 or more"),
        ({"draws": 1}, "draws and redrawn must be 2 or more"),
        ({"redrawn": 1}, "draws and redrawn must be 2 or more"),
        ({"measure": "cosine"}, "measure must be one of phi"),
    ],
)
def test_bad_lobes_are_refused_in_one_line(changes, message):
    together, group = of_groups([40, 40], [0.8, 0.8])
    given = {"atoms": around(group), **changes}
    with pytest.raises(ValueError, match=message):
        lobes(given.pop("atoms"), together, **given)


@pytest.mark.parametrize(
    ("affinity", "message"),
    [
        (np.full((6, 6), -0.5), "give phi \\+ 1"),
        (np.full((6, 6), np.nan), "no NaN"),
        (np.eye(6), "6 of 6 have affinity 0 with all others"),
    ],
)
def test_bad_affinities_are_refused_in_one_line(affinity, message):
    with pytest.raises(ValueError, match=message):
        spectral(affinity, 2)

"""Slopes and entropies are what was planted, a Gaussian has no clusters, and strength grows as clusters part."""

import numpy as np
import pytest
import torch
from scipy.special import digamma

from workbench.geometry.galaxy import Galaxy, entropy, galaxies, galaxy, gaussian_like


def cloud(eigenvalues, m: int, seed: int = 0) -> torch.Tensor:
    """Rows whose covariance is exactly diagonal, with these eigenvalues."""
    drawn = np.random.default_rng(seed).standard_normal((m, len(eigenvalues)))
    axes, _ = np.linalg.qr(drawn - drawn.mean(0))
    return torch.from_numpy(axes * (m - 1) ** 0.5 * np.asarray(eigenvalues) ** 0.5)


def mixture(separation: float, *, m: int = 500, d: int = 8, clusters: int = 50, seed: int = 0) -> torch.Tensor:
    drawn = torch.Generator().manual_seed(seed)
    centres = separation * torch.randn(clusters, d, generator=drawn)
    return centres[torch.randint(clusters, (m,), generator=drawn)] + torch.randn(m, d, generator=drawn)


def test_entropy_of_evenly_spaced_points_by_hand():
    # each has its first neighbour at 3, its second at 3 or 6 at the ends
    x = 3.0 * np.arange(10)[:, None]
    assert entropy(x, 1) == pytest.approx(digamma(10) - digamma(1) + np.log(2) + np.log(3))
    second = digamma(10) - digamma(2) + np.log(2) + (8 * np.log(3) + 2 * np.log(6)) / 10
    assert entropy(x, 2) == pytest.approx(second)


def test_entropy_of_a_square_grid_by_hand():
    x = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), -1).reshape(-1, 2)
    assert entropy(x, 1) == pytest.approx(digamma(36) - digamma(1) + np.log(np.pi))


def test_entropy_is_near_the_truth_of_a_gaussian_and_of_a_cube():
    drawn = np.random.default_rng(0)
    assert entropy(drawn.standard_normal((4000, 2)), 5) == pytest.approx(np.log(2 * np.pi * np.e), abs=0.06)
    assert entropy(drawn.random((4000, 2)), 5) == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize("d", [3, 12])
def test_entropy_grows_by_the_log_of_the_scale_in_each_dimension(d):
    x = np.random.default_rng(0).standard_normal((200, d))
    assert entropy(7 * x + 100, 4) == pytest.approx(entropy(x, 4) + d * np.log(7), abs=1e-6)


def test_close_points_far_from_the_origin_keep_their_distances():
    x = np.random.default_rng(0).standard_normal((100, 12))
    assert entropy(1e-3 * x + 1e3, 3) == pytest.approx(entropy(x, 3) + 12 * np.log(1e-3), abs=0.02)


def test_a_matched_gaussian_has_exactly_the_mean_and_covariance():
    x = np.random.default_rng(0).random((60, 5)) @ np.random.default_rng(1).standard_normal((5, 5))
    drawn = gaussian_like(x, np.random.default_rng(2))
    np.testing.assert_allclose(drawn.mean(0), x.mean(0), atol=1e-12)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(x.T), atol=1e-12)
    assert np.abs(np.corrcoef(drawn[:, 0], x[:, 0])[0, 1]) < 0.5


def test_matched_gaussians_differ_and_no_entry_has_a_sign_of_its_own():
    x, rng = np.random.default_rng(0).standard_normal((12, 3)), np.random.default_rng(1)
    draws = np.stack([gaussian_like(x - x.mean(0), rng) for _ in range(300)])
    assert (np.abs((draws > 0).mean(0) - 0.5) < 0.15).all()


def test_fewer_rows_than_dimensions_have_a_matched_gaussian_too():
    x = np.random.default_rng(0).standard_normal((6, 9))
    drawn = gaussian_like(x, np.random.default_rng(1))
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(x.T), atol=1e-12)


def test_the_slope_of_a_power_law_is_its_exponent():
    for power in (0.25, 1.0, 2.0):
        found = galaxy(cloud(np.arange(1, 21.0) ** -power, 100), draws=2)
        assert found.slope == pytest.approx(-power)
        assert found.ranks == (2, 10)
    bent = np.concatenate([np.full(5, 9.0), np.arange(6, 21.0) ** -1])
    assert galaxy(cloud(bent, 100), draws=2, ranks=(6, 20)).slope == pytest.approx(-1)


def test_the_effective_volume_by_hand():
    found = galaxy(cloud([8.0, 4.0, 2.0, 1.0], 50), draws=5, ranks=(1, 4))
    assert found.volume == pytest.approx(64**0.25)
    assert found.eigenvalues.tolist() == pytest.approx([8, 4, 2, 1])
    assert (found.volume_null > found.volume).all()
    assert found.isotropic.mean() == pytest.approx(15 / 4)


def test_eigenvalues_are_numpys():
    x = torch.randn(40, 6) @ torch.randn(6, 6)
    want = np.linalg.eigvalsh(np.cov(x.double().numpy().T))[::-1]
    np.testing.assert_allclose(galaxy(x, draws=2).eigenvalues, want, rtol=1e-9)


def test_the_entropy_of_the_covariance_is_scipys():
    from scipy.stats import multivariate_normal

    x = torch.randn(60, 5).double() @ torch.randn(5, 5).double()
    want = multivariate_normal(np.zeros(5), np.cov(x.numpy().T)).entropy()
    found = galaxy(x, draws=2)
    assert found.gauss == pytest.approx(want)
    assert found.raw_strength == pytest.approx(want - entropy((x - x.mean(0)).numpy(), 10))
    assert found.entropy == pytest.approx(entropy(x.numpy(), 10))


def test_clustering_is_measured_in_the_first_components():
    # clusters along the two largest directions, and none in the six small ones
    x = torch.cat([20 * torch.randn(10, 2).repeat_interleave(30, 0) + torch.randn(300, 2), torch.randn(300, 6)], 1)
    assert galaxy(x, dims=2, draws=10).table["z"][2] > 10
    small = galaxy(x[:, 2:], dims=2, draws=10)
    assert small.dims == 2
    assert abs(small.table["z"][2]) < 4


def test_strength_of_gaussians_is_nought_within_its_null_whatever_their_covariance():
    ranks, z = [], []
    for seed in range(40):
        drawn = torch.Generator().manual_seed(seed)
        x = torch.randn(120, 12, generator=drawn).double() * torch.linspace(1, 5, 12)
        found = galaxy(x, dims=4, k=4, draws=19, seed=seed)
        ranks.append(float((found.entropy_null < found.entropy).double().mean()))
        z.append(float(found.table["z"][2]))
    assert abs(np.mean(z)) < 0.5
    assert 0.7 < np.std(z) < 1.4
    assert 0.4 < np.mean(ranks) < 0.6


def test_strength_grows_with_the_separation_of_fifty_clusters():
    found = [galaxy(mixture(s), draws=10).strength for s in (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)]
    assert abs(found[0]) < 0.1
    assert (np.diff(found) > 0.1).all()
    assert found[3] > 0.8


def test_an_isotropic_gaussian_is_at_its_slope_and_volume_nulls_and_a_steep_one_is_not():
    x = torch.randn(300, 30)
    flat, steep = galaxy(5 * x, draws=20), galaxy(x * torch.linspace(3, 1, 30), draws=20)
    assert (flat.table["z"][:2].abs() < 4).all()
    assert (steep.table["z"][:2] < -10).all()
    assert steep.table["p"].tolist()[:2] == pytest.approx([1 / 21] * 2)
    assert abs(steep.table["z"][2]) < 4


def test_turning_and_moving_change_nothing_and_seeds_repeat():
    x = mixture(2.0, m=200).double()
    turn = torch.linalg.qr(torch.randn(8, 8).double()).Q
    a, b, c = galaxy(x, draws=3), galaxy(x @ turn + 9, draws=3), galaxy(x, draws=3, seed=1)
    assert a.strength == pytest.approx(b.strength, abs=1e-6)
    assert a.slope == pytest.approx(b.slope)
    torch.testing.assert_close(a.slope_null, b.slope_null)
    assert not torch.equal(a.slope_null, c.slope_null)
    assert not torch.equal(a.entropy_null, c.entropy_null)
    assert len(a.entropy_null.unique()) == len(a.slope_null.unique()) == 3


def test_vectors_that_miss_a_direction_are_measured_in_the_others():
    x = torch.randn(100, 10).double()
    centred = x - x.mean(1, keepdim=True)  # as a layer norm leaves them: nine directions
    found = galaxy(centred, draws=10)
    assert len(found.eigenvalues) == found.dims == 9
    assert np.isfinite(found.volume) and found.volume > 0.1
    assert abs(found.table["z"][0]) < 4


def test_the_isotropic_null_has_as_many_directions_as_the_vectors():
    turn = torch.linalg.qr(torch.randn(48, 12).double()).Q
    found = galaxy(torch.randn(60, 12).double() @ turn.T, draws=20)
    assert len(found.eigenvalues) == len(found.isotropic) == 12
    assert (found.table["z"][:2].abs() < 4).all()


def test_fewer_vectors_than_dimensions_have_a_spectrum_of_their_own_rank():
    found = galaxy(torch.randn(20, 64), draws=10)
    assert len(found.eigenvalues) == len(found.isotropic) == 19
    assert abs(found.table["z"][0]) < 4


def test_z_and_p_by_hand():
    three = torch.tensor([1.0, 2.0, 3.0])
    found = Galaxy(three, three, -1.0, -three, 1.0, three.exp(), (1, 3), 9.0, 0.0, three, 10, 3, 3, 2, 0)
    assert found.strength == 2
    assert found.raw_strength == 9
    assert found.table["value"].tolist() == pytest.approx([-1, 0, 2])
    assert found.table["null"].tolist() == pytest.approx([-2, 2, 0])
    assert found.table["z"].tolist() == pytest.approx([1, -2, 2])
    # as steep: all three; as small: none; as clustered: none
    assert found.table["p"].tolist() == [1, 0.25, 0.25]
    assert "2.00 nats" in found.caption


def test_figures_draw_the_nulls_in_for_one_and_for_several():
    made = {f"layer {i}": galaxy(mixture(s, m=100), draws=3) for i, s in enumerate((0.0, 2.0))}
    figure = galaxies(made)
    by_name = {trace.name: trace for trace in figure.data}
    assert len(by_name["null: isotropic Gaussians"].y) == len(by_name["null: Gaussians of the same covariance"].y) == 6
    assert list(by_name["observed"].x) == ["layer 0", "layer 1"]
    strengths = [trace for trace in figure.data if trace.name == "observed"][1]
    assert list(strengths.y) == pytest.approx([g.strength for g in made.values()])
    one = made["layer 1"].figure()
    assert one.layout.title.subtitle.text.replace("<br>", " ") == made["layer 1"].caption
    assert "null: isotropic Gaussian" in {trace.name for trace in one.data}


def test_galaxies_of_other_sizes_do_not_stand_side_by_side():
    with pytest.raises(ValueError, match="galaxies of one"):
        galaxies({"a": galaxy(torch.randn(50, 8), draws=2), "b": galaxy(torch.randn(60, 8), draws=2)})


@pytest.mark.parametrize(
    ("vectors", "arguments", "message"),
    [
        (torch.randn(7, 8), {}, "8 or more vectors of 2 or more dimensions, got 7 x 8"),
        (torch.randn(20, 1), {}, "8 or more vectors of 2 or more"),
        (torch.randn(20, 8), {"k": 20}, "k must be 1..19"),
        (torch.randn(20, 8), {"k": 0}, "k must be 1..19"),
        (torch.randn(20, 8), {"dims": 0}, "dims must be 1 or more"),
        (torch.randn(20, 8), {"draws": 1}, "draws 2 or more"),
        (torch.randn(20, 8), {"ranks": (2, 9)}, "ranks must be three or more within 1..8"),
        (torch.randn(20, 8), {"ranks": (0, 5)}, "ranks must be three or more within 1..8"),
        (torch.randn(20, 8), {"ranks": (2, 3)}, "ranks must be three or more within 1..8"),
        (torch.full((20, 8), torch.nan), {}, "20 of 20 vectors are not finite"),
        (torch.ones(20, 8), {}, "the vectors vary in 0 directions"),
        (torch.randn(20, 3), {}, "the vectors vary in 3 directions"),
        (torch.randn(10, 8).repeat(3, 1), {"k": 2}, "30 of 30 vectors have 2 or more copies"),
    ],
)
def test_bad_clouds_are_refused_in_one_line(vectors, arguments, message):
    with pytest.raises(ValueError, match=message):
        galaxy(vectors, **arguments)

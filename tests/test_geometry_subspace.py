"""Angles and ranks are the textbook's; circles are found where they are, and independent pairs are none."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from workbench.code import Code
from workbench.geometry.subspace import (
    _centre,
    _concentration,
    _information,
    angles,
    circle,
    components,
    effective_rank,
    flat,
    irreducible,
    linked,
    overlap,
)


def drawn(seed: int = 100) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ring(n: int, places: int | None = None, noise: float = 0.1, seed: int = 100) -> torch.Tensor:
    """Points round a circle, anywhere or at so many places."""
    rng = drawn(seed)
    turn = torch.rand(n, generator=rng) if places is None else torch.randint(places, (n,), generator=rng) / places
    turn = 2 * math.pi * turn
    return torch.stack([turn.cos(), turn.sin()], 1) + noise * torch.randn(n, 2, generator=rng)


def test_principal_angles_by_hand_and_as_scipy_has_them():
    turned = torch.tensor([[math.cos(0.3), 0.0, math.sin(0.3)], [0.0, 1.0, 0.0]])
    assert angles(torch.eye(3)[:2], turned).tolist() == pytest.approx([0.0, 0.3], abs=1e-7)
    a, b = torch.randn(3, 9), torch.randn(5, 9)
    want = subspace_angles(a.double().numpy().T, b.double().numpy().T)[::-1]
    assert angles(a, b).tolist() == pytest.approx(want.tolist())
    mixed = torch.randn(3, 3) @ a  # other rows, the same span
    assert angles(a, mixed).max() < 1e-5


def test_random_spans_overlap_as_much_as_the_formula_says():
    a, b = torch.randn(4, 40), torch.randn(10, 40)
    found = overlap(a, b, draws=400)
    assert found.mean.mean == pytest.approx(10 / 40, abs=4 * found.mean.sd / 400**0.5)
    assert abs(found.mean.z) < 4
    inside = overlap(a, torch.cat([a, b]))
    assert inside.mean.value == pytest.approx(1) and inside.mean.p == 1 / 201 and inside.ranks == (4, 14)
    assert inside.table["cosine"].tolist() == pytest.approx([1] * 4)


def test_effective_rank_is_the_number_of_equal_dimensions_and_below_its_null_where_they_share():
    square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    both = effective_rank(square, draws=2)
    assert both.participation.value == pytest.approx(2) and both.entropy.value == pytest.approx(2)
    uneven = effective_rank(square * torch.tensor([3.0**0.5, 1]), draws=2)  # shares 3/4 and 1/4
    assert uneven.participation.value == pytest.approx(1 / (9 / 16 + 1 / 16))
    assert uneven.entropy.value == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    low = effective_rank(torch.randn(300, 3) @ torch.randn(3, 20) + 0.01 * torch.randn(300, 20))
    assert low.participation.value < 3.1 and low.participation.z < -10 and low.participation.p == 1 / 21
    assert abs(effective_rank(torch.randn(300, 20)).participation.z) < 4


def test_mutual_information_by_hand():
    corners = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    line = np.array([[0.0, 0], [0, 0], [1, 1], [1, 1]])
    assert _information(np.stack([corners, line]))[:, 0].tolist() == pytest.approx([0, 1])


def test_the_largest_share_near_a_line_by_hand():
    # 60 of 100 points on a line of their own, the others far from any
    rng = np.random.default_rng(0)
    points = np.concatenate([np.stack([rng.uniform(-3, 3, 60), np.zeros(60)], 1), rng.uniform(-3, 3, (40, 2)) + [0, 6]])
    assert _concentration(points, 0.01) == pytest.approx(0.6, abs=0.02)
    wide = np.random.default_rng(0).standard_normal((20_000, 2))
    assert _concentration(wide, 0.1) == pytest.approx(math.erf(0.1 / 2**0.5), abs=0.01)


def test_the_fitted_centre_is_the_circles_whatever_part_of_it_is_seen():
    turn = np.linspace(0, 2, 30)
    assert _centre(np.stack([3 + np.cos(turn), np.sin(turn) - 1], 1)).tolist() == pytest.approx([3, -1])


CIRCLES = {
    "any angle": ring(1500),
    "wide": ring(1500, noise=0.2),
    "seven days": ring(1500, 7),
    "of many sizes": ring(1500, noise=0.02) * (1 + 0.2 * torch.randn(1500, 1, generator=drawn())),
    "an ellipse": ring(1500) @ torch.tensor([[3.0, 1], [0, 1]]),
}


def pair(p: float, spread: float, n: int = 4000) -> torch.Tensor:
    """Two latents that are on independently, in the rows where either is; their atoms have a cosine of 0.6."""
    on = torch.rand(n, 2, generator=drawn()) < p
    z = on * (1 + spread * torch.randn(n, 2, generator=drawn(1))).abs()
    return z[on.any(1)] @ torch.tensor([[1.0, 0], [0.6, 0.8]])


def excluded(n: int = 1500) -> torch.Tensor:
    """Two latents that are never on together."""
    size = 1 + 0.3 * torch.randn(n, 1, generator=drawn())
    return size * torch.eye(2)[torch.randint(2, (n,), generator=drawn(1))]


OTHERS = {
    "Gaussian": torch.randn(1500, 2, generator=drawn()) @ torch.tensor([[1.0, 0.5], [0, 1]]),
    "two that are always on": torch.randn(1500, 2, generator=drawn()).abs() @ torch.tensor([[1.0, 0], [0.6, 0.8]]),
    "square": torch.rand(1500, 2, generator=drawn()),
    "two, half on": pair(0.5, 0.2),
    "two, seldom on": pair(0.1, 0.2),
    "two that exclude one another": excluded(),
    "three places": ring(1500, 3),
    "four places": ring(1500, 4),
    "disk": ring(1500, noise=0) * torch.rand(1500, 1, generator=drawn(1)).sqrt(),
}


@pytest.mark.parametrize("name", CIRCLES)
def test_circles_are_circles(name):
    found = flat(CIRCLES[name])
    assert found.circle and found.separability.z > 10 and found.radial.z < -3


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_circle_is_not_taken_for_one(name):
    assert not flat(OTHERS[name]).circle


def test_the_indices_tell_two_parts_and_mixtures_from_one_feature():
    both, mixed, one = (
        flat(OTHERS["two that are always on"]),
        flat(OTHERS["two that exclude one another"]),
        flat(ring(1500)),
    )
    assert both.separability.p > 0.05 and abs(both.separability.z) < 4
    assert mixed.mixture.value > 0.5 and mixed.mixture.z > 20
    assert one.mixture.value < 0.25 and one.separability.value > 0.5


def planted() -> tuple[Code, torch.Tensor]:
    """A circle of four latents (two opposite pairs), then two latents that are independent, in d = 8; 6,000 rows."""
    rng = drawn()
    on = torch.rand(6000, generator=rng) < 0.3
    points = on[:, None] * ring(6000, noise=0.05, seed=7)
    rest = (torch.rand(6000, 2, generator=rng) < 0.2) * (1 + 0.2 * torch.randn(6000, 2, generator=rng)).abs()
    axes = torch.linalg.qr(torch.randn(8, 8, generator=rng)).Q
    atoms = torch.stack([axes[0], -axes[0], axes[1], -axes[1], axes[2], 0.6 * axes[2] + 0.8 * axes[3]])
    z = torch.stack([points[:, 0], -points[:, 0], points[:, 1], -points[:, 1]], 1).relu()
    return Code.dense(torch.cat([z, rest], 1)), atoms


def test_a_circle_of_four_latents_is_found_and_an_independent_pair_is_not():
    code, atoms = planted()
    found = irreducible([[0, 1, 2, 3], [4, 5], [0]], code, atoms)
    assert found.circles == [0] and found.skipped == 1
    assert found.table["group"].tolist()[0] == 0 and found.table["circle"].tolist() == [True, False]
    group, first, share, rows, judged = found.planes[0]
    assert (group, first, rows) == (0, 0, int((code.values[:, :4] > 0).any(1).sum())) and share == pytest.approx(1)
    true = (code.values[:, :4] @ atoms[:4])[(code.values[:, :4] > 0).any(1)]
    assert flat(true @ angles_basis(true)).radial.value == pytest.approx(judged.radial.value, abs=1e-3)


def angles_basis(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:2].T


def test_candidates_are_chains_by_cosine_or_by_firing():
    turn = torch.arange(8) * 2 * math.pi / 8
    atoms = torch.cat([torch.stack([turn.cos(), turn.sin(), 0 * turn], 1), torch.tensor([[0.0, 0, 1]])])
    assert components(atoms, cosine=0.6) == [list(range(8))]
    assert components(atoms, cosine=0.8) == []
    assert linked(torch.tensor([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])) == [[0, 1]]
    assert linked(torch.tensor([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]), largest=1) == []


def test_days_on_a_circle_lie_in_order_and_all_orders_were_tried():
    rng = drawn()
    turn = torch.arange(7) * 2 * math.pi / 7
    plane = torch.linalg.qr(torch.randn(30, 2, generator=rng)).Q.T
    days = torch.stack([turn.cos(), turn.sin()], 1) @ plane
    exact = circle(days)
    assert exact.score.value == pytest.approx(1) and exact.roundness == pytest.approx(1) and exact.in_order
    assert exact.exact and len(exact.score.null) == math.factorial(6) // 2 and exact.score.p == pytest.approx(1 / 360)
    assert exact.closing == pytest.approx(1, abs=1e-5)
    noisy = circle(days + 0.15 * torch.randn(7, 30, generator=rng), names=list("MTWTFSS"))
    assert noisy.score.p < 0.01 and noisy.table["concept"].tolist() == list("MTWTFSS")
    steps = torch.tensor(exact.table["degrees"]).diff() % 360
    assert torch.minimum(steps, 360 - steps).tolist() == pytest.approx([360 / 7] * 6, abs=1e-3)


def test_turning_and_mirroring_an_order_changes_nothing_and_another_order_does():
    x = torch.randn(7, 5, generator=drawn())
    want = circle(x).score.value
    assert circle(x.roll(3, 0)).score.value == pytest.approx(want) == circle(x.flip(0)).score.value
    assert circle(x[[0, 2, 1, 3, 4, 5, 6]]).score.value != pytest.approx(want, abs=1e-3)
    assert circle(x).score.p > 0.01


def test_the_score_of_an_order_is_the_fits_and_its_p_the_share_of_all_orders():
    x = torch.randn(5, 4, generator=drawn(3)).double()
    turn = torch.arange(5).double() * 2 * math.pi / 5
    waves = torch.stack([turn.cos(), turn.sin()], 1) * (2 / 5) ** 0.5

    def score(order):
        y = x[list(order)] - x.mean(0)
        sizes = torch.linalg.svdvals(waves.T @ y)
        return float(2 * sizes[0] * sizes[1] / y.square().sum())

    every = [score(order) for order in permutations(range(5))]
    found = circle(x.float())
    assert found.score.value == pytest.approx(every[0], abs=1e-6)
    assert found.score.p == pytest.approx(np.mean([s >= every[0] - 1e-9 for s in every]))


def test_p_is_even_where_there_is_no_order_and_one_where_all_orders_are_alike():
    # as good as orthogonal: any order looks like a circle in the plane fitted to it
    alike = circle(torch.eye(7))
    assert alike.in_order and alike.score.p == 1 and alike.score.value == pytest.approx(1 / 3)
    rng = drawn()
    ps = [circle(torch.randn(6, 4, generator=rng)).score.p for _ in range(60)]
    assert 0.35 < sum(ps) / len(ps) < 0.65 and sum(p <= 0.05 for p in ps) <= 9


def test_twelve_months_are_compared_with_random_orders():
    turn = torch.arange(12) * 2 * math.pi / 12
    x = torch.stack([turn.cos(), turn.sin()], 1) @ torch.randn(2, 20, generator=drawn())
    found = circle(x + 0.2 * torch.randn(12, 20, generator=drawn(1)), draws=2000)
    assert not found.exact and len(found.score.null) == 2000 and found.score.p == 1 / 2001
    assert circle(x, draws=300, seed=1).score.null.tolist() == circle(x, draws=300, seed=1).score.null.tolist()


def test_a_line_is_no_circle_and_an_arc_does_not_close():
    step = torch.arange(9.0)[:, None]
    line = circle(step @ torch.randn(1, 6, generator=drawn()) + 1e-3 * torch.randn(9, 6, generator=drawn(1)))
    assert line.score.value < 0.01 and line.closing == pytest.approx(8, rel=0.1)
    arc = torch.cat([step - 4, (step - 4) ** 2 / 4], 1)
    assert circle(arc).score.p < 0.01 and circle(arc).closing > 2


def test_components_are_the_concepts_principal_ones():
    x = torch.randn(7, 10, generator=drawn())
    centred = x - x.mean(0)
    kept = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    assert circle(x, components=2).score.value == pytest.approx(circle(kept).score.value, abs=1e-5)
    assert circle(x, components=6).score.value == pytest.approx(circle(x).score.value, abs=1e-6)


def test_figures_name_their_null():
    code, atoms = planted()
    figures = [
        overlap(torch.randn(3, 9), torch.randn(3, 9), draws=5).figure(),
        effective_rank(torch.randn(30, 4), draws=5).figure(),
        irreducible([[0, 1, 2, 3], [4, 5]], code, atoms, draws=19).figure(),
        circle(torch.randn(6, 4)).figure(),
    ]
    for figure in figures:
        assert any("null" in (trace.name or "") for trace in figure.data) and figure.layout.title.subtitle.text


CODE = Code.dense(torch.ones(60, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: angles(torch.randn(2, 3), torch.randn(2, 4)), "a is 3 wide, b 4"),
        (lambda: angles(torch.zeros(2, 3), torch.randn(2, 3)), "a are all zero"),
        (lambda: angles(torch.randn(2, 3), torch.full((2, 3), torch.nan)), "2 of 2 rows of b are not finite"),
        (lambda: effective_rank(torch.ones(5, 3)), "all alike"),
        (lambda: flat(torch.randn(30, 2)), "50 or more points"),
        (lambda: flat(torch.randn(60, 1) @ torch.ones(1, 2)), "on one line"),
        (lambda: components(torch.eye(3), cosine=1.0), "between -1 and 1"),
        (lambda: linked(torch.zeros(2, 3)), "must be square"),
        (lambda: irreducible([[0, 3]], CODE, torch.eye(3)), "group 0 must hold latents 0..2"),
        (lambda: irreducible([[0, 1]], CODE, torch.eye(4)), "the code's 3 latents, got 4"),
        (lambda: irreducible([[0, 1]], CODE, torch.eye(3)).figure(), "no group had rows enough"),
        (lambda: circle(torch.randn(4, 3)), "5 or more concepts"),
        (lambda: circle(torch.ones(6, 3)), "all alike"),
        (lambda: circle(torch.randn(6, 3), names=["a"]), "one for each of 6"),
        (lambda: circle(torch.randn(6, 3), components=6), "components must be 2..5"),
    ],
)
def test_bad_input_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""dark_matter, polysemy, geospatial, board and layer_profile: values by hand, nulls, and what they refuse."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import numpy as np
import plain_codecs
import pytest
import torch
from plain_codecs import MemoryRows, PlainCodec
from torch import Tensor

import workbench as wb
from workbench.code import Code
from workbench.evaluate import Case, Examples
from workbench.evaluate.evals.board import Board, board
from workbench.evaluate.evals.dark_matter import dark_matter, gradient_pursuit
from workbench.evaluate.evals.geospatial import Places, adjusted, geospatial, moran, nearest
from workbench.evaluate.evals.layer_profile import Layered, layer_profile
from workbench.evaluate.evals.polysemy import Pairs, polysemy
from workbench.evaluate.tasks import board as boards
from workbench.evaluate.tasks import layers, places, senses
from workbench.testbeds import subject

D = 6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def remade(data: Any, **changes: Any) -> None:
    """The data class's own checks on changed parts, without the suite's check of shapes before them."""
    made: Any = object.__new__(type(data))
    made.__dict__.update(vars(data) | changes)
    made.__post_init__()


def lookup(x: Tensor, z: Tensor, atoms: Tensor | None = None) -> PlainCodec:
    """The code of each known row is given; others are not asked for."""

    def encode(h: Tensor) -> Tensor:
        return z[torch.cdist(h.flatten(1).double(), x.flatten(1).double()).argmin(1)]

    atoms = drawn(z.shape[1], *x.shape[1:]) if atoms is None else atoms
    return PlainCodec(atoms, encode, torch.zeros(atoms.shape[1:]))


def says(x: Tensor, y_hat: Tensor) -> PlainCodec:
    """The reconstruction of each known row is given."""
    return lookup(x, y_hat, torch.eye(x.shape[1]))


# ---- dark matter


def error_of(kind: str, n: int = 6000) -> tuple[Case, Tensor, Tensor]:
    """Rows, and a dictionary whose error is a linear map of them, noise of the same size, or half of each."""
    x, e = drawn(n, D), drawn(n, D, seed=1)
    linear = x @ (0.3 * drawn(D, D, seed=2)) + 0.5
    noise = e / e.std() * linear.std()
    error = {"linear": linear, "noise": noise, "both": linear + noise}[kind]
    rows = MemoryRows(x, torch.arange(n) // 20, torch.arange(n) % 20, torch.arange(n // 20))
    codec = PlainCodec(torch.eye(D), lambda h: h - error[at(h, x)], torch.zeros(D))
    return Case(codec, None, rows, resamples=50), x, error


def at(h: Tensor, x: Tensor) -> Tensor:
    """Which of the known rows these are, by their first coordinates, which differ."""
    order = x[:, 0].argsort()
    return order[torch.searchsorted(x[order, 0], h[:, 0].contiguous()).clamp_max(len(x) - 1)]


def test_an_error_that_is_exactly_linear_is_explained_and_noise_is_not():
    linear, noise, both = (dark_matter(error_of(kind)[0], pursuit_rows=0) for kind in ("linear", "noise", "both"))
    assert linear["linear_r2"].value == pytest.approx(1, abs=1e-9) and linear["nonlinear_fvu"].value < 1e-9
    assert noise["linear_r2"].value == pytest.approx(0, abs=0.01)
    assert noise["nonlinear_fvu"].value == pytest.approx(noise["error_fvu"].value, rel=0.01)
    assert both["linear_r2"].value == pytest.approx(0.5, abs=0.05)
    assert both["error_fvu"].value == pytest.approx(both["linear_fvu"].value + both["nonlinear_fvu"].value)
    assert both["nonlinear_fvu"].low < both["nonlinear_fvu"].value < both["nonlinear_fvu"].high


def test_dark_matter_is_measured_on_documents_that_the_map_has_not_seen():
    """With as many weights as half the rows, least squares explains noise it was fitted on, and none other."""
    n, d = 400, 150
    x, e = drawn(n, d), drawn(n, d, seed=1)
    rows = MemoryRows(x, text=torch.arange(n) // 20, pos=torch.arange(n) % 20, texts=torch.arange(20))
    codec = PlainCodec(torch.eye(d), lambda h: h - e[at(h, x)], torch.zeros(d))
    case = Case(codec, None, rows, resamples=20)
    assert dark_matter(case, pursuit_rows=0)["linear_r2"].value < -1  # in-sample it would be 0.75


def test_dark_matter_agrees_with_numpy():
    case, x, error = error_of("both")
    found = dark_matter(case, pursuit_rows=0)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    train = torch.isin(torch.arange(6000) // 20, order[::2])  # halves of equal size take turns
    a, b = (np.c_[x[m].double().numpy(), np.ones(int(m.sum()))] for m in (train, ~train))
    e = error.double().numpy()
    left = e[~train] - b @ np.linalg.lstsq(a, e[train], rcond=None)[0]
    total = x[~train].double().numpy()
    total = ((total - total.mean(0)) ** 2).sum()
    assert found["nonlinear_fvu"].value == pytest.approx((left**2).sum() / total, rel=1e-4)
    size = (e**2).sum(1)
    missed = size[~train] - b @ np.linalg.lstsq(a, size[train], rcond=None)[0]
    r2 = 1 - (missed**2).sum() / ((size[~train] - size[~train].mean()) ** 2).sum()
    assert found["norm_r2"].value == pytest.approx(r2, rel=1e-3)
    middle = e[~train] - e[~train].mean(0)
    assert found["linear_r2"].value == pytest.approx(1 - (left**2).sum() / (middle**2).sum(), rel=1e-4)


def test_the_norm_of_an_error_that_grows_with_a_coordinate_is_foretold():
    n = 4000
    x = drawn(n, D)
    e = torch.nn.functional.normalize(drawn(n, D, seed=1), dim=1) * (x[:, :1] + 5).sqrt()  # |e|^2 = x_0 + 5
    rows = MemoryRows(x, text=torch.arange(n) // 20, pos=torch.arange(n) % 20, texts=torch.arange(n // 20))
    codec = PlainCodec(torch.eye(D), lambda h: h - e[at(h, x)], torch.zeros(D))
    found = dark_matter(Case(codec, None, rows, resamples=20), pursuit_rows=0)
    assert found["norm_r2"].value == pytest.approx(1, abs=1e-4)
    assert found["linear_r2"].value == pytest.approx(0, abs=0.02)


def test_gradient_pursuit_in_two_dimensions_by_hand():
    x, atoms = torch.tensor([[3.0, 4.0], [-1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    one = gradient_pursuit(x, atoms, torch.tensor([1, 1]))
    assert one.tolist() == [[0, 4], [0, 0]]  # the longer coordinate; nothing points left
    assert gradient_pursuit(x, atoms, torch.tensor([2, 0])).tolist() == [[3, 4], [0, 0]]
    assert gradient_pursuit(x, atoms, torch.tensor([1, 1]), signed=True).tolist() == [[0, 4], [-1, 0]]
    assert gradient_pursuit(x[[0, 0]], atoms, torch.tensor([2, 1])).tolist() == [[3, 4], [0, 4]]


def test_gradient_pursuit_takes_nothing_away_unless_signed():
    atoms, x = drawn(6, 8) + 1.5, drawn(200, 8, seed=1) + 0.5
    all_ = torch.full((200,), 6)
    coefficients = [gradient_pursuit(x, atoms, all_, signed=s) @ torch.linalg.pinv(atoms) for s in (False, True)]
    assert float(coefficients[0].min()) > -1e-5 and float(coefficients[1].min()) < -0.1


def test_pursuit_saves_what_a_poor_encoder_lost():
    x, atoms = plain_codecs.planted(600, 12, 16, 2)
    true = plain_codecs.true(atoms)
    poor = replace(true, encoder=lambda h: 0.5 * true.encoder(h))
    saved = {n: dark_matter(Case(c, None, MemoryRows(x), resamples=20))["pursuit_saves"].value
             for n, c in (("true", true), ("poor", poor))}  # fmt: skip
    assert saved["poor"] > 0.3 and saved["true"] <= 1e-6
    assert saved["poor"] - saved["true"] == pytest.approx(
        dark_matter(Case(poor, None, MemoryRows(x)))["error_fvu"].value, rel=0.2
    )


def test_an_earlier_layers_reconstruction_explains_the_error_it_holds():
    case, x, error = error_of("both")
    earlier = says(x[:1], x[:1])
    earlier.encoder = lambda h: error[at(h, x)]  # an earlier dictionary that has kept just what this one lost
    assert dark_matter(case, pursuit_rows=0, earlier=earlier)["earlier_fvu"].value < 1e-9
    assert "earlier_fvu" not in [s.metric for s in dark_matter(case, pursuit_rows=0)]


def test_dark_matter_says_how_short_its_contexts_are_and_refuses_what_it_cannot_fit():
    case, x, _ = error_of("both")
    assert "contexts of 20 tokens" in dark_matter(case, pursuit_rows=0)["error_fvu"].note
    n = 1100
    long = MemoryRows(x[:n], text=torch.arange(n) // 550, pos=torch.arange(n) % 550)
    assert "contexts" not in dark_matter(replace(case, rows=long), pursuit_rows=0)["error_fvu"].note
    with pytest.raises(ValueError, match="hold out more documents"):
        dark_matter(replace(case, rows=MemoryRows(x[:12], text=torch.arange(12) // 6)))
    with pytest.raises(ValueError, match="one half of the documents"):
        dark_matter(replace(case, rows=MemoryRows(x[:100], text=torch.zeros(100).long())))
    with pytest.raises(ValueError, match="rows must be 2 or more"):
        dark_matter(case, rows=1)


def test_dark_matter_reads_no_more_rows_than_asked():
    case, _, _ = error_of("both")
    some = dark_matter(case, rows=1000, pursuit_rows=0)["error_fvu"]
    assert some.n == 500 and dark_matter(case, pursuit_rows=0)["error_fvu"].n == 3000


# ---- polysemy


def four(values: Sequence[Any], **given: Any) -> Case:
    """Pairs whose codes are given: pair x 2 x latent; every second pair is of different senses."""
    z = torch.tensor(values).float()
    h = torch.stack([torch.arange(z.shape[0] * 2.0), drawn(z.shape[0] * 2)], 1).view(-1, 2, 2)
    n = len(z)
    pairs = Pairs(h[:, 0], h[:, 1], torch.arange(n) % 2 == 1, torch.arange(n) // 2)
    codec = lookup(h.flatten(0, 1), z.flatten(0, 1), torch.ones(z.shape[2], 2))
    blank = torch.cat([torch.full((90, 2), 1e4), h.flatten(0, 1)])  # held-out rows: nearly all of them silent
    silent = replace(codec, encoder=lambda x: codec.encoder(x) * (x[:, :1] < 5e3))
    return Case(silent, None, MemoryRows(blank), resamples=50, given={"pairs": pairs} | given)


FOUR = [
    [[2, 1, 0], [3, 0, 0]],  # same, called same
    [[2, 1, 0], [0, 1, 0]],  # different, called different
    [[0, 1, 0], [0, 0, 1]],  # same, called different
    [[0, 0, 1], [1, 0, 2]],  # different, called same
]


def test_f1_of_four_pairs_by_hand():
    found = polysemy(four(FOUR))
    assert {m: found[m].value for m in ("f1", "accuracy", "recall", "specificity", "silent")} == {
        "f1": 0.5, "accuracy": 0.5, "recall": 0.5, "specificity": 0.5, "silent": 0.0,
    }  # fmt: skip
    assert found["f1"].chance == pytest.approx(2 / 3) and found["f1"].n == 4 and found["f1"].resampled == "2 x word"
    assert "not comparable" in found["f1"].note


def test_a_latent_counts_by_the_length_of_what_it_adds():
    case = four(FOUR)
    codec: Any = case.codec
    codec.dictionary[:] = torch.tensor([[0.1, 0.1], [1, 1], [1, 1]])  # latent 0 adds little
    found = polysemy(case)  # 0: latents 1, 0 (differ); 1: 1, 1 (same); 2: 1, 2; 3: 2, 2
    assert found["f1"].value == 0 and found["specificity"].value == 0


def test_dense_latents_are_left_out_by_their_density_on_rows_not_on_pairs():
    case = four(FOUR)  # latent 0 is on in 4 of 98 rows but in 4 of 8 members of pairs
    assert polysemy(case, dense=0.045)["f1"].value == 0.5
    kept = polysemy(case, dense=0.04)  # latents 0 and 1, on in 4/98 rows, are left out; latent 2, in 3/98, is not
    assert kept["silent"].value == 0.75 and kept["f1"].value == 0 and kept["specificity"].value == 0.5


def test_senses_that_rows_do_not_hold_are_told_at_chance():
    drawn_ = torch.Generator().manual_seed(0)
    z = torch.nn.functional.one_hot(torch.randint(2, (800, 2), generator=drawn_), 2).float()
    found = polysemy(four(z.tolist()), dense=1.0)
    assert found["accuracy"].value == pytest.approx(0.5, abs=0.05)
    assert found["accuracy"].low < 0.5 < found["accuracy"].high


def test_the_rows_own_largest_coordinate_is_the_baseline():
    case = four(FOUR)
    pairs = case.given["pairs"]
    first = torch.tensor([[2.0, 1, 0], [1, 2, 0], [2, 1, 0], [1, 2, 0]])
    second = torch.tensor([[2.0, 1, 0], [2, 1, 0], [1, 2, 0], [2, 1, 0]])  # same, different, different, different
    known: Any = case.codec
    codec = replace(known, encoder=lambda x: x.new_zeros(len(x), 3))
    found = polysemy(replace(case, codec=codec, given={"pairs": replace(pairs, first=first, second=second)}))
    assert found["f1_rows"].value == pytest.approx(2 * 2 / (3 + 2))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"different": torch.zeros(4).bool()}, "both kinds"),
        ({"different": torch.tensor([0, 1, 0, 1])}, "both kinds"),
        ({"second": torch.zeros(3, 2)}, "two rows of one shape"),
        ({"group": torch.zeros(3).long()}, "3 groups"),
        ({"first": torch.full((4, 2), float("nan"))}, "NaN or infinity"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        remade(four(FOUR).given["pairs"], **changes)


def test_polysemy_refuses_a_density_that_is_no_share():
    with pytest.raises(ValueError, match="dense must be a share"):
        polysemy(four(FOUR), dense=0.0)


# ---- geospatial


def checkerboard(side: int = 10) -> tuple[Tensor, Tensor]:
    """Neighbours (four each, on a torus) and the colours of a checkerboard."""
    i = torch.arange(side * side)
    row, column = i // side, i % side
    near = [((row + a) % side) * side + (column + b) % side for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))]
    return torch.stack(near, 1), ((row + column) % 2).double()


def test_morans_i_of_a_checkerboard_and_of_a_region_by_hand():
    near, board_ = checkerboard()
    half = (torch.arange(100) < 50).double()  # rows 0 to 4: of the neighbours of 100 places, 40 are of the other kind
    found = moran(torch.stack([board_, half, torch.ones(100).double(), 7 - 3 * half], 1), near)
    assert found.tolist() == pytest.approx([-1, 1 - 2 * 40 / 400, 0, 1 - 2 * 40 / 400])


def test_morans_i_agrees_with_its_formula():
    x, k = drawn(40, 3).double(), 5
    points = torch.nn.functional.normalize(drawn(40, 3, seed=1).double(), dim=1)
    near = nearest(points, k)
    w = np.zeros((40, 40))
    for i in range(40):
        for j in near[i].tolist():
            w[i, j] = 1 / k
    z = (x - x.mean(0)).numpy()
    wanted = [40 / w.sum() * sum(w[i, j] * c[i] * c[j] for i in range(40) for j in range(40)) / (c @ c) for c in z.T]
    assert moran(x, near).tolist() == pytest.approx(wanted)


def test_neighbours_are_by_great_circle_and_not_by_degrees():
    """Across the date line, and near a pole, where degrees of longitude are short."""
    found = Places(
        Examples.of(torch.zeros(30, 2), {}, {}), torch.tensor([0.0, 0, 0, 89, 89] + [-40] * 25),
        torch.tensor([179.0, -179, 150, 0, 180] + list(range(25))),
    )  # fmt: skip
    near = nearest(found.points, 1)[:5, 0]
    assert near.tolist()[:2] == [1, 0] and near.tolist()[3:] == [4, 3]


def test_benjamini_hochberg_agrees_with_scipy():
    from scipy.stats import false_discovery_control

    p = torch.rand(50, generator=torch.Generator().manual_seed(0)).double() ** 3
    assert adjusted(p).tolist() == pytest.approx(false_discovery_control(p.numpy()).tolist())


def globe(n: int = 400) -> tuple[Places, Tensor]:
    """Places anywhere, and latents: the north, noise, ten places only, the longitude."""
    points = torch.nn.functional.normalize(drawn(n, 3), dim=1)
    latitude, longitude = points[:, 2].asin().rad2deg(), torch.atan2(points[:, 1], points[:, 0]).rad2deg()
    z = torch.stack([(latitude > 0).float(), torch.rand(n), (torch.arange(n) < 10).float(), longitude + 180], 1)
    found = Examples.of(drawn(n, 5, seed=3), {}, {}, group=torch.arange(n) // 4, unit="country")
    return Places(found, latitude, longitude), z


def on_globe(shuffle: bool = False) -> Case:
    given, z = globe()
    if shuffle:
        order = torch.randperm(400, generator=torch.Generator().manual_seed(5))
        given = replace(given, latitude=given.latitude[order], longitude=given.longitude[order])
    codec = lookup(given.examples.x, z)
    return Case(codec, None, MemoryRows(given.examples.x), resamples=100, given={"places": given})


def test_a_region_has_a_large_i_and_permuted_places_have_none():
    found, null = geospatial(on_globe(), permutations=199), geospatial(on_globe(shuffle=True), permutations=199)
    assert found["moran_share"].value == pytest.approx(2 / 3) and found["moran_share"].n == 3  # noise is the third
    assert found["moran_significant"].value == pytest.approx(2 / 3) and found["moran_top"].value > 0.5
    assert found["probe_r2"].value > 0.4 > 0.1 > found["rows_r2"].value  # longitude is a latent; rows are noise
    assert null["moran_share"].value == null["moran_significant"].value == found["moran_share"].chance == 0
    assert abs(null["moran_mean"].value) < 0.06 and null["probe_r2"].value < 0.1
    assert found["moran_mean"].chance == pytest.approx(-1 / 399)


def test_rare_latents_count_only_where_asked():
    assert geospatial(on_globe(), permutations=9, least=10)["moran_share"].n == 4
    with pytest.raises(ValueError, match="no latent of dictionary is on at 20"):
        case = on_globe()
        codec: Any = case.codec
        geospatial(replace(case, codec=replace(codec, encoder=lambda x: x.new_zeros(len(x), 4))))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"neighbours": 0}, "neighbours must be 1"), ({"neighbours": 399}, "neighbours must be"),
     ({"least": 0}, "least must be"), ({"top": 0}, "top must be"), ({"permutations": 0}, "permutations must be")],
)  # fmt: skip
def test_geospatial_refuses_options_that_mean_nothing(options, said):
    with pytest.raises(ValueError, match=said):
        geospatial(on_globe(), **options)


@pytest.mark.parametrize("values", [torch.full((400,), 91.0), torch.zeros(399), torch.full((400,), float("nan"))])
def test_places_off_the_globe_are_refused(values):
    with pytest.raises(ValueError, match="latitude must hold degrees"):
        remade(globe()[0], latitude=values)


# ---- board


def two_squares(z: Tensor, truth: Tensor, games: int = 10) -> Case:
    x = torch.cat([torch.arange(len(z), dtype=torch.float)[:, None], drawn(len(z), 2)], 1)
    fold = (torch.arange(len(z)) // (len(z) // games)).clamp_max(9).float().div(3).long().clamp_max(2)
    given = Board(Examples.of(x, {}, {}, group=torch.arange(len(z)) // (len(z) // games), fold=fold, unit="game"),
                  truth, ["left", "right"])  # fmt: skip
    return Case(lookup(x, z), None, MemoryRows(x), resamples=50, given={"board": given})


def test_a_board_of_two_squares_by_hand():
    """Latent 0 says left above half its maximum, and noise below; latent 1 says right in one case of two."""
    n = 400
    i = torch.arange(n)
    truth = torch.stack([i % 2 == 0, i % 4 < 2], 1)
    z = torch.stack([torch.where(truth[:, 0], 1.0, 0.45), (i % 4 == 0).float()], 1)
    found = board(two_squares(z, truth))
    assert found["coverage"].value == pytest.approx((1 + 2 / 3) / 2)  # right: precision 1, recall 1/2
    # rows by turns: {left, right} all said; {right} nothing said; {left} said; nothing holds, nothing said
    assert found["reconstruction"].value == pytest.approx((1 + 0 + 1 + 1) / 4)
    assert found["latents_kept"].value == 1.5  # at that t: latent 0 for left, latent 1 for left and for right
    assert found["coverage"].chance == pytest.approx(2 / 3)


def test_a_latent_chosen_on_training_games_is_reported_on_test_games():
    """A latent that knows the board in training and validation games only."""
    n = 400
    i = torch.arange(n)
    truth = torch.stack([i % 2 == 0, i % 4 < 2], 1)
    case = two_squares(truth.float(), truth)
    test = case.given["board"].examples.fold == 2
    z = torch.where(test[:, None], ~truth, truth).float()
    found = board(two_squares(z, truth))
    assert found["coverage"].value == 0 and found["reconstruction"].value == 0


def test_thresholds_are_shares_of_the_maximum_in_training_games():
    """A single strong row in a test game moves nothing."""
    i = torch.arange(400)
    truth = torch.stack([i % 2 == 0, i % 4 < 2], 1)
    z = torch.where(truth, 1.0, 0.45)
    z[-4] = 100.0
    assert board(two_squares(z, truth))["coverage"].value == 1.0


def test_the_best_threshold_of_a_latent_may_be_any():
    """Where a latent is weak on half of its rows, but never wrong, a low threshold is best."""
    i = torch.arange(400)
    truth = torch.stack([i % 2 == 0, i % 4 < 2], 1)
    weak = torch.where((i // 4 % 2 == 0)[:, None], 1.0, 0.35) * truth
    assert board(two_squares(weak, truth))["coverage"].value == 1.0


def test_the_threshold_of_the_board_is_chosen_on_validation_games():
    """At t = 0 all is said of validation games; at 0.5 the board is right."""
    n = 400
    i = torch.arange(n)
    truth = torch.stack([i % 2 == 0, i % 4 < 2], 1)
    fold = two_squares(truth.float(), truth).given["board"].examples.fold
    low = torch.where(truth, 1.0, torch.where(fold[:, None] == 0, 0.0, 0.5))
    assert board(two_squares(low, truth))["reconstruction"].value == 1.0
    falls = torch.where(truth, 1.0, torch.where(fold[:, None] == 2, 0.5, 0.0))  # wrong at t = 0 in test games only
    assert board(two_squares(falls, truth))["reconstruction"].value < 0.7


def test_latents_with_little_support_do_not_rebuild_a_board():
    n = 400
    i = torch.arange(n)
    truth = torch.stack([i % 2 == 0, i % 4 < 2], 1)
    rare = truth.float() * (i % 10 < 4)[:, None]
    assert board(two_squares(rare, truth), least=1000)["latents_kept"].value == 0
    assert board(two_squares(rare, truth))["latents_kept"].value > 0


def test_a_board_that_does_not_fit_is_refused():
    truth = torch.stack([torch.arange(400) % 2 == 0, torch.arange(400) % 4 < 2], 1)
    given = two_squares(truth.float(), truth).given["board"]
    with pytest.raises(ValueError, match="of 'right': both classes are needed"):
        remade(given, truth=torch.stack([truth[:, 0], torch.ones(400).bool()], 1))
    with pytest.raises(ValueError, match="must be bool"):
        remade(given, truth=truth.float())
    with pytest.raises(ValueError, match="2 of them with properties"):
        remade(given, truth=truth[:2])
    with pytest.raises(ValueError, match="precision must be above 0"):
        board(two_squares(truth.float(), truth), precision=0.0)


def test_positions_of_othello_hold_the_discs_of_the_side_to_move():
    model = subject("othello")
    found = boards.board(model, "1.resid", games=20)
    assert found.examples.x.shape[1] == 128 and len(found.names) == 72 and found.names[0] == "a1 mine"
    taken = found.truth.view(len(found.truth), 2, 36)
    assert not bool((taken[:, 0] & taken[:, 1]).any())
    counts = taken.sum((1, 2))
    first = found.examples.group.diff(prepend=torch.tensor([-1])) > 0
    assert counts[first].tolist() == [6] * 20  # four discs, two moves made: the first position is left out
    assert int(counts.max()) <= 36
    with pytest.raises(ValueError, match="10 or more"):
        boards.board(model, "1.resid", games=4)


# ---- layers


def three_layers(z: Tensor, latents: int = 2) -> Case:
    """Codes by (token, layer, latent) of rows of norm 1."""
    x = torch.nn.functional.normalize(drawn(len(z), z.shape[1], 16), dim=-1)
    codec = lookup(x.flatten(0, 1), z.flatten(0, 1), torch.eye(16)[:latents])
    given = Layered(x, torch.arange(len(z)) // 10, ["embed", "0.resid", "1.resid"][: z.shape[1]])
    return Case(codec, None, MemoryRows(x[:, 0]), resamples=50, given={"layered": given})


def test_the_profile_of_two_latents_by_hand():
    """Latent 0 is on in layer 0 of every token; latent 1 in layer 0 of even tokens and layer 2 of odd ones."""
    z = torch.zeros(200, 3, 2)
    z[:, 0, 0] = 2.0
    z[::2, 0, 1] = z[1::2, 2, 1] = 1.0
    found = layer_profile(three_layers(z))
    wanted = {"local_share": 0.5, "entropy": 0.5, "centre": 0.5, "spread": 0.5, "between_tokens": 1.0}
    assert {s.metric: s.value for s in found} == pytest.approx(wanted)
    pool = log2(6) - 5 / 6 * log2(5)  # dealt at random, both have a sixth of their activity in layer 2
    assert found["entropy"].chance == pytest.approx(pool, abs=0.02) and found["local_share"].chance == 0
    assert found["local_share"].n == 2 and found["local_share"].resampled == "jackknife of 16 x group of 1.25 documents"


def test_a_latent_on_in_two_layers_of_each_token_spreads_within_tokens():
    z = torch.zeros(200, 3, 2)
    z[:, :2, 0] = z[:, 1:, 1] = torch.tensor([3.0, 1.0])[None, :]
    found = layer_profile(three_layers(z))
    assert found["between_tokens"].value == pytest.approx(0, abs=1e-9)
    assert found["entropy"].value == pytest.approx(-0.75 * log2(0.75) - 0.25 * log2(0.25))
    assert found["centre"].value == pytest.approx((0.25 + 1.25) / 2)


def test_activity_is_a_share_of_the_rows_norm():
    z = torch.zeros(200, 2, 2)
    z[:, 0, 0] = z[:, 1, 0] = z[:, 0, 1] = 1.0
    case = three_layers(z)
    x = case.given["layered"].x.clone()
    x[:, 1] *= 3  # layer 1: rows three times as long, the code the same
    codec = lookup(x.flatten(0, 1), z.flatten(0, 1), torch.eye(16)[:2])
    found = layer_profile(replace(case, codec=codec, given={"layered": replace(case.given["layered"], x=x)}))
    assert found["centre"].value == pytest.approx((0.25 + 0) / 2)


def test_latents_dealt_at_random_are_as_the_null_says():
    on = torch.rand(400, 3, 12, generator=torch.Generator().manual_seed(0)) < 0.1
    found = layer_profile(three_layers(on.float(), 12))
    for metric in ("entropy", "centre", "spread", "between_tokens"):
        assert found[metric].value == pytest.approx(found[metric].chance, rel=0.05), metric


def test_a_crosscoder_acts_by_the_norms_of_its_atoms_in_each_layer():
    x = torch.nn.functional.normalize(drawn(100, 2, 4), dim=-1)
    atoms = torch.zeros(2, 2, 4)
    atoms[0, 0, 0], atoms[1, 0, 0], atoms[1, 1, 1] = 1.0, 1.0, 3.0
    codec = PlainCodec(atoms, lambda h: torch.ones(len(h), 2), torch.zeros(2, 4))
    given = Layered(x, torch.arange(100) // 10, ["0.resid", "1.resid"])
    found = layer_profile(Case(codec, None, MemoryRows(x), given={"layered": given}))
    assert found["local_share"].value == 0.5 and found["centre"].value == pytest.approx(0.75 / 2)
    with pytest.raises(ValueError, match="atoms for 2 layers, the rows are of 3"):
        three = Layered(torch.cat([x, x[:, :1]], 1), given.document, ["embed", "0.resid", "1.resid"])
        layer_profile(Case(codec, None, MemoryRows(x), given={"layered": three}))


def test_layers_that_do_not_fit_are_refused():
    z = torch.zeros(40, 3, 2)
    z[:, 0] = 1.0
    given = three_layers(z).given["layered"]
    for changes, said in (
        ({"sites": ["embed"]}, "two sites or more"),
        ({"document": torch.zeros(40).long()}, "two documents or more"),
        ({"x": given.x * float("nan")}, "NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=said):
            remade(given, **changes)
    with pytest.raises(ValueError, match="no latent of dictionary is on 99 times"):
        layer_profile(three_layers(z), least=99)
    with pytest.raises(ValueError, match="local must be above 0"):
        layer_profile(three_layers(z), local=1.5)


def test_the_layers_task_reads_the_same_tokens_at_every_site():
    model = subject("othello")
    ids = torch.arange(36)[torch.rand(12, 10, generator=torch.Generator().manual_seed(0)).mul(36).long()]
    tokens = wb.batch.Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    found = layers.layers(model, tokens, ["0.resid", "2.resid"], texts=torch.arange(12) // 2, most=50)
    assert found.x.shape == (50, 2, 128) and found.sites == ["0.resid", "2.resid"] and len(found.document.unique()) == 6
    h = model.read(tokens, ["2.resid"])
    kept = next(iter(h.values()))[:, 1:].flatten(0, 1)  # the first position is left out
    assert bool(torch.isin(found.x[:, 1, 0], kept[:, 0]).all())


# ---- data from our own subjects


def test_pairs_of_words_and_cities_are_read_where_the_text_ends(monkeypatch):
    from models import tiny_llama, tiny_tokenizer

    model = wb.Subject(tiny_llama(), tiny_tokenizer(), name="tiny")
    found = places.places(model, "embed", n=30)
    assert found.examples.count == 30 and found.examples.unit == "country"
    assert float(found.latitude.abs().max()) <= 90
    last = model.tokenize(["The city of Lagos"]).ids[0, -1]
    assert bool((found.examples.x == model.read(last[None, None], ["embed"]).popitem()[1][0, 0]).all(-1).any())
    pairs = senses.senses(model, "embed", words=6)
    assert pairs.first.shape == pairs.second.shape == (12, model.d) and pairs.different.tolist() == [False, True] * 6
    assert torch.equal(pairs.first[0], pairs.first[1]) and pairs.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert torch.equal(pairs.first[0], pairs.second[1])  # embeddings do not know the context


@dataclass
class Laid(PlainCodec):
    """A codec whose codes have another layout."""

    layout: Callable[[Tensor], Code] = Code.dense

    def encode(self, x: Tensor) -> Code:
        return self.layout(self.encoder(x))


def test_codes_are_read_in_every_layout():
    """CSR, fixed and dense codes of the same values get the same numbers."""
    z = drawn(400, 2).relu() + 0.01
    truth = torch.stack([torch.arange(400) % 2 == 0, torch.arange(400) % 4 < 2], 1)
    case = two_squares(z, truth)
    found = []
    for layout in (Code.dense, lambda v: Code.dense(v).to_csr(), lambda v: Code.fixed(*fixed(v), 2)):
        codec: Any = case.codec
        encoded = Laid(codec.dictionary, codec.encoder, codec.bias, layout=layout)
        found.append([s.value for s in board(replace(case, codec=encoded))])
    assert found[0] == pytest.approx(found[1]) and found[0] == pytest.approx(found[2])


def fixed(v: Tensor) -> tuple[Tensor, Tensor]:
    indices = torch.arange(v.shape[1]).expand(len(v), -1)
    return indices, v

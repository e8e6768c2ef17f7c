"""Maps come with their trust numbers, joint maps with their mixing, and every neighbour list from the vectors."""

import ast
import sys
from dataclasses import fields
from math import sqrt
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fake_subject import FakeSubject, documents
from plain_codecs import PlainCodec
from torch.nn.functional import normalize

from widgets import payload
from workbench import geometry
from workbench.code import Code
from workbench.geometry.cofiring import MEASURES, association, cofiring, counts
from workbench.geometry.plane import Mixing
from workbench.geometry.trust import agreement, by_chance, on_map
from workbench.harvest import collect, encode
from workbench.site import Site

ROOT, K = Path(__file__).parent.parent, 5


def brute(vectors, k, absolute=False, of=None):
    """Neighbours as anyone would find them: all cosines in float64, sorted."""
    unit = normalize(vectors.double(), dim=-1)
    cosines = unit @ (unit if of is None else normalize(of.double(), dim=-1)).T
    cosines = cosines.abs() if absolute else cosines
    if of is None:
        cosines.fill_diagonal_(-2)
    found = cosines.sort(-1, descending=True)
    return found.indices[:, :k], found.values[:, :k]


def pca(vectors, folder, **options):
    return geometry.plane(vectors, **{"neighbours": K, "method": "pca", "folder": folder, **options})


# neighbours


@pytest.mark.parametrize("chunk", [1, 7, 60, 1000])
def test_neighbours_by_size_of_cosine_equal_brute_force(chunk):
    x = torch.randn(60, 6)
    want = brute(x, K, absolute=True)
    got = geometry.neighbours(x, K, absolute=True, chunk=chunk)
    assert torch.equal(got.indices, want[0])
    torch.testing.assert_close(got.cosines.double(), want[1], atol=1e-6, rtol=0)
    assert not torch.equal(got.indices, geometry.neighbours(x, K).indices)


def test_turning_vectors_round_changes_no_neighbour_by_size():
    x = torch.randn(60, 6)
    turned = x * torch.randint(0, 2, (60, 1)).mul(2).sub(1)
    one, other = (geometry.neighbours(v, K, absolute=True) for v in (x, turned))
    assert torch.equal(one.indices, other.indices) and torch.equal(one.cosines, other.cosines)


@pytest.mark.parametrize("absolute", [False, True])
def test_neighbours_among_another_set_equal_brute_force_and_may_be_all_of_it(absolute):
    x, others = torch.randn(30, 6), torch.randn(9, 6)
    for k in (1, 9):
        want = brute(x, k, absolute, others)
        got = geometry.neighbours(x, k, absolute=absolute, among=others, chunk=7)
        assert torch.equal(got.indices, want[0])
    assert geometry.neighbours(x, 1, among=x).indices[:, 0].tolist() == list(range(30))  # itself is one of that set


# trust


@pytest.mark.parametrize(("n", "k"), [(7, 2), (60, 7), (61, 30)])
def test_a_map_at_random_has_the_trust_that_chance_gives(n, k):
    x, drawn = torch.randn(n, 9), torch.Generator().manual_seed(1)
    found = [geometry.trustworthiness(x, on_map(torch.randn(n, 2, generator=drawn), k)) for _ in range(200)]
    assert np.mean(found) == pytest.approx(by_chance(n, k), abs=4 * np.std(found) / sqrt(len(found)))


def test_trust_by_size_of_cosine_is_scikit_learns_on_those_distances():
    from sklearn.manifold import trustworthiness

    x, xy = torch.randn(60, 9), torch.randn(60, 2)
    distance = 1 - (normalize(x, dim=-1) @ normalize(x, dim=-1).T).abs().double().numpy()
    np.fill_diagonal(distance, 0)
    want = trustworthiness(distance, xy.numpy(), n_neighbors=7, metric="precomputed")
    shown = on_map(xy, 7)
    assert geometry.trustworthiness(x, shown, absolute=True, chunk=17) == pytest.approx(want, abs=1e-9)
    assert geometry.trustworthiness(x, shown, absolute=True) != geometry.trustworthiness(x, shown)


def test_points_on_one_place_are_neighbours_of_each_other_and_not_of_themselves():
    xy = torch.randn(40, 2)
    xy[10:30] = xy[3]  # more of them than k
    shown = on_map(xy, K)
    assert not (shown == torch.arange(40)[:, None]).any()
    distance = torch.cdist(xy.double(), xy.double(), compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(
        torch.inf
    )
    want = distance.topk(K, largest=False).values
    torch.testing.assert_close(distance.gather(1, shown), want)
    assert len(set(shown[3].tolist())) == K


def test_agreement_by_hand_and_at_chance_for_maps_that_know_nothing_of_each_other():
    a, b, c = torch.tensor([[1, 2], [0, 2]]), torch.tensor([[2, 1], [3, 4]]), torch.tensor([[1, 3], [0, 3]])
    assert agreement([a, b]) == pytest.approx(2 / 4)
    assert agreement([a, b, c]) == pytest.approx((2 / 4 + 2 / 4 + 2 / 4) / 3)
    assert agreement([a, a, a]) == 1
    maps = [on_map(torch.randn(400, 2), 20) for _ in range(3)]
    assert agreement(maps) == pytest.approx(20 / 399, abs=0.01)
    with pytest.raises(ValueError, match="two maps or more, got 1"):
        agreement([a])


# a plane and its numbers


def test_no_plane_is_built_without_its_trust_numbers(tmp_path):
    made = pca(torch.randn(30, 4), tmp_path)
    given = {field.name: getattr(made, field.name) for field in fields(made)}
    for name in ("trustworthiness", "recall", "chance", "explained", "agreement"):
        with pytest.raises(TypeError, match=name):
            geometry.Plane(**{k: v for k, v in given.items() if k != name})
    for name in ("trustworthiness", "recall", "chance", "agreement"):
        with pytest.raises(ValueError, match=f"has trust numbers, got .*{name}"):
            geometry.Plane(**{**given, name: float("nan")})
    for more in ({"dictionaries": {"a": 10, "b": 20}}, {"mixing": Mixing(0.1, 0.1, 0.1)}):
        with pytest.raises(ValueError, match="several dictionaries has a mixing"):
            geometry.Plane(**{**given, **more})


@pytest.mark.parametrize("absolute", [False, True])
def test_trust_numbers_are_those_of_the_vectors_and_the_map(absolute, tmp_path):
    vectors = torch.randn(50, 7)
    made = pca(vectors, tmp_path, absolute=absolute)
    true = brute(vectors, K, absolute)[0]
    shown = torch.cdist(made.xy, made.xy).fill_diagonal_(torch.inf).topk(K, largest=False).indices
    kept = [len(set(a) & set(b)) / K for a, b in zip(true.tolist(), shown.tolist(), strict=True)]
    assert made.recall == pytest.approx(np.mean(kept))
    assert made.trustworthiness == geometry.trustworthiness(vectors, shown, absolute=absolute)
    assert made.chance == K / 49
    assert made.agreement == 1 and "PCA has no seed (agreement 1)" in made.caption
    assert ("|cosine|" in made.caption) == absolute


def test_the_figure_draws_chance_beside_every_trust_number(tmp_path):
    made = pca(torch.randn(50, 7), tmp_path)
    bars, null = made.figure().data[-2:]
    assert list(bars.x) == [made.recall, made.agreement, made.trustworthiness]
    assert null.name == "null: chance" and list(null.x) == [made.chance, made.chance, by_chance(50, K)]
    for number in (
        f"{made.recall:.0%}",
        f"{made.trustworthiness:.2f}",
        f"{made.chance:.1%}",
        f"{by_chance(50, K):.2f}",
    ):
        assert number in made.figure().layout.title.subtitle.text


def test_opposite_vectors_are_one_line_when_signs_are_free(tmp_path):
    x = torch.randn(30, 6)
    both = torch.cat([x, -x + 1e-4 * torch.randn(30, 6)])
    made = pca(both, tmp_path, absolute=True)
    assert made.indices[:, 0].tolist() == [*range(30, 60), *range(30)]
    assert (made.cosines[:, 0] > 0.99).all()
    assert (made.xy[:30] - made.xy[30:]).norm(dim=-1).median() < 0.01 * made.xy.std()
    assert pca(both, tmp_path).indices[0, 0] != 30
    turned = pca(both * torch.randint(0, 2, (60, 1)).mul(2).sub(1), tmp_path, absolute=True)
    torch.testing.assert_close(turned.xy, made.xy, atol=1e-5, rtol=0)


# several dictionaries on one map


def test_a_joint_table_names_the_dictionary_and_lists_neighbours_of_both(tmp_path):
    a, b = torch.randn(20, 6), torch.randn(30, 6)
    mask = torch.ones(50, dtype=torch.bool)
    mask[[3, 25]] = False
    made = pca([a, b], tmp_path, names=["narrow", "wide"], mask=mask)
    kept = mask.nonzero()[:, 0]
    table = made.table
    assert table["point"].tolist() == kept.tolist()
    assert table["dictionary"].tolist() == ["narrow"] * 19 + ["wide"] * 29
    assert table["latent"].tolist() == [i for i in range(20) if i != 3] + [i for i in range(30) if i != 5]
    assert table["neighbours"].tolist() == kept[brute(torch.cat([a, b])[kept], K)[0]].tolist()
    figure = made.figure()
    assert [trace.name for trace in figure.data[:2]] == ["narrow", "wide"]
    assert figure.data[1].text[0] == "wide latent 0" and len(figure.data[0].x) == 19
    assert list(figure.data[-2].x)[-1] == made.mixing.on_map and list(figure.data[-1].x)[-1] == made.mixing.chance
    assert f"{made.mixing.in_space:.0%} of true ones (chance {made.mixing.chance:.0%})" in made.caption
    assert "dictionary" not in pca(a, tmp_path).table and pca(a, tmp_path).mixing is None


def test_mixing_is_the_share_of_neighbours_from_elsewhere_and_its_chance_that_of_dealt_labels(tmp_path):
    a, b, c = torch.randn(20, 6), torch.randn(30, 6), torch.randn(14, 6)
    made = pca([a, b, c], tmp_path)
    own = np.repeat([0, 1, 2], [20, 30, 14])
    assert list(made.dictionary[[0, 19, 20, 63]]) == ["A", "A", "B", "C"]
    true = brute(torch.cat([a, b, c]), K)[0].numpy()
    shown = torch.cdist(made.xy, made.xy).fill_diagonal_(torch.inf).topk(K, largest=False).indices.numpy()
    assert made.mixing.in_space == pytest.approx(np.mean(own[true] != own[:, None]))
    assert made.mixing.on_map == pytest.approx(np.mean(own[shown] != own[:, None]))
    assert made.mixing.on_map != made.mixing.in_space
    r = np.random.default_rng(0)
    dealt = [np.mean(one[shown] != one[:, None]) for one in (r.permutation(own) for _ in range(2000))]
    assert made.mixing.chance == pytest.approx(np.mean(dealt), abs=4 * np.std(dealt) / sqrt(2000))


def test_copies_mix_and_strangers_do_not(tmp_path):
    a = torch.randn(40, 8)
    twins = pca([a, a + 1e-3 * torch.randn(40, 8)], tmp_path)
    assert twins.indices[:, 0].tolist() == [*range(40, 80), *range(40)]
    away = torch.cat([torch.zeros(40, 8), 5 + torch.rand(40, 8)], 1)
    strangers = pca([torch.cat([5 + torch.rand(40, 8), torch.zeros(40, 8)], 1), away], tmp_path)
    assert strangers.mixing.in_space == 0 and strangers.mixing.on_map == 0
    assert strangers.mixing.chance == pytest.approx(40 / 79)


def test_a_map_is_read_again_with_all_it_had_and_other_arguments_make_another(tmp_path):
    a, b = torch.randn(20, 6), torch.randn(30, 6)
    made, again = pca([a, b], tmp_path, names=["x", "y"]), pca([a, b], tmp_path, names=["x", "y"])
    for field in fields(made):
        one, other = getattr(made, field.name), getattr(again, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other and type(one) is type(other)
    assert again.caption == made.caption and len(list(tmp_path.glob("*.json"))) == 1
    pca([a, b], tmp_path, names=["y", "x"])
    pca([a, b], tmp_path, names=["x", "y"], absolute=True)
    pca(torch.cat([a, b]), tmp_path)
    pca([torch.cat([a, b[:1]]), b[1:]], tmp_path, names=["x", "y"])
    assert len(list(tmp_path.glob("*.json"))) == 5


@pytest.mark.parametrize(
    ("vectors", "args", "message"),
    [
        ([torch.ones(20, 3)], {}, r"two or more dictionaries of one space, got \[\(20, 3\)\]"),
        ([torch.ones(20, 3), torch.ones(20, 4)], {}, "of one space"),
        ([torch.rand(20, 3), torch.rand(20, 3)], {"names": ["one"]}, "names wants 2 different ones"),
        ([torch.rand(20, 3), torch.rand(20, 3)], {"names": ["one", "one"]}, "names wants 2 different ones"),
        ([torch.rand(20, 3), torch.rand(20, 3)], {"mask": [True] * 20}, "a bool for each of the 40"),
        (torch.rand(20, 3), {"names": ["one"]}, "names are for a list of dictionaries"),
        (torch.ones(40, 3), {}, "on one line"),
        (torch.rand(40, 1), {}, "two dimensions or more, got 1"),
        (torch.rand(40, 3), {"neighbours": 1}, "2 or more"),
    ],
)
def test_a_joint_map_that_cannot_be_made_is_refused(vectors, args, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pca(vectors, tmp_path, **args)
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize(
    ("k", "args", "message"),
    [
        (3, {"among": torch.rand(9, 4)}, "3 wide, as the vectors are, got 4"),
        (10, {"among": torch.rand(9, 3)}, "k must be 1..9"),
        (20, {"absolute": True}, "k must be 1..19"),
        (3, {"among": torch.zeros(9, 3)}, "9 of 9 vectors are zero"),
    ],
)
def test_neighbours_that_cannot_be_had_are_refused(k, args, message):
    with pytest.raises(ValueError, match=message):
        geometry.neighbours(torch.rand(20, 3), k, **args)


# where neighbour lists come from


def test_nobody_reads_neighbours_off_a_map():
    readers = []
    for path in [*(ROOT / "workbench").rglob("*.py"), *(ROOT / "widgets").rglob("*.py")]:
        nodes = list(ast.walk(ast.parse(path.read_text()))) if "on_map" in path.read_text() else []
        names = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
        names |= {ast.unparse(node).split("trust.")[-1] for node in nodes if isinstance(node, ast.Attribute)}
        readers += [path.name] if "on_map" in names else []
    assert readers == ["plane.py"]


def test_tables_and_widgets_hand_out_neighbours_of_the_original_space(tmp_path):
    atoms = torch.randn(40, 6)
    atoms[9] = 0
    mask = atoms.norm(dim=-1) > 0
    made = pca(atoms, tmp_path, mask=mask)
    kept = mask.nonzero()[:, 0]
    want, cosines = brute(atoms[kept], K)
    assert made.table["neighbours"].tolist() == kept[want].tolist()
    np.testing.assert_allclose(np.stack(made.table["cosines"].tolist()), cosines, atol=1e-6)
    near = payload.map_near(made)  # numbered by points on the map
    assert [payload.map_near_of(near, i)["points"] for i in range(len(kept))] == want.tolist()
    index = SimpleNamespace(table=pd.DataFrame({"top_token": ["a"] * 40}))
    codec = PlainCodec(atoms, lambda x: x, torch.zeros(6))
    for i, latent in enumerate(kept.tolist()):
        said = [line["latent"] for line in payload.by_cosine(index, codec, latent, K)]
        assert said == kept[want[i]].tolist()[: len(said)] and len(said) == int((cosines[i] > 0).sum())


# latents that fire together


def fires(rows=400, latents=12, seed=0):
    """Truth values; latents 0 and 1 fire together, 2 when 3 does not, 4 everywhere, 5 never."""
    drawn = torch.rand(rows, latents, generator=torch.Generator().manual_seed(seed)) < 0.2
    drawn[:, 1] = drawn[:, 0]
    drawn[:, 2] = ~drawn[:, 3]
    drawn[:, 4], drawn[:, 5] = True, False
    return drawn


def test_counts_by_hand():
    on = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]]).float()
    found = counts(Code.dense(on))
    assert found.n == 5 and found.fired.tolist() == [3, 1, 2]
    assert found.together.tolist() == [[3, 1, 1], [1, 1, 0], [1, 0, 2]]
    two = counts(Code.dense(on), block=2)  # rows 01 23 4
    assert two.n == 3 and two.fired.tolist() == [3, 1, 1]
    assert two.together.tolist() == [[3, 1, 1], [1, 1, 0], [1, 0, 1]]
    split = counts(Code.dense(on), block=2, documents=torch.tensor([7, 7, 7, 4, 4]))  # rows 34 · 01 2
    assert split.n == 3 and split.together.tolist() == [[3, 1, 1], [1, 1, 0], [1, 0, 1]]
    mixed = counts(Code.dense(on), block=2, documents=torch.tensor([7, 4, 7, 4, 7]))  # rows 13 · 02 4
    assert mixed.n == 3 and mixed.fired.tolist() == [2, 1, 2] and mixed.together[0].tolist() == [2, 1, 1]
    assert counts(Code.dense(on), block=99).together.tolist() == [[1, 1, 1]] * 3


def test_counts_are_those_of_every_layout_of_batches_and_of_a_code_store(tmp_path):
    z = fires().float() * (0.1 + torch.rand(400, 12))
    want = (z > 0).long().T @ (z > 0).long()
    few = z.topk(12)
    layouts = [Code.dense(z), Code.dense(z).to_csr(), Code.fixed(few.indices, few.values, 12)]
    cut = [Code.dense(part) for part in z.split([1, 149, 250])]
    for codes in [*layouts, cut]:
        found = counts(codes)
        assert found.together.dtype == torch.int64 and torch.equal(found.together, want)
    blocked = counts(Code.dense(z), block=37)
    assert torch.equal(counts(cut, block=37).together, blocked.together)  # a block may lie in two batches
    store = collect(
        FakeSubject(), documents(), ["1.resid"], rows=900, length=16, min_length=4, folder=tmp_path / "s", quiet=True
    )
    d = store.width(Site.of("1.resid"))
    weight = torch.randn(12, d, generator=torch.Generator().manual_seed(0))
    codec = PlainCodec(weight, lambda x: (x @ weight.T).relu(), torch.zeros(d), site=Site(1, "resid"))
    codes = encode(store, codec, tmp_path / "c", batch=50, shard_bytes=4000, quiet=True)
    dense = codes.rows(slice(None)).to_dense()
    assert torch.equal(counts(codes).together, (dense > 0).long().T @ (dense > 0).long())
    text = codes.where(torch.arange(len(codes)))[0]
    own = counts(Code.dense(dense), block=5, documents=text)
    assert torch.equal(counts(codes, block=5).together, own.together) and own.n > len(codes) / 5
    near = cofiring(codes, 3, measure="jaccard", least=1)
    index = SimpleNamespace(
        codes=codes, latents=12, table=pd.DataFrame({"fired": codes.counts.numpy(), "top_token": ["a"] * 12})
    )
    for line in near.table.itertuples():
        said = payload.by_firing(index, line.latent, 3)
        assert [one["value"] for one in said] == pytest.approx(line.values, rel=1e-3)  # ties come in any order


def test_firing_means_a_size_above_the_threshold():
    z = torch.tensor([[2.0, -2.0, 1.0], [0.5, -1.0, 3.0]])
    assert counts(Code.dense(z)).fired.tolist() == [2, 2, 2]
    assert counts(Code.dense(z), above=1.0).fired.tolist() == [1, 1, 1]
    assert counts(Code.dense(z), above=1.0).together[0].tolist() == [1, 1, 0]


def test_every_measure_is_its_formula_and_the_libraries():
    from sklearn.metrics import jaccard_score, matthews_corrcoef

    on = fires()
    known = counts(Code.dense(on.float()))
    x = on.numpy()
    made = {measure: known.affinity(measure).numpy() for measure in MEASURES}
    for i in range(12):
        for j in range(12):
            a, b = x[:, i], x[:, j]
            both, either = int((a & b).sum()), int((a | b).sum())
            if 0 < a.sum() < 400 and 0 < b.sum() < 400:  # else 0 / 0
                assert made["phi"][i, j] == pytest.approx(matthews_corrcoef(a, b), abs=1e-12)
            assert made["matching"][i, j] == pytest.approx((a == b).mean())
            assert made["jaccard"][i, j] == pytest.approx(jaccard_score(a, b, zero_division=0))
            assert made["dice"][i, j] == pytest.approx(2 * both / max(both + either, 1))
            assert made["overlap"][i, j] == pytest.approx(both / max(min(a.sum(), b.sum()), 1))
    assert made["phi"][0, 1] == 1 and made["phi"][2, 3] == pytest.approx(-1) and made["phi"][4:6].any() == 0


def test_counts_of_billions_neither_overflow_nor_lose_a_small_difference():
    n, one = 2_999_999_999, 1_500_000_001
    other = pow(one, -1, n) * 3 % n
    both = (one * other - 3) // n  # of the products, near 2e18, the second is larger by 3
    values = [torch.tensor(v) for v in (both, one, other)]
    want = -3 / (sqrt(one * (n - one)) * sqrt(other * (n - other)))
    assert float(association("phi", *values, n)) == pytest.approx(want, rel=1e-9)
    assert float(association("matching", *values, n)) == pytest.approx((n - one - other + 2 * both) / n)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_nearest_by_co_firing_equal_brute_force_and_stand_beside_chance(measure, monkeypatch):
    monkeypatch.setattr(sys.modules["workbench.geometry.cofiring"], "CHUNK", 5)
    on = fires()
    made = cofiring(Code.dense(on.float()), 3, measure=measure, least=10)
    kept = [i for i in range(12) if i != 5]
    assert made.latents.tolist() == kept and made.dropped == 1
    known = counts(Code.dense(on.float()))
    full = known.affinity(measure)[kept][:, kept].fill_diagonal_(-9)
    torch.testing.assert_close(made.values, full.topk(3).values)
    for row, latent in enumerate(kept):
        for at in range(3):
            other = int(made.indices[row, at])
            one, two = known.fired[latent], known.fired[other]
            assert float(made.values[row, at]) == float(known.affinity(measure)[latent, other])
            assert int(made.together[row, at]) == int((on[:, latent] & on[:, other]).sum())
            expected = association(measure, one.double() * two / 400, one, two, 400)
            assert float(made.chance[row, at]) == pytest.approx(float(expected), abs=1e-12)
    if measure == "phi":
        assert made.chance.abs().max() < 1e-12 and made.indices[0, 0] == 1


def test_the_null_keeps_how_often_each_fires_and_nothing_of_who_fires_with_whom():
    known = counts(Code.dense(fires().float()))
    drawn = [known.shuffled(seed) for seed in range(200)]
    for one in drawn[:5]:
        assert torch.equal(one.together.diagonal(), known.fired) and one.n == known.n
    mean = torch.stack([one.together for one in drawn]).double().mean(0)
    expected = known.fired[:, None] * known.fired[None] / known.n
    off = ~torch.eye(12, dtype=torch.bool)
    spread = (expected * (1 - known.fired[:, None] / 400) * (1 - known.fired[None] / 400) / 200).sqrt()
    assert ((mean - expected).abs()[off] <= 5 * spread[off] + 1e-9).all()
    assert torch.equal(known.shuffled(3).together, drawn[3].together)
    assert not torch.equal(drawn[0].together, drawn[1].together)


def test_pairs_that_fire_together_stand_out_of_the_null_and_others_do_not():
    drawn = torch.rand(3000, 60, generator=torch.Generator().manual_seed(2)) < 0.1
    drawn[:, 1] = drawn[:, 0] & (torch.rand(3000, generator=torch.Generator().manual_seed(3)) < 0.8)
    made = cofiring(Code.dense(drawn.float()), 2)
    assert made.indices[0, 0] == 1 and made.indices[1, 0] == 0
    assert (made.values[:2, 0] > 5 * made.null.max()).all()
    assert float(made.values[2:, 0].mean()) == pytest.approx(float(made.null.mean()), rel=0.1)
    figure = made.figure()
    assert [trace.name for trace in figure.data] == ["observed", "null: independent firing"]
    assert sum(figure.data[0].y) == sum(figure.data[1].y) == 60
    assert "null" in made.table and f"{made.null.mean():.3f} when each fires independently" in made.caption


def test_latents_that_hardly_fire_are_dropped_and_it_is_said():
    on = fires()
    on[:, 7] = False
    on[:9, 7] = True
    made = cofiring(Code.dense(on.float()), 2, block=1)
    assert 7 not in made.latents and 7 not in made.indices and made.dropped == 2
    assert "2 that fire in fewer than 10 were dropped" in made.caption and "blocks of 1 rows" in made.caption
    assert 7 in cofiring(Code.dense(on.float()), 2, least=9).latents


@pytest.mark.parametrize(
    ("codes", "args", "message"),
    [
        (Code.dense(torch.ones(20, 4)), {"measure": "cosine"}, "measure must be one of phi, jaccard"),
        (Code.dense(torch.ones(20, 4)), {"k": 4}, r"k must be 1..3: 4 of 4 latents fire in 10 or more of 20 blocks"),
        (Code.dense(torch.ones(20, 4)), {"k": 0}, "k must be 1..3"),
        (Code.dense(torch.ones(9, 4)), {"k": 1}, "0 of 4 latents fire in 10"),
        (Code.dense(torch.ones(20, 4)), {"block": 0}, "block must be 1 row or more"),
        (Code.dense(torch.ones(20, 4)), {"above": -1.0}, "above .* 0 or more, got -1"),
        (Code.dense(torch.ones(20, 4)), {"above": float("nan")}, "above .* 0 or more, got nan"),
        (Code.dense(torch.ones(0, 4)), {}, "no rows"),
        ([], {}, "one or more of one width"),
        ([Code.dense(torch.ones(2, 4)), Code.dense(torch.ones(2, 5))], {}, r"one width, got widths \[4, 5\]"),
        (Code.dense(torch.ones(20, 4)), {"documents": torch.zeros(3).long()}, "document of each of 20 rows, got 3"),
    ],
)
def test_counts_that_cannot_be_had_are_refused(codes, args, message):
    with pytest.raises(ValueError, match=message):
        cofiring(codes, **{"k": 2, **args})


def test_pairs_that_do_not_fit_memory_are_refused(monkeypatch):
    monkeypatch.setattr(sys.modules["workbench.geometry.cofiring"], "MOST", 11)
    known = counts(Code.dense(fires().float()))
    for wanted in (lambda: known.together, lambda: known.affinity("dice")):
        with pytest.raises(ValueError, match="12 latents are too many to hold"):
            wanted()
    assert known.frequent(1).together.shape == (11, 11)
    assert known.part(3, 5).shape == (2, 12)

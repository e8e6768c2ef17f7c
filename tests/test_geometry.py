"""Neighbours are exact, maps repeat and say what they lose, groups are found where they were planted."""

import sys
import warnings

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from workbench import geometry, lineage
from workbench.geometry.trust import on_map

K = 8


def planted(groups: int = 6, each: int = 40, d: int = 32, spread: float = 0.35, lone: int = 0):
    """Unit vectors around random centres, the last `lone` of them around none, and the group of each (-1: none)."""
    drawn = torch.Generator().manual_seed(1)
    centres = normalize(torch.randn(groups, d, generator=drawn), dim=-1).repeat_interleave(each, 0)
    near = centres + spread / d**0.5 * torch.randn(len(centres), d, generator=drawn)
    alone = torch.randn(lone, d, generator=drawn)
    group = torch.cat([torch.arange(groups).repeat_interleave(each), torch.full((lone,), -1)])
    return torch.cat([normalize(near, dim=-1), alone]), group


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """One UMAP for the whole file: its first run in a process compiles for half a minute."""
    vectors, group = planted()
    folder = tmp_path_factory.mktemp("planes")
    return vectors, group, folder, geometry.plane(vectors, neighbours=K, folder=folder)


def test_neighbours_equal_brute_force_in_any_chunks():
    x = torch.randn(53, 7)
    unit = x.double() / x.double().norm(dim=-1, keepdim=True)
    cosines = (unit @ unit.T).fill_diagonal_(-2)
    want = cosines.sort(-1, descending=True)
    for chunk in (1, 10, 53, 1000):
        got = geometry.neighbours(x, 5, chunk=chunk)
        assert torch.equal(got.indices, want.indices[:, :5])
        torch.testing.assert_close(got.cosines.double(), want.values[:, :5], atol=1e-6, rtol=0)


def test_neighbours_ignore_length():
    x = torch.randn(30, 5)
    assert torch.equal(
        geometry.neighbours(x, 3).indices, geometry.neighbours(x * torch.rand(30, 1).add(0.1), 3).indices
    )


@pytest.mark.parametrize(
    ("vectors", "k", "message"),
    [
        (torch.eye(4), 4, "k must be 1..3"),
        (torch.eye(4), 0, "k must be 1..3"),
        (torch.zeros(4, 2), 1, "4 of 4 vectors are zero"),
        (torch.full((4, 2), torch.nan), 1, "4 of 4 vectors are not finite"),
    ],
)
def test_vectors_without_neighbours_are_refused(vectors, k, message):
    with pytest.raises(ValueError, match=message):
        geometry.neighbours(vectors, k)


def test_recall_by_hand_on_six_points():
    true = torch.tensor([[1, 2], [0, 2], [1, 3], [2, 4], [3, 5], [4, 3]])
    shown = torch.tensor([[2, 1], [0, 5], [4, 5], [2, 4], [0, 1], [3, 0]])
    assert geometry.recall(true, shown) == pytest.approx((2 + 1 + 0 + 2 + 0 + 1) / 12)
    assert geometry.recall(true, true) == 1


def test_points_on_a_line_have_the_neighbours_one_sees():
    xy = torch.tensor([[0.0, 0], [1, 0], [3, 0], [7, 0]])
    assert on_map(xy, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_trustworthiness_is_scikit_learns_and_one_for_a_faithful_map():
    from sklearn.manifold import trustworthiness

    drawn = torch.Generator().manual_seed(3)
    x, xy = torch.randn(60, 9, generator=drawn), torch.randn(60, 2, generator=drawn)
    want = trustworthiness(x.numpy(), xy.numpy(), n_neighbors=7, metric="cosine")
    assert geometry.trustworthiness(x, on_map(xy, 7), chunk=17) == pytest.approx(want, abs=1e-9)
    assert geometry.trustworthiness(x, geometry.neighbours(x, 7).indices) == 1


def test_a_map_repeats_with_its_seed(mapped, tmp_path):
    vectors, _, _, first = mapped
    again = geometry.plane(vectors, neighbours=K, folder=tmp_path)
    assert torch.equal(first.xy, again.xy)


def test_groups_stay_together_on_the_map(mapped):
    vectors, group, _, plane = mapped
    shown = on_map(plane.xy, K)
    assert (group[shown] == group[:, None]).float().mean() > 0.95
    assert plane.trustworthiness > 0.9
    assert plane.recall > 5 * plane.chance
    assert plane.chance == pytest.approx(K / (len(vectors) - 1))


def test_the_layout_is_umaps_own_for_these_neighbours_and_this_seed(mapped):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import umap

        vectors, _, _, plane = mapped
        unit = normalize(vectors, dim=-1)
        near = geometry.neighbours(unit, K)
        own = torch.arange(len(unit))[:, None]
        start = geometry.plane(vectors, neighbours=K, folder=mapped[2], method="pca").xy
        made = umap.UMAP(
            metric="cosine",
            n_neighbors=K + 1,  # it counts a point as its own first neighbour
            precomputed_knn=(torch.cat([own, near.indices], 1).numpy(), np.pad(1 - near.cosines, ((0, 0), (1, 0)))),
            init=(10 * start / start.abs().max()).numpy(),
            random_state=0,
            n_jobs=1,
        ).fit_transform(unit.numpy())
    np.testing.assert_allclose(plane.xy, made, atol=1e-4)


def test_agreement_is_the_share_of_neighbours_that_maps_of_three_seeds_have_in_common(mapped, tmp_path):
    vectors, _, _, plane = mapped
    others = [geometry.plane(vectors, neighbours=K, folder=tmp_path, seed=seed) for seed in (1, 2)]
    near = [on_map(one.xy, K).tolist() for one in (plane, *others)]
    shared = [
        [len(set(a) & set(b)) / K for a, b in zip(near[i], near[j], strict=True)] for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert plane.agreement == pytest.approx(np.mean(shared), abs=1e-6)
    assert plane.chance < plane.agreement < 1
    assert f"maps of seeds 0, 1, 2 have {plane.agreement:.0%}" in plane.caption
    assert f"maps of seeds 2, 3, 4 have {others[1].agreement:.0%}" in others[1].caption
    assert not torch.equal(others[0].xy, others[1].xy)


def test_opposite_vectors_share_a_place_when_signs_are_free(mapped, tmp_path):
    vectors, group = mapped[:2]
    signs = torch.arange(len(vectors))[:, None] % 2 * 2 - 1
    plane = geometry.plane(vectors * signs, neighbours=K, absolute=True, folder=tmp_path)
    shown = on_map(plane.xy, K)
    assert (group[shown] == group[:, None]).float().mean() > 0.95
    split = geometry.plane(vectors * signs, neighbours=K, folder=tmp_path)
    assert (signs[split.indices, 0] == signs).all()
    assert (signs[shown, 0] == signs).float().mean() < 0.7


def test_a_map_made_once_is_read_not_made(mapped, monkeypatch):
    vectors, _, folder, plane = mapped
    monkeypatch.setattr(sys.modules["workbench.geometry.plane"], "_lay_out", None)
    read = geometry.plane(vectors, neighbours=K, folder=folder)
    assert torch.equal(read.xy, plane.xy)
    assert torch.equal(read.indices, plane.indices)
    assert read.caption == plane.caption
    with pytest.raises(TypeError):
        geometry.plane(vectors, neighbours=K, folder=folder, seed=1)


def test_a_damaged_map_is_not_read(tmp_path):
    vectors, _ = planted(groups=2)
    geometry.plane(vectors, neighbours=K, folder=tmp_path, method="pca")
    (file,) = tmp_path.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        geometry.plane(vectors, neighbours=K, folder=tmp_path, method="pca")


def test_vectors_left_out_have_no_place_and_are_nobodys_neighbour(tmp_path):
    vectors, _ = planted(groups=3)
    vectors[7] = 0  # a dead atom without a direction
    mask = torch.ones(len(vectors), dtype=torch.bool)
    mask[[7, 20]] = False
    plane = geometry.plane(vectors, neighbours=K, mask=mask.numpy(), method="pca", folder=tmp_path)
    assert plane.xy.isnan().any(-1).nonzero()[:, 0].tolist() == [7, 20]
    assert not torch.isin(plane.indices, torch.tensor([7, 20])).any()
    row = plane.table.set_index("latent").loc[21]
    want = geometry.neighbours(vectors[mask], K)
    assert row.neighbours == mask.nonzero()[:, 0][want.indices[19]].tolist()
    assert "2 left out" in plane.caption


def test_pca_is_scikit_learns(tmp_path):
    from sklearn.decomposition import PCA

    x = torch.randn(80, 6)
    plane = geometry.plane(x, neighbours=5, method="pca", folder=tmp_path)
    pca = PCA(2, svd_solver="full").fit(normalize(x, dim=-1).double().numpy())
    want = pca.transform(normalize(x, dim=-1).double().numpy())
    np.testing.assert_allclose(np.abs(plane.xy.numpy()), np.abs(want), atol=1e-5)
    assert plane.explained == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"method": "tsne"}, "method must be one of umap, pca"),
        ({"neighbours": 30}, "needs more than 60 vectors, got 40"),
        ({"mask": [True] * 3}, "mask wants a bool for each of the 40"),
    ],
)
def test_a_map_that_cannot_be_made_is_refused(args, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        geometry.plane(torch.randn(40, 3), folder=tmp_path, **args)


def test_the_figure_says_how_far_it_can_be_believed(mapped):
    vectors, group, _, plane = mapped
    figure = plane.figure(
        color=group.float() + 1, size=torch.rand(len(vectors)), hover=["<b>x</b>"] * len(vectors), color_title="density"
    )
    assert f"{plane.recall:.0%}" in figure.layout.title.subtitle.text
    assert "trustworthiness" in figure.layout.title.subtitle.text
    assert figure.data[0].text[3] == "latent 3<br>&lt;b&gt;x&lt;/b&gt;"
    shown = plane.figure(color=[f"group {g}" for g in group.tolist()]).data
    assert [trace.name for trace in shown if trace.xaxis != "x2"] == [f"group {g}" for g in range(6)]
    with pytest.raises(ValueError, match="color must have one entry for each of the 240"):
        plane.figure(color=[1.0])


def test_planted_groups_are_found_and_lone_vectors_left_alone():
    vectors, group = planted(lone=30)
    found = geometry.clusters(vectors, cosine=0.6)
    for g in range(6):
        assert len(found[group == g].unique()) == 1
    assert len(found[group >= 0].unique()) == 6
    assert (found[group < 0] == -1).all()


def test_the_largest_group_comes_first():
    vectors = torch.cat([torch.eye(3)[0].repeat(3, 1), torch.eye(3)[1].repeat(5, 1), torch.eye(3)[2:]])
    assert geometry.clusters(vectors).tolist() == [1] * 3 + [0] * 5 + [-1]


def test_the_cache_is_used_when_no_folder_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    geometry.plane(torch.randn(40, 3), neighbours=5, method="pca")
    assert list((lineage.cache() / "planes").glob("*.safetensors"))

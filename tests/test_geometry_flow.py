"""Planted flow is labelled, chained back and validated; null directions get the labels chance gives them."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from workbench import geometry
from workbench.code import Code
from workbench.geometry.flow import deactivation, flow, origins, predecessors, rescaled

D = 64


def drawn(n: int, seed: int = 0, d: int = D) -> torch.Tensor:
    return geometry.random_directions(n, d, seed=seed)


def near(rows: torch.Tensor, seed: int = 0, noise: float = 0.3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return normalize(rows + noise * normalize(torch.randn(rows.shape, generator=rng), dim=1), dim=1)


def planted(null: str = "mixed", **options):
    """Layer 1: 40 latents of layer 0, 40 that the MLP says too, 40 of the attention alone, 40 of nothing."""
    before, mlp, attention = drawn(200, 1), drawn(200, 2), drawn(200, 3)
    mlp[:40] = near(before[40:80], 7)
    one = torch.cat([near(before[:80]), near(attention[:40]), drawn(40, 4)])
    two = torch.cat([near(one[:40], 5), drawn(120, 6)])
    return flow({0: before, 1: one, 2: two}, {1: mlp}, {1: attention}, null=null, **options)


@pytest.mark.parametrize("null", ["mixed", "sphere"])
def test_planted_latents_get_their_labels(null):
    found = planted(null)
    table = found.table[found.table.layer == 1]
    for label, begin in (("carried", 0), ("processed", 40), ("newborn", 80), ("unexplained", 120)):
        assert (table.label[begin : begin + 40] == label).mean() >= 0.95, label
    assert table.resid_from[:80].tolist() == list(range(80))
    assert table.attention_from[80:120].tolist() == list(range(40))
    assert table.mlp_from[40:80].tolist() == list(range(40))
    second = found.table[found.table.layer == 2]
    assert second.mlp.isna().all() and (second.mlp_from == -1).all() and (second.label[:40] == "carried").all()


def test_cosines_are_the_largest_of_brute_force():
    before, after = drawn(50, 1), drawn(30, 2)
    cosines = after @ before.T
    table = flow({3: before, 7: 5 * after}).table
    assert table.resid.tolist() == pytest.approx(cosines.max(1).values.tolist(), abs=1e-6)
    assert table.resid_from.tolist() == cosines.argmax(1).tolist() and set(table.layer) == {7}


def test_null_directions_pass_as_often_as_the_level_says():
    """Unrelated dictionaries: each source is high for 1 - level of the latents, and chance foresees the labels."""
    found = flow({0: drawn(500, 1), 1: drawn(4000, 2)}, {1: drawn(500, 3)}, level=0.9, null="sphere", draws=4000)
    share = found.profile.set_index("label")
    assert share.share["carried"] == pytest.approx(0.09, abs=0.02)
    assert share.share["newborn"] == pytest.approx(0.09, abs=0.02)
    assert share.share["processed"] == pytest.approx(0.01, abs=0.01)
    assert (share.share - share.chance).abs().max() < 0.03
    assert share.share.sum() == pytest.approx(1) and share.chance.sum() == pytest.approx(1)


def test_a_direction_that_all_atoms_have_explains_nothing_by_mixtures():
    lean = 2 * drawn(1, 9)
    before, after = (normalize(drawn(300, s) + lean, dim=1) for s in (1, 2))
    mixed, sphere = (flow({0: before, 1: after}, null=null) for null in ("mixed", "sphere"))
    carried = [f.profile.set_index("label").share["carried"] for f in (mixed, sphere)]
    assert carried[0] < 0.1 and carried[1] == 1.0
    assert mixed.thresholds.threshold[0] > sphere.thresholds.threshold[0] + 0.3


def test_the_graph_leads_back_layer_by_layer():
    found = planted()
    back = found.back(2, 5)
    resid = back[back.source == "resid"][["layer", "latent", "source_layer", "source_latent"]].values.tolist()
    assert resid == [[2, 5, 1, 5], [1, 5, 0, 5]]
    assert found.back(1, 45).source.tolist() == ["resid", "mlp"]
    assert found.back(1, 85).source.tolist() == ["attention"]
    assert len(found.back(1, 159)) == 0
    above = found.edges.merge(found.thresholds, on=["layer", "source"])
    assert (above.cosine > above.threshold).all()
    for layer, source, threshold in found.thresholds[["layer", "source", "threshold"]].itertuples(index=False):
        high = int((found.table[found.table.layer == layer][source] > threshold).sum())
        assert high == int(((found.edges.layer == layer) & (found.edges.source == source)).sum()) > 0


def test_the_same_seed_gives_the_same_thresholds_and_another_others():
    one, same, other = planted(), planted(), planted(seed=1)
    assert one.thresholds.equals(same.thresholds) and not one.thresholds.equals(other.thresholds)
    assert planted(level=0.5).thresholds.threshold.max() < one.thresholds.threshold.min()


def lines(cosines: list[float], partner: list[int] | None = None) -> pd.DataFrame:
    n = len(cosines)
    return pd.DataFrame(
        {"layer": 1, "latent": range(n), "resid": cosines, "resid_from": range(n) if partner is None else partner}
    )


def test_origins_by_hand():
    code = Code.dense(torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    before = Code.dense(torch.tensor([[0.0, 2.0], [0.0, 0.0], [3.0, 0.0], [1.0, 0.0]]))
    found = origins(lines([0.9, 0.2, 0.5], [1, 0, 0]), code, {"resid": before})
    assert found.table.latent.tolist() == [0, 1]  # the third never fires
    assert found.table["rows"].tolist() == [2, 3]
    assert found.table.resid_fires.tolist() == pytest.approx([1 / 2, 1 / 3])
    assert found.table.resid_base.tolist() == pytest.approx([1 / 4, 2 / 4])
    assert found.table.resid_is.tolist() == [True, False]
    assert found.scores.auroc.tolist() == [1.0] and found.scores["from"].tolist() == [1]


def test_lines_of_some_latents_get_what_lines_of_all_do():
    code, before = coded(torch.rand(20, generator=torch.Generator().manual_seed(3)))
    every = lines(torch.linspace(0, 1, 20).tolist())
    some, whole = (origins(x, code, {"resid": before}).table for x in (every[5:9], every))
    assert some.equals(whole[5:9].reset_index(drop=True))


def coded(share: torch.Tensor, seed: int = 0) -> tuple[Code, Code]:
    """Latent i fires in a tenth of 2,000 rows; its predecessor i in `share[i]` of these and in few others."""
    rng = torch.Generator().manual_seed(seed)
    on = torch.rand(2000, len(share), generator=rng) < 0.1
    along = on & (torch.rand(on.shape, generator=rng) < share) | (torch.rand(on.shape, generator=rng) < 0.02)
    return Code.dense(on.float()), Code.dense(along.float()).to_csr()


def test_auroc_and_mann_whitney_are_scikit_learns_and_scipys():
    from scipy.stats import mannwhitneyu
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    share = torch.from_numpy(rng.random(200))
    cosine = (share.numpy() + rng.normal(0, 0.3, 200)).round(2)  # rounded: ties
    found = origins(lines(cosine.tolist()), *[*coded(share)][:1], {"resid": coded(share)[1]})
    yes = found.table.resid_is.to_numpy()
    assert np.abs(found.table.resid_fires - share.numpy()).max() < 0.2
    row = found.scores.iloc[0]
    assert row.auroc == pytest.approx(roc_auc_score(yes, cosine)) and row.auroc > 0.8
    assert row.p == pytest.approx(mannwhitneyu(cosine[yes], cosine[~yes], alternative="greater").pvalue)
    assert row.low < 0.5 < row.high < row.auroc and row.z > 4
    assert (row["from"], row.others) == (yes.sum(), (~yes).sum())


def test_cosines_that_know_nothing_stay_within_the_shuffled_labels():
    share = torch.rand(200, generator=torch.Generator().manual_seed(1))
    code, before = coded(share)
    cosine = torch.rand(200, generator=torch.Generator().manual_seed(2)).tolist()
    row = origins(lines(cosine), code, {"resid": before}).scores.iloc[0]
    assert row.low < row.auroc < row.high and abs(row.z) < 2 and row.p > 0.05
    assert 0.4 < row.low < 0.5 < row.high < 0.6


def test_where_all_come_from_one_source_there_is_nothing_to_tell():
    code, before = coded(torch.ones(5))
    row = origins(lines([0.5] * 5), code, {"resid": before}).scores.iloc[0]
    assert np.isnan(row.auroc) and np.isnan(row.p) and (row["from"], row.others) == (5, 0)


def test_rescaling_is_h_plus_a_times_r_less_1_times_v():
    h, v, a = torch.randn(4, 3), torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])
    rest = h - a[:, None] * v
    torch.testing.assert_close(rescaled(h, a, v), rest)
    torch.testing.assert_close(rescaled(h, a, v, 1.0), h)
    torch.testing.assert_close(rescaled(h, a, v, -1.0), rest - a[:, None] * v)


def test_predecessors_are_the_nearest_one_of_the_nearest_and_any():
    before, after = drawn(300, 1), drawn(400, 2)
    found = predecessors(after, before, top=5)
    best = (after @ before.T).topk(5, 1).indices
    assert torch.equal(found["top cosine"], best[:, 0])
    place = (best == found["random of top 5"][:, None]).int()
    assert place.sum() == 400 and (place.sum(0) > 50).all()  # each of the five in its turn
    assert len(found["random"].unique()) > 200
    assert float((found["random"] == found["top cosine"]).float().mean()) < 0.05


def test_deactivation_by_hand():
    outcome = {(0, 7): [0.0, 1.0], (0, 8): [2.0, 2.0], (1, 7): [-1.0, 0.0], (1, 9): [4.0, 2.0]}
    asked = []

    def run(target, predecessor):
        asked.append((target, predecessor))
        return torch.tensor([2.0, 2.0]), torch.tensor(outcome[target, predecessor])

    arms = {"top": torch.tensor([7, 7]), "random": torch.tensor([8, 9]), "again": torch.tensor([7, 9])}
    found = deactivation([0, 1], arms, run)
    assert sorted(asked) == sorted(outcome)  # each pair once
    by = found.table.set_index(["arm", "target"])
    assert by.success.tolist() == [0.5, 1.0, 0.0, 0.0, 0.5, 0.0]
    assert by.change.tolist() == [0.75, 1.25, 0.0, -0.5, 0.75, -0.5]
    scores = found.scores.set_index("arm")
    assert scores.success.to_dict() == {"top": 0.75, "random": 0.0, "again": 0.25}
    assert scores.change_low["top"] == 0.75 and scores.change_high["top"] == 1.25


def test_a_planted_cause_is_taken_away_and_a_random_atom_is_not():
    """A linear layer: the target reads its predecessor's direction. The null's interval is around nothing."""
    before = torch.eye(D)
    rng = torch.Generator().manual_seed(0)
    activations = torch.rand(200, D, generator=rng)
    h = activations @ before

    def run(target, predecessor):
        new = rescaled(h, activations[:, predecessor], before[predecessor])
        return (h @ before[target]).clamp_min(1e-3), (new @ before[target]).clamp_min(0)

    targets = list(range(30))
    found = deactivation(targets, predecessors(before[targets], before), run).scores.set_index("arm")
    assert found.success["top cosine"] == 1.0 and found.change["top cosine"] == pytest.approx(1.0)
    assert found.success["random"] < 0.1 and found.change_high["random"] < 0.2 < found.change["random of top 5"] + 0.15


def test_every_record_says_its_null_and_draws_it():
    code, before = coded(torch.rand(20, generator=torch.Generator().manual_seed(0)))
    arms = {"top cosine": torch.tensor([0]), "random": torch.tensor([1])}
    validated = origins(lines(torch.linspace(0, 1, 20).tolist()), code, {"resid": before})
    tested = deactivation([0], arms, lambda t, p: (torch.ones(3), torch.full((3,), float(p))))
    for found in (planted(), validated, tested):
        figure = found.figure()
        names = {trace.name for trace in figure.data} | {x for t in figure.data if t.type == "bar" for x in t.x}
        assert any("null" in str(name) for name in names), names
        assert "\n" not in found.caption and figure.layout.title.subtitle.text
    assert "random mixtures" in planted().caption and "chance" in planted().caption
    assert len({t.xaxis for t in planted().figure().data}) == 4  # a panel for each label


A = torch.eye(4)
CODE = Code.dense(torch.eye(4))


def give(old, new):
    return deactivation([0], {"top": torch.tensor([1])}, lambda t, p: (torch.tensor(old), torch.tensor(new)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flow({0: A}), r"two residual layers or more and one width, got layers \[0\]"),
        (lambda: flow({0: A, 1: torch.eye(5)}), r"widths \[4, 5\]"),
        (lambda: flow({0: A, 1: A}, {0: A}), r"want layers of \[1\].*got \[0\]"),
        (lambda: flow({0: A, 1: A}, null="other"), "null mixed or sphere"),
        (lambda: flow({0: A, 1: A}, level=1.0), "level within 0..1"),
        (lambda: flow({0: A, 1: 0 * A}), "4 of 4 vectors are zero"),
        (lambda: flow({0: A * torch.nan, 1: A}), "4 of 4 vectors are not finite"),
        (lambda: planted().back(1, 999), r"no latent 999 of layer 1 here: layers are \[1, 2\]"),
        (lambda: origins(lines([0.1] * 4), CODE, {}), "one source or more"),
        (lambda: origins(lines([0.1] * 4), CODE, {"resid": Code.dense(A[:2])}), r"got \[4, 2\] rows"),
        (lambda: origins(lines([0.1] * 4), CODE, {"heads": CODE}), "sources are resid, mlp, attention, got heads"),
        (lambda: origins(lines([0.1] * 5), CODE, {"resid": CODE}), "name latent 4, the code has 4"),
        (lambda: origins(lines([0.1] * 4, [0, 1, 2, -1]), CODE, {"resid": CODE}), r"must be latents 0\.\.3"),
        (lambda: origins(lines([0.1] * 4).assign(layer=[1, 1, 2, 2]), CODE, {"resid": CODE}), "lines of one layer"),
        (lambda: origins(lines([0.1] * 4), Code.dense(0 * A), {"resid": CODE}), "none of these latents fires"),
        (lambda: predecessors(A, A, top=5), r"top must be 2\.\.4"),
        (lambda: deactivation([0, 1], {"top": torch.tensor([1])}, give), "for each of 2 targets, got {'top': 1}"),
        (lambda: give([1.0, 0.0], [0.0, 0.0]), "1 of them not above 0"),
        (lambda: give([1.0], [0.0, 0.0]), "got 1 and 2 rows"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)

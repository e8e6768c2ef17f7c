"""FeatureMap without a browser: what it refuses, what its state holds, what Python answers."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import traitlets as t

from widgets import FeatureMap, payload, worker
from workbench import embed
from workbench.geometry import Plane, plane


class Dashboard(t.HasTraits):
    latent = t.Int(0)


@pytest.fixture(scope="module")
def atoms():
    """Six bundles of ten directions, and one zero vector, which is on no map."""
    r = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 16, generator=r).repeat_interleave(10, 0)
    return torch.cat([centres + 0.3 * torch.randn(60, 16, generator=r), torch.zeros(1, 16)])


@pytest.fixture(scope="module")
def flat(atoms, tmp_path_factory):
    mask = torch.arange(61) < 60
    return plane(atoms, neighbours=5, method="pca", mask=mask, folder=tmp_path_factory.mktemp("planes"))


@pytest.fixture
def table():
    r = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "latent": np.arange(61)[::-1],  # in another order than the plane
            "density": np.geomspace(1e-6, 0.1, 61),
            "layer": np.arange(61) % 3,
            "label": [f"label {60 - i}" if i % 2 else "" for i in range(61)],
            "top_token": pd.Series([" the", "\ud800", "<b>"] * 20 + [None], dtype=object),
            "score": np.where(np.arange(61) < 5, np.nan, r.uniform(size=61)),
        }
    )


def numbers(data, kind="<f4"):
    return np.frombuffer(data, kind)


def test_positions_and_colours_belong_to_the_latents_on_the_map(flat, table):
    widget = FeatureMap(plane=flat, table=table)
    (made,) = widget.maps
    xy = numbers(made["xy"]).reshape(-1, 2)
    assert widget.color == "density" and numbers(made["latents"], "<i4").tolist() == list(range(60))
    assert np.abs(xy).max() == pytest.approx(1)
    half = (flat.xy[:60].max(0).values - flat.xy[:60].min(0).values).max() / 2
    assert np.allclose(xy[3] - xy[50], (flat.xy[3] - flat.xy[50]) / half, atol=1e-5)  # one unit in both directions
    density = next(c for c in made["columns"] if c["name"] == "density")
    assert numbers(density["data"])[7] == pytest.approx(table.set_index("latent")["density"][7])
    assert density["log"] and density["under"] and density["low"] == pytest.approx(density["least"])
    assert (
        made["words"]["label"][7] == ("label 7" if (60 - 7) % 2 else "") and "\ud800" not in made["words"]["top_token"]
    )


def test_neighbours_are_the_planes_own_and_say_which_are_near_on_the_map(flat):
    widget = FeatureMap(plane=flat)
    near = widget.maps[0]["neighbours"]
    assert numbers(near["near"], "<u2").reshape(60, 5).tolist() == flat.indices.tolist()
    assert np.allclose(numbers(near["cosines"], "<i2").reshape(60, 5) / 1e4, flat.cosines, atol=1e-4)
    close = np.unpackbits(numbers(near["close"], np.uint8)[:, None], axis=1, bitorder="little")[:, :5]
    distance = torch.cdist(flat.xy[:60], flat.xy[:60]).fill_diagonal_(torch.inf)
    shown = distance.topk(5, largest=False).indices
    assert close.tolist() == (flat.indices[:, :, None] == shown[:, None, :]).any(-1).int().tolist()
    assert close.mean() == pytest.approx(flat.recall)
    one = payload.map_near_of(widget._near[0], 9)
    assert one["points"] == flat.indices[9].tolist() and one["close"] == close[9].astype(bool).tolist()


def test_columns_become_numbers_or_groups():
    def column(name, values):
        return payload.map_column(name, pd.Series(values))

    layers = column("layer", [2, 0, 1, 0])
    assert layers["kind"] == "group" and layers["names"] == ["0", "1", "2"] and layers["ordered"]
    assert numbers(layers["data"], np.uint8).tolist() == [2, 0, 1, 0]
    cluster = column("cluster", [-1, *range(30), 5, 5])
    assert (
        cluster["kind"] == "group" and cluster["names"][0] == "in no cluster" and cluster["names"][-1] == "other (21)"
    )
    assert sum(cluster["counts"]) == 33 and "5" in cluster["names"] and not cluster["ordered"]
    assert column("dead", [True, False, True])["names"] == ["dead", "not dead"]
    assert column("kind", ["a", None, "a"])["none"] == 1
    assert column("note", [f"text {i}" for i in range(40)]) is None
    score = column("score", [np.nan, np.inf, 0.5, -0.5])
    assert score["none"] == 2 and not score["log"] and score["kind"] == "number"
    assert column("empty", [np.nan, np.nan])["low"] is None


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"plane": 3}, TypeError, "wants planes"),
        ({"color": "densty"}, ValueError, "color must be one of density"),
        ({"size": "layer"}, ValueError, "size must be a column of numbers"),
        ({"table": "x"}, TypeError, "table must be a pandas DataFrame"),
        ({"table": pd.DataFrame({"density": [1.0]})}, ValueError, "a line for each of 61 vectors, got 1"),
        (
            {"table": pd.DataFrame({"latent": range(59)})},
            ValueError,
            "no line for 1 latents on the map, the first is 59",
        ),
        ({"table": pd.DataFrame({"latent": [0] * 61})}, ValueError, "one line for each latent"),
        ({"codec": torch.ones(4, 16)}, ValueError, "61 atoms"),
        ({"match": pd.DataFrame({"a": [1], "b": [1]})}, ValueError, "second plane"),
        ({"dashboard": object()}, TypeError, "trait `latent`"),
        ({"titles": "AB"}, ValueError, "two names"),
        ({"height": 10}, ValueError, "240 to 1,200"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(flat, table, change, error, said):
    with pytest.raises(error, match=said):
        FeatureMap(**{"plane": flat, "table": table, **change})


@pytest.mark.parametrize("match", [[1, 2], pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [0.5], "b": [1]})])
def test_a_match_must_name_latents(flat, match):
    with pytest.raises(ValueError, match="match"):
        FeatureMap(plane=flat, other=flat, match=match)


def test_what_is_not_on_the_map_cannot_be_picked_or_selected(flat):
    widget = FeatureMap(plane=flat)
    with pytest.raises(ValueError, match="latent 60 is not on the map"):
        widget.latent = 60
    with pytest.raises(ValueError, match="1 of the latents are not on the map, the first is 60"):
        widget.selection = [1, 60]
    with pytest.raises(ValueError, match="color must be one of"):
        widget.color = "x"
    assert widget.latent == -1 and widget.selection == []


def test_the_table_is_sorted_and_paged_in_python(flat, table):
    widget = FeatureMap(plane=flat, table=table)
    assert widget.rows["all"] and widget.rows["total"] == 60 and widget.rows["pages"] == 6
    assert widget.rows["rows"][0]["id"] == 0  # the densest
    widget.selection = list(range(12, 27))
    worker.settle()
    assert (
        not widget.rows["all"] and widget.rows["total"] == 15 and [r["id"] for r in widget.rows["rows"]][:2] == [12, 13]
    )
    widget.query = {"side": 0, "sort": "latent", "descending": True, "page": 1}
    worker.settle()
    assert [r["id"] for r in widget.rows["rows"]] == [16, 15, 14, 13, 12] and widget.rows["page"] == 1
    widget.query = {"side": 0, "sort": "nothing", "descending": False, "page": 99}  # a page asks for what it likes
    worker.settle()
    assert widget.rows["sort"] == "latent" and widget.rows["page"] == 1 and not widget.error
    widget.selection = []
    worker.settle()
    assert widget.rows["total"] == 60


def test_a_dashboard_is_linked_both_ways_and_let_go(flat):
    dashboard = Dashboard(latent=4)
    widget = FeatureMap(plane=flat, dashboard=dashboard)
    assert widget.latent == 4
    widget.latent = 9
    assert dashboard.latent == 9
    dashboard.latent = 60
    assert widget.latent == -1 and "latent 60 is not on the map" in widget.error
    dashboard.latent = 3
    assert widget.latent == 3 and not widget.error
    widget.close()
    dashboard.latent = 5
    assert widget.latent == 3


def test_colour_by_the_cosine_with_the_picked(flat, atoms):
    widget = FeatureMap(plane=flat, codec=atoms, color="cosine with the picked")
    assert widget.told == {}
    widget.latent = 11
    worker.settle()
    (column,) = widget.told["columns"]
    found, unit = numbers(column["data"]), torch.nn.functional.normalize(atoms[:60], dim=1)
    assert widget.told["latent"] == 11 and np.allclose(found, unit @ unit[11], atol=1e-5)


def test_two_maps_are_joined_by_a_match(flat, table):
    match = pd.DataFrame({"a": [0, 0, 5, 60], "b": [3, 4, 5, 1], "cosine": [0.5, 0.9, 0.1, 1.0]})
    widget = FeatureMap(plane=flat, table=table, other=flat, match=match, titles=("one", "two"))
    assert numbers(widget.pairs["a"], "<i4").tolist() == [0, 0, 5] and numbers(widget.pairs["b"], "<i4").tolist() == [
        3,
        4,
        5,
    ]
    assert widget.pairs["lost"] == 1 and widget.pairs["matched"] == [2, 3]
    best = [next(c for c in m["columns"] if c["name"] == "match cosine") for m in widget.maps]
    assert numbers(best[0]["data"])[0] == pytest.approx(0.9) and numbers(best[1]["data"])[3] == pytest.approx(0.5)
    widget.other_selection = [3, 7]
    worker.settle()
    assert widget.rows["side"] == 1 and {r["id"] for r in widget.rows["rows"]} == {3, 7}
    assert "density" not in [c["name"] for c in widget.maps[1]["columns"]]


def big(n=50_000, k=15, words=True):
    r = np.random.default_rng(0)
    xy = torch.from_numpy(r.normal(size=(n, 2)).astype(np.float32))
    near = torch.from_numpy(r.integers(0, n, (n, k)))
    cosines = torch.from_numpy(np.sort(r.uniform(size=(n, k)).astype(np.float32))[:, ::-1].copy())
    made = Plane(xy, torch.arange(n), near, cosines, 0.9, 0.4, k / n, 0.1, "umap", k, 0, 0.5)
    table = pd.DataFrame({"density": r.uniform(size=n), "layer": r.integers(0, 30, n), "score": r.uniform(size=n)})
    table = table.assign(**{f"score {i}": r.uniform(size=n) for i in range(5 if words else 0)})
    if words:
        table["label"] = [f"a label that says what latent {i} is about" for i in range(n)]
    return made, table


def test_fifty_thousand_latents_fit_a_notebook_and_python_has_the_rest():
    made, table = big()
    widget = FeatureMap(plane=made, table=table)
    assert len(json.dumps(embed.states([widget]))) < 2.5e6
    (shown,) = widget.maps
    assert shown["silent"] and "words" not in shown and "neighbours" not in shown
    widget.latent = 77
    assert widget.near["latent"] == 77 and widget.near["points"] == made.indices[77].tolist()
    widget.seek = {"side": 0, "latent": 77}
    assert widget.spoken["words"]["label"] == "a label that says what latent 77 is about"
    widget.seek = {"text": "LATENT 4999"}
    worker.settle()
    assert widget.found["sides"][0]["total"] == 11 and widget.found["sides"][0]["points"][0] == 4999
    without = next(c["name"] for c in shown["columns"] if "data" not in c)
    widget.color = without
    assert widget.told["name"] == without and len(widget.told["columns"][0]["data"]) >= 50_000


def test_a_smaller_map_holds_everything_that_a_page_without_a_kernel_needs():
    made, table = big(4000, words=False)
    (shown,) = FeatureMap(plane=made, table=table, size="score").maps
    assert shown["words"] == {} and "neighbours" in shown and all("data" in c for c in shown["columns"])
    ranks = numbers(shown["sizes"], np.uint8)
    assert ranks[table["score"].argmax()] == 255 and ranks[table["score"].argmin()] == 0

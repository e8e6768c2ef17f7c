"""GraphViewer without a browser: what it takes, refuses, and answers."""

import copy
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_graph_files import JUNK, places
from traced import two_hop

from widgets import GraphViewer, payload, worker
from widgets.labels import Labels
from workbench.circuits import export, faithful, targets
from workbench.circuits.graph import Graph, frame
from workbench.circuits.tracers.transcoder import Tracing

AIMS = [targets.Target(f"y{i}", 1.0, torch.eye(40)[i]) for i in range(5)]


@pytest.fixture(scope="module")
def traced():
    subject, transcoders, _, _ = two_hop()
    tracing = Tracing(subject, torch.tensor([[0, 7, 19, 23]]), transcoders, AIMS, progress=False)
    return tracing, tracing.graph()


@pytest.fixture
def viewer(traced):
    tracing, graph = traced
    made = GraphViewer(graph=graph, tracing=tracing, nodes=1.0, edges=1.0)
    yield made
    made.close()


def row(kind, layer=0, pos=0, latent=-1, value=1.0, label=""):
    label = label or (f"{layer}/{latent} at {pos}" if kind == "latent" else f"{kind} {layer}")
    return {"kind": kind, "layer": layer, "pos": pos, "latent": latent, "value": value, "label": label}


def chain():
    """Two tokens, four latents in two layers, an error, a constant, a target: by hand."""
    rows = [
        row("token", -1, 0, label="a"), row("token", -1, 1, label="b"), row("bias", 0, -1, label="bias"),
        row("latent", 0, 0, 1, 2.0), row("latent", 0, 0, 2, 1.0), row("error", 0, 1),
        row("latent", 1, 1, 3, 2.0), row("latent", 1, 1, 4, 1.0), row("logit", 2, 1, value=3.0, label="y"),
    ]  # fmt: skip
    edges = torch.tensor(
        [
            [0, 0, 0, 0, 0, -1.0, 3.0, 1.0, 0],  # y
            [0, 0.5, 0, 1.0, 0.5, 0, 0, 0, 0],  # 1/3
            [0, 0, 0, -1.0, 2.0, 0, 0, 0, 0],  # 1/4
            [1.0, 0, 1.0, 0, 0, 0, 0, 0, 0],  # 0/1
            [1.0, 0, 0, 0, 0, 0, 0, 0, 0],  # 0/2
        ]
    )
    return Graph(frame(rows), edges, torch.tensor([8, 6, 7, 3, 4]), torch.tensor([1.0, 0, 0, 0, 0]))


def deep():
    """Three latents in a line."""
    rows = [row("token", -1), *[row("latent", i, 0, i + 1) for i in range(3)], row("logit", 3, label="y")]
    return Graph(frame(rows), torch.eye(4, 5), torch.tensor([1, 2, 3, 4]), torch.tensor([0.0, 0, 0, 1]))


def ids(viewer, kind="latent"):
    nodes = viewer.data["nodes"]
    return [i for i, k in zip(nodes["id"], nodes["kind"], strict=True) if k == kind]


# ---- what is drawn


def test_columns_are_the_graphs_own_numbers():
    graph = chain()
    viewer = GraphViewer(graph=graph, nodes=1.0, edges=1.0)
    nodes, edges = viewer.data["nodes"], viewer.data["edges"]
    assert nodes["id"] == ["E_0_0", "E_1_1", "bias_0", "0_1_0", "0_2_0", "err_0_1", "1_3_1", "1_4_1", "3_0_1"]
    assert nodes["influence"] == pytest.approx(graph.influence().tolist(), rel=1e-3)
    source, target = (np.frombuffer(edges[k], "<i4") for k in ("source", "target"))
    weight, share, rank = (np.frombuffer(edges[k], "<f4") for k in ("weight", "share", "rank"))
    dense = np.zeros((9, 9))
    dense[target, source] = weight
    assert np.array_equal(dense[graph.targets.numpy()], graph.edges.numpy())
    assert share[(target == 6) & (source == 3)] == [0.5] and rank[0] == 0 and (np.diff(rank) >= 0).all()
    assert (source[0], target[0]) == (6, 8), "the strongest first: 3/5 of the target"
    assert nodes["held"][6] == 1 and nodes["held"][0] is None
    assert viewer.data["columns"] == {"pos": [0, 1], "word": ["a", "b"]} and viewer.data["about"]["weighted"]


def test_the_slider_compares_what_prune_does():
    graph = chain()
    for share in (0.3, 0.5, 0.7, 0.9):
        viewer = GraphViewer(graph=graph, nodes=share, edges=0.7)
        kept, nodes = np.frombuffer(viewer.kept["nodes"], "u1"), viewer.data["nodes"]
        pruned = graph.prune(share, 0.7)
        assert [n for n, k in zip(nodes["label"], kept, strict=True) if k] == pruned.nodes["label"].tolist()
        assert viewer.kept["counts"] == [len(pruned.nodes), int((pruned.edges != 0).sum())]
        assert np.frombuffer(viewer.kept["edges"], "u1").sum() == viewer.kept["counts"][1]
        assert all(r < share for r, k in zip(nodes["rank"], kept, strict=True) if k)


def test_a_moved_slider_is_answered_by_the_worker():
    viewer = GraphViewer(graph=chain(), nodes=1.0)
    viewer.shares = [0.3, 0.98]
    worker.settle()
    assert viewer.kept["shares"] == [0.3, 0.98] and viewer.kept["counts"][0] < 9 and viewer.busy == ""
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        viewer.shares = [0, 2]


def test_only_the_most_influential_nodes_reach_the_page():
    rows = [row("token", -1, p) for p in range(10_000)] + [row("logit", 1, 9_999, label="y")]
    edges = torch.rand(1, 10_001, generator=torch.Generator().manual_seed(0))
    edges[0, -1] = 0
    edges[0, 77] = 50
    viewer = GraphViewer(graph=Graph(frame(rows), edges, torch.tensor([10_000]), torch.tensor([1.0])), most=100)
    nodes = viewer.data["nodes"]
    assert len(nodes["id"]) == 100 and 77 in nodes["pos"] and nodes["kind"].count("logit") == 1
    assert len(viewer.data["columns"]["pos"]) <= 100 and viewer.data["about"]["nodes"] == 10_001
    size = sum(len(json.dumps(viewer.data[k])) for k in ("nodes", "columns", "about"))
    assert size < 30_000


def test_a_graph_without_weights_is_drawn_whole():
    one = chain()
    viewer = GraphViewer(graph=Graph(one.nodes, one.edges, one.targets, torch.zeros(5)))
    assert not viewer.data["about"]["weighted"] and viewer.kept["counts"] == [9, 11]


# ---- what is refused


def test_what_does_not_fit_is_told_in_one_line(traced, tmp_path):
    tracing, graph = traced
    one = chain()
    broken = Graph(one.nodes, one.edges.clone(), one.targets, one.weights)
    broken.edges[0, 0] = torch.nan
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "cut.json").write_text('{"nodes": [')
    for given, said in (
        ({"graph": broken}, "edges of the graph must be finite numbers, 1 are not"),
        ({"graph": one, "tokens": ["a"]}, "tokens has 1, the graph has nodes up to position 1"),
        ({"graph": one, "most": 0}, "most is the number of nodes"),
        ({"graph": one, "nodes": 1.5}, "above 0 and at most 1"),
        ({"graph": one, "tracing": tracing}, "has no target 'y'"),
        ({"graph": tmp_path / "list.json"}, "list.json: the file must be an object"),
        ({"graph": tmp_path / "cut.json"}, "is not JSON"),
        ({"graph": Graph(one.nodes[:0], one.edges[:0, :0], one.targets[:0], one.weights[:0])}, "has no nodes"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            GraphViewer(**given)
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="index is one for each layer, {8: index}, .* got int"):
        GraphViewer(graph=one, index=7)
    with pytest.raises(ValueError, match="has no node 'x'"):
        GraphViewer(graph=one).pinned = ["x"]


def test_values_that_are_no_numbers_are_shown_as_none():
    one = chain()
    one.nodes.loc[3, "value"] = float("nan")
    one.nodes.loc[4, "label"] = "x" * 1000
    nodes = GraphViewer(graph=one).data["nodes"]
    assert nodes["value"][3] is None and len(nodes["label"][4]) == 300


# ---- pins and supernodes


def test_a_supernode_has_the_sum_of_its_members_edges():
    viewer = GraphViewer(graph=chain())
    viewer.group("early", ["0_1_0", "0_2_0"])
    viewer.pinned = ["1_3_1", "E_0_0"]
    worker.settle()
    nodes, edges = viewer.sub["nodes"], viewer.sub["edges"]
    assert [(n["name"], n["ids"]) for n in nodes] == [
        (None, ["E_0_0"]), ("early", ["0_1_0", "0_2_0"]), (None, ["1_3_1"]), (None, ["3_0_1"])
    ]  # fmt: skip
    # y from 1/3, of 5; 1/3 from both, of 2; both from the first token, of 3
    assert sorted(edges) == [[1, 0, 2, pytest.approx(2 / 3, 1e-3)], [2, 1, 1.5, 0.75], [3, 2, 3, 0.6]]
    assert viewer.sub["of"] == [["1_3_1", "E_0_0"], [["early", "0_1_0", "0_2_0"]]]


def test_latents_outside_a_subgraph_count_as_errors():
    graph = chain()
    viewer = GraphViewer(graph=graph, nodes=1.0)
    viewer.pinned = ids(viewer)
    worker.settle()
    assert viewer.sub["scores"] == viewer.data["scores"], "all latents pinned: nothing is outside"
    viewer.pinned = []
    worker.settle()
    assert viewer.sub["scores"]["replacement"] == 0, "no token reaches the target but through latents"
    viewer.pinned = ["1_3_1", "0_1_0"]
    worker.settle()
    # y: 1/5 error, 3/5 from 1/3, 1/5 lost with 1/4; 1/3: 1/4 token b, 1/2 from 0/1, 1/4 lost with 0/2
    tokens = 3 / 5 * (1 / 4 + 1 / 2 * 1 / 2)
    assert viewer.sub["scores"]["replacement_as_circuit_tracer"] == pytest.approx(
        (3 / 5 * (1 / 4 + 1 / 2)) / (3 / 5 * (1 / 4 + 1 / 2) + 1 / 5 + 1 / 5 + 3 / 5 / 4), rel=1e-3
    )
    assert viewer.sub["scores"]["replacement"] == pytest.approx(tokens, rel=1e-3)


def test_groups_that_cannot_be_one_node_are_refused_and_nothing_changes():
    viewer = GraphViewer(graph=chain())
    for nodes, said in (
        (["0_1_0"], "two nodes or more"),
        (["0_1_0", "E_0_0"], "one kind makes a supernode"),
        (["0_1_0", "3_0_1"], "of kinds latent, logit"),
        (["0_1_0", "nowhere"], "has no node 'nowhere'"),
    ):
        viewer.query = {"do": "group", "n": said, "name": "x", "ids": nodes}
        worker.settle()
        assert said in viewer.error and viewer.supernodes == []
    viewer.query = {"do": "group", "n": 1, "name": "", "ids": ["0_1_0", "0_2_0"]}
    worker.settle()
    assert viewer.supernodes == [["group 1", "0_1_0", "0_2_0"]] and viewer.error == ""
    with pytest.raises(ValueError, match="each name once"):
        viewer.group("group 1", ["1_3_1", "1_4_1"])
    viewer.ungroup("group 1")
    assert viewer.supernodes == [] and viewer.pinned == ["0_1_0", "0_2_0"]
    with pytest.raises(ValueError, match="no supernode 'group 1': there are none"):
        viewer.ungroup("group 1")


def test_what_is_pinned_reaches_the_page_though_it_matters_little():
    rows = [row("token", -1, 0), *[row("latent", 0, 0, i) for i in range(30)], row("logit", 1, 0)]
    edges = torch.zeros(31, 32)
    edges[0, 1:31] = torch.arange(30, 0, -1)
    edges[1:, 0] = 1
    graph = Graph(frame(rows), edges, torch.tensor([31, *range(1, 31)]), torch.tensor([1.0] + [0.0] * 30))
    viewer = GraphViewer(graph=graph, most=12)
    assert "0_29_0" not in viewer.data["nodes"]["id"]
    viewer.pinned = ["0_29_0"]
    worker.settle()
    assert "0_29_0" in viewer.data["nodes"]["id"] and len(viewer.data["nodes"]["id"]) == 12
    assert len(viewer.kept["nodes"]) == 12


def test_proposals_are_groups_that_can_be_taken(viewer):
    found = viewer.propose(threshold=-1.0)
    assert found and viewer.proposed == found and all(len(g) > 2 for g in found)
    viewer.take([found[0][0]])
    assert viewer.supernodes == [found[0]] and found[0] not in viewer.proposed
    assert not any(set(g[1:]) & set(found[0][1:]) for g in viewer.propose(threshold=-1.0)), (
        "what is grouped is not anew"
    )
    bare = GraphViewer(graph=chain())
    with pytest.raises(ValueError, match="give tracing="):
        bare.propose()
    for node in ("0_1_0", "0_2_0", "1_3_1", "1_4_1"):
        bare.label(node, "cats and dogs" if node[0] == "0" else "verbs")
    assert {tuple(g[1:]) for g in bare.propose()} == {("0_1_0", "0_2_0"), ("1_3_1", "1_4_1")}


# ---- labels and cards


def test_labels_are_kept_in_their_file(tmp_path):
    path = tmp_path / "labels.json"
    viewer = GraphViewer(graph=chain(), labels=path)
    viewer.query = {"do": "label", "n": 1, "id": "0_1_0", "text": " a\nname "}
    assert viewer.labels == {"0_1_0": "a name"} and json.loads(path.read_text()) == {"0_1_0": "a name"}
    assert GraphViewer(graph=chain(), labels=Labels(path)).labels == viewer.labels
    viewer.label("0_1_0", "")
    assert viewer.labels == {} and json.loads(path.read_text()) == {}
    viewer.query = {"do": "label", "n": 2, "id": "0_1_0", "text": "x" * 501}
    assert "at most 500" in viewer.error and viewer.labels == {}


def test_a_selected_latent_brings_its_card():
    asked = []

    def index(layer, latent):
        asked.append((layer, latent))
        return {"latent": latent}

    viewer = GraphViewer(graph=chain(), index=index)
    viewer.selected = "1_3_1"
    worker.settle()
    assert viewer.card == {"of": "1_3_1", "card": {"latent": 3}} and asked == [(1, 3)]
    viewer.selected = "E_0_0"
    worker.settle()
    assert viewer.card == {}
    viewer = GraphViewer(graph=chain(), index={7: index})
    viewer.selected = "1_3_1"
    worker.settle()
    assert viewer.card == {"of": "1_3_1", "none": "no index of layer 1 was given"}


# ---- interventions


def test_one_latent_moves_the_targets_as_faithful_says(viewer, traced):
    """Two ways to the same run: `faithful.observed` of one latent, and ours of several."""
    tracing, graph = traced
    subject, transcoders, _, _ = two_hop()
    nodes = (graph.of("latent") & torch.tensor((graph.nodes["pos"] == 3).to_numpy())).nonzero()[:, 0].tolist()
    for factor in (0.0, 2.0, -1.0):
        for node in nodes[::6]:
            found = viewer.scale([viewer._ids[node]], factor)
            for name, frozen in (("held", True), ("free", False)):
                lost = faithful.observed(
                    subject, tracing.tokens, transcoders, graph, [node], AIMS, frozen=frozen, factor=factor
                )
                wanted = (-(1 - factor) * lost[:, 0]).tolist()
                assert [r[name] for r in found["rows"]] == pytest.approx(
                    wanted, abs=2e-3 * max(map(abs, wanted)) + 1e-5
                )


def test_in_a_linear_model_a_group_does_what_the_graph_predicts(viewer, traced):
    """Members of both layers: what the first writes reaches the second, whose own writing is scaled as well."""
    _, graph = traced
    some = graph.nodes[(graph.nodes["kind"] == "latent") & (graph.nodes["pos"] == 3)]
    names = [viewer._ids[i] for i in [*some[some["layer"] == 0].index[:3], *some[some["layer"] == 1].index[:3]]]
    viewer.query = {"do": "scale", "n": 1, "ids": names, "name": "both", "factor": -1}
    worker.settle()
    (trial,) = viewer.trials
    assert trial["name"] == "both" and trial["factor"] == -1 and viewer.error == ""
    assert max(abs(r["predicted"]) for r in trial["rows"]) > 0.01
    for r in trial["rows"]:
        assert r["held"] == pytest.approx(r["predicted"], abs=1e-4) and r["free"] == pytest.approx(r["held"], abs=1e-4)
    assert [r["target"] for r in trial["rows"]] == [f"y{i}" for i in range(5)]


def test_signs_are_counted():
    trial = payload.graph_trial("x", ["a"], 0.0, "abc", [1, 1, 1], [1, -1, 0], [2, 1, 0], [0.1, -3, 1])
    assert trial["agree"] == {"held": 2, "free": 2}
    assert [r["agree"]["held"] for r in trial["rows"]] == [True, False, True]
    noise = payload.graph_trial("x", ["a"], 0.0, "ab", [1, 1], [0, 1], [1e-9, 1], [-1e-3, 1])
    assert noise["agree"] == {"held": 2, "free": 1}


def test_what_cannot_be_scaled_is_refused(viewer):
    latent, error = ids(viewer)[0], ids(viewer, "error")[0]
    for nodes, factor, said in (
        ([error], 0, "only latents are scaled: 'error"),
        ([latent], 1, "other than 1"),
        ([latent], float("nan"), "other than 1"),
        ([latent], None, "other than 1"),
        ([], 0, "only latents"),
    ):
        with pytest.raises(ValueError, match=said):
            viewer.scale(nodes, factor)
    with pytest.raises(ValueError, match="give GraphViewer\\(tracing="):
        GraphViewer(graph=chain()).scale(["0_1_0"], 0)


def test_a_latent_as_target_is_followed_too():
    subject, transcoders, _, _ = two_hop()
    code = Tracing(subject, torch.tensor([[0, 7, 19, 23]]), transcoders, AIMS, progress=False).active
    late = int(((code.layer == 1) & (code.pos == 3)).nonzero()[0, 0])
    aim = targets.latent(1, 3, int(code.latent[late]))
    tracing = Tracing(subject, torch.tensor([[0, 7, 19, 23]]), transcoders, aim, progress=False)
    viewer = GraphViewer(graph=tracing.graph(), tracing=tracing, nodes=1.0)
    early = next(i for i in ids(viewer) if i.startswith("0_") and i.endswith("_3"))
    (r,) = viewer.scale([early], 0.0)["rows"]
    assert r["before"] == pytest.approx(float(code.pre[late]), rel=1e-3) and abs(r["predicted"]) > 1e-4
    assert r["held"] == pytest.approx(r["predicted"], rel=1e-2)


# ---- files


def test_marks_go_through_a_file(tmp_path):
    viewer = GraphViewer(graph=chain(), nodes=1.0, edges=1.0, tokens=["<b>", "\u202e"])
    viewer.group("early", ["0_1_0", "0_2_0"])
    viewer.pinned, viewer.selected = ["1_3_1", "bias_0"], "1_3_1"
    viewer.label("0_2_0", "names")
    worker.settle()
    path = viewer.save(tmp_path / "a graph.json")
    again = GraphViewer.load(path)
    for name in ("pinned", "supernodes", "selected", "labels"):
        assert getattr(again, name) == getattr(viewer, name), name
    assert again.graph.nodes["label"].tolist()[4] == "names" and again.shares[0] == 1
    assert again.data["columns"]["word"] == ["<b>", "\u202e"] and torch.equal(again.graph.edges, chain().edges)
    value = json.loads(path.read_text())
    assert value["qParams"]["supernodes"] == [["early", "0_1_0", "0_2_0"]] and value["qParams"]["clickedId"] == "1_3_1"
    assert value["qParams"]["pinnedIds"] == ["1_3_1", "0_1_0", "0_2_0"], "no id that front-ends do not know"
    assert next(n for n in value["nodes"] if n["node_id"] == "0_2_0")["clerp"] == "names"


def test_a_saved_graph_is_what_is_shown(tmp_path):
    viewer = GraphViewer(graph=chain(), nodes=0.5, edges=0.9)
    pruned = chain().prune(0.5, 0.9)
    again = export.read(viewer.save(tmp_path / "g.json"))
    assert again.nodes["label"].tolist() == pruned.nodes["label"].tolist() and torch.equal(again.edges, pruned.edges)


def test_a_new_graph_is_written_beside_and_over_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("graph.json").write_text("mine")
    viewer = GraphViewer(graph=chain())
    for _ in range(2):
        viewer.query = {"do": "save", "n": random.random()}
        worker.settle()
        assert viewer.said == "written to graph-2.json" and viewer.error == ""
    assert Path("graph.json").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def other(**marks):
    """A file of circuit-tracer's: no key of ours, two ids of one latent, a label by feature."""
    node = {"clerp": "", "feature_type": "cross layer transcoder", "ctx_idx": 0}
    return {
        "metadata": {"slug": "s", "scan": "m", "prompt_tokens": ["<s>"], "schema_version": 1, "extra": [1]},
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "in", "clickedId": "", "sg_pos": "7"} | marks,
        "nodes": [
            {**node, "node_id": "0_9_0", "feature": export.cantor(0, 9), "layer": "0", "activation": 2.0},
            {**node, "node_id": "1_3_0", "feature": export.cantor(1, 3), "layer": "1", "activation": 1.0},
            {**node, "node_id": "E_5_0", "feature": 0, "layer": "E", "feature_type": "embedding"},
            {**node, "node_id": "2_8_0", "feature": 8, "layer": "2", "feature_type": "logit", "token_prob": 0.5},
        ],
        "links": [
            {"source": s, "target": t, "weight": v}
            for s, t, v in (("E_5_0", "0_9_0", 2.0), ("0_9_0", "1_3_0", 1.0), ("1_3_0", "2_8_0", -0.5))
        ],
    }


def test_files_of_others_keep_all_that_they_had(tmp_path):
    path = tmp_path / "g.json"
    marks = {
        "pinnedIds": ["E_5_0", "gone"], "supernodes": [["both", "0_9_0", "1_3_0"]],
        "clerps": json.dumps([[str(export.cantor(0, 9)), "cats"], ["1_10_0", "dogs"]]), "pruningThreshold": "0.9",
    }  # fmt: skip
    assert export.cantor(1, 3) == 13
    marks["clerps"] = json.dumps([[str(export.cantor(0, 9)), "cats"], ["1_13_0", "dogs"]])
    path.write_text(json.dumps(other(**marks)))
    viewer = GraphViewer.load(path)
    assert viewer.pinned == ["E_5_0"] and viewer.supernodes == [["both", "0_9_0", "1_3_0"]]
    assert viewer.labels == {"0_9_0": "cats", "1_3_0": "dogs"} and viewer.shares[0] == 0.9
    assert viewer.said == "1 pinned or grouped ids of the file are not among its nodes"
    viewer.query = {"do": "save", "n": 1}
    worker.settle()
    value, before = json.loads(path.read_text()), other(**marks)
    assert viewer.said == f"written to {path}" and value["links"] == before["links"]
    assert value["metadata"] == before["metadata"] and value["qParams"]["sg_pos"] == "7"
    assert [n["clerp"] for n in value["nodes"]] == ["cats", "dogs", "", ""]
    assert GraphViewer.load(path).labels == viewer.labels


def test_a_files_group_of_several_kinds_is_honoured(tmp_path):
    path = tmp_path / "g.json"
    path.write_text(json.dumps(other(supernodes=[["mixed", "E_5_0", "0_9_0"], ["one", "1_3_0"]], pinnedIds=["1_3_0"])))
    viewer = GraphViewer.load(path)
    assert viewer.supernodes == [["mixed", "E_5_0", "0_9_0"]] and viewer.pinned == ["1_3_0"]
    assert [n["ids"] for n in viewer.sub["nodes"]] == [["E_5_0", "0_9_0"][::-1], ["1_3_0"], ["2_8_0"]]
    assert viewer.sub["nodes"][0]["value"] == 0, "2 of a latent, less 2 that it has from within"
    assert viewer.sub["edges"] == [[1, 0, 1, 1], [2, 1, -0.5, 1]]


def test_a_group_that_feeds_itself_through_another_node_is_refused():
    viewer = GraphViewer(graph=deep())
    viewer.pinned = ["1_2_0"]
    with pytest.raises(ValueError, match="feeds itself through another node"):
        viewer.group("ends", ["0_1_0", "2_3_0"])
    assert viewer.supernodes == []
    viewer.pinned = []
    viewer.group("ends", ["0_1_0", "2_3_0"])  # what is between them is not in the subgraph
    assert viewer.supernodes == [["ends", "0_1_0", "2_3_0"]]


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"pinnedIds": 3}, "pinnedIds must be a list"),
        ({"supernodes": [["a", 3]]}, "supernodes must be lists"),
        ({"supernodes": "[["}, "supernodes of qParams is text that is not JSON"),
        ({"clerps": [1]}, "clerps must be pairs"),
    ],
)
def test_marks_that_are_none_are_told(tmp_path, marks, said):
    path = tmp_path / "g.json"
    path.write_text(json.dumps(other(**marks)))
    with pytest.raises(ValueError, match=said) as caught:
        GraphViewer.load(path)
    assert "\n" not in str(caught.value)


def test_damaged_marks_are_a_line_or_a_viewer(tmp_path):
    path, good = tmp_path / "g.json", 0
    marks = {
        "pinnedIds": ["E_5_0"],
        "supernodes": [["a", "0_9_0", "1_3_0"]],
        "clerps": '[["44", "x"]]',
        "clickedId": "a",
    }
    for seed in range(120):
        rng, value = random.Random(seed), copy.deepcopy(other(**marks, pruningThreshold="0.8"))
        *way, last = rng.choice([p for p in places(value["qParams"]) if p])
        inner = value["qParams"]
        for key in way:
            inner = inner[key]
        inner[last] = rng.choice(JUNK)
        path.write_text(json.dumps(value))
        try:
            viewer = GraphViewer.load(path)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            good += 1
            json.dumps([viewer.pinned, viewer.supernodes, viewer.labels, viewer.sub], allow_nan=False)
    assert 20 < good < 110


def test_the_picture_that_a_page_sends_is_not_in_the_notebook():
    viewer = GraphViewer(graph=chain())
    viewer._handle_custom_msg({"svg": "<svg/>"}, [])
    assert viewer.svg == "<svg/>" and "svg" not in viewer.get_state()

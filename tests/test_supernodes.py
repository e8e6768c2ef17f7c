"""Supernodes: proposals by weights, co-activation and labels, and merged graphs whose rows still add up."""

import json

import pandas as pd
import pytest
import torch

from workbench.circuits import export, faithful, supernodes
from workbench.circuits.graph import Graph, frame
from workbench.dictionary import recipe


def node(kind, label, layer=0, pos=0, latent=-1, value=0.0):
    return {"kind": kind, "layer": layer, "pos": pos, "latent": latent, "value": value, "label": label}


def chain():
    """t -> a -> b -> y, and c from t and bias: a = 2 t, b = 3 a + 1 bias, c = 1 t + 3 bias, y = 5 b - 1 c + 2 a."""
    rows = [
        node("token", "t", -1), node("bias", "bias", -1, -1, value=1.0), node("latent", "a", 0, 0, 0, 2.0),
        node("latent", "b", 1, 0, 0, 4.0), node("latent", "c", 1, 0, 1, 4.0), node("logit", "y", 2, value=6.0),
    ]  # fmt: skip
    edges = torch.zeros(4, 6, dtype=torch.float64)
    edges[0, 0] = 2.0
    edges[1, 2], edges[1, 1] = 3.0, 1.0
    edges[2, 0], edges[2, 1] = 1.0, 3.0
    edges[3, 3], edges[3, 4], edges[3, 2] = 5.0, -1.0, 2.0
    return Graph(frame(rows), edges, torch.tensor([2, 3, 4, 5]), torch.tensor([0, 0, 0, 1.0]).double()).check(1e-9)


def drawn(seed, layers=4, wide=5):
    """A random graph of latents layer upon layer, rows adding up, a third of the edges 0."""
    rng = torch.Generator().manual_seed(seed)
    rows = [node("token", f"t{p}", -1, p) for p in range(2)] + [node("error", f"e{p}", 0, p, value=1.0) for p in (0, 1)]
    rows += [node("latent", f"{i}/{f}", i, f % 2, f) for i in range(layers) for f in range(wide)]
    rows += [node("logit", "y", layers, 1)]
    table = frame(rows)
    targets = torch.tensor((table["kind"].isin(["latent", "logit"])).to_numpy()).nonzero()[:, 0]
    layer = torch.tensor(table["layer"].to_numpy())
    edges = torch.randn(len(targets), len(rows), generator=rng, dtype=torch.float64)
    edges *= (layer[None] < layer[targets][:, None]) & (torch.rand(edges.shape, generator=rng) < 0.67)
    table.loc[targets.numpy(), "value"] = edges.sum(1).numpy()
    return Graph(table, edges, targets, (layer[targets] == layers).double()).check(1e-9)


# ---- merging


def test_a_merged_chain_by_hand():
    graph, groups = chain(), {2: "ab", 3: "ab"}
    small = supernodes.merged(graph, groups).check(1e-9)
    assert small.nodes["label"].tolist() == ["t", "bias", "ab", "c", "y"]
    assert small.nodes["value"].tolist() == [0, 1, 3, 4, 6], "2 + 4 less the 3 that a gives b"
    assert small.edges.tolist() == [[2, 1, 0, 0, 0], [1, 3, 0, 0, 0], [0, 0, 7, -1, 0]]
    assert small.nodes.loc[2, ["kind", "layer", "latent"]].tolist() == ["latent", 1, 0]
    (row,) = supernodes.inside(graph, groups).to_dict("records")
    assert row == {"supernode": "ab", "members": 2, "value": 6, "inside": 3, "outside": 3}
    assert graph.nodes["label"].tolist() == ["t", "bias", "a", "b", "c", "y"], "the given graph is left alone"


def test_in_a_merged_chain_what_enters_is_what_leaves():
    """a feeds b alone: taking the chain's only source away takes all of what the chain writes, merged or not."""
    rows = [node("token", "t", -1), node("latent", "a", 0, 0, 0, 2.0), node("latent", "b", 1, 0, 0, 3.0),
            node("logit", "y", 2, value=8.0)]  # fmt: skip
    edges = torch.tensor([[2.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 1.0, 7.0, 0]])
    graph = Graph(frame(rows), edges, torch.tensor([1, 2, 3]), torch.tensor([0, 0, 1.0])).check()
    small = supernodes.merged(graph, {1: "ab", 2: "ab"})
    for g in (graph, small):
        assert float(faithful.predicted(g)[0, 0]) == pytest.approx(8.0)
        assert float(g.influence()[0]) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_merged_graphs_add_up(seed):
    graph = drawn(seed)
    latents, layer = graph.of("latent").nonzero()[:, 0].tolist(), graph.nodes["layer"].tolist()
    halves = {n: f"{layer[n] // 2}" for n in latents}
    small, terms = supernodes.merged(graph, halves).check(1e-9), supernodes.inside(graph, halves)
    assert small.of("latent").sum() == 2 and (terms["inside"] != 0).all()
    assert float(small.edges.sum()) + terms["inside"].sum() == pytest.approx(float(graph.edges.sum()))
    one_layer = {n: f"layer {layer[n]}" for n in latents}
    assert supernodes.merged(graph, one_layer).check(1e-9).of("latent").sum() == 4
    assert (supernodes.inside(graph, one_layer)["inside"] == 0).all()


def test_influence_of_a_merged_graph_is_that_with_its_self_term_repeated():
    graph, groups = chain(), {2: "ab", 3: "ab"}
    small = supernodes.merged(graph, groups)
    looped = torch.zeros(5, 5, dtype=torch.float64)
    looped[small.targets] = small.edges
    looped[2, 2] = 3.0
    shares = looped.abs() / looped.abs().sum(1, keepdim=True).clamp_min(1e-30)
    start = torch.zeros(5, dtype=torch.float64)
    start[4] = 1
    series = start @ torch.linalg.inv(torch.eye(5, dtype=torch.float64) - shares) - start
    others = [0, 1, 3]
    torch.testing.assert_close(small.influence()[others], series[others])


@pytest.mark.parametrize("seed", range(3))
def test_no_group_changes_nothing_and_names_do_not_count(seed):
    graph = drawn(seed)
    same = supernodes.merged(graph, {})
    assert same.nodes.equals(graph.nodes) and torch.equal(same.edges, graph.edges)
    alone = supernodes.merged(graph, {5: "five"})
    assert torch.equal(alone.edges, graph.edges) and alone.nodes["label"].iloc[5] == "five"


def test_what_cannot_be_merged_is_said_in_one_line():
    graph = chain()
    edges = graph.edges.clone()
    edges[2, 3], edges[2, 1] = 1.0, 2.0  # a -> b -> c beside what there is
    ring = Graph(graph.nodes, edges, graph.targets, graph.weights).check(1e-9)
    with pytest.raises(ValueError, match="feeds itself through another node, .*'b'.*: split it") as caught:
        supernodes.merged(ring, {2: "a and c", 4: "a and c"})
    assert "\n" not in str(caught.value)
    for groups, said in (
        ({2: "x", 9: "x"}, "the graph has nodes 0 to 5, 'x' has 9"),
        ({0: "x", 2: "x"}, "'x' has nodes of kinds token, latent"),
        (pd.DataFrame({"node": [2, 2], "supernode": ["x", "y"]}), "a node is in two groups"),
        (pd.DataFrame({"node": [2]}), "groups must have the columns node, supernode"),
    ):
        with pytest.raises(ValueError, match=said):
            supernodes.merged(graph, groups)
    rowless = Graph(graph.nodes, graph.edges[1:], graph.targets[1:], graph.weights[1:])
    with pytest.raises(ValueError, match="1 of 2 members of 'x' have a row"):
        supernodes.merged(rowless, {2: "x", 3: "x"})


def test_the_list_is_in_the_form_of_the_file():
    graph, groups = chain(), {3: "two", 4: "two"}
    value = export.to_json(graph, slug="x", prompt_tokens=["t"])
    found = supernodes.listed(graph, groups)
    assert found == [["two", "1_0_0", "1_1_0"]]
    assert set(found[0][1:]) <= {n["node_id"] for n in value["nodes"]}
    value["qParams"]["supernodes"] = found
    assert export.from_json(json.loads(json.dumps(value))).edges.equal(graph.edges)


# ---- proposals


def eye(*groups):
    """Similarity 1 within groups, 0 between."""
    group = torch.tensor(groups)
    return (group[:, None] == group).double()


def test_similarity_by_hand():
    graph = chain()
    reads = torch.tensor([[1.0, 0], [1, 1], [0, 0]])
    alike = supernodes.similarity(graph, reads=reads)
    assert alike[0].tolist() == pytest.approx([1, 0.5**0.5, 0]) and alike[2].tolist() == [0, 0, 1]
    together = pd.DataFrame([[0, 0, 1, 0, 0.25]], columns=["layer", "latent", "other_layer", "other_latent", "value"])
    both = supernodes.similarity(graph, reads=reads, together=together, weights={"together": 3.0})
    assert float(both[0, 1]) == float(both[1, 0]) == pytest.approx((0.5**0.5 + 3 * 0.25) / 4)
    labels = pd.DataFrame({"layer": [0, 1, 1], "latent": [0, 0, 1], "label": ["the cat", "The dog", "cat, the"]})
    words = supernodes.similarity(graph, labels=labels)
    the, cat, dog = torch.tensor([4 / 3, 4 / 2, 4 / 1]).log().tolist()
    assert float(words[0, 2]) == pytest.approx(1)
    wanted = the**2 / ((the**2 + cat**2) * (the**2 + dog**2)) ** 0.5
    assert float(words[0, 1]) == pytest.approx(wanted)
    unknown = supernodes.similarity(graph, reads=reads, labels=labels.iloc[:2])
    assert float(unknown[0, 2]) == 0 and float(unknown[0, 1]) == pytest.approx(
        (0.5**0.5 + float(supernodes.similarity(graph, labels=labels.iloc[:2])[0, 1])) / 2
    )


def test_planted_families_are_found_by_their_weights():
    torch.manual_seed(0)
    graph = drawn(0, layers=2, wide=8)
    latents = graph.nodes[graph.nodes["kind"] == "latent"].reset_index(names="node")
    family = torch.tensor([(layer * 2 + pos) * 2 + latent // 4 for layer, pos, latent in
                           latents[["layer", "pos", "latent"]].to_numpy().tolist()])  # fmt: skip
    centres = torch.linalg.qr(torch.randn(16, 16)).Q
    reads, writes = (centres[family + shift] + 0.08 * torch.randn(16, 16) for shift in (0, 8))
    groups = supernodes.propose(graph, supernodes.similarity(graph, reads=reads, writes=writes))
    found = {frozenset(g["node"]) for _, g in groups.groupby("supernode")}
    wanted = {frozenset(latents["node"][(family == f).numpy()]) for f in family.unique()}
    assert found == wanted and len(wanted) == 8
    assert (groups["alike"] > 0.7).all()
    supernodes.merged(graph, groups).check(1e-9)


def test_positions_and_far_layers_that_feed_each_other_stay_apart_unless_asked():
    rows = [node("token", "t", -1), *(node("latent", f"l{i}", 3 * i, 0, 0, 1.0) for i in range(3)),
            node("latent", "other", 6, 1, 0, 1.0), node("logit", "y", 9, value=2.0)]  # fmt: skip
    edges = torch.zeros(5, 6)
    edges[0, 0] = edges[3, 0] = 1.0
    edges[1, 1] = edges[2, 2] = 1.0  # l0 -> l1 -> l2
    edges[4, 3] = edges[4, 4] = 1.0
    graph = Graph(frame(rows), edges, torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 0, 0, 0, 1.0])).check()
    all_alike = torch.ones(4, 4)

    def found(**args):
        return sorted(sorted(g["label"]) for _, g in supernodes.propose(graph, all_alike, **args).groupby("supernode"))

    assert found() == [] and found(near=None) == [["l0", "l1", "l2"]]
    assert found(near=3) in ([["l0", "l1"]], [["l1", "l2"]]), "l0 feeds l2 by a path, six layers apart"
    assert found(near=None, same_pos=False) == [["l0", "l1", "l2", "other"]]
    assert found(same_pos=False)[0][-1] == "other", "what is not fed may join"


@pytest.mark.parametrize("linkage", ["average", "complete"])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_proposed_can_be_merged(seed, linkage):
    graph = drawn(seed, layers=5, wide=6)
    rng = torch.Generator().manual_seed(seed)
    noise = torch.rand(30, 30, generator=rng).double()
    alike = ((noise + noise.T) / 2).fill_diagonal_(1)
    for near in (1, None):
        groups = supernodes.propose(graph, alike, threshold=0.3, linkage=linkage, near=near, same_pos=False)
        assert len(groups) > 4
        small = supernodes.merged(graph, groups).check(1e-8)
        assert len(small.nodes) == len(graph.nodes) - len(groups) + groups["supernode"].nunique()
        small.influence()
        if linkage == "complete":
            order = {n: i for i, n in enumerate(graph.of("latent").nonzero()[:, 0].tolist())}
            for _, g in groups.groupby("supernode"):
                at = [order[n] for n in g["node"]]
                assert float(alike[at][:, at].min()) >= 0.3 - 1e-6


def test_groups_that_would_feed_each_other_in_a_ring_are_not_both_made():
    """a1 -> b1 and b2 -> a2: the pairs (a1, a2) and (b1, b2) are each fine, together a ring."""
    rows = [node("token", "t", -1), node("latent", "a1", 0, 0, 0, 1.0), node("latent", "b2", 0, 0, 1, 1.0),
            node("latent", "b1", 1, 0, 2, 1.0), node("latent", "a2", 1, 0, 3, 1.0),
            node("logit", "y", 2, value=2.0)]  # fmt: skip
    edges = torch.zeros(5, 6)
    edges[0, 0] = edges[1, 0] = edges[2, 1] = edges[3, 2] = edges[4, 3] = edges[4, 4] = 1.0
    graph = Graph(frame(rows), edges, torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 0, 0, 0, 1.0])).check()
    groups = supernodes.propose(graph, eye(0, 1, 1, 0))
    assert len(groups) == 2
    supernodes.merged(graph, groups).check()
    with pytest.raises(ValueError, match="feeds itself through another node"):
        supernodes.merged(graph, {1: "a", 4: "a", 2: "b", 3: "b"})


def test_a_group_is_named_after_the_member_most_like_the_others():
    graph = chain()
    alike = torch.tensor([[1, 0.6, 0.9], [0.6, 1, 0.8], [0.9, 0.8, 1]])
    labels = pd.DataFrame({"layer": [0, 1, 1], "latent": [0, 0, 1], "label": ["one", "two", "capital cities"]})
    groups = supernodes.propose(graph, alike, labels=labels)
    assert set(groups["supernode"]) == {"capital cities"} and groups["alike"].tolist() == pytest.approx(
        [0.75, 0.7, 0.85]
    )
    assert supernodes.propose(graph, alike, threshold=0.95).empty
    same = labels.assign(label="same")
    wide = drawn(1, layers=2, wide=4)
    family = torch.tensor([(n.layer * 2 + n.pos) for n in wide.nodes[wide.nodes["kind"] == "latent"].itertuples()])
    more = pd.concat([same, pd.DataFrame({"layer": 0, "latent": [1, 2, 3], "label": "same"})])
    names = supernodes.propose(wide, (family[:, None] == family).double(), labels=more)["supernode"].unique()
    assert len(names) == 4 and "same" in names and "same (2)" in names


def test_directions_are_the_encoders_columns_and_the_atoms():
    graph = chain()
    t = {layer: recipe("transcoder", d=8, latents=4, k=2, seed=layer).dictionary.freeze() for layer in (0, 1)}
    for d in t.values():
        d.set_scale_(2.0, 0.5)
    reads, writes = supernodes.directions(graph, t)
    for i, (layer, latent) in enumerate(((0, 0), (1, 0), (1, 1))):
        torch.testing.assert_close(reads[i], t[layer].encoder.weight[:, latent] * t[layer].scale_in)
        torch.testing.assert_close(writes[i], t[layer].atoms([latent])[0])
    with pytest.raises(ValueError, match=r"latents of layers \[1\], transcoders are given for \[0\]"):
        supernodes.directions(graph, {0: t[0]})
    cross = recipe("crosslayer_transcoder", d=8, latents=8, sites=2, k=2).dictionary.freeze()
    graph.nodes.loc[3:4, "latent"] = [4, 5]
    reads, writes = supernodes.directions(graph, cross)
    assert reads.shape == (3, 8) and writes.shape == (3, 16) and (reads != 0).any(1).all()
    torch.testing.assert_close(writes[1], cross.atoms([4])[0].flatten())


def test_bad_calls_are_one_line():
    graph = chain()
    with pytest.raises(ValueError, match="give one or more of reads, writes, together and labels, got nothing"):
        supernodes.similarity(graph)
    with pytest.raises(ValueError, match="weights are for writes"):
        supernodes.similarity(graph, reads=torch.ones(3, 2), weights={"writes": 1.0})
    with pytest.raises(ValueError, match=r"reads must be finite, of shape \(3, d\), one row a latent, got \(2, 2\)"):
        supernodes.similarity(graph, reads=torch.ones(2, 2))
    with pytest.raises(ValueError, match="labels must have the columns layer, latent, label, got none called label"):
        supernodes.similarity(graph, labels=pd.DataFrame({"layer": [], "latent": []}))
    with pytest.raises(ValueError, match=r"together holds 2.0 for \(0, 0\) and \(1, 0\)"):
        columns = ["layer", "latent", "other_layer", "other_latent", "value"]
        supernodes.similarity(graph, together=pd.DataFrame([[0, 0, 1, 0, 2.0]], columns=columns))
    with pytest.raises(ValueError, match="linkage must be of average, complete, got 'single'"):
        supernodes.propose(graph, torch.eye(3), linkage="single")
    with pytest.raises(ValueError, match=r"alike must be \(3, 3\), symmetric and at most 1, got \(2, 2\)"):
        supernodes.propose(graph, torch.eye(2))

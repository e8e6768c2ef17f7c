"""Differences and unions of graphs: exact by hand, rows add up, and a pool of one graph is the graph."""

import pytest
import torch

from workbench.circuits import export, faithful, supernodes
from workbench.circuits.algebra import difference, union
from workbench.circuits.graph import Graph, frame
from workbench.circuits.targets import difference as logits
from workbench.circuits.tracers.transcoder import trace
from workbench.dictionary import recipe
from workbench.testbeds import subject, world


def node(kind, label, layer=0, pos=0, latent=-1, value=0.0):
    return {"kind": kind, "layer": layer, "pos": pos, "latent": latent, "value": value, "label": label}


def clean():
    """logit 7 = 3 l3 + 4 l5 ... of tokens a, b: l3 = 1 a + 1 b, l5 = 2 b + 1 bias."""
    rows = [
        node("token", "a", -1, 1), node("token", "b", -1, 2), node("bias", "encoder bias", -1, -1, value=1.0),
        node("latent", "0/3 at 2", 0, 2, 3, 2.0), node("latent", "0/5 at 2", 0, 2, 5, 3.0),
        node("logit", "' Mary' (p 0.50)", 1, 2, value=7.0),
    ]  # fmt: skip
    edges = torch.tensor([[0, 0, 0, 3.0, 4.0, 0], [1.0, 1, 0, 0, 0, 0], [0, 2.0, 1, 0, 0, 0]])
    return Graph(frame(rows), edges, torch.tensor([5, 3, 4]), torch.tensor([0.5, 0, 0]))


def corrupted(shift=0):
    """The same prompt with token c for b: l3 is on, l5 is off, l9 says no."""
    rows = [
        node("logit", "' Mary' (p 0.10)", 1, 2 + shift, value=-1.0), node("token", "a", -1, 1 + shift),
        node("token", "c", -1, 2 + shift), node("latent", "0/3 at 2", 0, 2 + shift, 3, 0.5),
        node("latent", "0/9 at 2", 0, 2 + shift, 9, 4.0),
    ]  # fmt: skip
    edges = torch.tensor([[0, 0, 0, 1.0, -2], [0, 1, -0.5, 0, 0], [0, 0, 4, 0, 0]])
    return Graph(frame(rows), edges, torch.tensor([0, 3, 4]), torch.tensor([0.1, 0, 0]))


def drawn(seed, positions=3, bias=True):
    """A random graph of 3 layers whose rows add up: tokens, some of 4 latents a layer and position, two logits."""
    rng = torch.Generator().manual_seed(seed)
    rows = [node("token", f"t{p}", -1, p) for p in range(positions)] + [node("bias", "bias", -1, -1)] * bias
    for layer in range(3):
        rows += [
            node("latent", f"{layer}/{f} at {p}", layer, p, f)
            for p in range(1, positions)
            for f in range(4)
            if torch.rand(1, generator=rng) < 0.7
        ]
    rows += [node("logit", name, 3, positions - 1) for name in ("x", "y")]
    table = frame(rows)
    targets = torch.tensor((table["kind"].isin(["latent", "logit"])).to_numpy()).nonzero()[:, 0]
    layer = torch.tensor(table["layer"].to_numpy())
    edges = torch.randn(len(targets), len(rows), generator=rng, dtype=torch.float64)
    edges *= layer[None] < layer[targets][:, None]
    table.loc[targets.numpy(), "value"] = edges.sum(1).numpy()
    weights = torch.where(layer[targets] == 3, 0.5, 0.0).double()
    return Graph(table, edges, targets, weights).check(1e-9)


def row(table, label):
    (found,) = (r for r in table.to_dict("records") if r["label"] == label)
    return found


def test_a_difference_by_hand():
    graph, nodes, edges = difference(clean().check(), corrupted().check())
    kept = {r["label"]: (r["found"], r["first"], r["second"], r["difference"]) for r in nodes.to_dict("records")}
    assert kept == {
        "a": ("both", 0, 0, 0), "b | c": ("both", 0, 0, 0), "encoder bias": ("first", 1, 0, 1),
        "0/3 at 2": ("both", 2, 0.5, 1.5), "0/5 at 2": ("first", 3, 0, 3), "0/9 at 2": ("second", 0, 4, -4),
        "' Mary'": ("both", 7, -1, 8),
    }  # fmt: skip
    found = {(r["from"], r["to"]): (r["first"], r["second"], r["difference"]) for r in edges.to_dict("records")}
    assert found == {
        ("0/3 at 2", "' Mary'"): (3, 1, 2), ("0/5 at 2", "' Mary'"): (4, 0, 4), ("0/9 at 2", "' Mary'"): (0, -2, 2),
        ("a", "0/3 at 2"): (1, 1, 0), ("b | c", "0/3 at 2"): (1, -0.5, 1.5), ("b | c", "0/5 at 2"): (2, 0, 2),
        ("encoder bias", "0/5 at 2"): (1, 0, 1), ("b | c", "0/9 at 2"): (0, 4, -4),
    }  # fmt: skip
    sizes = edges["difference"].abs().tolist()
    assert sizes == sorted(sizes, reverse=True)
    graph.check(1e-6)
    assert float(graph.values[graph.weights > 0]) == 8 and float(graph.weights.max()) == pytest.approx(0.3)
    influence = clean().influence()
    assert row(nodes, "0/5 at 2")["influence_first"] == pytest.approx(float(influence[4])) == pytest.approx(0.5 * 4 / 7)


def test_an_alignment_undoes_a_shift():
    here = difference(clean(), corrupted())
    there = difference(clean(), corrupted(shift=3), align={4: 1, 5: 2})
    assert there.edges.equals(here.edges) and there.nodes.equals(here.nodes)
    apart = difference(clean(), corrupted(shift=3))
    assert set(apart.nodes["found"]) == {"first", "second"}
    free = difference(clean(), corrupted(shift=3), align={4: 9, 5: 2})
    assert sorted(free.nodes[free.nodes["kind"] == "token"]["pos"]) == [1, 2, 9]
    free.graph.check(1e-6)
    with pytest.raises(ValueError, match=r"graph 1 has positions \[5\] that its alignment does not name"):
        difference(clean(), corrupted(shift=3), align={4: 1})


def test_a_union_by_hand():
    graph, nodes, edges = union([clean(), corrupted(), clean()])
    graph.check(1e-6)
    assert row(nodes, "0/3 at 2")["value"] == pytest.approx(1.5) and row(nodes, "0/3 at 2")["graphs"] == 3
    assert row(nodes, "0/9 at 2")["value"] == pytest.approx(4 / 3) and row(nodes, "0/9 at 2")["graphs"] == 1
    found = {(r["from"], r["to"]): (r["mean"], r["graphs"]) for r in edges.to_dict("records")}
    assert found["0/3 at 2", "' Mary'"] == (pytest.approx(7 / 3), 3)
    assert found["0/5 at 2", "' Mary'"] == (pytest.approx(8 / 3), 2)
    assert found["b | c", "0/9 at 2"] == (pytest.approx(4 / 3), 1)
    assert edges["mean"].abs().is_monotonic_decreasing
    wanted = (2 * 0.5 * 4 / 7) / 3
    assert row(nodes, "0/5 at 2")["influence"] == pytest.approx(wanted)


def test_positions_pool_by_sums_and_tokens_by_spelling():
    two = [
        node("token", "a", -1, 0), node("token", "b", -1, 1), node("token", "a", -1, 2),
        node("latent", "0/3 at 1", 0, 1, 3, 1.0), node("latent", "0/3 at 2", 0, 2, 3, 5.0),
        node("logit", "y", 1, 2, value=4.0),
    ]  # fmt: skip
    edges = torch.tensor([[2.0, -1, 0, 0, 0, 0], [1, 1, 3, 0, 0, 0], [0, 0, 0, 1, 3, 0]])
    graph, nodes, _ = union([Graph(frame(two), edges, torch.tensor([3, 4, 5]), torch.tensor([0, 0, 1.0]))], pooled=True)
    assert nodes["label"].tolist() == ["a", "b", "0/3", "y"] and set(nodes["pos"]) == {0}
    assert graph.edges.tolist() == [[6, 0, 0, 0], [0, 0, 4, 0]] and nodes["value"].tolist() == [0, 0, 6, 4]
    graph.check(1e-9)
    assert export.from_json(export.to_json(graph, slug="pooled", prompt_tokens=["*"])).edges.equal(graph.edges)


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_unions_and_differences_add_up_whatever_the_graphs(seed):
    graphs = [drawn(3 * seed + i, positions=3 + i) for i in range(3)]
    kept, pooled = union(graphs), union(graphs, pooled=True)
    for made in (kept.graph, pooled.graph, difference(graphs[0], graphs[2]).graph):
        made.check(1e-9)
        made.influence(), faithful.predicted(made)
    total = sum(float(g.edges.sum()) for g in graphs) / 3
    for made in (kept, pooled):
        assert float(made.graph.edges.sum()) == pytest.approx(total)
        assert made.edges["mean"].sum() == pytest.approx(total)
        assert made.nodes["graphs"].max() == 3 and made.nodes["graphs"].min() >= 1
    ends = [{p: p - (2 + i) for p in range(3 + i)} for i in range(3)]  # by distance from the end
    last = union(graphs, align=ends)
    last.graph.check(1e-9)
    assert last.nodes[last.nodes["kind"] == "logit"]["graphs"].tolist() == [3, 3]
    assert kept.nodes[kept.nodes["kind"] == "logit"]["graphs"].tolist() == [1] * 6


@pytest.mark.parametrize("seed", range(2))
def test_one_graph_is_its_own_union_and_nothing_less_itself(seed):
    graph = drawn(seed)
    alone = union([graph]).graph
    order = [alone.targets.tolist().index(t) for t in graph.targets.tolist()]
    assert alone.nodes.equals(graph.nodes) and torch.equal(alone.edges[order], graph.edges)
    assert torch.equal(alone.weights[order], graph.weights)
    twice, none = union([graph, graph]).graph, difference(graph, graph)
    torch.testing.assert_close(twice.influence(), graph.influence())
    assert (none.graph.edges == 0).all() and (none.nodes["influence_difference"] == 0).all()
    assert (none.nodes["found"] == "both").all()
    other = drawn(seed + 5)
    there, back = (difference(*pair).graph.edges.abs() for pair in ((graph, other), (other, graph)))
    assert float(there.sum()) == pytest.approx(float(back.sum())) and float(there.sum()) > 1


def test_graphs_of_a_models_prompts_are_compared_united_and_grouped():
    s, texts = subject("tiny_text_gelu"), world("tiny_text").sample(3, 4).ids[:, :8].split(1)
    t = {i: recipe("transcoder", d=s.d, latents=64, k=6, seed=i).dictionary.freeze() for i in (0, 1)}
    corrupted = texts[0].clone()
    corrupted[0, 6] = texts[1][0, 3]
    aims = logits(s, 5, 9)
    graphs = [trace(s, prompt, t, aims, progress=False) for prompt in (*texts, corrupted)]
    graph, nodes, edges = difference(graphs[0], graphs[3])
    graph.check()
    before = nodes["pos"].between(0, 5) & (nodes["kind"] != "logit")
    assert (nodes["found"][before] == "both").all() and (nodes["difference"][before].abs() < 1e-4).all()
    (aim,) = nodes[nodes["kind"] == "logit"].to_dict("records")
    assert aim["found"] == "both" and abs(aim["difference"]) > 0.01
    assert edges[edges["target"] == nodes.index[nodes["kind"] == "logit"][0]]["difference"].sum() == pytest.approx(
        aim["difference"], abs=1e-3
    )
    both, pooled = union(graphs[:3]), union(graphs[:3], pooled=True)
    both.graph.check(), pooled.graph.check()
    assert len(pooled.nodes) < len(both.nodes) and (pooled.nodes["graphs"] == 3).sum() > 10
    alike = supernodes.similarity(
        graphs[0], **dict(zip(("reads", "writes"), supernodes.directions(graphs[0], t), strict=True))
    )
    groups = supernodes.propose(graphs[0], alike, threshold=0.1)
    small = supernodes.merged(graphs[0], groups).check()
    assert len(groups) > 10 and len(small.nodes) == len(graphs[0].nodes) - len(groups) + groups["supernode"].nunique()


def test_bad_calls_are_one_line():
    twice = clean()
    twice.nodes.loc[4, "latent"] = 3
    with pytest.raises(ValueError, match="graph 1 has two nodes '0/5 at 2' that are one"):
        difference(clean(), twice)
    with pytest.raises(ValueError, match="no graphs to unite"):
        union([])
    with pytest.raises(ValueError, match="align tells positions apart"):
        union([clean()], align=[{1: 1, 2: 2}], pooled=True)
    with pytest.raises(ValueError, match="one alignment for each of 2 graphs"):
        union([clean(), clean()], align=[{1: 1, 2: 2}])

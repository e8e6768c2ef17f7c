"""Held runs are the model's own and affine; rows of graphs add up, are the truth of a linear toy, and predict."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn
from traced import two_hop, unsettled

from workbench.circuits import faithful, targets
from workbench.circuits.figure import figure
from workbench.circuits.graph import Graph, frame
from workbench.circuits.tracers import crosslayer as across
from workbench.circuits.tracers import hierarchical
from workbench.circuits.tracers.transcoder import Tracing, trace
from workbench.dictionary import Dictionary, decoders, recipe, sparsifiers
from workbench.dictionary.variants import crosslayer_transcoder as across_
from workbench.site import Site
from workbench.subject import Subject
from workbench.subject.freeze import Held
from workbench.testbeds import subject

IDS = torch.arange(12)[None] * 5 % 90 + 3
KINDS = ("gpt2", "llama", "neox", "neox_serial", "qwen3", "gemma2", "gemma3", "torch")


class Attention(nn.Module):
    """Torch's own function, or a softmax by hand."""

    def __init__(self, d, heads, by_hand):
        super().__init__()
        self.heads, self.by_hand = heads, by_hand
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        if self.by_hand:
            z = (q @ k.mT).tril().softmax(-1) @ v
        else:
            z = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(z.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, d, heads, by_hand):
        super().__init__()
        self.ln1, self.ln2, self.attn = nn.LayerNorm(d), nn.LayerNorm(d), Attention(d, heads, by_hand)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Own(nn.Module):
    """A language model that is not of transformers."""

    def __init__(self, d=32, layers=3, heads=4, vocab=100, by_hand=False):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=vocab)
        self.embed, self.norm, self.head = nn.Embedding(vocab, d), nn.LayerNorm(d), nn.Linear(d, vocab)
        self.blocks = nn.ModuleList(Block(d, heads, by_hand) for _ in range(layers))

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def model(kind, dtype=torch.float64):
    import transformers as tr

    torch.manual_seed(0)
    args = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 100,
    }
    grouped = args | {"num_key_value_heads": 2, "head_dim": 8}
    made = {
        "gpt2": lambda: tr.GPT2LMHeadModel(
            tr.GPT2Config(vocab_size=100, n_embd=32, n_layer=3, n_head=4, n_positions=32)
        ),
        "llama": lambda: tr.LlamaForCausalLM(tr.LlamaConfig(**grouped)),
        "neox": lambda: tr.GPTNeoXForCausalLM(tr.GPTNeoXConfig(**args)),
        "neox_serial": lambda: tr.GPTNeoXForCausalLM(tr.GPTNeoXConfig(**args, use_parallel_residual=False)),
        "qwen3": lambda: tr.Qwen3ForCausalLM(tr.Qwen3Config(**grouped)),
        "gemma2": lambda: tr.Gemma2ForCausalLM(tr.Gemma2Config(**grouped, sliding_window=4, query_pre_attn_scalar=8)),
        "torch": Own,
        "gemma3": lambda: tr.Gemma3ForCausalLM(tr.Gemma3TextConfig(**grouped, sliding_window=4)),
    }[kind]()
    for p in made.parameters():  # biases and gains that say something
        if p.ndim == 1:
            p.data += 0.2 * torch.randn_like(p)
    return Subject(made.to(dtype), name=kind, dtype=dtype)


def transcoders(s, seed=0, **kinds):
    """Untrained: rows add up whatever the dictionaries are."""
    torch.manual_seed(seed)
    found = {}
    for layer in range(s.layers):
        d = recipe("skip_transcoder" if layer else "transcoder", d=s.d, latents=64, k=6, seed=layer).dictionary
        found[layer] = unsettled(d, s)
    return found


def crosslayer(s):
    d = recipe("crosslayer_transcoder", d=s.d, latents=64 * s.layers, sites=s.layers, k=8).dictionary
    d.sparsifier.threshold.fill_(0.02)
    return unsettled(d, s)


@pytest.mark.parametrize("kind", KINDS)
def test_a_held_run_is_the_models_own_and_affine(kind):
    s = model(kind)
    held, sites = Held(s, IDS), [Site(None, "embed"), *(Site(i, "mlp_out") for i in range(3))]
    torch.testing.assert_close(held.run({}).logits, s.run(IDS).logits.double(), rtol=1e-6, atol=1e-6)
    clean = held.run({}, sites).h
    with torch.no_grad():
        other = {site: v.std() * torch.randn_like(v) for site, v in clean.items()}

        def out(values):
            return held.run(values, ["2.mlp_in"]).h.popitem()[1]

        both = out({site: clean[site] + other[site] for site in sites})
        apart = out(clean) + out(other) - out({site: torch.zeros_like(v) for site, v in clean.items()})
    torch.testing.assert_close(both, apart, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(both, out(clean), atol=1e-2), "the test moved nothing"


@pytest.mark.parametrize("kind", ["gemma2", "gemma3"])
def test_an_edit_at_a_norm_comes_after_its_hold_and_a_read_after_the_edit(kind):
    """Gemma's MLP writes by a norm: what is held there, edited there and read there is one place."""
    s = model(kind)
    held, site = Held(s, IDS), Site(1, "mlp_out")
    clean = held.run({}, [site]).h[site]
    with torch.no_grad():
        both = held.run({Site(0, "mlp_out"): lambda h, at: 5 * h, site: lambda h, at: h + 1}, [site]).h[site]
        only = held.run({Site(0, "mlp_out"): lambda h, at: 5 * h}, [site]).h[site]
        free = held.run({Site(0, "mlp_out"): lambda h, at: 5 * h}, [site], norms=False).h[site]
    torch.testing.assert_close(both, only + 1, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(only, free, atol=1e-3) and not torch.allclose(only, clean, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["per layer", "one layer", "cross-layer"])
def test_every_row_adds_up(kind, how):
    s = model(kind)
    t = {"per layer": transcoders, "one layer": lambda s: {1: transcoders(s)[1]}, "cross-layer": crosslayer}[how](s)
    graph = trace(s, IDS, t, progress=False)
    assert graph.of("latent").sum() > 20 and len(graph.targets) == graph.of("latent", "logit").sum()
    assert float(graph.misses().max()) < (1e-7 if "gemma" in kind else 1e-8)  # Gemma's norms work in float32
    if how == "cross-layer":
        torch.testing.assert_close(across.trace(s, IDS, t, progress=False).edges, graph.edges)
    few = trace(s, IDS, t, budget=10, progress=False)
    assert few.of("latent").sum() == 10 and few.of("unexplored").any()
    assert float(few.misses().max()) < 1e-7
    single = model(kind, torch.float32)
    part = trace(
        single, IDS, {k: v.float() for k, v in t.items()} if isinstance(t, dict) else t.float(), progress=False
    )
    assert float(part.check().misses().max()) < 1e-4


@pytest.mark.parametrize("kind", ["gpt2", "neox", "gemma3"])
def test_a_column_is_what_adding_the_nodes_vector_does(kind):
    """Held, each MLP what it adds and its skip: one more of a node's vector moves every target by its edge."""
    s = model(kind)
    t, sites = transcoders(s), [Site(i, "mlp_out") for i in range(3)]
    graph, held = trace(s, IDS, t, progress=False), Held(s, IDS)
    reads, out = [Site(i, "mlp_in") for i in range(3)], Site(None, f"{s.plan.unembed}:out")
    clean = held.run({}, [*reads, *sites, out]).h
    keep = s.exclusion.by_token(s.tokens(IDS), s.special_ids)[0]

    def run(where, pos, vector):
        seen = {}

        def write(layer):
            def edit(h, at):
                value = clean[sites[layer]].clone()
                if t[layer].skip is not None:
                    moved = seen[layer] - clean[reads[layer]]
                    value += t[layer].skip(moved * t[layer].scale_in) / t[layer].scale_out * keep[:, None]
                if layer == where:
                    value[:, pos] += vector
                return value

            return edit

        edits = {reads[i]: (lambda h, at, i=i: seen.setdefault(i, h)) for i in range(3)}
        with torch.no_grad():
            return held.run(edits | {sites[i]: write(i) for i in range(3)}, [*reads, out]).h

    rows = graph.nodes[graph.nodes["kind"].isin(["latent", "error"])].groupby("kind").sample(6, random_state=0)
    aims = targets.likely(s, clean[out][0, -1])
    for number, node in rows.iterrows():
        layer, pos = int(node["layer"]), int(node["pos"])
        x = clean[reads[layer]][0]
        if node["kind"] == "latent":
            code = t[layer].encode(x).to_dense()[pos, node["latent"]]
            vector = code * t[layer].atoms([node["latent"]])[0]
        else:
            y = t[layer].reconstruct(x)[pos] * keep[pos]
            vector = clean[sites[layer]][0, pos] - y
        after = run(layer, pos, vector)
        for i, target in enumerate(graph.targets.tolist()):
            aim = graph.nodes.iloc[target]
            if aim["kind"] == "logit":
                moved = aims[i].of.double() @ (after[out] - clean[out])[0, -1]
            else:
                d, at = t[int(aim["layer"])], int(aim["pos"])
                pre = [
                    d.encoder(v[reads[int(aim["layer"])]][0] * d.scale_in, d.decoder)[at, aim["latent"]]
                    for v in (after, clean)
                ]
                moved = pre[0] - pre[1]
            size = graph.edges[i].abs().sum()
            assert abs(moved - graph.edges[i, number]) < 1e-6 * size, (node["label"], aim["label"])


def test_a_linear_circuit_gives_its_path_products():
    s, t, truth, codes = two_hop()
    ids, aims = torch.tensor([[0, 7, 19, 23]]), [targets.Target(f"y{i}", 1.0, torch.eye(40)[i]) for i in range(5)]
    graph = trace(s, ids, t, aims, progress=False).check(1e-6)
    nodes = graph.nodes.reset_index(names="node")
    row = {int(n): i for i, n in enumerate(graph.targets)}
    for pos in (1, 2, 3):  # the first position is left out of dictionaries
        code = codes[ids[0, pos]]
        middle, here = truth.first.double() @ code, nodes[nodes["pos"] == pos]
        token = int(here[here["kind"] == "token"]["node"].iloc[0])
        for m_ in here[(here["kind"] == "latent") & (here["layer"] == 0)].itertuples():
            assert graph.edges[row[m_.node], token] == pytest.approx(float(middle[m_.latent]), abs=1e-6)
            for y in here[(here["kind"] == "latent") & (here["layer"] == 1)].itertuples():
                product = float(truth.second[y.latent, m_.latent] * middle[m_.latent])
                assert graph.edges[row[y.node], m_.node] == pytest.approx(product, abs=1e-6)
                direct = float(truth.direct[y.latent].double() @ code)
                assert graph.edges[row[y.node], token] == pytest.approx(direct, abs=1e-6)
    last = codes[ids[0, -1]]
    total = faithful.predicted(graph)
    token = nodes[(nodes["kind"] == "token") & (nodes["pos"] == 3)]["node"].iloc[0]
    by_paths = (truth.paths.double() @ last[:, None])[..., 0].sum(1)
    torch.testing.assert_close(total[:, token], by_paths, rtol=1e-6, atol=1e-6)
    latent = nodes[(nodes["kind"] == "latent") & (nodes["pos"] == 3)]["node"].tolist()
    seen = faithful.observed(s, ids, t, graph, latent, aims)
    torch.testing.assert_close(total[:, latent], seen, rtol=1e-6, atol=1e-6)


def test_a_cross_layer_latent_writes_its_path_product_to_a_later_layer():
    """The same circuit: first-layer latents for sources write the direct paths where the second layer writes."""
    s, _, truth, codes = two_hop()
    ids, aims = torch.tensor([[0, 7, 19, 23]]), [targets.Target(f"y{i}", 1.0, torch.eye(40)[i]) for i in range(5)]
    reads = [torch.cat([truth.first @ truth.sources, truth.sources]), truth.second @ truth.middles]
    d = Dictionary(across_.Layers(2, 32, 28), sparsifiers.Given(signed=True), decoders.Linear(28, (2, 32)))
    d.encoder.weight.data.zero_()
    for layer, rows in enumerate(reads):
        d.encoder.weight.data[layer, :, : len(rows)] = rows.T
    writes = torch.zeros(28, 2, 32)
    writes[:6, 0], writes[6:14, 1], writes[14:19, 1] = truth.middles, truth.direct.T @ truth.targets, truth.targets
    d.decoder.weight.data = writes.flatten(1)
    graph = across.trace(s, ids, d.double().freeze(), aims, progress=False).check(1e-6)
    code, nodes = codes[ids[0, -1]], graph.nodes.reset_index(names="node")
    assert (graph.nodes[graph.nodes["kind"] == "error"]["value"] > 1e-5).sum() == 2, "only at the first position"
    last = nodes[(nodes["kind"] == "latent") & (nodes["pos"] == 3)]
    for node in last[(last["layer"] == 0) & (last["latent"] >= 6)].itertuples():
        for i in range(5):
            wanted = float(truth.direct[i, node.latent - 6] * code[node.latent - 6])
            assert graph.edges[i, node.node] == pytest.approx(wanted, abs=1e-6)
    token = nodes[(nodes["kind"] == "token") & (nodes["pos"] == 3)]["node"].iloc[0]
    by_paths = (truth.paths.double() @ code[:, None])[..., 0].sum(1)
    torch.testing.assert_close(faithful.predicted(graph)[:, token], by_paths, rtol=1e-6, atol=1e-6)


def by_hand():
    """Two tokens, a latent, an error and a logit: logit = 3 latent - 1 error, latent = 2 token0 + 1 bias - 1 token1."""
    rows = [
        {"kind": "token", "label": "a"}, {"kind": "token", "label": "b"}, {"kind": "bias", "label": "bias"},
        {"kind": "latent", "label": "l", "value": 2.0}, {"kind": "error", "label": "e"},
        {"kind": "logit", "label": "y", "value": 2.0},
    ]  # fmt: skip
    table = frame([{"layer": 0, "pos": 0, "latent": -1, "value": 0.0} | r for r in rows])
    edges = torch.tensor([[0, 0, 0, 3.0, -1.0, 0], [2.0, -1.0, 1.0, 0, 0, 0]])
    return Graph(table, edges, torch.tensor([5, 3]), torch.tensor([1.0, 0.0]))


def test_influence_scores_and_paths_by_hand():
    g = by_hand().check()
    assert g.influence().tolist() == pytest.approx([3 / 8, 3 / 16, 3 / 16, 3 / 4, 1 / 4, 0])
    scores = g.scores()
    assert scores["replacement"] == pytest.approx((9 / 16) / 1)
    assert scores["replacement_as_circuit_tracer"] == pytest.approx(0.75)
    assert scores["completeness"] == pytest.approx((3 / 4 + 3 / 4 * 3 / 4) / (7 / 4))
    assert scores["completeness_as_circuit_tracer"] == pytest.approx((3 / 4 + 3 / 4) / (7 / 4))
    found = [(round(p, 4), path) for p, path in g.paths(4)]
    assert found[:2] == [(0.375, [0, 3, 5]), (0.25, [4, 5])]
    assert sorted(found[2:]) == [(0.1875, [1, 3, 5]), (0.1875, [2, 3, 5])] and len(g.paths(9)) == 4
    assert faithful.predicted(g).tolist() == [pytest.approx([3.0, -1.5, 1.5, 3.0, -1.0, 0.0])]


def test_hops_by_hand():
    assert by_hand().hops() == pytest.approx(1 * 1 / 4 + 2 * 3 / 4)


def test_the_figure_draws_every_node_and_the_strongest_edges():
    g = by_hand()
    g.nodes.loc[0, "label"] = "<b>"
    made = figure(g, edges=3)
    points = {t.name: t for t in made.data if t.mode == "markers"}
    assert {name: len(t.x) for name, t in points.items()} == {
        "token": 2, "bias": 1, "latent": 1, "error": 1, "logit": 1
    }  # fmt: skip
    assert sum(x is None for t in made.data if t.mode == "lines" for x in t.x) == 3
    assert "&lt;b&gt;" in points["latent"].customdata[0] and "+2 from &lt;b&gt;" in points["latent"].customdata[0]


def test_the_strongest_paths_are_all_paths_sorted():
    s = model("gpt2")
    graph = trace(s, IDS[:, :6], transcoders(s), budget=25, progress=False)
    shares, row = graph.shares(), {int(n): i for i, n in enumerate(graph.targets)}
    found, open_ = [], [(float(w), [int(n)]) for n, w in zip(graph.targets, graph.weights, strict=True) if w > 0]
    while open_:
        strength, path = open_.pop()
        for node in (shares[row[path[0]]] > 0).nonzero()[:, 0].tolist():
            value = strength * float(shares[row[path[0]], node])
            (open_ if node in row else found).append((value, [node, *path]))
    wanted = sorted(found, reverse=True)[:40]
    assert [path for _, path in graph.paths(40)] == [path for _, path in wanted]
    assert sum(value for value, _ in found) == pytest.approx(float(graph.weights.sum()))


def test_agreement_by_hand():
    said, done = torch.tensor([1.0, 2.0, 3.0, -4.0]), torch.tensor([2.0, 5.0, 6.0, 1.0])
    table = faithful.agreement([said, said], [done, -done]).set_index("metric")
    assert table.loc["sign", "value"] == pytest.approx((0.75 + 0.25) / 2) and table.loc["sign", "chance"] == 1
    assert table.loc["rank", "value"] == pytest.approx(0, abs=1e-9)
    alone = faithful.agreement([said], [done]).set_index("metric")
    assert (
        alone.loc["rank", "value"] == pytest.approx(1) and alone.loc["sign", "low"] < 0.75 < alone.loc["sign", "high"]
    )
    with pytest.raises(ValueError, match=r"three nodes a prompt or more, are wanted, got \[\(2, 2\)\]"):
        faithful.agreement([said[:2]], [done[:2]])


def test_pruning_keeps_what_carries_and_drops_what_leads_nowhere():
    g = by_hand().prune(nodes=0.6, edges=0.9)
    assert g.nodes["label"].tolist() == ["a", "b", "l", "y"]
    whole = by_hand().prune(1.0, 1.0)
    assert isinstance(whole.nodes, pd.DataFrame) and len(whole.nodes) == 6 and torch.equal(whole.edges, by_hand().edges)
    with pytest.raises(ValueError, match="nodes is a share"):
        by_hand().prune(nodes=0)
    assert by_hand().prune(1.0, 1.0, most=4).nodes["label"].tolist() == ["a", "b", "l", "y"]
    assert len(by_hand().prune(1.0, 1.0, most=6).nodes) == 6
    with pytest.raises(ValueError, match="most must be 3 or more, the number of tokens and targets, got 2"):
        by_hand().prune(most=2)


def test_what_was_not_visited_is_counted():
    s = model("llama")
    t, last = transcoders(s), 0.0
    whole = trace(s, IDS, t, progress=False)
    latents = whole.nodes[whole.nodes["kind"] == "latent"]
    for budget in (4, 16, 64):
        graph = trace(s, IDS, t, budget=budget, progress=False)
        scores = graph.scores()
        ends = graph.influence()[graph.of("token", "error", "bias", "unexplored")].sum()
        assert float(ends) == pytest.approx(float(graph.weights.sum())), "every path ends somewhere"
        assert last < scores["explored"] < 1
        last = scores["explored"]
        hidden = graph.nodes[graph.nodes["kind"] == "unexplored"]
        places = set(zip(graph.nodes["layer"], graph.nodes["pos"], graph.nodes["latent"], strict=True))
        for node in hidden.itertuples():  # one a layer and position: what the whole graph has there and this one not
            rest = [
                n.Index
                for n in latents[(latents["layer"] == node.layer) & (latents["pos"] == node.pos)].itertuples()
                if (n.layer, n.pos, n.latent) not in places
            ]
            torch.testing.assert_close(graph.edges[0, node.Index], whole.edges[0, rest].sum())
        assert len(hidden) == len(hidden[["layer", "pos"]].drop_duplicates())
    assert whole.scores()["explored"] == 1


def test_influence_in_the_making_is_that_of_the_graph():
    s = model("gpt2")
    run = Tracing(s, IDS, transcoders(s), progress=False)
    which = torch.arange(len(run.active) + len(run.goals))
    edges = run.rows(which)
    graph = run.merged(edges, which)
    torch.testing.assert_close(run.influence(edges, which), graph.influence())


@pytest.mark.parametrize("how", ["per layer", "cross-layer"])
def test_a_latent_and_a_direction_are_explained_too(how):
    s = model("llama")
    t = {"per layer": transcoders, "cross-layer": crosslayer}[how](s)
    whole = trace(s, IDS, t, progress=False)
    latents = whole.nodes[(whole.nodes["kind"] == "latent") & (whole.nodes["layer"] == 2)]
    one = latents.iloc[len(latents) // 2]
    aim = targets.latent(int(one["layer"]), int(one["pos"]), int(one["latent"]))
    graph = trace(s, IDS, t, aim, progress=False)
    row = int((graph.weights > 0).nonzero()[0, 0])
    assert graph.weights.sum() == 1 and graph.nodes["label"][int(graph.targets[row])] == one["label"]
    assert not graph.of("logit").any() and len(graph.targets) == graph.of("latent").sum()
    same = whole.edges[whole.targets == latents.index[len(latents) // 2]][0]
    torch.testing.assert_close(graph.edges[row], same[~whole.of("logit")])
    assert (graph.influence()[graph.of("latent")].sum() > 0) and graph.influence()[graph.targets[row]] == 0
    few = trace(s, IDS, t, aim, budget=5, progress=False)
    assert few.of("latent").sum() == 6 and few.scores()["explored"] < 1
    assert one["label"] in set(few.prune(0.5).nodes["label"])
    early = (graph.of("latent") & (torch.tensor(graph.nodes["layer"].to_numpy()) == 1)).nonzero()[:, 0].tolist()
    said, done = faithful.predicted(graph)[0, early], faithful.observed(s, IDS, t, graph, early, aim, factor=0.999)[0]
    assert said.abs().max() > 0.1 and torch.nn.functional.cosine_similarity(said, done, dim=0) > 0.95, "norms react"
    same = hierarchical.trace(s, IDS, t, aim, threshold=0.0, progress=False)
    torch.testing.assert_close(same.edges, graph.edges)
    unit = torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_hand = s.model.lm_head.weight[7].detach()
    way, logit = (
        trace(s, IDS, t, [targets.Target("x", 1.0, of)], budget=3, progress=False)
        for of in (by_hand, torch.eye(100, dtype=torch.float64)[7])
    )
    torch.testing.assert_close(way.edges, logit.edges)
    trace(s, IDS, t, [targets.Target("any", 1.0, unit)], budget=3, progress=False)
    with pytest.raises(ValueError, match=r"'x' must have 100 \(vocab\) or 32 \(d\), got \(5,\)"):
        trace(s, IDS, t, [targets.Target("x", 1.0, unit[:5])], progress=False)
    with pytest.raises(ValueError, match="is not on at position 0"):
        trace(s, IDS, t, targets.latent(2, 0, 1), progress=False)
    with pytest.raises(ValueError, match="no target"):
        trace(s, IDS, t, [], progress=False)


def test_a_difference_of_several_tokens_is_that_of_their_means():
    s = model("gpt2")
    [one] = targets.difference(s, [3, 4, 5], 7)
    logits = s.run(IDS).logits[0, -1].float()
    assert float(logits @ one.of) == pytest.approx(float(logits[3:6].mean() - logits[7]), abs=1e-5)


def test_a_row_that_does_not_add_up_is_named():
    g = by_hand()
    g.edges[0, 3] = 4.0
    with pytest.raises(ValueError, match="the row of y adds up to 3, its value is 2"):
        g.check()


def test_bad_calls_are_one_line():
    s = subject("tiny_text_gelu")
    t = {0: recipe("transcoder", d=128, latents=64, k=4).dictionary.freeze()}
    with pytest.raises(ValueError, match="one text, got 2"):
        trace(s, torch.ones(2, 5).long(), t)
    with pytest.raises(ValueError, match="budget is the number"):
        trace(s, torch.ones(1, 5).long(), t, budget=0)
    with pytest.raises(ValueError, match=r"layers 0 to 1, transcoders are given for \[2\]"):
        trace(s, torch.ones(1, 5).long(), {2: t[0]})
    with pytest.raises(ValueError, match=r"torch.bfloat16, too coarse to be held: Subject\(dtype='float32'\)"):
        Held(model("llama", torch.bfloat16), IDS)
    with pytest.raises(ValueError, match="3 layers of own attend, 0 of them by"):
        Held(Subject(Own(by_hand=True), name="own"), IDS)
    with pytest.raises(ValueError, match="a graph ends in logits"):
        trace(Subject(nn.Sequential(nn.Linear(4, 4)), name="line"), torch.ones(1, 4).long(), t)
    with pytest.raises(ValueError, match=r"reads and writes rows \(layer, d\), got \(128,\) to"):
        across.trace(s, torch.ones(1, 5).long(), t[0])
    g = trace(s, torch.arange(2, 8)[None], t, progress=False)
    token = int(g.of("token").nonzero()[0, 0])
    with pytest.raises(ValueError, match="only latents are intervened on"):
        faithful.observed(s, torch.arange(2, 8)[None], t, g, [token], targets.difference(s, 5, 6))

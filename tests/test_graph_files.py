"""Graphs as JSON: read back bit by bit, front-ends find what they need, damage is told in one line."""

import copy
import hashlib
import json
import random

import pandas as pd
import pytest
import torch

from workbench.circuits import export
from workbench.circuits.graph import KINDS, Graph, frame

WORDS = ["<s>", "The", ' "cat"\n', " sat\x00", " 😀"]
GIVEN = {"slug": "cat-1", "prompt_tokens": WORDS}
# what graph-schema.json (Neuronpedia) and graph_models.py (circuit-tracer) require, with the types of both
METADATA = {"slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str}
QPARAMS = {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str}
NODE = {
    "node_id": str,
    "feature": int,
    "layer": str,
    "ctx_idx": int,
    "feature_type": str,
    "jsNodeId": str,
    "clerp": str,
}
LINK = {"source": str, "target": str, "weight": float}


def row(kind, layer, pos, latent=-1, value=0.0, label=""):
    named = label or f"{kind} {layer} at {pos}"
    return {"kind": kind, "layer": layer, "pos": pos, "latent": latent, "value": value, "label": named}


def graph(dtype=torch.float32, seed=0):
    """All six kinds; awkward labels and numbers; an error that circuit-tracer would call 0_5_3, as latent 0/5 at 3."""
    g = torch.Generator().manual_seed(seed)
    rows = [
        row("latent", 0, 3, 5, 1 / 3, '0/5 at 3, "quoted"\n\x00'),
        row("latent", 0, 3, 7, -0.0),
        row("latent", 2, 4, 1_000_000, 5e-324),
        row("latent", 7, 4, 2, 0.1 + 0.2),
        *[row("error", layer, 3, value=layer + 0.1) for layer in (0, 2, 5, 7)],
        *[row("token", -1, pos, value=1.5, label=word) for pos, word in enumerate(WORDS)],
        row("bias", 2, -1, value=1.0, label="decoder bias 2"),
        row("bias", -1, -1, value=1.0, label="encoder bias"),
        row("logit", 8, 4, value=11.25, label="' Paris' (p 0.62)"),
        row("logit", 8, 4, value=-1e300 if dtype == torch.float64 else -1.0, label="'a' - 'b'"),
        row("logit", 8, 4, 42, value=2.0, label="never visited"),
        row("unexplored", 2, 3, label="unexplored 2 at 3"),
    ]
    level = torch.tensor([99 if r["kind"] == "logit" else r["layer"] if r["kind"] == "latent" else -5 for r in rows])
    targets = torch.tensor([15, 16, 3, 2, 0, 18])
    edges = torch.randn(len(targets), len(rows), generator=g, dtype=torch.float64).to(dtype)
    edges *= level[None] < level[targets][:, None]
    edges *= torch.rand(edges.shape, generator=g) < 0.8
    edges[5, 4] = 0.5  # a row of a node that front-ends do not know
    edges[0, 3], edges[0, 0] = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max / 1e3
    return Graph(frame(rows), edges, targets, torch.tensor([0.62, 0.3, 0, 0, 0, 0]).to(dtype))


def same(a: Graph, b: Graph) -> None:
    pd.testing.assert_frame_equal(a.nodes, b.nodes, check_exact=True)
    assert list(map(repr, a.nodes["value"])) == list(map(repr, b.nodes["value"]))  # -0.0 too
    for one, two in ((a.edges, b.edges), (a.targets, b.targets), (a.weights, b.weights)):
        assert one.dtype == two.dtype and one.shape == two.shape
        assert torch.equal(one, two)


# ---- our own files


@pytest.mark.parametrize("dtype", export.DTYPES.values(), ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_is_what_was_written_bit_by_bit(tmp_path, dtype, seed):
    one = graph(dtype, seed)
    assert set(one.nodes["kind"]) == set(KINDS)
    path = export.write(one, tmp_path / "new" / "g.json", **GIVEN)
    same(one, export.read(path))
    again = export.write(export.read(path), tmp_path / "h.json", **GIVEN)
    assert path.read_bytes() == again.read_bytes()
    same(one, export.from_json(export.to_json(one, **GIVEN)))


def test_rows_without_edges_and_graphs_without_rows_come_back():
    one = graph()
    zero = Graph(one.nodes, torch.zeros_like(one.edges), one.targets, one.weights)
    same(zero, export.from_json(export.to_json(zero, **GIVEN)))
    bare = Graph(one.nodes, one.edges[:0], one.targets[:0], one.weights[:0])
    same(bare, export.from_json(export.to_json(bare, **GIVEN)))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = export.write(graph(), tmp_path / "g.json", **GIVEN)
    before = path.read_bytes()
    broken = graph()
    broken.edges[0, 0] = float("nan")
    with pytest.raises(ValueError, match="edges must be finite"):
        export.write(broken, path, **GIVEN)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ---- what the front-ends need


def has(value, wanted):
    for key, kind in wanted.items():
        assert type(value[key]) is kind, (key, value)


@pytest.mark.parametrize("strict", [True, False])
def test_both_front_ends_find_their_required_keys(tmp_path, strict):
    path = export.write(graph(), tmp_path / "g.json", strict=strict, **GIVEN)
    value = json.loads(path.read_bytes())
    assert set(value) == {"metadata", "qParams", "nodes", "links"} | (set() if strict else {"workbench"})
    has(value["metadata"], METADATA)
    has(value["qParams"], QPARAMS)
    for node in value["nodes"]:
        has(node, NODE)
        assert node["feature_type"] in export.TYPES.values() and 0 <= node["ctx_idx"] < len(WORDS)
        assert node["layer"] == "E" if node["feature_type"] == "embedding" else node["layer"].isdigit()
        if node["feature_type"] == "logit":  # as Neuronpedia takes it apart
            assert node["layer"] == "9"  # 8 layers: circuit-tracer writes L + 1
            assert float(node["clerp"].split("(p=")[1].split(")")[0]) == pytest.approx(node["token_prob"], abs=1e-3)
    ids = [n["node_id"] for n in value["nodes"]]
    for link in value["links"]:
        has(link, LINK)
        assert link["source"] in ids and link["target"] in ids
    assert value["metadata"]["schema_version"] == 1


def test_strict_files_hold_the_graph_without_bias_and_unexplored_nodes():
    one = graph()
    plain = one.without("bias", "unexplored")
    value = export.to_json(one, strict=True, **GIVEN)
    again = export.from_json(value)
    kept = ["kind", "layer", "pos", "label"]
    others = ~plain.of("logit").numpy()
    pd.testing.assert_frame_equal(again.nodes[kept][others], plain.nodes[kept][others])
    latents = plain.of("latent").numpy()
    for column in ("latent", "value"):
        assert again.nodes[column][latents].tolist() == plain.nodes[column][latents].tolist()
    order = plain.targets.argsort()  # a file without our key has no order of rows
    assert again.targets.tolist() == plain.targets[order].tolist() and again.edges.dtype == torch.float64
    assert torch.equal(again.edges, plain.edges[order].double())
    assert torch.equal(again.weights, plain.weights[order].double())


def test_no_two_nodes_share_an_id_not_even_where_circuit_tracers_do():
    one = graph()
    twins = frame([*one.nodes.to_dict("records"), row("latent", 0, 3, 5), row("error", 5, 3), row("logit", 8, 4, 42)])
    nodes = export.to_json(Graph(twins, torch.zeros(0, len(twins)), one.targets[:0], one.weights[:0]), **GIVEN)["nodes"]
    ids = [n["node_id"] for n in nodes]
    assert len(ids) == len(set(ids)) == len(one.nodes)
    assert {"0_5_3", "0_5_3_2", "err_5_3", "err_5_3_2", "E_0_0", "9_0_4", "9_1_4", "9_42_4", "9_42_4_2"} <= set(ids)
    assert len({n["jsNodeId"] for n in nodes if n["feature_type"] in ("logit", "embedding")}) == 8


def test_features_are_cantor_coded_as_neuronpedia_decodes_them():
    assert [export.cantor(*pair) for pair in ((0, 0), (1, 0), (0, 1), (2, 0), (3, 17))] == [0, 1, 2, 3, 227]
    random.seed(0)
    for _ in range(1000):
        pair = random.randrange(200), random.randrange(2**22)
        assert export.uncantor(export.cantor(*pair)) == pair
    feature = [n["feature"] for n in export.to_json(graph(), token_ids=[9] * 5, **GIVEN)["nodes"]]
    assert feature[:2] == [5 * 6 // 2 + 5, 7 * 8 // 2 + 7] and feature[4:8] == [-1] * 4
    assert feature[8:13] == [0, 1, 2, 3, 4] and feature[13:] == [0, 1, 42]


def test_influence_is_the_cumulative_share_the_slider_compares():
    rows = [row("latent", 0, 0, i) for i in range(3)] + [row("token", -1, 0), row("bias", -1, -1), row("logit", 1, 0)]
    edges = torch.tensor([[3.0, -5.0, 0, 2, 90, 0]])
    one = Graph(frame(rows), edges, torch.tensor([5]), torch.tensor([0.25]))
    nodes = export.to_json(one, slug="a", prompt_tokens=["x"])["nodes"]
    found = [n["influence"] for n in nodes]
    assert found[-1] is None and found[:-1] == pytest.approx([0.8, 0.5, 1, 1])  # 3 and 5 of 10, then the token's 2
    assert max(found[:-1]) == 1  # exactly: at 1 the slider shows all
    assert [n["is_target_logit"] for n in nodes] == [False] * 4 + [True]
    assert nodes[-1]["token_prob"] == 0.25 and nodes[0]["token_prob"] == 0


def test_labels_of_logits_are_what_neuronpedia_takes_apart():
    logits = export.to_json(graph(), **GIVEN)["nodes"][-3:]
    clerps = [n["clerp"] for n in logits]
    assert [n["is_target_logit"] for n in logits] == [True, False, False]
    assert clerps == ['Output " Paris" (p=0.620)', "Output \"'a' - 'b'\" (p=0.300)", 'Output "never visited" (p=0.000)']


def test_scan_is_a_hash_that_every_process_gives():
    """Python's own hash of a text is salted."""
    two = export.to_json(graph(), metadata={"transcoder_list": ["a", "b"]}, **GIVEN)["metadata"]
    assert two["scan"] == "custom-" + hashlib.sha256(b'["a","b"]').hexdigest()[:16] and two["transcoder_list"] == [
        "a",
        "b",
    ]
    about = [
        export.to_json(graph(), metadata=m, **GIVEN)["metadata"] for m in ({"transcoder_list": ["a"]}, {"info": {}})
    ]
    assert about[0]["scan"] != about[1]["scan"] and about[1]["info"] == {}
    assert export.to_json(graph(), scan="gemma-2-2b", **GIVEN)["metadata"]["scan"] == "gemma-2-2b"


def test_what_cannot_be_written_is_refused():
    one = graph()

    def changed(column, value):
        table = one.nodes.assign(**{column: [value, *one.nodes[column][1:]]})
        return Graph(table, one.edges, one.targets, one.weights)

    twice = Graph(one.nodes, one.edges[[0, 0]], one.targets[[0, 0]], one.weights[[0, 0]])
    mixed = Graph(one.nodes, one.edges, one.targets, one.weights.double())
    wide = Graph(one.nodes.assign(group=1), one.edges, one.targets, one.weights)
    for bad, change, said in (
        (one, {"slug": "../x"}, "slug is part of a URL"),
        (one, {"prompt_tokens": ["a"]}, "prompt_tokens has 1"),
        (one, {"prompt_tokens": [*WORDS[:4], "\ud800"]}, "a prompt token must be text"),
        (one, {"token_ids": [1]}, "one for each of 5"),
        (one, {"metadata": {"scan": "x"}}, "give them as arguments"),
        (twice, {}, "two rows"),
        (changed("kind", "neuron"), {}, "kinds are"),
        (changed("latent", 0.5), {}, "latent of nodes must be whole numbers"),
        (changed("layer", -1), {}, "has layer -1"),
        (changed("value", float("inf")), {}, "values must be finite"),
        (wide, {}, "must have the columns"),
        (mixed, {}, "one float dtype, got torch.float32 and torch.float64"),
    ):
        with pytest.raises(ValueError, match=said):
            export.to_json(bad, **{**GIVEN, **change})


# ---- files of others


def circuit_tracer():
    """Two layers, as create_graph_files.py writes them."""
    base = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "clerp": ""}
    clt, err = "cross layer transcoder", "mlp reconstruction error"
    nodes = [
        ("0_9_1", export.cantor(0, 9), "0", 1, clt, "0_9-0", {"influence": 0.4, "activation": 2.5}),
        ("1_3_1", export.cantor(1, 3), "1", 1, clt, "1_3-0", {"influence": 0.7, "activation": 0.5, "clerp": "cats"}),
        ("0_1_1", -1, "1", 1, err, "1_1-0", {"influence": 0.9, "activation": None}),
        ("E_77_1", 1, "E", 1, "embedding", "E_77-1", {"influence": 1.0}),
        ("3_50_1", 50, "3", 1, "logit", "L_50-1", {"token_prob": 0.75, "clerp": 'Output " x" (p=0.750)'}),
    ]
    keys = ("node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId")
    links = [("0_9_1", "1_3_1", 2.0), ("E_77_1", "0_9_1", 1.5), ("1_3_1", "3_50_1", -0.1), ("0_1_1", "3_50_1", 4.0)]
    about = {"slug": "s", "scan": "gemma", "transcoder_list": [], "prompt_tokens": ["<bos>", "hi"], "prompt": "<bos>hi"}
    return {
        "metadata": {**about, "node_threshold": 0.8, "schema_version": 1},
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [{**base, **dict(zip(keys, n, strict=False)), **n[-1]} for n in nodes],
        "links": [{"source": s, "target": t, "weight": w} for s, t, w in links],
    }


def llamascopium():
    """The same graph as Neuronpedia also takes it: plain layers, no feature for tokens, n_layers for logits."""
    value = circuit_tracer()
    for node, name in zip(value["nodes"], ("a", "b", "c", "d", "e"), strict=True):
        node |= {"node_id": name, "layer": 2 if node["feature_type"] == "logit" else node["layer"]}
        if node["layer"] != "E":
            node["layer"] = int(node["layer"])
        if node["feature_type"] == "embedding":
            node["feature"] = None
        del node["token_prob"]
    ids = dict(zip(("0_9_1", "1_3_1", "0_1_1", "E_77_1", "3_50_1"), "abcde", strict=True))
    value["links"] = [{**link, "source": ids[link["source"]], "target": ids[link["target"]]} for link in value["links"]]
    value["links"].append({"source": "gone", "target": "e", "weight": 1})
    value["qk_only_nodes"] = {"gone": {}}
    del value["metadata"]["node_threshold"], value["metadata"]["transcoder_list"]
    return value


@pytest.mark.parametrize("dialect", [circuit_tracer, llamascopium])
def test_both_dialects_are_read(dialect):
    found = export.from_json(dialect())
    wanted = frame(
        [
            row("latent", 0, 1, 9, 2.5, "0/9 at 1"),
            row("latent", 1, 1, 3, 0.5, "cats"),
            row("error", 1, 1, label="error 1 at 1"),
            row("token", -1, 1, label="hi"),
            row("logit", 2, 1, 50, label='Output " x" (p=0.750)'),
        ]
    )
    pd.testing.assert_frame_equal(found.nodes, wanted)
    assert found.targets.tolist() == [0, 1, 4] and found.weights.tolist() == [0, 0, 0.75]
    assert found.edges.tolist() == [[0, 0, 0, 1.5, 0], [2, 0, 0, 0, 0], [0, -0.1, 4, 0, 0]]
    assert found.influence().tolist() == pytest.approx([0.75 / 41, 0.75 / 41, 0.75 * 40 / 41, 0.75 / 41, 0])


def test_attention_latents_and_old_features_are_read():
    value = llamascopium()
    value["nodes"][0] |= {"feature_type": "lorsa"}
    value["nodes"][2] |= {"feature_type": "lorsa error"}
    assert export.from_json(value).nodes["label"][0] == "lorsa 0/9 at 1"
    assert export.from_json(value).nodes["kind"][2] == "error"
    del value["metadata"]["schema_version"]  # then features are plain
    assert export.from_json(value).nodes["latent"].tolist()[:2] == [export.cantor(0, 9), export.cantor(1, 3)]
    old = circuit_tracer()
    old["nodes"][1] |= {"feature": 100003}  # 5 digits of latent after the layer: the id says it
    assert export.from_json(old).nodes["latent"][1] == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["nodes"][2].update(node_id="0_9_1"), "'0_9_1' is the id of two nodes"),
        (lambda v: v["links"].append(v["links"][0]), "'0/9 at 1' -> 'cats' is linked twice"),
        (lambda v: v["links"].append({"source": "3_50_1", "target": "0_9_1", "weight": 1.0}), "cycle"),
        (lambda v: v["links"][0].update(source="1_3_1"), "cycle"),
        (lambda v: v["links"][0].update(weight=float("nan")), "link '0_9_1' -> '1_3_1': weight must be a finite"),
        (lambda v: v["links"][0].update(weight=10**400), "within 2\\*\\*53"),
        (lambda v: v["links"][0].update(weight=True), "'1_3_1': weight must be a finite number, got True"),
        (lambda v: v["nodes"][0].pop("ctx_idx"), "node '0_9_1' has no ctx_idx"),
        (lambda v: v["nodes"][0].update(ctx_idx=True), "ctx_idx of node '0_9_1' must be a whole number"),
        (lambda v: v["nodes"][0].update(layer="E"), "layer of node '0_9_1' must be a whole number"),
        (lambda v: v["nodes"][0].update(activation=""), "activation of node"),
        (lambda v: v["nodes"][4].update(feature="x"), "feature of node '3_50_1'"),
        (lambda v: v.update(nodes=[]), "nodes is empty"),
        (lambda v: v.pop("links"), "the file has no links"),
        (lambda v: v["metadata"].update(prompt_tokens=[1]), "a prompt token must be text"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path, change, said):
    value = circuit_tracer()
    change(value)
    path = tmp_path / "g.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=said) as caught:
        export.read(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.update(version=2), "update the workbench"),
        (lambda w: w["ids"].__setitem__(1, w["ids"][0]), "name different nodes"),
        (lambda w: w["nodes"]["label"].pop(), "of one length"),
        (lambda w: w["nodes"]["kind"].__setitem__(0, "neuron"), "must be of latent"),
        (lambda w: w["targets"].__setitem__(0, w["targets"][1]), "no target twice"),
        (lambda w: w["targets"].__setitem__(0, 1), "does not join"),
        (lambda w: w["weights"].pop(), "one weight for each target"),
        (lambda w: w["weights"].__setitem__(0, 1e300), "must be finite as torch.float32"),
        (lambda w: w.update(dtype="int8"), "dtype must be of float64"),
        (lambda w: w["links"][0].__setitem__(0, 6), "whole number from 0 to below 6"),
        (lambda w: w["links"].append(w["links"][0]), "linked twice"),
    ],
)
def test_a_damaged_key_of_ours_is_told(change, said):
    value = export.to_json(graph(), **GIVEN)
    change(value["workbench"])
    with pytest.raises(ValueError, match=said) as caught:
        export.from_json(value)
    assert "\n" not in str(caught.value)


def test_a_graph_too_large_for_memory_is_refused(monkeypatch):
    monkeypatch.setattr(export, "LARGEST", 14)
    with pytest.raises(ValueError, match="3 targets of 5 nodes do not fit"):
        export.from_json(circuit_tracer())


# ---- fuzz

JUNK = (
    *(None, True, -1, 0, 1, 3, 2.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), 10**30, -(2**63), 10**400),
    *("", "E", "1", "٣", "0_5_3", "x" * 5000, "a\nb", "\ud800", [], {}, [[]], [None], {"a": 1}, [1, 2, 3]),
)


def places(value, at=()):
    """Every place in a JSON value, the top too."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def mutated(rng, value):
    """Bytes of a file with one to three things wrong, or with bytes lost, changed or nested without end."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        spots = [p for p in places(value) if p]
        if not spots:
            break
        *way, last = rng.choice(spots)
        inner = value
        for key in way:
            inner = inner[key]
        change = rng.randrange(5)
        if change == 0:
            del inner[last]
        elif change == 1 and isinstance(inner, list):
            inner.insert(rng.randrange(len(inner) + 1), copy.deepcopy(inner[last]))
        elif change == 2:  # something else of this file in its place
            inner[last] = copy.deepcopy(pick(value, rng.choice(spots)))
        elif change == 3 and isinstance(inner, list):
            rng.shuffle(inner)
        else:
            inner[last] = copy.deepcopy(rng.choice(JUNK))
    text = json.dumps(value).encode()
    change = rng.randrange(12)
    if change == 0:
        return text[: rng.randrange(len(text) + 1)]
    if change == 1:
        at = rng.randrange(len(text))
        return text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    if change == 2:
        return text.replace(b"1.5", rng.choice((b"1e999", b"-1e999", b"NaN", b"9" * 5000, b"[" * 100_000)), 1)
    return text


def pick(value, way):
    for key in way:
        value = value[key]
    return value


def test_2000_damaged_files_give_one_clear_line_or_a_graph(tmp_path):
    rng = random.Random(0)
    bases = [
        circuit_tracer(),
        llamascopium(),
        export.to_json(graph(), **GIVEN),
        export.to_json(graph(), strict=True, **GIVEN),
    ]
    path, read, refused = tmp_path / "g.json", 0, set()
    for number in range(2000):
        path.write_bytes(mutated(rng, bases[number % 4]))
        try:
            found = export.read(path)
        except ValueError as error:
            said = str(error).removeprefix(str(path))
            assert "\n" not in said and 10 < len(said) < 300, said
            refused.add(said)
            continue
        read += 1
        assert found.edges.isfinite().all() and found.weights.isfinite().all()
        assert len(found.targets) == len(set(found.targets.tolist())) and set(found.nodes["kind"]) <= set(KINDS)
        assert found.influence().isfinite().all() and found.values.shape == found.weights.shape
    assert 300 < read < 1700 and len(refused) > 300  # the test sees both, and many ways to be wrong

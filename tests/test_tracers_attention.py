"""Head outputs, scores and sparse attention taken apart: shares add up to what the model itself computes."""

import math
from functools import cache

import pytest
import torch
from models import DECODERS
from rows import Rows
from torch import nn

import workbench as wb
from workbench.circuits.tracers import attention_features, discrete, lorsa
from workbench.circuits.tracers.discrete import Codes
from workbench.dictionary import Dictionary, decoders, encoders, sparsifiers
from workbench.site import Site
from workbench.subject import Subject
from workbench.subject.freeze import Held
from workbench.testbeds import subject, world

IDS = torch.arange(12)[None] * 5 % 90 + 3
KINDS = tuple(DECODERS)  # GPT-2, Llama with groups, NeoX, Gemma 3, Qwen 3
HEADS = 4


@cache
def tiny(kind: str, dtype: torch.dtype = torch.float64) -> Subject:
    model = DECODERS[kind]()
    for parameter in model.parameters():  # softer, so that attention is spread
        if parameter.ndim >= 2:
            parameter.data.mul_(0.5)
    return Subject(model.to(dtype), name=kind, dtype=dtype)


def dictionary(s: Subject, site: str, seed: int = 0, kind: str = "topk", **args) -> Dictionary:
    """Untrained: sums are exact whatever the dictionary is."""
    torch.manual_seed(seed)
    found = wb.recipe(kind, d=s.width(site), latents=48, **args).dictionary
    for name, parameter in found.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter, std=0.3)
    found.set_scale_(0.7, 0.4)
    found.site = found.target = Site.of(site)
    return found.to(s.dtype).freeze()


def caught(s: Subject, layer: int) -> torch.Tensor:
    """What W_O receives in a plain run, in the model's dtype."""
    seen = []
    module = s._modules[s.plan.port(Site(layer, "heads")).path]
    hook = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    s.model(IDS)
    hook.remove()
    return seen[0][0]


def values(s: Subject, layer: int, h: torch.Tensor) -> torch.Tensor:
    """A layer's values (head, source, width) by its weights, keys' groups repeated."""
    attention = s._modules[s.plan.attention[layer]]
    if s.name == "gpt2":
        return attention.c_attn(h).chunk(3, -1)[2].unflatten(-1, (HEADS, -1)).transpose(0, 1)
    if s.name == "neox":
        return attention.query_key_value(h).unflatten(-1, (HEADS, 3, -1))[:, :, 2].transpose(0, 1)
    return attention.v_proj(h).unflatten(-1, (2, -1)).transpose(0, 1).repeat_interleave(2, 0)


# ---- direct feature attribution


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((k, torch.float64) for k in KINDS), *((k, torch.float32) for k in ("gpt2", "llama"))]
)
def test_heads_and_sources_add_up_to_the_pre_activation(kind, dtype):
    s = tiny(kind, dtype)
    d = dictionary(s, "1.heads", k=5)
    z = Held(s, IDS).run({}, ["1.heads"]).h[Site(1, "heads")][0].detach()
    torch.testing.assert_close(z, caught(s, 1), rtol=1e-4, atol=1e-6)  # norms in float32 round otherwise
    pre = d.encoder(z * d.scale_in, d.decoder)
    code = d.encode(z).to_dense()
    close = {"rel": 1e-4, "abs": 1e-4} if dtype == torch.float32 else {"rel": 1e-8, "abs": 1e-8}
    by_head, by_source = (f(s, IDS, d) for f in (attention_features.by_head, attention_features.by_source))
    assert list(by_source.columns) == ["latent", "pos", "head", "source", "adds"]
    on = code[1:].nonzero()
    for table, each in ((by_head, HEADS + 1), (by_source, HEADS * 12 + 1)):
        sums = table.groupby(["pos", "latent"])["adds"].sum()
        assert set(sums.index) == {(p + 1, i) for p, i in on.tolist()} and len(table) == each * len(on) > 40
        for (p, i), value in sums.items():
            assert value == pytest.approx(float(pre[p, i]), **close)
    merged = by_source.groupby(["pos", "latent", "head"])["adds"].sum()
    for row in by_head.itertuples():
        assert merged[row.pos, row.latent, row.head] == pytest.approx(row.adds, **close)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_adds_its_value_times_the_pattern(kind):
    """By the layer's own weights and the pattern that the model's unfused attention gives."""
    s = tiny(kind)
    d = dictionary(s, "1.heads", k=5)
    h = s._run(s.tokens(IDS), {}, [Site(1, "attn_in")], grad=True).h[Site(1, "attn_in")][0]
    v, pattern = values(s, 1, h), s.patterns(IDS, 1)[0].double()
    table = attention_features.by_source(s, IDS, d, pos=[0, 7], latents=3).set_index(["pos", "head", "source"])["adds"]
    read = (d.encoder.weight[:, 3] * d.scale_in).unflatten(0, (HEADS, -1))
    for pos in (0, 7):
        for head in range(HEADS):
            for source in range(12):
                wanted = float(pattern[head, pos, source] * v[head, source] @ read[head])
                assert table[pos, head, source] == pytest.approx(wanted, rel=1e-5, abs=1e-6)
        bias = d.encoder.bias[3] - d.decoder.bias @ d.encoder.weight[:, 3]
        assert table[pos, -1, -1] == pytest.approx(float(bias), abs=1e-9)


def test_the_hand_set_induction_head_reads_the_answer_where_it_stands():
    """Latent v reads token v in head 1.0's output: 1 at the place that `match` names, nothing from anywhere else."""
    toy = world("induction_toy")
    s, found = toy.subject(), toy.sample(4, 3)
    d = Dictionary(encoders.Linear((toy.d,), 17, center=False), sparsifiers.TopK(1, 17), decoders.Linear(17, (toy.d,)))
    d.encoder.weight.data = torch.eye(toy.d)[:, :17].clone()
    d.decoder.weight.data = torch.eye(toy.d)[:17].clone()
    d.site, d = Site(1, "heads"), d.freeze()
    for ids, match, period in zip(found.ids, found.match, found.period.tolist(), strict=True):
        for pos in range(period + 1, min(2 * period, 24)):  # one occurrence before
            answer = int(ids[match[pos]])
            table = attention_features.by_source(s, ids[None], d, pos=pos, latents=answer)
            adds = table.set_index(["head", "source"])["adds"]
            assert adds.idxmax() == (0, int(match[pos])) and adds.max() == pytest.approx(1, abs=1e-3)
            assert adds.drop(adds.idxmax()).abs().sum() < 1e-3
    assert attention_features.head_shares(d, 2).to_numpy().tolist() == [[1, 0]] * 17


def test_the_trained_induction_layer_reads_the_token_after_the_match():
    s, data = subject("induction"), world("induction")
    h = s.read(data.sample(128, 20_000).ids, ["1.heads"])[Site(1, "heads")][:, 1:].flatten(0, 1)
    made = wb.train(wb.recipe("topk", d=64, latents=128, k=4), Rows(h, 256, 100), site="1.heads", progress=False)
    held, hits = data.sample(6, 30_000), []
    for ids, match, period in zip(held.ids, held.match, held.period.tolist(), strict=True):
        pos = range(period, min(2 * period - 1, 47))
        table = attention_features.by_source(s, ids[None], made, pos=pos)
        best = table.groupby(["pos", "latent"])["adds"].sum().groupby(level=0).idxmax()
        sources = table[table["source"] >= 0].groupby(["pos", "latent", "source"])["adds"].sum()
        hits += [int(sources[pair].idxmax()) == int(match[pair[0]]) for pair in best]
    assert len(hits) > 50 and sum(hits) / len(hits) > 0.9


def test_head_shares_by_hand():
    d = Dictionary(encoders.Linear((4,), 2), sparsifiers.TopK(1, 2), decoders.Linear(2, (4,), unit=False))
    d.decoder.weight.data = torch.tensor([[3.0, 4.0, 0.0, 15.0], [0.0, 2.0, 0.0, 0.0]])
    d.set_scale_(1.0, 2.0)
    shares = attention_features.head_shares(d, 2)
    assert shares.to_numpy().tolist() == [[0.25, 0.75], [1, 0]]
    assert (shares.index.name, shares.columns.name) == ("latent", "head")


# ---- scores


@pytest.mark.parametrize(
    ("kind", "site"), [*((k, "1.attn_in") for k in KINDS), *((k, "0.resid") for k in ("gpt2", "gemma3", "qwen3"))]
)
def test_pairs_add_up_to_the_models_score(kind, site):
    """Differences of scores are those of the log-probabilities that the model's own attention gives."""
    s = tiny(kind)
    d, other = dictionary(s, site, k=4), dictionary(s, site, 1, k=3)
    logs = s.patterns(IDS, 1)[0].log()
    for head, query in ((1, 7), (2, 5)):
        scores = []
        for key in (query, query - 2, 0):
            table = attention_features.score_pairs(
                s, IDS, d, layer=1, head=head, query=query, key=key, key_dictionary=other
            )
            n, m = (4 + 2), (3 + 2) if key else 2  # the first position is left out: error and bias
            assert len(table) == n * m and (table["query_kind"] == "latent").sum() == 4 * m
            scores.append(table["adds"].sum())
        for i, key in ((1, query - 2), (2, 0)):
            wanted = float(logs[head, query, query] - logs[head, query, key])
            assert scores[0] - scores[i] == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize(("kind", "site"), [("gpt2", "1.attn_in"), ("llama", "1.attn_in"), ("gpt2", "embed")])
def test_a_pair_is_what_its_two_vectors_say_to_each_other(kind, site):
    s, head, query, key = tiny(kind), 2, 8, 3
    layer = 0 if site == "embed" else 1
    d = dictionary(s, site, k=4)
    x = Held(s, IDS).run({}, [site]).h[Site.of(site)][0].detach()
    table = attention_features.score_pairs(s, IDS, d, layer=layer, head=head, query=query, key=key)
    attention = s._modules[s.plan.attention[layer]]
    if site == "embed":  # behind the norm, its denominator held
        norm = s.model.transformer.h[0].ln_1

        def entered(v, at):
            return (v - v.mean(-1, keepdim=True)) / (x[at].var(unbiased=False) + norm.eps).sqrt() * norm.weight

        def constant(at):
            return norm.bias
    else:

        def entered(v, at):
            return v

        def constant(at):
            return torch.zeros(s.d, dtype=torch.float64)

    def project(v, at, side, bias):
        if kind == "gpt2":
            start = (0 if side == "query" else s.d) + 8 * head
            out = v @ attention.c_attn.weight[:, start : start + 8]
            return out + attention.c_attn.bias[start : start + 8] if bias else out
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        own = head if side == "query" else head // 2
        out = v @ (attention.q_proj if side == "query" else attention.k_proj).weight[8 * own : 8 * own + 8].T
        turn = s.model.model.rotary_emb(out, torch.tensor([[at]]))
        return apply_rotary_pos_emb(out[None, None], out[None, None], *turn)[0][0, 0]

    parts = {}
    for side, at in (("query", query), ("key", key)):
        code = d.encode(x[at][None]).to_dense()[0]
        missed = x[at] - d.decode(d.encode(x[at][None]))[0]
        bias = d.decoder.bias / d.scale_out
        found = {
            ("latent", i): project(entered(code[i] * d.atoms([i]), at), at, side, False)[0]
            for i in code.nonzero()[:, 0].tolist()
        }
        found["error", -1] = project(entered(missed[None], at), at, side, False)[0]
        found["bias", -1] = project(entered(bias[None], at) + constant(at), at, side, True)[0]
        parts[side] = found
    assert len(table) == len(parts["query"]) * len(parts["key"]) == 36
    for row in table.itertuples():
        q, k = parts["query"][row.query_kind, row.query_latent], parts["key"][row.key_kind, row.key_latent]
        assert row.adds == pytest.approx(float(q @ k) / math.sqrt(8), abs=1e-8)


def test_the_hand_set_match_is_one_pair_of_latents():
    """Head 1.0's score of 40 between a token and a place behind it: (token v, previous token v), each less its mean."""
    toy = world("induction_toy")
    s, found = toy.subject(), toy.sample(1, 3)
    ids, pos = found.ids, int(found.period[0]) + 3
    match = int(found.match[0, pos])
    token, previous = int(ids[0, pos]), toy.blocks["0.0"].start + int(ids[0, match - 1])
    table = attention_features.score_pairs(s, ids, toy.oracle(), layer=1, head=0, query=pos, key=match)
    best = table.loc[table["adds"].idxmax()]
    assert (best["query_kind"], best["query_latent"]) == ("latent", token)
    assert (best["key_kind"], best["key_latent"]) == ("latent", previous)
    assert best["adds"] == pytest.approx(40 * (75**2 + 15) / 76**2, rel=1e-4)  # d = 76; 16 channels, one of them v's
    assert table["adds"].sum() == pytest.approx(40, rel=1e-4)


# ---- discrete codes


def test_scores_and_edges_by_hand():
    codes = torch.tensor([[[1, 5], [0, 0]], [[2, 5], [0, 1]], [[2, 6], [0, 0]], [[3, 7], [0, 1]], [[3, 7], [1, 2]]])
    found = Codes(codes, torch.tensor([True, True, False, False, False]))
    table = found.heads(permutations=50)
    assert table["codes"].tolist() == [2, 1, 1, 2] and table["score"].tolist() == [0.5, 1, 0, 0]
    edges = found.edges(permutations=50)
    assert edges[["layer", "head", "to_layer", "to_head"]].to_numpy().tolist() == [
        [0, 0, 1, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 1, 1, 1]]  # fmt: skip
    # (0,0) with (1,1): (1,0) and (2,1) against (2,0), (3,1) and (3,2)
    assert edges["score"].tolist() == [1, 2, 1, 2]
    assert len(found.edges([(0, 1), (1, 1)], permutations=5)) == 1
    small = Codes(torch.tensor([[[3]], [[3]], [[-1]], [[-1]]]), torch.tensor([True, True, False, False]))
    row = small.heads(permutations=6000).iloc[0]
    # of the 6 labellings 2 score 1, 4 score 0
    assert row["score"] == 1 and row["null_mean"] == pytest.approx(1 / 3, abs=0.03)
    assert row["p"] == pytest.approx(1 / 3, abs=0.03) and row["excess"] == 1 - row["null_mean"]


def test_rare_codes_are_no_evidence():
    """A head with another code for every prompt scores 1 under any labels; chance labels are significant by chance."""
    positive = torch.arange(20) < 10
    table = Codes(torch.arange(20).view(20, 1, 1), positive).heads(permutations=100)
    assert table.loc[0, ["score", "null_mean", "excess", "p"]].tolist() == [1, 1, 0, 1]
    torch.manual_seed(0)
    p = Codes(torch.randint(6, (20, 40, 10)), positive).heads(permutations=300)["p"]
    assert (p <= 0.05).mean() < 0.08 and (p <= 0.5).mean() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_heads_contributions_are_what_attention_writes(kind):
    s = tiny(kind, torch.float32)
    bias = {"gpt2": "c_proj", "neox": "dense"}.get(kind)
    prompts = s.pad([IDS[0].tolist(), IDS[0, :5].tolist(), IDS[0, 2:9].tolist()])
    for at in (-1, -3):
        found = discrete.contributions(s, prompts, at=at)
        assert found.shape == (3, 3, HEADS, s.d)
        for layer in range(3):
            h = s.read(prompts, [f"{layer}.attn_out"])[Site(layer, "attn_out")]
            wanted = torch.stack([h[i, count + at] for i, count in enumerate((12, 5, 7))])
            if bias:
                wanted = wanted - getattr(s._modules[s.plan.attention[layer]], bias).bias
            torch.testing.assert_close(found[:, layer].sum(1), wanted, rtol=1e-4, atol=1e-4)


def toy_prompts(seed: int, paired: bool) -> torch.Tensor:
    """<start>, eight tokens among which 2 stands behind 1 or behind another, and then 1."""
    rng, rows = torch.Generator().manual_seed(seed), []
    for _ in range(10):
        drawn = torch.randperm(14, generator=rng)[:9] + 3
        drawn[3], drawn[4] = 1 if paired else drawn[8], 2
        rows.append([0, *drawn[:8].tolist(), 1])
    return torch.tensor(rows)


def test_the_hand_set_heads_are_found_and_idle_ones_are_not():
    """1.0 where the answer is wanted; 0.0 where the pair stands, whose previous token it writes."""
    s = world("induction_toy").subject()
    sides = toy_prompts(0, True), toy_prompts(1, False)
    for at, head in ((-1, (1, 0)), (-5, (0, 0))):
        table = discrete.heads(s, *sides, at=at, latents=32, steps=60, permutations=500)
        assert list(table.columns) == ["layer", "head", "codes", "score", "null_mean", "excess", "p"]
        found = table[table["p"] < 0.01]
        assert list(zip(found["layer"], found["head"], strict=True)) == [head] and found["score"].item() == 1
        idle = table[table["head"] == 1]
        assert (idle["codes"] == 1).all() and (idle["score"] == 0).all() and (idle["p"] == 1).all()
    same = discrete.heads(s, sides[0], sides[0], latents=32, steps=20, permutations=50)
    assert (same["score"] == 0).all()
    few = discrete.codes(s, sides[0], sides[1][:6], latents=32, steps=20)
    assert few.positive.tolist() == [True] * 10 + [False] * 6 and few.codes.shape == (16, 2, 2)
    again = [discrete.codes(s, *sides, latents=32, steps=20, seed=2).codes for _ in range(2)]
    assert torch.equal(*again)


# ---- Lorsa


def sparse_attention(s: Subject, layer: int = 1) -> Dictionary:
    torch.manual_seed(0)
    found = wb.recipe("lorsa", d=s.d, latents=24, k=5, groups=3, width=6, rope=10_000.0).dictionary
    for name, parameter in found.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter, std=0.2)
    found.encoder.weight.data.mul_(10)
    found.set_scale_(0.7, 0.4)
    found.site, found.target = Site(layer, "attn_in"), Site(layer, "attn_out")
    return found.to(s.dtype).freeze()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lorsa_heads_are_shared_out_over_sources(dtype):
    s = tiny("llama", dtype)
    d = sparse_attention(s)
    table, error = lorsa.trace(s, IDS, d)
    read = s.read(IDS, [d.site, d.target])
    x, y = (read[site][0].to(dtype) for site in (d.site, d.target))
    code = d.encode(x).to_dense()
    sums = table.groupby(["pos", "latent"])["adds"].sum()
    assert set(sums.index) == {(p, i) for p, i in code.nonzero().tolist() if p > 0} and len(sums) > 30
    assert len(table) == 13 * len(sums)
    z, close = torch.zeros_like(code), 1e-8 if dtype == torch.float64 else 1e-4
    for (p, i), value in sums.items():
        assert value == pytest.approx(float(code[p, i]), rel=close, abs=close)
        z[p, i] = value
    written = (z @ d.atoms() + d.decoder.bias / d.scale_out)[1:]
    torch.testing.assert_close(written + error[1:], y[1:], rtol=1e-4, atol=1e-5)
    assert torch.equal(error[0], y[0]), "the first position is left out"
    later = table[table["source"] > table["pos"]]
    assert len(later) and (later["adds"] == 0).all()
    rows = x * d.scale_in  # one share by the parts of the encoder
    pick = table[(table["pos"] == 7) & (table["source"] == 4)].iloc[0]
    group, place = divmod(int(pick["latent"]), 8)
    wanted = d.encoder.pattern(rows)[group, 7, 4] * (rows[4] @ d.encoder.weight[group, :, place])
    assert pick["adds"] == pytest.approx(float(wanted), abs=1e-5)


def test_a_lorsas_graph_adds_up():
    s = tiny("llama")
    d = sparse_attention(s)
    graph, (table, _) = lorsa.graph(s, IDS, d).check(1e-8), lorsa.trace(s, IDS, d)
    assert len(graph.targets) == graph.of("latent").sum() == len(table) // 13
    assert (
        graph.of("token").sum() == 12 and graph.of("bias").sum() == 1 and float(graph.weights.sum()) == pytest.approx(1)
    )
    row = table[(table["pos"] == table["pos"].iloc[0]) & (table["latent"] == table["latent"].iloc[0])]
    torch.testing.assert_close(graph.edges[0, :13], torch.tensor(row["adds"].tolist(), dtype=torch.float64))
    assert float(graph.influence()[graph.of("token", "bias")].sum()) == pytest.approx(1)


# ---- doors


def test_bad_calls_are_one_line():
    s = tiny("gpt2", torch.float32)
    heads, stream = dictionary(s, "1.heads", k=4), dictionary(s, "1.attn_in", k=4)
    two, pairs = IDS.repeat(2, 1), {"layer": 1, "head": 0, "query": 5, "key": 2}
    with pytest.raises(ValueError, match="of a `heads` site is wanted, .* got one of 1.attn_in"):
        attention_features.by_head(s, IDS, stream)
    with pytest.raises(ValueError, match="one text is wanted, got 2"):
        attention_features.by_source(s, two, heads)
    with pytest.raises(ValueError, match="pos must be 0 to 11, got 12"):
        attention_features.by_source(s, IDS, heads, pos=12)
    with pytest.raises(ValueError, match="latents must be 0 to 47, got"):
        attention_features.by_head(s, IDS, heads, latents=[3, 48])
    bent = dictionary(s, "1.heads", kind="matching_pursuit", k=4)
    with pytest.raises(ValueError, match="the encoder is not affine"):
        attention_features.by_head(s, IDS, bent)
    with pytest.raises(ValueError, match="of 3 heads"):
        attention_features.head_shares(heads, 3)
    with pytest.raises(ValueError, match="head must be 0 to 3, got 4"):
        attention_features.score_pairs(s, IDS, stream, **pairs | {"head": 4})
    with pytest.raises(ValueError, match=r"of 2.attn_in or of 1.resid is wanted, got one of 1.attn_in"):
        attention_features.score_pairs(s, IDS, stream, **pairs | {"layer": 2})
    with pytest.raises(ValueError, match="two or more prompts of each kind are wanted, got 1 and 2"):
        discrete.heads(s, IDS, two)
    with pytest.raises(ValueError, match="the shortest prompt has 12 tokens"):
        discrete.heads(s, two, two, at=-13)
    with pytest.raises(ValueError, match="at counts from the end"):
        discrete.heads(s, two, two, at=0)
    codes = Codes(torch.zeros(4, 2, 2).long(), torch.arange(4) < 2)
    with pytest.raises(ValueError, match=r"heads are \(0, 0\) to \(1, 1\) .* got \(2, 0\)"):
        codes.edges([(2, 0)])
    with pytest.raises(ValueError, match="permutations must be 1 or more"):
        codes.heads(permutations=0)
    with pytest.raises(ValueError, match="a Lorsa of a layer is wanted, got Linear of 1.heads"):
        lorsa.trace(s, IDS, heads)
    with pytest.raises(ValueError, match="one text is wanted, got 2"):
        lorsa.trace(s, two, sparse_attention(s))

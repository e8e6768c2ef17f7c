"""Curves of faithfulness and completeness: exact at their ends, shares of a sum in a linear model, else plain edits."""

from functools import cache

import pandas as pd
import pytest
import torch
from models import tiny_llama
from torch import nn

import workbench as wb
from workbench import edit, testbeds
from workbench.circuits import curves, splices
from workbench.circuits.targets import difference
from workbench.circuits.tracers import activation_patching, attribution_patching
from workbench.circuits.tracers.transcoder import trace
from workbench.code import Code

SITES = ("0.resid", "1.resid")
ENDS = ["faithfulness", "completeness"]


@cache
def text():
    return testbeds.subject("tiny_text_gelu")


@cache
def dictionaries() -> dict:
    torch.manual_seed(0)
    found = {s: wb.recipe("topk", d=text().d, latents=96, k=6, seed=i).dictionary for i, s in enumerate(SITES)}
    return {s: unsettled(d) for s, d in found.items()}


def unsettled(d, out=0.7):
    for name, p in d.named_parameters():
        if "bias" in name or "skip" in name:
            nn.init.normal_(p, std=0.1)
    d.set_scale_(0.5, out)
    return d.freeze()


def prompts(*lengths):
    texts = testbeds.world("tiny_text").sample(8, 4).ids
    return [texts[i : i + 1, :n].clone() for i, n in enumerate(lengths)]


def of(logits):
    return (logits[0, -1, 5:20] * torch.linspace(-1, 1, 15)).sum()


def linear():
    """A subject that is linear behind its last block: no final norm."""
    model = tiny_llama()
    model.model.norm = nn.Identity()
    s = wb.Subject(model)
    torch.manual_seed(0)
    d = unsettled(wb.recipe("topk", d=s.d, latents=2 * s.d, k=4).dictionary)
    return (
        s,
        torch.arange(7)[None] * 5 + 4,
        {"2.resid": d},
        lambda logits: logits[0, 2:, 5].sum() - logits[0, 2:, 9].sum(),
    )


def table(*rows):
    return pd.DataFrame(rows, columns=["site", "pos", "latent", "effect"])


def every(site, latents, positions):
    return table(*((site, p, f, 1.0) for p in positions for f in range(-1, latents)))


# ---- dictionaries at sites


def test_where_all_is_linear_a_curve_is_the_share_of_the_effects_so_far():
    s, ids, where, m = linear()
    effects = activation_patching.effects(s, ids, None, where, m, progress=False)
    found = curves.curve(s, [ids], where, effects, m)
    order = effects["effect"].abs().sort_values(ascending=False, kind="stable").index
    so_far = effects["effect"][order].cumsum().to_numpy() / effects["effect"].sum()
    assert found["size"].tolist() == [0, 1, 2, 5, 10, 20, len(effects)] and found["share"].iloc[-1] == 1
    for row in found.iloc[1:].itertuples():
        assert row.faithfulness == pytest.approx(so_far[row.size - 1], abs=1e-4)
        assert row.completeness == pytest.approx(1 - row.faithfulness, abs=1e-4)
    assert (found.iloc[0][ENDS].tolist(), found.iloc[-1][ENDS].tolist()) == ([0, 1], [1, 0])
    helping = effects[effects["effect"] * effects["effect"].sum() > 0]
    rising = curves.curve(s, [ids], where, helping, m, sizes=range(0, len(helping) + 1, 4))
    assert (rising["faithfulness"].diff().iloc[1:-1] > 0).all() and rising["faithfulness"].iloc[-2] > 1
    assert (rising["completeness"].diff().iloc[1:-1] < 0).all()


@pytest.mark.parametrize("errors", curves.ERRORS)
@pytest.mark.parametrize("by_position", [True, False])
def test_the_ends_are_exact(errors, by_position):
    s, texts = text(), prompts(9, 9, 9)
    ranked = attribution_patching.effects(s, texts[0], None, dictionaries(), of)
    found = curves.curve(s, texts[1:], dictionaries(), ranked, of, errors=errors, by_position=by_position, sizes=[3])
    first, last = found.iloc[0], found.iloc[-1]
    assert found["size"].tolist()[:2] == [0, 3] and len(found) == 3
    assert first["faithfulness"] == last["completeness"] == 0 and first["completeness"] == last["faithfulness"]
    own = sum(float(of(s.run(t).logits)) for t in texts[1:]) / 2
    if errors == "ablated":
        assert abs(last["faithfulness"] - 1) > 1e-3, "dictionaries alone are not the model"
    else:
        assert last["faithfulness"] == 1 and last["metric"] == pytest.approx(own, abs=1e-4)
    middle = found.iloc[1]
    assert middle["low"] <= middle["faithfulness"] <= middle["high"] and first["low"] == first["high"] == 0
    assert set(found["errors"]) == {errors} and set(found["prompts"]) == {2} and set(found["ablation"]) == {"0"}


def test_all_but_one_node_is_patching_it_to_0():
    s, (ids,) = text(), prompts(9)
    exact = activation_patching.effects(s, ids, None, dictionaries(), of, progress=False)
    own = float(of(s.run(ids).logits))
    largest = exact["effect"].abs().groupby([exact["site"], exact["latent"] < 0]).idxmax()
    assert len(largest) == 4
    for row in exact.loc[largest].itertuples():
        one = table((row.site, row.pos, row.latent, 1.0))
        found = curves.curve(s, [ids], dictionaries(), one, of).iloc[1]
        assert found["size"] == 1 and found["complement"] - own == pytest.approx(row.effect, rel=1e-3, abs=1e-4), row
        assert abs(row.effect) > 0.01


def test_a_later_site_that_is_all_kept_takes_what_it_receives():
    s, (ids,) = text(), prompts(9)
    both, (a, b) = dictionaries(), SITES
    kept = every(b, 96, range(1, 9))
    found = curves.curve(s, [ids], both, kept, of, sizes=[len(kept)])
    row = found.iloc[1]
    nothing = both[a].decode(Code.dense(torch.zeros(1, 96)))[0]
    assert row["size"] == len(kept)
    assert row["metric"] == pytest.approx(float(of(s.run(ids, {a: edit.mean(nothing)}).logits)), abs=1e-3)
    end = both[b].decode(Code.dense(torch.zeros(1, 96)))[0]
    assert found["metric"].iloc[0] == pytest.approx(float(of(s.run(ids, {b: edit.mean(end)}).logits)), abs=1e-3)


def test_without_errors_all_nodes_are_the_spliced_reconstruction():
    s, (ids,) = text(), prompts(9)
    both = dictionaries()
    found = curves.curve(s, [ids], both, table((SITES[0], 1, 0, 1.0)), of, errors="ablated", sizes=[])
    spliced = s.run(ids, {site: edit.splice(d) for site, d in both.items()}).logits
    assert found["metric"].iloc[-1] == pytest.approx(float(of(spliced)), abs=1e-3)


def test_codes_are_ablated_to_the_mean_that_is_given():
    s, texts = text(), prompts(9, 7)
    d = {SITES[1]: dictionaries()[SITES[1]]}
    mean = curves.mean_codes(s, texts, d)
    (site,) = mean
    codes = [d[SITES[1]].encode(s.read(t, [site])[site][0, 1:]).to_dense() for t in texts]
    torch.testing.assert_close(mean[site], torch.cat(codes).mean(0))
    one = table((SITES[1], 1, 0, 1.0))
    given = {"errors": "ablated", "sizes": [], "by_position": False}
    found = curves.curve(s, texts[:1], d, one, of, mean=mean, **given)
    end = d[SITES[1]].decode(Code.dense(mean[site][None]))[0]
    assert found["metric"].iloc[0] == pytest.approx(float(of(s.run(texts[0], {site: edit.mean(end)}).logits)), abs=1e-3)
    assert found["ablation"].iloc[0] == "mean"
    by_place = curves.curve(s, texts[:1], d, one, of, mean={site: mean[site].expand(9, -1)}, **given)
    pd.testing.assert_frame_equal(found, by_place)


def test_a_latent_at_all_positions_is_itself_at_each():
    s, (ids, short) = text(), prompts(9, 7)
    latent = int(dictionaries()[SITES[0]].encode(s.read(ids, [SITES[0]])[wb.Site(0, "resid")][0, 1:]).fired().argmax())
    parts = table(*((SITES[0], p, latent, 0.5 if p % 2 else -0.1) for p in range(1, 9)))
    apart = curves.curve(s, [ids], dictionaries(), parts, of, errors="kept", sizes=[8])
    pooled = curves.curve(s, [ids], dictionaries(), parts, of, errors="kept", by_position=False)
    assert pooled["size"].tolist()[:2] == [0, 1] and apart["size"].tolist()[:2] == [0, 8]
    for name in (*ENDS, "metric", "complement"):
        assert pooled[name].iloc[1] == pytest.approx(apart[name].iloc[1], abs=1e-5)
    curves.curve(s, [ids, short], dictionaries(), parts, of, by_position=False, sizes=[1])
    with pytest.raises(ValueError, match="effects are at position 7, prompt 1 has 7 tokens: by_position=False"):
        curves.curve(s, [ids, short], dictionaries(), parts, of)
    two = table((SITES[0], 1, 0, 1.0), (SITES[0], 2, 0, -1.0), (SITES[0], 1, 1, 0.5))
    assert curves._ranking(two, set(SITES), "ranked", False)[0] == (SITES[0], -1, 1), "signs count in the sum"


def test_each_prompt_may_have_its_metric_and_means_come_before_the_share():
    s, texts = text(), prompts(9, 9)
    ranked = attribution_patching.effects(s, texts[0], None, dictionaries(), of)
    twice = [of, lambda logits: 3 * of(logits)]
    apart = [curves.curve(s, [t], dictionaries(), ranked, m, sizes=[20]) for t, m in zip(texts, twice, strict=True)]
    both = curves.curve(s, texts, dictionaries(), ranked, twice, sizes=[20]).iloc[1]
    assert both["metric"] == pytest.approx(sum(t["metric"].iloc[1] for t in apart) / 2)
    ends = [sum(t["metric"].iloc[i] for t in apart) for i in (0, 1, -1)]
    assert both["faithfulness"] == pytest.approx((ends[1] - ends[0]) / (ends[2] - ends[0]))
    assert apart[0]["low"].isna().all()


# ---- transcoders in place of MLPs


@cache
def transcoders(kind):
    if kind == "cross":
        d = wb.recipe("crosslayer_transcoder", d=text().d, latents=128, sites=2, k=8).dictionary
        d.sparsifier.threshold.fill_(0.02)
        return unsettled(d, 0.1)
    name = "skip_transcoder" if kind == "skip" else "transcoder"
    return {i: unsettled(wb.recipe(name, d=text().d, latents=64, k=6, seed=i).dictionary, 0.1) for i in (0, 1)}


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("kind", ["plain", "skip", "cross"])
def test_a_replacement_that_keeps_all_is_the_model_and_a_last_latent_weighs_its_edge(kind, frozen):
    s, (ids,) = text(), prompts(7)
    t = transcoders(kind)
    graph = trace(s, ids, t, progress=False).check()
    found = curves.replaced(s, [ids], t, curves.of_graph(graph), of, sizes=[5], frozen=frozen)
    assert found["faithfulness"].tolist()[::2] == [0, 1] and found["completeness"].tolist()[::2] == [1, 0]
    assert found["metric"].iloc[-1] == pytest.approx(float(of(s.run(ids).logits)), abs=1e-3)
    assert found["size"].iloc[-1] == int(graph.of("latent", "error").sum()) - 2, "errors of the first position are out"
    if not frozen:
        return
    (goal,) = difference(s, 5, 9)
    row = trace(s, ids, t, [goal], progress=False)
    nodes, edges = row.nodes, row.edges[row.weights > 0][0]
    last = (nodes["kind"] == "latent") & (nodes["layer"] == 1) & (nodes["pos"] == 6)
    node = nodes.index[last][int(edges[torch.tensor(last.to_numpy())].abs().argmax())]
    one = curves.of_graph(row, torch.eye(len(nodes))[node]).query("effect > 0")
    assert len(one) == 1
    value = curves.replaced(s, [ids], t, one, lambda logits: logits[0, -1] @ goal.of)
    lost = value["metric"].iloc[-1] - value["complement"].iloc[1]
    assert lost == pytest.approx(float(edges[node]), rel=1e-3, abs=1e-4) and abs(lost) > 1e-3


def test_what_is_kept_reads_what_the_circuit_writes():
    """Layer 0 ablated but its errors, layer 1 all kept: two runs with plain edits say the same."""
    s, (ids,) = text(), prompts(7)
    t, keep = transcoders("skip"), torch.arange(7) > 0
    x = s.read(ids, ["0.mlp_in", "0.mlp_out", "1.mlp_in", "1.mlp_out"])
    read = {str(site): h[0] for site, h in x.items()}
    errors = [read[f"{i}.mlp_out"] - t[i].reconstruct(read[f"{i}.mlp_in"]) for i in (0, 1)]
    u = read["0.mlp_in"]
    first = t[0].reconstruct(u) - t[0].encode(u).to_dense() @ t[0].atoms() + errors[0]
    ablated = edit.patch(torch.where(keep[:, None], first, read["0.mlp_out"])[None])
    then = s.run(ids, {"0.mlp_out": ablated}, read=["1.mlp_in"]).h[wb.Site(1, "mlp_in")][0]
    second = edit.patch((t[1].reconstruct(then) + errors[1])[None])
    wanted = float(of(s.run(ids, {"0.mlp_out": ablated, "1.mlp_out": second}).logits))
    kept = every("1.mlp_out", 64, range(7))
    found = curves.replaced(s, [ids], t, kept, of, errors="kept", sizes=[64 * 6], frozen=False)
    assert found["metric"].iloc[1] == pytest.approx(wanted, abs=1e-3)
    assert abs(found["metric"].iloc[1] - found["metric"].iloc[-1]) > 0.01


def test_layers_without_a_transcoder_stay_and_means_are_by_layer():
    s, (ids,) = text(), prompts(7)
    t = {0: transcoders("plain")[0]}
    effects = curves.of_graph(trace(s, ids, t, progress=False))
    assert set(effects["site"]) == {"0.mlp_out", "1.mlp_out"}
    mean = torch.full((64,), 0.1)
    given = {"errors": "ablated", "sizes": [], "frozen": False}
    found = curves.replaced(s, [ids], t, effects, of, mean={0: mean}, **given)
    end = t[0].decode(Code.dense(mean[None]))[0]
    assert found["metric"].iloc[0] == pytest.approx(
        float(of(s.run(ids, {"0.mlp_out": edit.mean(end)}).logits)), abs=1e-3
    )


# ---- figures and bad calls


def test_a_figure_shows_sizes_and_shares():
    s, texts = text(), prompts(9, 9)
    ranked = attribution_patching.effects(s, texts[0], None, dictionaries(), of)
    found = curves.curve(s, texts, dictionaries(), ranked, of, sizes=[3])
    made = curves.figure(found)
    assert [t.name for t in made.data] == ENDS and list(made.data[0].y) == found["faithfulness"].tolist()
    assert list(made.data[0].customdata) == found["size"].tolist() and made.data[0].x[0] == 0.5
    assert "2 prompts, codes ablated to 0, errors ranked" in made.layout.title.text
    assert curves.figure(found.assign(prompts=1)).data[0].error_y.array is None


def test_bad_calls_are_one_line():
    s, (ids,) = text(), prompts(9)
    one, d = table((SITES[0], 1, 0, 1.0)), dictionaries()
    for args, more, said in (
        (([], d, one, of), {}, "no prompts"),
        (([ids], d, one, of), {"errors": "none"}, "errors must be of ranked, kept, ablated, got 'none'"),
        (([ids], d, one, of), {"sizes": [2]}, r"sizes must be within 0..1, the number of ranked nodes, got 2"),
        (([ids], d, one, [of, of]), {}, "one for each of 1 prompts is wanted, got 2"),
        (
            ([ids], d, one.assign(site="1.mlp_out"), of),
            {},
            "effects are at 1.mlp_out, dictionaries at 0.resid, 1.resid",
        ),
        (([ids], d, one.drop(columns="effect"), of), {}, "got none called effect"),
        (([ids], d, one.assign(effect=torch.nan), of), {}, "some are NaN"),
        (([ids], d, one, of), {"mean": {"1.mlp_out": torch.zeros(96)}}, "mean is given at 1.mlp_out"),
        (
            ([ids], d, one, of),
            {"mean": {SITES[0]: torch.zeros(7)}},
            r"the mean at 0.resid must be \(96,\) or \(9, 96\)",
        ),
        (([ids], d, one, lambda logits: logits.sum() * 0), {}, "the same with everything ablated"),
        (([ids.expand(2, -1)], d, one, of), {}, "a prompt must be one text, got 2"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            curves.curve(s, *args, **more)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"layers 0 to 1, transcoders are given for \[5\]"):
        curves.replaced(s, [ids], {5: transcoders("plain")[0]}, one.iloc[:0], of)
    with pytest.raises(ValueError, match="effects must be one for each of"):
        curves.of_graph(trace(s, ids, transcoders("plain"), progress=False), torch.ones(2))
    assert list(curves.of_graph(trace(s, ids, transcoders("plain"), progress=False)).columns) == splices.COLUMNS

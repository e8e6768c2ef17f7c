"""Patching of dictionary latents: the exact oracle, one gradient, and gradients along the way to the patch."""

from functools import cache

import pandas as pd
import pytest
import torch
from models import tiny_llama
from rows import Rows
from scipy.stats import spearmanr
from torch import nn

import workbench as wb
from workbench import edit, testbeds
from workbench.batch import Exclusion, Tokens
from workbench.circuits import splices
from workbench.circuits.tracers import activation_patching, attribution_patching, integrated_gradients
from workbench.code import Code
from workbench.testbeds.subjects import task

TEXT, INDUCTION = "tiny_text_gelu", "induction"
NODE = ["site", "pos", "latent"]
SITES = ("0.resid", "1.attn_out", "1.resid")
ALL = (activation_patching, attribution_patching, integrated_gradients)


@cache
def subject(name: str):
    return testbeds.subject(name)


def untrained(d: int, seed: int = 0) -> dict:
    torch.manual_seed(seed)
    kinds = {"0.resid": ("topk", {"k": 6}), "1.attn_out": ("relu_l1", {}), "1.resid": ("topk", {"k": 4})}
    found = {s: wb.recipe(kind, d=d, latents=2 * d, **args).dictionary.freeze() for s, (kind, args) in kinds.items()}
    for dictionary in found.values():
        dictionary.decoder.bias.data.normal_()  # so that a lost bias shows
        dictionary.set_scale_(0.5, 0.5)  # and a lost scale
    return found


@cache
def trained(name: str, site: str):
    """A batch_topk dictionary after 200 steps on the subject's own rows."""
    s = subject(name)
    x = s.read(sample(name, 3)[:64, :48], [site])[wb.Site.of(site)][:, 1:].flatten(0, 1)
    torch.manual_seed(0)
    recipe = wb.recipe("batch_topk", d=s.d, latents=4 * s.d, k=8)
    return wb.train(recipe, Rows(x, 256, 200), site=site, progress=False).freeze()


def sample(name: str, step: int) -> torch.Tensor:
    batch = task(name).batch(0, step)
    return batch if isinstance(batch, torch.Tensor) else batch[0]


def prompts(name: str, seed: int):
    """A clean and a patch prompt, and the logit of the clean one's answer less that of the patch one's."""
    s, rng = subject(name), torch.Generator().manual_seed(seed)
    if name == INDUCTION:  # what followed the repeated token is another token
        r = torch.randperm(s.vocab - 1, generator=rng)[:9][None] + 1
        clean = torch.cat([r[:, :8], r[:, :4]], 1)
        patch = clean.clone()
        patch[0, 4] = r[0, 8]
        answer, other = int(r[0, 4]), int(r[0, 8])
    else:
        texts = sample(TEXT, 4)
        clean = texts[seed : seed + 1, :12].clone()
        patch = clean.clone()
        patch[0, 10] = texts[20 + seed, 5]
        change = s.run(clean).logits[0, -1] - s.run(patch).logits[0, -1]
        answer, other = int(change.argmax()), int(change.argmin())
    return clean, patch, lambda logits: logits[0, -1, answer] - logits[0, -1, other]


def linear():
    """A subject that is linear behind its last block: no final norm."""
    model = tiny_llama()
    model.model.norm = nn.Identity()
    s = wb.Subject(model)
    dictionary = untrained(s.d)["1.resid"]
    a = torch.arange(7)[None] * 5 + 4
    b = a.clone()
    b[0, 3:5] += 1
    return s, a, b, {"2.resid": dictionary}


def both(name: str, seed: int):
    return pytest.param(name, seed, id=f"{name}-{seed}")


# ---- nodes


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("name", [TEXT, INDUCTION])
def test_codes_and_errors_make_the_clean_vector_and_all_changes_the_patched_one(name, paired):
    s, (clean, patch, _) = subject(name), prompts(name, 0)
    dictionaries, before = untrained(s.d), s.run(clean).logits
    x, y = s.read(clean, SITES), s.read(patch, SITES)
    tokens, sites = splices.splice(s, clean, patch if paired else None, dictionaries)
    still = s.run(tokens, {nodes.site: nodes.together(torch.zeros(1)) for nodes in sites}).logits
    torch.testing.assert_close(still, before, rtol=0, atol=1e-5)
    for nodes in sites:
        site, codec = nodes.site, dictionaries[str(nodes.site)]
        code, on = codec.encode(x[site][0]), nodes.latent >= 0
        assert torch.equal(nodes.clean[on], code.to_dense()[nodes.pos[on], nodes.latent[on]])
        error = (x[site][0] - codec.decode(code))[1:]
        torch.testing.assert_close(nodes.clean[~on], error.norm(dim=-1), rtol=1e-4, atol=1e-4)
        h = s.run(tokens, {site: nodes.together(torch.ones(1))}, read=[site]).h[site][0]
        wanted = y[site][0] if paired else codec.decode(Code.dense(torch.zeros(1, codec.latents)))
        torch.testing.assert_close(h[1:], wanted.expand(12, -1)[1:], rtol=1e-4, atol=1e-4)
        assert torch.equal(h[0], x[site][0, 0]), "the first position is left alone"
        if not paired:
            assert int(on.sum()) == int(codec.encode(x[site][0, 1:]).counts().sum()) > 20


def test_all_tracers_give_one_tidy_table_of_the_nodes_that_differ():
    s, (clean, patch, of) = subject(TEXT), prompts(TEXT, 0)
    dictionaries = untrained(s.d)
    tables = [tracer.effects(s, clean, patch, dictionaries, of) for tracer in ALL]
    for table in tables:
        assert list(table.columns) == splices.COLUMNS
        pd.testing.assert_frame_equal(table[splices.COLUMNS[:-1]], tables[0][splices.COLUMNS[:-1]])
        assert not table.duplicated(NODE).any() and table["effect"].notna().all()
    table = tables[0]
    assert list(table["site"].unique()) == list(SITES)
    latents, errors = table[table["latent"] >= 0], table[table["latent"] < 0]
    assert (latents["clean"] != latents["patch"]).all() and (latents["pos"] >= 10).all(), "equal before the change"
    assert list(errors[errors["site"] == "0.resid"]["pos"]) == list(range(1, 12))
    assert (table["effect"][table["pos"] < 10].abs() < 1e-4).all()


def test_positions_that_the_rules_leave_out_have_no_nodes_and_stay():
    s, (clean, patch, of) = subject(TEXT), prompts(TEXT, 0)
    clean, patch = clean.clone(), patch.clone()
    clean[0, 4] = patch[0, 6] = next(iter(s.special_ids))
    dictionaries = {"0.resid": untrained(s.d)["0.resid"]}
    for tracer in ALL:
        assert set(tracer.effects(s, clean, patch, dictionaries, of)["pos"]) == set(range(12)) - {0, 4, 6}
    h = s.read(clean, ["0.resid"])[wb.Site(0, "resid")][0]
    norm, largest = float(h[1:].norm(dim=-1).max()), int(h[1:].norm(dim=-1).argmax()) + 1
    dictionaries["0.resid"].exclusion = Exclusion(norm=1.0, medians={"0.resid": norm * 0.999})
    for tracer in ALL:
        assert largest not in set(tracer.effects(s, clean, None, dictionaries, of)["pos"])


# ---- the oracle


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("name", [TEXT, INDUCTION])
def test_the_oracle_is_a_clamped_latent_or_a_swapped_error(name, paired):
    s, (clean, patch, of) = subject(name), prompts(name, 1)
    dictionaries, base = untrained(s.d), of(s.run(clean).logits)
    table = activation_patching.effects(s, clean, patch if paired else None, dictionaries, of)
    for site, codec in dictionaries.items():
        x, y = (s.read(t, [site])[wb.Site.of(site)] for t in (clean, patch))
        error = [h - codec.reconstruct(h[0])[None] for h in (x, y)]
        rows = table[table["site"] == site]
        rows = pd.concat([rows[rows["latent"] >= 0].iloc[::9], rows[rows["latent"] < 0].tail(2)])
        for row in rows.itertuples():
            if row.latent >= 0:
                change = edit.clamp(codec, row.latent, row.patch).at(row.pos)
            else:
                left = error[1] if paired else torch.zeros_like(error[1])
                change = edit.function(lambda h, at, by=left - error[0]: h + by).at(row.pos)
            wanted = of(s.run(clean, {site: change}).logits) - base
            assert row.effect == pytest.approx(float(wanted), rel=1e-3, abs=2e-4), row
    assert table["effect"].abs().max() > 0.1


def test_the_size_of_a_batch_changes_nothing():
    s, (clean, patch, of) = subject(INDUCTION), prompts(INDUCTION, 0)
    dictionaries = {"0.resid": untrained(s.d)["0.resid"]}
    for tracer, sizes in ((activation_patching, (1, 7)), (integrated_gradients, (1, 4))):
        one, other = (tracer.effects(s, clean, patch, dictionaries, of, batch=size) for size in sizes)
        torch.testing.assert_close(torch.tensor(one["effect"]), torch.tensor(other["effect"]), rtol=1e-4, atol=1e-4)


# ---- gradients


def test_where_the_model_is_linear_all_three_agree():
    s, clean, patch, dictionaries = linear()
    of = lambda logits: logits[0, 2:, 5].sum() - logits[0, 2:, 9].sum()  # noqa: E731
    for to in (patch, None):
        exact = activation_patching.effects(s, clean, to, dictionaries, of)["effect"]
        scale = exact.abs().max()
        assert scale > 0.1
        for found in (
            attribution_patching.effects(s, clean, to, dictionaries, of),
            integrated_gradients.effects(s, clean, to, dictionaries, of, steps=3),
        ):
            assert (found["effect"] - exact).abs().max() < 1e-4 * scale


def test_attribution_is_the_gradient_of_code_leaves_with_the_error_held():
    s, (clean, patch, of) = subject(TEXT), prompts(TEXT, 2)
    dictionaries = untrained(s.d)
    table = attribution_patching.effects(s, clean, patch, dictionaries, of)
    for site, codec in dictionaries.items():  # each alone: what is spliced later does not cut an earlier gradient
        x, y = (s.read(t, [site])[wb.Site.of(site)][0] for t in (clean, patch))
        z = codec.encode(x).to_dense().requires_grad_()
        error = (x - codec.reconstruct(x)).detach().requires_grad_()
        leaf = edit.function(lambda h, at, z=z, e=error, codec=codec: (codec.decode(Code.dense(z)) + e)[None])
        with torch.enable_grad():
            value = of(s._run(clean, {site: leaf}, [], grad=True).logits)
            by_code, by_error = torch.autograd.grad(value, [z, error])
        codes = by_code * (codec.encode(y).to_dense() - z)
        errors = (by_error * (y - codec.reconstruct(y) - error)).sum(-1)
        for row in table[table["site"] == site].itertuples():
            wanted = float((codes[row.pos, row.latent] if row.latent >= 0 else errors[row.pos]).detach())
            assert row.effect == pytest.approx(wanted, rel=1e-3, abs=1e-4), row


def test_one_step_is_the_gradient_at_the_middle():
    s, (clean, patch, of) = subject(INDUCTION), prompts(INDUCTION, 0)
    dictionaries = {"0.resid": untrained(s.d)["0.resid"]}
    site = wb.Site(0, "resid")
    middle = (s.read(clean, [site])[site] + s.read(patch, [site])[site]) / 2
    grads = s.gradients(clean, [site], of, {site: edit.patch(middle)})[site][0]
    _, (nodes,) = splices.splice(s, clean, patch, dictionaries)
    wanted = (grads[nodes.pos] * nodes.change).sum(-1)
    found = torch.tensor(integrated_gradients.effects(s, clean, patch, dictionaries, of, steps=1)["effect"])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    plain = torch.tensor(attribution_patching.effects(s, clean, patch, dictionaries, of)["effect"])
    assert (plain - wanted).abs().max() > 0.1, "the clean end would do as well"


def test_one_step_is_complete_for_a_square():
    """The midpoint rule is exact for gradients that are linear on the way; a sum from the left end is not."""
    s, clean, patch, dictionaries = linear()
    of = lambda logits: (logits[0, 2:, 5] - logits[0, 2:, 9]).square().sum()  # noqa: E731
    wanted = float(of(s.run(clean, {"2.resid": edit.patch(s.read(patch, ["2.resid"])[wb.Site(2, "resid")])}).logits))
    wanted -= float(of(s.run(clean).logits))
    total = integrated_gradients.effects(s, clean, patch, dictionaries, of, steps=1)["effect"].sum()
    assert total == pytest.approx(wanted, rel=1e-4)
    assert abs(attribution_patching.effects(s, clean, patch, dictionaries, of)["effect"].sum() - wanted) > 0.1


@pytest.mark.parametrize(("name", "seed"), [both(TEXT, 0), both(TEXT, 2), both(INDUCTION, 0), both(INDUCTION, 1)])
def test_a_sites_integrated_effects_add_up_to_patching_it_whole_and_closer_with_steps(name, seed):
    s, (clean, patch, of) = subject(name), prompts(name, seed)
    dictionaries, base = untrained(s.d), float(of(s.run(clean).logits))
    y = s.read(patch, SITES)
    whole = {site: float(of(s.run(clean, {site: edit.patch(y[wb.Site.of(site)])}).logits)) - base for site in SITES}
    missed = {}
    for steps in (1, 8, 64):
        table = integrated_gradients.effects(s, clean, patch, dictionaries, of, steps=steps, batch=32)
        sums = table.groupby("site")["effect"].sum()
        missed[steps] = {site: abs(sums[site] - whole[site]) for site in SITES}
    assert max(map(abs, whole.values())) > 0.1
    for site in SITES:
        assert missed[64][site] < 2e-3 * abs(whole[site]) + 1e-3
    assert sum(missed[64].values()) < sum(missed[8].values()) / 4 and sum(missed[8].values()) < sum(missed[1].values())


# ---- estimates against the oracle


def interval(x: pd.Series, y: pd.Series, seed: int = 0) -> tuple[float, float, float]:
    """Spearman's rank correlation over nodes and its 95 % bootstrap interval."""
    rng = torch.Generator().manual_seed(seed)
    draws = [torch.randint(len(x), (len(x),), generator=rng).numpy() for _ in range(200)]
    found = torch.tensor([spearmanr(x.iloc[i], y.iloc[i])[0] for i in draws])
    return float(spearmanr(x, y)[0]), float(found.quantile(0.025)), float(found.quantile(0.975))


@cache
def compared(name: str, site: str) -> pd.DataFrame:
    """Effects at a site over three prompts: patched alone, the mean with restored alone, and the two estimates."""
    s, dictionaries, parts = subject(name), {site: trained(name, site)}, []
    for seed in range(3):
        clean, patch, of = prompts(name, seed)
        alone, back = (
            activation_patching.effects(s, *ends, dictionaries, of) for ends in ((clean, patch), (patch, clean))
        )
        assert alone[NODE].equals(back[NODE])
        table = alone.rename(columns={"effect": "alone"}).assign(seed=seed, ends=(alone["effect"] - back["effect"]) / 2)
        for tracer in ALL[1:]:
            table[tracer.__name__.split(".")[-1]] = tracer.effects(s, clean, patch, dictionaries, of)["effect"]
        parts.append(table[(table["ends"].abs() > 1e-3 * table["ends"].abs().max())])
    return pd.concat(parts, ignore_index=True)


CASES = [(name, site) for name in (TEXT, INDUCTION) for site in ("embed", "0.resid", "1.resid")]


@pytest.mark.parametrize(("name", "site"), CASES)
def test_attribution_ranks_nodes_patched_alone(name, site):
    """Measured over three prompts: 0.94 (induction) to 0.999 (text)."""
    table = compared(name, site)
    rho, low, high = interval(table["alone"], table["attribution_patching"])
    assert len(table) > 20 and low <= rho <= high
    assert rho > 0.9 and low > 0.75


@pytest.mark.parametrize(("name", "site"), CASES)
def test_integrated_gradients_rank_nodes_patched_and_restored(name, site):
    """Against the mean over both ends: 0.96 to 1.0, where plain attribution has 0.42 to 0.99 (0.94 and up on text)."""
    table = compared(name, site)
    rho, low, high = interval(table["ends"], table["integrated_gradients"])
    assert low <= rho <= high
    assert rho > 0.9 and low > 0.8
    for _, one in table.groupby("seed"):
        found, plain = (spearmanr(one["ends"], one[e])[0] for e in ("integrated_gradients", "attribution_patching"))
        assert found >= plain - 0.01
    if name == INDUCTION:
        assert low > interval(table["ends"], table["attribution_patching"])[2]


def test_for_a_node_patched_alone_integrated_gradients_rank_worse_than_the_gradient():
    """Marks et al. 2024 say the opposite of early layers; behind block 0 of induction we have 0.74 against 0.95."""
    table = compared(INDUCTION, "0.resid")
    found, plain = (interval(table["alone"], table[e]) for e in ("integrated_gradients", "attribution_patching"))
    assert found[0] < plain[1] and found[0] > 0.5


# ---- refusals


@pytest.mark.parametrize("tracer", ALL, ids=lambda t: t.__name__.split(".")[-1])
def test_bad_input_is_refused_in_one_line(tracer):
    s, (clean, patch, of) = subject(TEXT), prompts(TEXT, 0)
    one = untrained(s.d)["0.resid"]
    elsewhere, between = (untrained(s.d)["0.resid"] for _ in range(2))
    elsewhere.site, between.target = wb.Site(1, "resid"), wb.Site(0, "mlp_out")
    padded = Tokens(patch, torch.ones_like(patch, dtype=torch.bool).index_fill(1, torch.tensor([11]), False))
    for args, said in (
        ((clean, patch[:, :9], {"0.resid": one}, of), "same number of tokens, got 12 and 9"),
        ((clean, padded, {"0.resid": one}, of), "same number of tokens, got 12 and 11"),
        ((clean, patch, {}, of), "one or more sites is wanted, got none"),
        ((clean, patch, {"0.resid": one, wb.Site(0, "resid"): one}, of), "got 0.resid, 0.resid"),
        ((clean, patch, {"2.resid": one}, of), "2.resid does not exist: layers run from 0 to 1"),
        ((clean, patch, {"0.resid": elsewhere}, of), "is of 1.resid"),
        ((clean, patch, {"0.resid": between}, of), "is of 0.mlp_out"),
        ((clean.expand(2, -1), None, {"0.resid": one}, of), "clean must be one text, got 2"),
        ((clean, patch.expand(2, -1), {"0.resid": one}, of), "patch must be one text, got 2"),
        ((clean, patch, {"0.resid": one}, lambda logits: logits[0, -1, :2]), r"one number for logits.*got \(2,\)"),
        ((clean, patch, {"0.resid": one}, lambda logits: 0.5), "one number for logits.*got float"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            tracer.effects(s, *args)
        assert "\n" not in str(caught.value)


def test_counts_below_one_are_refused():
    s, (clean, patch, of) = subject(TEXT), prompts(TEXT, 0)
    one = {"0.resid": untrained(s.d)["0.resid"]}
    with pytest.raises(ValueError, match="steps is .* got 0"):
        integrated_gradients.effects(s, clean, patch, one, of, steps=0)
    for tracer in (activation_patching, integrated_gradients):
        with pytest.raises(ValueError, match="batch is .* got 0"):
            tracer.effects(s, clean, patch, one, of, batch=0)

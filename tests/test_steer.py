"""The suite that every file in workbench/steer/methods/ joins by being there, and the controls around them."""

import inspect
from functools import cache
from math import exp, inf, isnan, log
from types import SimpleNamespace

import pandas as pd
import plain_codecs
import pytest
import torch
from models import tiny_llama, tiny_tokenizer
from torch.nn.functional import normalize

import workbench as wb
from workbench import catalogue, edit, steer
from workbench.batch import Tokens
from workbench.edit import At
from workbench.steer.core import measure

METHODS = catalogue.names("methods")
LAST = wb.Site(2, "resid")
TARGET = 40


@cache
def world() -> SimpleNamespace:
    """Vectors with a planted concept, and all that a method may ask for by the names of its parameters."""
    x, atoms = plain_codecs.planted(24, 12, 16, k=2)
    h = x.view(3, 8, 16)
    real = torch.ones(3, 8, dtype=torch.bool)
    real[1, :3] = False
    keep = real.clone()
    keep[:, 4] = False
    positions = torch.arange(8).expand(3, 8)
    at = At(wb.Site(0, "resid"), torch.zeros(3, 8, dtype=torch.long), positions, real, keep, torch.ones_like(real))
    resources = {
        "vector": atoms[5], "unit": 2.0, "codec": plain_codecs.true(atoms), "latent": 5, "peak": 2.0,
        "positive": x + atoms[5], "negative": x,
    }  # fmt: skip
    return SimpleNamespace(h=h, at=at, concept=atoms[5], resources=resources)


def made(name: str):
    """The method with what its parameters ask for. A new file may ask for `world().resources` by name."""
    parameters = inspect.signature(catalogue.entry("methods", name)).parameters.values()
    return catalogue.entry("methods", name)(
        **{p.name: world().resources[p.name] for p in parameters if p.default is p.empty}
    )


@pytest.mark.parametrize("name", METHODS)
def test_it_is_documented_and_says_its_unit_of_strength(name):
    assert inspect.getdoc(catalogue.module("methods", name))
    assert "trength in units of" in inspect.getdoc(catalogue.entry("methods", name))


@pytest.mark.parametrize("name", METHODS)
def test_strength_0_is_the_identity_to_the_bit(name):
    assert torch.equal(made(name)(0.0)(world().h, world().at), world().h)


@pytest.mark.parametrize("name", METHODS)
def test_the_input_and_masked_positions_are_untouched(name):
    h, at = world().h, world().at
    before = h.clone()
    after = made(name)(3.0)(h, at)
    assert torch.equal(h, before) and torch.equal(after[~at.keep], h[~at.keep])
    assert (after[at.keep] != h[at.keep]).any(-1).all()


@pytest.mark.parametrize("name", METHODS)
def test_the_concept_moves_one_way_with_strength(name):
    h, at, method = world().h, world().at, made(name)
    along = [float((method(s)(h, at)[at.keep] @ world().concept).mean()) for s in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)]
    assert along == sorted(along) and along[-1] > along[0] + 1


# ---- the methods, by hand


def test_add_moves_by_strength_times_unit_whatever_the_length_of_the_vector():
    h, at = world().h, world().at
    moved = catalogue.entry("methods", "add")(10 * world().concept, unit=3.0)(0.5)(h, at) - h
    assert torch.allclose(moved[at.keep], 1.5 * world().concept, atol=1e-5)
    with pytest.raises(ValueError, match="no direction"):
        catalogue.entry("methods", "add")(torch.zeros(4), unit=1.0)


def test_clamp_holds_the_latent_at_its_share_of_the_peak_and_keeps_the_rest():
    h, at, codec = world().h, world().at, world().resources["codec"]
    method = catalogue.entry("methods", "clamp")(codec, 5, peak=2.0)
    before, after = (codec.encode(v[at.keep]).to_dense() for v in (h, method(0.75)(h, at)))
    assert torch.allclose(after[:, 5], before[:, 5].clamp_min(1.5), atol=1e-4)
    others = torch.arange(12) != 5
    assert torch.allclose(after[:, others], before[:, others], atol=1e-4)
    with pytest.raises(ValueError, match="0 or more"):
        method(-1.0)
    with pytest.raises(ValueError, match="above 0"):
        catalogue.entry("methods", "clamp")(codec, 5, peak=0.0)


def test_diff_mean_goes_from_the_negative_mean_to_the_positive():
    h, at = world().h, world().at
    method = catalogue.entry("methods", "diff_mean")
    moved = method(torch.tensor([[2.0] + [0.0] * 15]), torch.zeros(3, 16), unit=4.0)(1.0)(h, at) - h
    assert torch.allclose(moved[at.keep], torch.tensor([4.0] + [0.0] * 15), atol=1e-5)
    with pytest.raises(ValueError, match="both sides need rows"):
        method(torch.zeros(0, 16), torch.zeros(3, 16), unit=1.0)


# ---- the control


def test_the_control_pushes_as_far_at_every_position_in_one_random_direction():
    h, at = world().h, world().at
    clamp = catalogue.entry("methods", "clamp")(world().resources["codec"], 5, peak=2.0)(1.0)
    one, other = (steer.equal_norm(clamp, seed=s)(h, at) - h for s in (0, 1))
    wanted = (clamp(h, at) - h).norm(dim=-1)
    assert len(wanted[at.keep].unique()) > 2 and torch.allclose(one.norm(dim=-1), wanted, atol=1e-5)
    directions = normalize(one[wanted > 1e-3], dim=-1)
    assert torch.allclose(directions, directions[:1].expand_as(directions), atol=1e-4)
    assert float((directions[0] @ normalize(other[wanted > 1e-3], dim=-1)[0]).abs()) < 0.9
    assert torch.equal((h + one)[~at.keep], h[~at.keep])


# ---- measured on a model


@cache
def subject() -> wb.Subject:
    return wb.Subject(tiny_llama(), tiny_tokenizer(), name="tiny")


def ragged(seed: int = 0, rows: int = 6) -> Tokens:
    drawn = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 12, (rows,), generator=drawn).tolist()
    return subject().pad([torch.randint(3, 96, (n,), generator=drawn).tolist() for n in lengths])


def towards(token: int):
    """Push the last residual stream along a token's row of the unembedding, behind the norm's gain."""
    vector = subject().unembed[token] * subject().gain
    h = subject().read(ragged(), [LAST])[LAST]
    return catalogue.entry("methods", "add")(vector, unit=float(h.norm(dim=-1).median()))


def test_measures_equal_a_plain_run():
    model, tokens, push = subject(), ragged(), towards(TARGET)(0.4)
    none, pushed = measure(model, tokens, [{}, {LAST: push}], [TARGET, 7])
    where = tokens.mask[:, 1:].clone()
    where[:, 0] = False  # predictions of first positions do not count
    clean, edited = (model.run(tokens, e).logits[:, :-1].log_softmax(-1)[where] for e in ({}, {LAST: push}))
    nats = [float(model.nll(tokens, e)[:, 1:][where].mean()) for e in ({}, {LAST: push})]
    assert none["kl"] == 0 and none["perplexity"] == pytest.approx(exp(nats[0]), rel=1e-4)
    assert pushed["perplexity"] == pytest.approx(exp(nats[1]), rel=1e-4)
    assert none["target_probability"] == pytest.approx(
        float(clean[:, [TARGET, 7]].logsumexp(-1).mean().exp()), rel=1e-4
    )
    assert pushed["kl"] == pytest.approx(float((clean.exp() * (clean - edited)).sum(-1).mean()), rel=1e-4)
    with pytest.raises(ValueError, match="no position is left"):
        measure(model, Tokens(tokens.ids[:, :1], tokens.mask[:, :1]), [{}], [TARGET])


def test_the_target_rises_with_strength_and_above_an_equal_push():
    table = steer.compare(
        subject(), LAST, towards(TARGET), [0.1, 0.2, 0.4], {s: ragged(s) for s in (0, 1, 2)}, [TARGET], progress=False
    )
    assert list(table.columns) == ["seed", "arm", "strength", "target_probability", "kl", "perplexity"]
    assert len(table) == 3 * (1 + 2 * 3)
    for _, part in table.groupby("seed"):
        by = part.set_index(["arm", "strength"])
        steered, random = (
            [by.loc[(arm, s), "target_probability"] for s in (0.1, 0.2, 0.4)] for arm in ("steered", "random")
        )
        assert by.loc[("none", 0.0), "target_probability"] < steered[0] < steered[1] < steered[2]
        assert all(a > b for a, b in zip(steered, random, strict=True))
        assert by.loc[("none", 0.0), "kl"] == 0 < by.loc[("steered", 0.1), "kl"] < by.loc[("steered", 0.4), "kl"]
    again = steer.compare(
        subject(), LAST, towards(TARGET), [0.1, 0.2, 0.4], {s: ragged(s) for s in (0, 1, 2)}, [TARGET], progress=False
    )
    assert table.equals(again)


def test_strength_0_compares_three_equal_arms():
    table = steer.compare(subject(), LAST, towards(TARGET), [0.0], [ragged()], [TARGET], progress=False)
    for column in ("target_probability", "kl", "perplexity"):
        assert table[column].to_list() == pytest.approx([table[column][0]] * 3, abs=1e-6)


def test_nothing_to_compare_is_refused():
    for strengths, texts, targets in (([], [ragged()], [1]), ([1.0], [], [1]), ([1.0], [ragged()], [])):
        with pytest.raises(ValueError, match="at least one strength"):
            steer.compare(subject(), LAST, towards(TARGET), strengths, texts, targets)


def test_texts_stand_side_by_side_with_their_perplexity_under_the_unedited_model():
    model, prompt = subject(), "w5 w6 w7"
    story = steer.continuations(model, LAST, towards(TARGET)(3.0), prompt, new=8, temperature=0.0)
    assert list(story["arm"]) == ["none", "steered", "random"]
    assert story["text"][1].count(f"w{TARGET - 3}") >= 6 > story["text"][0].count(f"w{TARGET - 3}")
    made = model.generate(prompt, new=8)
    assert story["text"][0] == made.new_texts[0]
    assert story["perplexity"][0] == pytest.approx(exp(-float(made.logprobs.nanmean())), rel=1e-3)
    assert story["perplexity"][1] > story["perplexity"][0]
    still = steer.continuations(model, LAST, towards(TARGET)(0.0), prompt, new=8)
    assert len(set(still["text"])) == 1 and still["perplexity"].nunique() == 1


# ---- reading a table


def table(steered, random, *, clean=0.01, seed=0) -> pd.DataFrame:
    """From {strength: (probability, perplexity)}; the unedited perplexity is 10."""
    rows = [(seed, "none", 0.0, clean, 0.0, 10.0)]
    rows += [(seed, "steered", s, p, 0.1, perplexity) for s, (p, perplexity) in steered.items()]
    rows += [(seed, "random", s, p, 0.1, 10.0) for s, p in random.items()]
    return pd.DataFrame(rows, columns=["seed", "arm", "strength", "target_probability", "kl", "perplexity"])


def test_the_verdict_is_given_at_the_largest_strength_before_perplexity_doubles():
    found = steer.verdict(table({1.0: (0.1, 11), 2.0: (0.3, 19), 3.0: (0.9, 40)}, {1.0: 0.2, 2.0: 0.2, 3.0: 0.1})).iloc[
        0
    ]
    assert found["strength"] == 2 and found["steered"] == 0.3 and found["random"] == 0.2 and found["holds"]
    assert found["perplexity_ratio"] == pytest.approx(1.9)
    share = (log(2) - log(1.9)) / (log(4) - log(1.9))
    assert found["reaches_limit"] == pytest.approx(2 + share)
    strict = steer.verdict(table({1.0: (0.1, 11), 2.0: (0.3, 19)}, {1.0: 0.2, 2.0: 0.2}), limit=1.5).iloc[0]
    assert strict["strength"] == 1 and not strict["holds"]  # the random push does more there


def test_what_does_not_hold():
    weak = steer.verdict(table({1.0: (0.005, 11)}, {1.0: 0.001})).iloc[0]
    assert not weak["holds"] and weak["reaches_limit"] == inf  # above random, below no edit
    broken = steer.verdict(table({1.0: (0.9, 21)}, {1.0: 0.001})).iloc[0]
    assert not broken["holds"] and isnan(broken["strength"]) and 0 < broken["reaches_limit"] < 1
    # perplexity that falls again behind the limit does not count
    back = steer.verdict(table({1.0: (0.02, 11), 2.0: (0.5, 30), 3.0: (0.9, 12)}, {1.0: 0.0, 2.0: 0.0, 3.0: 0.0})).iloc[
        0
    ]
    assert back["strength"] == 1
    both = pd.concat([table({1.0: (0.1, 11)}, {1.0: 0.0}, seed=3), table({1.0: (0.0, 11)}, {1.0: 0.1}, seed=8)])
    assert steer.verdict(both).set_index("seed")["holds"].to_dict() == {3: True, 8: False}


def test_the_figure_has_three_panels_with_every_point():
    figure = steer.figure(table({1.0: (0.1, 11), 2.0: (0.3, 19)}, {1.0: 0.2, 2.0: 0.2}))
    points = [t for t in figure.data if t.mode == "markers"]
    assert [list(t.y) for t in points[:2]] == [[0.1, 0.3], [0.2, 0.2]] and len(points) == 6
    assert {t.name for t in figure.data} == {"steered", "random", "no edit"}
    assert figure.layout.yaxis3.type == "log" and "nats" in figure.layout.annotations[1].text


# ---- the rule that picks the latent


def rows_with_firings(firings: dict[int, list[int]], ids: torch.Tensor) -> tuple:
    """Rows whose identity code fires `latent` at the given positions of one long text per 100 tokens."""
    z = torch.zeros(ids.numel(), 8)
    for latent, where in firings.items():
        z[where, latent] = 1.0
    place = torch.arange(ids.numel())
    length = ids.shape[1]
    rows = plain_codecs.MemoryRows(
        z, place // length, place % length, tokens=Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    )
    return plain_codecs.identity(8), rows


def test_the_rule_picks_the_latent_that_foretells_its_next_token():
    ids = torch.randint(100, 2000, (20, 100), generator=torch.Generator().manual_seed(0))
    ids[:, 11] = 7  # after position 10 of every text comes token 7
    ids[:10, 51] = 8
    flat = torch.arange(20) * 100
    firings = {
        1: (flat + 10).tolist(),  # always followed by 7
        2: (flat + 50).tolist(),  # followed by 8 half of the time
        3: (flat + 30).tolist(),  # followed by anything
        4: list(range(0, 2000, 2)),  # too dense
        5: [10, 110],  # always followed by 7, but fires too seldom
    }
    codec, rows = rows_with_firings(firings, ids)
    choice = steer.choose(codec, rows, low=1e-4, high=0.05, least=10, rare=0.02)
    assert choice.latent == 1 and choice.targets == [7]
    assert choice.score == pytest.approx(1 - 20 / (20 * 99))
    assert steer.choose(codec, rows, high=0.05, least=10, rare=0.009).latent == 2  # 7 is too common now
    assert steer.choose(codec, rows, high=0.05, least=10, rare=0.02, top=2).targets[0] == 7
    with pytest.raises(ValueError, match="no latent fires"):
        steer.choose(codec, rows, low=0.9, high=0.95)


def test_the_rule_does_not_look_past_a_texts_end_or_its_padding():
    ids = torch.full((4, 10), 50)
    ids[:, 0], ids[:, 9] = 9, 60
    codec, rows = rows_with_firings({0: [9, 19, 29, 39], 1: [8, 18, 28]}, ids)
    choice = steer.choose(codec, rows, high=0.5, least=1, rare=0.5)
    assert choice.latent == 1 and choice.targets == [60]  # latent 0 has no next token: it never counts
    rows.tokens.mask[:, 9] = False
    with pytest.raises(ValueError, match="no latent"):
        steer.choose(codec, rows, high=0.5, least=1, rare=0.5)


def test_edits_of_a_method_act_on_new_tokens_too():
    model, push = subject(), towards(TARGET)(3.0)
    prompt_only = model.generate("w5 w6 w7", {LAST: push.prompt()}, new=6).new_texts[0]
    everywhere = model.generate("w5 w6 w7", {LAST: push}, new=6).new_texts[0]
    assert prompt_only != everywhere and everywhere.count(f"w{TARGET - 3}") >= 5
    assert isinstance(push, edit.Edit)

"""SteeringDesk without a browser: what it refuses, what it generates and measures, and that its code cell agrees."""

import json
import threading
from functools import cache
from math import exp, inf, isclose
from typing import Any

import plain_codecs
import pytest
import torch
import traitlets
from models import tiny_llama, tiny_tokenizer

import workbench as wb
from widgets import SteeringDesk, payload, worker
from workbench import steer
from workbench.steer.core import measure
from workbench.steer.methods.add import add

SITE, OTHER = "1.resid", "2.resid"
TEXTS = ["w4 w9 w11 w30 w2", "w7 w7 w50 w12", "w60 w61 w62 w63 w64 w65", "w3 w80"]


@cache
def subject() -> wb.Subject:
    return wb.Subject(tiny_llama(), tiny_tokenizer())


@cache
def codec() -> Any:
    atoms = 3 * plain_codecs.planted(4, 12, 32, k=2)[1]
    return plain_codecs.true(atoms, wb.Site.of(SITE))


@cache
def vector() -> torch.Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(3))


def desk(**given: Any) -> SteeringDesk:
    common = {"latents": [3], "vectors": {"v": (vector(), OTHER)}, "held_out": TEXTS, "new": 7}
    made = SteeringDesk(**{"subject": subject(), "codec": codec(), "prompt": "w5 w6 w7 w8"} | common | given)
    worker.settle()
    assert made.error == ""
    return made


def line(name: Any, method: str = "add", strength: float = 1.0, where: str = "both", on: bool = True) -> dict[str, Any]:
    of = "vector" if isinstance(name, str) else "latent"
    return {"of": of, "name": name, "on": on, "method": method, "strength": strength, "where": where}


def went(made: SteeringDesk) -> dict[str, Any]:
    made.start()
    worker.settle()
    assert made.error == "" and made.busy == ""
    return made.run


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"codec": None, "latents": [], "vectors": None}, "a codec or vectors"),
        ({"codec": "sae"}, "a codec is wanted"),
        ({"codec": plain_codecs.random(12, 32, site=None)}, "no site"),
        ({"codec": plain_codecs.random(12, 31, site=wb.Site.of(SITE))}, "must be 32 wide"),
        ({"latents": [12]}, r"latent must be 0\.\.11"),
        ({"latents": [-1]}, r"latent must be 0\.\.11"),
        ({"vectors": {"v": (torch.zeros(32), SITE)}}, "not all zero"),
        ({"vectors": {"v": (torch.full((32,), torch.nan), SITE)}}, "finite"),
        ({"vectors": {"v": (torch.ones(31), SITE)}}, "must be 32 wide"),
        ({"vectors": {"v": (torch.ones(32), "9.resid")}}, "9.resid"),
        ({"prompt": " "}, "prompt must be text"),
        ({"new": 0}, "new must be 1 to 300"),
        ({"new": 301}, "new must be 1 to 300"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"seed": -1}, "seed"),
        ({"strength": inf}, "finite"),
        ({"held_out": "one text"}, "a list of texts"),
        ({"held_out": []}, "a list of texts"),
    ],
)
def test_what_does_not_fit_is_refused_with_one_line(given, told):
    with pytest.raises((ValueError, TypeError), match=told) as error:
        desk(**given)
    assert "\n" not in str(error.value)


def test_the_norm_is_the_median_over_kept_positions_of_the_held_out_texts():
    found = desk().norms[SITE]
    tokens = subject().tokenize(TEXTS)
    keep = subject().exclusion.by_token(tokens, subject().special_ids)
    norms = subject().read(tokens, [SITE])[wb.Site.of(SITE)][keep].norm(dim=-1)
    assert found["positions"] == int(keep.sum()) == 13
    assert isclose(found["norm"], float(norms.median()), rel_tol=1e-4)
    assert not desk(held_out=None).norms[SITE]["held_out"]


@pytest.mark.parametrize(
    ("one", "moved"),
    [(line(3, "add", 0.7), 0.7), (line("v", "add", -0.4), 0.4), (line(3, "scale", 1.0), 0.0)],
)
def test_strength_is_in_units_of_the_residual_norm(one, moved):
    made = desk()
    made.settings = made.settings | {"lines": [one]}
    site = made.known[f"{one['of']} {one['name']}"]["site"]
    tokens = subject().tokenize("w5 w6 w7 w8")
    before = subject().run(tokens, {}, [site]).h[wb.Site.of(site)]
    after = subject().run(tokens, made._arms(made.settings, "steered"), [site]).h[wb.Site.of(site)]
    length = (after - before).norm(dim=-1)[0]
    assert length[0] == 0  # the first position is excluded
    assert length[1:].tolist() == pytest.approx([moved * made.norms[site]["norm"]] * 3, rel=1e-3, abs=1e-4)


def test_a_clamped_latent_contributes_the_strength_in_residual_norms():
    made = desk()
    made.settings = made.settings | {"lines": [line(3, "clamp", 0.5)]}
    site = wb.Site.of(SITE)
    after = subject().run("w5 w6 w7 w8", made._arms(made.settings, "steered"), [site]).h[site]
    held = torch.linalg.pinv(codec().dictionary)[:, 3]  # reads latent 3
    length = float((after[0, 1:] @ held)[0]) * float(codec().atoms([3]).norm())
    assert length == pytest.approx(0.5 * made.norms[SITE]["norm"], rel=1e-3)


LINES = [
    [line(3, "add", 0.8)],
    [line(3, "add", 0.8, "prompt"), line("v", "add", 0.6, "generated")],
    [line(3, "clamp", 0.5), line(3, "add", 0.3), line(5, "scale", 3.0, "prompt"), line("v", on=False)],
    [line(0, "ablate"), line(1, "ablate", where="generated")],
    [],
]


@pytest.mark.parametrize(("lines", "temperature"), [*zip(LINES, (0.9, 0.0, 0.9, 0.0, 0.9), strict=True)])
def test_the_code_cell_makes_the_desks_texts_without_the_desk(lines, temperature):
    made = desk(temperature=temperature, seed=5)
    made.control = True
    made.settings = made.settings | {"lines": lines, "chat": temperature > 0}
    run = went(made)
    known = {"subject": subject(), "codec": codec(), "vectors": {"v": (vector(), OTHER)}}
    exec(run["code"], known)
    assert known["texts"] == {name: arm["text"] for name, arm in run["arms"].items()}
    assert all(len(arm["tokens"]) == 7 or arm["text"] for arm in run["arms"].values())


def test_steering_changes_the_text():
    arms = went(desk(strength=2.0))["arms"]
    assert arms["clean"]["text"] != arms["steered"]["text"]


@pytest.mark.parametrize("lines", LINES[1:3])
def test_a_tokens_log_probabilities_are_those_it_was_generated_with(lines):
    """The whole-text run must edit exactly where the token-by-token run did."""
    made = desk()
    made.settings = made.settings | {"lines": lines}
    made.control = True
    arms = went(made)["arms"]
    for name, arm in arms.items():
        again = subject().generate("w5 w6 w7 w8", made._arms(made.settings, name), new=7)
        own = arm["clean" if name == "clean" else "edited"]
        assert own == pytest.approx(again.logprobs[0].tolist(), abs=2e-3)
        assert arm["clean"] == pytest.approx((-subject().nll(again.tokens))[0, 4:].tolist(), abs=2e-3)
        assert arm["perplexity"] == pytest.approx(exp(-sum(arm["clean"]) / 7), rel=1e-3)
        assert arm["change"] == pytest.approx(
            [e - c for c, e in zip(arm["clean"], arm["edited"], strict=True)], abs=2e-4
        )
        for token, nats, best in zip(arm["tokens"], own, arm["top"], strict=True):
            values = [v for _, v in best]
            assert len(best) == 5 and values == sorted(values, reverse=True)
            assert best[0] == [token, nats]  # greedy: what was taken is the likeliest
    assert any(abs(v) > 1e-3 for v in arms["steered"]["change"])


def test_the_random_push_moves_each_position_as_far_in_another_direction():
    made = desk()
    site = wb.Site.of(SITE)
    clean, steered, random = (
        subject().run("w5 w6 w7 w8", made._arms(made.settings, name), [SITE]).h[site]
        for name in ("clean", "steered", "random")
    )
    lengths = [(h - clean).norm(dim=-1)[0] for h in (steered, random)]
    assert torch.allclose(*lengths, atol=1e-4) and lengths[0][0] == 0 and (lengths[0][1:] > 0).all()
    cosine = torch.cosine_similarity(steered - clean, random - clean, dim=-1)[0, 1:]
    assert (cosine.abs() < 0.8).all()


def test_the_control_comes_when_it_is_asked_for_and_with_each_run_after_that(monkeypatch):
    made, calls = desk(), []
    generate = type(subject()).generate
    monkeypatch.setattr(
        type(subject()), "generate", lambda *a, **k: calls.append(made.run["state"]) or generate(*a, **k)
    )
    first = went(made)
    assert list(first["arms"]) == ["clean", "steered"] and len(calls) == 2
    made.control = True
    worker.settle()
    assert made.run["arms"]["random"]["state"] == "done" and len(calls) == 3
    assert made.run["arms"]["steered"] == first["arms"]["steered"]
    assert calls == ["running"] * 3
    second = went(made)
    assert list(second["arms"]) == ["clean", "steered", "random"] and len(calls) == 5  # the default's text is kept
    assert [r["number"] for r in made.runs] == [1] and made.runs[0]["texts"]["clean"] == first["arms"]["clean"]["text"]
    went(made)
    assert [r["number"] for r in made.runs] == [2, 1]


class Gated:
    """A subject that waits after its third token."""

    def __init__(self):
        self.reached, self.go = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(subject(), name)

    def generate(self, *args: Any, on_token: Any, **options: Any) -> Any:
        seen = 0

        def wait(chosen: torch.Tensor) -> None:
            nonlocal seen
            on_token(chosen)
            seen += 1
            if seen == 3:
                self.reached.set()
                assert self.go.wait(20)

        return subject().generate(*args, on_token=wait, **options)


def test_stop_ends_after_the_next_token_and_keeps_what_there_is():
    gated = Gated()
    made = desk(subject=gated, new=30)
    made.request = {"do": "run", "n": 1}
    assert gated.reached.wait(20)
    assert made.busy == "generating" and made.run["state"] == "running"
    assert made.run["arms"]["clean"]["state"] == "running" and made.writing["arm"] == "clean" and made.writing["tokens"]
    made.request = {"do": "stop", "n": 2}
    gated.go.set()
    worker.settle()
    assert made.run["state"] == "stopped" and made.error == "" and made.busy == "" and made.writing == {}
    clean, steered = made.run["arms"]["clean"], made.run["arms"]["steered"]
    assert len(clean["tokens"]) == 3 == len(clean["clean"]) and clean["state"] == "stopped"
    assert steered["tokens"] == [] and steered["state"] == "waiting"
    assert len(went(made)["arms"]["clean"]["tokens"]) == 30  # a stopped text is not taken for the whole


def test_other_sampling_is_not_answered_with_a_kept_text():
    made = desk(temperature=0.9, new=12)
    first = went(made)["arms"]["clean"]["text"]
    made.settings = made.settings | {"seed": 1}
    second = went(made)["arms"]["clean"]["text"]
    made.settings = made.settings | {"temperature": 0.0}
    assert len({first, second, went(made)["arms"]["clean"]["text"]}) == 3


def test_an_atom_of_zeros_is_told():
    coder = plain_codecs.random(12, 32, site=wb.Site.of(SITE))
    coder.dictionary[3] = 0
    made = desk(codec=coder)
    made.settings = made.settings | {"lines": [line(3, "clamp")]}
    made.start()
    worker.settle()
    assert "latent 3 has a zero atom" in made.error


def test_what_fails_is_shown_as_one_line():
    made = desk(latents=[3])
    made.settings = made.settings | {"prompt": "w1 " * 200, "new": 300}
    subject_, longest = subject(), subject().longest
    subject_.longest = 64
    try:
        made.start()
        worker.settle()
    finally:
        subject_.longest = longest
    assert made.run["state"] == "failed" and "64 positions" in made.error and made.busy == ""


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"new": 0}, "new must be"),
        ({"prompt": 3}, "prompt must be text"),
        ({"lines": [line(99)]}, "latent must be"),
        ({"lines": [line("w")]}, "latent or of a vector"),
        ({"lines": [line("v", "clamp")]}, "must be one of add"),
        ({"lines": [line(3, where="above")]}, "where must be"),
        ({"lines": [{"of": "latent"}]}, "name"),
    ],
)
def test_settings_that_do_not_fit_leave_the_old_ones(part, told):
    made = desk()
    before = made.settings
    with pytest.raises(traitlets.TraitError, match=told):
        made.settings = before | part
    with pytest.raises(traitlets.TraitError, match=told):
        made.set_state({"settings": before | part})
    assert made.settings == before
    with pytest.raises(traitlets.TraitError, match="lack"):
        made.settings = {"lines": []}


def test_a_latent_that_is_added_is_measured():
    made = desk(latents=[], labels={"7": "<b>seven</b>"})
    assert "latent 7" not in made.known
    made.set_state({"settings": made.settings | {"lines": [line(7)]}})
    worker.settle()
    fact = made.known["latent 7"]
    assert fact["label"] == "<b>seven</b>" and fact["site"] == SITE and fact["methods"][0] == "add"
    assert fact["length"] == pytest.approx(float(codec().atoms([7]).norm()))


def test_a_transcoders_latents_can_only_be_added_where_they_write():
    coder = plain_codecs.random(12, 32, site=wb.Site.of("1.mlp_in"))
    coder.target = wb.Site.of("1.mlp_out")
    made = desk(codec=coder)
    assert made.known["latent 3"]["site"] == "1.mlp_out" and made.known["latent 3"]["methods"] == ["add"]
    with pytest.raises(traitlets.TraitError, match="must be one of add"):
        made.settings = made.settings | {"lines": [line(3, "clamp")]}


def test_the_sweep_is_the_librarys_measure_group_by_group():
    made = desk()
    made.settings = made.settings | {"lines": [line("v", strength=0.8, where="generated")], "seed": 4}
    made.request = {"do": "sweep", "n": 1}
    worker.settle()
    curve = made.curve
    assert made.error == "" and curve["state"] == "done" and curve["done"] == 1 and curve["seeds"] == 3
    assert [p["x"] for p in curve["arms"]["steered"]] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.2, 1.6])
    tokens, unit = subject().tokenize(TEXTS), made.norms[OTHER]["norm"]
    groups = [tokens.rows(slice(i, None, 3)) for i in range(3)]
    push = add(vector(), unit=unit)(0.6)
    for i, group in enumerate(groups):
        control = steer.equal_norm(push, seed=4 + i)
        clean, steered, random = measure(subject(), group, [{}, {OTHER: push}, {OTHER: control}], [])
        for arm, found in (("steered", steered), ("random", random)):
            point = curve["arms"][arm][2]
            assert point["kl_points"][i] == pytest.approx(found["kl"])
            assert point["perplexity_points"][i] == pytest.approx(found["perplexity"])
    assert steered["kl"] > 1e-4 and clean["kl"] == 0
    point = curve["arms"]["steered"][2]
    assert point["kl"] == pytest.approx(sum(point["kl_points"]) / 3)


def test_a_sweep_without_texts_or_lines_says_so_and_a_stopped_one_keeps_its_points(monkeypatch):
    made = desk(held_out=None)
    made.sweep()
    worker.settle()
    assert "no held-out text" in made.error and made.curve == {}
    made = desk()
    made.settings = made.settings | {"lines": [line(3, on=False)]}
    made.sweep()
    worker.settle()
    assert "no line is on" in made.error
    made.settings = made.first

    def measured(*args: Any) -> Any:
        made.stop()
        return measure(*args)

    monkeypatch.setattr("widgets.steering_desk.measure", measured)
    made.sweep()
    worker.settle()
    assert made.curve["state"] == "stopped" and len(made.curve["arms"]["steered"]) == 1 and made.error == ""


def test_the_curves_x_is_what_the_line_was_set_to():
    rows = [
        {"arm": arm, "share": share, "seed": s, "kl": share, "perplexity": 2.0 + s}
        for arm in ("steered", "random")
        for share in (0.5, 2.0)
        for s in (0, 1)
    ]
    rows += [{"arm": "none", "share": 0.5, "seed": s, "kl": 0.0, "perplexity": [4.0, inf][s]} for s in (0, 1)]

    def x(*lines: dict[str, Any]) -> tuple[str, list[float]]:
        curve = payload.desk_curve({"lines": list(lines)}, rows, "done", 1.0)
        assert curve["arms"]["random"][0]["perplexity"] == 2.5
        return curve["axis"], [p["x"] for p in curve["arms"]["steered"]]

    assert x(line(3, "clamp", 0.4)) == ("strength, × residual norm", [0.2, 0.8])
    assert x(line(3, "scale", 3.0)) == ("factor", [2.0, 5.0])
    assert x(line(3), line("v", on=False))[1] == [0.5, 2.0]
    assert x(line(3), line("v"))[0] == "share of the strengths set" == x(line(3, "ablate"))[0]
    assert payload.desk_curve({"lines": []}, rows, "done", 1.0)["clean"] is None  # infinite: JSON has no word for it


def test_diff_mean_is_the_difference_of_means_over_kept_positions():
    found, site = SteeringDesk.diff_mean(subject(), SITE, ["w5 w6", "w7 w8 w9"], ["w10 w11"])
    rows = [subject().read(t, [SITE])[wb.Site.of(SITE)][0, 1:] for t in ("w5 w6", "w7 w8 w9", "w10 w11")]
    assert site == wb.Site.of(SITE)
    assert torch.allclose(found, torch.cat(rows[:2]).mean(0) - rows[2].mean(0), atol=1e-5)
    with pytest.raises(ValueError, match="negative texts have no position"):
        SteeringDesk.diff_mean(subject(), SITE, ["w5 w6"], ["w7"])


def test_the_state_of_long_runs_stays_small():
    made = desk(new=3)
    arm = payload.desk_arm(
        [" chars"] * 300, state="done", said=" chars" * 300, clean=[-11.23456] * 300,
        edited=[-1.98765] * 300, top=[[(" chars", -1.23456)] * 5] * 300,
    )  # fmt: skip
    run = went(made)
    made.put(run=run | {"arms": dict.fromkeys(("clean", "steered", "random"), arm)})
    made.put(runs=[payload.desk_record(made.run)] * 8)
    state = {k: v for k, v in made.get_state().items() if not k.startswith("_")}
    sealed = sum(len(str(getattr(made, k))) for k in ("_esm", "_css"))
    assert len(json.dumps(state)) + sealed < 300_000

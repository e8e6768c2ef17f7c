"""overcomplete's state dicts: parity with its own classes, what must be said beside them, what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from golden import FOLDER, cases, expected, kept, opened, same
from safetensors.torch import load_file, save_file

import workbench as wb
from workbench import catalogue
from workbench.dictionary.formats._source import Source

OWNER, D, F = "overcomplete", 10, 28  # as in golden_overcomplete.py


def folder_of(case):
    return FOLDER / OWNER / case / "checkpoint"


def state_of(case):
    return torch.load(folder_of(case) / "sae.pt", weights_only=True)


@pytest.fixture
def changed(tmp_path):
    """A copy of a case with other tensors, and other words beside them; None takes a word away."""

    def make(case="sae", *, state=None, words=None, alone=False):
        folder = tmp_path / "run"
        shutil.copytree(folder_of(case), folder)
        if state is not None:
            held = state_of(case)
            torch.save(state(held) or held, folder / "sae.pt")
        path = folder / "config.json"
        if words is not None:
            said = (json.loads(path.read_text()) if path.exists() else {}) | words
            path.write_text(json.dumps({k: v for k, v in said.items() if v is not None}))
        if alone:
            path.unlink()
        return folder

    return make


@pytest.mark.parametrize("case", cases(OWNER))
def test_it_computes_what_overcomplete_computes(case):
    same(opened(OWNER, case), OWNER, case)


@pytest.mark.parametrize("case", cases(OWNER))
def test_saved_and_loaded_again_it_is_the_same(case, tmp_path):
    kept(OWNER, case, tmp_path, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", cases(OWNER))
def test_no_other_format_claims_its_files(case):
    file = next(path for path in folder_of(case).iterdir() if path.suffix != ".json")
    for place in (folder_of(case), file):
        source = Source(place)
        assert [name for name in catalogue.names("formats") if catalogue.module("formats", name).sniff(source)] == [
            OWNER
        ]
    assert torch.equal(wb.load(file).atoms(), opened(OWNER, case).atoms())  # what is said lies beside it


def test_the_formula_in_numpy():
    held = {k: v.double().numpy() for k, v in state_of("jump").items()}
    x = expected(OWNER, "jump")["x"].double().numpy()
    pre = np.maximum(x @ held["encoder.final_block.0.weight"].T + held["encoder.final_block.0.bias"], 0)
    code = np.where(pre < np.exp(held["thresholds"]), 0, pre)
    weights = held["dictionary._weights"]
    atoms = np.exp(held["dictionary.multiplier"]) * weights / np.linalg.norm(weights, axis=1, keepdims=True)
    found = opened(OWNER, "jump")
    np.testing.assert_allclose(found.encode(torch.tensor(x).float()).to_dense(), code, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.reconstruct(torch.tensor(x).float()), code @ atoms, rtol=1e-5, atol=1e-5)


def test_atoms_have_norm_1_times_the_exponential_of_the_multiplier():
    norms = state_of("sae")["dictionary._weights"].norm(dim=1)
    assert (norms - 1).abs().max() > 0.1
    torch.testing.assert_close(opened(OWNER, "sae").atoms().norm(dim=-1), torch.full((F,), 0.3).exp())
    torch.testing.assert_close(opened(OWNER, "sae_near").atoms().norm(dim=-1), torch.ones(F))
    assert opened(OWNER, "sae_identity").atoms().norm(dim=-1).std() > 0.1


def test_a_whole_number_that_is_larger_than_tensors_hold_is_a_delta(changed):
    found = wb.load(changed("ra_jump", words={"delta": 10**30}))
    assert torch.equal(found.atoms(), opened(OWNER, "ra_jump").atoms())  # of no length that is there


@pytest.mark.parametrize("case", ["jump", "ra_jump", "batch_topk"])
def test_a_value_at_the_threshold_is_on(case):
    """Here alone: others ask for more than the threshold."""
    found, x = opened(OWNER, case), expected(OWNER, case)["x"][:1]
    assert float(found.encoder(x, found.decoder)[0, 0]) == 1.0 and found.encode(x).to_dense()[0, 0] == 1.0
    less = x.clone()
    less[0, 0] = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    assert found.encode(less).to_dense()[0, 0] == 0


def test_archetypes_come_out_as_one_plain_matrix():
    held = state_of("ra_topk")
    mix = held["dictionary.W"].relu()
    off = held["dictionary.Relax"]
    short = off / off.norm(dim=-1, keepdim=True) * off.norm(dim=-1, keepdim=True).clamp(max=0.7)
    assert (off.norm(dim=-1) > 0.7).any()
    want = (mix / mix.sum(-1, keepdim=True)) @ held["dictionary.C"] + short
    torch.testing.assert_close(opened(OWNER, "ra_topk").atoms(), want * np.exp(0.3), rtol=1e-5, atol=1e-5)


def test_a_pursuit_takes_the_largest_product_even_where_it_is_negative():
    code = expected(OWNER, "pursuit_negative")["code"]
    assert (code < 0).any() and opened(OWNER, "pursuit_negative").sparsifier.signed


@pytest.mark.parametrize("case", ["pursuit", "tied", "topk"])
def test_scales_fold_in(case):
    first, x = opened(OWNER, case), expected(OWNER, case)["x"]
    first.set_scale_(0.5, 0.5)
    code, y = first.encode(x).to_dense(), first.reconstruct(x)
    first.fold_()
    torch.testing.assert_close(first.encode(x).to_dense(), code, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.reconstruct(x), y, rtol=1e-4, atol=1e-4)


def test_where_it_lives_may_be_said():
    found = opened(OWNER, "sae_near")
    assert str(found.site) == "2.resid" and found.training_summary["model"] == "gpt2"
    assert opened(OWNER, "sae").site is None
    assert str(wb.load(folder_of("sae"), site="4.mlp_out").site) == "4.mlp_out"


def test_what_the_tensors_say_need_not_be_said(changed):
    """Thresholds are JumpSAE's; without deviations an archetypal dictionary needs no delta."""
    assert [opened(OWNER, case).training_summary["config"]["class"] for case in ("jump", "ra_jump")] == [
        "JumpSAE",
        "RAJumpSAE",
    ]
    assert "delta" not in json.loads((folder_of("ra_hull") / "config.json").read_text())
    assert wb.load(changed("sae_near", words={"hook": None, "model": None})).site is None


def put(name, value):
    return lambda held: held.update({name: value})


def pop(name):
    return lambda held: held.pop(name) and None


def scaled(how):
    return {"dictionary_params": {"normalization": how}}


REFUSED = {
    "no_class": (
        {"words": {"class": None}},
        r"sae.pt does not say its class, SAE or TopKSAE or BatchTopKSAE: write con",
    ),
    "alone": ({"alone": True}, r"sae.pt does not say its class, SAE or TopKSAE or BatchTopKSAE: write config.json"),
    "no_k": ({"words": {"class": "TopKSAE"}}, r"config.json has no 'top_k'"),
    "k_large": ({"words": {"class": "TopKSAE", "top_k": 29}}, r"k must be 1..latents=28, got 29"),
    "k_text": ({"words": {"class": "TopKSAE", "top_k": "5"}}, r"top_k must be a whole number of 1 or more, got '5'"),
    "no_threshold": ({"words": {"class": "BatchTopKSAE", "top_k": 5}}, r"config.json has no 'running_threshold'"),
    "nan": ({"words": {"class": "BatchTopKSAE", "running_threshold": float("nan")}}, r"must be a number, got 'NaN'"),
    "not_jump": ({"words": {"class": "JumpSAE"}}, r"class must be one of SAE, TopKSAE, BatchTopKSAE, got 'JumpSAE'"),
    "not_sae": ({"case": "jump", "words": {"class": "SAE"}}, r"class must be one of JumpSAE, got 'SAE'"),
    "not_ra": ({"words": {"class": "RATopKSAE", "top_k": 3}}, r"class must be one of SAE, TopKSAE, BatchT"),
    "omp": ({"case": "pursuit", "words": {"class": "OMPSAE"}}, r"class must be one of MpSAE, got 'OMPSAE'"),
    "pursuit": ({"case": "pursuit", "words": {"class": None}}, r"does not say its class, MpSAE: write config.json"),
    "steps": ({"case": "pursuit", "words": {"k": None}}, r"config.json has no 'k'"),
    "norms": (
        {"words": {"dictionary_params": None}},
        r"atoms have norms 0.\d+ to 1.\d+, not 1: say in config.json how",
    ),
    "norm": (
        {"words": scaled("l3")},
        r"dictionary_params: normalization must be one of l2, max_l2, l1, max_l1, identity",
    ),
    "no_delta": ({"case": "ra_topk", "words": {"delta": None}}, r"config.json has no 'delta'"),
    "delta": ({"case": "ra_jump", "words": {"delta": -1}}, r"delta must be a number above 0, got -1"),
    "below": (
        {"words": {"class": "BatchTopKSAE", "running_threshold": -0.1}},
        r"running_threshold is -0.1, but it follows rectified codes: 0 or more",
    ),
    "untied": (
        {"case": "tied", "state": lambda held: held["encoder.tied_to._weights"].mul_(2) is None},
        r"encoder.tied_to._weights is tied to dictionary._weights and differs from it",
    ),
    "no_ra_k": ({"case": "ra_topk", "words": {"top_k": None}}, r"config.json has no 'top_k'"),
    "param": (
        {"words": {"dictionary_params": {"normalisation": "l2"}}},
        r"dictionary_params says 'normalisation': words are",
    ),
    "no_ra_class": ({"case": "ra_hull", "words": {"class": None}}, r"its class, SAE or .* or RATopKSAE: write config"),
    "word": ({"words": {"topk": 5}}, r"config.json says 'topk': words are bandwidth, class,"),
    "size": ({"words": {"nb_concepts": 10}}, r"nb_concepts is 10, the dictionary has 28"),
    "width": ({"words": {"input_shape": 12}}, r"input_shape is 12, the dictionary has 10"),
    "quantised": (
        {"state": put("Q", torch.ones(4))},
        r"sae.pt is a QSAE's, whose values are quantised: it is not read",
    ),
    "norm_layer": (
        {"state": put("encoder.final_block.1.weight", torch.ones(F))},
        r"holds 'encoder.final_block.1.weight', which this architecture does not have",
    ),
    "hidden": (
        {"state": put("encoder.mlp_blocks.0.0.weight", torch.ones(D, D))},
        r"holds 'encoder.mlp_blocks.0.0.weight', which this architecture does not have",
    ),
    "custom": (
        {"case": "untied_plain", "state": lambda held: held.update({"encoder.w": held.pop("encoder.weight")})},
        r"has no linear encoder: only one, its own or tied to the dictionary, is read",
    ),
    "missing": ({"state": pop("dictionary.multiplier")}, r"has no tensor 'dictionary.multiplier'"),
    "transposed": (
        {"state": lambda held: held.update({"dictionary._weights": held["dictionary._weights"].T})},
        r"encoder.final_block.0.weight must be \[10, 28\], got \[28, 10\]",
    ),
    "infinite": (
        {"state": put("dictionary.multiplier", torch.tensor(1000.0))},
        r"atoms are not finite once normalised",
    ),
    "thresholds": (
        {"case": "jump", "state": put("thresholds", torch.ones(()))},
        r"thresholds must be \[28\], got \[\]",
    ),
    "tensors": ({"state": put("top_k", 5)}, r"must hold tensors alone, got 'top_k': int"),
    "hook": ({"words": {"hook": "somewhere"}}, r"lives at 'somewhere', which is no stream of ours: give site="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case, changed):
    how, text = REFUSED[case]
    folder = changed(**how)
    with pytest.raises(ValueError, match=text) as told:
        wb.load(folder)
    assert "\n" not in str(told.value) and (str(folder) in str(told.value) or case == "hook")


def test_two_files_in_a_folder_are_told_apart_by_the_caller(changed):
    folder = changed("topk")
    shutil.copy(folder / "topk.safetensors", folder / "again.safetensors")
    with pytest.raises(ValueError, match=r"is no dictionary that we know"):
        wb.load(folder)
    assert wb.load(folder / "again.safetensors").latents == F


def test_other_tensors_in_one_file_are_not_claimed(tmp_path):
    save_file({"W_enc": torch.ones(2, 3)}, tmp_path / "sae.safetensors")
    assert not catalogue.module("formats", OWNER).sniff(Source(tmp_path))
    assert catalogue.module("formats", OWNER).sniff(Source(folder_of("topk")))
    assert "dictionary._weights" in load_file(folder_of("topk") / "topk.safetensors")


def test_damaged_files_are_refused(changed):
    folder = changed("topk")
    path = folder / "topk.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"topk.safetensors is not a whole safetensors file"):
        wb.load(folder)
    (folder / "config.json").write_text("{")
    path.write_bytes((folder_of("topk") / "topk.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"config.json cannot be read"):
        wb.load(folder)

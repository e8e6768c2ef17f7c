"""dictionary_learning's runs: parity with its own `load_dictionary`, checkpoints, runs cut short, what is refused."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from golden import FOLDER, cases, expected, kept, opened, same

import workbench as wb
from workbench import catalogue
from workbench.dictionary import formats
from workbench.dictionary.formats._source import Source

OWNER, D, F, AT, FACTOR = "dictionary_learning", 10, 28, 0.75, 2.5  # as in golden_dictionary_learning.py
MODEL = "EleutherAI/pythia-70m-deduped"


def folder_of(case):
    return next((FOLDER / OWNER / case / "checkpoint").rglob("config.json")).parent


def state_of(case):
    return torch.load(folder_of(case) / "ae.pt", weights_only=True)


@pytest.fixture
def changed(tmp_path):
    """A copy of a case with other tensors, another trainer's or buffer's configuration."""

    def make(case="batch_topk", *, state=None, drop=(), buffer=None, **trainer):
        folder = tmp_path / "run"
        shutil.copytree(folder_of(case), folder)
        said = json.loads((folder / "config.json").read_text())
        said["trainer"] = {k: v for k, v in (said["trainer"] | trainer).items() if k not in drop}
        if buffer is not None:
            said["buffer"] = buffer
        (folder / "config.json").write_text(json.dumps(said))
        if state is not None:
            held = state_of(case)
            torch.save(state(held) or held, folder / "ae.pt")
        return folder

    return make


@pytest.mark.parametrize("case", cases(OWNER))
def test_it_computes_what_dictionary_learning_computes(case):
    same(opened(OWNER, case), OWNER, case)


@pytest.mark.parametrize("case", cases(OWNER))
def test_saved_and_loaded_again_it_is_the_same(case, tmp_path):
    kept(OWNER, case, tmp_path, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", cases(OWNER))
def test_no_other_format_claims_its_folders(case):
    for folder in (folder_of(case), FOLDER / OWNER / case / "checkpoint"):
        source = Source(folder)
        assert [name for name in catalogue.names("formats") if catalogue.module("formats", name).sniff(source)] == [
            OWNER
        ]


def test_the_formulas_in_numpy():
    """Weights of layers are torch's, (latent, d) and (d, latent); with its own matrices (d, latent) and (latent, d)."""
    for case in ("new", "jumprelu", "matryoshka"):
        held = {k: v.double().numpy() for k, v in state_of(case).items()}
        x = expected(OWNER, case)["x"].double().numpy()
        if case == "new":
            code = np.maximum(x @ held["encoder.weight"].T + held["encoder.bias"], 0)
            want = code @ held["decoder.weight"].T + held["decoder.bias"]
        else:
            pre = (x - held["b_dec"] * (case == "matryoshka")) @ held["W_enc"] + held["b_enc"]
            code = np.maximum(pre, 0) * (pre > held["threshold"])
            want = code @ held["W_dec"] + held["b_dec"]
        found = opened(OWNER, case)
        np.testing.assert_allclose(found.encode(torch.tensor(x).float()).to_dense(), code, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.reconstruct(torch.tensor(x).float()), want, rtol=1e-5, atol=1e-5)


def test_an_autoencoder_comes_with_atoms_of_norm_1_and_its_code_scaled_to_fit():
    held, found = state_of("standard_april"), opened(OWNER, "standard_april")
    norms = held["decoder.weight"].norm(dim=0)
    assert (norms - 1).abs().max() > 0.1
    torch.testing.assert_close(found.atoms().norm(dim=-1), torch.ones(F))
    x = expected(OWNER, "standard_april")["x"]
    raw = torch.relu((x - held["bias"]) @ held["encoder.weight"].T + held["encoder.bias"])
    torch.testing.assert_close(found.encode(x).to_dense(), raw * norms, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        found.reconstruct(x), raw @ held["decoder.weight"].T + held["bias"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("case", ["standard", "new", "gated", "topk"])
def test_other_weights_are_as_they_were_saved(case):
    assert torch.equal(opened(OWNER, case).decoder.weight, state_of(case)["decoder.weight"].T)


@pytest.mark.parametrize("case", ["batch_topk", "matryoshka", "jumprelu"])
def test_a_value_at_the_threshold_is_off(case):
    found = opened(OWNER, case)
    assert float(found.sparsifier.threshold.flatten()[0]) == AT
    x = expected(OWNER, case)["x"][:1]
    assert float(found.encoder(x, found.decoder)[0, 0]) == AT and found.encode(x).to_dense()[0, 0] == 0


def test_a_threshold_below_0_passes_no_negative_value():
    found = opened(OWNER, "jumprelu")
    assert (found.sparsifier.threshold < 0).any()
    assert (found.encode(expected(OWNER, "jumprelu")["x"]).to_dense() >= 0).all()


def test_topk_keeps_no_more_than_k_and_nothing_negative():
    x = expected(OWNER, "topk")["x"]
    count = (opened(OWNER, "topk").encode(x).to_dense() > 0).sum(1)
    assert count.max() == 16 and count.min() < 16  # of 28: some rows have fewer that are positive


@pytest.mark.parametrize("case", ["cut_autoencoder", "cut_gated", "cut_jumprelu", "cut_batch_topk", "cut_matryoshka"])
def test_a_run_cut_short_gets_the_norm_factor_that_its_biases_lack(case):
    saved, found = state_of(case), opened(OWNER, case)
    assert saved["norm_factor"] == FACTOR and found.training_summary["config"]["interrupted"] == {
        "step": 5,
        "norm_factor_applied": FACTOR,
    }
    shift = next(saved["ae"][name] for name in ("bias", "b_dec", "decoder_bias") if name in saved["ae"])
    assert torch.equal(found.decoder.bias, shift * FACTOR)
    assert float(found.scale_in) == float(found.scale_out) == 1


@pytest.mark.parametrize("factor", [None, 1.0, 1])
def test_a_run_cut_short_without_normalised_rows_stays_as_it_is(factor, changed):
    found = wb.load(changed("cut_batch_topk", state=lambda held: held | {"norm_factor": factor}))
    assert torch.equal(found.decoder.bias, state_of("cut_batch_topk")["ae"]["b_dec"])
    assert float(found.sparsifier.threshold) == AT


def test_a_run_is_its_trainers_and_their_checkpoints_in_the_order_of_steps(tmp_path):
    root = FOLDER / OWNER / "checkpoint" / "checkpoint"
    steps = ["checkpoints/ae_0", "checkpoints/ae_1"]
    one, two = ([name, *(f"{name}/{step}" for step in steps)] for name in ("trainer_0", "trainer_1"))
    assert formats.parts(root) == one + two
    shutil.copytree(root / "trainer_0", tmp_path / "only")
    shutil.copy(root / "trainer_0/checkpoints/ae_0.pt", tmp_path / "only/checkpoints/ae_12.pt")
    assert formats.parts(tmp_path / "only") == ["", *steps, "checkpoints/ae_12"]
    first, last = wb.load(tmp_path / "only", "checkpoints/ae_0"), wb.load(tmp_path / "only")
    assert not torch.equal(first.atoms(), last.atoms())
    assert torch.equal(first.atoms(), wb.load(root, "trainer_0/checkpoints/ae_0").atoms())
    assert torch.equal(last.atoms(), wb.load(root / "trainer_0" / "ae.pt").atoms())  # config.json lies beside it
    with pytest.raises(ValueError, match=r"holds several dictionaries: give part= one of trainer_0, trainer_0/check"):
        wb.load(root)
    with pytest.raises(ValueError, match=r"ae_0.pt has no config.json beside it: give the folder, and part="):
        wb.load(root / "trainer_0" / "checkpoints" / "ae_0.pt")
    (tmp_path / "only" / "ae.pt").unlink()  # a run that was killed
    assert formats.parts(tmp_path / "only") == [*steps, "checkpoints/ae_12"]


@pytest.mark.parametrize(
    ("name", "io", "site", "target"),
    [
        ("resid_post_layer_3", {"io": "out"}, "3.resid", None),
        ("gpt_neox.layers.3.mlp", {"io": "out"}, "3.mlp_out", None),
        ("gpt_neox.layers.3.mlp", {"io": "in"}, "3.mlp_in", None),
        ("gpt_neox.layers.3.mlp", {"io": "in_and_out"}, "3.mlp_in", "3.mlp_out"),
        ("model.layers.4", {}, "4.resid", None),
        ("model.layers.4", {"layer": 4}, "None", None),  # a buffer of single heads
        (None, {"io": "out"}, "None", None),
    ],
)
def test_the_module_that_the_user_named_says_where_it_lives(name, io, site, target, changed):
    found = wb.load(changed(submodule_name=name, buffer=io))
    elsewhere = target or ("None" if site.endswith("_in") else site)
    assert (str(found.site), str(found.target)) == (site, elsewhere)
    assert found.training_summary["model"] == MODEL


@pytest.mark.parametrize("how", [{"submodule_name": "my_layer"}, {"buffer": {"io": "in"}}])
def test_a_place_that_we_do_not_know_is_asked_for(how, changed):
    folder = changed(**how)
    with pytest.raises(ValueError, match=r"which is no stream of ours: give site="):
        wb.load(folder)
    assert str(wb.load(folder, site="2.attn_out").site) == "2.attn_out"


def put(name, value):
    return lambda held: held.update({name: value})


def pop(name):
    return lambda held: held.pop(name) and None


def within(name, value):
    return lambda held: held | {"ae": {k: v for k, v in (held["ae"] | {name: value}).items() if v is not None}}


CUT = {"case": "cut_batch_topk"}
REFUSED = {
    "identity": ({"dict_class": "IdentityDict"}, r"dict_class must be one of AutoEncoder, .*, got 'IdentityDict'"),
    "crosscoder": ({"dict_class": "CrossCoder"}, r"dict_class must be one of .*, got 'CrossCoder'"),
    "no_class": ({"drop": ["dict_class"]}, r"config.json: trainer has no 'dict_class'"),
    "width": ({"activation_dim": 12}, r"trainer: activation_dim is 12, the tensors have 10"),
    "size": ({"dict_size": 10}, r"trainer: dict_size is 10, the tensors have 28"),
    "k": ({"k": 5}, r"trainer: k is 5, .*ae.pt has 4"),
    "never_set": ({"state": put("threshold", torch.tensor(-1.0))}, r"threshold is -1, it was never set: training did"),
    "nested": ({"case": "matryoshka", "state": put("threshold", torch.tensor(-1.0))}, r"threshold is -1, it was never"),
    "groups": ({"case": "matryoshka", "state": put("group_sizes", torch.tensor([7, 7, 28]))}, r"add up to 28 latents"),
    "group_of_none": (
        {"case": "matryoshka", "state": put("group_sizes", torch.tensor([-1, 29]))},
        r"must add up to 28",
    ),
    "no_threshold": ({"state": pop("threshold")}, r"has no tensor 'threshold'"),
    "thresholds": ({"state": put("threshold", torch.ones(28))}, r"threshold must be \[\], got \[28\]"),
    "nan": ({"state": put("threshold", torch.tensor(torch.nan))}, r"threshold holds numbers that are not finite"),
    "k_of_floats": ({"state": put("k", torch.tensor(4.0))}, r"k must hold whole numbers"),
    "k_large": ({"case": "topk", "k": 29, "state": put("k", torch.tensor(29))}, r"k must be 1..latents=28, got 29"),
    "extra": ({"state": put("r_mag", torch.ones(28))}, r"holds 'r_mag', which this architecture does not have"),
    "another": ({"dict_class": "AutoEncoder"}, r"has no tensor 'bias', only"),
    "new_as_old": ({"case": "new", "dict_class": "AutoEncoder"}, r"has no tensor 'bias', only"),  # trainers write so
    "transposed": (
        {"case": "topk", "state": lambda held: held.update({"decoder.weight": held["decoder.weight"].T})},
        r"decoder.weight must be \[10, 28\], got \[28, 10\]",
    ),
    "no_atom": (
        {
            "case": "standard",
            "state": lambda held: put("decoder.weight", held["decoder.weight"].index_fill(1, torch.tensor([3]), 0.0))(
                held
            ),
        },
        r"1 atoms have norm 0, and the owner divides by it",
    ),
    "not_tensors": ({"state": put("b_dec", [0.0] * 10)}, r"must hold tensors alone, got 'b_dec': list"),
    "no_dict": ({"state": lambda held: [held]}, r"ae.pt must hold a dict with names, got list"),
    "no_factor": (
        CUT | {"state": pop("norm_factor")},
        r"must hold a state dict `ae` with its `norm_factor`, got ae, c",
    ),
    "numbered": (CUT | {"state": put("ae", {0: torch.ones(2), "b": torch.ones(2)})}, r"must hold a state dict `ae`"),
    "no_state": (CUT | {"state": put("ae", 3)}, r"must hold a state dict `ae`"),
    "factor_0": (CUT | {"state": put("norm_factor", 0.0)}, r"norm_factor must be a number above 0, got 0.0"),
    "factor_nan": (CUT | {"state": put("norm_factor", float("nan"))}, r"norm_factor must be a number above 0, got nan"),
    "cut_extra": (CUT | {"state": within("W_enc", torch.ones(2))}, r"holds 'W_enc', which this architecture does not"),
    "cut_never_set": (CUT | {"state": within("threshold", torch.tensor(-1.0))}, r"threshold is -1, it was never set"),
    "no_io": ({"buffer": {"io": "sideways"}}, r"buffer: io must be one of in, out, in_and_out, got 'sideways'"),
    "model": ({"lm_name": 3}, r"trainer: lm_name must be a text, got 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case, changed):
    how, text = REFUSED[case]
    folder = changed(**how)
    with pytest.raises(ValueError, match=text) as told:
        wb.load(folder)
    assert "\n" not in str(told.value) and str(folder) in str(told.value)


def test_a_run_cut_short_of_a_class_that_cannot_be_scaled_is_refused(changed):
    def cut(held):
        return {"step": 1, "ae": held, "optimizer": {}, "config": {}, "norm_factor": 2.0}

    with pytest.raises(ValueError, match=r"norm_factor is 2.0, and the owner cannot scale an AutoEncoderNew"):
        wb.load(changed("new", state=cut))


def test_a_class_that_never_set_its_threshold_and_does_not_use_it_is_read(changed):
    found = wb.load(changed("topk", drop=["k"], state=put("threshold", torch.tensor(-1.0))))
    assert found.sparsifier.k == 16


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("went_off",))


def test_code_in_a_pickle_does_not_run(tmp_path, changed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = changed()
    torch.save(state_of("batch_topk") | {"extra": Bomb()}, folder / "ae.pt")
    with pytest.raises(ValueError, match=r"ae.pt was not opened: it is a pickle that holds more than tensors") as told:
        wb.load(folder)
    assert "\n" not in str(told.value) and not (tmp_path / "went_off").exists()


def test_a_folder_without_its_configuration_is_refused(changed):
    folder = changed()
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"'config.json' is missing: copy the whole folder"):
        wb.load(folder)
    (folder / "config.json").write_text('{"trainer": [1]}')
    with pytest.raises(ValueError, match=r"config.json: trainer must be an object, got \[1\]"):
        wb.load(folder)

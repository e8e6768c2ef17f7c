import json
import shutil
from typing import Any

import golden
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench as wb
from workbench import catalogue
from workbench.batch import Batch
from workbench.code import Code
from workbench.dictionary import formats
from workbench.dictionary.formats._parts import Piece, assemble, plain
from workbench.site import Site

OWNER = "sae_lens"
CASES = golden.cases(OWNER)
D, LATENTS = 12, 20
WRITTEN = {  # of our variants, and what SAELens calls them
    "topk": {"topk", "topk_auxk", "topk_multi", "archetypal", "relaxed_archetypal", "random_atoms", "tilted"}
    | {"end_to_end", "end_to_end_downstream", "mutual_regularised", "matryoshka_sparsity", "multilayer"}
    | {"gradient_topk"},
    "abstopk": {"abs_topk"},
    "standard": {"relu_l1", "relu_l1_resample", "p_anneal"},
    "jumprelu": {"jumprelu", "jumprelu_tanh", "jumprelu_target_l0", "batch_topk", "matryoshka_batch_topk"}
    | {"feature_choice", "mutual_choice"},
    "jumprelu_transcoder": {"matryoshka_transcoder"},
    "gated": {"gated"},
    "matching_pursuit": {"matching_pursuit"},
}


def size(config, x) -> Any:
    """What SAELens divides each row by, in numpy."""
    rows, how = x.numpy(), config.get("normalize_activations")
    if "transcoder" in config.get("architecture", ""):  # whose target is not normalised
        return 1.0
    if how == "layer_norm":
        return torch.from_numpy(rows.std(-1, ddof=1, keepdims=True))
    if how == "constant_norm_rescale":
        return torch.from_numpy(np.linalg.norm(rows, axis=-1, keepdims=True) / rows.shape[1] ** 0.5)
    return 1.0


def checkpoint(case):
    return golden.FOLDER / OWNER / case / "checkpoint"


@pytest.fixture
def changed(tmp_path):
    """A copy of a golden checkpoint with other words in its configuration and other tensors; None takes away."""

    def change(case, cfg=None, tensors=None, meta=None):
        folder = tmp_path / case
        shutil.copytree(checkpoint(case), folder)
        said = json.loads((folder / "cfg.json").read_text())
        held = load_file(folder / "sae_weights.safetensors")
        for target, news in ((said, cfg), (held, tensors), (said.get("metadata", {}), meta)):
            for name, value in (news or {}).items():
                target.pop(name, None) if value is None else target.__setitem__(name, value)
        (folder / "cfg.json").write_text(json.dumps(said))
        save_file({name: value.contiguous() for name, value in held.items()}, folder / "sae_weights.safetensors")
        return folder

    return change


def by_hand(tmp_path, cfg, **tensors):
    """A folder of two inputs and two or three latents."""
    meta = {"sae_lens_version": "6.54.12"}
    said = {"d_in": 2, "d_sae": len(tensors["W_dec"]), "apply_b_dec_to_input": True, "metadata": meta}
    (tmp_path / "cfg.json").write_text(json.dumps(said | cfg))
    save_file({name: torch.tensor(v, dtype=torch.float32) for name, v in tensors.items()}, tmp_path / formats_weights)
    return wb.load(tmp_path)


formats_weights = "sae_weights.safetensors"


@pytest.mark.parametrize("case", CASES)
def test_what_it_computes_is_what_saelens_computes(case):
    dictionary = golden.opened(OWNER, case)
    config = dictionary.training_summary["config"]
    golden.same(dictionary, OWNER, case, size=size(config, golden.expected(OWNER, case)["x"]))


@pytest.mark.parametrize("case", CASES)
def test_our_own_folder_keeps_it_exactly(case, tmp_path):
    dictionary, x = golden.opened(OWNER, case), golden.expected(OWNER, case)["x"]
    wb.save(dictionary, tmp_path)
    again = wb.load(tmp_path)
    assert torch.equal(again.encode(x).to_dense(), dictionary.encode(x).to_dense())
    assert torch.equal(again.reconstruct(x), dictionary.reconstruct(x))
    assert (again.site, again.target) == (dictionary.site, dictionary.target)
    assert again.training_summary == dictionary.training_summary


@pytest.mark.parametrize("case", CASES)
def test_it_is_recognised_as_nothing_else(case):
    source = formats.Source(checkpoint(case))
    claimed = [name for name in catalogue.names("formats") if catalogue.module("formats", name).sniff(source)]
    assert claimed == ["sae_lens"]


def test_every_architecture_has_a_case():
    kinds = {json.loads((checkpoint(case) / "cfg.json").read_text()).get("architecture") for case in CASES}
    module = catalogue.module("formats", "sae_lens")
    assert kinds - {None} == {*module.LINEAR, "matching_pursuit", "temporal"}


@pytest.mark.parametrize(
    ("case", "site", "target"),
    [
        ("standard", "2.resid", None),  # what goes into a block is what the block before it gave
        ("hook_z", "5.heads", None),
        ("old_hook_z", "5.heads", None),
        ("transcoder", "2.resid", "3.mlp_out"),
        ("skip_transcoder", "3.mlp_in", "3.mlp_out"),  # read with site=
    ],
)
def test_hooks_become_our_sites(case, site, target):
    dictionary = golden.opened(OWNER, case)
    assert str(dictionary.site) == site
    if target is not None:
        assert str(dictionary.target) == target
    assert dictionary.training_summary["model"].startswith("gpt2")


def test_a_head_alone_needs_a_site(changed):
    folder = changed("hook_z", meta={"hook_head_index": 2})
    with pytest.raises(ValueError, match="hook_z, head 2', which is no stream of ours"):
        wb.load(folder)
    assert wb.load(folder, site="5.heads").site == Site(5, "heads")


@pytest.mark.parametrize("how", ["center_writing_weights", "fold_value_biases"])
def test_rows_of_a_model_that_was_rewritten_need_a_site(changed, how):
    folder = changed("standard", meta={"model_from_pretrained_kwargs": {how: True}})
    with pytest.raises(ValueError, match=f"with {how}', which is no stream"):
        wb.load(folder)
    assert wb.load(folder, site="2.resid").site == Site(2, "resid")
    shutil.rmtree(folder)
    assert wb.load(changed("standard", meta={"model_from_pretrained_kwargs": {how: False, "dtype": "x"}})).site


def test_a_transcoder_that_does_not_say_where_it_writes_needs_a_target(changed):
    folder = changed("transcoder", meta={"hook_name_out": None})
    with pytest.raises(ValueError, match="does not name"):
        wb.load(folder)
    assert wb.load(folder, target="3.mlp_out").target == Site(3, "mlp_out")


def test_several_in_one_folder_are_parts(tmp_path):
    for case in ("gated", "topk"):
        shutil.copytree(checkpoint(case), tmp_path / "release" / case)
    assert formats.parts(tmp_path / "release") == ["gated", "topk"]
    with pytest.raises(ValueError, match="gated, topk"):
        wb.load(tmp_path / "release")
    both = formats.load_all(tmp_path / "release")
    assert [type(d.sparsifier).__name__ for d in both.values()] == ["Gated", "TopK"]
    assert set(both["gated"].training_summary["files"])


# --- traps ------------------------------------------------------------------------------------------------------------


def test_an_encoder_is_input_by_latent(changed):
    held = load_file(checkpoint("standard") / formats_weights)
    with pytest.raises(ValueError, match=r"W_enc must be \[12, 20\], got \[20, 12\]"):
        wb.load(changed("standard", tensors={"W_enc": held["W_enc"].T}))


@pytest.mark.parametrize("center", [True, False])
def test_the_bias_is_taken_from_the_row_only_where_the_file_says_so(tmp_path, center):
    weights = {"W_enc": [[1, 0], [0, 1]], "b_enc": [0, 0], "W_dec": [[1, 0], [0, 1]], "b_dec": [3, -1]}
    found = by_hand(tmp_path, {"architecture": "standard", "apply_b_dec_to_input": center}, **weights)
    x = torch.tensor([[5.0, 2.0]])
    assert found.encode(x).to_dense().tolist() == ([[2.0, 3.0]] if center else [[5.0, 2.0]])
    assert found.reconstruct(x).tolist() == ([[5.0, 2.0]] if center else [[8.0, 1.0]])


@pytest.mark.parametrize("kind", ["jumprelu", "jumprelu_transcoder", "batchtopk"])
def test_a_value_at_its_threshold_is_off(tmp_path, kind):
    own = {"topk_threshold": 2.0} if kind == "batchtopk" else {"threshold": [2.0, 2.0]}
    more = {"k": 1.0, "rescale_acts_by_decoder_norm": False} if kind == "batchtopk" else {"d_out": 2}
    weights = {"W_enc": [[1, 0], [0, 1]], "b_enc": [0, 0], "W_dec": [[1, 0], [0, 1]], "b_dec": [0, 0]}
    cfg = {"architecture": kind, "apply_b_dec_to_input": False, **more}
    meta = {"metadata": {"sae_lens_version": "6.54.12", "hook_name_out": "blocks.0.hook_mlp_out"}}
    found = by_hand(tmp_path, cfg | meta, **weights, **own)
    assert found.encode(torch.tensor([[2.0, 2.0000002384185791]])).to_dense()[0].tolist() == [0.0, 2.0000002384185791]


@pytest.mark.parametrize("kind", ["jumprelu", "batchtopk"])
def test_a_threshold_below_zero_lets_nothing_negative_through(tmp_path, kind):
    own = {"topk_threshold": -3.0} if kind == "batchtopk" else {"threshold": [-3.0, -3.0]}
    weights = {"W_enc": [[1, 0], [0, 1]], "b_enc": [0, 0], "W_dec": [[1, 0], [0, 1]], "b_dec": [0, 0]}
    found = by_hand(tmp_path, {"architecture": kind, "rescale_acts_by_decoder_norm": False}, **weights, **own)
    assert found.encode(torch.tensor([[-1.0, 0.5]])).to_dense().tolist() == [[0.0, 0.5]]


def test_a_gate_at_zero_is_shut(tmp_path):
    weights = {"W_enc": [[1, 0], [0, 1]], "W_dec": [[1, 0], [0, 1]], "b_dec": [0, 0]}
    own = {"b_gate": [-1, -1], "r_mag": [0, 0], "b_mag": [5, -9]}
    found = by_hand(tmp_path, {"architecture": "gated"}, **weights, **own)
    assert found.encode(torch.tensor([[1.0, 2.0], [2.0, 2.0]])).to_dense().tolist() == [[0.0, 0.0], [7.0, 0.0]]


def test_topk_rectifies_after_it_chose(tmp_path):
    weights = {"W_enc": [[1, 0], [0, 1]], "b_enc": [0, 0], "W_dec": [[1, 0], [0, 1]], "b_dec": [0, 0]}
    x = torch.tensor([[-1.0, -2.0], [3.0, -4.0]])
    assert by_hand(tmp_path, {"architecture": "topk", "k": 1}, **weights).encode(x).to_dense().tolist() == [
        [0.0, 0.0],
        [3.0, 0.0],
    ]
    signed = by_hand(tmp_path, {"architecture": "abstopk", "k": 1}, **weights).encode(x).to_dense()
    assert signed.tolist() == [[0.0, -2.0], [0.0, -4.0]]


def test_norms_of_atoms_weigh_the_choice_and_the_values(tmp_path):
    weights = {"W_enc": [[1, 0], [0, 1]], "b_enc": [0, 0], "W_dec": [[4, 3], [0, 1]], "b_dec": [0, 0]}
    cfg = {"architecture": "topk", "k": 1, "rescale_acts_by_decoder_norm": True}
    found = by_hand(tmp_path, cfg, **weights)
    x = torch.tensor([[1.0, 2.0]])
    assert found.encode(x).to_dense().tolist() == [[5.0, 0.0]]
    torch.testing.assert_close(found.reconstruct(x), torch.tensor([[4.0, 3.0]]))
    torch.testing.assert_close(found.atoms().norm(dim=-1), torch.ones(2))


def test_the_deviation_of_a_row_is_unbiased(changed):
    dictionary = golden.opened(OWNER, "standard_layer_norm")
    held, x = load_file(checkpoint("standard_layer_norm") / formats_weights), golden.expected(OWNER, "standard")["x"]
    h = {name: value.double().numpy() for name, value in held.items()}
    rows = x.double().numpy()
    unit = (rows - rows.mean(-1, keepdims=True)) / (rows.std(-1, ddof=1, keepdims=True) + 1e-5)
    code = np.maximum((unit - h["b_dec"]) @ h["W_enc"] + h["b_enc"], 0)
    found = dictionary.encode(x).to_dense().double().numpy() / rows.std(-1, ddof=1, keepdims=True)
    np.testing.assert_allclose(found, code, atol=1e-5)


def test_logarithms_of_thresholds_are_undone():
    held = load_file(checkpoint("training_jumprelu_log_threshold") / formats_weights)
    found = golden.opened(OWNER, "training_jumprelu_log_threshold").sparsifier.threshold
    torch.testing.assert_close(found, held["log_threshold"].exp())


def test_a_threshold_of_all_latents_is_one_number():
    dictionary = golden.opened(OWNER, "training_batchtopk")
    assert dictionary.sparsifier.threshold.shape == () and float(dictionary.sparsifier.threshold) == np.float32(1.7)
    assert float(golden.opened(OWNER, "batchtopk_saved_for_inference").sparsifier.threshold[3]) == np.float32(1.7)


def test_the_mean_norm_of_training_is_a_scale():
    dictionary = golden.opened(OWNER, "training_standard_scaled")
    assert float(dictionary.scale_in) == float(dictionary.scale_out) == pytest.approx(0.41)


def test_a_scale_that_nobody_kept_is_asked_for_and_can_be_given(changed):
    folder = changed("training_standard_scaled")
    (folder / "activation_scaler.json").unlink()
    with pytest.raises(
        ValueError, match=r"says expected_average_only_in, .*put activation_scaler.json beside it .*scaling_f"
    ):
        wb.load(folder)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 2.5}')
    assert float(wb.load(folder).scale_in) == 2.5


def test_a_finetuning_scale_weighs_atoms(changed):
    """Versions 3 to 5 multiplied a code by it when decoding; 6 does not open such files."""
    scale, x = torch.linspace(0.5, 2.0, LATENTS), golden.expected(OWNER, "old_standard")["x"]
    folder = changed("old_standard", cfg={"finetuning_scaling_factor": True}, tensors={"scaling_factor": scale})
    dictionary, plain = wb.load(folder), golden.opened(OWNER, "old_standard")
    code = plain.encode(x).to_dense()
    assert torch.equal(dictionary.encode(x).to_dense(), code)
    held = load_file(checkpoint("old_standard") / formats_weights)
    want = (code * scale).numpy() @ held["W_dec"].numpy() + held["b_dec"].numpy()
    np.testing.assert_allclose(dictionary.reconstruct(x).numpy(), want, rtol=1e-5, atol=1e-5)


def test_before_version_6_a_flag_was_the_mean_norm(changed):
    with pytest.raises(ValueError, match="expected_average_only_in"):
        wb.load(changed("old_standard", cfg={"normalize_activations": True}))


# --- matching pursuit, temporal ---------------------------------------------------------------------------------------


def test_a_pursuit_folds_its_scales():
    dictionary = golden.opened(OWNER, "training_matching_pursuit_scaled")
    x = golden.expected(OWNER, "training_matching_pursuit_scaled")["x"]
    code, rows = dictionary.encode(x).to_dense(), dictionary.reconstruct(x)
    dictionary.fold_()
    assert float(dictionary.scale_in) == 1.0
    torch.testing.assert_close(dictionary.encode(x).to_dense(), code, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dictionary.reconstruct(x), rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("least", "steady", "taken"), [(0.0, False, 5), (0.0, True, 3), (2.0, False, 2), (9.0, False, 1)]
)
def test_a_pursuit_stops_as_it_is_told(tmp_path, least, steady, taken):
    """3 e1 + 2 e2 takes e1, which leaves a row of norm 2, then half of e1 + e2 again and again, a little each time."""
    atoms = np.array([[1.0, 0.0], [0.5, 0.5]])
    how = {"residual_threshold": least, "max_iterations": 5, "stop_on_duplicate_support": steady}
    found = by_hand(tmp_path, {"architecture": "matching_pursuit"} | how, W_dec=atoms.tolist(), b_dec=[0, 0])
    left, want = np.array([3.0, 2.0]), np.zeros(2)
    for _ in range(taken):
        best = int(np.argmax(atoms @ left))
        value = max(0.0, float(atoms[best] @ left))
        want[best] += value
        left = left - value * atoms[best]
    np.testing.assert_allclose(found.encode(torch.tensor([[3.0, 2.0]])).to_dense()[0].numpy(), want, rtol=1e-6)


def test_a_temporal_code_hears_of_what_came_before_and_not_of_what_comes():
    dictionary, x = golden.opened(OWNER, "temporal"), golden.expected(OWNER, "temporal")["x"]
    code, other = dictionary.encode(x).to_dense(), x.clone()
    other[10] += 1
    after = dictionary.encode(other).to_dense()
    torch.testing.assert_close(after[:10], code[:10])
    assert (after[11:] != code[11:]).any(1).all()
    text = torch.tensor([0] * 12 + [1] * 12)
    with pytest.raises(ValueError, match="one text at a time, got 2"):
        dictionary.encoder.given(Batch(x, x, text))
    assert dictionary.encoder.given(Batch(x, x, text * 0)) is dictionary.encoder
    with pytest.raises(ValueError, match="keeps its scale"):
        dictionary.fold_()


def test_a_temporal_code_alone_is_what_is_new():
    """SAELens's `decode` of the code is the reconstruction without what was expected."""
    dictionary, x = golden.opened(OWNER, "temporal_untied_relu"), golden.expected(OWNER, "temporal_untied_relu")["x"]
    held = load_file(checkpoint("temporal_untied_relu") / formats_weights)
    code = dictionary.encode(x)
    torch.testing.assert_close(dictionary.decode(code), code.to_dense() @ held["W_dec"] + held["b_dec"])


def test_a_temporal_dictionary_holds_its_weights_once():
    dictionary = golden.opened(OWNER, "temporal_untied_relu")
    one, two = dictionary.encoder.foreseen, dictionary.skip
    assert one.atoms is two.atoms and one.attn_layers[1].v_ctx.weight is two.attn_layers[1].v_ctx.weight
    assert one.atoms.data_ptr() == dictionary.decoder.weight.data_ptr()


# --- refusals ---------------------------------------------------------------------------------------------------------

HELD = load_file(checkpoint("jumprelu") / formats_weights)
NAN = HELD["threshold"].clone()
NAN[3] = torch.nan
REFUSED = {
    "another architecture": ("standard", {"cfg": {"architecture": "hyper"}}, "architecture must be one of .*'hyper'"),
    "no architecture": ("standard", {"cfg": {"architecture": None}}, "no 'architecture'"),
    "a later version": ("standard", {"meta": {"sae_lens_version": "7.0.1"}}, "SAELens '7.0.1': versions up to 6"),
    "no version": ("standard", {"meta": {"sae_lens_version": "newest"}}, "SAELens 'newest'"),
    "a tensor too few": ("standard", {"tensors": {"b_enc": None}}, "no tensor 'b_enc'"),
    "a tensor too many": ("standard", {"tensors": {"threshold": NAN}}, "holds 'threshold', which this architecture"),
    "another width": ("standard", {"cfg": {"d_sae": 24}}, r"W_enc must be \[12, 24\], got \[12, 20\]"),
    "a width that is none": ("standard", {"cfg": {"d_in": "12"}}, "d_in must be a whole number of 1 or more, got '12'"),
    "a threshold that is none": (
        "jumprelu",
        {"tensors": {"threshold": NAN}},
        "threshold holds numbers that are not fi",
    ),
    "two thresholds of all": ("training_batchtopk", {"tensors": {"topk_threshold": NAN[:2]}}, "must be one number"),
    "no threshold": ("training_batchtopk", {"tensors": {"topk_threshold": None}}, "no tensor 'topk_threshold'"),
    "norms in doubt": ("training_batchtopk", {"cfg": {"rescale_acts_by_decoder_norm": None}}, "no 'rescale_acts_by_d"),
    "whole numbers": ("jumprelu", {"tensors": {"threshold": NAN.nan_to_num().long()}}, "must hold floats, got int64"),
    "no k": ("topk", {"cfg": {"k": None}}, "no 'k'"),
    "k of all": ("topk", {"cfg": {"k": 21}}, "k must be at most d_sae=20, got 21"),
    "k that is true": ("topk", {"cfg": {"k": True}}, "k must be a whole number"),
    "a flag that is none": ("standard", {"cfg": {"apply_b_dec_to_input": "no"}}, "must be true or false, got 'no'"),
    "centred by the target": ("transcoder", {"cfg": {"apply_b_dec_to_input": True}}, "must be false for a transcoder"),
    "no target width": ("transcoder", {"cfg": {"d_out": None}}, "no 'd_out'"),
    "another normalisation": (
        "standard",
        {"cfg": {"normalize_activations": "batch"}},
        "must be one of none, layer_norm",
    ),
    "temporal's scale": (
        "standard",
        {"cfg": {"normalize_activations": "constant_scalar_rescale"}},
        "must be one of none",
    ),
    "a whitening nobody kept": (
        "standard",
        {"cfg": {"normalize_activations": "covariance_whitening"}},
        "says covariance_whitening, but the folder",
    ),
    "scaled and not": (
        "training_standard_scaled",
        {"cfg": {"normalize_activations": "none"}},
        "says none, .* asks for ex",
    ),
    "heads that are none": (
        "standard",
        {"cfg": {"reshape_activations": "hook_z"}},
        "hook_name is 'blocks.3.hook_resid_p",
    ),
    "no hook": ("standard", {"meta": {"hook_name": "blocks.3.hook_resid_mid"}}, "no stream of ours: give site="),
    "heads of a wrong size": (
        "temporal",
        {"cfg": {"n_heads": 3}},
        "d_sae must be a multiple of bottleneck_factor x n_h",
    ),
    "a layer too many": ("temporal", {"cfg": {"n_attn_layers": 3}}, "no tensor 'attn_layers.2.k_ctx.weight'"),
    "a layer too few": ("temporal", {"cfg": {"n_attn_layers": 1}}, "holds 'attn_layers.1"),
    "no residual": ("matching_pursuit", {"cfg": {"residual_threshold": None}}, "no 'residual_threshold'"),
    "an old activation": (
        "old_standard",
        {"cfg": {"activation_fn_str": "tanh-relu"}},
        "activation_fn must be one of relu",
    ),
    "an old gate by k": (
        "old_gated",
        {"cfg": {"activation_fn_str": "topk"}},
        "architecture must be one of standard, topk",
    ),
    "an old k": ("old_topk", {"cfg": {"activation_fn_kwargs": {}}}, "no 'k'"),
    "an unannounced scale": (
        "old_standard",
        {"tensors": {"scaling_factor": NAN.nan_to_num()}},
        "scaling_factor is not 1",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(changed, what):
    case, news, words = REFUSED[what]
    with pytest.raises(ValueError, match=words) as refused:
        wb.load(changed(case, **news))
    assert "\n" not in str(refused.value)


def test_a_whitening_of_another_width_is_refused(changed):
    folder = changed("training_topk_whitened")
    held = load_file(folder / "activation_whitening.safetensors")
    save_file(held | {"mean": held["mean"][:-1].clone()}, folder / "activation_whitening.safetensors")
    with pytest.raises(ValueError, match=r"mean must be \[12\], got \[11\]"):
        wb.load(folder)


def test_a_pursuit_of_whitened_rows_is_refused(changed):
    folder = changed("matching_pursuit", cfg={"normalize_activations": "covariance_whitening"})
    shutil.copy(checkpoint("training_topk_whitened") / "activation_whitening.safetensors", folder)
    with pytest.raises(
        ValueError, match="must be one of none, layer_norm, constant_norm_rescale, expected_average_only_in, got"
    ):
        wb.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"metadata": 3}', '{"metadata": {"sae_lens_version": 6}}'])
def test_a_configuration_that_is_none_is_refused(changed, text):
    folder = changed("standard")
    (folder / "cfg.json").write_text(text)
    with pytest.raises(ValueError, match="cfg.json"):
        wb.load(folder)


def test_a_torn_file_is_refused(changed):
    folder = changed("standard")
    path = folder / formats_weights
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        wb.load(folder)


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_what_was_read_is_written_and_read_the_same(case, tmp_path):
    dictionary, x = golden.opened(OWNER, case), golden.expected(OWNER, case)["x"]
    if case == "training_matching_pursuit_scaled":
        with pytest.raises(ValueError, match="a pursuit of scaled rows: values change"):
            formats.write(dictionary, tmp_path, "sae_lens")
        return
    formats.write(dictionary, tmp_path, "sae_lens")
    target = None if dictionary.target is None else str(dictionary.target)
    again = wb.load(tmp_path, site=dictionary.site, target=target)
    exact: Any = {} if "scaled" in case or case == "training_gated_whitened" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(again.encode(x).to_dense(), dictionary.encode(x).to_dense(), **exact)
    torch.testing.assert_close(again.reconstruct(x), dictionary.reconstruct(x), **exact)
    formats.write(again, tmp_path / "again", "sae_lens")
    for name in ("cfg.json", formats_weights):
        one, two = (folder / name for folder in (tmp_path, tmp_path / "again"))
        if name == "cfg.json":
            one, two = (json.loads(path.read_text()) | {"metadata": None} for path in (one, two))
            assert one == two
        else:
            assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith(("old", "training"))])
def test_a_written_folder_has_saelens_names_and_shapes(case, tmp_path):
    dictionary = golden.opened(OWNER, case)
    formats.write(dictionary, tmp_path, "sae_lens")
    want, came = (json.loads((folder / "cfg.json").read_text()) for folder in (checkpoint(case), tmp_path))
    assert want.keys() == came.keys()
    folded = {"metadata", "rescale_acts_by_decoder_norm"}
    if "uncentred" in case and case.startswith(("matching_pursuit", "temporal_tied")):
        folded |= {"apply_b_dec_to_input"}  # a bias of 0
    for name in set(want) - folded:
        if name == "max_iterations":
            assert came[name] == (want[name] or D)
        else:
            assert came[name] == (pytest.approx(want[name]) if isinstance(want[name], float) else want[name]), name
    held = [load_file(folder / formats_weights) for folder in (checkpoint(case), tmp_path)]
    theirs, ours = ({name: (value.shape, value.dtype) for name, value in tensors.items()} for tensors in held)
    assert theirs == ours
    if "rescaled" not in case and case not in (
        "topk_layer_norm",
        "matching_pursuit_uncentred",
        "temporal_tied_uncentred",
    ):
        assert all(torch.equal(held[0][name], held[1][name]) for name in theirs)


def drawn(name):
    """One of our variants with parameters drawn at random, and scales."""
    module = catalogue.module("variants", name)
    dictionary = wb.recipe(name, **module.SUITE).dictionary
    for part, value in dictionary.named_parameters():
        if name != "matching_pursuit" or part != "decoder.weight":  # whose atoms have norm 1
            value.data.copy_(0.3 * torch.randn(value.shape))
    threshold = getattr(dictionary.sparsifier, "threshold", None)
    if threshold is not None:
        threshold.data.copy_(torch.rand(threshold.shape) * 1.5)
    if name != "matching_pursuit":
        dictionary.set_scale_(0.37, 0.37)
    dictionary.site = dictionary.target = Site(2, "resid")
    if module.KIND == "pair":
        dictionary.target = Site(3, "mlp_out")
    return dictionary.freeze()


@pytest.mark.parametrize("name", catalogue.names("variants"))
def test_a_variant_is_written_or_refused(name, tmp_path):
    dictionary = drawn(name)
    kinds = [kind for kind, names in WRITTEN.items() if name in names]
    if not kinds:
        with pytest.raises(
            ValueError, match=r"SAELens has no architecture for [^\n]+: save it with wb.save"
        ) as refused:
            formats.write(dictionary, tmp_path, "sae_lens")
        assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())
        return
    formats.write(dictionary, tmp_path, "sae_lens")
    said = json.loads((tmp_path / "cfg.json").read_text())
    assert said["architecture"] == kinds[0]
    again, x = wb.load(tmp_path), 3 * torch.randn(32, dictionary.d)
    code = dictionary.encode(x).to_dense()
    torch.testing.assert_close(again.encode(x).to_dense(), code, rtol=1e-5, atol=2e-5)
    assert torch.equal(again.encode(x).to_dense() != 0, code != 0) and code.any()
    torch.testing.assert_close(again.reconstruct(x), dictionary.reconstruct(x), rtol=1e-5, atol=5e-5)
    assert again.site == dictionary.site
    assert float(dictionary.scale_in) == pytest.approx(1.0 if name == "matching_pursuit" else 0.37)  # a copy was folded
    assert said["metadata"]["workbench"]["made"]["variant"] == name


def relu_transcoder(skip):
    torch.manual_seed(1)
    dictionary = wb.recipe("skip_transcoder" if skip else "transcoder", d=12, d_out=10, latents=20, k=4).dictionary
    dictionary.sparsifier = wb.recipe("relu_l1", d=4, latents=8).dictionary.sparsifier
    for value in dictionary.parameters():
        value.data.copy_(0.3 * torch.randn(value.shape))
    dictionary.set_scale_(0.5, 3.0)
    return dictionary.freeze()


@pytest.mark.parametrize("skip", [True, False])
def test_a_transcoder_with_relu_is_written_with_both_its_scales(tmp_path, skip):
    dictionary, x = relu_transcoder(skip), torch.randn(32, 12)
    dictionary.site, dictionary.target = Site(3, "mlp_in"), Site(3, "mlp_out")
    formats.write(dictionary, tmp_path, "sae_lens")
    said = json.loads((tmp_path / "cfg.json").read_text())
    assert said["architecture"] == ("skip_transcoder" if skip else "transcoder") and said["d_out"] == 10
    again = wb.load(tmp_path)
    torch.testing.assert_close(again.encode(x).to_dense(), dictionary.encode(x).to_dense())
    torch.testing.assert_close(again.reconstruct(x), dictionary.reconstruct(x), rtol=1e-5, atol=1e-5)
    assert (again.site, again.target) == (dictionary.site, dictionary.target)


def test_a_hook_is_named_only_where_it_means_the_same_rows(tmp_path):
    """TransformerLens's `hook_normalized` is before the gain of an RMS norm; ours is after it."""
    dictionary = relu_transcoder(False)
    dictionary.site, dictionary.target = Site(3, "mlp_in"), Site(3, "mlp_out")
    formats.write(dictionary, tmp_path, "sae_lens")
    meta = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    assert meta["hook_name"] is None and meta["hook_name_out"] == "blocks.3.hook_mlp_out"
    assert meta["workbench"]["site"] == "3.mlp_in"
    assert wb.load(tmp_path).site == Site(3, "mlp_in")


@pytest.mark.parametrize(
    ("site", "hook"),
    [("embed", "blocks.0.hook_resid_pre"), ("4.heads", "blocks.4.attn.hook_z"), ("model.layers.3.mlp:in", None)],
)
def test_sites_become_hooks(tmp_path, site, hook):
    dictionary = drawn("topk")
    dictionary.site = dictionary.target = Site.of(site)
    formats.write(dictionary, tmp_path, "sae_lens")
    said = json.loads((tmp_path / "cfg.json").read_text())
    assert said["metadata"]["hook_name"] == hook
    assert said["reshape_activations"] == ("hook_z" if site == "4.heads" else "none")
    assert str(wb.load(tmp_path).site) == ("3.mlp_in" if hook is None else site)


def test_a_dictionary_without_a_place_is_written_and_read_without(tmp_path):
    dictionary = drawn("topk")
    dictionary.site = dictionary.target = None
    formats.write(dictionary, tmp_path, "sae_lens")
    assert wb.load(tmp_path).site is None


def untrained():
    dictionary = drawn("batch_topk")
    dictionary.sparsifier.threshold.fill_(-1)
    return dictionary


def biased_skip():
    dictionary = relu_transcoder(True)
    dictionary.skip = torch.nn.Linear(12, 10)
    return dictionary


def two_scales():
    dictionary = drawn("topk")
    dictionary.set_scale_(1.0, 2.0)
    return dictionary


def elsewhere():
    dictionary = drawn("relu_l1")
    dictionary.encoder.center, dictionary.target = True, Site(3, "mlp_out")
    return dictionary


def signed():
    dictionary = drawn("jumprelu")
    dictionary.sparsifier.threshold.data[3] = -0.5
    return dictionary


def short():
    dictionary = drawn("matching_pursuit")
    dictionary.decoder.weight.data.mul_(0.5)
    return dictionary


def pursued_elsewhere():
    dictionary = drawn("matching_pursuit")
    dictionary.target = Site(3, "mlp_out")
    return dictionary


def another_eps():
    dictionary = golden.opened(OWNER, "standard_layer_norm")
    dictionary.encoder.eps = 1e-6
    return dictionary


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (untrained, "no threshold yet"),
        (biased_skip, "only a matrix without a bias"),
        (two_scales, "two scales"),
        (elsewhere, "centres its rows and writes elsewhere"),
        (signed, "a threshold below 0 that lets negative values pass"),
        (short, "atoms have norms 0.5 to 0.5"),
        (pursued_elsewhere, "the encoder Pursuit with a target elsewhere"),
        (another_eps, "eps of 1e-06"),
    ],
)
def test_what_saelens_cannot_say_is_not_written(tmp_path, make, words):
    with pytest.raises(ValueError, match=words):
        formats.write(make(), tmp_path / "new", "sae_lens")
    assert not (tmp_path / "new").exists()


def test_atoms_that_stay_in_their_files_are_written(tmp_path):
    atoms, bias = torch.randn(20, 12).bfloat16(), torch.randn(12)
    tensors = {"encoder.weight": torch.randn(12, 20), "encoder.bias": torch.randn(20), "decoder.bias": bias}
    pieces = [Piece(0, 0, atoms[:8]), Piece(8, 0, atoms[8:])]
    dictionary = assemble(plain(12, 20, ["topk", {"k": 4, "latents": 20}], center=True), tensors, pieces)
    formats.write(dictionary, tmp_path, "sae_lens")
    again, x = wb.load(tmp_path), torch.randn(32, 12)
    assert torch.equal(again.atoms(), atoms.float())
    torch.testing.assert_close(again.reconstruct(x), dictionary.reconstruct(x))


def test_a_scale_of_another_dictionary_is_not_left_beside(changed):
    with pytest.raises(ValueError, match="activation_scaler.json of another dictionary"):
        formats.write(drawn("topk"), changed("training_standard_scaled"), "sae_lens")


def test_latents_that_were_never_chosen_stay_off(tmp_path):
    dictionary = drawn("feature_choice")
    dictionary.sparsifier.threshold[5] = torch.inf
    formats.write(dictionary, tmp_path, "sae_lens")
    x = 100 * torch.randn(64, dictionary.d)
    again = wb.load(tmp_path).encode(x).to_dense()
    assert not again[:, 5].any() and again[:, 6].any()
    assert torch.equal(again != 0, dictionary.encode(x).to_dense() != 0)


def test_a_code_is_one_of_ours():
    assert isinstance(golden.opened(OWNER, "standard").encode(torch.zeros(1, D)), Code)

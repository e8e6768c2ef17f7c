"""Llama Scope: files as they are published, against formulas in plain numpy of what their library of that time did."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import workbench as wb
from workbench.site import Site

D, F = 10, 28
RESID, MID, OUT = "blocks.3.hook_resid_post", "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out"
SAID = {  # the settings of a published one
    "device": "cuda:0",
    "seed": 42,
    "dtype": "torch.bfloat16",
    "hook_point_in": RESID,
    "hook_point_out": RESID,
    "use_decoder_bias": True,
    "apply_decoder_bias_to_pre_encoder": False,
    "expansion_factor": 2.8,
    "d_model": D,
    "d_sae": F,
    "bias_init_method": "all_zero",
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.75,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": 2.5, "out": 6.5},
    "decoder_exactly_fixed_norm": False,
    "sparsity_include_decoder_norm": True,
    "use_glu_encoder": False,
    "top_k": 7,
    "k_warmup_steps": 78125,
    "tp_size": 1,
}
LATER = SAID | {"sae_type": "sae", "jumprelu_threshold_window": 2.0}


def weights(later=False, seed=0):
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: 0.4 * torch.randn(shape, generator=rng)  # noqa: E731
    held = {
        "encoder.weight": draw(F, D),
        "encoder.bias": draw(F),
        "decoder.weight": draw(D, F),
        "decoder.bias": draw(D),
    }
    if later:
        held["log_jumprelu_threshold"] = torch.linspace(-2, 1.5, F)
        held |= {f"dataset_average_activation_norm.{hook}": torch.tensor(v) for hook, v in ((RESID, 2.5), (OUT, 6.5))}
    return held


def write(folder, said=(), tensors=(), drop=(), later=False):
    """One folder of a collection; `said` and `tensors` are changes."""
    config, held = (LATER if later else SAID) | dict(said), weights(later) | dict(tensors)
    for name in drop:
        config.pop(name, None)
        held.pop(name, None)
    file = folder / ("sae_weights.safetensors" if later else "checkpoints/final.safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in held.items()}, file)
    (folder / ("config.json" if later else "hyperparams.json")).write_text(json.dumps(config))
    return folder, {name: value.double().numpy() for name, value in held.items()}


def rows(n=24):
    rng = torch.Generator().manual_seed(5)
    return torch.randn(n, D, generator=rng) + 0.3 * torch.randn(D, generator=rng)


def reference(w, x, *, s_in=1.0, s_out=1.0, unit=True, center=False, on=lambda value: value > 0):
    """In the units that it was trained in, then what a latent adds in the model's: code and reconstruction."""
    x = x.double().numpy() * s_in
    if center:  # folded, its library took the bias, in units of what is written, from the row as it is
        x = x - w["decoder.bias"] * s_in / s_out
    h = x @ w["encoder.weight"].T + w["encoder.bias"]
    norm = np.linalg.norm(w["decoder.weight"], axis=0) if unit else np.full(F, s_out / s_in)
    value = h * norm / s_out
    code = np.where(on(value), value, 0)
    return code, code @ (w["decoder.weight"] / norm).T + w["decoder.bias"] / s_out


def biggest(k):
    def on(value):
        return (value > 0) & (value >= np.sort(value, axis=1)[:, -k][:, None])

    return on


def same(made, x, code, y):
    np.testing.assert_allclose(made.encode(x).to_dense().double().numpy(), code, rtol=1e-5, atol=1e-5)
    assert np.array_equal(made.encode(x).to_dense().numpy() != 0, code != 0) and 0.02 < (code != 0).mean() < 0.98
    np.testing.assert_allclose(made.reconstruct(x).double().numpy(), y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(made.decode(made.encode(x)).double().numpy(), y, rtol=1e-5, atol=1e-5)


S = {"s_in": D**0.5 / 2.5, "s_out": D**0.5 / 6.5}


@pytest.mark.parametrize(
    ("said", "how"),
    [
        ({}, S | {"on": lambda value: value > 0.75}),
        ({"sparsity_include_decoder_norm": False}, S | {"unit": False, "on": lambda value: value > 0.75}),
        ({"act_fn": "topk"}, S | {"on": lambda value: value > 0.75}),
        ({"act_fn": "topk", "jump_relu_threshold": 0.0}, S | {"on": biggest(7)}),
        ({"act_fn": "relu", "norm_activation": "inference"}, {}),
        ({"jump_relu_threshold": -0.4}, S | {"on": lambda value: value > -0.4}),
        ({"apply_decoder_bias_to_pre_encoder": True}, S | {"center": True, "on": lambda value: value > 0.75}),
    ],
)
def test_published_folders_do_what_their_library_did(tmp_path, said, how):
    folder, w = write(tmp_path, said)
    same(wb.load(folder), rows(), *reference(w, rows(), **how))


@pytest.mark.parametrize("include", [True, False])
def test_r1_distill_has_a_threshold_each_by_its_logarithm_in_units_of_training(tmp_path, include):
    folder, w = write(tmp_path, {"hook_point_out": OUT, "sparsity_include_decoder_norm": include}, later=True)
    x, made = rows(), wb.load(folder)
    h = S["s_in"] * x.double().numpy() @ w["encoder.weight"].T + w["encoder.bias"]
    norm = np.linalg.norm(w["decoder.weight"], axis=0) if include else 1.0
    code = np.where(h * norm > np.exp(w["log_jumprelu_threshold"]), h, 0)
    same(made, x, code, (code @ w["decoder.weight"].T + w["decoder.bias"]) / S["s_out"])
    assert (made.site, made.target) == (Site.of("3.resid"), Site.of("3.mlp_out"))
    assert made.training_summary["format"] == "llama_scope"


def test_the_threshold_is_of_what_a_latent_adds_in_the_models_units(tmp_path):
    """x = 1 at a mean norm of 4 in one dimension: scaled 1/4, an atom of norm 2 writes 0.5 back to 2."""
    one = {n: torch.ones(1) if "bias" in n else torch.ones(1, 1) for n in weights()}
    one |= {"encoder.bias": torch.zeros(1), "decoder.bias": torch.zeros(1), "decoder.weight": torch.full((1, 1), 2.0)}
    more = {"d_model": 1, "d_sae": 1, "dataset_average_activation_norm": {"in": 4.0, "out": 4.0}}
    found = {}
    for threshold in (0.3, 0.6, 1.9, 2.0, 2.1):
        made = wb.load(write(tmp_path / str(threshold), more | {"jump_relu_threshold": threshold}, one)[0])
        found[threshold] = float(made.encode(torch.ones(1, 1)).to_dense())
    assert found == {0.3: 2.0, 0.6: 2.0, 1.9: 2.0, 2.0: 0.0, 2.1: 0.0}


def test_places_and_settings_are_kept(tmp_path):
    folder, _ = write(tmp_path, {"hook_point_in": MID, "hook_point_out": OUT})
    made = wb.load(folder, site="3.mlp_in")
    assert (made.site, made.target) == (Site.of("3.mlp_in"), Site.of("3.mlp_out"))
    (folder / "lm_config.json").write_text('{"model_name": "meta-llama/Llama-3.1-8B"}')
    summary = wb.load(folder, site="3.mlp_in").training_summary
    assert summary["model"] == "meta-llama/Llama-3.1-8B" and summary["config"]["top_k"] == 7
    assert summary["reads"] == MID and set(summary["files"]) == {
        "hyperparams.json", "lm_config.json", "checkpoints/final.safetensors"
    }  # fmt: skip
    with pytest.raises(ValueError, match="before the norm's gain"):
        wb.load(folder)


def test_a_collection_opens_by_the_folder(tmp_path):
    for layer in range(2):
        write(tmp_path / f"L{layer}R", {"hook_point_in": f"blocks.{layer}.hook_resid_post"})
    assert wb.load(tmp_path, "L1R").site == Site.of("1.resid")


@pytest.mark.parametrize("later", [False, True])
def test_saved_as_ours_it_is_the_same(tmp_path, later):
    folder, _ = write(tmp_path / "theirs", later=later, said={"hook_point_out": OUT})
    made = wb.load(folder)
    again = wb.load(wb.save(made, tmp_path / "own"))
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in again.state_dict().items())
    torch.testing.assert_close(again.reconstruct(rows()), made.reconstruct(rows()))
    assert again.call == made.call and again.target == made.target


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(tmp_path, dtype):
    folder, w = write(tmp_path, tensors={name: value.to(dtype) for name, value in weights().items()})
    made = wb.load(folder)
    assert made.encoder.weight.dtype == torch.float32
    same(made, rows(), *reference(w, rows(), on=lambda value: value > 0.75, **S))


TURNED = {"encoder.weight": weights()["encoder.weight"].T}
BAD = {
    "rule": ({"act_fn": "gelu"}, {}, (), "act_fn must be one of relu, topk, jumprelu, got 'gelu'"),
    "scaling": ({"norm_activation": "token-wise"}, {}, (), "norm_activation must be one of dataset-wise, inference"),
    "no average": ({}, {}, ("dataset_average_activation_norm",), "has no 'dataset_average_activation_norm'"),
    "average": (
        {"dataset_average_activation_norm": {"in": 0, "out": 1}},
        {},
        (),
        "in must be a mean norm, above 0, got 0",
    ),
    "no side": ({"dataset_average_activation_norm": {"in": 2.0}}, {}, (), "has no 'out', only 'in'"),
    "gates": ({"use_glu_encoder": True}, {}, (), "use_glu_encoder is on"),
    "threshold": ({"jump_relu_threshold": "0.7"}, {}, (), "jump_relu_threshold must be a number, got '0.7'"),
    "no threshold": ({}, {}, ("jump_relu_threshold",), "has no 'jump_relu_threshold'"),
    "width": ({"d_sae": 27}, {}, (), r"encoder.weight must be \[27, 10\], got \[28, 10\]"),
    "turned": ({}, TURNED, (), r"encoder.weight must be \[28, 10\], got \[10, 28\]"),
    "missing": ({}, {}, ("decoder.bias",), "has no tensor 'decoder.bias'"),
    "more": ({}, {"encoder_glu.weight": torch.ones(2)}, (), "holds 'encoder_glu.weight', which this"),
    "no bias": ({"use_decoder_bias": False}, {}, (), "holds 'decoder.bias', which this"),
    "nothing": ({}, {"decoder.weight": torch.zeros(D, F)}, (), "decoder.weight has 28 atoms of 0"),
    "infinite": ({}, {"encoder.bias": torch.full((F,), torch.inf)}, (), "encoder.bias holds numbers that are not"),
    "k": (
        {"act_fn": "topk", "jump_relu_threshold": 0, "top_k": 0},
        {},
        (),
        "top_k must be a whole number of 1 or more",
    ),
    "k too": ({"act_fn": "topk", "jump_relu_threshold": 0, "top_k": 29}, {}, (), "k must be 1..latents=28, got 29"),
    "unsaid": ({}, {}, ("sparsity_include_decoder_norm",), "has no 'sparsity_include_decoder_norm'"),
}
BAD_LATER = {
    "kind": ({"sae_type": "crosscoder"}, {}, (), "only plain SAEs are read from weights named as before release 2.0"),
    "gates": ({"use_glu_encoder": True}, {}, (), "only plain SAEs"),
    "no threshold": ({}, {}, ("log_jumprelu_threshold",), "has no tensor 'activation_function.log_jumprelu"),
    "twice": ({}, {"b_E": torch.ones(F)}, (), "under the names of two releases"),
    "shape": ({}, TURNED, (), r"W_E must be \[10, 28\], got \[28, 10\]"),
    "batch": ({"norm_activation": "batch-wise"}, {}, (), "batch-wise: a row is scaled by the mean norm"),
    "choice": ({"act_fn": "batchtopk"}, {}, (), "act_fn batchtopk chooses among all rows"),
}


@pytest.mark.parametrize(("later", "bad"), [(False, name) for name in BAD] + [(True, name) for name in BAD_LATER])
def test_what_it_cannot_mean_is_refused_in_one_line(tmp_path, later, bad):
    said, tensors, drop, words = (BAD_LATER if later else BAD)[bad]
    folder, _ = write(tmp_path, said, tensors, drop, later=later)
    with pytest.raises(ValueError, match=words) as error:
        wb.load(folder)
    assert "\n" not in str(error.value)


def test_a_pickle_with_code_is_not_run(tmp_path):
    folder, _ = write(tmp_path)
    (folder / "checkpoints" / "final.safetensors").unlink()
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    torch.save({"sae": Code(), "version": "1"}, folder / "checkpoints" / "final.pt")
    with pytest.raises(ValueError, match="would have to run code"):
        wb.load(folder)
    assert not ran.exists()

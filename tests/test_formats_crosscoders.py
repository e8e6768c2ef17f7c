"""Crosscoders: checkpoints as science-of-finetuning and the replication write them, against their formulas in numpy."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import workbench as wb
from workbench.code import Code

N, D, F = 3, 6, 20
ALPHAS = {"code_normalization_alpha_sae": 0.7, "code_normalization_alpha_cc": 0.3}
NUMBERS = {"CROSSCODER": 1, "SAE": 2, "MIXED": 3, "NONE": 4, "DECOUPLED": 5}


def draw(*shape, seed, size=0.4):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(n=30, layers=N):
    return 3 * draw(n, layers, D, seed=9, size=1.0) + draw(layers, D, seed=10, size=2.0)


def write(
    folder, *, norm=None, threshold=None, normalised=False, read=N, written=N, buffers=True, config=None, tensors=None
):
    """`model.safetensors` and `config.json` as save_pretrained leaves them; buffers that are not set are NaN."""
    folder.mkdir(exist_ok=True)
    held = {
        "encoder.weight": draw(read, D, F, seed=1),
        "encoder.bias": draw(F, seed=2),
        "decoder.weight": draw(written, F, D, seed=3),
        "decoder.bias": draw(written, D, seed=4),
    }
    said = {
        **{"activation_dim": D, "dict_size": F, "num_layers": N, "same_init_for_all_layers": False},
        **{"norm_init_scale": None, "init_with_transpose": True, "encoder_layers": None, "num_decoder_layers": None},
        **{"target_rms": 1.0, "dict_class": "CrossCoder" if threshold is None else "BatchTopKCrossCoder", **ALPHAS},
    }
    if buffers:
        held |= {
            "target_rms": torch.tensor(1.0),
            "activation_mean": torch.full((N, D), torch.nan),
            "activation_std": torch.full((N, D), torch.nan),
            "activation_global_scale": torch.ones(N),
            "code_normalization_id": torch.tensor(NUMBERS[norm or "CROSSCODER"]),
        }
        said["code_normalization"] = norm or "CROSSCODER"
    if normalised:
        std = 0.5 + draw(N, D, seed=6).abs()
        held["activation_mean"], held["activation_std"] = draw(N, D, seed=5, size=2.0), std
        held["activation_global_scale"] = 1.0 / (std.square().sum(-1) + 1e-8).sqrt()
    if threshold is not None:
        held |= {"k": torch.tensor(4, dtype=torch.int32), "threshold": torch.tensor(float(threshold))}
        said["k"] = 4
    held |= tensors or {}
    save_file({k: v.contiguous() for k, v in held.items() if v is not None}, folder / "model.safetensors")
    said = {k: v for k, v in (said | (config or {})).items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(said))
    return {k: v.double().numpy() for k, v in held.items() if v is not None}


def norms(w, norm):
    dec = w["decoder.weight"]
    apart, whole = np.sqrt((dec**2).sum(2)).sum(0), np.sqrt((dec**2).sum((0, 2)))
    return {"CROSSCODER": apart, "SAE": whole, "NONE": np.ones(F), "MIXED": 0.7 * whole + 0.3 * apart}[norm]


def reference(w, x, norm="CROSSCODER", layers=None, normalised=False):
    scale = w["activation_global_scale"][None, :, None] if normalised else 1.0
    mean = w["activation_mean"] if normalised else 0.0
    unit = (x - mean) * scale
    unit = unit if layers is None else unit[:, layers]
    code = np.maximum(np.einsum("bld,ldf->bf", unit, w["encoder.weight"]) + w["encoder.bias"], 0)
    if "threshold" in w:
        code = code * (code * norms(w, norm) > w["threshold"])
    y = np.einsum("bf,lfd->bld", code, w["decoder.weight"]) + w["decoder.bias"]
    return code, y / (scale + 1e-8) + mean if normalised else y


def close(made, x, code, y):
    got = made.encode(x)
    np.testing.assert_allclose(got.to_dense().double().numpy(), code, rtol=1e-5, atol=1e-5)
    assert np.array_equal(got.to_dense().numpy() != 0, code != 0) and 0.03 < (code != 0).mean() < 0.97
    np.testing.assert_allclose(made.reconstruct(x).double().numpy(), y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(made.decode(Code.dense(torch.from_numpy(code).float())).double().numpy(), y, 1e-5, 1e-5)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("norm", ["CROSSCODER", "SAE", "MIXED", "NONE"])
@pytest.mark.parametrize("threshold", [None, 2.0, 0.0, -1.0])
def test_they_do_what_their_formula_says(tmp_path, norm, threshold, normalised):
    w = write(tmp_path, norm=norm, threshold=threshold, normalised=normalised)
    x = rows()
    made = wb.load(tmp_path)
    close(made, x, *reference(w, x.double().numpy(), norm, normalised=normalised))
    assert made.shape == (N, D) and made.site is None and made.training_summary["config"]["dict_size"] == F


def test_a_threshold_meets_the_value_times_the_norm_of_its_atom(tmp_path):
    w = write(tmp_path, norm="SAE", threshold=2.0)
    x = rows()
    code, _ = reference(w, x.double().numpy(), "SAE")
    raw, _ = reference({k: v for k, v in w.items() if k != "threshold"}, x.double().numpy())
    assert not np.array_equal(code != 0, raw > 2.0)  # else the norm could not be seen
    assert np.array_equal(wb.load(tmp_path).encode(x).to_dense().numpy() != 0, code != 0)


def test_exactly_at_the_threshold_a_latent_is_off(tmp_path):
    tensors = {"encoder.weight": torch.zeros(N, D, F), "encoder.bias": torch.full((F,), 2.0)}
    write(tmp_path, norm="NONE", threshold=2.0, tensors=tensors)
    assert not wb.load(tmp_path).encode(rows()).to_dense().any()


def test_a_latent_without_an_atom_is_off_above_any_threshold(tmp_path):
    w = write(tmp_path, threshold=0.0)
    dec = torch.from_numpy(w["decoder.weight"]).float()
    dec[:, 4] = 0
    w = write(tmp_path, threshold=0.0, tensors={"decoder.weight": dec})
    x = rows()
    made = wb.load(tmp_path)
    close(made, x, *reference(w, x.double().numpy()))
    assert not made.encode(x).to_dense()[:, 4].any()
    assert torch.equal(wb.load(wb.save(made, tmp_path / "kept")).encode(x).to_dense(), made.encode(x).to_dense())


def test_layers_that_are_not_read_and_layers_that_are_not_written(tmp_path):
    x = rows()
    w = write(tmp_path / "read", read=2, config={"encoder_layers": [2, 0]})
    close(wb.load(tmp_path / "read"), x, *reference(w, x.double().numpy(), layers=[2, 0]))
    w = write(tmp_path / "written", written=2, config={"num_decoder_layers": 2})
    made = wb.load(tmp_path / "written")
    close(made, x, *reference(w, x.double().numpy()))
    assert made.decoder.shape == (2, D)


def test_old_checkpoints_without_buffers_are_read_as_the_library_does(tmp_path):
    x = rows()
    for threshold in (None, 2.0):
        w = write(tmp_path, buffers=False, threshold=threshold, config={"dict_class": ..., "target_rms": ...})
        close(wb.load(tmp_path), x, *reference(w, x.double().numpy()))


def test_a_decoupled_code_is_only_of_batch_topk(tmp_path):
    w = write(tmp_path, norm="DECOUPLED")
    x = rows()
    close(wb.load(tmp_path), x, *reference(w, x.double().numpy()))
    write(tmp_path, norm="DECOUPLED", threshold=0.0, tensors={"threshold": torch.zeros(N)})
    with pytest.raises(ValueError, match="a code for each layer"):
        wb.load(tmp_path)


def replication(folder, name="0", cfg="0_cfg.json", dtype=torch.float32, **config):
    folder.mkdir(exist_ok=True)
    held = {
        "W_enc": draw(2, D, F, seed=1),
        "W_dec": draw(F, 2, D, seed=2),
        "b_enc": draw(F, seed=3),
        "b_dec": draw(2, D, seed=4),
    }
    held = {k: v.to(dtype) for k, v in held.items()}
    torch.save(held, folder / f"{name}.pt")
    said = {"d_in": D, "dict_size": F, "enc_dtype": "fp32", "model_name": "gemma-2-2b", "seed": 49}
    (folder / cfg).write_text(json.dumps(said | {"hook_point": "blocks.14.hook_resid_pre"} | config))
    return {k: v.double().numpy() for k, v in held.items()}


def stacked(w, x):
    code = np.maximum(np.einsum("bnd,ndf->bf", x, w["W_enc"]) + w["b_enc"], 0)
    return code, np.einsum("bf,fnd->bnd", code, w["W_dec"]) + w["b_dec"]


@pytest.mark.parametrize("name, cfg", [("0", "0_cfg.json"), ("cc_weights", "cfg.json")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_replication_does_what_its_formula_says(tmp_path, name, cfg, dtype):
    w, x = replication(tmp_path, name, cfg, dtype), rows(layers=2)
    made = wb.load(tmp_path)
    close(made, x, *stacked(w, x.double().numpy()))
    assert made.training_summary["model"] == "gemma-2-2b" and made.decoder.weight.dtype == torch.float32
    assert made.training_summary["config"]["hook_point"] == "blocks.14.hook_resid_pre"


def test_versions_of_a_replication_are_parts(tmp_path):
    replication(tmp_path, "0", "0_cfg.json")
    replication(tmp_path, "12", "12_cfg.json")
    assert wb.dictionary.formats.parts(tmp_path) == ["0", "12"]
    assert wb.load(tmp_path, 12).latents == wb.load(tmp_path, "0").latents == F
    with pytest.raises(ValueError, match="holds several dictionaries: give part= one of 0, 12"):
        wb.load(tmp_path)


def test_kept_here_it_is_the_same(tmp_path):
    write(tmp_path / "his", threshold=2.0, normalised=True)
    made = wb.load(tmp_path / "his", site="4.resid")
    shutil.rmtree(tmp_path / "his")
    again = wb.load(wb.save(made, tmp_path / "ours"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in made.state_dict().items())
    assert again.site == made.site and again.training_summary == made.training_summary


REFUSED = {  # name: (arguments of write, what the error says)
    "an argument of another crosscoder": ({"config": {"num_encoder_layers": 2}}, "'num_encoder_layers'"),
    "its class": ({"config": {"dict_class": "AutoEncoder"}}, "one of CrossCoder, BatchTopKCrossCoder"),
    "no threshold": ({"config": {"dict_class": "BatchTopKCrossCoder"}}, "has a threshold"),
    "a threshold": ({"threshold": 1.0, "config": {"dict_class": "CrossCoder"}}, "has no threshold"),
    "width": ({"config": {"activation_dim": F}}, "the weights say 6"),
    "latents": ({"config": {"dict_size": "20"}}, "dict_size must be a whole number"),
    "layers": ({"config": {"num_layers": 4}}, "3 of 4 layers"),
    "decoder layers": ({"config": {"num_decoder_layers": 2}}, "num_decoder_layers must be 3"),
    "encoder layers": ({"read": 2, "config": {"encoder_layers": [0, 3]}}, "2 of 3 layers"),
    "the same layer twice": ({"read": 2, "config": {"encoder_layers": [1, 1]}}, "2 of 3 layers"),
    "a code norm": ({"norm": "SAE", "config": {"code_normalization": "MIXED"}}, "the weights say number 2"),
    "a code norm of no number": ({"tensors": {"code_normalization_id": torch.tensor(9)}}, "number 9"),
    "a negative norm": (
        {"norm": "MIXED", "threshold": 1.0, "config": {"code_normalization_alpha_sae": -5.0}},
        "0 or more",
    ),
    "transposed": ({"tensors": {"decoder.weight": draw(N, D, F, seed=3)}}, "decoder.weight must be [3, 20, 6]"),
    "half a normaliser": ({"tensors": {"activation_mean": torch.ones(N, D)}}, "NaN throughout"),
    "a normaliser with a hole": (
        {"normalised": True, "tensors": {"activation_mean": torch.tensor([[torch.nan] + 5 * [1.0]] * N)}},
        "NaN throughout",
    ),
    "a scale of 0": ({"normalised": True, "tensors": {"activation_global_scale": torch.zeros(N)}}, "positive"),
    "NaN": ({"tensors": {"encoder.bias": torch.full((F,), torch.nan)}}, "not finite"),
    "a NaN threshold": ({"threshold": float("nan")}, "threshold must be finite"),
    "compiled": ({"tensors": {"_orig_mod.encoder.bias": torch.ones(F)}}, "_orig_mod"),
    "normalised, and other layers written": ({"normalised": True, "written": 2}, "normalises 3 layers, and writes 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_is_not_is_refused_in_a_line(tmp_path, name):
    how, says = REFUSED[name]
    write(tmp_path, **how)
    with pytest.raises(ValueError) as caught:
        wb.load(tmp_path)
    text = str(caught.value)
    assert says in text and "\n" not in text and len(text) <= 400 and str(tmp_path) in text


def test_one_site_under_the_same_names_is_refused(tmp_path):
    torch.save({"W_enc": torch.ones(D, F), "W_dec": torch.ones(F, D)}, tmp_path / "25.pt")
    (tmp_path / "25_cfg.json").write_text(json.dumps({"d_mlp": D}))
    with pytest.raises(ValueError, match="W_enc must have 3 axes, got \\[6, 20\\]"):
        wb.load(tmp_path)

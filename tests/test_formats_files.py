"""Single files of Goodfire, qresearch and Qwen, and the BatchTopK repository, against their formulas in numpy."""

import json

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.code import Code
from workbench.dictionary import formats

D, F = 9, 26
LLAMA, DEEPSEEK = "Llama-3.1-8B-Instruct-SAE-l19.pth", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
QWEN = "SAE-Res-Qwen3-8B-Base-W64K-L0_5"


def draw(*shape, seed, size=0.4):
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(n=24):
    return draw(n, D, seed=7, size=3.0) + draw(D, seed=8, size=1.0)


def arrays(held):
    return {k: v.double().numpy() for k, v in held.items()}


def close(made, x, code, y, size=1.0):
    got = made.encode(x).to_dense()
    np.testing.assert_allclose(got.double().numpy(), code * size, rtol=1e-5, atol=1e-5)
    assert np.array_equal(got.numpy() != 0, code != 0) and 0.03 < (code != 0).mean() < 0.97
    np.testing.assert_allclose(made.reconstruct(x).double().numpy(), y, rtol=1e-5, atol=1e-5)
    rest = made.reconstruct(x) - made.decode(made.encode(x))
    again = made.decode(Code.dense(torch.from_numpy(code * size).float())) + rest
    np.testing.assert_allclose(again.double().numpy(), y, rtol=1e-5, atol=1e-5)


def largest(pre, k):
    out = np.zeros_like(pre)
    for i, row in enumerate(pre):
        best = np.argsort(-row)[:k]
        out[i, best] = row[best]
    return out


def two_layers(first, second):
    return {
        f"{first}.weight": draw(F, D, seed=1),
        f"{first}.bias": draw(F, seed=2),
        f"{second}.weight": draw(D, F, seed=3),
        f"{second}.bias": draw(D, seed=4),
    }


@pytest.mark.parametrize(
    "first, second, name", [("encoder_linear", "decoder_linear", LLAMA), ("encoder", "decoder", DEEPSEEK)]
)
@pytest.mark.parametrize("whole", [False, True])
def test_two_layers_and_a_relu(tmp_path, first, second, name, whole):
    held = two_layers(first, second)
    torch.save(held, tmp_path / name)
    w, x = arrays(held), rows()
    made = wb.load(tmp_path if whole else tmp_path / name)
    code = np.maximum(x.double().numpy() @ w[f"{first}.weight"].T + w[f"{first}.bias"], 0)
    close(made, x, code, code @ w[f"{second}.weight"].T + w[f"{second}.bias"])
    assert str(made.site) == "19.resid" and made.training_summary["model"] == name.partition("-SAE")[0]
    assert str(wb.load(tmp_path / name, site="3.resid").site) == "3.resid"


def test_a_file_of_another_name_says_no_place(tmp_path):
    torch.save(two_layers("encoder_linear", "decoder_linear"), tmp_path / "mine.pt")
    made = wb.load(tmp_path / "mine.pt")
    assert made.site is None and made.training_summary["model"] is None


def test_names_that_anyone_gives_need_the_owners_file_name(tmp_path):
    torch.save(two_layers("encoder", "decoder"), tmp_path / "linear.pt")
    with pytest.raises(ValueError, match="is no dictionary that we know"):
        wb.load(tmp_path)
    assert wb.load(tmp_path, format="goodfire").latents == F


def qwen(folder, layer=30, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    held = {
        "W_enc": draw(F, D, seed=1),
        "W_dec": draw(D, F, seed=2),
        "b_enc": draw(F, seed=3, size=1.0) - 3,
        "b_dec": draw(D, seed=4),
    }
    held = {k: v for k, v in (held | changed).items() if v is not None}
    torch.save(held, folder / f"layer{layer}.sae.pt")
    return arrays(held)


@pytest.mark.parametrize("collection", [QWEN, f"models--Qwen--{QWEN}/snapshots/0123abcd"])
def test_qwen_keeps_the_largest_as_they_are(tmp_path, collection):
    folder = tmp_path / collection
    w, x = qwen(folder), rows()
    made = wb.load(folder / "layer30.sae.pt")
    code = largest(x.double().numpy() @ w["W_enc"].T + w["b_enc"], 5)
    assert (code < 0).any() and (code > 0).any()  # no ReLU after the choice
    close(made, x, code, code @ w["W_dec"].T + w["b_dec"])
    assert str(made.site) == "30.resid" and made.training_summary["model"] == "Qwen/Qwen3-8B-Base"


def test_layers_of_qwen_are_parts(tmp_path):
    for layer in (2, 10):
        qwen(tmp_path / QWEN, layer)
    (tmp_path / QWEN / "README.md").write_text("")
    assert formats.parts(tmp_path / QWEN) == ["layer2.sae.pt", "layer10.sae.pt"]
    loaded = formats.load_all(tmp_path / QWEN)
    assert {name: str(made.site) for name, made in loaded.items()} == {
        "layer2.sae.pt": "2.resid",
        "layer10.sae.pt": "10.resid",
    }


def test_k_of_qwen_is_in_the_collections_name_and_not_guessed(tmp_path):
    qwen(tmp_path / "mine")
    with pytest.raises(ValueError, match="does not hold k: keep it in a folder of the collection's name"):
        wb.load(tmp_path / "mine")
    qwen(tmp_path / "SAE-Res-Qwen3-8B-Base-W64K-L0_500")
    with pytest.raises(ValueError, match="k must be 1..latents=26, SAE-Res-Qwen3-8B-Base-W64K-L0_500 says 500"):
        wb.load(tmp_path / "SAE-Res-Qwen3-8B-Base-W64K-L0_500")


@pytest.mark.parametrize(
    "changed, says",
    [
        ({"W_enc": draw(D, F, seed=1)}, "b_enc must be [9], got [26]"),
        ({"W_dec": draw(F, D, seed=1)}, "W_dec must be [9, 26]"),
        ({"b_enc": None}, "no tensor 'b_enc'"),
        ({"threshold": draw(F, seed=1)}, "'threshold'"),
        ({"b_dec": torch.full((D,), torch.inf)}, "not finite"),
    ],
)
def test_qwen_of_another_shape_is_refused(tmp_path, changed, says):
    qwen(tmp_path / QWEN, **changed)
    with pytest.raises(ValueError) as caught:
        wb.load(tmp_path / QWEN)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def bussmann(folder, kind, tensors=None, **config):
    """`sae.pt` and `config.json` as save_checkpoint writes them: what is no plain value as a text."""
    folder.mkdir(exist_ok=True)
    held = {
        "b_dec": draw(D, seed=4),
        "b_enc": draw(F, seed=3),
        "W_enc": draw(D, F, seed=1),
        "W_dec": draw(F, D, seed=2),
    }
    if kind == "jumprelu":
        held["jumprelu.log_threshold"] = draw(F, seed=5, size=1.0)
    held = {k: v for k, v in (held | (tensors or {})).items() if v is not None}
    torch.save(held, folder / "sae.pt")
    said = {
        **{"seed": 49, "dtype": "torch.float32", "model_name": "gpt2-small", "site": "resid_pre", "layer": 8},
        **{"act_size": D, "dict_size": F, "sae_type": kind, "top_k": 5, "input_unit_norm": False, "bandwidth": 0.001},
        **{"hook_point": "blocks.8.hook_resid_pre", "aux_penalty": 1 / 32, **config},
    }
    (folder / "config.json").write_text(json.dumps({k: v for k, v in said.items() if v is not ...}, indent=4))
    return arrays(held)


@pytest.mark.parametrize("unit", [False, True, ...])
@pytest.mark.parametrize("kind", ["vanilla", "topk", "jumprelu"])
def test_the_batch_topk_repository(tmp_path, kind, unit):
    w, x = bussmann(tmp_path, kind, input_unit_norm=unit), rows()
    made, mean, size, row = wb.load(tmp_path), 0.0, 1.0, x.double().numpy()
    if unit is True:
        mean, size = row.mean(1, keepdims=True), row.std(1, ddof=1, keepdims=True)
        row = (row - mean) / (size + 1e-5)
    if kind == "jumprelu":
        pre = np.maximum(row @ w["W_enc"] + w["b_enc"], 0)
        code = pre * (pre > np.exp(w["jumprelu.log_threshold"]))
    else:
        pre = (row - w["b_dec"]) @ w["W_enc"]
        code = largest(np.maximum(pre, 0), 5) if kind == "topk" else np.maximum(pre + w["b_enc"], 0)
    close(made, x, code, (code @ w["W_dec"] + w["b_dec"]) * size + mean, size)
    assert str(made.site) == "7.resid" and made.training_summary["model"] == "gpt2-small"


@pytest.mark.parametrize(
    "kind, how, says",
    [
        ("batchtopk", {}, "no threshold is kept"),
        ("topk", {"sae_type": "quantile"}, "one of vanilla, topk, jumprelu, batchtopk"),
        ("topk", {"top_k": 0}, "top_k must be a whole number of 1 or more"),
        ("topk", {"top_k": F + 1}, "top_k must be 1..dict_size=26"),
        ("topk", {"top_k": ...}, "no 'top_k'"),
        ("topk", {"act_size": D + 1}, "W_enc must be [10, 26]"),
        ("topk", {"dict_size": "26"}, "dict_size must be a whole number"),
        ("topk", {"input_unit_norm": "yes"}, "input_unit_norm must be true or false"),
        ("topk", {"tied_weights": False}, "early version"),
        ("topk", {"tensors": {"W_dec": draw(D, F, seed=2)}}, "W_dec must be [26, 9]"),
        ("topk", {"tensors": {"jumprelu.log_threshold": draw(F, seed=2)}}, "jumprelu.log_threshold"),
        ("jumprelu", {"tensors": {"jumprelu.log_threshold": None}}, "no tensor 'jumprelu.log_threshold'"),
        ("jumprelu", {"tensors": {"jumprelu.log_threshold": torch.full((F,), torch.nan)}}, "not finite"),
        ("vanilla", {"hook_point": "blocks.8.hook_resid_mid"}, "give site="),
    ],
)
def test_what_the_repository_does_not_say_is_refused(tmp_path, kind, how, says):
    bussmann(tmp_path, kind, **how)
    with pytest.raises(ValueError) as caught:
        wb.load(tmp_path)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) <= 400


def test_exactly_at_the_threshold_a_latent_is_off(tmp_path):
    ones = {"W_enc": torch.zeros(D, F), "b_enc": torch.ones(F), "jumprelu.log_threshold": torch.zeros(F)}
    bussmann(tmp_path, "jumprelu", ones)
    assert not wb.load(tmp_path).encode(rows()).to_dense().any()


def test_saved_here_they_are_the_same(tmp_path):
    qwen(tmp_path / QWEN)
    bussmann(tmp_path / "unit", "jumprelu", input_unit_norm=True)
    for folder in (tmp_path / QWEN, tmp_path / "unit"):
        made = wb.load(folder)
        again = wb.load(wb.save(made, tmp_path / f"{folder.name}_kept"))
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in made.state_dict().items())
        torch.testing.assert_close(again.reconstruct(rows()), made.reconstruct(rows()), rtol=1e-5, atol=1e-5)
        assert again.site == made.site and again.training_summary == made.training_summary

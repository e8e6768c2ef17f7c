"""OpenAI's sparse_autoencoder: a state dict as its code writes it, against its formulas in plain numpy."""

from collections import OrderedDict

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.code import Code
from workbench.dictionary import formats

D, F = 10, 28


def weights(seed=0, tied=False):
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: 0.4 * torch.randn(shape, generator=rng)  # noqa: E731
    held = OrderedDict(pre_bias=draw(D), latent_bias=draw(F))
    held["encoder.weight"] = draw(F, D)
    held["decoder.linear.weight" if tied else "decoder.weight"] = held["encoder.weight"] if tied else draw(D, F)
    held["stats_last_nonzero"] = torch.arange(F)
    held["latents_activation_frequency"] = torch.rand(F, generator=rng)
    held["latents_mean_square"] = torch.rand(F, generator=rng)
    return held


def topk(k, postact="ReLU"):
    return {"activation": "TopK", "activation_state_dict": OrderedDict(k=k, postact_fn=postact)}


def write(folder, **said):
    """As torch.save(autoencoder.state_dict()): the activation's name and state beside the tensors."""
    folder.mkdir(exist_ok=True)
    held = weights(tied=said.pop("tied", False))
    torch.save(OrderedDict(held, **said), folder / "8.pt")
    return folder / "8.pt", {name: value.double().numpy() for name, value in held.items()}


def rows(size=3.0, n=24):
    rng = torch.Generator().manual_seed(5)
    return size * torch.randn(n, D, generator=rng) + torch.randn(D, generator=rng)


def plain(w, x, act=lambda pre: np.maximum(pre, 0)):
    """Not normalised: code and reconstruction."""
    atoms = w["decoder.weight"].T if "decoder.weight" in w else w["encoder.weight"]
    code = act((x - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"])
    return code, code @ atoms + w["pre_bias"]


def chosen(k, rectified=True):
    def act(pre):
        out = np.zeros_like(pre)
        for i, row in enumerate(pre):
            best = np.argsort(-row)[:k]
            out[i, best] = np.maximum(row[best], 0) if rectified else row[best]
        return out

    return act


def normalised(w, x, act):
    mean, std = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
    code, y = plain(w, (x - mean) / (std + 1e-5), act)
    return code, y * std + mean, std


def close(got, wanted, rtol=1e-5):
    np.testing.assert_allclose(got.double().numpy(), wanted, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("said", [{"activation": "ReLU", "activation_state_dict": OrderedDict()}, {}])
def test_relu_checkpoints_do_what_their_formula_says(tmp_path, said, tied):
    path, w = write(tmp_path, tied=tied, **said)
    made, x = wb.load(path, site="8.mlp_out"), rows()
    code, y = plain(w, x.double().numpy())
    close(made.encode(x).to_dense(), code)
    assert 0.1 < (code > 0).mean() < 0.9 and np.array_equal(made.encode(x).to_dense().numpy() > 0, code > 0)
    close(made.reconstruct(x), y)
    close(made.decode(Code.dense(torch.from_numpy(code).float())), y)
    assert str(made.site) == "8.mlp_out" and made.training_summary["format"] == "openai"


def test_identity_keeps_negative_values(tmp_path):
    path, w = write(tmp_path, activation="Identity", activation_state_dict=OrderedDict())
    made, x = wb.load(path), rows()
    code, y = plain(w, x.double().numpy(), act=lambda pre: pre)
    close(made.encode(x).to_dense(), code)
    close(made.reconstruct(x), y)


@pytest.mark.parametrize("k, postact", [(1, "ReLU"), (5, "ReLU"), (20, "ReLU"), (20, "Identity"), (F, "Identity")])
def test_topk_normalises_each_row_and_brings_its_size_back(tmp_path, k, postact):
    path, w = write(tmp_path, **topk(k, postact))
    made, x = wb.load(path), rows()
    code, y, size = normalised(w, x.double().numpy(), chosen(k, postact == "ReLU"))
    assert (code < 0).any() == (postact == "Identity")
    close(made.encode(x).to_dense(), code * size)
    close(made.reconstruct(x), y)
    rest = made.reconstruct(x) - made.decode(made.encode(x))
    close(made.decode(Code.dense(torch.from_numpy(code * size).float())) + rest, y)


@pytest.mark.parametrize("size", [3.0, 1e-2, 1e-4])
def test_the_deviation_is_unbiased_and_what_is_added_to_it_does_not_come_back(tmp_path, size):
    """Rows are divided by std + 1e-5 and multiplied by std: of small rows the two differ."""
    path, w = write(tmp_path, **topk(5))
    x = size * rows()
    _, y, std = normalised(w, x.double().numpy(), chosen(5))
    got = wb.load(path).reconstruct(x).double().numpy()
    np.testing.assert_allclose(got / std, y / std, rtol=1e-5, atol=1e-4)
    if size < 1e-3:
        _, y, std = normalised(w, x.double().numpy(), chosen(5))
        assert np.abs((y - x.double().numpy().mean(1, keepdims=True)) * 1e-5 / std**2).max() > 0.05


def test_a_value_times_an_atom_is_a_vector_of_the_model(tmp_path):
    path, _ = write(tmp_path, **topk(5))
    made, x = wb.load(path), rows()
    code = made.encode(x)
    torch.testing.assert_close(made.decode(code), code.to_dense() @ made.atoms(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.encode(4 * x).to_dense(), 4 * code.to_dense(), rtol=1e-4, atol=1e-4)


def test_saved_here_it_is_the_same(tmp_path):
    for name, said in (("relu", {}), ("topk", topk(5)), ("signed", topk(20, "Identity"))):
        path, _ = write(tmp_path / name, **said)
        made = wb.load(path, site="3.resid")
        again = wb.load(wb.save(made, tmp_path / f"{name}_kept"))
        x = rows()
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in made.state_dict().items())
        torch.testing.assert_close(again.reconstruct(x), made.reconstruct(x), rtol=1e-5, atol=1e-5)  # other strides
        assert torch.equal(again.encode(x).to_dense() != 0, made.encode(x).to_dense() != 0) and again.site == made.site
        assert again.training_summary == made.training_summary


def test_weights_are_not_copied(tmp_path):
    path, _ = write(tmp_path)
    source = formats.Source(path)
    found = formats.catalogue.module("formats", "openai").read(source, "")
    held = source.pickled
    assert found.tensors["encoder.weight"].data_ptr() == held["encoder.weight"].data_ptr()
    assert found.tensors["decoder.weight"].data_ptr() == held["decoder.weight"].data_ptr()


def changed(**values):
    def make(held):
        return {k: v for k, v in (held | values).items() if v is not None}

    return make


REFUSED = {  # name: (what is changed, what the error says)
    "activation": (changed(activation="Softplus"), "one of ReLU, Identity, TopK"),
    "activation of another type": (changed(activation=3), "one of ReLU, Identity, TopK"),
    "no k": (changed(activation_state_dict={"postact_fn": "ReLU"}), "no 'k'"),
    "k of another type": (changed(activation_state_dict={"k": 2.5, "postact_fn": "ReLU"}), "k must be a whole number"),
    "k below 1": (changed(activation_state_dict={"k": 0, "postact_fn": "ReLU"}), "k must be a whole number of 1"),
    "k above latents": (changed(activation_state_dict={"k": F + 1, "postact_fn": "ReLU"}), f"1..latents={F}"),
    "postact": (changed(activation_state_dict={"k": 3, "postact_fn": "TopK"}), "one of ReLU, Identity"),
    "a state of ReLU": (changed(activation="ReLU"), "ReLU has no state, activation_state_dict has ['k', 'postact_fn']"),
    "a state that is none": (changed(activation="ReLU", activation_state_dict=3), "must be an object, got 3"),
    "no state of TopK": (changed(activation_state_dict=None), "activation_state_dict"),
    "encoder transposed": (changed(**{"encoder.weight": torch.ones(D, F)}), "must be"),
    "decoder transposed": (changed(**{"decoder.weight": torch.ones(F, D)}), "decoder.weight must be [10, 28]"),
    "no decoder": (changed(**{"decoder.weight": None}), "no tensor 'decoder.weight'"),
    "not tied": (changed(**{"decoder.linear.weight": torch.ones(F, D)}), "tied"),
    "one too many": (changed(W_gate=torch.ones(F)), "W_gate"),
    "no statistics: TopK as it is trained, k unknown": (changed(latents_mean_square=None), "latents_mean_square"),
    "statistics of another size": (changed(stats_last_nonzero=torch.ones(3)), "stats_last_nonzero must be [28]"),
    "NaN": (changed(pre_bias=torch.full((D,), torch.nan)), "not finite"),
    "whole numbers": (changed(latent_bias=torch.ones(F, dtype=torch.long)), "must hold floats"),
    "no tensor": (changed(pre_bias=[1.0] * D), "tensors alone"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_is_not_is_refused_in_a_line(tmp_path, name):
    change, says = REFUSED[name]
    torch.save(change(dict(weights(), **topk(4))), tmp_path / "8.pt")
    with pytest.raises(ValueError) as caught:
        wb.load(tmp_path)
    text = str(caught.value)
    assert says in text and "\n" not in text and len(text) <= 400 and str(tmp_path) in text

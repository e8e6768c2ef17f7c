"""Gemma Scope 1 by its paper's formulas, and the gain of a norm that comes after what a dictionary reads."""

import golden
import models
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import workbench as wb
from workbench.dictionary import Dictionary, decoders, encoders, formats, sparsifiers
from workbench.dictionary.formats import _gain
from workbench.dictionary.formats._parts import Skip
from workbench.site import Site
from workbench.subject import Subject

D, LATENTS, OUT = 12, 28, 9


def raises(words, call, *args, **more):
    with pytest.raises(ValueError, match=words) as caught:
        call(*args, **more)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600, str(caught.value)


def close(a, b, **tolerance):
    a, b = (torch.as_tensor(t).float() for t in (a, b))
    torch.testing.assert_close(a, b, **(tolerance or {"rtol": 1e-5, "atol": 1e-5}))


def arrays(d=D, d_out=D, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"W_enc": (d, LATENTS), "W_dec": (LATENTS, d_out), "b_enc": LATENTS, "b_dec": d_out}
    found = {name: (0.4 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    return found | {"threshold": rng.uniform(-0.5, 2, LATENTS).astype(np.float32)}


def written(folder, **more):
    """An archive as the owner has it; None takes an array out."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {name: value for name, value in (arrays() | more).items() if value is not None}
    np.savez(folder / "params.npz", **held)
    return folder


def owners(t, x):
    """Codes and outputs by the formulas of the paper and its tutorial."""
    h = x.double().numpy() @ t["W_enc"].astype(float) + t["b_enc"]
    f = np.maximum(h, 0) * (h > t["threshold"])
    return f, f @ t["W_dec"].astype(float) + t["b_dec"]


@pytest.mark.parametrize("d_out", [D, OUT])
def test_it_computes_the_papers_formulas(d_out, tmp_path):
    t, x = arrays(d_out=d_out), 2 * torch.randn(40, D) + 1
    assert (t["threshold"] < 0).any(), "rectified: a threshold below 0 lets nothing negative pass"
    d = formats.load(written(tmp_path / "s", **t), site="3.mlp_out")
    f, y = owners(t, x)
    assert 0 < (f != 0).mean() < 1
    code = d.encode(x).to_dense()
    assert np.array_equal(code.numpy() != 0, f != 0)
    close(code, f)
    close(d.reconstruct(x), y)
    wb.save(d, tmp_path / "own")
    again = wb.load(tmp_path / "own")
    assert all(torch.equal(v, d.state_dict()[n]) for n, v in again.state_dict().items()) and again.site == d.site


def test_another_reader_has_the_same_numbers():
    golden.same(golden.opened("circuit_tracer", "gemma_scope_1"), "circuit_tracer", "gemma_scope_1")


def test_what_is_at_the_threshold_is_off(tmp_path):
    t = arrays() | {"W_enc": np.zeros((D, LATENTS), np.float32), "b_enc": np.full(LATENTS, 0.5, np.float32)}
    t["threshold"] = np.full(LATENTS, 0.5, np.float32)
    t["threshold"][3] = 0.25
    code = formats.load(written(tmp_path / "s", **t)).encode(torch.randn(2, D)).to_dense()
    assert (code[:, 3] == 0.5).all() and int((code != 0).sum()) == 2


def test_the_caller_says_where_it_is(tmp_path):
    folder = written(tmp_path / "layer_12" / "width_16k" / "average_l0_82")
    d = formats.load(folder)
    assert d.site is None and d.target is None and d.training_summary["format"] == "gemma_scope"
    assert formats.load(folder, site="12.heads").site == Site(12, "heads")
    assert formats.load(tmp_path, "layer_12/width_16k/average_l0_82", site="12.resid").site == Site(12, "resid")
    assert formats.load(folder / "params.npz").training_summary["files"].keys() == {"params.npz"}


def test_embeddings_are_read_before_gemma_scales_them(tmp_path):
    """The owner's rows are those of the table, our stream is sqrt(d) times them, biases and all."""
    t, table = arrays(), 0.5 * torch.randn(30, D)
    d = formats.load(written(tmp_path / "embedding" / "width_4k" / "average_l0_6", **t))
    assert d.site == Site(None, "embed")
    f, y = owners(t, table)
    close(d.encode(table * D**0.5).to_dense(), f)
    close(d.reconstruct(table * D**0.5), y * D**0.5)
    elsewhere = formats.load(written(tmp_path / "embedding" / "mine", **t))
    assert elsewhere.site is None and float(elsewhere.scale_in) == 1
    wb.save(d, tmp_path / "own")
    close(wb.load(tmp_path / "own").reconstruct(table * D**0.5), y * D**0.5)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"threshold": None}, "no tensor 'threshold'"),
        ({"b_dec": None}, "no tensor 'b_dec'"),
        ({"W_enc": arrays()["W_enc"].T}, r"b_enc must be \[12\], got \[28\]"),
        ({"W_dec": arrays()["W_dec"].T}, r"W_dec must be \[28, 28\]"),
        ({"W_enc": arrays()["W_enc"][0]}, "W_enc must have 2 axes"),
        ({"threshold": arrays()["threshold"][:5]}, r"threshold must be \[28\]"),
        ({"threshold": np.full(LATENTS, np.nan, np.float32)}, "not finite"),
        ({"b_enc": np.full(LATENTS, np.inf, np.float32)}, "not finite"),
        ({"W_enc": arrays()["W_enc"].astype(np.int64)}, "must hold floats"),
        ({"W_skip": np.zeros((D, D), np.float32)}, "holds 'W_skip'"),
        ({"scaling_factor": np.ones(LATENTS, np.float32)}, "holds 'scaling_factor'"),
        ({"threshold": np.array([{}] * LATENTS, dtype=object)}, "not a whole NumPy archive of numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(more, words, tmp_path):
    raises(words, formats.load, written(tmp_path / "s", **more))


def test_damaged_archives_are_refused(tmp_path):
    folder = written(tmp_path / "s")
    data = (folder / "params.npz").read_bytes()
    (folder / "params.npz").write_bytes(data[: len(data) // 2])
    raises("not a whole NumPy archive", formats.load, folder)


# ---- the gain of a norm


NORMS = {  # the config's name of the epsilon, what is under the gain of layer 1's MLP and attention
    "llama": "rms_norm_eps",
    "gemma2": "rms_norm_eps",
    "gemma3": "rms_norm_eps",
    "qwen3": "rms_norm_eps",
}


def tiny(kind, seed=0):
    if kind != "gemma2":
        return getattr(models, f"tiny_{kind}")(seed)
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(seed)
    config = Gemma2Config(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, max_position_embeddings=64, sliding_window=8,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter) if parameter.ndim == 1 else 0
    return model.requires_grad_(False)


def before_gain(subject, ids, layer, stream, eps):
    """TransformerLens's hook_normalized: the residual stream there over its root mean square."""
    below = Site(layer - 1, "resid") if layer else Site(None, "embed")
    h = subject.read(ids, [below, Site(layer, "attn_out")])
    x = h[below] + h[Site(layer, "attn_out")] if stream == "mlp_in" else h[below]
    return (x / (x.square().mean(-1, keepdim=True) + eps).sqrt()).flatten(0, 1)


def a_set(folder, d, hook="ln2.hook_normalized", layer=1, seed=0):
    """circuit-tracer's file of one layer, with a skip connection; returns its tensors."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: 0.3 * torch.randn(*shape, generator=rng)  # noqa: E731
    t = {"W_enc": draw(40, d), "W_dec": draw(40, d), "b_enc": draw(40), "b_dec": draw(d), "W_skip": draw(d, d)}
    t["activation_function.threshold"] = draw(40)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(t, folder / f"layer_{layer}.safetensors")
    config = {"model_kind": "transcoder_set", "feature_input_hook": hook, "feature_output_hook": "hook_mlp_out"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return t


IDS = torch.arange(24).reshape(2, 12) * 7 % 90 + 3


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("layer", [0, 2])
def test_a_gain_goes_into_the_encoder(kind, layer, tmp_path):
    """The dictionary reads our mlp_in, which has the gain, and computes the owner's formula on the row without it."""
    model = tiny(kind)
    s, t = Subject(model), a_set(tmp_path / "set", 32, layer=layer)
    n = before_gain(s, IDS, layer, "mlp_in", getattr(model.config, NORMS[kind]))
    h = n @ t["W_enc"].T + t["b_enc"]
    f = h * (h > t["activation_function.threshold"])
    y = f @ t["W_dec"] + t["b_dec"] + n @ t["W_skip"].T
    d = formats.load(tmp_path / "set", subject=s)
    x = s.read(IDS, [d.site])[d.site].flatten(0, 1)
    assert d.site == Site(layer, "mlp_in") and not torch.allclose(n, x, rtol=0.1, atol=0.1)
    code = d.encode(x).to_dense()
    assert 0.1 < (f != 0).float().mean() < 0.9
    close(code, f, rtol=1e-4, atol=1e-4)
    close(d.reconstruct(x), y, rtol=1e-4, atol=1e-4)
    assert d.subject == s.fingerprint and torch.equal(d.decoder.weight, t["W_dec"])
    wb.save(d, tmp_path / "own")
    assert wb.load(tmp_path / "own", subject=s).site == d.site
    raises("trained on the subject", wb.load, tmp_path / "own", subject=Subject(tiny(kind, 1)))


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_gemma_scopes_transcoders_read_before_the_gain(kind, tmp_path):
    model, t = tiny(kind), arrays(32, 32)
    s, folder = Subject(model), written(tmp_path / "s", **arrays(32, 32))
    d = formats.load(folder, site="1.mlp_in", target="1.mlp_out", subject=s)
    f, y = owners(t, before_gain(s, IDS, 1, "mlp_in", model.config.rms_norm_eps))
    x = s.read(IDS, [d.site])[d.site].flatten(0, 1)
    close(d.encode(x).to_dense(), f, rtol=1e-4, atol=1e-4)
    close(d.reconstruct(x), y, rtol=1e-4, atol=1e-4)
    raises(
        "reads 1.mlp_in.*before the norm's gain.*give subject=.*leave site= out", formats.load, folder, site="1.mlp_in"
    )
    plain = formats.load(folder, site="1.mlp_out", subject=s)
    assert plain.subject is None and np.array_equal(plain.encoder.weight, t["W_enc"]), "an SAE there has no gain"


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_attention_reads_after_a_norm_too(kind):
    model = tiny(kind)
    s = Subject(model)
    d = Dictionary(encoders.Linear((32,), 40, center=False), sparsifiers.ReLU(), decoders.Linear(40, (32,)))
    d.set_scale_(0.5, 2.0)
    want = d.reconstruct(n := before_gain(s, IDS, 2, "attn_in", model.config.rms_norm_eps))
    _gain.fold_(d, Site(2, "attn_in"), s)
    x = s.read(IDS, ["2.attn_in"])[Site(2, "attn_in")].flatten(0, 1)
    assert not torch.allclose(n, x, rtol=0.1, atol=0.1)
    close(d.reconstruct(x), want, rtol=1e-4, atol=1e-4)


def test_a_gain_is_measured_in_half_precision_too():
    """By the norm in float32: what its parameter is, not how one row came out."""
    s = Subject(tiny("gemma2"), dtype="bfloat16")
    own = s.model.get_submodule("model.layers.1.pre_feedforward_layernorm").weight.float()
    close(_gain.of(s, Site(1, "mlp_in")), 1 + own, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_folded_is_refused(tmp_path):
    a_set(tmp_path / "set", 32)
    raises("ln2.hook_normalized.*before the norm's gain.*give subject=.*or site=", formats.load, tmp_path / "set")
    raises(
        "is a LayerNorm.*TransformerLens 3.*Give site=",
        formats.load,
        tmp_path / "set",
        subject=Subject(models.tiny_gpt2()),
    )
    bare = models.tiny_gpt2()
    bare.get_submodule("transformer.h.1.ln_2").bias.data.zero_()  # a mean is taken out all the same
    raises("is a LayerNorm", formats.load, tmp_path / "set", subject=Subject(bare))
    given = formats.load(tmp_path / "set", site="1.mlp_in", target="1.mlp_out")
    assert given.site == Site(1, "mlp_in")
    s = Subject(tiny("llama"))
    a_set(tmp_path / "wide", 31)
    raises("rows of width 31, .* gives 32", formats.load, tmp_path / "wide", subject=s)
    a_set(tmp_path / "far", 32, layer=3)
    raises("3.mlp_in does not exist", formats.load, tmp_path / "far", subject=s)
    for kind, off in (("llama", 0.0), ("gemma2", -1.0)):
        model = tiny(kind)
        norm = "post_attention_layernorm" if kind == "llama" else "pre_feedforward_layernorm"
        model.get_submodule(f"model.layers.1.{norm}").weight.data[5] = off
        raises("is 0 at some entries", formats.load, tmp_path / "set", subject=Subject(model))
    for encoder in (encoders.Linear((32,), 40), encoders.Tied(center=False)):
        d = Dictionary(encoder, sparsifiers.ReLU(), decoders.Linear(40, (32,)), Skip(32, 32))
        raises("a gain goes into a linear encoder of rows as they are", _gain.fold_, d, Site(1, "mlp_in"), s)
    raises("no norms that give 1.mlp_out", _gain.of, s, Site(1, "mlp_out"))
    raises("no norms that give 1.resid", _gain.of, Subject(tiny("gemma2")), Site(1, "resid"))

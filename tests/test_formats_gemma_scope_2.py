"""Gemma Scope 2 by its tutorial's formulas: one layer, cross-layer transcoders and crosscoders."""

import json

import golden
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench as wb
from workbench.dictionary import formats
from workbench.dictionary.formats._parts import Sliced
from workbench.site import Site

D, LATENTS, OUT, LAYERS = 12, 28, 9, 3
CASES = [case for case in golden.cases("circuit_tracer") if case.startswith("gemma_scope_2")]
NORM = "model.layers.{}.{}_feedforward_layernorm.output"
SKIP = "affine_skip_connection"


def raises(words, call, *args, **more):
    with pytest.raises(ValueError, match=words) as caught:
        call(*args, **more)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600, str(caught.value)


def close(a, b):
    a, b = (torch.as_tensor(t).float() for t in (a, b))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def drawn(d_out=D, *, across=None, affine=False, seed=0):
    """The tensors of one file."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: 0.4 * torch.randn(*shape, generator=rng)  # noqa: E731
    w_dec = draw(LATENTS, d_out) if across is None else draw(LATENTS, across, d_out)
    t = {"w_enc": draw(D, LATENTS), "w_dec": w_dec, "b_enc": draw(LATENTS), "b_dec": draw(d_out)}
    t["threshold"] = torch.rand(LATENTS, generator=rng) * 2.5 - 0.5
    return t | ({SKIP: draw(D, d_out)} if affine else {})


def written(folder, tensors, reads, writes=None, **config):
    """A folder as the owner has it: one file, or one for each layer. None takes an entry out."""
    folder.mkdir(parents=True, exist_ok=True)
    files = tensors if isinstance(tensors, list) else [tensors]
    for i, t in enumerate(files):
        name = f"params_layer_{i}.safetensors" if files is tensors else "params.safetensors"
        save_file({k: v.contiguous().clone() for k, v in t.items()}, folder / name)
    own = {
        "hf_hook_point_in": reads, "hf_hook_point_out": writes or reads, "width": LATENTS * len(files),
        "model_name": "google/gemma-3-1b-pt", "architecture": "jump_relu", "l0": 20,
        "affine_connection": SKIP in files[0], "type": "sae",
    } | config  # fmt: skip
    (folder / "config.json").write_text(json.dumps({k: v for k, v in own.items() if v is not None}))
    return folder


def one_layer(folder, affine=False, **config):
    return written(folder, drawn(OUT, affine=affine), NORM.format(7, "pre"), NORM.format(7, "post"), **config)


def owners(files, x):
    """Codes and outputs by the tutorial's formulas; rows of several files are (layer, d)."""
    t = {k: np.stack([f[k].double().numpy() for f in files]) for k in files[0]}
    h = np.einsum("rld,ldf->rlf", x.double().numpy(), t["w_enc"]) + t["b_enc"]
    f = np.maximum(h, 0) * (h > t["threshold"])
    y = np.einsum("rlf,lfod->rod", f, t["w_dec"]) + t["b_dec"]
    if SKIP in t:
        y = y + np.einsum("rli,lio->rlo", x.double().numpy(), t[SKIP])
    return f, y


def same(d, x, f, y, folder):
    """Codes, support and outputs, also after saving and loading."""
    assert 0 < (f != 0).mean() < 1
    code = d.encode(x).to_dense()
    assert np.array_equal(code.numpy() != 0, f != 0)
    close(code, f)
    close(d.reconstruct(x), y)
    wb.save(d, folder / "own")
    again = wb.load(folder / "own")
    assert torch.equal(again.encode(x).to_dense(), code) and (again.site, again.target) == (d.site, d.target)
    close(again.reconstruct(x), y)


@pytest.mark.parametrize("affine", [False, True])
def test_one_layer_computes_the_tutorials_formulas(affine, tmp_path):
    t, x = drawn(OUT, affine=affine), 2 * torch.randn(40, D) + 1
    assert (t["threshold"] < 0).any(), "rectified: a threshold below 0 lets nothing negative pass"
    wide = t | {"w_dec": t["w_dec"][:, None]}
    f, y = owners([wide], x[:, None])
    same(formats.load(one_layer(tmp_path / "s", affine)), x, f[:, 0], y[:, 0], tmp_path)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("kind", ["clt", "crosscoder"])
def test_several_layers_compute_the_tutorials_formulas(kind, affine, tmp_path):
    """A latent reads its file's layer and may write to every one: the decoder's middle axis is the layer itself."""
    files = [drawn(across=LAYERS, affine=affine, seed=i) for i in range(LAYERS)]
    places = [NORM.format("{all}", "pre"), NORM.format("{all}", "post")]
    if kind == "crosscoder":
        places = ["model.layers.{5,9,12}.output"] * 2
    d = formats.load(written(tmp_path / "s", files, *places, type=kind))
    x = 2 * torch.randn(30, LAYERS, D) + 1
    f, y = owners(files, x)
    same(d, x, f.reshape(30, -1), y, tmp_path)
    assert isinstance(d.decoder, Sliced) and d.site is None and d.target is None
    assert d.training_summary["config"]["hf_hook_point_in"] == places[0]


@pytest.mark.parametrize("case", CASES)
def test_another_reader_has_the_same_numbers(case):
    golden.same(golden.opened("circuit_tracer", case), "circuit_tracer", case)


def test_the_last_layer_is_there():
    """circuit-tracer leaves out the last path of its list; here it is a file as the others."""
    folder = golden.FOLDER / "circuit_tracer" / "gemma_scope_2_clt" / "checkpoint"
    d = golden.opened("circuit_tracer", "gemma_scope_2_clt")
    assert d.shape == (LAYERS, D) and d.latents == LAYERS * LATENTS
    last = load_file(folder / f"params_layer_{LAYERS - 1}.safetensors")
    assert torch.equal(d.encoder.weight[-1], last["w_enc"]) and torch.equal(d.decoder.bias[-1], last["b_dec"])
    assert torch.equal(d.atoms([LAYERS * LATENTS - 1])[0], last["w_dec"][-1])
    assert torch.equal(d.sparsifier.threshold[-LATENTS:], last["threshold"])


def test_what_is_at_the_threshold_is_off(tmp_path):
    t = drawn() | {"w_enc": torch.zeros(D, LATENTS), "b_enc": torch.full((LATENTS,), 0.5)}
    t["threshold"] = torch.full((LATENTS,), 0.5)
    t["threshold"][3] = 0.25
    code = formats.load(written(tmp_path / "s", t, "model.layers.1.output")).encode(torch.randn(2, D)).to_dense()
    assert (code[:, 3] == 0.5).all() and int((code != 0).sum()) == 2


@pytest.mark.parametrize(
    ("reads", "writes", "site", "target"),
    [
        ("model.layers.17.output", "model.layers.17.output", "17.resid", None),
        ("model.layers.17.output", None, "17.resid", None),
        (NORM.format(17, "post"), NORM.format(17, "post"), "17.mlp_out", None),
        ("model.layers.17.self_attn.o_proj.input", "model.layers.17.self_attn.o_proj.input", "17.heads", None),
        (NORM.format(0, "pre"), NORM.format(0, "post"), "0.mlp_in", "0.mlp_out"),
        ("model.layers.3.mlp.input", "model.layers.3.mlp.output", "3.mlp_in", "3.mlp_out"),
        ("model.language_model.layers.3.output", None, "3.resid", None),
    ],
)
def test_places_are_ours(reads, writes, site, target, tmp_path):
    d = formats.load(written(tmp_path / "s", drawn(), reads, writes))
    elsewhere = target or (None if site.endswith("_in") else site)
    assert str(d.site) == site and (str(d.target) if d.target else None) == elsewhere
    assert d.training_summary["model"] == "google/gemma-3-1b-pt" and d.training_summary["format"] == "gemma_scope_2"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architecture": "topk"}, "architecture must be one of jump_relu, got 'topk'"),
        ({"architecture": None}, "no 'architecture'"),
        ({"type": "lorsa"}, "type must be one of sae, transcoder"),
        ({"hf_hook_point_in": None}, "no 'hf_hook_point_in'"),
        ({"hf_hook_point_in": 3}, "hf_hook_point_in must be a text"),
        ({"hf_hook_point_in": "model.layers.{all}.output"}, "must name a place such as"),
        ({"hf_hook_point_in": "model.embed"}, "must name a place such as"),
        ({"hf_hook_point_in": "model.layers.3.post_attention_layernorm.output"}, "no stream of ours: give site="),
        ({"width": LATENTS + 1}, "says width 29, the weights have 28 latents"),
        ({"width": 28.0}, "width must be a whole number"),
        ({"affine_connection": True}, f"no tensor '{SKIP}'"),
        ({"affine_connection": 1}, "affine_connection must be true or false"),
        ({"model_name": 5}, "model_name must be a text"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(config, words, tmp_path):
    raises(words, formats.load, one_layer(tmp_path / "s", **config))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "threshold"}, "no tensor 'threshold'"),
        (lambda t: t | {SKIP: torch.zeros(D, OUT)}, f"holds '{SKIP}'"),
        (lambda t: t | {"log_threshold": t["threshold"]}, "holds 'log_threshold'"),
        (lambda t: t | {"w_enc": t["w_enc"].T}, r"b_enc must be \[12\], got \[28\]"),
        (lambda t: t | {"w_dec": t["w_dec"].T}, r"w_dec must be \[28, 28\], got \[9, 28\]"),
        (lambda t: t | {"w_dec": t["w_dec"][:, None]}, "w_dec must have 2 axes"),
        (lambda t: t | {"threshold": t["threshold"] / 0}, "not finite"),
        (lambda t: t | {"b_dec": t["b_dec"][:4]}, r"b_dec must be \[9\], got \[4\]"),
        (lambda t: {k.replace("w_", "W_"): v for k, v in t.items()}, "no tensor 'w_enc'"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, words, tmp_path):
    places = NORM.format(7, "pre"), NORM.format(7, "post")
    raises(words, formats.load, written(tmp_path / "s", change(drawn(OUT)), *places, affine_connection=False))


def test_several_layers_that_do_not_fit_are_refused(tmp_path):
    places = [NORM.format("{all}", "pre"), NORM.format("{all}", "post")]

    def given(files, reads=places[0], writes=places[1], name="s", **config):
        return written(tmp_path / name, files, reads, writes, **({"type": "clt"} | config))

    files = [drawn(across=LAYERS, seed=i) for i in range(LAYERS)]
    raises("files of 2 layers, their latents write to 3: copy", formats.load, given(files[:2]))
    folder = given(files, name="gap")
    (folder / "params_layer_1.safetensors").unlink()
    raises(r"without a gap.*got layers \[0, 2\]", formats.load, folder)
    both = given(files, name="both")
    save_file(drawn(), both / "params.safetensors")
    raises("and no params.safetensors", formats.load, both)
    skipping = [*files[:2], drawn(across=LAYERS, affine=True)]
    raises(f"holds '{SKIP}'", formats.load, given(skipping, name="some"))
    raises(f"params_layer_2.*no tensor '{SKIP}'", formats.load, given(
        [drawn(across=LAYERS, affine=True), drawn(across=LAYERS, affine=True), files[2]], name="most"))  # fmt: skip
    odd = [*files[:2], files[2] | {"w_dec": torch.zeros(LATENTS, 2, D)}]
    raises(r"w_dec must be \[28, 3, 12\], got \[28, 2, 12\]", formats.load, given(odd, name="odd"))
    raises("must name layers such as", formats.load, given(files, "model.layers.3.output", name="one"))
    raises("a clt from .* is not known", formats.load, given(files, "model.layers.{all}.output", name="resid"))
    raises("a crosscoder from .* is not known", formats.load, given(files, name="cross", type="crosscoder"))
    raises("says width 28, the weights have 84", formats.load, given(files, name="width", width=LATENTS))


def test_damaged_files_are_refused(tmp_path):
    folder = one_layer(tmp_path / "s")
    data = (folder / "params.safetensors").read_bytes()
    (folder / "params.safetensors").write_bytes(data[: len(data) // 2])
    raises("not a whole safetensors file", formats.load, folder)
    other = one_layer(tmp_path / "other")
    (other / "config.json").write_text("[1]")
    raises("must hold an object", formats.load, other, format="gemma_scope_2")
    assert formats.load(one_layer(tmp_path / "t"), site="7.mlp_in").site == Site(7, "mlp_in")

"""circuit-tracer's sets and cross-layer transcoders: its own code's numbers, what we write, and what is refused."""

import json
import shutil

import golden
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import workbench as wb
from workbench.circuits.tracers import crosslayer, transcoder
from workbench.code import Code
from workbench.dictionary import Dictionary, decoders, encoders, formats, sparsifiers
from workbench.dictionary.formats import _gain, circuit_tracer
from workbench.dictionary.formats._parts import Skip, Sliced, Threshold
from workbench.dictionary.variants.crosslayer_transcoder import Layers, later
from workbench.site import Site
from workbench.testbeds import subject

OWNER = "circuit_tracer"
CASES = [case for case in golden.cases(OWNER) if not case.startswith("gemma")]
D, LATENTS = 12, 28


def raises(words, call, *args, **more):
    with pytest.raises(ValueError, match=words) as caught:
        call(*args, **more)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600, str(caught.value)


def drawn(module, seed=0, size=0.3):
    """All numbers at random."""
    rng = torch.Generator().manual_seed(seed)
    for value in module.state_dict(keep_vars=True).values():
        if value.is_floating_point() and value.ndim:
            value.data = size * torch.randn(value.shape, generator=rng)
    return module


def made(layer=0, sparsifier=None, d=D, latents=LATENTS, *, center=False, skip=False, seed=0):
    """A transcoder of one layer's MLP."""
    d = Dictionary(
        encoders.Linear((d,), latents, center=center),
        sparsifier or sparsifiers.ReLU(),
        decoders.Linear(latents, (d,), unit=False),
        Skip(d, d) if skip else None,
    )
    drawn(d, seed)
    d.site, d.target = Site(layer, "mlp_in"), Site(layer, "mlp_out")
    return d.freeze()


def crossing(sites=3, d=D, each=LATENTS, sparsifier=None, seed=0):
    """A cross-layer transcoder whose latents write to later layers only."""
    n = sites * each
    made = Dictionary(Layers(sites, d, n), sparsifier or sparsifiers.ReLU(), decoders.Linear(n, (sites, d), unit=False))
    drawn(made, seed)
    made.decoder.weight.data *= later(sites, d, n)
    return made.freeze()


def arrays(path):
    return {name: value.double().numpy() for name, value in load_file(path).items()}


def as_they_read(folder, layer, x):
    """Codes and outputs of a written layer by circuit-tracer's formulas, in numpy."""
    t, config = arrays(folder / f"layer_{layer}.safetensors"), yaml.safe_load((folder / "config.yaml").read_text())
    x = x.double().numpy()
    h = np.einsum("rd,fd->rf", x, t["W_enc"]) + t["b_enc"]
    if config.get("activation") == "topk":
        f = np.zeros_like(h)
        best = np.argsort(-h, 1)[:, : config["k"]]
        np.put_along_axis(f, best, np.take_along_axis(h, best, 1), 1)
    elif "activation_function.threshold" in t:
        f = h * (h > t["activation_function.threshold"])
    else:
        f = np.maximum(h, 0)
    y = f @ t["W_dec"] + t["b_dec"]
    return f, y + x @ t["W_skip"].T if "W_skip" in t else y


def close(a, b):
    torch.testing.assert_close(torch.as_tensor(a).float(), torch.as_tensor(b).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_codes_and_reconstructions_are_its_owners(case, tmp_path):
    d = golden.opened(OWNER, case)
    golden.same(d, OWNER, case)
    wb.save(d, tmp_path / "own")
    again, x = wb.load(tmp_path / "own"), golden.expected(OWNER, case)["x"]
    assert torch.equal(again.encode(x).to_dense(), d.encode(x).to_dense())
    close(again.reconstruct(x), d.reconstruct(x))
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in d.state_dict().items()}
    assert all(torch.equal(v, d.state_dict()[n]) for n, v in again.state_dict().items())


def test_a_negative_value_above_its_threshold_is_on():
    """circuit-tracer multiplies by a mask and does not rectify, and its k largest may be below 0."""
    for case in ("set_jumprelu", "clt_jumprelu", "set_topk"):
        want = golden.expected(OWNER, case)["code"]
        assert (want < 0).any(), case
        assert golden.opened(OWNER, case).sparsifier.signed
    assert int((golden.expected(OWNER, "set_topk")["code"] != 0).sum(1).max()) == 18


def test_what_is_at_the_threshold_is_off(tmp_path):
    d = made(sparsifier=Threshold(LATENTS, signed=True))
    d.encoder.weight.data[:], d.encoder.bias.data[:] = 0, 0.5
    d.sparsifier.threshold[:] = 0.5
    d.sparsifier.threshold[3] = 0.25
    read = formats.load(formats.write(d, tmp_path / "s", OWNER), 0)
    code = read.encode(torch.randn(4, D)).to_dense()
    assert (code[:, 3] == 0.5).all() and int((code != 0).sum()) == 4


def test_places_are_ours():
    d = golden.opened(OWNER, "set_relu")
    assert (d.site, d.target) == (Site(1, "mlp_in"), Site(1, "mlp_out"))
    summary = d.training_summary
    assert (summary["format"], summary["model"], summary["part"]) == (OWNER, "Qwen/Qwen3-0.6B", "1")
    assert summary["config"]["feature_input_hook"] == "mlp.hook_in"
    assert set(summary["files"]) == {"config.yaml", "layer_1.safetensors"}
    across = golden.opened(OWNER, "clt_relu")
    assert across.site is None and across.target is None and across.shape == (3, D)


@pytest.mark.parametrize(
    ("reads", "writes", "words"),
    [
        ("hook_resid_mid", "hook_mlp_out", "no stream of ours: give site="),
        ("hook_resid_pre", "hook_mlp_out", ""),
        ("mlp.hook_in", "mlp.hook_post", "no stream of ours"),
        ("ln2.hook_normalized", "hook_mlp_out", "before the norm's gain.*give subject="),
    ],
)
def test_what_reads_before_the_norm_has_no_site_of_its_own(reads, writes, words, tmp_path):
    folder = copied("set_relu", tmp_path, feature_input_hook=reads, feature_output_hook=writes)
    if not words:
        assert formats.load(folder, 1).site == Site(0, "resid")
        return
    raises(words, formats.load, folder, 1)
    raises(words, formats.load_all, folder)
    given = formats.load(folder, 1, site="model.layers.1.post_attention_layernorm:in", target="1.mlp_out")
    assert str(given.site) == "model.layers.1.post_attention_layernorm:in"
    everywhere = copied("clt_relu", tmp_path, feature_input_hook=reads, feature_output_hook=writes)
    raises("blocks.{all}.*no stream of ours", formats.load, everywhere)


def copied(case, tmp_path, name=None, **config):
    """A golden checkpoint, with other entries of its configuration; None takes one out."""
    folder = tmp_path / (name or case)
    shutil.copytree(golden.FOLDER / OWNER / case / "checkpoint", folder, dirs_exist_ok=True)
    own = yaml.safe_load((folder / "config.yaml").read_text()) | config
    (folder / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in own.items() if v is not None}))
    return folder


def changed(folder, file, change):
    """A file of tensors, changed."""
    tensors = load_file(folder / file)
    save_file({k: v.contiguous().clone() for k, v in change(tensors).items()}, folder / file)
    return folder


def without(name):
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


def test_parts_are_layers(tmp_path):
    folder = copied("set_relu", tmp_path)
    assert formats.parts(folder) == ["0", "1"]
    raises("holds several dictionaries.*0, 1", formats.load, folder)
    raises("has no '7'", formats.load, folder, 7)
    found = formats.load_all(folder)
    assert [d.site.layer for d in found.values()] == [0, 1] and list(found) == ["0", "1"]
    alone = formats.load(folder, "layer_1.safetensors")
    assert alone.site == Site(1, "mlp_in") and torch.equal(alone.encoder.bias, found["1"].encoder.bias)
    assert not torch.equal(found["0"].encoder.bias, found["1"].encoder.bias)
    for name in ("layer_0.safetensors", "layer_1.safetensors"):
        (folder / name).rename(folder / name.replace("_", "_1"))
    assert formats.parts(folder) == ["10", "11"]


def test_a_list_of_files_says_which_layer_is_which(tmp_path):
    names = ["layer_1.safetensors", "layer_0.safetensors"]
    folder = copied("set_relu", tmp_path, transcoders=names)
    turned = formats.load_all(folder)
    plain = formats.load_all(copied("set_relu", tmp_path, "plain"))
    assert torch.equal(turned["0"].encoder.bias, plain["1"].encoder.bias) and turned["0"].site.layer == 0
    hub = [f"hf://google/gemma-scope-2b-pt-transcoders/layer_{i}/width_16k/average_l0_76/params.npz" for i in range(2)]
    raises(
        "2 files on the hub.*hf://google/gemma-scope.*fetch",
        formats.load,
        copied("set_relu", tmp_path, transcoders=hub),
        0,
    )
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(tmp_path / "set_relu" / "config.yaml", only)
    raises("files on the hub", formats.load, only)
    raises(
        "not inside this folder",
        formats.load,
        copied("set_relu", tmp_path, transcoders=["../x/layer_0.safetensors"]),
        0,
    )
    raises("only safetensors", formats.load, copied("set_relu", tmp_path, transcoders=["layer_0.npz"]), 0)


@pytest.mark.parametrize(
    ("case", "file", "change", "words"),
    [
        ("set_relu", "layer_1", without("b_dec"), "layer_1.safetensors has no tensor 'b_dec'"),
        ("set_relu", "layer_1", lambda t: t | {"W_gate": t["W_enc"]}, "holds 'W_gate'"),
        ("set_relu", "layer_1", lambda t: t | {"log_thresholds": t["b_enc"]}, "holds 'log_thresholds'"),
        ("set_relu", "layer_1", lambda t: t | {"W_enc": t["W_enc"].T}, r"b_enc must be \[12\], got \[28\]"),
        ("set_relu", "layer_1", lambda t: t | {"W_dec": t["W_dec"].T}, r"W_dec must be \[28, 12\]"),
        ("set_relu", "layer_1", lambda t: t | {"b_enc": t["b_enc"] / 0}, "not finite"),
        ("set_relu", "layer_1", lambda t: t | {"W_enc": t["W_enc"].long()}, "must hold floats"),
        ("set_relu_skip", "layer_1", lambda t: t | {"W_skip": t["W_skip"][:5]}, r"W_skip must be \[12, 12\]"),
        ("set_jumprelu", "layer_1", lambda t: t | {circuit_tracer.THRESHOLD: t["b_dec"]}, "threshold must be"),
        ("clt_relu", "W_enc_1", lambda t: t | {"threshold_1": t["b_enc_1"]}, "holds 'threshold_1'"),
        ("clt_jumprelu", "W_enc_1", without("threshold_1"), "no tensor 'threshold_1'"),
        ("clt_jumprelu", "W_enc_1", lambda t: t | {"W_skip_1": t["W_enc_1"]}, "holds 'W_skip_1'"),
        ("clt_relu", "W_enc_2", lambda t: t | {"W_enc_2": t["W_enc_2"][:9]}, r"W_enc_2 must be \[28, 12\]"),
        ("clt_relu", "W_dec_1", lambda t: {"W_dec_1": torch.zeros(28, 3, 12)}, r"W_dec_1 must be \[28, 2, 12\]"),
        ("clt_relu", "W_dec_1", lambda t: t | {"W_dec_2": t["W_dec_1"]}, "holds 'W_dec_2'"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(case, file, change, words, tmp_path):
    folder = changed(copied(case, tmp_path), f"{file}.safetensors", change)
    more = {"site": "0.mlp_in", "target": "0.mlp_out"}
    raises(words, formats.load, folder, 1 if case.startswith("set") else None, **more)


@pytest.mark.parametrize(
    ("case", "config", "words"),
    [
        ("set_relu", {"model_kind": "transcoder"}, "model_kind must be one of transcoder_set, cross_layer"),
        ("set_relu", {"model_kind": None}, "no 'model_kind'"),
        ("set_relu", {"feature_input_hook": None}, "no 'feature_input_hook'"),
        ("set_relu", {"feature_output_hook": 3}, "must be a text, got 3"),
        ("set_relu", {"model_name": ["a"]}, "model_name must be a text"),
        ("set_relu", {"activation": "gelu"}, "activation must be one of"),
        ("set_relu", {"activation": "jumprelu"}, "no tensor 'activation_function.threshold'"),
        ("set_jumprelu", {"activation": "relu"}, "holds 'activation_function.threshold'"),
        ("set_jumprelu", {"activation": "topk", "k": 3}, "holds 'activation_function.threshold'"),
        ("set_topk", {"k": None}, "no 'k'"),
        ("set_topk", {"k": True}, "k must be a whole number of 1 or more, got True"),
        ("set_topk", {"k": 29}, "k must be at most the 28 latents"),
        ("set_relu", {"transcoders": "layer_0.safetensors"}, "transcoders must be"),
        ("clt_relu", {"model_kind": "transcoder_set"}, "has no layer_0.safetensors"),
        ("set_relu", {"model_kind": "cross_layer_transcoder"}, "must have W_enc_0.safetensors"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(case, config, words, tmp_path):
    part = None if "cross_layer_transcoder" in config.values() or case.startswith("clt") else 1
    raises(words, formats.load, copied(case, tmp_path, **config), part)


def test_missing_files_are_told(tmp_path):
    folder = copied("clt_relu", tmp_path)
    (folder / "W_dec_1.safetensors").unlink()
    raises(r"without a gap.*W_dec of \[0, 2\]", formats.load, folder)
    (folder / "config.yaml").unlink()
    raises("config.yaml' is missing", formats.load, folder)
    broken = copied("set_relu", tmp_path)
    (broken / "config.yaml").write_text("a: [1")
    raises("cannot be read", formats.load, broken)
    data = (broken / "layer_0.safetensors").read_bytes()
    shutil.copy(golden.FOLDER / OWNER / "set_relu" / "checkpoint" / "config.yaml", broken)
    (broken / "layer_0.safetensors").write_bytes(data[: len(data) // 2])
    raises("not a whole safetensors file", formats.load, broken, 0)


def test_a_cross_layer_decoder_stays_in_its_files(tmp_path):
    d = formats.load(copied("clt_relu", tmp_path))
    assert isinstance(d.decoder, Sliced) and "decoder.weight" not in dict(d.named_parameters())
    sizes = [tuple(piece.values.shape) for piece in d.decoder.weight.pieces]
    assert sizes == [(28, 36), (28, 24), (28, 12)], "grouped by the layer that is read"
    shown = load_file(golden.FOLDER / OWNER / "clt_relu" / "checkpoint" / "W_dec_1.safetensors")["W_dec_1"]
    atoms = d.atoms([28 + 5])
    assert torch.equal(atoms[0, 1:], shown[5]) and not atoms[0, 0].any(), "latent 5 of layer 1 writes to 1 and 2"
    one = Code.dense(torch.eye(84)[[83]])
    assert torch.equal(d.decode(one)[0, :2], d.decoder.bias[:2]), "the last layer's latents write to it alone"


@pytest.mark.parametrize("skip", [False, True])
def test_a_set_is_written_layer_by_layer(skip, tmp_path):
    all_ = {layer: made(layer, skip=skip, seed=layer) for layer in range(3)}
    for layer in (1, 0, 2):
        formats.write(all_[layer], tmp_path / "set", OWNER)
    assert yaml.safe_load((tmp_path / "set" / "config.yaml").read_text()) == {
        "model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out",
    }  # fmt: skip
    x = 2 * torch.randn(20, D)
    for name, d in formats.load_all(tmp_path / "set").items():
        own = all_[int(name)]
        assert (d.site, d.target) == (own.site, own.target)
        assert all(torch.equal(v, own.state_dict()[n]) for n, v in d.state_dict().items())
        f, y = as_they_read(tmp_path / "set", int(name), x)
        close(f, d.encode(x).to_dense())
        close(y, d.reconstruct(x))


SPARSIFIERS = {
    "relu": sparsifiers.ReLU,
    "jumprelu": lambda: sparsifiers.JumpReLU(LATENTS, init=0.1, width=0.1),
    "rectified": lambda: Threshold(LATENTS),
    "signed": lambda: Threshold(LATENTS, signed=True),
    "one": lambda: Threshold(LATENTS, each=False),
    "batch_topk": lambda: sparsifiers.BatchTopK(4, LATENTS),
    "largest": lambda: circuit_tracer.Largest(20, LATENTS),
}


@pytest.mark.parametrize("kind", SPARSIFIERS)
@pytest.mark.parametrize("center", [False, True])
def test_what_is_written_computes_the_same(kind, center, tmp_path):
    """Scales, a centred encoder and thresholds of all kinds, by circuit-tracer's formulas."""
    d = made(2, SPARSIFIERS[kind](), center=center, skip=True)
    d.set_scale_(0.7, 1.9)
    if hasattr(d.sparsifier, "threshold"):
        d.sparsifier.threshold.data += 0.2 if d.sparsifier.threshold.ndim else 0.4 - d.sparsifier.threshold.data
    x = 2 * torch.randn(20, D)
    code = d.encode(x).to_dense()
    assert 0 < (code != 0).float().mean() < 1
    f, y = as_they_read(formats.write(d, tmp_path / "set", OWNER), 2, x)
    close(f, code)
    close(y, d.reconstruct(x))
    read = formats.load(tmp_path / "set", 2)
    close(read.reconstruct(x), d.reconstruct(x))


@pytest.mark.parametrize("case", [c for c in CASES if c != "clt_jumprelu"])
def test_what_is_read_is_written_byte_for_byte(case, tmp_path):
    folder = golden.FOLDER / OWNER / case / "checkpoint"
    for d in formats.load_all(folder).values():
        formats.write(d, tmp_path / "again", OWNER)
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert names == sorted(path.name for path in (tmp_path / "again").glob("*.safetensors"))
    for name in names:
        a, b = load_file(folder / name), load_file(tmp_path / "again" / name)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), name
    own, came = (yaml.safe_load((f / "config.yaml").read_text()) for f in (folder, tmp_path / "again"))
    assert {k: v for k, v in own.items() if (k, v) != ("activation", "jumprelu")} == came


def test_the_owners_name_of_an_output_is_kept(tmp_path):
    folder = copied("set_relu", tmp_path, feature_output_hook="mlp.hook_out")
    d = formats.load(folder, 0)
    assert d.target == Site(0, "mlp_out")
    again = yaml.safe_load((formats.write(d, tmp_path / "again", OWNER) / "config.yaml").read_text())
    assert again["feature_output_hook"] == "mlp.hook_out"


def test_a_cross_layer_transcoder_is_written(tmp_path):
    d = crossing(sparsifier=sparsifiers.JumpReLU(3 * LATENTS, init=0.1, width=0.1))
    d.set_scale_(0.5, 1.5)
    folder = formats.write(d, tmp_path / "clt", OWNER)
    x = 2 * torch.randn(15, 3, D)
    read = formats.load(folder)
    close(read.encode(x).to_dense(), d.encode(x).to_dense())
    close(read.reconstruct(x), d.reconstruct(x))
    total = np.zeros((15, 3, D))
    for i in range(3):  # circuit-tracer's formulas
        enc, dec = arrays(folder / f"W_enc_{i}.safetensors"), arrays(folder / f"W_dec_{i}.safetensors")[f"W_dec_{i}"]
        h = x[:, i].double().numpy() @ enc[f"W_enc_{i}"].T + enc[f"b_enc_{i}"]
        f = h * (h > enc[f"threshold_{i}"])
        assert dec.shape == (LATENTS, 3 - i, D)
        total[:, i:] += np.einsum("rf,fld->rld", f, dec)
        total[:, i] += enc[f"b_dec_{i}"]
    close(total, d.reconstruct(x))


def test_what_it_cannot_say_is_refused(tmp_path):
    def written(d, name="set"):
        formats.write(d, tmp_path / name, OWNER)

    raises(
        "JumpReLU and the k largest with their signs, not TopK", written, made(sparsifier=sparsifiers.TopK(3, LATENTS))
    )
    raises("no threshold yet", written, made(sparsifier=sparsifiers.BatchTopK(3, LATENTS)))
    lost = made()
    lost.site = None
    raises("reads None and writes 0.mlp_out", written, lost)
    other = made()
    other.target = Site(1, "mlp_out")
    raises("reads 0.mlp_in and writes 1.mlp_out", written, other)
    residual = made()
    residual.site = residual.target = Site(1, "resid")
    raises("reads 1.resid", written, residual)
    wide = Dictionary(
        encoders.Linear((D,), 9, center=False), sparsifiers.ReLU(), decoders.Linear(9, (D + 1,)), shape=(D,)
    )
    wide.site, wide.target = Site(0, "mlp_in"), Site(0, "mlp_out")
    raises("read and written alike", written, wide)
    tied = Dictionary(encoders.Tied(), sparsifiers.ReLU(), decoders.Linear(9, (D,)))
    tied.site, tied.target = Site(0, "mlp_in"), Site(0, "mlp_out")
    raises("linear encoders and decoders, not Tied", written, tied)
    odd = made()
    odd.skip = torch.nn.Linear(D, D)
    raises("one matrix", written, odd)
    assert not (tmp_path / "set").exists(), "nothing is left of what was refused"
    written(made(0))
    raises("this dictionary 'topk'", written, made(1, circuit_tracer.Largest(3, LATENTS)))
    raises("holds layers of another kind.*28 latents.*30 latents", written, made(1, latents=30))
    raises("skip connection False.*skip connection True", written, made(1, skip=True))
    raises("model_kind: 'transcoder_set', this dictionary 'cross_layer_transcoder'", written, crossing())
    named = made(1)
    named.training_summary = {"model": "a/b"}
    written(named)
    named.training_summary = {"model": "a/c"}
    raises("is of 'a/b', this of a/c", written, named)
    back = crossing()
    back.decoder.weight.data[-1, D] = 1  # the layer just before its own
    raises("layer 2 write to an earlier layer", written, back, "clt")
    raises("not by k", written, crossing(sparsifier=circuit_tracer.Largest(3, 84)), "clt")
    written(crossing(), "clt")
    raises("holds one of 3 layers, this has 2", written, crossing(2), "clt")
    skipping = golden.opened(OWNER, "gemma_scope_2_clt_affine")
    raises("and no skip", written, skipping, "other")


def test_a_set_that_was_read_is_traced(tmp_path):
    s = subject("tiny_text_gelu")
    for layer in range(s.layers):
        formats.write(made(layer, d=s.d, latents=40, skip=True, seed=layer), tmp_path / "set", OWNER)
    found = {int(k): d for k, d in formats.load_all(tmp_path / "set", subject=s).items()}
    prompt = (torch.arange(8) * 3 % s.vocab)[None]
    graph = transcoder.trace(s, prompt, found, progress=False)
    graph.check()
    assert graph.of("latent").sum() > 20
    raises("reads rows of width 12", formats.load, golden.FOLDER / OWNER / "set_relu" / "checkpoint", 1, subject=s)


def test_a_cross_layer_transcoder_that_was_read_is_traced(tmp_path):
    s = subject("tiny_text_gelu")
    folder = formats.write(crossing(s.layers, s.d, 40), tmp_path / "clt", OWNER)
    read = formats.load(folder, subject=s)
    assert isinstance(read.decoder, Sliced)
    prompt = (torch.arange(8) * 3 % s.vocab)[None]
    graph = crosslayer.trace(s, prompt, read, progress=False)
    graph.check()
    assert graph.of("latent").sum() > 20
    close(graph.edges, crosslayer.trace(s, prompt, crossing(s.layers, s.d, 40), progress=False).edges)


def test_only_its_folders_are_its_own(tmp_path):
    for case in CASES:
        assert formats.parts(golden.FOLDER / OWNER / case / "checkpoint")
    for text in ("- a", "model_kind: other", "a: [", "{}"):
        (tmp_path / "config.yaml").write_text(text)
        assert not circuit_tracer.sniff(formats.Source(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({}))
    assert not circuit_tracer.sniff(formats.Source(tmp_path))
    assert _gain.place("blocks.1.mlp.hook_in", None) is None

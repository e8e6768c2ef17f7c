"""The doors through which somebody else's dictionary comes, and what the files behind them may not do."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import golden
import models
import numpy as np
import pytest
import torch
from fake_subject import FakeSubject
from safetensors.torch import save_file

import workbench as wb
from workbench import catalogue
from workbench.code import Code
from workbench.dictionary import formats
from workbench.dictionary.formats import _hub, _parts, _source
from workbench.dictionary.formats._parts import Piece, assemble, plain
from workbench.dictionary.formats._sites import hook_of, placed, site_of
from workbench.dictionary.formats._source import Config, Source
from workbench.site import STREAMS, Site

D, F = 6, 14


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gemma(folder, d=D, **changed):
    """The smallest format: one archive of five arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {"W_enc": (d, F), "W_dec": (F, d), "b_enc": (F,), "b_dec": (d,), "threshold": (F,)}
    arrays = {k: draw(*v, seed=i).numpy() for i, (k, v) in enumerate(held.items())} | changed
    np.savez(folder / "params.npz", **{k: v for k, v in arrays.items() if v is not None})
    return folder


def qwen(folder, *layers):
    """One where a folder holds several."""
    folder = folder / "SAE-Res-Qwen3-8B-Base-W64K-L0_3"
    folder.mkdir(parents=True)
    for layer in layers:
        held = {"W_enc": draw(F, D), "W_dec": draw(D, F, seed=1), "b_enc": draw(F), "b_dec": draw(D)}
        torch.save({k: v + layer for k, v in held.items()}, folder / f"layer{layer}.sae.pt")
    return folder


def refusal(call, *args, says, error=ValueError, **how):
    with pytest.raises(error) as caught:
        call(*args, **how)
    text = str(caught.value)
    assert says in text and "\n" not in text and len(text) <= 400, text
    return text


# -- which format it is


def test_every_golden_folder_is_claimed_by_one_format_and_no_other():
    """Several formats that know a folder, or none, would make the owner's files unusable."""
    known = {name: catalogue.module("formats", name) for name in catalogue.names("formats")}
    folders = sorted(golden.FOLDER.glob("*/*/checkpoint"))
    assert folders
    for folder in folders:
        fit = [name for name, module in known.items() if module.sniff(Source(folder))]
        assert len(fit) == 1, (folder, fit)


@pytest.mark.parametrize("name", catalogue.names("formats"))
def test_a_format_is_small_says_what_it_is_and_claims_no_other_folder(tmp_path, name):
    module = catalogue.module("formats", name)
    assert module.sniff.__doc__ and module.read.__doc__
    for made in (lambda f: None, lambda f: (f / "README.md").write_text("x"), lambda f: (f / "x.bin").write_bytes(b"")):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        made(folder)
        try:
            assert not module.sniff(Source(folder))
        except ValueError as error:
            assert "x.bin" in str(error)  # its only file is broken, which is worth saying


def test_a_folder_that_nobody_knows_is_said_with_what_is_in_it(tmp_path):
    for i in range(9):
        (tmp_path / f"note{i}.txt").write_text("x")
    text = refusal(wb.load, tmp_path, says="is no dictionary that we know: it holds 'note0.txt'")
    assert "and 3 more" in text and "catalogue.names('formats')" in text
    (tmp_path / "empty").mkdir()
    refusal(wb.load, tmp_path / "empty", says="it holds nothing")


def test_what_could_be_two_formats_is_asked_back(tmp_path, monkeypatch):
    folder = gemma(tmp_path)
    monkeypatch.setattr(catalogue.module("formats", "qwen"), "sniff", lambda source: True)
    refusal(wb.load, folder, says="could be gemma_scope or qwen: give format=")
    assert wb.load(folder, format="gemma_scope").latents == F


def test_a_format_that_does_not_exist_is_refused(tmp_path):
    refusal(wb.load, gemma(tmp_path), format="gemma", says="formats has no 'gemma': choose from")
    for name in ("_source", "../core", "", "gemma_scope.read"):
        refusal(wb.load, tmp_path, format=name, says="formats has no")


def test_whatever_a_format_says_is_told_with_the_folder_in_one_short_line(tmp_path, monkeypatch):
    def read(source, part):
        raise ValueError("weights\n  are " + "x" * 2000)

    folder = gemma(tmp_path)
    monkeypatch.setattr(catalogue.module("formats", "gemma_scope"), "read", read)
    assert refusal(wb.load, folder, says="weights are xxx").startswith(str(folder))


# -- parts


def test_parts_by_name_by_number_and_all(tmp_path):
    folder = qwen(tmp_path, 2, 10)
    names = ["layer2.sae.pt", "layer10.sae.pt"]
    assert formats.parts(folder) == names and formats.parts(folder, format="qwen") == names
    assert formats.parts(gemma(tmp_path / "one")) == [""]
    found = formats.load_all(folder, dtype=torch.float64)
    assert list(found) == names and all(made.decoder.weight.dtype == torch.float64 for made in found.values())
    assert torch.equal(found[names[1]].decoder.bias, wb.load(folder, names[1], dtype=torch.float64).decoder.bias)
    assert found[names[0]].training_summary["part"] == names[0]


def test_a_part_must_be_named_and_be_there(tmp_path):
    folder = qwen(tmp_path, 2, 10)
    refusal(wb.load, folder, says="holds several dictionaries: give part= one of layer2.sae.pt, layer10.sae.pt")
    refusal(wb.load, folder, "layer3.sae.pt", says="has no 'layer3.sae.pt': give part= one of")
    refusal(wb.load, folder, 2, says="has no '2'")
    for name in ("../layer2.sae.pt", str(folder / "layer2.sae.pt"), "..", "a\0b", "x" * 2000):
        refusal(wb.load, folder, name, says="")
    assert wb.load(qwen(tmp_path / "lone", 7)).latents == F  # where there is one, nobody needs to name it


def test_a_part_may_be_a_folder_or_a_file_inside(tmp_path):
    gemma(tmp_path / "layer_3" / "width_16k")
    by_part, direct = wb.load(tmp_path, "layer_3/width_16k"), wb.load(tmp_path / "layer_3/width_16k")
    assert torch.equal(by_part.decoder.weight, direct.decoder.weight)
    assert by_part.training_summary["part"] == "layer_3/width_16k" and "part" not in direct.training_summary
    assert wb.load(tmp_path / "layer_3/width_16k/params.npz").latents == F
    assert wb.load(tmp_path, "layer_3/width_16k/params.npz").latents == F


def test_nothing_there_is_a_file_that_is_not_found(tmp_path):
    refusal(wb.load, tmp_path / "none", says="does not exist", error=FileNotFoundError)
    refusal(formats.parts, tmp_path / "none", says="does not exist", error=FileNotFoundError)


def test_what_a_module_gives_is_its_own_place_where_a_norm_comes_after_it():
    plain, normed = (wb.Subject(model(), name="tiny") for model in (models.tiny_llama, models.tiny_gemma3))
    for name, stream in (
        ("layers.1.mlp", "mlp_out"),
        ("layers.1.mlp:in", "mlp_in"),
        ("layers.1.self_attn", "attn_out"),
    ):
        assert placed(name, plain) == Site(1, stream)
    assert placed("layers.1.mlp:in", normed) == Site(1, "mlp_in") and placed("layers.1", normed) == Site(1, "resid")
    inner = placed("layers.1.mlp", normed)
    assert inner == Site(None, "model.layers.1.mlp:out")
    h = normed.read(torch.arange(6)[None], [inner, Site(1, "mlp_out")])
    assert not torch.allclose(h[inner], h[Site(1, "mlp_out")])
    assert placed("blocks.1.hook_mlp_out", normed) == placed("model.layers.1.post_feedforward_layernorm", normed)
    assert placed("gpt_neox.layers.1.mlp", normed) == inner, "a block by any prefix"
    refusal(placed, "h.1.attn", normed, says="tiny has no module 'model.layers.1.attn': give site=")


# -- what is given beside the files


def test_site_target_dtype_and_device_are_as_given(tmp_path):
    folder = gemma(tmp_path)
    made = wb.load(folder)
    assert made.site is None and made.target is None and made.decoder.weight.dtype == torch.float32
    assert not made.training and not any(p.requires_grad for p in made.parameters())
    assert wb.load(folder, site="1.resid").target == Site(1, "resid"), "an autoencoder writes where it reads"
    gemma(tmp_path / "narrow", W_dec=draw(F, D - 1).numpy(), b_dec=draw(D - 1).numpy())
    assert wb.load(tmp_path / "narrow", site="1.resid").target is None
    made = wb.load(folder, site="1.resid", target=Site(1, "mlp_out"), dtype=torch.bfloat16, device="cpu")
    assert made.site == Site(1, "resid") and made.target == Site(1, "mlp_out")
    assert {v.dtype for v in made.state_dict().values()} == {torch.bfloat16}
    refusal(wb.load, folder, site="resid.1", says="a site reads `12.resid`")


def test_a_subject_of_another_width_is_told_before_any_row(tmp_path):
    folder, subject = gemma(tmp_path), FakeSubject()
    subject.width = {Site(1, "resid"): 6, Site(1, "mlp_out"): 3}.__getitem__
    assert wb.load(folder, site="1.resid", subject=subject).d == 6
    refusal(wb.load, folder, site="1.mlp_out", subject=subject, says="reads rows of width 6 at 1.mlp_out, fake has 3")
    refusal(wb.load, folder, site="1.resid", target="1.mlp_out", subject=subject, says="writes rows of width 6")


def test_where_it_came_from_is_kept(tmp_path):
    folder = gemma(tmp_path / "google")
    summary = wb.load(folder).training_summary
    assert summary["source"] == "google" and summary["format"] == "gemma_scope"
    assert summary["files"] == {"params.npz": wb.lineage.file_hash(folder / "params.npz")}


def test_of_large_files_the_size_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "HASHED", 10)
    size = (gemma(tmp_path) / "params.npz").stat().st_size
    assert wb.load(tmp_path).training_summary["files"] == {"params.npz": f"{size} bytes"}


# -- our own folders


def test_what_was_trained_here_opens_by_the_same_door(tmp_path):
    made = wb.recipe("topk", d=D, latents=F, k=3, seed=1).dictionary
    wb.save(made, tmp_path)
    again = wb.load(tmp_path)
    assert torch.equal(again.decoder.weight, made.decoder.weight) and again.call == made.call
    assert formats.parts(tmp_path) == [""]
    assert wb.load(tmp_path, site="2.resid").site == Site(2, "resid")


def test_a_foreign_dictionary_that_was_kept_opens_without_its_files(tmp_path):
    made = wb.load(gemma(tmp_path / "his"), site="0.resid")
    wb.save(made, tmp_path / "ours")
    (tmp_path / "his" / "params.npz").unlink()
    again = wb.load(tmp_path / "ours")
    x = draw(5, D)
    assert torch.equal(again.encode(x).to_dense(), made.encode(x).to_dense())
    assert again.site == made.site and again.training_summary == made.training_summary
    twice = wb.load(wb.save(again, tmp_path / "twice"))
    assert torch.equal(twice.reconstruct(x), made.reconstruct(x))


def respell(folder, change):
    """Somebody who knows how the checksum is made."""
    spec = wb.lineage.read_json(folder / "spec.json")
    change(spec)
    wb.lineage.write_json(folder / "spec.json", spec)


SPELLED = {
    "no weights": lambda s: s.pop("weights"),
    "weights of another type": lambda s: s.update(weights=3),
    "another hash": lambda s: s["weights"].update(sha256="0" * 64),
    "no site": lambda s: s.pop("site"),
    "a site that is none": lambda s: s.update(site=["resid"]),
    "an exclusion that is none": lambda s: s.update(exclusion=7),
    "parts that are none": lambda s: s.update(parts=[1]),
    "a kind that does not exist": lambda s: s["parts"].update(encoder=["os.system", {}]),
    "a kind of another type": lambda s: s["parts"].update(encoder=[["linear"], {}]),
    "an argument too many": lambda s: s["parts"]["sparsifier"][1].update(evil=1),
    "no shape": lambda s: s["parts"].pop("shape"),
    "latents of another type": lambda s: s["parts"]["decoder"][1].update(latents="9"),
    "negative latents": lambda s: s["parts"]["decoder"][1].update(latents=-9),
    "other latents": lambda s: s["parts"]["decoder"][1].update(latents=1 << 50),
    "a part that is missing": lambda s: s["parts"].update(decoder=None),
}


@pytest.mark.parametrize("name", SPELLED)
def test_a_spec_that_we_did_not_write_is_refused(tmp_path, name):
    wb.save(wb.load(gemma(tmp_path / "his")), tmp_path)
    respell(tmp_path, SPELLED[name])
    refusal(wb.load, tmp_path, says=str(tmp_path))


@pytest.mark.parametrize("name", ["variant", "args", "seed", "weights", "site"])
def test_a_recipe_that_we_did_not_write_is_refused(tmp_path, name):
    wb.save(wb.recipe("topk", d=D, latents=F, k=3).dictionary, tmp_path)
    for value in (None, 5, "../evil", {"k": -1}):
        if name in ("site", "seed") and value in (None, 5):
            continue
        respell(tmp_path, lambda s, value=value: s.update({name: value}))
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            wb.load(tmp_path)
        assert "\n" not in str(caught.value)


def test_our_own_folder_without_its_weights(tmp_path):
    wb.save(wb.load(gemma(tmp_path / "his")), tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    refusal(wb.load, tmp_path, says="has no weights.safetensors", error=FileNotFoundError)


# -- writing


def test_what_is_only_read_cannot_be_written(tmp_path):
    made = wb.load(gemma(tmp_path))
    refusal(wb.save, made, tmp_path / "out", format="gemma_scope", says="gemma_scope is read and not written")
    refusal(wb.save, made, tmp_path / "out", format="nothing", says="formats has no 'nothing'")
    assert not (tmp_path / "out").exists()


# -- the hub


class Hub:
    """A repository, and what was asked of it."""

    def __init__(self, monkeypatch, folder, error=None):
        import huggingface_hub

        self.folder, self.error, self.asked = folder, error, []
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)

    def model_info(self, name, revision=None):
        if self.error is not None:
            raise self.error
        self.name, self.revision = name, revision
        files = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())
        return SimpleNamespace(sha="c0ffee", siblings=[SimpleNamespace(rfilename=f) for f in files])

    def download(self, name, revision=None, allow_patterns=None):
        from fnmatch import fnmatch

        assert (name, revision) == (self.name, "c0ffee")
        there = [p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file()]
        self.asked = sorted(f for f in there if any(fnmatch(f, pattern) for pattern in allow_patterns))
        return str(self.folder)


def test_only_the_files_of_a_part_are_asked_for(tmp_path, monkeypatch):
    gemma(tmp_path / "layer_3" / "width_16k")
    gemma(tmp_path / "layer_33" / "width_16k")
    (tmp_path / "README.md").write_text("")
    (tmp_path / "index.json").write_text("{}")
    hub = Hub(monkeypatch, tmp_path)
    wanted = ["index.json", "layer_3/width_16k/params.npz"]
    for name, part in (
        ("google/gemma", "layer_3/width_16k"),
        ("google/gemma/layer_3/width_16k", None),
        ("google/gemma/layer_3", "width_16k"),
    ):
        made = wb.load(name, part, revision="v2")
        assert hub.asked == wanted and hub.revision == "v2" and hub.name == "google/gemma"
        assert made.training_summary["source"] == name and made.training_summary["revision"] == "c0ffee"


def test_a_single_file_of_the_hub(tmp_path, monkeypatch):
    folder = qwen(tmp_path, 2, 10)
    hub = Hub(monkeypatch, folder)
    for part in ("layer10.sae.pt",):
        assert str(wb.load("Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_3", part).site) == "10.resid"
        assert hub.asked == ["layer10.sae.pt"]


def test_without_a_part_only_the_top_is_asked_for(tmp_path, monkeypatch):
    gemma(tmp_path)
    gemma(tmp_path / "other")
    hub = Hub(monkeypatch, tmp_path)
    assert wb.load("google/gemma").latents == F
    assert hub.asked == ["params.npz"]


def test_a_part_that_the_hub_does_not_have(tmp_path, monkeypatch):
    gemma(tmp_path / "layer_3")
    Hub(monkeypatch, tmp_path)
    text = refusal(wb.load, "google/gemma", "layer_4/width", says="it has no 'layer_4/width', only 'layer_3'")
    assert text.startswith("google/gemma could not be read from the hub")


def test_names_that_are_patterns_ask_for_themselves(tmp_path, monkeypatch):
    gemma(tmp_path / "a[1]")
    gemma(tmp_path / "a1")
    hub = Hub(monkeypatch, tmp_path)
    assert wb.load("google/gemma", "a[1]").latents == F
    assert hub.asked == ["a[1]/params.npz"]


@pytest.mark.parametrize(
    "error", [ConnectionError("no\nroute"), OSError("offline mode"), RuntimeError("x" * 3000), ValueError("404")]
)
def test_a_hub_that_cannot_be_reached_is_said_in_a_line(tmp_path, monkeypatch, error):
    Hub(monkeypatch, tmp_path, error)
    refusal(wb.load, "google/gemma-scope", says="(for a local folder, check the path)")


def test_offline_the_real_client_is_one_line_too(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refusal(wb.load, "nobody/nothing-of-this-name", says="could not be read from the hub")


def test_a_local_folder_comes_before_the_hub(tmp_path, monkeypatch):
    Hub(monkeypatch, tmp_path, AssertionError("asked the hub"))
    gemma(tmp_path / "google" / "gemma")
    monkeypatch.chdir(tmp_path)
    assert wb.load("google/gemma").latents == F
    for name in ("./google/none", "../google/none", "google/gemma/../..x/y z", "one"):
        with pytest.raises(FileNotFoundError):
            wb.load(name)


def test_chosen_files():
    files = ["a.json", "b.yaml", "c.safetensors", "d/e.npz", "d/f/g.npz", "dd/h.npz", "3.pt", "README.md"]
    assert _hub.chosen(files, "d") == ["a.json", "b.yaml", "d/e.npz", "d/f/g.npz"]
    assert _hub.chosen(files, "3") == ["3.pt", "a.json", "b.yaml"]
    assert _hub.chosen(files, "c") == ["a.json", "b.yaml", "c.safetensors"]
    layers = ["config.yaml", "layer_3.safetensors", "layer_13.safetensors", "layer_30.safetensors"]
    assert _hub.chosen(layers, "3") == ["config.yaml", "layer_3.safetensors"]
    runs = ["config.json", "t_0/config.json", "t_0/checkpoints/ae_7.pt", "t_1/config.json", "t_0/ae.pt"]
    assert _hub.chosen(runs, "t_0/checkpoints/ae_7") == ["config.json", "t_0/checkpoints/ae_7.pt", "t_0/config.json"]
    assert _hub.chosen(files, "x/y") == _hub.chosen(files, "layer9.sae.pt") == []
    assert _hub.chosen(files, "") == _hub.chosen(files, "nine") == [f for f in files if "/" not in f]


# -- places


@pytest.mark.parametrize("stream", STREAMS)
def test_hooks_and_sites_go_both_ways(stream):
    for layer in (0, 7, 123):
        assert site_of(hook_of(Site(layer, stream))) == Site(layer, stream)


def test_names_of_the_same_place():
    for name in ("blocks.0.hook_resid_pre", "hook_embed", "model.embed_tokens", "transformer.wte:out"):
        assert site_of(name) == Site(None, "embed")
    assert hook_of(Site(None, "embed")) == "blocks.0.hook_resid_pre"
    for name in ("blocks.3.hook_resid_pre", "model.layers.2", "transformer.h.2:out", "gpt_neox.layers.2", "layers.2"):
        assert site_of(name) == Site(2, "resid")
    assert site_of("layers.3:in") == Site(2, "resid") and site_of("layers.0:in") == Site(None, "embed")
    assert site_of("model.layers.4.mlp:in") == Site(4, "mlp_in")
    assert site_of("model.layers.4.mlp") == Site(4, "mlp_out")
    assert site_of("transformer.h.4.attn.c_proj:in") == Site(4, "heads")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "blocks.3.hook_resid_mid",
            "blocks.3.attn.hook_q",
            "model.layers.x",
            "model.layers.4.mlp.gate",
            "",
            "embed:in",
        ),
        *("blocks.3.hook_resid_post\n", "blocks.99999.hook_resid_post", "model.layers.2:sideways", "x" * 5000),
    ],
)
def test_a_place_that_is_no_stream_of_ours_is_asked_for(name):
    refusal(site_of, name, says="give site=")


def test_a_module_has_no_hook():
    refusal(hook_of, Site(None, "model.layers.2.mlp:in"), says="TransformerLens has no name")


# -- parts that stay in their files


class Counting:
    """A tensor that remembers which of its rows were read."""

    def __init__(self, values):
        self.values, self.rows, self.shape = values, [], values.shape

    def __len__(self):
        return len(self.values)

    def __getitem__(self, which):
        self.rows += which.tolist()
        return self.values[which]


def sliced(pieces, latents=F, d=D):
    spec = plain(d, latents, ["relu", {}], center=False)
    tensors = {"encoder.weight": draw(d, latents), "encoder.bias": draw(latents), "decoder.bias": draw(d, seed=2)}
    return assemble(spec, tensors, pieces)


def test_decoding_reads_only_the_atoms_that_a_code_uses():
    values = Counting(draw(F, D, seed=3))
    made = sliced([Piece(0, 0, values)])
    values.rows.clear()
    code = torch.zeros(4, F)
    code[0, 3], code[1, 3], code[2, 11] = 1.0, 2.0, -1.0
    y = made.decode(Code.dense(code))
    torch.testing.assert_close(y, code @ values.values + made.decoder.bias)
    assert sorted(values.rows) == [3, 11]
    values.rows.clear()
    assert torch.equal(made.atoms([5, 0, 5]), values.values[[5, 0, 5]]) and values.rows == [5, 0, 5]
    values.rows.clear()
    torch.testing.assert_close(made.decode(Code.dense(torch.zeros(2, F))), made.decoder.bias.expand(2, D))
    assert values.rows == []


def test_many_atoms_come_some_at_a_time(monkeypatch):
    monkeypatch.setattr(_parts, "AT_ONCE", 4)
    values = draw(F, D, seed=3)
    made = sliced([Piece(0, 0, values)])
    code = draw(9, F, seed=4).relu()
    torch.testing.assert_close(made.decode(Code.dense(code)), code @ values + made.decoder.bias)
    first = made.decoder(Code.dense(code), upto=5)
    torch.testing.assert_close(first, code[:, :5] @ values[:5] + made.decoder.bias)


def test_atoms_that_are_not_finite_are_refused_when_they_are_used():
    """A mapped file is not looked through when it is opened."""
    values = draw(F, D, seed=3)
    values[4, 2] = torch.nan
    made = sliced([Piece(0, 0, values)])
    code = torch.eye(F)[[3, 5]]
    torch.testing.assert_close(made.decode(Code.dense(code)), values[[3, 5]] + made.decoder.bias)
    refusal(
        made.decode, Code.dense(torch.eye(F)[[3, 4]]), says="not finite (NaN or infinity), the first that of latent 4"
    )


def test_what_no_piece_covers_is_nothing():
    values = draw(4, 2, seed=3)
    made = sliced([Piece(10, 3, values)])
    full = torch.zeros(F, D)
    full[10:14, 3:5] = values
    assert torch.equal(made.atoms(), full)
    assert torch.equal(made.decoder.weight[torch.tensor([11])], full[11:12])
    assert torch.equal(made.decoder.weight[2:12], full[2:12])
    for piece in (Piece(11, 0, values), Piece(0, 5, values)):
        refusal(sliced, [piece], says="is outside")


def test_a_large_mapped_file_is_not_read_whole(tmp_path):
    """64 MiB of zeros in a sparse file: resident memory grows by what is used."""
    latents, d = 1 << 16, 256
    path = tmp_path / "big.safetensors"
    header = json.dumps(
        {"W_dec": {"dtype": "F32", "shape": [latents, d], "data_offsets": [0, latents * d * 4]}}
    ).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + latents * d * 4)

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    values = Source(tmp_path).tensors("big.safetensors").mapped("W_dec", (latents, d))
    spec = plain(d, latents, ["relu", {}], center=False)
    tensors = {"encoder.weight": torch.zeros(latents, d).T, "encoder.bias": torch.zeros(latents)}
    made = assemble(spec, tensors | {"decoder.bias": torch.ones(d)}, [Piece(0, 0, values)])
    before = resident()
    code = Code.fixed(torch.tensor([[7, 40_000]]), torch.ones(1, 2), latents)
    assert torch.equal(made.decode(code), torch.ones(1, d))
    assert resident() - before < 8 << 20, "the file was read"


def test_kept_it_is_a_plain_dictionary(tmp_path):
    made = sliced([Piece(0, 0, draw(F, D, seed=3).bfloat16())])
    again = wb.load(wb.save(made, tmp_path))
    x = draw(5, D, seed=8)
    torch.testing.assert_close(again.reconstruct(x), made.reconstruct(x))
    assert isinstance(again.decoder.weight, torch.Tensor) and again.decoder.weight.dtype == torch.float32


def test_parts_and_tensors_must_fit():
    spec = plain(D, F, ["relu", {}], center=False)
    refusal(assemble, spec, {"encoder.weight": draw(F, D)}, says="parts and tensors do not fit")
    refusal(assemble, spec | {"encoder": ["os", {}]}, {}, says="encoder must be [kind, arguments]")


# -- configurations


def config(**value):
    return Config(value, "there/config.json")


def test_getters_give_what_is_of_the_type():
    c = config(a="x", n=3, z=0, f=2.5, yes=True, none=None, o={"k": 4}, names=["a"], numbers=[1, 2], e=[])
    assert (c.text("a"), c.integer("n"), c.integer("z"), c.number("f"), c.number("n")) == ("x", 3, 0, 2.5, 3)
    assert c.flag("yes") is True and c.object("o").integer("k") == 4 and c.list("names") == ["a"]
    assert c.list("numbers", of=int) == [1, 2] and c.list("e") == c.list("e", of=int) == []
    assert c.text("none", None) is None and c.text("b", "d") == "d" and c.flag("b", False) is False
    assert c.integer("b", None) is None and c.object("b", None).value == {} and "a" in c and "b" not in c


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda c: c.text("gone"), "there/config.json has no 'gone', only 'a'"),
        (lambda c: c.text("n"), "n must be a text, got 3"),
        (lambda c: c.text("a", among=("p", "q")), "a must be one of p, q, got 'x'"),
        (lambda c: c.text("none"), "none must be a text, got None"),
        (lambda c: c.integer("yes"), "yes must be a whole number of 0 or more, got True"),
        (lambda c: c.integer("f"), "f must be a whole number"),
        (lambda c: c.integer("minus"), "minus must be a whole number of 0 or more, got -1"),
        (lambda c: c.integer("n", least=4), "whole number of 4 or more"),
        (lambda c: c.integer("huge"), "huge must be a whole number"),
        (lambda c: c.integer("digits"), "digits must be a whole number"),
        (lambda c: c.number("yes"), "yes must be a number, got True"),
        (lambda c: c.number("nan"), "nan must be a number, got nan"),
        (lambda c: c.number("inf"), "inf must be a number, got inf"),
        (lambda c: c.number("huge"), "huge must be a number"),
        (lambda c: c.number("z", above=0.0), "z must be a number above 0, got 0"),
        (lambda c: c.flag("z"), "z must be true or false, got 0"),
        (lambda c: c.flag("a", True), "a must be true or false"),
        (lambda c: c.object("names"), "names must be an object"),
        (lambda c: c.object("o").text("k"), "there/config.json: o: k must be a text"),
        (lambda c: c.list("a"), "a must be a list of str"),
        (lambda c: c.list("flags", of=int), "flags must be a list of int"),
        (lambda c: c.list("names", of=int), "names must be a list of int"),
    ],
)
def test_getters_refuse_what_is_not(call, says):
    c = config(
        **{"a": "x", "n": 3, "z": 0, "f": 2.5, "yes": True, "none": None, "o": {"k": 4}, "names": ["a"], "minus": -1},
        **{"huge": 10**400, "digits": "3", "nan": float("nan"), "inf": float("inf"), "flags": [True]},
    )
    refusal(call, c, says=says)


def test_a_thousand_names_are_not_all_told():
    refusal(config(**{f"k{i}" * 20: i for i in range(1000)}).raw, "gone", says="and 994 more")


# -- JSON and YAML


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "cannot be read"),
        ("[1]", "must hold an object with names, got list"),
        ("3", "got int"),
        ('{"a": 1, "a": 2}', "it has 'a' twice"),
        ('{"o": {"k": 1, "k": 1}}', "it has 'k' twice"),
        ('{"a": 1', "cannot be read"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "cannot be read"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "more than 64 deep"),
        ('{"a": 1' + "0" * 5000 + "}", "cannot be read"),
        ('{"a": 1' + "0" * 400 + "}", "far too large"),
    ],
)
def test_json_that_is_none(tmp_path, text, says):
    (tmp_path / "c.json").write_text(text)
    refusal(Source(tmp_path).json, "c.json", says=says)


def test_numbers_that_json_does_not_have_are_texts(tmp_path):
    (tmp_path / "c.json").write_text('{"a": NaN, "b": [-Infinity, 1e999], "c": 2.5}')
    found = Source(tmp_path).json("c.json")
    assert found.value == {"a": "NaN", "b": ["-Infinity", "1e999"], "c": 2.5}
    refusal(found.number, "a", says="a must be a number, got 'NaN'")
    wb.lineage.canonical(found.value)


def test_a_configuration_of_bytes_or_of_a_disk(tmp_path):
    (tmp_path / "c.json").write_bytes(b"\xff\xfe{}")
    refusal(Source(tmp_path).json, "c.json", says="cannot be read")
    with (tmp_path / "c.json").open("wb") as file:
        file.truncate(1 << 34)
    refusal(Source(tmp_path).json, "c.json", says="no configuration is so large")
    refusal(Source(tmp_path).yaml, "c.json", says="no configuration is so large")
    (tmp_path / "d.json").mkdir()
    refusal(Source(tmp_path).json, "d.json", says="cannot be read")


YAML = {
    "an object of Python": "a: !!python/object/apply:os.system ['touch {canary}']",
    "a call of Python": "a: !!python/object/new:os.system ['touch {canary}']",
    "a module": "a: !!python/module:os",
    "a name": "a: !!python/name:os.system",
    "a tuple": "a: !!python/tuple [1, 2]",
    "a set": "a: !!set {{x, y}}",
    "a date": "a: 2024-01-01",
    "bytes": "a: !!binary aGVsbG8=",
    "a name that is no text": "1: x",
    "not a number": "a: .nan",
    "infinity": "a: .inf",
    "two documents": "a: 1\n---\nb: 2",
    "a list": "- 1",
    "nothing": "",
    "a tab": "a:\n\t- b",
    "a bomb": "\n".join(
        ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    ),
    "a ring": "a: &a [*a]",
    "deep": "a: " + "[" * 3000 + "]" * 3000,
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_that_is_not_plain(tmp_path, name):
    canary = tmp_path / "ran"
    (tmp_path / "c.yaml").write_text(YAML[name].format(canary=canary) if "{" in YAML[name] else YAML[name])
    refusal(Source(tmp_path).yaml, "c.yaml", says="c.yaml")
    assert not canary.exists()


def test_plain_yaml_is_read(tmp_path):
    (tmp_path / "c.yaml").write_text("a: 1\nb: [x, 2.5, null, true]\nc: {d: text}\n")
    assert Source(tmp_path).yaml("c.yaml").value == {"a": 1, "b": ["x", 2.5, None, True], "c": {"d": "text"}}


# -- paths


def test_nothing_outside_the_folder_is_named_or_followed(tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    folder = gemma(tmp_path / "his")
    source = Source(folder)
    bad = ["../secret.json", "/etc/passwd", "a/../../secret.json", "..", "", "a\\b", "c:x", "a\0b", "x" * 5000, "./.."]
    for name in bad:
        refusal(source.inside, name, says=str(folder))
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    (folder / "chain.json").symlink_to(folder / "link.json")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    (folder / "away").symlink_to(tmp_path)
    (folder / "same.npz").symlink_to(folder / "params.npz")
    source = Source(folder)
    assert source.files == ("params.npz", "same.npz")
    for name in ("link.json", "chain.json", "away/secret.json", "away"):
        refusal(source.inside, name, says="is a link that leads out of this folder")
    refusal(source.inside, "loop.json", says="is missing")
    assert source.inside("same.npz").exists()


def test_links_of_the_hubs_cache_are_followed(tmp_path):
    """A snapshot is a folder of links into the store beside it."""
    home = tmp_path / "models--google--gemma"
    gemma(home / "made")
    (home / "blobs").mkdir()
    (home / "made" / "params.npz").rename(home / "blobs" / "abc")
    there = home / "snapshots" / "123" / "layer_3"
    there.mkdir(parents=True)
    (there / "params.npz").symlink_to(Path("../../../blobs/abc"))
    (there / "evil.npz").symlink_to(Path("../../../../other"))
    (tmp_path / "other").write_text("")
    assert Source(there).files == ("params.npz",) and wb.load(there).latents == F
    assert Source(there.parent).files == ("layer_3/params.npz",)
    assert wb.load(there.parent, "layer_3").latents == F


def test_names_that_do_not_print_are_refused(tmp_path):
    folder = gemma(tmp_path)
    (folder / "a\nb.npz").write_text("")
    refusal(wb.load, folder, says="holds a file named 'a\\nb.npz'")


def test_too_many_files_and_folders_too_deep(tmp_path, monkeypatch):
    monkeypatch.setattr(_source, "MOST_FILES", 5)
    folder = gemma(tmp_path)
    deep = folder
    for _ in range(9):
        deep = deep / "d"
        deep.mkdir()
        (deep / "f").write_text("")
    assert max(name.count("/") for name in Source(folder).files) <= _source.DEPTH
    for i in range(9):
        (folder / f"{i}").write_text("")
    refusal(wb.load, folder, says="holds more than 5 files")


# -- tensors


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def pickles(canary):
    """Files that are pickles of more than tensors."""
    yield pickle.dumps(Evil(canary))
    yield pickle.dumps({"W_enc": Evil(canary)})
    for legacy in (False, True):
        buffer = io.BytesIO()
        torch.save({"a": torch.ones(2), "b": Evil(canary)}, buffer, _use_new_zipfile_serialization=not legacy)
        yield buffer.getvalue()
        buffer = io.BytesIO()
        torch.save(torch.nn.Linear(2, 2), buffer, _use_new_zipfile_serialization=not legacy)
        yield buffer.getvalue()
    yield b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt"])
def test_a_pickle_that_holds_code_is_not_run(tmp_path, ending):
    canary = tmp_path / "ran"
    for i, data in enumerate(pickles(canary)):
        folder = tmp_path / f"f{i}"
        folder.mkdir()
        (folder / f"x{ending}").write_bytes(data)
        refusal(wb.load, folder, says=f"x{ending}")
        refusal(Source(folder).tensors, f"x{ending}", says="was not opened: it is")
        assert not canary.exists()
    text = refusal(Source(tmp_path / "f2").tensors, f"x{ending}", says="more than tensors and plain values")
    assert "have to run code" in text
    os.system(f"touch {canary}")
    assert canary.exists()  # it would have been seen


def saved(path, value, **how):
    torch.save(value, path, **how)
    return Source(path.parent).tensors(path.name)


def test_pickled_tensors_that_are_not_plain(tmp_path):
    wide = torch.zeros(1).expand(10**6, 10**6)
    odd = {
        "no tensor": 3,
        "a list": [torch.ones(2)],
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.empty(10**6, 10**6, device="meta"),
        "wide": wide,
    }
    for name, value in odd.items():
        path = tmp_path / f"{name}.pt"
        refusal(saved, path, {"W": value}, says=str(path))
    refusal(saved, tmp_path / "list.pt", [torch.ones(2)], says="must hold a dict with names, got list")
    refusal(saved, tmp_path / "number.pt", {3: torch.ones(2)}, says="must hold a dict with names")
    ok = saved(tmp_path / "ok.pt", OrderedDict(W=torch.nn.Parameter(torch.ones(2, 3)), V=torch.ones(3, 2).T))
    assert not ok.take("W", (2, 3)).requires_grad and ok.take("V", (2, 3)).shape == (2, 3)
    legacy = saved(tmp_path / "old.pt", {"W": torch.ones(2)}, _use_new_zipfile_serialization=False)
    assert torch.equal(legacy.take("W", (2,)), torch.ones(2))


def test_take_checks_shape_type_and_numbers(tmp_path):
    save_file(
        {
            "w": torch.ones(2, 3, dtype=torch.float16),
            "nan": torch.tensor([1.0, torch.nan]),
            "long": torch.ones(2, dtype=torch.long),
            "bool": torch.ones(2, dtype=torch.bool),
            "one": torch.tensor(3, dtype=torch.int32),
            "none": torch.ones(0, 4),
            "inf": torch.tensor(torch.inf),
        },
        tmp_path / "t.safetensors",
    )
    t = Source(tmp_path).tensors("t.safetensors")
    assert t.take("w", (2, 3)).dtype == torch.float32 and t.mapped("w", (2, 3)).dtype == torch.float16
    assert t.take("w", (2, 3), dtype=None).dtype == torch.float16 and t.number("one") == 3.0
    assert t.integers("long", (2,)).tolist() == [1, 1] and t.width("w", 1, 2) == 3
    for call, says in (
        (lambda: t.take("w", (3, 2)), "w must be [3, 2], got [2, 3]"),
        (lambda: t.take("gone", (2,)), "has no tensor 'gone', only 'bool'"),
        (lambda: t.take("nan", (2,)), "nan holds numbers that are not finite"),
        (lambda: t.take("long", (2,)), "must hold floats, got int64"),
        (lambda: t.mapped("bool", (2,)), "must hold floats, got bool"),
        (lambda: t.take("none", (0, 4)), "none is empty"),
        (lambda: t.number("w"), "must be one number, got [2, 3]"),
        (lambda: t.number("inf"), "must be finite, got inf"),
        (lambda: t.integers("w", (2, 3)), "must hold whole numbers"),
        (lambda: t.width("one", 0, 1), "one must have 1 axes, got []"),
    ):
        refusal(call, says=says)
    refusal(t.done, says="holds 'bool', 'inf', 'nan', 'none', which this architecture does not have")
    t.skip("bool", "inf", "nan", "none")
    t.done()


def safetensors(path, header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)


LIES = {
    "a header longer than the file": {"header": {}, "size": 10**6},
    "a header of all memory": {"header": {}, "size": 2**63},
    "a tensor longer than the file": {
        "header": {"w": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    },
    "a shape larger than its bytes": {
        "header": {"w": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 8]}},
        "data": bytes(8),
    },
    "a shape that overflows": {
        "header": {"w": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 8]}},
        "data": bytes(8),
    },
    "offsets that overlap": {
        "header": {
            "v": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "w": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        "data": bytes(12),
    },
    "bytes to spare": {"header": {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "data": bytes(400)},
    "negative offsets": {"header": {"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, "data": bytes(4)},
    "a type that does not exist": {
        "header": {"w": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}},
        "data": bytes(4),
    },
    "no JSON": {"header": b"{]"},
    "deep": {"header": b'{"w":' + b"[" * 10000},
}


@pytest.mark.parametrize("name", LIES)
def test_a_safetensors_header_that_lies(tmp_path, name):
    safetensors(tmp_path / "w.safetensors", **LIES[name])
    refusal(Source(tmp_path).tensors, "w.safetensors", says="is not a whole safetensors file")


def npy(shape, descr="<f4", data=b""):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def archive(path, members, packed=zipfile.ZIP_STORED, **sizes):
    with zipfile.ZipFile(path, "w", packed) as file:
        for name, data in members:
            file.writestr(name, data)
    if sizes:  # the size in the directory at the end
        data = bytearray(path.read_bytes())
        at = data.rindex(b"PK\x01\x02")
        struct.pack_into("<II", data, at + 20, sizes.get("compressed", 2**31), sizes["size"])
        path.write_bytes(data)


@pytest.mark.parametrize(
    "name, how",
    [
        ("a shape larger than its bytes", {"members": [("w.npy", npy((10**6, 10**6)))]}),
        ("and a size that fits it", {"members": [("w.npy", npy((25000, 10000), data=bytes(64)))], "size": 10**9 + 128}),
        (
            "and both sizes",
            {"members": [("w.npy", npy((25000, 10000)))], "size": 10**9 + 128, "compressed": 10**9 + 128},
        ),
        ("objects", {"members": [("w.npy", npy((1,), "|O", pickle.dumps([1])))]}),
        ("texts", {"members": [("w.npy", npy((1,), "<U4", bytes(16)))]}),
        ("fields", {"members": [("w.npy", npy((1,), [("a", "<f4")], bytes(4)))]}),
        ("a negative shape", {"members": [("w.npy", npy((-1, -4), data=bytes(16)))]}),
        ("no array", {"members": [("w.npy", b"hello")]}),
        ("two of a name", {"members": [("w.npy", npy((1,), data=bytes(4))), ("w", npy((1,), data=bytes(4)))]}),
        ("code in the header", {"members": [("w.npy", npy("__import__('os').system('true')"))]}),
        ("nothing", {"members": []}),
    ],
)
def test_an_archive_that_lies(tmp_path, name, how):
    archive(tmp_path / "params.npz", **how)
    text = refusal(wb.load, tmp_path, says="params.npz")
    assert ("is not a whole NumPy archive" in text) == (name != "nothing")


def test_an_archive_that_is_none(tmp_path):
    for data in (b"", b"PK\x03\x04", b"\x80\x04K\x01.", np.ones(3).tobytes()):
        (tmp_path / "params.npz").write_bytes(data)
        refusal(wb.load, tmp_path, says="is not a whole NumPy archive of numbers")


def test_a_packed_archive_is_read_and_a_bomb_is_bounded(tmp_path):
    folder = gemma(tmp_path)
    plain_copy = wb.load(folder)
    with np.load(folder / "params.npz") as held:
        np.savez_compressed(folder / "params.npz", **dict(held))
    assert torch.equal(wb.load(folder).decoder.weight, plain_copy.decoder.weight)


def test_columns_first_and_other_floats(tmp_path):
    folder = gemma(tmp_path)
    first = wb.load(folder)
    with np.load(folder / "params.npz") as held:
        arrays = {k: np.asfortranarray(v.astype(np.float64)) for k, v in held.items()}
    np.savez(folder / "params.npz", **arrays)
    assert torch.equal(wb.load(folder).encoder.weight, first.encoder.weight)


def test_no_file_of_a_format_opens_a_path_by_itself():
    """All reading goes through Source, which does not leave the folder."""
    here = Path(formats.__file__).parent
    for path in here.glob("*.py"):
        if path.name in ("_source.py", "_own.py", "_hub.py"):
            continue
        text = path.read_text()
        for word in (
            "torch.load",
            "import pickle",
            "np.load(",
            "safe_open(",
            "load_file",
            "_load(",
            "eval(",
            "exec(",
            "subprocess",
        ):
            assert word not in text, (path.name, word)

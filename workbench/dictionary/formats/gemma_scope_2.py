"""Gemma Scope 2: `config.json` and `params.safetensors`, JumpReLU, rows as they are (Google DeepMind 2025, Gemma 3).

One layer's SAE or transcoder; or `params_layer_0.safetensors`, ... of a cross-layer transcoder or a crosscoder.
"""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._parts import Found, Piece, plain
from ._sites import site_of
from ._source import Config, Source, Tensors
from .circuit_tracer import across

CONFIG, FILE = "config.json", "params.safetensors"
LAYER = r"params_layer_(0|[1-9]\d{0,3})\.safetensors"
TYPES = ("sae", "transcoder", "clt", "crosscoder")
SKIP = "affine_skip_connection"
PLACE = re.compile(r"(.*layers\.)(\d{1,4}|\{all\}|\{\d{1,4}(?:, ?\d{1,4})*\})(\..*)?\.(input|output)")
NORMS = {  # Gemma's norms around the MLP: what they give, as a place whose name we know
    ".pre_feedforward_layernorm.output": ".mlp:in",
    ".post_feedforward_layernorm.output": "hook_mlp_out",
}


class LayersSkip(nn.Module):
    """A linear skip connection of each layer to itself: y_layer += x_layer A, `weight` (layer, in, out)."""

    def __init__(self, sites: int, d: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(sites, d, d))

    def forward(self, x: Float[Tensor, "row site d"]) -> Float[Tensor, "row site d"]:
        return torch.einsum("bsi,sio->bso", x, self.weight)


def sniff(source: Source) -> bool:
    """The file's own name beside a configuration, or the numbered ones."""
    return CONFIG in source.top and (FILE in source.top or bool(_layers(source)))


def read(source: Source, part: str) -> Found:
    """h = x w_enc + b_enc, rectified and on where h > threshold; y = f w_dec + b_dec (+ x affine_skip_connection).

    No bias is taken from the row. A transcoder reads what the MLP receives, after the norm's gain, and writes what is
    added, after the post-norm. Rows of several layers are (layer, d): each latent reads the layer of its file, and may
    write to all. Their site is None; a crosscoder's layers are in `training_summary["config"]["hf_hook_point_in"]`.
    """
    config = source.json(CONFIG)
    config.text("architecture", among=("jump_relu",))
    config.text("type", None, among=TYPES)
    model, width = config.text("model_name", None), config.integer("width", None, least=1)
    affine = config.flag("affine_connection", False)
    if layers := _layers(source):
        found, latents = _several(source, layers, affine)
    else:
        found, latents = _one(source.tensors(FILE), affine)
    if width is not None and width != latents:
        raise ValueError(f"{config.where} says width {width}, the weights have {latents} latents")
    reads, writes = _places(config, several=bool(layers))
    return found._replace(reads=reads, writes=writes, model=model, config=config.value)


def _layers(source: Source) -> list[int]:
    return sorted(int(match[1]) for name in source.top if (match := re.fullmatch(LAYER, name)))


def _one(tensors: Tensors, affine: bool) -> tuple[Found, int]:
    d, latents = tensors.width("w_enc", 0, 2), tensors.width("w_enc", 1, 2)
    d_out = tensors.width("w_dec", 1, 2)
    held = {
        "encoder.weight": tensors.take("w_enc", (d, latents)),
        "encoder.bias": tensors.take("b_enc", (latents,)),
        "sparsifier.threshold": tensors.take("threshold", (latents,)),
        "decoder.weight": tensors.take("w_dec", (latents, d_out)),
        "decoder.bias": tensors.take("b_dec", (d_out,)),
    }
    if affine:
        held["skip.weight"] = tensors.take(SKIP, (d, d_out)).T
    tensors.done()
    skip = ["linear", {"d": d, "d_out": d_out}] if affine else None
    return Found(
        plain(d, latents, ["jumprelu", {"latents": latents}], d_out=d_out, center=False, skip=skip), held
    ), latents


def _several(source: Source, layers: list[int], affine: bool) -> tuple[Found, int]:
    n = len(layers)
    if layers != list(range(n)) or FILE in source.top:
        raise ValueError(
            f"{source} must have params_layer_0.safetensors, params_layer_1.safetensors, ... without a gap and no "
            f"{FILE}, got layers {layers}: copy the whole folder"
        )
    files = [source.tensors(f"params_layer_{i}.safetensors") for i in layers]
    d, each = files[0].width("w_enc", 0, 2), files[0].width("w_enc", 1, 2)
    if (wanted := files[0].width("w_dec", 1, 3)) != n:
        raise ValueError(
            f"{source} has the files of {n} layers, their latents write to {wanted}: copy the whole folder"
        )
    weights, biases, thresholds, outs, skips, pieces = [], [], [], [], [], []
    for i, file in enumerate(files):
        weights.append(file.take("w_enc", (d, each)))
        biases.append(file.take("b_enc", (each,)))
        thresholds.append(file.take("threshold", (each,)))
        outs.append(file.take("b_dec", (d,)))
        if affine:
            skips.append(file.take(SKIP, (d, d)))
        pieces.append(Piece(i * each, 0, file.mapped("w_dec", (each, n, d)).flatten(1)))
        file.done()
    tensors = {
        "encoder.weight": torch.stack(weights),
        "encoder.bias": torch.cat(biases),
        "sparsifier.threshold": torch.cat(thresholds),
        "decoder.bias": torch.stack(outs),
    }
    if affine:
        tensors["skip.weight"] = torch.stack(skips)
    return Found(across(n, d, each, True, signed=False, skip=affine), tensors, pieces=tuple(pieces)), n * each


def _places(config: Config, *, several: bool) -> tuple[str | None, str | None]:
    """Where it reads and, if elsewhere, writes, by names whose site we know; of several layers nothing."""
    reads = config.text("hf_hook_point_in")
    writes = config.text("hf_hook_point_out", None)
    found = []
    for name in dict.fromkeys([reads, writes or reads]):
        match = PLACE.fullmatch(name)
        if match is None or match[2].startswith("{") != several:
            what = "layers such as model.layers.{all}.output" if several else "a place such as model.layers.12.output"
            raise ValueError(f"{config.where}: hf_hook_point_in and hf_hook_point_out must name {what}, got {name!r}")
        found.append(_known(match))
    if several:
        kind = config.text("type", None, among=TYPES)
        streams = [site_of(name).stream for name in found]
        if (kind == "clt" and streams != ["mlp_in", "mlp_out"]) or (kind == "crosscoder" and len(set(streams)) != 1):
            raise ValueError(f"{config.where}: a {kind} from {reads} to {writes} is not known: its rows may be others")
        return None, None
    return found[0], found[1] if len(found) > 1 else None


def _known(match: re.Match[str]) -> str:
    """A place's name as our sites are known by; of several layers at the first."""
    layer = match[2] if match[2].isdecimal() else "0"
    inner = NORMS.get(f"{match[3] or ''}.{match[4]}")
    if inner == "hook_mlp_out":
        return f"blocks.{layer}.{inner}"
    return f"{match[1]}{layer}" + (inner or f"{match[3] or ''}:{match[4].removesuffix('put')}")

"""circuit-tracer: a transcoder for each layer, or a cross-layer one (Hanna et al. 2025, decoderesearch/circuit-tracer).

`config.yaml` names the places, `layer_3.safetensors` is layer 3's transcoder; of a cross-layer one each layer has
`W_enc_3.safetensors` and `W_dec_3.safetensors`, what its latents write to layers 3, 4, ...
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ... import lineage
from ...site import Site
from .. import decoders, encoders, sparsifiers
from ..core import Dictionary
from ..variants.crosslayer_transcoder import Layers
from ._parts import Found, Piece, Sliced, Threshold, plain, spec
from ._source import Config, Source, shown
from .openai import Largest

CONFIG = "config.yaml"
KINDS = ("transcoder_set", "cross_layer_transcoder")
LAYER, ENCODER, DECODER = (rf"{name}_(0|[1-9]\d{{0,3}})\.safetensors" for name in ("layer", "W_enc", "W_dec"))
THRESHOLD = "activation_function.threshold"
MODULES = {"mlp.hook_in": "mlp:in", "mlp.hook_out": "mlp:out"}  # its own hooks around the module
ACTIVATIONS = ("relu", "jumprelu", "jump_relu", "topk")
READS, WRITES = ("mlp.hook_in",), ("hook_mlp_out", "mlp.hook_out")  # our mlp_in and mlp_out; the first is written
HOOKS = ("feature_input_hook", "feature_output_hook")


def sniff(source: Source) -> bool:
    """Files of layers by their names, or a configuration of theirs."""
    if source.only is not None:
        return re.fullmatch(LAYER, source.only) is not None and (source.path / CONFIG).is_file()
    if _layers(source, LAYER) or (_layers(source, ENCODER) and _layers(source, DECODER)):
        return CONFIG in source.top or not any(name.endswith(".json") for name in source.top)
    try:
        return CONFIG in source.top and source.yaml(CONFIG).raw("model_kind", None) in KINDS
    except ValueError:
        return False


def parts(source: Source) -> list[str]:
    """The layers of a set; a cross-layer transcoder is one dictionary."""
    config = source.yaml(CONFIG)
    return [""] if config.text("model_kind", among=KINDS) == KINDS[1] else [str(i) for i in _files(source, config)]


def read(source: Source, part: str) -> Found:
    """f = act(x W_enc^T + b_enc), y = f W_dec + b_dec (+ x W_skip^T); no bias is taken from the row.

    JumpReLU does not rectify: what is above a threshold below 0 passes. A cross-layer transcoder's rows are (layer, d)
    and its decoder stays in its files; it has no site when it reads what MLPs receive, as ours. Most published ones
    read `hook_resid_mid`, before the norm: no stream of ours, so that `site=` must be given, the first layer's.
    Their code is 0 at a text's first position, which is not done here.
    """
    config = source.yaml(CONFIG)
    model = config.text("model_name", None)
    reads, writes = config.text("feature_input_hook"), config.text("feature_output_hook")
    if config.text("model_kind", among=KINDS) == KINDS[1]:
        found = _across(source)
        ours = reads in READS and writes in WRITES
        at = (None, None) if ours else (f"blocks.{{all}}.{reads}", f"blocks.{{all}}.{writes}")
    else:
        found = _single(source, _files(source, config)[int(part)], config)
        at = (_name(int(part), reads), _name(int(part), writes))
    return found._replace(reads=at[0], writes=at[1], model=model, config=config.value)


def _name(layer: int, hook: str) -> str:
    return f"model.layers.{layer}.{MODULES[hook]}" if hook in MODULES else f"blocks.{layer}.{hook}"


def _layers(source: Source, pattern: str) -> list[int]:
    return sorted(int(match[1]) for name in source.top if (match := re.fullmatch(pattern, name)))


def _files(source: Source, config: Config) -> dict[int, str]:
    """The file of each layer of a set."""
    if "transcoders" not in config:
        found = {i: f"layer_{i}.safetensors" for i in _layers(source, LAYER)}
        if not found:
            raise ValueError(f"{source} has no layer_0.safetensors, layer_1.safetensors, ...: copy the whole folder")
        return found
    names = config.list("transcoders")
    if away := [name for name in names if name.startswith("hf://")]:
        raise ValueError(
            f"{config.where} names {len(away)} files on the hub, the first {shown(away[0])}: fetch them, and open each "
            "in its own format (gemma_scope, gemma_scope_2, or here as layer_0.safetensors without `transcoders:`)"
        )
    if odd := [name for name in names if not name.endswith(".safetensors")]:
        raise ValueError(f"{config.where} names {shown(odd[0])}: only safetensors are read here")
    return dict(enumerate(names))


def _single(source: Source, file: str, config: Config) -> Found:
    tensors = source.tensors(file)
    latents, d = tensors.width("W_enc", 0, 2), tensors.width("W_enc", 1, 2)
    held = {
        "encoder.weight": tensors.take("W_enc", (latents, d)).T,
        "encoder.bias": tensors.take("b_enc", (latents,)),
        "decoder.weight": tensors.take("W_dec", (latents, d)),
        "decoder.bias": tensors.take("b_dec", (d,)),
    }
    act = config.text("activation", None, among=ACTIVATIONS)
    if act == "topk":
        k = config.integer("k", least=1)
        if k > latents:
            raise ValueError(f"{config.where}: k must be at most the {latents} latents of {file}, got {k}")
        sparsifier: Any = ["largest", {"k": k, "latents": latents}]
    elif act == "relu" or (act is None and THRESHOLD not in tensors):
        sparsifier = ["relu", {}]
    else:
        sparsifier = ["jumprelu", {"latents": latents, "signed": True}]
        held["sparsifier.threshold"] = tensors.take(THRESHOLD, (latents,))
    if "W_skip" in tensors:
        held["skip.weight"] = tensors.take("W_skip", (d, d))
    tensors.done()
    skip = ["linear", {"d": d, "d_out": d}] if "skip.weight" in held else None
    return Found(plain(d, latents, sparsifier, center=False, skip=skip), held)


def _across(source: Source) -> Found:
    """A cross-layer transcoder: latents layer by layer, atoms (layer, d) that are 0 before their own layer."""
    layers = _layers(source, ENCODER)
    n = len(layers)
    if not n or layers != list(range(n)) or _layers(source, DECODER) != layers:
        raise ValueError(
            f"{source} must have W_enc_0.safetensors, W_enc_1.safetensors, ... and as many W_dec files, without a gap, "
            f"got W_enc of {shown(layers)} and W_dec of {shown(_layers(source, DECODER))}"
        )
    files = [source.tensors(f"W_enc_{i}.safetensors") for i in layers]
    latents, d = files[0].width("W_enc_0", 0, 2), files[0].width("W_enc_0", 1, 2)
    jumps = "threshold_0" in files[0]
    weights, biases, outs, thresholds, pieces = [], [], [], [], []
    for i, file in enumerate(files):
        weights.append(file.take(f"W_enc_{i}", (latents, d)))
        biases.append(file.take(f"b_enc_{i}", (latents,)))
        outs.append(file.take(f"b_dec_{i}", (d,)))
        if jumps:
            thresholds.append(file.take(f"threshold_{i}", (latents,)))
        file.done()
        decoder = source.tensors(f"W_dec_{i}.safetensors")
        values = decoder.mapped(f"W_dec_{i}", (latents, n - i, d))
        decoder.done()
        pieces.append(Piece(i * latents, i * d, values.flatten(1)))
    tensors = {
        "encoder.weight": torch.stack(weights).mT,
        "encoder.bias": torch.cat(biases),
        "decoder.bias": torch.stack(outs),
    }
    if jumps:
        tensors["sparsifier.threshold"] = torch.cat(thresholds)
    return Found(across(n, d, latents, jumps, signed=True), tensors, pieces=tuple(pieces))


def across(sites: int, d: int, each: int, jumps: bool, *, signed: bool, skip: bool = False) -> dict[str, Any]:
    """The spec of a cross-layer transcoder of `each` latents a layer."""
    sparsifier = ["jumprelu", {"latents": sites * each, "signed": signed}] if jumps else ["relu", {}]
    return spec(
        ["layers", {"sites": sites, "d": d, "latents": sites * each}],
        sparsifier,
        ["linear", {"shape": [sites, d], "latents": sites * each, "unit": False}],
        (sites, d),
        ["layers", {"sites": sites, "d": d}] if skip else None,
    )


def write(dictionary: Dictionary, folder: Path) -> None:
    """One layer of a set, in a folder that may hold other layers already; or a cross-layer transcoder.

    Scales and a centred encoder go into the weights. The k largest are said in the configuration, which version 0.5.0
    does not look at, later ones do. Raises ValueError for what the format cannot say: another place than an MLP's input
    and output, other widths, choices other than ReLU, a threshold or the signed largest, and a folder whose layers are
    of another kind.
    """
    crosses = isinstance(dictionary.encoder, Layers)
    layer = _layer(dictionary, crosses)
    act, threshold = _choice(dictionary.sparsifier, dictionary.latents)
    kind = {"model_kind": KINDS[crosses]} | _hooks(dictionary.training_summary) | act
    if isinstance(model := dictionary.training_summary.get("model"), str):
        kind["model_name"] = model
    if crosses and act:
        raise ValueError("a cross-layer transcoder of circuit-tracer is on by ReLU or a threshold, not by k")
    config = _config(folder, kind)
    if crosses:
        if folder.exists() and len(there := _layers(Source(folder), ENCODER)) > dictionary.shape[0]:
            raise ValueError(f"{folder} holds one of {len(there)} layers, this has {dictionary.shape[0]}: give another")
        files = _crossing(dictionary, threshold)
    else:
        files = [(f"layer_{layer}", _plain(dictionary, threshold))]
        _check_beside(folder, files[0][1])
    for name, tensors in files:
        lineage.write_tensors(folder / f"{name}.safetensors", {k: v.contiguous() for k, v in tensors.items()})
    lineage.write(folder / CONFIG, config)


def _hooks(summary: Mapping[str, Any]) -> dict[str, str]:
    """What circuit-tracer calls the places: as a set that was read had it."""
    own = summary.get("config", {}) if summary.get("format") == "circuit_tracer" else {}
    return {
        name: own[name] if own.get(name) in known else known[0]
        for name, known in zip(HOOKS, (READS, WRITES), strict=True)
    }


def _check_beside(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError when the folder's other layers have another shape, or a skip connection where this has none."""
    if folder.exists() and (layers := _layers(source := Source(folder), LAYER)):
        there = source.tensors(f"layer_{layers[0]}.safetensors")
        own = (*there.shape("W_enc"), "W_skip" in there)
        came = (*tensors["W_enc"].shape, "W_skip" in tensors)
        if own != came:
            what = " to ".join("{} latents, width {}, skip connection {}".format(*kind) for kind in (own, came))
            raise ValueError(f"{folder} holds layers of another kind, which a set cannot: {what}")


def _layer(dictionary: Dictionary, crosses: bool) -> int:
    """Which layer a dictionary stands for. Raises ValueError where it reads or writes something else."""
    site, target = dictionary.site, dictionary.target
    if crosses and site is None and target is None:
        return 0
    if site is None or site.layer is None or site.stream != "mlp_in" or target != Site(site.layer, "mlp_out"):
        raise ValueError(
            f"circuit-tracer's transcoders read what an MLP receives and write what it adds (3.mlp_in, 3.mlp_out), "
            f"this one reads {site} and writes {target}: set dictionary.site and dictionary.target if they are wrong"
        )
    return site.layer


def _choice(sparsifier: Any, latents: int) -> tuple[dict[str, Any], Tensor | None]:
    """What the configuration says of the activation, and a threshold for each latent."""
    if isinstance(sparsifier, Largest):
        return {"activation": "topk", "k": sparsifier.k}, None
    if type(sparsifier) is sparsifiers.ReLU:
        return {}, None
    if isinstance(sparsifier, Threshold | sparsifiers.JumpReLU | sparsifiers.BatchTopK):
        threshold = sparsifier.threshold.detach()
        if isinstance(sparsifier, sparsifiers.BatchTopK) and threshold < 0:
            raise ValueError("BatchTopK has no threshold yet: train for a step before writing")
        if isinstance(sparsifier, Threshold) and not sparsifier.signed:
            threshold = threshold.clamp(min=0)  # rectified first: what is below 0 never passes
        return {}, threshold.expand(latents)
    raise ValueError(
        f"circuit-tracer has ReLU, JumpReLU and the k largest with their signs, not {type(sparsifier).__name__}"
    )


def _scaled(dictionary: Dictionary) -> tuple[Tensor, Tensor]:
    return dictionary.scale_in.detach(), dictionary.scale_out.detach()


@torch.no_grad()
def _plain(dictionary: Dictionary, threshold: Tensor | None) -> dict[str, Tensor]:
    """The tensors of one layer, in the model's units."""
    encoder, decoder, skip = dictionary.encoder, dictionary.decoder, dictionary.skip
    (s_in, s_out), d = _scaled(dictionary), dictionary.d
    if type(encoder) is not encoders.Linear or type(decoder) is not decoders.Linear:
        raise ValueError(
            "circuit-tracer has linear encoders and decoders, not "
            f"{type(encoder).__name__} and {type(decoder).__name__}"
        )
    if dictionary.shape != (d,) or decoder.shape != (d,):
        raise ValueError(
            f"circuit-tracer's rows are (d), read and written alike, got {dictionary.shape} to {tuple(decoder.shape)}"
        )
    weight, bias = encoder.weight.detach(), encoder.bias
    bias = weight.new_zeros(dictionary.latents) if bias is None else bias.detach()
    if encoder.center:
        bias = bias - decoder.bias.detach() @ weight
    found = {
        "W_enc": weight.T * s_in,
        "b_enc": bias,
        "W_dec": decoder.weight.detach() / s_out,
        "b_dec": decoder.bias.detach() / s_out,
    }
    if threshold is not None:
        found[THRESHOLD] = threshold
    if skip is not None:
        if not isinstance(skip, torch.nn.Linear) or skip.bias is not None:
            raise ValueError(f"circuit-tracer's skip connection is one matrix, this one is {type(skip).__name__}")
        found["W_skip"] = skip.weight.detach() * (s_in / s_out)
    return found


def _crossing(dictionary: Dictionary, threshold: Tensor | None) -> Any:
    """(file, tensors) of a cross-layer transcoder, one at a time. Raises ValueError for writing to earlier layers."""
    (n, d), (s_in, s_out) = dictionary.shape, _scaled(dictionary)
    each = dictionary.latents // n
    decoder: Any = dictionary.decoder
    if dictionary.skip is not None or not isinstance(decoder, decoders.Linear | Sliced) or decoder.shape != (n, d):
        raise ValueError("a cross-layer transcoder of circuit-tracer has a linear decoder of all layers and no skip")
    if dictionary.latents % n:
        raise ValueError(f"{dictionary.latents} latents are no equal block for each of {n} layers")
    blocks = [slice(i * each, (i + 1) * each) for i in range(n)]
    for i, block in enumerate(blocks[1:], 1):
        if decoder.weight[block].unflatten(1, (n, d))[:, :i].any():
            raise ValueError(f"latents of layer {i} write to an earlier layer, which circuit-tracer cannot say")

    def made() -> Any:
        for i, block in enumerate(blocks):
            found = {
                f"W_enc_{i}": dictionary.encoder.weight[i].detach().T * s_in,
                f"b_enc_{i}": dictionary.encoder.bias[block].detach(),
                f"b_dec_{i}": decoder.bias[i].detach() / s_out,
            }
            if threshold is not None:
                found[f"threshold_{i}"] = threshold[block]
            yield f"W_enc_{i}", found
            atoms: Float[Tensor, "latent layer d"] = decoder.weight[block].detach().unflatten(1, (n, d))[:, i:]
            yield f"W_dec_{i}", {f"W_dec_{i}": atoms / s_out}

    return made()


def _config(folder: Path, wanted: Mapping[str, Any]) -> bytes:
    """The text of the configuration, with what the folder's own says beside. Raises ValueError where they differ."""
    import yaml

    own = Source(folder).yaml(CONFIG).value if (folder / CONFIG).exists() else {}
    said = ("model_kind", "activation", "k", "transcoders", *HOOKS)
    if own and any(own.get(name) != wanted.get(name) for name in said):
        off = next(name for name in said if own.get(name) != wanted.get(name))
        raise ValueError(
            f"{folder / CONFIG} has {off}: {shown(own.get(off))}, this dictionary {shown(wanted.get(off))}: "
            "give a folder of its own"
        )
    if own.get("model_name", wanted.get("model_name")) != wanted.get("model_name", own.get("model_name")):
        raise ValueError(f"{folder / CONFIG} is of {shown(own['model_name'])}, this of {wanted['model_name']}")
    return yaml.safe_dump(own | dict(wanted), sort_keys=True).encode()

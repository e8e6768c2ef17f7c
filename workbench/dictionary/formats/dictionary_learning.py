"""dictionary_learning: `ae.pt` and `config.json`, final, checkpoints or cut short (Marks, Karvonen and Mueller)."""

import re
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ._parts import Found, plain
from ._source import Config, Source, Tensors, held, unpickled

CONFIG = "config.json"
FILE = re.compile(r"ae\.pt|ae_(?P<step>\d{1,15})\.pt")
RESIDUAL = re.compile(r"resid_post_layer_(\d{1,4})")  # what the owner's own scripts call a block's output
SCALED = ("encoder.bias", "decoder.bias", "sparsifier.bias", "sparsifier.gate", "sparsifier.threshold")
CLASSES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
)


def sniff(source: Source) -> bool:
    """`ae.pt`, or checkpoints `ae_<step>.pt` in a folder of that name, in one folder or in several."""
    return bool(parts(source))


def parts(source: Source) -> list[str]:
    """Folders with an `ae.pt`, such as `trainer_0` of a run, and `checkpoints/ae_<step>` in them."""
    if source.only is not None:
        return [""] if FILE.fullmatch(source.only) else []
    found = []
    for name in map(PurePosixPath, source.files):
        if name.name == "ae.pt":
            found.append((str(name.parent), -1, "" if str(name.parent) == "." else str(name.parent)))
        elif name.parent.name == "checkpoints" and (match := FILE.fullmatch(name.name)):
            found.append((str(name.parent.parent), int(match["step"]), str(name.with_suffix(""))))
    return [part for _, _, part in sorted(found)]


def read(source: Source, part: str) -> Found:
    """As `load_dictionary` has it: an `AutoEncoder` with atoms of norm 1 and its code scaled to fit, others as saved.

    BatchTopK and Matryoshka choose by the threshold that training followed. A run that was cut short leaves weights for
    rows over `norm_factor`: biases and thresholds are multiplied by it, as the owner does when training ends, and the
    configuration kept here says so under `interrupted`.
    """
    folder, file = _names(source, part)
    config = source.json(folder + CONFIG)
    trainer = config.object("trainer")
    kind = trainer.text("dict_class", among=CLASSES)
    tensors, scale, step = _state(source, folder + file)
    spec, found = _gated(tensors) if kind == "GatedAutoEncoder" else _plain(kind, tensors, trainer)
    tensors.done()
    sizes = {"activation_dim": len(found["decoder.bias"]), "dict_size": len(found["decoder.weight"])}
    for name, size in sizes.items():
        if trainer.integer(name, size) != size:
            raise ValueError(f"{trainer.where}: {name} is {trainer.value[name]}, the tensors have {size}")
    if scale is not None:
        if kind == "AutoEncoderNew" and scale != 1:
            raise ValueError(f"{tensors.path}: norm_factor is {scale}, and the owner cannot scale an AutoEncoderNew")
        found |= {name: found[name] * scale for name in SCALED if name in found}
        config.value["interrupted"] = {"step": step, "norm_factor_applied": scale}
    reads, writes = _places(config, trainer)
    return Found(spec, found, reads, writes, trainer.text("lm_name", None), config.value)


def _names(source: Source, part: str) -> tuple[str, str]:
    """The folder of the configuration, and the file beneath it."""
    if source.only is not None:
        if not (source.path / CONFIG).is_file():
            raise ValueError(f"{source} has no {CONFIG} beside it: give the folder, and part= `checkpoints/ae_<step>`")
        return "", source.only
    folder = PurePosixPath(part)
    if folder.parent.name == "checkpoints" and FILE.fullmatch(f"{folder.name}.pt"):
        above = folder.parent.parent
        return "" if str(above) == "." else f"{above}/", f"checkpoints/{folder.name}.pt"
    return f"{part}/" if part else "", "ae.pt"


def _state(source: Source, name: str) -> tuple[Tensors, float | None, int | None]:
    """The state dict, and of a run that was cut short the factor that its biases still lack, and the step."""
    path = source.inside(name)
    source.used.append(name)
    saved = unpickled(path)
    if not {"ae", "norm_factor"} & saved.keys():
        return held(saved, path), None, None
    state = saved.get("ae")
    if not isinstance(state, dict) or "norm_factor" not in saved or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path} must hold a state dict `ae` with its `norm_factor`, got {', '.join(sorted(saved))}")
    said = Config(saved, str(path))
    return held(state, path), float(said.number("norm_factor", None, above=0) or 1), said.integer("step")


def _plain(kind: str, tensors: Tensors, trainer: Config) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All but the gated one: a linear encoder and a linear decoder."""
    new, flat = kind == "AutoEncoderNew", kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")
    if flat:
        d, latents = tensors.width("W_enc", 0, 2), tensors.width("W_enc", 1, 2)
        encoder, bias = tensors.take("W_enc", (d, latents)), tensors.take("b_enc", (latents,))
        atoms = tensors.take("W_dec", (latents, d))
    else:
        latents, d = tensors.width("encoder.weight", 0, 2), tensors.width("encoder.weight", 1, 2)
        encoder, bias = tensors.take("encoder.weight", (latents, d)).T, tensors.take("encoder.bias", (latents,))
        atoms = tensors.take("decoder.weight", (d, latents)).T
    shift = tensors.take("decoder.bias" if new else "bias" if kind == "AutoEncoder" else "b_dec", (d,))
    if kind == "AutoEncoder":
        encoder, bias, atoms = _normalised(encoder, bias, atoms, tensors)
    sparsifier, more = _sparsifier(kind, tensors, trainer, latents)
    center = kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    found = {"encoder.weight": encoder, "encoder.bias": bias, "decoder.weight": atoms, "decoder.bias": shift}
    return plain(d, latents, sparsifier, center=center), found | more


def _normalised(encoder: Tensor, bias: Tensor, atoms: Tensor, tensors: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """Norms taken from atoms to the encoder, unless all are 1 as near as the owner looks."""
    norms = atoms.norm(dim=1)
    if torch.allclose(norms, torch.ones_like(norms)):
        return encoder, bias, atoms
    if not norms.all():
        raise ValueError(f"{tensors.path}: {int((norms == 0).sum())} atoms have norm 0, and the owner divides by it")
    return encoder * norms, bias * norms, atoms / norms[:, None]


def _sparsifier(kind: str, tensors: Tensors, trainer: Config, latents: int) -> tuple[list[Any], dict[str, Tensor]]:
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return ["relu", {}], {}
    if kind == "JumpReluAutoEncoder":
        each = {"sparsifier.threshold": tensors.take("threshold", (latents,))}
        return ["jumprelu", {"latents": latents}], each
    k = int(tensors.integers("k", ())) if "k" in tensors else trainer.integer("k", least=1)
    if trainer.integer("k", k) != k:
        raise ValueError(f"{trainer.where}: k is {trainer.value['k']}, {tensors.path} has {k}")
    if kind == "AutoEncoderTopK":
        tensors.skip("threshold")  # an alternative to k that the owner does not use unless asked
        return ["topk", {"k": k, "latents": latents}], {}
    threshold = tensors.take("threshold", ())
    if threshold < 0:
        raise ValueError(
            f"{tensors.path}: threshold is {float(threshold):g}, it was never set: training did not reach "
            "threshold_start_step, take a later checkpoint"
        )
    if kind == "MatryoshkaBatchTopKSAE":
        groups = tensors.integers("group_sizes", (tensors.width("group_sizes", 0, 1),))
        if int(groups.sum()) != latents or not bool((groups > 0).all()):
            raise ValueError(f"{tensors.path}: group_sizes {groups.tolist()} must add up to {latents} latents")
    return ["jumprelu", {"latents": latents, "each": False}], {"sparsifier.threshold": threshold}


def _gated(tensors: Tensors) -> tuple[dict[str, Any], dict[str, Tensor]]:
    latents, d = tensors.width("encoder.weight", 0, 2), tensors.width("encoder.weight", 1, 2)
    spec = plain(d, latents, ["gated", {"latents": latents}], center=True)
    spec["encoder"][1]["bias"] = False
    return spec, {
        "encoder.weight": tensors.take("encoder.weight", (latents, d)).T,
        "sparsifier.gate": tensors.take("gate_bias", (latents,)),
        "sparsifier.bias": tensors.take("mag_bias", (latents,)),
        "sparsifier.log_gain": tensors.take("r_mag", (latents,)),
        "decoder.weight": tensors.take("decoder.weight", (d, latents)).T,
        "decoder.bias": tensors.take("decoder_bias", (d,)),
    }


def _places(config: Config, trainer: Config) -> tuple[str | None, str | None]:
    """Where it reads and, if elsewhere, writes, by the name the user gave the module and the buffer's `io`."""
    name, buffer = trainer.text("submodule_name", None), config.object("buffer", {})
    if name is None or (buffer.value and "io" not in buffer):  # a buffer of heads does not say which head
        return None, None
    io = buffer.text("io", "out", among=("in", "out", "in_and_out"))
    if io == "out":
        match = RESIDUAL.fullmatch(name)
        return (f"blocks.{int(match[1])}.hook_resid_post" if match else name), None
    return f"{name}:in", f"{name}:out" if io == "in_and_out" else None

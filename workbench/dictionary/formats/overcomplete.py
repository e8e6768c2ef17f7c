"""overcomplete: a state dict in one file, and what it cannot say in a `config.json` beside it (KempnerInstitute).

The library has no format: people save `sae.state_dict()`. Tensors say the encoder, an archetypal dictionary (it has
points) and JumpSAE (it has thresholds). The rest goes into `config.json` in the same folder, in the words of the class:

    {"class": "TopKSAE", "top_k": 32}
    {"class": "BatchTopKSAE", "running_threshold": 0.71}            sae.running_threshold, which is not saved
    {"class": "RATopKSAE", "top_k": 32, "delta": 1.0}
    {"class": "SAE", "dictionary_params": {"normalization": "identity"}, "hook": "blocks.3.hook_resid_post"}

`normalization` may be left out where atoms have norm 1 already, and l2 is meant; `hook` where it lives is optional.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core import Encoder
from ._parts import Found, plain
from ._parts import spec as whole
from ._source import TENSORS, Config, Source, Tensors, finite, held

CONFIG = "config.json"
ARCHETYPES = ("dictionary.W", "dictionary.C", "dictionary.Relax")
PURSUIT, TIED = "MpSAE", "encoder.tied_to."
JUMPS, OTHERS = ("JumpSAE", "RAJumpSAE"), ("SAE", "TopKSAE", "BatchTopKSAE", "RATopKSAE")
NORMS = ("l2", "max_l2", "l1", "max_l1", "identity")
WORDS = {"class", "hook", "model", "input_shape", "nb_concepts", "dictionary_params", "encoder_module", "device"} | {
    "top_k", "threshold_momentum", "running_threshold", "kernel", "bandwidth", "delta", "use_multiplier", "k", "dropout"
}  # fmt: skip
NEAR = 0.05  # how far from 1 norms of atoms are after one step of training


class Greedy(Encoder):
    """k steps of matching pursuit as overcomplete takes them: the largest inner product, even where it is negative."""

    gain: Tensor

    def __init__(self, k: int):
        super().__init__()
        if k < 1:
            raise ValueError(f"a pursuit takes k = 1 or more steps, got {k}")
        self.k = k
        self.register_buffer("gain", torch.tensor(1.0))  # folding puts the scales here

    def forward(self, x: Float[Tensor, "row d"], decoder: Any) -> Float[Tensor, "row latent"]:
        code, left = x.new_zeros(len(x), len(decoder.weight)), x
        for _ in range(self.k):
            best = (self.gain * left @ decoder.weight.T).max(1)
            code = code.scatter_add(1, best.indices[:, None], best.values[:, None])
            left = left - best.values[:, None] * decoder.weight[best.indices]
        return code

    @torch.no_grad()
    def fold_(self, scale_in: float, scale_out: float) -> None:
        super().fold_(scale_in, scale_out)
        self.gain.mul_(scale_in * scale_out)


def sniff(source: Source) -> bool:
    """One file of tensors, with a dictionary under the names that this library gives it, and no other settings."""
    file = "" if any(name.endswith(".json") and name != CONFIG for name in source.top) else _file(source)
    if not file:
        return False
    names = source.tensors(file).names() if file.endswith(".safetensors") else list(source.pickled)
    return "dictionary._weights" in names or all(name in names for name in ARCHETYPES)


def read(source: Source, part: str) -> Found:
    """relu(W x + b), nothing taken from the row, no bias in the decoder; atoms as `get_dictionary` gives them.

    What is equal to a threshold is on, here alone. JumpSAE keeps logarithms of its thresholds.
    """
    file = _file(source)
    tensors = source.tensors(file) if file.endswith(".safetensors") else held(source.pickled, source.path / file)
    config = _config(source)
    if "Q" in tensors:
        raise ValueError(f"{tensors.path} is a QSAE's, whose values are quantised: it is not read")
    kind = _kind(config, tensors)
    atoms = _archetypes(config, tensors) if ARCHETYPES[0] in tensors else _atoms(config, tensors)
    if not finite(atoms):
        raise ValueError(f"{tensors.path}: atoms are not finite once normalised and multiplied: it did not train well")
    latents, d = atoms.shape
    for word, size in (("nb_concepts", latents), ("input_shape", d)):
        if config.integer(word, size) != size:
            raise ValueError(f"{config.where}: {word} is {config.value[word]}, the dictionary has {size}")
    found = {"decoder.weight": atoms, "decoder.bias": atoms.new_zeros(d)}
    if kind == PURSUIT:
        tensors.done()
        decoder = ["linear", {"shape": [d], "latents": latents, "unit": False}]
        spec = whole(["greedy", {"k": config.integer("k", least=1)}], ["given", {"signed": True}], decoder, (d,))
        found["encoder.gain"] = torch.tensor(1.0)
    else:
        sparsifier, more = _sparsifier(kind, config, tensors, latents)
        weight, bias = _encoder(tensors, atoms)
        tensors.done()
        spec = plain(d, latents, sparsifier, center=False)
        spec["encoder"][1]["bias"] = bias is not None
        found |= {"encoder.weight": weight.T} | ({} if bias is None else {"encoder.bias": bias}) | more
    return Found(
        spec, found, config.text("hook", None), None, config.text("model", None), config.value | {"class": kind}
    )


def _file(source: Source) -> str:
    there = [name for name in source.top if name.endswith(TENSORS) and not name.endswith(".npz")]
    return there[0] if len(there) == 1 else ""


def _config(source: Source) -> Config:
    if not (source.path / CONFIG).is_file():
        return Config({}, f"{source.path / CONFIG}")
    config = source.json(CONFIG)
    if unknown := sorted(config.value.keys() - WORDS):
        raise ValueError(f"{config.where} says {unknown[0]!r}: words are {', '.join(sorted(WORDS))}")
    return config


def _kind(config: Config, tensors: Tensors) -> str:
    """The class, which thresholds alone say for sure. Raises ValueError when it is not said, or the tensors differ."""
    kinds = JUMPS if "thresholds" in tensors else OTHERS
    if not any(name.startswith("encoder.") for name in tensors.names()):
        kinds = (PURSUIT,)
    fit = [kind for kind in kinds if ARCHETYPES[0] in tensors or not kind.startswith("RA")]
    if "class" in config:
        return config.text("class", among=fit)
    if kinds is JUMPS:
        return fit[-1]
    raise ValueError(
        f"{tensors.path} does not say its class, {' or '.join(fit)}: write {CONFIG} beside it, such as "
        '{"class": "TopKSAE", "top_k": 32}'
    )


def _atoms(config: Config, tensors: Tensors) -> Tensor:
    """Weights normalised as `get_dictionary` does it, times the exponential of the multiplier."""
    latents, d = tensors.width("dictionary._weights", 0, 2), tensors.width("dictionary._weights", 1, 2)
    weights = tensors.take("dictionary._weights", (latents, d))
    more = config.object("dictionary_params", {})
    if unknown := sorted(more.value.keys() - {"normalization", "use_multiplier"}):
        raise ValueError(f"{more.where} says {unknown[0]!r}: words are normalization and use_multiplier")
    said, norms = more.text("normalization", None, among=NORMS), weights.norm(dim=1, keepdim=True)
    if said is None and len(norms) and (norms - 1).abs().max() > NEAR:
        raise ValueError(
            f"{tensors.path}: atoms have norms {float(norms.min()):.3g} to {float(norms.max()):.3g}, not 1: say in "
            f'{CONFIG} how they are normalised, such as {{"dictionary_params": {{"normalization": "l2"}}}}'
        )
    if said in ("l1", "max_l1"):
        norms = weights.norm(p=1, dim=1, keepdim=True)
    if said != "identity":
        weights = weights / (norms.amax(dim=0, keepdim=True) if said in ("max_l2", "max_l1") else norms + 1e-8)
    return weights * tensors.take("dictionary.multiplier", ()).exp()


def _archetypes(config: Config, tensors: Tensors) -> Tensor:
    """Means of points, and a step of length `delta` at most away from them: one plain matrix."""
    latents, points = tensors.width("dictionary.W", 0, 2), tensors.width("dictionary.W", 1, 2)
    d = tensors.width("dictionary.C", 1, 2)
    mix = tensors.take("dictionary.W", (latents, points)).relu()
    mix = mix / (mix.sum(-1, keepdim=True) + 1e-8)
    off = tensors.take("dictionary.Relax", (latents, d))
    if off.any():
        off = off * (float(config.number("delta", above=0)) / off.norm(dim=-1, keepdim=True)).clamp(max=1)
    atoms = mix @ tensors.take("dictionary.C", (points, d)) + off
    return atoms * tensors.take("dictionary.multiplier", ()).exp()


def _encoder(tensors: Tensors, atoms: Tensor) -> tuple[Tensor, Tensor | None]:
    """The linear encoder, (latent, d), its own or the dictionary itself; others leave tensors, which are refused."""
    latents, d = atoms.shape
    if "encoder.final_block.0.weight" in tensors:
        weight = tensors.take("encoder.final_block.0.weight", (latents, d))
        return weight, tensors.take("encoder.final_block.0.bias", (latents,))
    bias = tensors.take("encoder.bias", (latents,)) if "encoder.bias" in tensors else None
    if "encoder.weight" in tensors:
        return tensors.take("encoder.weight", (latents, d)), bias
    tied = [name for name in tensors.names() if name.startswith(TIED)]  # the dictionary again
    if not tied:
        raise ValueError(f"{tensors.path} has no linear encoder: only one, its own or tied to the dictionary, is read")
    for name in tied:
        twin = name.replace(TIED, "dictionary.")
        if not torch.equal(*(tensors.take(each, tensors.shape(twin)) for each in (name, twin))):
            raise ValueError(f"{tensors.path}: {name} is tied to {twin} and differs from it")
    return atoms.clone(), bias  # else folding a scale into one would reach the other


def _sparsifier(kind: str, config: Config, tensors: Tensors, latents: int) -> tuple[list[Any], dict[str, Tensor]]:
    if kind == "SAE":
        return ["relu", {}], {}
    if kind.endswith("TopKSAE") and kind != "BatchTopKSAE":
        return ["topk", {"k": config.integer("top_k", least=1), "latents": latents}], {}
    if kind == "BatchTopKSAE":
        if (value := config.number("running_threshold")) < 0:
            raise ValueError(f"{config.where}: running_threshold is {value}, but it follows rectified codes: 0 or more")
        threshold = torch.tensor(float(value))
    else:
        threshold = tensors.take("thresholds", (latents,)).exp()
    below = torch.nextafter(threshold, torch.full_like(threshold, -torch.inf))  # ours passes what is above
    return ["jumprelu", {"latents": latents, "each": kind != "BatchTopKSAE"}], {"sparsifier.threshold": below}

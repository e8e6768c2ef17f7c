"""sparsify: `cfg.json` and `sae.safetensors` in a folder named for its hookpoint (EleutherAI, eai-sparsify)."""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from ...site import Site
from ..core import Dictionary
from ..decoders import Linear as Atoms
from ..encoders import Linear
from ..sparsifiers import TopK
from ..variants.group_max import GroupMax
from ._parts import Found, Sliced, plain
from ._sites import site_of
from ._source import Config, Source

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
TRAINED = ("normalize_decoder", "multi_topk", "gram_table_hash", "lookup_max_order")  # no part of a forward pass
KNOWN = ("activation", "expansion_factor", "num_latents", "k", "d_in", "signed", "skip_connection", "transcode")
NEWER = ("embed_skip", "gram_lookup")  # inputs beside the row
HOOKPOINT = re.compile(r"(\w+\.)*(layers|layer|h|blocks)\.\d{1,4}(\.\w+)*|(\w+\.)*(embed_in|embed_tokens|wte)")
SEED = re.compile(r"seed\d+")


def sniff(source: Source) -> bool:
    """These two files, in one folder or in several."""
    return bool(parts(source))


def parts(source: Source) -> list[str]:
    """Folders with a dictionary, their numbers in order: hookpoints, below them seeds where there are several."""
    folders = [PurePosixPath(name).parent for name in source.files if PurePosixPath(name).name == CONFIG]
    there = [str(folder) for folder in folders if str(folder / WEIGHTS) in source.files]
    return sorted(("" if name == "." else name for name in there), key=_numbered)


def read(source: Source, part: str) -> Found:
    """act(relu(W (x - b_dec) + b)), of a transcoder W x + b; the folder's name says the hookpoint, or nothing does.

    A transcoder reads a module's input and writes its output. `signed`, which versions before 1.0 had, keeps the k
    largest by magnitude, unrectified; later versions drop the word and rectify. With `multi_topk` sparsify's own
    `forward` gives the reconstruction by 4 k latents, its `encode` k: we go by `encode`.
    """
    folder = f"{part}/" if part else ""
    cfg, tensors = source.json(folder + CONFIG), source.tensors(folder + WEIGHTS)
    if used := [name for name in NEWER if cfg.flag(name, False)]:
        raise ValueError(f"{cfg.where}: {used[0]} adds what is not in the row, which no part of ours computes")
    if unknown := sorted(cfg.value.keys() - {*KNOWN, *TRAINED, *NEWER}):
        raise ValueError(f"{cfg.where} says {unknown[0]!r}, which sparsify up to 1.3.3 does not know: is it a fork's?")
    latents, d = tensors.width("encoder.weight", 0, 2), tensors.width("encoder.weight", 1, 2)
    _sizes(cfg, latents, d)
    transcode, skip = cfg.flag("transcode", False), cfg.flag("skip_connection", False)
    found = {
        "encoder.weight": tensors.take("encoder.weight", (latents, d)).T,
        "encoder.bias": tensors.take("encoder.bias", (latents,)),
        "decoder.weight": tensors.take("W_dec", (latents, d)),
        "decoder.bias": tensors.take("b_dec", (d,)),
    }
    if skip:
        found["skip.weight"] = tensors.take("W_skip", (d, d))
    tensors.done()
    across = ["linear", {"d": d, "d_out": d}] if skip else None
    spec = plain(d, latents, _sparsifier(cfg, latents), center=not transcode, skip=across)
    name = _hookpoint(source.path.absolute() / part)
    if name is None or not transcode:
        return Found(spec, found, reads=name, config=cfg.value)
    return Found(spec, found, reads=f"{name}:in", writes=f"{name}:out", config=cfg.value)


def write(dictionary: Dictionary, folder: Path) -> None:
    """For `SparseCoder.load_from_disk`; name the folder as sparsify names the module, `layers.3.mlp`, for it to know.

    A dictionary with a target becomes a transcoder, of which sparsify takes no bias from the row, from others it does:
    where ours does otherwise the difference goes into the encoder's bias. Scales are folded in. Raises ValueError for
    what its configuration cannot say.
    """
    encoder, sparsifier, decoder, skip = (getattr(dictionary, p) for p in ("encoder", "sparsifier", "decoder", "skip"))
    says = ((encoder, (Linear,), "Linear"), (sparsifier, (TopK, GroupMax), "TopK or GroupMax"))
    for thing, kinds, names in (*says, (decoder, (Atoms, Sliced), "Linear")):
        if type(thing) not in kinds:
            raise ValueError(f"sparsify has no {type(thing).__name__}: it says {names} alone")
    if skip is not None and not (isinstance(skip, nn.Linear) and skip.bias is None):
        raise ValueError(f"sparsify has no skip connection like {type(skip).__name__}: a linear one without bias")
    if len(dictionary.shape) != 1 or dictionary.shape != tuple(decoder.shape):
        raise ValueError(f"sparsify says one width, d_in: this reads {dictionary.shape}, writes {tuple(decoder.shape)}")
    transcode, scale_in, scale_out = _transcodes(dictionary), float(dictionary.scale_in), float(dictionary.scale_out)
    _check_name(folder, dictionary, transcode)
    taken = (0.0 if transcode else scale_in / scale_out) - encoder.center  # of the decoder's bias, more than ours
    tensors = {
        "encoder.weight": (encoder.weight * scale_in).T,
        "encoder.bias": _bias(encoder, decoder.bias, taken),
        "W_dec": decoder.weight[:] / scale_out,
        "b_dec": decoder.bias / scale_out,
    } | ({} if skip is None else {"W_skip": skip.weight * (scale_in / scale_out)})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(_config(dictionary, transcode), indent=1) + "\n", encoding="utf-8")
    dtype = encoder.weight.dtype  # sparsify takes the first tensor's for all
    copies = {name: value.detach().to("cpu", dtype).contiguous().clone() for name, value in tensors.items()}
    save_file(copies, folder / WEIGHTS)


def _sizes(cfg: Config, latents: int, d: int) -> None:
    """Raises ValueError when the configuration has other widths; `num_latents` 0 leaves it to `expansion_factor`."""
    if cfg.integer("d_in", least=1) != d:
        raise ValueError(f"{cfg.where}: d_in is {cfg.integer('d_in')}, encoder.weight reads {d}")
    said, factor = cfg.integer("num_latents", 0), cfg.integer("expansion_factor", None)
    if said not in (0, latents):
        raise ValueError(f"{cfg.where}: num_latents is {said}, encoder.weight has {latents}")
    if said == 0 and factor is not None and factor * d != latents:
        raise ValueError(f"{cfg.where}: expansion_factor {factor} x d_in {d} latents, encoder.weight has {latents}")


def _sparsifier(cfg: Config, latents: int) -> list[Any]:
    kind, k = cfg.text("activation", "topk", among=("topk", "groupmax")), cfg.integer("k", least=1)
    if cfg.flag("signed", False):
        if kind == "groupmax":
            raise ValueError(f"{cfg.where}: signed groupmax is of no version of sparsify")
        return ["abs_topk", {"k": k, "latents": latents}]
    return ["topk" if kind == "topk" else "group_max", {"k": k, "latents": latents}]


def _hookpoint(folder: Path) -> str | None:
    """The module that a folder is named for, `layers.3` or `layers.3/seed0`, if it is one."""
    name = folder.parent.name if SEED.fullmatch(folder.name) else folder.name
    return name if HOOKPOINT.fullmatch(name) else None


def _numbered(name: str) -> list[Any]:
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", name)]


def _transcodes(dictionary: Dictionary) -> bool:
    """Whether it maps one place to another; one that does not know its places, as its encoder is."""
    if dictionary.target is not None or dictionary.site is not None:
        return dictionary.target not in (None, dictionary.site)
    return not dictionary.encoder.center


def _bias(encoder: Linear, shift: Tensor, taken: float) -> Tensor:
    """The encoder's bias, and what makes up for `taken` x the decoder's bias that sparsify takes from the row."""
    bias = encoder.weight.new_zeros(encoder.weight.shape[1]) if encoder.bias is None else encoder.bias
    if taken == 0:
        return bias
    return (bias.double() + taken * (shift.double() @ encoder.weight.double())).to(bias.dtype)


def _config(dictionary: Dictionary, transcode: bool) -> dict[str, Any]:
    """`cfg.json`; what only training used is as it was where the dictionary came from sparsify."""
    seen, sparsifier, latents = dictionary.training_summary, dictionary.sparsifier, dictionary.latents
    was = dict(seen["config"]) if seen.get("format") == "sparsify" else {}
    kept = {name: was[name] for name in ("expansion_factor", "normalize_decoder", "num_latents", "multi_topk")
            if name in was}  # fmt: skip
    return {
        "activation": "topk" if isinstance(sparsifier, TopK) else "groupmax",
        "expansion_factor": max(1, latents // dictionary.d),
        "normalize_decoder": bool(getattr(dictionary.decoder, "unit", False)),
        "num_latents": latents,
        "k": sparsifier.k,
        "multi_topk": getattr(sparsifier, "wide", None) == 4 * sparsifier.k,
        "skip_connection": dictionary.skip is not None,
        "transcode": transcode,
        "d_in": dictionary.d,
    } | kept


def _check_name(folder: Path, dictionary: Dictionary, transcode: bool) -> None:
    """Raises ValueError for a folder that is named for a module elsewhere."""
    name = _hookpoint(folder.absolute())
    if name is None or dictionary.site is None:
        return
    reads: Site = site_of(f"{name}:in" if transcode else name)
    if reads != dictionary.site or (transcode and site_of(f"{name}:out") != dictionary.target):
        raise ValueError(
            f"a folder named {name} tells sparsify that this dictionary reads {reads}, it reads {dictionary.site}"
            f"{f' and writes {dictionary.target}' if transcode else ''}: give the folder another name"
        )

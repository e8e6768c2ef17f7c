"""SAELens: `cfg.json` and `sae_weights.safetensors`, versions up to 6, training checkpoints too (decoderesearch)."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from ..core import Dictionary
from . import _sae_lens_write
from ._parts import Found, plain, spec
from ._sae_lens_parts import EPS
from ._source import Config, Source, Tensors, shown

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
BATCHED = ("batchtopk", "matryoshka_batchtopk")  # of training alone: JumpReLU with one threshold once trained
ACROSS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
LINEAR = ("standard", "gated", "topk", "abstopk", "jumprelu", *BATCHED, *ACROSS)
ROW_BY_ROW = {"layer_norm": "layer_norm", "constant_norm_rescale": "norm"}  # ours by theirs
SCALED, WHITENED = "expected_average_only_in", "covariance_whitening"  # by what training measured of its rows
OLD = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
OTHER_ROWS = ("center_writing_weights", "fold_value_biases", "refactor_factored_attn_matrices")


def sniff(source: Source) -> bool:
    """A configuration and weights under SAELens's names, at the top or in folders."""
    return bool(parts(source))


def parts(source: Source) -> list[str]:
    """The folder itself, or the folders in it that hold a dictionary each."""
    found = set(source.files)
    folders = [PurePosixPath(name).parent for name in source.files if PurePosixPath(name).name == CONFIG]
    held = ["" if str(folder) == "." else str(folder) for folder in folders if str(folder / WEIGHTS) in found]
    return [""] if "" in held else held


def write(dictionary: Dictionary, folder: Path) -> None:
    """As version 6 of SAELens reads it, scales folded in. Raises ValueError for what it has no architecture for."""
    _sae_lens_write.write(dictionary, folder)


def read(source: Source, part: str) -> Found:
    """x W_enc + b_enc on rows less b_dec (where `apply_b_dec_to_input`), then what the architecture says.

    Values are SAELens's own; of rows normalised one by one, times the row's size. Norms of atoms that it multiplies
    values by are folded into the encoder, a finetuning scale into the atoms; a scale that training measured is
    `scale_in` and `scale_out`. A temporal autoencoder's code is what is new; what was expected is its skip connection.
    """
    at = f"{part}/" if part else ""
    raw = source.json(at + CONFIG)
    cfg, meta = _current(raw)
    kind = cfg.text("architecture", among=(*LINEAR, "matching_pursuit", "temporal"))
    d, latents = cfg.integer("d_in", least=1), cfg.integer("d_sae", least=1)
    tensors = source.tensors(at + WEIGHTS)
    norm = cfg.text("normalize_activations", "none", among=_norms(kind))
    scale, whitening = _measured(source, at, norm, d)
    how, center = ROW_BY_ROW.get(norm), cfg.flag("apply_b_dec_to_input", True)
    if kind == "temporal":
        made, given = _temporal(cfg, tensors, d, latents, how, center)
    elif kind == "matching_pursuit":
        made, given = _pursuit(cfg, tensors, d, latents, how, center)
    else:
        made, given = _linear(cfg, tensors, kind, d, latents, how, center, whitening)
    tensors.done()
    if norm == "constant_scalar_rescale":
        scale = cfg.number("activation_normalization_factor", above=0.0)
    if scale is not None:
        given |= {"scale_in": torch.tensor(scale), "scale_out": torch.tensor(scale)}
    reads, writes = _places(cfg, meta, kind in ACROSS)
    return Found(made, given, reads, writes, meta.text("model_name", None), raw.value)


def _norms(kind: str) -> tuple[str, ...]:
    """What may be done to rows; what SAELens cannot fold a whitening into has none."""
    more = {"temporal": ("constant_scalar_rescale",), "matching_pursuit": ()}
    return ("none", *ROW_BY_ROW, SCALED, *more.get(kind, (WHITENED,)))


def _current(raw: Config) -> tuple[Config, Config]:
    """The configuration in version 6's words, and what it says of the model. Raises ValueError for later versions."""
    meta = raw.object("metadata", {})
    version = raw.text("sae_lens_version", None) or meta.text("sae_lens_version", None)
    major = re.match(r"(\d+)\.", version or "0.")
    if major is None or int(major[1]) > 6:
        raise ValueError(f"{raw.where} was written by SAELens {shown(version)}: versions up to 6 are known")
    if int(major[1]) == 6:
        return raw, meta
    said = {OLD.get(name, name): value for name, value in raw.value.items() if name != "metadata"}
    if isinstance(flag := said.get("normalize_activations"), bool | None):
        said["normalize_activations"] = SCALED if flag else "none"
    cfg = Config({"architecture": "standard"} | said, raw.where)
    activation = cfg.text("activation_fn", "relu", among=("relu", "topk"))
    if activation == "topk":
        cfg.text("architecture", among=("standard", "topk"))
        cfg.value |= {"architecture": "topk", "k": cfg.object("activation_fn_kwargs").integer("k", least=1)}
    elif cfg.value["architecture"] == "topk" and "k" not in cfg:
        cfg.value["k"] = cfg.object("activation_fn_kwargs").integer("k", least=1)
    return cfg, Config(meta.value | cfg.value, cfg.where)


def _measured(source: Source, at: str, norm: str, d: int) -> tuple[float | None, tuple[Tensor, ...] | None]:
    """The scale, or mean and whitening and its inverse, that training measured and a checkpoint keeps beside itself."""
    said = source.json(at + SCALER) if source.has(at + SCALER) else Config({}, f"{source}: {at}{SCALER}")
    scale, whitening = said.number("scaling_factor", None, above=0.0), None
    if said.flag("has_whitening", True) and source.has(at + WHITENING):
        held = source.tensors(at + WHITENING)
        shapes = {"mean": (d,), "matrix": (d, d), "inverse_matrix": (d, d)}
        whitening = tuple(held.take(name, shape, dtype=torch.float64) for name, shape in shapes.items())
        held.done()
    for mode, value, beside in ((SCALED, scale, SCALER), (WHITENED, whitening, WHITENING)):
        if norm == mode and value is None:
            known = ' ({"scaling_factor": ...}; SAELens lists its published ones as norm_scaling_factor)'
            raise ValueError(
                f"{source}: {at}{CONFIG} says {mode}, but the folder does not hold what rows went through: put "
                f"{beside} beside it{known if mode == SCALED else ''}"
            )
        if norm != mode and value is not None:
            raise ValueError(f"{source}: {at}{CONFIG} says {norm}, {at}{SCALER} asks for {mode}: delete what is old")
    return scale, whitening


def _places(cfg: Config, meta: Config, across: bool) -> tuple[str | None, str | None]:
    """Where it reads and, if elsewhere, writes. What is no whole stream of a plain model is named so, to be refused."""

    def place(name: str, head: str) -> str | None:
        found, index = meta.text(name, None), meta.integer(head, None)
        if found is None:
            return None
        processed = meta.object("model_from_pretrained_kwargs", None).value
        changed = [key for key in OTHER_ROWS if processed.get(key)]
        after = f", head {index}" if index is not None else f", with {changed[0]}" if changed else ""
        return found + after

    reads = place("hook_name", "hook_head_index")
    reshape = cfg.text("reshape_activations", "none", among=("none", "hook_z"))
    if reshape == "hook_z" and reads is not None and not meta.text("hook_name").endswith("_z"):
        raise ValueError(f"{cfg.where}: reshape_activations is hook_z, but hook_name is {shown(reads)}: one is wrong")
    ours = meta.object("workbench", {})
    if reads is None and (site := ours.text("site", None)) is not None:
        reads = _sae_lens_write.spelled(site)
    if not across:
        return reads, None
    writes = place("hook_name_out", "hook_head_index_out")
    if writes is None and (target := ours.text("target", None)) is not None:
        writes = _sae_lens_write.spelled(target)
    return reads, writes or f"a place that {CONFIG} does not name (hook_name_out)"


def _linear(
    cfg: Config,
    tensors: Tensors,
    kind: str,
    d: int,
    latents: int,
    how: str | None,
    center: bool,
    whitening: tuple[Tensor, ...] | None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All architectures with an encoder matrix that look at each row by itself."""
    across = kind in ACROSS
    if across and center:
        raise ValueError(f"{cfg.where}: apply_b_dec_to_input must be false for a {kind}, whose b_dec is of the target")
    d_out = cfg.integer("d_out", least=1) if across else d
    weight, atoms = tensors.take("W_enc", (d, latents)), tensors.take("W_dec", (latents, d_out))
    bias = torch.zeros(latents) if kind == "gated" else tensors.take("b_enc", (latents,))
    b_dec = tensors.take("b_dec", (d_out,))
    sparsifier, own = _sparsifier(cfg, tensors, kind, latents)
    if _by_norm(cfg, kind):
        norms = atoms.norm(dim=-1).clamp_min(1e-8)
        weight, bias, atoms = weight * norms, bias * norms, atoms / norms[:, None]
    atoms = _finetuned(cfg, tensors, atoms)
    if whitening is not None:
        mean, matrix, inverse = whitening
        weight, atoms = matrix @ weight.double(), (atoms.double() @ inverse).float()
        bias = bias if center else (bias - mean @ weight).float()
        weight, b_dec = weight.float(), (b_dec.double() @ inverse + mean).float()
    if how is not None and not across:
        return _row_by_row(how, sparsifier, own, weight, bias, atoms, b_dec, b_dec if center else torch.zeros(d))
    inner = "encoder" if how is None else "encoder.linear"
    given = {f"{inner}.weight": weight, f"{inner}.bias": bias, "decoder.weight": atoms, "decoder.bias": b_dec}
    given |= {f"sparsifier.{name}": value for name, value in own.items()}
    if how is None:
        made = plain(d, latents, sparsifier, d_out=d_out, center=center)
    else:
        made = spec(["normed", {"d": d, "latents": latents, "how": how}], sparsifier, linear(d_out, latents), (d,))
    if "skip" in kind:
        made["skip"], given["skip.weight"] = ["linear", {"d": d, "d_out": d_out}], tensors.take("W_skip", (d_out, d))
    return made, given


def _by_norm(cfg: Config, kind: str) -> bool:
    """Whether pre-activations are multiplied by their atoms' norms, and values divided by them in the end."""
    name = "rescale_acts_by_decoder_norm"
    return cfg.flag(name) if kind in BATCHED else kind in ("topk", "abstopk") and cfg.flag(name, False)


def _finetuned(cfg: Config, tensors: Tensors, atoms: Tensor) -> Tensor:
    """Atoms by the factor that versions before 6 multiplied values by when decoding."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in tensors and (factor := tensors.take(name, (len(atoms),))).sub(1).abs().max() > 1e-5:
            if not cfg.flag("finetuning_scaling_factor", False):
                raise ValueError(f"{tensors.path}: {name} is not 1, but finetuning_scaling_factor is not on")
            atoms = atoms * factor[:, None]
    return atoms


def _row_by_row(
    how: str,
    sparsifier: list[Any],
    own: dict[str, Tensor],
    weight: Tensor,
    bias: Tensor,
    atoms: Tensor,
    b_dec: Tensor,
    shift: Tensor,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Rows normalised one by one, whose size and mean come back; `shift` is taken from the normalised row."""
    (d, latents), norm = weight.shape, {"shape": [len(weight)], "how": how, "eps": EPS[how]}
    given = {f"encoder.sparsifier.{name}": value for name, value in own.items()} | {
        "encoder.linear.weight": weight,
        "encoder.linear.bias": bias,
        "encoder.shift": shift,
        "decoder.weight": atoms,
        "decoder.bias": torch.zeros(d),
        "skip.bias": b_dec,
    }
    encoder = ["per_row", norm | {"latents": latents, "sparsifier": sparsifier}]
    signed = ["given", {"signed": sparsifier[0] == "abs_topk"}]
    return spec(encoder, signed, linear(d, latents), (d,), ["per_row", norm]), given


def linear(d: int, latents: int) -> list[Any]:
    """The decoder of all of them: atoms of any norm."""
    return ["linear", {"shape": [d], "latents": latents, "unit": False}]


def _sparsifier(cfg: Config, tensors: Tensors, kind: str, latents: int) -> tuple[list[Any], dict[str, Tensor]]:
    if kind in ("topk", "abstopk"):
        ours = "topk" if kind == "topk" else "abs_topk"
        return _topk(ours, cfg.integer("k", least=1), latents, f"{cfg.where}: k"), {}
    if kind == "gated":
        names = {"gate": "b_gate", "log_gain": "r_mag", "bias": "b_mag"}
        return ["gated", {"latents": latents}], {ours: tensors.take(name, (latents,)) for ours, name in names.items()}
    if kind in BATCHED:
        threshold = torch.tensor(tensors.number("topk_threshold"))
        return ["jumprelu", {"latents": latents, "each": False}], {"threshold": threshold}
    if "jumprelu" in kind:
        old = "log_threshold" in tensors
        threshold = tensors.take("log_threshold" if old else "threshold", (latents,))
        return ["jumprelu", {"latents": latents}], {"threshold": threshold.exp() if old else threshold}
    return ["relu", {}], {}


def _topk(kind: str, k: int, latents: int, named: str) -> list[Any]:
    if k > latents:
        raise ValueError(f"{named} must be at most d_sae={latents}, got {k}")
    return [kind, {"k": k, "latents": latents}]


def _pursuit(
    cfg: Config, tensors: Tensors, d: int, latents: int, how: str | None, center: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Its bias is added where it was taken away, and nowhere else."""
    steps = cfg.integer("max_iterations", None, least=1) or d
    least, steady = cfg.number("residual_threshold"), cfg.flag("stop_on_duplicate_support")
    args: dict[str, Any] = {"steps": steps, "least": least, "steady": steady}
    b_dec = tensors.take("b_dec", (d,)) if center else torch.zeros(d)
    tensors.skip("b_dec")
    given = {"encoder.gain": torch.tensor(1.0), "decoder.weight": tensors.take("W_dec", (latents, d))}
    skip = None
    if how is None:
        given["decoder.bias"] = b_dec
    else:
        args, skip = args | {"d": d, "how": how}, ["per_row", {"shape": [d], "how": how, "eps": EPS[how]}]
        given |= {"encoder.shift": b_dec, "skip.bias": b_dec, "decoder.bias": torch.zeros(d)}
    return spec(["sae_lens_pursuit", args], ["given", {}], linear(d, latents), (d,), skip), given


def _temporal(
    cfg: Config, tensors: Tensors, d: int, latents: int, how: str | None, center: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    heads, layers = cfg.integer("n_heads", least=1), cfg.integer("n_attn_layers")
    factor, tied = cfg.integer("bottleneck_factor", least=1), cfg.flag("tied_weights")
    if latents % (factor * heads):
        raise ValueError(f"{cfg.where}: d_sae must be a multiple of bottleneck_factor x n_heads, got {latents}")
    width = latents // factor
    atoms, b_dec = tensors.take("W_dec", (latents, d)), tensors.take("b_dec", (d,))
    added = b_dec if center or not tied else torch.zeros(d)
    held = {"shift": b_dec if center else torch.zeros(d), "bias": torch.zeros(d) if how is None else added}
    shared = {"atoms": atoms} if tied else {"atoms": atoms, "weight": tensors.take("W_enc", (d, latents))}
    for i in range(layers):
        for name, out in (("k_ctx", width), ("q_target", width), ("v_ctx", latents), ("c_proj", latents)):
            side = f"attn_layers.{i}.{name}"
            shared[f"{side}.weight"] = tensors.take(f"{side}.weight", (out, latents))
            shared[f"{side}.bias"] = tensors.take(f"{side}.bias", (out,))
    held |= {name: nn.Parameter(value, requires_grad=False) for name, value in shared.items()}  # one, not two
    given = {f"{role}.{name}": value for role in ("encoder.foreseen", "skip") for name, value in held.items()}
    given |= {"decoder.weight": atoms, "decoder.bias": added if how is None else torch.zeros(d)}
    args = {"d": d, "latents": latents, "layers": layers, "heads": heads, "width": width, "tied": tied, "how": how}
    k = cfg.integer("kval_topk", None, least=1)
    if cfg.text("sae_diff_type", among=("topk", "relu")) == "relu" or k is None:
        sparsifier: list[Any] = ["relu", {}]
    else:
        sparsifier = _topk("topk", k, latents, f"{cfg.where}: kval_topk")
    return spec(["temporal", args], sparsifier, linear(d, latents), (d,), ["temporal", args]), given

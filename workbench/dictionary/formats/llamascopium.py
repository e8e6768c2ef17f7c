"""llamascopium (OpenMOSS, before Language-Model-SAEs): SAEs, transcoders, crosscoders, cross-layer transcoders, Lorsa.

`config.json` beside `sae_weights.safetensors` or `.pt`, as its release 2.0 writes them.
"""

from collections.abc import Mapping, Sequence
from math import pi, prod, sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...code import Code
from ..core import Encoder, Sparsifier
from ..encoders import Linear
from ..kernels import top_rows
from ..sparsifiers import check_k
from ._parts import Found, Piece, plain, spec
from ._source import Config, Source, Tensors, held, shown, unpickled

CONFIG, MODEL = "config.json", "lm_config.json"
ENDS = (".safetensors", ".pt", ".dcp")
WEIGHTS = [name + end for name in ("sae_weights", "checkpoints/pruned", "checkpoints/final") for end in ENDS]
NORMS = ("token-wise", "batch-wise", "dataset-wise", "inference")
AVERAGE = "dataset_average_activation_norm."
THRESHOLD = "activation_function.log_jumprelu_threshold"
ACTS = ("relu", "jumprelu", "topk", "batchtopk", "batchlayertopk", "layertopk")
COMMON = {
    *("sae_type", "d_model", "expansion_factor", "use_decoder_bias", "act_fn", "norm_activation", "top_k"),
    *("sparsity_include_decoder_norm", "use_triton_kernel", "sparsity_threshold_for_triton_spmm_kernel"),
    *("jumprelu_threshold_window", "device", "dtype", "sparsity_threshold_for_csr"),
}
PAIR = {"hook_point_in", "hook_point_out"}
KINDS = {  # what each kind's configuration says beside
    "sae": PAIR | {"use_glu_encoder"},
    "crosscoder": {"hook_points"},
    "clt": {"hook_points_in", "hook_points_out", "init_cross_layer_decoder_all_zero", "decode_with_csr"},
    "lorsa": PAIR
    | {"n_qk_heads", "d_qk_head", "positional_embedding_type", "n_ctx", "attn_scale", "use_post_qk_ln"}
    | {"normalization_type", "eps", "use_NTK_by_parts_rope", "old_context_len"}
    | {f"rotary_{name}" for name in ("dim", "base", "adjacent_pairs", "scale")}
    | {f"NTK_by_parts_{name}" for name in ("factor", "low_freq_factor", "high_freq_factor")},
    "molt": PAIR | {"rank_counts"},
}
LARGEST_SCALE = 1e4
LEFT_OVER = {"sae_pretrained_name_or_path", "strict_loading"}  # of releases before 2.0: how a file was loaded


class Glu(Encoder):
    """pre = (x W + b) sigmoid(x V + c)."""

    def __init__(self, d: int, latents: int):
        super().__init__()
        self.linear, self.gate = (Linear((d,), latents, center=False) for _ in range(2))

    def forward(self, x: Float[Tensor, "row d"], decoder: Any) -> Float[Tensor, "row latent"]:
        return self.linear(x, decoder) * self.gate(x, decoder).sigmoid()

    def fold_(self, scale_in: float, scale_out: float) -> None:
        for part in (self.linear, self.gate):
            part.fold_(scale_in, scale_out)


class Repeated(Encoder):
    """The pre-activations of all sites together, once for each site: latent i of site s is s x latents / sites + i."""

    def __init__(self, shape: tuple[int, ...], latents: int):
        super().__init__()
        self.linear, self.times = Linear(shape, latents // shape[0], center=False), shape[0]

    def forward(self, x: Float[Tensor, "row site d"], decoder: Any) -> Float[Tensor, "row latent"]:
        return self.linear(x, decoder).repeat(1, self.times)

    def fold_(self, scale_in: float, scale_out: float) -> None:
        self.linear.fold_(scale_in, scale_out)


class BlockTopK(Sparsifier):
    """In each row the k of largest pre-activation x `weight` of every one of `blocks` equal blocks, rectified."""

    weight: Tensor

    def __init__(self, k: int, latents: int, blocks: int):
        super().__init__()
        check_k(k, latents // blocks)
        self.k, self.blocks = k, blocks
        self.register_buffer("weight", torch.ones(latents))

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        each = pre.shape[1] // self.blocks
        best = top_rows((pre * self.weight).reshape(-1, each), self.k).unflatten(0, (-1, self.blocks))
        chosen = (best + each * torch.arange(self.blocks, device=pre.device)[:, None]).flatten(1)
        return Code.fixed(chosen, pre.gather(1, chosen).relu(), pre.shape[1])


class Scaled:
    """Atoms in their file, multiplied when they are read."""

    def __init__(self, values: Tensor, factor: float):
        self.values, self.factor, self.shape = values, factor, values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, which: Any) -> Tensor:
        return self.values[which].float() * self.factor


def sniff(source: Source) -> bool:
    """Weights by its names, beside a configuration with a kind and a width; not under the names of before 2.0."""
    if CONFIG not in source.top or (name := weights_file(source)) is None:
        return False
    try:
        config = source.json(CONFIG)
    except ValueError:
        return name.startswith("sae_weights")
    return "sae_type" in config and "d_model" in config and not old_names(source)


def read(source: Source, part: str) -> Found:
    """Codes and atoms in the units it trains in, rows scaled to a mean norm of sqrt(d) unless that is folded.

    Latents are on by value x norm of their atoms (`sparsity_include_decoder_norm`). Rows of a crosscoder and of a
    cross-layer transcoder are (site, d), of a Lorsa those of one text in order; the hooks of the first two stay in
    `config`, their site is None. In a crosscoder with thresholds or top-k each site chooses by itself, and has latents
    of its own: i of site s is s x d_sae + i.
    """
    config = source.json(CONFIG)
    kind = config.text("sae_type", among=tuple(KINDS))
    if odd := sorted(n for n in config.value.keys() - COMMON - KINDS[kind] - LEFT_OVER if config.value[n]):
        raise ValueError(
            f"{config.where}: {shown(odd[0])} is no setting of a {kind} that we know, it is "
            f"{shown(config.value[odd[0]])}"
        )
    if kind == "molt":
        raise ValueError(f"{config.where} is of a MOLT: its latents write linear maps of the row, not directions")
    made = {"sae": sae, "crosscoder": _crosscoder, "clt": _crosslayer, "lorsa": _lorsa}[kind]
    return made(config, weights(source))._replace(model=model_of(source))


def model_of(source: Source) -> str | None:
    return source.json(MODEL).text("model_name", None) if MODEL in source.top else None


def weights_file(source: Source) -> str | None:
    """The file of weights that its own loader takes, or the folder of a distributed checkpoint."""
    there = set(source.files) | {name.partition(".dcp/")[0] + ".dcp" for name in source.files if ".dcp/" in name}
    return next((name for name in WEIGHTS if name in there), None)


def old_names(source: Source) -> bool:
    """Whether the weights are named as releases before 2.0 did."""
    name = weights_file(source)
    try:
        return name is not None and name.endswith(".safetensors") and "encoder.weight" in source.tensors(name)
    except ValueError:
        return False


def weights(source: Source) -> Tensors:
    """The tensors. Raises ValueError for a distributed checkpoint, whose index is a pickle that could run code."""
    name = weights_file(source)
    if name is None:
        raise ValueError(f"{source} has no {WEIGHTS[0]}: copy the whole folder")
    if name.endswith(".dcp"):
        raise ValueError(
            f"{source.path / name} is a distributed checkpoint, whose index is a pickle: it is not opened. Where you "
            "trust it, write it anew: llamascopium.SparseDictionary.from_pretrained(folder).save_pretrained(other)"
        )
    if name.endswith(".safetensors"):
        return source.tensors(name)
    path = source.inside(name)
    source.used.append(name)
    inside = unpickled(path).get("sae")
    if not isinstance(inside, dict) or not all(isinstance(key, str) for key in inside):
        raise ValueError(f"{path} must hold weights by name under 'sae', got {type(inside).__name__}")
    return held(inside, path)


def _sizes(config: Config) -> tuple[int, int]:
    d = config.integer("d_model", least=1)
    return d, int(d * config.number("expansion_factor", above=0.0))


def _scales(config: Config, tensors: Tensors, d: int, hooks: Sequence[str], *, alone: bool = False) -> list[float]:
    """What rows at each hook are multiplied by. Raises ValueError where that depends on rows that we do not see."""
    how = config.text("norm_activation", among=NORMS)
    if how == "batch-wise":
        raise ValueError(
            f"{config.where}: norm_activation is batch-wise: a row is scaled by the mean norm of those beside it, and "
            "has no code of its own; train with dataset-wise"
        )
    if how == "token-wise" and not (alone and hooks[0] == hooks[-1]):
        raise ValueError(
            f"{config.where}: norm_activation is token-wise at several places: what is written is scaled by the norm "
            "of the row that it is to predict; only an SAE of one place is read so"
        )
    found = [1.0] * len(hooks)
    if how == "dataset-wise":
        if missing := [hook for hook in hooks if AVERAGE + hook not in tensors]:
            raise ValueError(
                f"{tensors.path} has no {shown(AVERAGE + missing[0])}, which scales rows of {config.where}"
            )
        found = [
            factor(d, tensors.number(AVERAGE + hook), f"{tensors.path}: {shown(AVERAGE + hook)}") for hook in hooks
        ]
    # where it has no averages, its own code writes memory that was never set
    tensors.skip(*(name for name in tensors.names() if name.startswith(AVERAGE)))
    return found


def factor(d: int, norm: float, what: str) -> float:
    """What brings rows of this mean norm to sqrt(d). Raises ValueError for what is no norm."""
    if not 1e-12 < norm < 1e12:
        raise ValueError(f"{what} must be a mean norm, above 0, got {norm:g}")
    return sqrt(d) / norm


def _choice(
    config: Config, tensors: Tensors, shape: tuple[int, ...], norms: Tensor | None, *, blocks: int = 1
) -> tuple[list[Any], dict[str, Tensor]]:
    """The sparsifier and its tensors. `shape` is that of thresholds, `norms` of atoms decide beside, in `blocks`."""
    act, latents = config.text("act_fn", among=ACTS), prod(shape) if norms is None else norms.numel()
    if act == "relu":
        return ["relu", {}], {}
    if act == "jumprelu":
        threshold = tensors.take(THRESHOLD, shape).exp()
        if not threshold.isfinite().all():
            raise ValueError(f"{tensors.path}: {THRESHOLD} holds logarithms of thresholds that are not finite")
        threshold = threshold if norms is None else threshold / norms
        return ["jumprelu", {"latents": latents}], {"sparsifier.threshold": threshold.flatten()}
    if act.startswith("batch"):
        raise ValueError(
            f"{config.where}: act_fn {act} chooses among all rows of a batch: a row has no code of its own. Give it "
            "thresholds first, as llamascopium's convert_topk_to_jumprelu does to cross-layer transcoders"
        )
    if act == "layertopk" and len(shape) == 1:
        raise ValueError(f"{config.where}: act_fn layertopk is for cross-layer transcoders")
    blocks = 1 if act == "layertopk" else blocks
    k = config.integer("top_k", least=1)
    if k > latents // blocks:
        raise ValueError(f"{config.where}: top_k must be at most {latents // blocks} latents, got {k}")
    if blocks == 1 and norms is None:
        return ["topk", {"k": k, "latents": latents}], {}
    weight = torch.ones(latents) if norms is None else norms.flatten()
    kind = ["ranked_topk", {"k": k, "latents": latents}]
    if blocks > 1:
        kind = ["block_topk", {"k": k, "latents": latents, "blocks": blocks}]
    return kind, {"sparsifier.weight": weight}


def sae(config: Config, tensors: Tensors, *, center: bool = False) -> Found:
    """h = x W_E + b_E (x sigmoid(x W_E_glu + b_E_glu)), y = f W_D + b_D. `center`: b_D is taken from x before."""
    d, latents = _sizes(config)
    hooks = [config.text("hook_point_in"), config.text("hook_point_out")]
    s_in, s_out = _scales(config, tensors, d, hooks, alone=True)
    weight, bias = tensors.take("W_E", (d, latents)), tensors.take("b_E", (latents,))
    atoms = tensors.take("W_D", (latents, d))
    offset = tensors.take("b_D", (d,)) if config.flag("use_decoder_bias") else torch.zeros(d)
    norms = atoms.norm(dim=1) if config.flag("sparsity_include_decoder_norm") else None
    chosen, beside = _choice(config, tensors, (latents,), norms)
    made = plain(d, latents, chosen, center=center)
    taken = {"encoder.weight": weight, "encoder.bias": bias, "decoder.weight": atoms, "decoder.bias": offset}
    by_row, glu = config.text("norm_activation") == "token-wise", config.flag("use_glu_encoder", False)
    if (by_row or glu) and (center or by_row == glu):
        raise ValueError(f"{config.where}: token-wise norms, a gated encoder and a centred one are not read together")
    if by_row:
        how = {"shape": [d], "how": "norm", "eps": 0.0}
        made = made | {
            "encoder": ["per_row", how | {"latents": latents, "sparsifier": chosen}],
            "sparsifier": ["given", {}],
            "skip": ["per_row", how],
        }
        taken |= {"skip.bias": offset, "decoder.bias": torch.zeros(d), "encoder.shift": torch.zeros(d)}
        beside = {f"encoder.{name}": value for name, value in beside.items()}
    if glu:
        made["encoder"] = ["glu", {"d": d, "latents": latents}]
        taken |= {
            "encoder.gate.weight": tensors.take("W_E_glu", (d, latents)),
            "encoder.gate.bias": tensors.take("b_E_glu", (latents,)),
        }
    if by_row or glu:
        taken |= {f"encoder.linear.{name}": taken.pop(f"encoder.{name}") for name in ("weight", "bias")}
    tensors.done()
    taken |= beside | {"scale_in": torch.tensor(s_in), "scale_out": torch.tensor(s_out)}
    writes = None if hooks[0] == hooks[1] else hooks[1]
    return Found(made, taken, reads=hooks[0], writes=writes, config=config.value)


def _crosscoder(config: Config, tensors: Tensors) -> Found:
    """h = sum over sites of x_s W_E_s + b_E_s; each site is on by h x the norm of what it writes."""
    (d, latents), hooks = _sizes(config), config.list("hook_points")
    n = len(hooks)
    if not (config.flag("sparsity_include_decoder_norm") and config.flag("use_decoder_bias") and n):
        raise ValueError(
            f"{config.where}: a crosscoder has hook_points, a decoder bias and counts the norms of its atoms"
        )
    scale = torch.tensor(_scales(config, tensors, d, hooks))
    weight = _scaled(tensors.take("W_E", (n, d, latents)), scale[:, None, None]).reshape(-1, latents)
    bias = tensors.take("b_E", (n, latents)).sum(0)
    taken = {"decoder.bias": tensors.take("b_D", (n, d)) / scale[:, None]}
    if config.text("act_fn") == "relu":  # on at all sites or at none
        atoms = _scaled(tensors.take("W_D", (n, latents, d)), 1 / scale[:, None, None])
        taken |= {"encoder.weight": weight, "encoder.bias": bias}
        taken["decoder.weight"] = atoms.transpose(0, 1).reshape(latents, -1)
        encoder = ["linear", {"shape": [n, d], "latents": latents, "center": False}]
        return _several(config, tensors, encoder, ["relu", {}], (n, d), latents, taken)
    atoms = tensors.mapped("W_D", (n, latents, d))
    chosen, beside = _choice(config, tensors, (latents,), _norms(atoms, tensors), blocks=n)
    taken |= beside | {"encoder.linear.weight": weight, "encoder.linear.bias": bias}
    pieces = _pieces([(s * latents, s * d, atoms[s], 1 / float(scale[s])) for s in range(n)])
    encoder = ["repeated", {"shape": [n, d], "latents": n * latents}]
    return _several(config, tensors, encoder, chosen, (n, d), n * latents, taken, pieces)


def _crosslayer(config: Config, tensors: Tensors) -> Found:
    """h of each layer by itself; W_D.i (source, latent, d) is what layers up to i write to layer i."""
    d, each = _sizes(config)
    reads, writes = config.list("hook_points_in"), config.list("hook_points_out")
    n = len(reads)
    if not n or len(writes) != n:
        raise ValueError(f"{config.where}: as many hook_points_in as hook_points_out, got {n} and {len(writes)}")
    scales = _scales(config, tensors, d, [*reads, *writes])
    atoms = [tensors.mapped(f"W_D.{i}", (i + 1, each, d)) for i in range(n)]
    norms = None
    if config.flag("sparsity_include_decoder_norm"):
        norms = torch.zeros(n, each)
        for i, here in enumerate(atoms):
            norms[: i + 1] += _norms(here, tensors).square()
        norms = norms.sqrt()
    chosen, beside = _choice(config, tensors, (n, each), norms, blocks=n)
    taken = beside | {
        "encoder.weight": _scaled(tensors.take("W_E", (n, d, each)), torch.tensor(scales[:n])[:, None, None]),
        "encoder.bias": tensors.take("b_E", (n, each)).flatten(),
        "decoder.bias": torch.stack([tensors.take(f"b_D.{i}", (d,)) / scales[n + i] for i in range(n)]),
    }
    pieces = _pieces([(s * each, i * d, atoms[i][s], 1 / scales[n + i]) for i in range(n) for s in range(i + 1)])
    encoder = ["layers", {"sites": n, "d": d, "latents": n * each}]
    return _several(config, tensors, encoder, chosen, (n, d), n * each, taken, pieces)


def _lorsa(config: Config, tensors: Tensors) -> Found:
    """A latent is a head with one direction to read, W_V, and one to write, W_O; `n_qk_heads` patterns are shared."""
    d, latents = _sizes(config)
    groups, width = config.integer("n_qk_heads", least=1), config.integer("d_qk_head", least=1)
    if latents % groups:
        raise ValueError(f"{config.where}: {latents} heads do not share {groups} patterns equally")
    hooks = [config.text("hook_point_in"), config.text("hook_point_out")]
    s_in, s_out = _scales(config, tensors, d, hooks)
    args: dict[str, Any] = {"d": d, "latents": latents, "groups": groups, "width": width}
    scale = config.number("attn_scale", None, above=0.0)
    args["scale"] = width**0.5 if scale is None else float(scale)
    if args["scale"] > LARGEST_SCALE:
        raise ValueError(
            f"{config.where}: attn_scale divides scores, and is about the root of d_qk_head, got {scale:g}"
        )
    atoms = tensors.take("W_O", (latents, d))
    taken = {
        "encoder.weight": tensors.take("W_V", (latents, d)).unflatten(0, (groups, -1)).mT,
        "encoder.bias": tensors.take("b_V", (latents,)),
        "encoder.query": tensors.take("W_Q", (groups, d, width)),
        "encoder.key": tensors.take("W_K", (groups, d, width)),
        "encoder.query_bias": tensors.take("b_Q", (groups, width)),
        "encoder.key_bias": tensors.take("b_K", (groups, width)),
        "encoder.period": torch.ones(0),
        "decoder.weight": atoms,
        "decoder.bias": tensors.take("b_D", (d,)) if config.flag("use_decoder_bias") else torch.zeros(d),
        "scale_in": torch.tensor(s_in),
        "scale_out": torch.tensor(s_out),
    }
    if config.flag("use_post_qk_ln"):
        config.text("normalization_type", among=("RMS",))
        args["eps"] = float(config.number("eps", above=0.0))
        if args["eps"] >= 1:
            raise ValueError(f"{config.where}: eps must be small beside 1, got {args['eps']:g}")
        taken |= {f"encoder.{n}_gain": tensors.take(f"ln_{n[0]}.w", (groups, width)) for n in ("query", "key")}
    if config.text("positional_embedding_type", among=("rotary", "none")) == "rotary":
        taken["encoder.period"] = _periods(config, tensors, width)
        args |= {"turned": 2 * len(taken["encoder.period"]), "adjacent": config.flag("rotary_adjacent_pairs")}
    norms = atoms.norm(dim=1) if config.flag("sparsity_include_decoder_norm") else None
    chosen, beside = _choice(config, tensors, (latents,), norms)
    tensors.skip("mask", "IGNORE")  # its own code attends causally without them
    tensors.done()
    decoder = ["linear", {"shape": [d], "latents": latents, "unit": False}]
    made = spec(["lorsa", args], chosen, decoder, (d,))
    return Found(made, taken | beside, reads=hooks[0], writes=hooks[1], config=config.value)


def _periods(config: Config, tensors: Tensors, width: int) -> Float[Tensor, " half"]:
    """Positions per radian. Raises ValueError when the file's own sines and cosines are of others."""
    turned, base = config.integer("rotary_dim", least=2), float(config.number("rotary_base", above=0.0))
    if turned % 2 or turned > width or config.integer("rotary_scale", least=1) != 1:
        raise ValueError(f"{config.where}: rotary_dim must be even and at most d_qk_head {width}, rotary_scale 1")
    step = torch.arange(turned // 2).float()
    period = base ** (step / (turned / 2))
    if config.flag("use_NTK_by_parts_rope"):
        factor, low, high = (
            float(config.number(f"NTK_by_parts_{n}factor", above=0.0)) for n in ("", "low_freq_", "high_freq_")
        )
        turns = config.integer("old_context_len", least=1) / (2 * pi * period)  # in the old context
        if low >= high:
            raise ValueError(
                f"{config.where}: NTK_by_parts_low_freq_factor must be below the high one, got {low}, {high}"
            )
        slow = ((high - turns) / (high - low)).clamp(0, 1)  # 1 where a turn is longer than the old context
        period = 1 / ((1 - slow) / period + slow / (factor * period))
    count = config.integer("n_ctx", least=1)
    sides = {name: tensors.take(f"rotary_{name}", (count, turned)) for name in ("sin", "cos")}
    angle = torch.arange(count)[:, None] / period
    angle = angle.repeat_interleave(2, 1) if config.flag("rotary_adjacent_pairs") else angle.repeat(1, 2)
    for name, found in sides.items():
        if not torch.allclose(found, getattr(angle, name)(), rtol=0, atol=1e-2):
            raise ValueError(
                f"{tensors.path}: rotary_{name} is not of the rotary_base and rotary_dim in {config.where}"
            )
    return period


def _norms(atoms: Float[Tensor, "block latent d"], tensors: Tensors) -> Float[Tensor, "block latent"]:
    """Norms of atoms in their file, a block at a time."""
    found = torch.stack([block.float().norm(dim=-1) for block in atoms])
    if not found.isfinite().all():
        raise ValueError(f"{tensors.path}: W_D holds numbers that are not finite (NaN or infinity)")
    return found


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return weight if bool((scale == 1).all()) else weight * scale


def _pieces(blocks: Sequence[tuple[int, int, Tensor, float]]) -> tuple[Piece, ...]:
    return tuple(Piece(i, j, v if f == 1 else Scaled(v, f)) for i, j, v, f in blocks)  # pyright: ignore[reportArgumentType]


def _several(
    config: Config,
    tensors: Tensors,
    encoder: Any,
    chosen: Any,
    shape: tuple[int, int],
    latents: int,
    taken: Mapping[str, Tensor],
    pieces: tuple[Piece, ...] = (),
) -> Found:
    """What reads and writes rows (site, d), all tensors taken."""
    tensors.done()
    decoder = ["linear", {"shape": list(shape), "latents": latents, "unit": False}]
    return Found(spec(encoder, chosen, decoder, shape), dict(taken), config=config.value, pieces=pieces)

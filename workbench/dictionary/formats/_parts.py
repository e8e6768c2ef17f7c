"""Dictionaries put together from named parts and given tensors: what a checkpoint says, without a training recipe.

A spec is JSON: {"encoder": [kind, arguments], "sparsifier": ..., "decoder": ..., "skip": ... or None, "shape": [...]}.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from math import prod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...code import Code
from ..core import Decoder, Dictionary, Encoder
from ..encoders import Linear
from ..sparsifiers import Thresholded, TopK

AT_ONCE = 1024  # atoms that are read from their files together
PARTS = {  # what a spec may name: a class of this package and nothing else
    "encoder": {
        "linear": "encoders.Linear",
        "tied": "encoders.Tied",
        "bilinear": "encoders.Bilinear",
        "pursuit": "encoders.Pursuit",
        "layers": "variants.crosslayer_transcoder.Layers",
        "per_row": "formats._parts.PerRow",
        "glu": "formats.llamascopium.Glu",
        "repeated": "formats.llamascopium.Repeated",
        "lorsa": "formats._lorsa.Lorsa",
        "normed": "formats._sae_lens_parts.Normed",
        "sae_lens_pursuit": "formats._sae_lens_parts.MatchingPursuit",
        "temporal": "formats._sae_lens_parts.Temporal",
        "greedy": "formats.overcomplete.Greedy",
    },
    "sparsifier": {
        "block_topk": "formats.llamascopium.BlockTopK",
        "relu": "sparsifiers.ReLU",
        "topk": "sparsifiers.TopK",
        "ranked_topk": "formats._parts.RankedTopK",
        "largest": "formats.openai.Largest",
        "abs_topk": "variants.abs_topk.AbsTopK",
        "group_max": "variants.group_max.GroupMax",
        "jumprelu": "formats._parts.Threshold",
        "gated": "variants.gated.Gated",
        "signed": "sparsifiers.Signed",
        "given": "sparsifiers.Given",
    },
    "decoder": {
        "linear": "decoders.Linear",
    },
    "skip": {
        "linear": "formats._parts.Skip",
        "per_row": "formats._parts.Rest",
        "layers": "formats.gemma_scope_2.LayersSkip",
        "temporal": "formats._sae_lens_parts.Foreseen",
    },
}


class Piece(NamedTuple):
    """A block of atoms, (latent, column): which latents it begins at, and which column of the flat target."""

    latent: int
    column: int
    values: Tensor


class Found(NamedTuple):
    """What a checkpoint holds: parts, tensors by our names, and where it says that it lives."""

    spec: dict[str, Any]
    tensors: dict[str, Tensor]
    reads: str | None = None  # the owner's name of the place, `:in` for what goes into a module
    writes: str | None = None  # where the reconstruction belongs, if elsewhere
    model: str | None = None
    config: Mapping[str, Any] = {}  # the owner's configuration, kept as it came
    pieces: tuple[Piece, ...] = ()  # of the atoms, where they stay in their files; `tensors` then has no decoder.weight


def part(role: str, spec: Any) -> nn.Module:
    """One part without values. Raises ValueError for a kind that does not exist or arguments that do not fit."""
    kinds = PARTS[role]
    if not (isinstance(spec, list | tuple) and len(spec) == 2 and spec[0] in kinds and isinstance(spec[1], dict)):
        raise ValueError(f"{role} must be [kind, arguments], a kind of {', '.join(kinds)}, got {spec!r}")
    module, _, name = kinds[spec[0]].rpartition(".")
    found = getattr(import_module(f"..{module}", __package__), name)
    args = {key: tuple(value) if key == "shape" else value for key, value in spec[1].items()}
    try:
        return found(**args)
    except TypeError as error:
        raise ValueError(f"{role} {spec[0]}: {error}") from None


def assemble(spec: Mapping[str, Any], tensors: Mapping[str, Tensor], pieces: Sequence[Piece] = ()) -> Dictionary:
    """The dictionary of a spec, with exactly these tensors, which are not copied. Frozen, scales 1 unless given.

    With `pieces` the atoms stay where they are. Raises ValueError when names or shapes are not those of the parts.
    """
    with torch.device("meta"):
        parts = {role: None if spec.get(role) is None else part(role, spec[role]) for role in PARTS}
        made = Dictionary(**parts, shape=tuple(spec["shape"]))  # pyright: ignore[reportArgumentType]
        if pieces:
            made.decoder = Sliced(made.decoder.shape, made.latents, pieces)
    given = {"scale_in": torch.tensor(1.0), "scale_out": torch.tensor(1.0)} | dict(tensors)
    wanted = {name: tuple(value.shape) for name, value in [*made.named_parameters(), *made.named_buffers()]}
    came = {name: tuple(value.shape) for name, value in given.items()}
    if wanted != came:
        off = sorted(name for name in wanted.keys() | came.keys() if wanted.get(name) != came.get(name))
        raise ValueError(
            "parts and tensors do not fit: " + ", ".join(f"{n} {wanted.get(n)} wanted, {came.get(n)} came" for n in off)
        )
    made.load_state_dict(given, assign=True, strict=False)  # strict was checked above
    made.call = {"parts": dict(spec)}
    return made.freeze()


def spec(encoder: Any, sparsifier: Any, decoder: Any, shape: tuple[int, ...], skip: Any = None) -> dict[str, Any]:
    """A spec from its four parts."""
    return {"encoder": encoder, "sparsifier": sparsifier, "decoder": decoder, "skip": skip, "shape": list(shape)}


def plain(d: int, latents: int, sparsifier: Any, *, d_out: int | None = None, center: bool, skip: Any = None) -> Any:
    """The spec of one site, or of two: linear encoder, linear decoder with atoms of any norm."""
    encoder = ["linear", {"shape": [d], "latents": latents, "center": center}]
    decoder = ["linear", {"shape": [d_out or d], "latents": latents, "unit": False}]
    return spec(encoder, sparsifier, decoder, (d,), skip)


class Threshold(Thresholded):
    """A fixed threshold, one for each latent (`each`) or one for all; what is strictly above it is on.

    `signed` where a threshold below 0 lets negative values pass; else they are rectified first.
    """

    def __init__(self, latents: int, *, each: bool = True, signed: bool = False):
        super().__init__()
        self.signed = signed
        self.register_buffer("threshold", torch.zeros(latents if each else ()))

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        return self.infer(pre)

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return super().infer(pre if self.signed else pre.relu())


class RankedTopK(TopK):
    """Each row's k of largest pre-activation x `weight`, rectified; values are the pre-activations themselves."""

    weight: Tensor

    def __init__(self, k: int, latents: int):
        super().__init__(k, latents)
        self.register_buffer("weight", torch.ones(latents))

    def forward(self, pre: Float[Tensor, "row latent"], slack: float = 1.0) -> Code:
        ranked = super().forward(pre * self.weight, slack)
        assert ranked.indices is not None
        return Code.fixed(ranked.indices, pre.gather(1, ranked.indices), ranked.latents)


def normalised(
    x: Float[Tensor, "row *inp"], how: str, eps: float
) -> tuple[Float[Tensor, "row *inp"], Float[Tensor, "row _"], Float[Tensor, "row _"]]:
    """Rows by themselves, their size and their mean: `layer_norm` (unbiased deviation) or `norm` (to sqrt(d)).

    `eps` is added to what rows are divided by, and not to the size that is given back, as all owners have it.
    """
    flat = x.flatten(1)
    if how == "layer_norm":
        mean = flat.mean(-1, keepdim=True)
        flat = flat - mean
        size = flat.std(-1, keepdim=True)
    else:
        mean = torch.zeros_like(flat[:, :1])
        size = flat.norm(dim=-1, keepdim=True) / flat.shape[1] ** 0.5
    return (flat / (size + eps)).view_as(x), size, mean


class PerRow(Encoder):
    """The code of rows that are normalised one by one, in the model's units: a value is the owner's x the row's size.

    So value x atom stays a vector of the model; `Rest` is what such a dictionary adds to each row beside atoms.
    """

    shift: Tensor

    def __init__(self, shape: tuple[int, ...], latents: int, how: str, eps: float, sparsifier: Any):
        super().__init__()
        if how not in ("layer_norm", "norm"):
            raise ValueError(f"rows are normalised by layer_norm or norm, got {how!r}")
        self.how, self.eps = how, eps
        self.linear = Linear(tuple(shape), latents, center=False)
        self.sparsifier = part("sparsifier", sparsifier)
        self.register_buffer("shift", torch.zeros(prod(shape)))  # taken from the normalised row

    def forward(self, x: Float[Tensor, "row *inp"], decoder: Any) -> Float[Tensor, "row latent"]:
        unit, size, _ = normalised(x, self.how, self.eps)
        pre = self.linear(unit.flatten(1) - self.shift, decoder)
        return self.sparsifier.infer(pre).to_dense() * size  # pyright: ignore[reportCallIssue]

    def fold_(self, scale_in: float, scale_out: float) -> None:
        """Nothing: a normalised row has no scale."""
        super().fold_(scale_in, scale_out)


class Rest(nn.Module):
    """What a dictionary of normalised rows adds beside atoms: the row's size x its bias, and the row's mean."""

    bias: Tensor

    def __init__(self, shape: tuple[int, ...], how: str, eps: float):
        super().__init__()
        self.how, self.eps = how, eps
        self.register_buffer("bias", torch.zeros(shape))

    def forward(self, x: Float[Tensor, "row *inp"]) -> Float[Tensor, "row *inp"]:
        _, size, mean = normalised(x, self.how, self.eps)
        return (size * self.bias.flatten() + mean).view_as(x)


class Skip(nn.Linear):
    """A linear skip connection without a bias: y += W x, `weight` (out, in)."""

    def __init__(self, d: int, d_out: int):
        super().__init__(d, d_out, bias=False)


class Sliced(Decoder):
    """Linear decoder whose atoms stay in their files: only those that a code uses are read, and turned to float32.

    Saved it is a plain linear decoder, for which all of it is read.
    """

    def __init__(self, shape: tuple[int, ...], latents: int, pieces: Sequence[Piece]):
        super().__init__()
        self.shape, self.weight = shape, Atoms(latents, prod(shape), pieces)
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, code: Code, upto: int | None = None) -> Float[Tensor, "row *out"]:
        rows, latents, values = code.entries()
        if upto is not None:
            rows, latents, values = (t[latents < upto] for t in (rows, latents, values))
        used, at = latents.unique(return_inverse=True)
        total = self.bias.flatten().expand(len(code), -1)
        for start in range(0, len(used), AT_ONCE):
            here = (at >= start) & (at < start + AT_ONCE)
            ends = torch.bincount(rows[here], minlength=len(code)).cumsum(0)
            some = Code.csr(torch.cat([ends.new_zeros(1), ends]), at[here] - start, values[here], AT_ONCE)
            atoms = self.weight[used[start : start + AT_ONCE]].to(values)
            total = total + some.combine(torch.nn.functional.pad(atoms, (0, 0, 0, AT_ONCE - len(atoms))))
        return total.unflatten(-1, self.shape)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight[:]


class Atoms:
    """Rows of a matrix (latent, column) that lies in pieces; what no piece covers is 0."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, latents: int, columns: int, pieces: Sequence[Piece]):
        self.shape, self.pieces = (latents, columns), tuple(pieces)
        for latent, column, values in pieces:
            if latent + values.shape[0] > latents or column + values.shape[1] > columns:
                raise ValueError(f"a piece {tuple(values.shape)} at {(latent, column)} is outside {self.shape}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Any) -> Float[Tensor, "some column"]:
        wanted = torch.arange(len(self))[which.cpu() if isinstance(which, Tensor) else which].reshape(-1)
        out = torch.zeros(len(wanted), self.shape[1])
        for latent, column, values in self.pieces:
            here = ((wanted >= latent) & (wanted < latent + len(values))).nonzero()[:, 0]
            if len(here):
                out[here, column : column + values.shape[1]] = values[wanted[here] - latent].float()
        if not out.isfinite().all():  # they were not looked through when the file was opened
            off = wanted[~out.isfinite().all(1)].tolist()
            raise ValueError(
                f"atoms hold numbers that are not finite (NaN or infinity), the first that of latent {off[0]}"
            )
        return out

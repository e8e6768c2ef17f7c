"""Transcoders in the place of a model's MLPs on one prompt: what is on, what it reads, what it writes, what is left."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..dictionary import Dictionary

AT_ONCE = 1024  # latents whose reading directions are made together


@dataclass(frozen=True, eq=False)
class Active:
    """The latents that are on: where, how much, and their pre-activation. What they read is made when asked for."""

    layer: Int[Tensor, " n"]
    pos: Int[Tensor, " n"]
    latent: Int[Tensor, " n"]
    value: Float[Tensor, " n"]
    pre: Float[Tensor, " n"]
    rows: Mapping[int, Float[Tensor, "pos *d"]] = field(repr=False)  # what each layer's dictionary receives
    of: Mapping[int, Dictionary] = field(repr=False)

    def __len__(self) -> int:
        return len(self.layer)

    def place(self, layer: int, pos: int, latent: int) -> int:
        """Which of them is this latent. Raises ValueError where it is not on."""
        found = ((self.layer == layer) & (self.pos == pos) & (self.latent == latent)).nonzero()[:, 0]
        if not len(found):
            raise ValueError(f"latent {layer}/{latent} is not on at position {pos}")
        return int(found[0])

    def reads(self, which: Int[Tensor, " some"] | None = None) -> Float[Tensor, "some d"]:
        """d pre / d vector of some latents, or all, in the model's units."""
        which = torch.arange(len(self)) if which is None else which
        layers = self.layer[which]
        d = next(iter(self.rows.values())).shape[-1] if self.rows else 0
        found = self.pre.new_zeros(len(which), d)
        for layer in layers.unique().tolist():
            for part in (layers == layer).nonzero()[:, 0].split(AT_ONCE):
                rows = self.rows[layer][self.pos[which[part]]]
                got = directions(self.of[layer], rows, self.latent[which[part]])
                found[part] = got if got.ndim == 2 else got[:, layer]  # across layers: the others are 0
        return found


@dataclass(frozen=True, eq=False)
class Written:
    """What stands in for one layer's MLP: what active latents write there, the constant, and the linear skip."""

    by: Int[Tensor, " m"]  # places in Active
    what: Callable[[], Float[Tensor, "m d"]]  # value x atom, made when asked for
    bias: Float[Tensor, " d"]
    skip: Callable[[Tensor], Tensor] | None


def put(
    transcoders: Mapping[int, Dictionary] | Dictionary,
    reads: Mapping[int, Float[Tensor, "pos d"]],
    keep: Bool[Tensor, " pos"],
) -> tuple[Active, dict[int, Written]]:
    """The replacement on one prompt, whose MLPs receive `reads`. At positions outside `keep` nothing is replaced.

    `transcoders`: one for each layer that has one, or a cross-layer transcoder of the first layers.
    Raises ValueError for layers that the model does not have.
    """
    across = isinstance(transcoders, Dictionary)
    wanted = range(transcoders.shape[0]) if across else sorted(transcoders)
    if missing := [layer for layer in wanted if layer not in reads]:
        raise ValueError(f"the model has layers 0 to {max(reads)}, transcoders are given for {missing}")
    if isinstance(transcoders, Dictionary):
        return _crosslayer(transcoders, torch.stack([reads[layer] for layer in wanted], 1), keep)
    parts, written, start = [], {}, 0
    rows = {layer: reads[layer].to(transcoders[layer].scale_in.dtype) for layer in wanted}
    for layer in wanted:
        dictionary = transcoders[layer]
        pos, latent, value, pre = _on(dictionary, rows[layer], keep)
        parts.append((torch.full_like(pos, layer), pos, latent, value, pre))
        by = torch.arange(start, start + len(pos))
        start += len(pos)
        skip = None if dictionary.skip is None else skip_of(dictionary)
        written[layer] = Written(by, _what(dictionary, latent, value), _bias(dictionary), skip)
    empty = (torch.zeros(0, dtype=torch.long),) * 3 + (torch.zeros(0),) * 2
    layer, pos, latent, value, pre = (torch.cat(some) for some in zip(*(parts or [empty]), strict=True))
    return Active(layer, pos, latent, value, pre, rows, dict(transcoders)), written


def _what(dictionary: Dictionary, latent: Tensor, value: Tensor, to: int | None = None) -> Callable[[], Tensor]:
    """Value x atom, of one layer where atoms go to several."""

    @torch.no_grad()
    def made() -> Tensor:
        atoms = dictionary.atoms(latent)
        return value[:, None] * (atoms if to is None else atoms[:, to])

    return made


def _crosslayer(dictionary: Dictionary, x: Tensor, keep: Tensor) -> tuple[Active, dict[int, Written]]:
    sites = dictionary.shape[0]
    x = x.to(dictionary.scale_in.dtype)
    pos, latent, value, pre = _on(dictionary, x, keep)
    layer = latent // (dictionary.latents // sites)
    order = layer.argsort(stable=True)
    layer, pos, latent, value, pre = (t[order] for t in (layer, pos, latent, value, pre))
    active = Active(
        layer, pos, latent, value, pre, dict.fromkeys(range(sites), x), dict.fromkeys(range(sites), dictionary)
    )
    written = {}
    for to in range(sites):
        by = (layer <= to).nonzero()[:, 0]
        written[to] = Written(by, _what(dictionary, latent[by], value[by], to), _bias(dictionary)[to], None)
    return active, written


@torch.no_grad()
def _on(dictionary: Dictionary, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(pos, latent, value, pre-activation) of the entries of the rows' code at kept positions."""
    pos, latent, value = dictionary.encode(x).entries()
    kept = keep[pos]
    pos, latent, value = pos[kept], latent[kept], value[kept]
    return pos, latent, value, dictionary.encoder(x * dictionary.scale_in, dictionary.decoder)[pos, latent]


def directions(
    dictionary: Dictionary, rows: Float[Tensor, "n *d"], latents: Int[Tensor, " n"]
) -> Float[Tensor, "n *d"]:
    """d pre / d row of a latent at each row, by one backward pass through the encoder; in the model's units."""
    rows = rows.detach().requires_grad_()
    with torch.enable_grad():
        pre = dictionary.encoder(rows * dictionary.scale_in, dictionary.decoder)
        return torch.autograd.grad(pre[torch.arange(len(rows)), latents].sum(), rows)[0]


@torch.no_grad()
def _bias(dictionary: Dictionary) -> Tensor:
    return (dictionary.decoder.bias / dictionary.scale_out).detach()


def skip_of(dictionary: Dictionary) -> Callable[[Tensor], Tensor]:
    """A dictionary's linear skip in the model's units."""

    def skip(rows: Tensor) -> Tensor:
        x = rows.to(dictionary.scale_in.dtype) * dictionary.scale_in
        return (dictionary.skip(x) / dictionary.scale_out).to(rows.dtype)

    return skip

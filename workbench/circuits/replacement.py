"""Transcoders in the place of a model's MLPs on one prompt: what is on, what it reads, what it writes, what is left."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..dictionary import Dictionary

AT_ONCE = 1024  # latents whose reading directions are made together


@dataclass(frozen=True, eq=False)
class Active:
    """The latents that are on: where, how much, their pre-activation, the direction each reads, and its constant."""

    layer: Int[Tensor, " n"]
    pos: Int[Tensor, " n"]
    latent: Int[Tensor, " n"]
    value: Float[Tensor, " n"]
    pre: Float[Tensor, " n"]
    reads: Float[Tensor, "n d"]  # d pre / d vector, in the model's units
    constant: Float[Tensor, " n"]  # pre less <reads, vector>

    def __len__(self) -> int:
        return len(self.layer)


@dataclass(frozen=True, eq=False)
class Written:
    """What stands in for one layer's MLP: what active latents write there, the constant, and the linear skip."""

    by: Int[Tensor, " m"]  # places in Active
    what: Float[Tensor, "m d"]  # value x atom
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
    wanted = range(transcoders.shape[0]) if isinstance(transcoders, Dictionary) else sorted(transcoders)
    if missing := [layer for layer in wanted if layer not in reads]:
        raise ValueError(f"the model has layers 0 to {max(reads)}, transcoders are given for {missing}")
    if isinstance(transcoders, Dictionary):
        return _crosslayer(transcoders, torch.stack([reads[layer] for layer in wanted], 1), keep)
    parts, written, start = [], {}, 0
    for layer in wanted:
        dictionary = transcoders[layer]
        x, pos, latent, value = _on(dictionary, reads[layer], keep)
        parts.append(_active(dictionary, torch.full_like(pos, layer), x, pos, latent, value))
        by = torch.arange(start, start + len(pos))
        start += len(pos)
        skip = None if dictionary.skip is None else _skip(dictionary)
        written[layer] = Written(by, value[:, None] * dictionary.atoms(latent), _bias(dictionary), skip)
    joined = {f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Active)}
    return Active(**joined), written


def _crosslayer(dictionary: Dictionary, x: Tensor, keep: Tensor) -> tuple[Active, dict[int, Written]]:
    sites = dictionary.shape[0]
    x, pos, latent, value = _on(dictionary, x, keep)
    layer = latent // (dictionary.latents // sites)
    order = layer.argsort(stable=True)
    layer, pos, latent, value = (t[order] for t in (layer, pos, latent, value))
    active = _active(dictionary, layer, x, pos, latent, value)
    what, written = value[:, None, None] * dictionary.atoms(latent), {}
    for to in range(sites):
        by = (layer <= to).nonzero()[:, 0]
        written[to] = Written(by, what[by, to], _bias(dictionary)[to], None)
    return active, written


@torch.no_grad()
def _on(dictionary: Dictionary, x: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
    """Rows in the dictionary's dtype, and the entries of their code at kept positions."""
    x = x.to(dictionary.scale_in.dtype)
    pos, latent, value = dictionary.encode(x).entries()
    kept = keep[pos]
    return x, pos[kept], latent[kept], value[kept]


def _active(dictionary: Dictionary, layer: Tensor, x: Tensor, pos: Tensor, latent: Tensor, value: Tensor) -> Active:
    """Reading directions by one backward pass through the encoder for many latents, each on a row of its own."""
    pres, directions = [], []
    for part in torch.arange(len(pos)).split(AT_ONCE):
        rows = x[pos[part]].detach().requires_grad_()
        with torch.enable_grad():
            pre = dictionary.encoder(rows * dictionary.scale_in, dictionary.decoder)
            pre = pre[torch.arange(len(part)), latent[part]]
            (found,) = torch.autograd.grad(pre.sum(), rows)
        pres.append(pre.detach())
        directions.append(found)
    pre = torch.cat([*pres, x.new_zeros(0)])
    reads = torch.cat([*directions, x.new_zeros(0, *x.shape[1:])])
    constant = pre - (reads * x[pos]).flatten(1).sum(1)
    if reads.ndim == 3:  # of one layer each: the others are 0
        reads = reads[torch.arange(len(pos)), layer]
    return Active(layer, pos, latent, value, pre, reads, constant)


@torch.no_grad()
def _bias(dictionary: Dictionary) -> Tensor:
    return (dictionary.decoder.bias / dictionary.scale_out).detach()


def _skip(dictionary: Dictionary) -> Callable[[Tensor], Tensor]:
    def skip(rows: Tensor) -> Tensor:
        x = rows.to(dictionary.scale_in.dtype) * dictionary.scale_in
        return (dictionary.skip(x) / dictionary.scale_out).to(rows.dtype)

    return skip

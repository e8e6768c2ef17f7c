"""The sparse code of rows in three layouts behind one interface, and what everyone else needs of a dictionary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from .batch import Exclusion
from .site import Site

GATHER = 1 << 22  # numbers gathered at once in a backward pass: bounds its memory, not its result


class _Combine(torch.autograd.Function):
    """Sum of chosen atoms per row; gradients touch chosen atoms and entries only, a bounded gather at a time."""

    @staticmethod
    def forward(ctx, values: Tensor, indices: Tensor, offsets: Tensor, atoms: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, offsets, atoms)
        return embedding_bag(
            indices, atoms, offsets, mode="sum", per_sample_weights=values.to(atoms.dtype), include_last_offset=True
        )

    @staticmethod
    def backward(ctx, *grads: Tensor):
        values, indices, offsets, atoms = ctx.saved_tensors
        (grad,) = grads
        rows = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())
        to_values = to_atoms = None
        if ctx.needs_input_grad[0]:
            to_values, step = torch.empty_like(values), max(1, GATHER // atoms.shape[1])
            for i in range(0, len(indices), step):
                part = slice(i, i + step)
                to_values[part] = (atoms[indices[part]] * grad[rows[part]]).sum(-1).to(values.dtype)
        if ctx.needs_input_grad[3]:
            order = indices.argsort(stable=True)
            ends = torch.bincount(indices, minlength=len(atoms)).cumsum(0)
            offset = torch.cat([ends.new_zeros(1), ends])
            to_atoms = embedding_bag(
                rows[order],
                grad.contiguous(),
                offset,
                mode="sum",
                per_sample_weights=values[order].to(grad.dtype),
                include_last_offset=True,
            )
        return to_values, None, None, to_atoms


@dataclass(frozen=True, eq=False)
class Code:
    """Which latents are on in each row, and how much. Build with `fixed`, `csr` or `dense`.

    An entry is active when its value is not zero: a fixed-k row with fewer than k active latents holds zeros in the
    rest, and they never count. Indices are unique within a row. Values carry gradients; indices do not.
    """

    values: Float[Tensor, "..."]  # fixed (row, k) · csr (entry,) · dense (row, latent)
    latents: int
    indices: Int[Tensor, "..."] | None = None  # fixed (row, k) · csr (entry,)
    offsets: Int[Tensor, " row_plus_1"] | None = None  # csr

    @classmethod
    def fixed(cls, indices: Int[Tensor, "row k"], values: Float[Tensor, "row k"], latents: int) -> "Code":
        return cls(values, latents, indices)

    @classmethod
    def csr(
        cls, offsets: Int[Tensor, " row_plus_1"], indices: Int[Tensor, " n"], values: Float[Tensor, " n"], latents: int
    ) -> "Code":
        return cls(values, latents, indices, offsets)

    @classmethod
    def dense(cls, values: Float[Tensor, "row latent"]) -> "Code":
        return cls(values, values.shape[1])

    @property
    def layout(self) -> str:
        return "dense" if self.indices is None else "fixed" if self.offsets is None else "csr"

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def to_csr(self) -> "Code":
        """Active entries only, rows in order; differentiable in the values."""
        if self.offsets is not None and bool((self.values != 0).all()):
            return self
        rows, indices, values = self.entries()
        ends = torch.bincount(rows, minlength=len(self)).cumsum(0)
        return Code.csr(torch.cat([ends.new_zeros(1), ends]), indices, values, self.latents)

    def to_dense(self) -> Float[Tensor, "row latent"]:
        """All latents of every row; differentiable in the values. Costs rows x latents numbers."""
        if self.indices is None:
            return self.values
        if self.offsets is None:
            # scatter_add: the zero slots of a row may repeat an index
            return self.values.new_zeros(len(self), self.latents).scatter_add(1, self.indices, self.values)
        rows, indices, values = self.entries()
        return self.values.new_zeros(len(self), self.latents).index_put((rows, indices), values)

    def entries(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]]:
        """(row, latent, value) of every active entry, rows in order."""
        if self.indices is None:
            rows, indices = self.values.nonzero(as_tuple=True)
            return rows, indices, self.values[rows, indices]
        if self.offsets is None:
            rows, slots = self.values.nonzero(as_tuple=True)
            return rows, self.indices[rows, slots], self.values[rows, slots]
        rows = torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.offsets.diff())
        on = self.values != 0
        return rows[on], self.indices[on], self.values[on]

    def counts(self) -> Int[Tensor, " row"]:
        """L0: active latents per row."""
        if self.offsets is None:
            return (self.values != 0).sum(-1)
        return torch.bincount(self.entries()[0], minlength=len(self))

    def fired(self) -> Int[Tensor, " latent"]:
        """Rows in which each latent is active."""
        if self.indices is None:
            return (self.values != 0).sum(0)
        return torch.bincount(self.indices[self.values != 0].reshape(-1), minlength=self.latents)

    def weigh(self, weights: Float[Tensor, " latent"]) -> Float[Tensor, " row"]:
        """Sum over a row's latents of |value| * weight, differentiable in both."""
        if self.indices is None:
            return self.values.abs() @ weights
        parts = self.values.abs() * weights[self.indices]
        if self.offsets is None:
            return parts.sum(-1)
        rows = torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.offsets.diff())
        return parts.new_zeros(len(self)).index_add(0, rows, parts)

    def combine(self, atoms: Float[Tensor, "latent d"], upto: int | None = None) -> Float[Tensor, "row d"]:
        """Sum of value * atom per row over the first `upto` latents (all by default): the decoder's inner step."""
        if self.indices is None:
            return self.values[:, :upto] @ atoms[:upto]
        values = self.values if upto is None else torch.where(self.indices < upto, self.values, 0)
        if self.offsets is None:
            rows, k = self.indices.shape
            offsets = torch.arange(0, rows * k + 1, max(k, 1), device=self.indices.device)
            offsets = offsets if k else offsets.new_zeros(rows + 1)
        else:
            offsets = self.offsets
        return _Combine.apply(values.reshape(-1), self.indices.reshape(-1), offsets, atoms)

    def column(self, latent: int) -> Float[Tensor, " row"]:
        """One latent's value in every row."""
        if not 0 <= latent < self.latents:
            raise IndexError(f"latent must be 0..{self.latents - 1}, got {latent}")
        if self.indices is None:
            return self.values[:, latent]
        hit = torch.where(self.indices == latent, self.values, 0)
        if self.offsets is None:
            return hit.sum(-1)
        rows = torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.offsets.diff())
        return hit.new_zeros(len(self)).index_add(0, rows, hit)

    def detach(self) -> "Code":
        return Code(self.values.detach(), self.latents, self.indices, self.offsets)

    @staticmethod
    def cat(codes: Sequence["Code"]) -> "Code":
        """Rows of several codes one after another, as CSR unless all share another layout and width."""
        if not codes:
            raise ValueError("no codes to join: give at least one")
        layouts = {(c.layout, c.latents, c.values.shape[-1] if c.offsets is None else 0) for c in codes}
        first = codes[0]
        if len(layouts) == 1 and first.offsets is None:
            indices = None if first.indices is None else torch.cat([c.indices for c in codes if c.indices is not None])
            return Code(torch.cat([c.values for c in codes]), first.latents, indices)
        rows = [c.to_csr() for c in codes]
        sizes = torch.cat([r.offsets.diff() for r in rows if r.offsets is not None])
        return Code.csr(
            torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
            torch.cat([r.indices for r in rows if r.indices is not None]),
            torch.cat([r.values for r in rows]),
            first.latents,
        )


@runtime_checkable
class Codec(Protocol):
    """What the rest of the house needs of a dictionary. Rows in and out are in the model's own units.

    `scale` is applied inside `encode` and undone inside `decode` and `atoms`: a code value times an atom is a vector of
    the residual stream. No properties: `isinstance` on a protocol evaluates them.
    """

    latents: int
    site: Site | None
    target: Site | None  # where the reconstruction belongs; the same site for an autoencoder
    exclusion: Exclusion

    def encode(self, x: Float[Tensor, "row *inp"]) -> Code: ...
    def decode(self, code: Code) -> Float[Tensor, "row *out"]: ...  # without a skip connection
    def reconstruct(self, x: Float[Tensor, "row *inp"]) -> Float[Tensor, "row *out"]: ...  # decode(encode) + skip
    def atoms(self, latents: Sequence[int] | Bool[Tensor, " latent"] | None = None) -> Float[Tensor, "some *out"]: ...

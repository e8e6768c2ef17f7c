"""The sparse code of rows in three layouts behind one interface, and what everyone else needs of a dictionary."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from .batch import Exclusion
from .site import Site


class Support:
    """Which (row, latent) pairs are chosen, rows in order, and the three sparse products over them.

    The order by latent is found once and shared by every product that needs it. No product builds anything of size
    rows x latents or chosen x d.
    """

    def __init__(self, indices: Int[Tensor, " n"], offsets: Int[Tensor, " row_plus_1"], latents: int):
        self.indices, self.offsets, self.latents = indices, offsets, latents

    @cached_property
    def rows(self) -> Int[Tensor, " n"]:
        """The row of each entry."""
        return torch.repeat_interleave(
            torch.arange(len(self.offsets) - 1, device=self.offsets.device),
            self.offsets.diff(),
            output_size=len(self.indices),
        )

    @cached_property
    def _by_latent(self) -> tuple[Tensor, Tensor, Tensor]:
        order = self.indices.argsort(stable=True)
        return order, self.rows[order], _ends(torch.bincount(self.indices, minlength=self.latents))

    def combine(self, values: Float[Tensor, " n"], atoms: Float[Tensor, "latent d"]) -> Float[Tensor, "row d"]:
        """z @ atoms."""
        return _bag(self.indices, self.offsets, values, atoms)

    def collect(self, values: Float[Tensor, " n"], rows: Float[Tensor, "row d"]) -> Float[Tensor, "latent d"]:
        """z.T @ rows."""
        order, where, ends = self._by_latent
        return _bag(where, ends, values[order], rows)

    def dots(self, atoms: Float[Tensor, "latent d"], rows: Float[Tensor, "row d"]) -> Float[Tensor, " n"]:
        """The entries of rows @ atoms.T that are chosen."""
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            rows.contiguous(), atoms.contiguous(), self.indices, self.offsets[:-1], self.rows, 0, -1
        )


def _ends(counts: Tensor) -> Tensor:
    ends = counts.new_zeros(len(counts) + 1)
    torch.cumsum(counts, 0, out=ends[1:])
    return ends


def _bag(indices: Tensor, offsets: Tensor, weights: Tensor, vectors: Tensor) -> Tensor:
    return embedding_bag(
        indices, vectors, offsets, mode="sum", per_sample_weights=weights.to(vectors.dtype), include_last_offset=True
    )


class _Combine(torch.autograd.Function):
    """Sum of chosen atoms per row; gradients touch chosen atoms and entries only."""

    @staticmethod
    def forward(ctx, values: Tensor, atoms: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(values, atoms)
        ctx.support = support
        return support.combine(values, atoms)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        values, atoms = ctx.saved_tensors
        (grad,) = grads
        to_values = ctx.support.dots(atoms, grad).to(values.dtype) if ctx.needs_input_grad[0] else None
        to_atoms = ctx.support.collect(values.to(grad.dtype), grad.contiguous()) if ctx.needs_input_grad[1] else None
        return to_values, to_atoms, None


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

    @cached_property
    def support(self) -> Support:
        """The chosen pairs of a fixed or CSR code, zeros included."""
        if self.indices is None:
            raise ValueError("a dense code has no support: take to_csr() first")
        if self.offsets is not None:
            return Support(self.indices, self.offsets, self.latents)
        rows, k = self.indices.shape
        offsets = torch.arange(rows + 1, device=self.indices.device) * k
        return Support(self.indices.reshape(-1).contiguous(), offsets, self.latents)

    def like(self, values: Float[Tensor, "..."]) -> "Code":
        """The same chosen pairs with other values, in this code's layout or flat."""
        code = Code(values.reshape(self.values.shape), self.latents, self.indices, self.offsets)
        if self.indices is not None:
            code.__dict__["support"] = self.support  # shares the order by latent
        return code

    def look_up(self, pre: Float[Tensor, "row latent"]) -> Float[Tensor, "..."]:
        """Entries of a dense matrix at the chosen pairs, in this code's layout; differentiable."""
        if self.indices is None:
            return pre
        return pre.gather(1, self.indices) if self.offsets is None else pre[self.support.rows, self.indices]

    def to_csr(self) -> "Code":
        """Active entries only, rows in order; differentiable in the values."""
        if self.offsets is not None and bool((self.values != 0).all()):
            return self
        rows, indices, values = self.entries()
        return Code.csr(_ends(torch.bincount(rows, minlength=len(self))), indices, values, self.latents)

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
        on = self.values != 0
        return self.support.rows[on], self.indices[on], self.values[on]

    def counts(self) -> Int[Tensor, " row"]:
        """L0: active latents per row."""
        if self.offsets is None:
            return (self.values != 0).sum(-1)
        return torch.bincount(self.entries()[0], minlength=len(self))

    def fired(self) -> Int[Tensor, " latent"]:
        """Rows in which each latent is active."""
        if self.indices is None:
            return (self.values != 0).sum(0)
        on = (self.values != 0).reshape(-1).long()
        return on.new_zeros(self.latents).index_add_(0, self.indices.reshape(-1), on)

    def weigh(self, weights: Float[Tensor, " latent"]) -> Float[Tensor, " row"]:
        """Sum over a row's latents of |value| * weight, differentiable in both."""
        if self.indices is None:
            return self.values.abs() @ weights
        parts = self.values.abs() * weights[self.indices]
        if self.offsets is None:
            return parts.sum(-1)
        return parts.new_zeros(len(self)).index_add(0, self.support.rows, parts)

    def combine(self, atoms: Float[Tensor, "latent d"], upto: int | None = None) -> Float[Tensor, "row d"]:
        """Sum of value * atom per row over the first `upto` latents (all by default): the decoder's inner step."""
        if self.indices is None:
            return self.values[:, :upto] @ atoms[:upto]
        values = self.values if upto is None else torch.where(self.indices < upto, self.values, 0)
        return _Combine.apply(values.reshape(-1), atoms, self.support)

    def column(self, latent: int) -> Float[Tensor, " row"]:
        """One latent's value in every row."""
        if not 0 <= latent < self.latents:
            raise IndexError(f"latent must be 0..{self.latents - 1}, got {latent}")
        if self.indices is None:
            return self.values[:, latent]
        hit = torch.where(self.indices == latent, self.values, 0)
        if self.offsets is None:
            return hit.sum(-1)
        return hit.new_zeros(len(self)).index_add(0, self.support.rows, hit)

    def detach(self) -> "Code":
        return self.like(self.values.detach())

    @staticmethod
    def cat(codes: Sequence["Code"]) -> "Code":
        """Rows of several codes one after another, as CSR unless all share another layout and width."""
        if not codes:
            raise ValueError("no codes to join: give at least one")
        if len({c.latents for c in codes}) > 1:
            raise ValueError(f"codes to join must have one width, got {sorted({c.latents for c in codes})} latents")
        layouts = {(c.layout, c.latents, c.values.shape[-1] if c.offsets is None else 0) for c in codes}
        first = codes[0]
        if len(layouts) == 1 and first.offsets is None:
            indices = None if first.indices is None else torch.cat([c.indices for c in codes if c.indices is not None])
            return Code(torch.cat([c.values for c in codes]), first.latents, indices)
        rows = [c.to_csr() for c in codes]
        return Code.csr(
            _ends(torch.cat([r.offsets.diff() for r in rows if r.offsets is not None])),
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

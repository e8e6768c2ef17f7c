"""Edits: pure functions of the vectors at a site. The subject runs them; a dictionary is known as a Codec only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .batch import Exclusion
from .code import Codec
from .site import Site


class At(NamedTuple):
    """Where the vectors stand. Under a KV cache they cover the new positions only; `positions` stays absolute."""

    site: Site
    tokens: Int[Tensor, "text pos"]
    positions: Int[Tensor, "text pos"]  # in the text itself, padding not counted
    real: Bool[Tensor, "text pos"]  # not padding
    keep: Bool[Tensor, "text pos"]  # real, and neither first nor special: what an edit touches unless asked
    prompt: Bool[Tensor, "text pos"]  # False for tokens that were generated


Change = Callable[[Float[Tensor, "text pos d"], At], Float[Tensor, "text pos d"]]
Where = Callable[[Float[Tensor, "text pos d"], At], Bool[Tensor, "text pos"]]


def _kept(h: Tensor, at: At) -> Tensor:
    return at.keep


@dataclass(frozen=True)
class Edit:
    """`edit(h, at) -> h`: a change at chosen positions, the others untouched to the bit.

    `edit.then(other)` chains; `edit.at(...)`, `.prompt()`, `.generated()`, `.only(mask)` restrict; `.everywhere()` also
    takes the first position and special tokens.
    """

    change: Change
    where: Where = _kept

    def __call__(self, h: Float[Tensor, "text pos d"], at: At) -> Float[Tensor, "text pos d"]:
        where = self.where(h, at)
        if where.shape != h.shape[:2]:
            raise ValueError(f"an edit's positions must be {tuple(h.shape[:2])} (text, pos), got {tuple(where.shape)}")
        changed = self.change(h, at)
        if changed.shape != h.shape:
            raise ValueError(f"an edit must keep the shape {tuple(h.shape)} at {at.site}, got {tuple(changed.shape)}")
        return torch.where(where[..., None], changed.to(h.dtype), h)

    def then(self, other: "Edit") -> "Edit":
        return Edit(lambda h, at: other(self(h, at), at), lambda h, at: torch.ones_like(at.real))

    def _and(self, test: Where) -> "Edit":
        return replace(self, where=lambda h, at: self.where(h, at) & test(h, at))

    def only(self, mask: Bool[Tensor, "text pos"]) -> "Edit":
        """Where `mask` is true, in a run over exactly these rows."""
        return self._and(lambda h, at: mask.to(at.keep.device))

    def at(self, positions: int | Sequence[int]) -> "Edit":
        """At these positions of each text; negative ones are refused, a text's length is not known under a KV cache."""
        wanted = [positions] if isinstance(positions, int) else list(positions)
        if any(p < 0 for p in wanted):
            raise ValueError(f"positions count from the start of a text, got {wanted}: use 0 or more")
        return self._and(lambda h, at: torch.isin(at.positions, torch.tensor(wanted, device=at.positions.device)))

    def prompt(self) -> "Edit":
        return self._and(lambda h, at: at.prompt)

    def generated(self) -> "Edit":
        return self._and(lambda h, at: ~at.prompt)

    def everywhere(self) -> "Edit":
        """At every real position, the excluded ones too."""
        return replace(self, where=lambda h, at: at.real)


def function(change: Change) -> Edit:
    """Any function of (h, at)."""
    return Edit(change)


def add(vector: Tensor, strength: float = 1.0) -> Edit:
    """h + strength * vector, of shape (d,)."""
    _check_vector(vector)
    return Edit(lambda h, at: h + strength * _like(vector, h))


def zero() -> Edit:
    """Zero ablation."""
    return Edit(lambda h, at: torch.zeros_like(h))


def mean(vector: Tensor) -> Edit:
    """Mean ablation: every position becomes the given mean, of shape (d,)."""
    _check_vector(vector)
    return Edit(lambda h, at: _like(vector, h).expand_as(h))


def resample(rows: Float[Tensor, "row d"], seed: int = 0) -> Edit:
    """Each position becomes one of the given rows; the choice depends on its token and place only."""
    if not len(rows):
        raise ValueError("resample needs at least one row to draw from, got none")

    def change(h: Tensor, at: At) -> Tensor:
        batch = torch.arange(len(h), device=h.device)[:, None]
        mixed = (at.positions * 1_000_003 + batch * 7_919 + at.tokens * 104_729 + seed * 15_485_863) * 2_654_435_761
        return _like(rows, h)[(mixed >> 16) % len(rows)]

    return Edit(change)


def patch(values: Float[Tensor, "text pos d"]) -> Edit:
    """Values from another run over rows of the same shape, taken position by position."""

    def change(h: Tensor, at: At) -> Tensor:
        if values.shape != h.shape:
            raise ValueError(
                f"patch holds {tuple(values.shape)}, the run has {tuple(h.shape)}: patch rows of one shape"
            )
        return _like(values, h)

    return Edit(change)


def splice(codec: Codec) -> Edit:
    """The dictionary's reconstruction instead of the vector. Rows beyond the codec's norm rule stay as they are."""
    return Edit(lambda h, at: _rowwise(codec.reconstruct, h), _norm_rule(codec))


def set_latent(codec: Codec, latent: int, to: Callable[[Tensor], Tensor]) -> Edit:
    """h + (to(f) - f) * atom: one latent's activation changed, the dictionary's error kept."""
    if not 0 <= latent < codec.latents:
        raise ValueError(f"latent must be 0..{codec.latents - 1}, got {latent}")

    def change(h: Tensor, at: At) -> Tensor:
        f = codec.encode(h.flatten(0, 1).float()).column(latent).unflatten(0, h.shape[:2])
        return h + ((to(f) - f)[..., None] * codec.atoms([latent])[0]).to(h.dtype)

    return Edit(change, _norm_rule(codec))


def clamp(codec: Codec, latent: int, value: float) -> Edit:
    """One latent held at `value` (in the units of its code), the error kept."""
    return set_latent(codec, latent, lambda f: torch.full_like(f, value))


def scale(codec: Codec, latent: int, by: float) -> Edit:
    """One latent multiplied, the error kept; 1 is the identity."""
    return set_latent(codec, latent, lambda f: by * f)


def ablate(codec: Codec, latent: int) -> Edit:
    """One latent off, the error kept."""
    return set_latent(codec, latent, torch.zeros_like)


def beyond(exclusion: Exclusion, edit: Edit) -> Edit:
    """The edit, except where the site's norm rule excludes a vector."""
    return edit._and(lambda h, at: exclusion.by_norm(at.site, h))


def _norm_rule(codec: Codec) -> Where:
    return lambda h, at: at.keep & codec.exclusion.by_norm(at.site, h)


def _rowwise(function: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    return function(h.flatten(0, 1).float()).unflatten(0, h.shape[:2])


def _like(value: Tensor, h: Tensor) -> Tensor:
    if value.shape[-1] != h.shape[-1]:
        raise ValueError(f"the edit's vectors are {value.shape[-1]} wide, the site's {h.shape[-1]}: take them from it")
    return value.to(h.device, h.dtype)


def _check_vector(vector: Tensor) -> None:
    if vector.ndim != 1:
        raise ValueError(f"a vector of one axis (d,) is wanted, got shape {tuple(vector.shape)}")
    if not vector.isfinite().all():
        raise ValueError("the vector has NaN or infinite entries: check where it was computed")

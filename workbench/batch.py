"""What flows: token rows, batches of activations, and the rule that says which positions are left out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .site import Site


class Tokens(NamedTuple):
    """Token rows and which of their entries are real; padding may stand on either side."""

    ids: Int[Tensor, "text pos"]
    mask: Bool[Tensor, "text pos"]

    @property
    def positions(self) -> Int[Tensor, "text pos"]:
        """Position of each real token in its own text, from 0; padding on the left counts as 0."""
        return (self.mask.long().cumsum(-1) - 1).clamp_min(0)

    def rows(self, which: slice | Sequence[int] | Tensor) -> "Tokens":
        return Tokens(self.ids[which], self.mask[which])


@dataclass(frozen=True)
class Exclusion:
    """Positions that splices, edits, harvests and scores leave alone: massive activations decide every mean otherwise.

    `first`: the first token of a row; `special`: tokens that the tokenizer marks special; `norm`: rows whose norm is
    above `norm` times the median norm of their site, measured at harvest and kept in `medians` (site text -> norm).
    """

    first: bool = True
    special: bool = True
    norm: float | None = 10.0
    medians: Mapping[str, float] = field(default_factory=dict)

    def by_token(self, tokens: Tokens, special_ids: frozenset[int] = frozenset()) -> Bool[Tensor, "text pos"]:
        """True where a real token is kept by the `first` and `special` rules."""
        keep = tokens.mask.clone()
        if self.first:
            keep &= tokens.positions > 0
        if self.special and special_ids:
            keep &= ~torch.isin(tokens.ids, torch.tensor(sorted(special_ids), device=tokens.ids.device))
        return keep

    def by_norm(self, site: Site | str, h: Float[Tensor, "*row d"]) -> Bool[Tensor, "*row"]:
        """True where a vector's norm is within the rule. Sites whose median was never measured are all kept."""
        median = self.medians.get(str(site))
        if self.norm is None or median is None:
            return torch.ones(h.shape[:-1], dtype=torch.bool, device=h.device)
        return h.float().norm(dim=-1) <= self.norm * median

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"medians": dict(self.medians)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Exclusion":
        return cls(**value)


@dataclass(frozen=True)
class Batch:
    """Rows of one step. `y` is the target: `x` itself for an autoencoder, another site's rows for a transcoder.

    `text` and `pos` say where each row came from. A live stream's batch can `finish` the model's forward pass from
    values at the target site: `finish(y, read=sites) -> (logits, {site: h})` with logits `(row, vocab)` at the batch's
    rows; excluded rows stay clean. `grads` is d loss / d x in nats where the stream was asked for it.
    """

    x: Float[Tensor, "row *inp"]
    y: Float[Tensor, "row *out"]
    text: Int[Tensor, " row"] | None = None
    pos: Int[Tensor, " row"] | None = None
    grads: Float[Tensor, "row *inp"] | None = None
    finish: Callable[..., Any] | None = None


@runtime_checkable
class Stream(Protocol):
    """Training batches in a fixed order: the same `start` always gives the same batches, so a killed run resumes."""

    def batches(self, start: int = 0) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...  # steps in all
    def describe(self) -> dict[str, Any]: ...  # JSON: sites, rows per batch, seed, parents' hashes

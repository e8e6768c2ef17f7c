"""What a graph explains: logits by probability, their differences, any direction the unembedding reads, any latent."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..subject import Subject


class Target(NamedTuple):
    """A weighted sum of logits at the last position, `of` (vocab,), or a direction of what the unembedding receives
    there, `of` (d,); and how much the graph counts it."""

    label: str
    weight: float
    of: Float[Tensor, " vocab_or_d"]

    def value(self, logits: Float[Tensor, " vocab"], ends: Float[Tensor, " d"]) -> Float[Tensor, ""]:
        """What it is on a prompt. Raises ValueError where it fits neither."""
        for vector in (logits, ends):
            if self.of.shape == vector.shape:
                return self.of.to(vector) @ vector
        raise ValueError(
            f"{self.label!r} must have {len(logits)} (vocab) or {len(ends)} (d), got {tuple(self.of.shape)}"
        )


class LatentTarget(NamedTuple):
    """A latent's pre-activation at a position where it is on, and how much the graph counts it."""

    weight: float
    layer: int
    pos: int
    latent: int


def latent(layer: int, pos: int, latent: int) -> list[LatentTarget]:
    """One latent at one position."""
    return [LatentTarget(1.0, layer, pos, latent)]


def likely(subject: Subject, logits: Float[Tensor, " vocab"], *, mass: float = 0.95, most: int = 10) -> list[Target]:
    """The most likely next tokens, up to a probability mass or a number; each less the mean logit."""
    if not 0 < mass <= 1 or most < 1:
        raise ValueError(f"mass must be within 0..1 and most 1 or more, got {mass} and {most}")
    p, order = logits.float().softmax(-1).sort(descending=True)
    count = min(most, int((p.cumsum(0) < mass).sum()) + 1)
    mean = torch.full_like(logits, 1 / len(logits))
    found = []
    for token, share in zip(order[:count].tolist(), p[:count].tolist(), strict=True):
        of = -mean.clone()
        of[token] += 1
        found.append(
            Target(f"{subject.words([token])[0]!r} (p {share:.2f})" if subject.tokenizer else str(token), share, of)
        )
    return found


def difference(subject: Subject, first: Any, second: Any) -> list[Target]:
    """logit(first) - logit(second); tokens as ids or as texts of one token, or lists of them, whose mean logit counts.

    Raises ValueError for texts of several tokens.
    """
    of = torch.zeros(subject.vocab or 0)
    for sign, given in ((1, first), (-1, second)):
        tokens = [_token(subject, t) for t in (given if isinstance(given, list | tuple) else [given])]
        for token in tokens:
            of[token] += sign / len(tokens)
    return [Target(f"{_named(first)} - {_named(second)}", 1.0, of)]


def _named(given: Any) -> str:
    if isinstance(given, list | tuple):
        return _named(given[0]) if len(given) == 1 else f"{given[0]!r}..{given[-1]!r}"
    return repr(given)


def _token(subject: Subject, value: Any) -> int:
    if isinstance(value, int):
        return value
    ids = subject.tokenizer(value, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"{value!r} is {len(ids)} tokens: give one, or its id")
    return int(ids[0])

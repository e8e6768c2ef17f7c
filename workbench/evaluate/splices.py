"""The forward passes that splicing evals share: clean, zeroed, mean and one per dictionary, batch by batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..batch import Exclusion, Tokens
from ..edit import patch
from ..site import Site
from .scores import Sums

if TYPE_CHECKING:
    from ..subject import Subject
    from .case import Case

LOGITS = 1 << 25  # logits of one forward pass held at once (128 MB in float32)
POSITIONS = 128  # positions whose distributions are compared at once


class Spliced(NamedTuple):
    """Per-document sums over counted predictions, in nats, and the share of predictions not counted.

    A prediction is made at position p for the real token at p + 1. It counts when position p itself is spliced: real,
    and kept by the exclusion rule by token and by norm, at the site that is read and at the one that is written.
    Sums are `predictions`, and for each of clean, zero, mean and spliced the cross-entropy `ce_*`; for all but clean
    the divergence `kl_*` = KL(clean || *).
    """

    sums: Sums
    share_excluded: float


def of(case: "Case") -> Spliced:
    """The case's forward passes, run once and kept. Raises ValueError when the case has no tokens."""
    if "spliced" not in case.cache:
        fill([case])
    return case.cache["spliced"]


def fill(cases: Sequence["Case"]) -> None:
    """Run what the cases lack; those that share subject, tokens, rows and sites share the reference passes too."""
    groups: dict[tuple[object, ...], list[Case]] = {}
    for case in cases:
        if case.tokens is None:
            raise ValueError(
                f"{case.name} has no tokens to splice into: give tokens=, for instance from evaluate.held_out(store)"
            )
        if "spliced" not in case.cache:
            key = (id(case.subject), id(case.tokens.ids), id(case.rows), id(case.texts), case.site, case.target)
            groups.setdefault(key, []).append(case)
    for group in groups.values():
        for case, found in zip(group, _run(group), strict=True):
            case.cache["spliced"] = found


@torch.no_grad()
def _run(cases: Sequence["Case"]) -> list[Spliced]:
    first = cases[0]
    subject, tokens, site, target = first.subject, first.tokens, first.site, first.target
    assert subject is not None and tokens is not None
    documents = torch.arange(len(tokens.ids)) if first.texts is None else first.texts
    distinct, place = documents.unique(return_inverse=True)
    mean = first.rows.mean(target)
    names = ["predictions", "ce_clean"]
    references = ["zero", "mean"]
    shared = {n: torch.zeros(len(distinct), dtype=torch.float64) for n in names}
    arms: list[dict[str, Tensor]] = [
        {"ce": torch.zeros(len(distinct), dtype=torch.float64), "kl": torch.zeros(len(distinct), dtype=torch.float64)}
        for _ in [*references, *cases]
    ]
    predictions = 0
    assert subject.vocab is not None
    size = max(1, LOGITS // (tokens.ids.shape[1] * subject.vocab))
    for start in range(0, len(tokens.ids), size):
        part = tokens.rows(slice(start, start + size))
        clean = subject.run(part, read=list(dict.fromkeys([site, target])))
        x, y = clean.h[site], clean.h[target]
        keep = kept(first.exclusion, part, subject, site, x, target, y)
        counts, text, pos, following = predicted(part, keep)
        predictions += counts
        where = place[start : start + size][text]
        before = clean.logits[text, pos].float()
        del clean
        shared["predictions"].index_add_(0, where, torch.ones(len(where), dtype=torch.float64))
        shared["ce_clean"].index_add_(0, where, _nll(before, following))
        values = [
            torch.zeros_like(y),
            mean.to(y).expand_as(y),
            *(None for _ in cases),
        ]
        for i, (arm, value) in enumerate(zip(arms, values, strict=True)):
            if value is None:
                codec = cases[i - len(references)].codec
                value = torch.zeros_like(y)
                value[keep] = codec.reconstruct(x[keep]).to(y)
            after = finish(subject, part, target, torch.where(keep[..., None], value, y))[text, pos].float()
            arm["ce"].index_add_(0, where, _nll(after, following))
            arm["kl"].index_add_(0, where, _kl(before, after))
    if not shared["predictions"].sum():
        raise ValueError("no prediction follows a spliced position: give longer texts, or relax the exclusion rule")
    left_out = 1 - float(shared["predictions"].sum()) / predictions
    common = shared | {f"{m}_{r}": arms[i][m] for i, r in enumerate(references) for m in ("ce", "kl")}
    return [
        Spliced(
            Sums(
                common | {"ce_spliced": arm["ce"], "kl_spliced": arm["kl"]},
                "token row" if first.texts is None else "document",
            ),
            left_out,
        )
        for arm in arms[len(references) :]
    ]


def finish(
    subject: "Subject", tokens: Tokens, target: Site, value: Float[Tensor, "text pos *out"]
) -> Float[Tensor, "text pos vocab"]:
    """Logits with the target site's vectors replaced, excluded positions holding what they were."""
    return subject.run(tokens, edits={target: patch(value).everywhere()}).logits


def kept(
    exclusion: Exclusion,
    tokens: Tokens,
    subject: "Subject",
    site: Site,
    x: Float[Tensor, "text pos inp"],
    target: Site,
    y: Float[Tensor, "text pos out"],
) -> Bool[Tensor, "text pos"]:
    """True at positions that are spliced."""
    by_token = exclusion.by_token(tokens, subject.special_ids)
    return by_token.to(y.device) & exclusion.by_norm(site, x) & exclusion.by_norm(target, y)


def predicted(
    tokens: Tokens, keep: Bool[Tensor, "text pos"]
) -> tuple[int, Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """How many predictions the rows hold, and (text, pos, next token) of those made at kept positions."""
    mask, ids = tokens.mask.to(keep.device), tokens.ids.to(keep.device)
    real = mask[:, :-1] & mask[:, 1:]
    text, pos = (keep[:, :-1] & real).nonzero(as_tuple=True)
    return int(real.sum()), text, pos, ids[text, pos + 1]


def _nll(logits: Float[Tensor, "n vocab"], following: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Cross-entropy in nats."""
    return (logits.logsumexp(-1) - logits.gather(1, following[:, None])[:, 0]).cpu().double()


def _kl(before: Float[Tensor, "n vocab"], after: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    """KL(before || after) in nats, a few positions at a time."""
    parts = []
    for start in range(0, len(before), POSITIONS):
        p = before[start : start + POSITIONS].log_softmax(-1)
        q = after[start : start + POSITIONS].log_softmax(-1)
        parts.append((p.exp() * (p - q)).sum(-1))
    return torch.cat(parts).cpu().double() if parts else torch.zeros(0, dtype=torch.float64)

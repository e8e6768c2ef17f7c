"""The forward passes that splicing evals share: clean, zeroed, mean and one per dictionary, batch by batch."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..batch import Exclusion, Tokens
from ..code import Codec
from ..site import Site
from .scores import Sums

if TYPE_CHECKING:
    from ..subject import Subject
    from .case import Case

LOGITS = 1 << 25  # logits of one forward pass held at once (128 MB in float32)
COMMON = ("predictions", "ce_clean", "ce_zero", "ce_mean", "kl_zero", "kl_mean")
OWN = ("ce_spliced", "kl_spliced")
Rebuild = Callable[[Tensor, Tensor], Tensor]
POSITIONS = 16  # distributions compared at once: few enough to stay in the cache, which halves the time


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
    if subject.vocab is None:
        raise ValueError(f"{subject.name} predicts no tokens: splicing evals need a language model, leave them out")
    documents = torch.arange(len(tokens.ids)) if first.texts is None else first.texts
    distinct, place = documents.unique(return_inverse=True)
    mean = first.rows.mean(target)
    common: dict[str, Tensor] = {name: torch.zeros(len(distinct)).double() for name in COMMON}
    own: list[dict[str, Tensor]] = [{m: torch.zeros(len(distinct)).double() for m in OWN} for _ in cases]
    arms: list[tuple[dict[str, Tensor], str, str, Rebuild]] = [
        (common, "ce_zero", "kl_zero", lambda x, y: torch.zeros_like(y)),
        (common, "ce_mean", "kl_mean", lambda x, y: mean.to(y).expand_as(y)),
        *((sums, *OWN, _rebuild(case.codec)) for case, sums in zip(cases, own, strict=True)),
    ]
    reads, predictions = list(dict.fromkeys([site, target, *entry(target)])), 0
    size = max(1, LOGITS // (tokens.ids.shape[1] * subject.vocab))
    for start in range(0, len(tokens.ids), size):
        part = tokens.rows(slice(start, start + size))
        clean = subject.run(part, read=reads)
        x, y, given = clean.h[site], clean.h[target], next((clean.h[s] for s in entry(target)), None)
        keep = kept(first.exclusion, part, subject, site, x, target, y)
        made, text, pos, following = predicted(part, keep)
        predictions += made
        original = clean.logits[text, pos].float()
        del clean  # its logits are most of the memory
        where = place[start : start + size][text.cpu()]
        common["predictions"].index_add_(0, where, torch.ones(len(where)).double())
        common["ce_clean"].index_add_(0, where, _nll(original, following))
        for sums, ce, kl, rebuild in arms:
            value = y.masked_scatter(keep[..., None], rebuild(x[keep], y[keep]).to(y))
            logits = subject.finish(part, target, value, before=given).logits[text, pos].float()
            sums[ce].index_add_(0, where, _nll(logits, following))
            sums[kl].index_add_(0, where, _kl(original, logits))
    counted = float(common["predictions"].sum())
    if not counted:
        raise ValueError("no prediction follows a spliced position: give longer texts, or relax the exclusion rule")
    unit = "token row" if first.texts is None else "document"
    return [Spliced(Sums(common | sums, unit), 1 - counted / predictions) for sums in own]


def entry(target: Site) -> list[Site]:
    """The residual stream that enters the target's block, which `finish` needs when the target is inside it."""
    inside = target.layer is not None and target.layer > 0 and target.stream != "resid"
    return [Site(target.layer - 1, "resid")] if inside and target.layer is not None else []


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


def _rebuild(codec: Codec) -> Rebuild:
    return lambda x, y: codec.reconstruct(x)


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

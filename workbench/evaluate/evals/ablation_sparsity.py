"""How few of the next token's logits move when one latent is taken away?"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...batch import Tokens
from ..case import Case
from ..examples import OURS
from ..scores import Direction, Score, Scores, Sums
from ..splices import LOGITS

NEEDS = ("tokens",)
SCALE_INVARIANT = ("changed", "changed_random", "moved")


class _Ablations(NamedTuple):
    """One active latent each: where it stands, and what it adds to the vector there."""

    text: Int[Tensor, " n"]
    pos: Int[Tensor, " n"]
    part: Float[Tensor, "n d"]
    tried: int  # positions drawn, those where no latent is active among them


def ablation_sparsity(case: Case, *, ablations: int = 128) -> Scores:
    """Effective share of the vocabulary whose logit changes when one active latent is ablated at one position.

    Positions are drawn from the held-out tokens, and of each one active latent, uniformly; value times atom is taken
    from the vector, the dictionary's error stays. With c the change of the next token's logits less its median (a shift
    of all logits says nothing), the share is (|c|_1 / |c|_2)^2 / vocabulary: 1/V when one logit moves, 1 when all move
    alike. Lower is better. Chance is the same with random directions of the same lengths. `moved` is the mean of |c|_2,
    in nats: an ablation that changes nothing has no share and is left out.
    Raises ValueError without a language model or tokens, and when no latent is active at the positions drawn.
    Source: Gao et al. 2024, arXiv:2406.04093, section 4.5; ours looks at the next token only.
    """
    if ablations < 1:
        raise ValueError(f"ablations must be 1 or more, got {ablations}")
    subject, tokens = case.subject, case.tokens
    if subject is None or tokens is None:
        raise ValueError(f"{case.name} has no tokens to ablate in: give tokens=, for instance from held_out(store)")
    if subject.vocab is None:
        raise ValueError(f"{subject.name} predicts no tokens: ablation_sparsity needs a language model")
    found = _drawn(case, tokens, ablations)
    noise = torch.randn(found.part.shape, generator=torch.Generator().manual_seed(case.seed))
    noise *= found.part.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    changes = _changes(case, tokens, found, noise)
    documents = torch.arange(len(tokens.ids)) if case.texts is None else case.texts
    distinct, place = documents[found.text].unique(return_inverse=True)
    by = {}
    for arm, (share, size) in changes.items():
        on = size > 0
        for name, value in ((f"n{arm}", on), (f"share{arm}", torch.where(on, share, 0.0)), (f"size{arm}", size)):
            by[name] = torch.zeros(len(distinct)).double().index_add_(0, place, value.double())
    sums = Sums(by)
    if not float(by["n"].sum()):
        raise ValueError(f"no ablation of {case.name} changes a logit: take a site that the subject reads")
    left_out = 1 - float(by["n"].sum()) / found.tried

    def score(metric: str, arm: str, direction: Direction, chance: float | None = None) -> Score:
        return case.score(
            metric,
            sums,
            lambda s: s[f"share{arm}"] / s[f"n{arm}"].clamp_min(1),
            unit="effective share of the vocabulary",
            direction=direction,
            range=(0.0, 1.0),
            chance=chance,
            counted="n" + arm,
            share_excluded=left_out,
            note=OURS,
        )

    total = sums.total()
    return Scores.of(
        score("changed", "", "lower", float(total["share_random"] / total["n_random"].clamp_min(1))),
        score("changed_random", "_random", "none"),
        case.score(
            "moved",
            sums,
            lambda s: s["size"] / s["n"].clamp_min(1),
            unit="nats, norm of the change of all logits",
            direction="none",
            range=(0.0, float("inf")),
            counted="n",
            share_excluded=left_out,
        ),
    )


@torch.no_grad()
def _drawn(case: Case, tokens: Tokens, most: int) -> _Ablations:
    """Active latents at positions drawn from the seed."""
    subject = case.subject
    assert subject is not None
    rng = np.random.default_rng(case.seed)
    text, pos = case.exclusion.by_token(tokens, subject.special_ids).nonzero(as_tuple=True)
    if not len(text):
        raise ValueError(f"the exclusion rule leaves no position of {len(tokens.ids)} token rows: give longer texts")
    pick = torch.from_numpy(rng.permutation(len(text))[:most]).sort().values
    text, pos, rows = text[pick].cpu(), pos[pick].cpu(), []
    kept = torch.zeros(len(text), dtype=torch.bool)
    for one in text.unique().tolist():
        h = subject.read(tokens.rows([one]), list(dict.fromkeys([case.site, case.target])))
        at = pos[text == one]
        x, y = h[case.site][0, at], h[case.target][0, at]
        kept[text == one] = (case.exclusion.by_norm(case.site, x) & case.exclusion.by_norm(case.target, y)).cpu()
        rows.append(x)
    code = case.encoded(torch.cat(rows))
    row, latent, value = (part.cpu() for part in code.entries())
    counts = torch.bincount(row, minlength=len(code))
    kept &= counts > 0
    if not bool(kept.any()):
        raise ValueError(f"no latent of {case.name} is active at the {len(text)} positions drawn: nothing to ablate")
    before = counts.cumsum(0) - counts
    place = (before + (torch.from_numpy(rng.random(len(code))) * counts).long())[kept]
    part = value[place].float()[:, None] * case.codec.atoms(latent[place]).detach().cpu().float()
    return _Ablations(text[kept], pos[kept], part, len(code))


@torch.no_grad()
def _changes(
    case: Case, tokens: Tokens, found: _Ablations, noise: Float[Tensor, "n d"]
) -> dict[str, tuple[Float[Tensor, " n"], Float[Tensor, " n"]]]:
    """(share, size) of the change of the logits: of the ablations, and of random directions."""
    subject = case.subject
    assert subject is not None and subject.vocab is not None
    order = found.pos.argsort(stable=True)  # like lengths run together, cut behind the longest
    result = {arm: (torch.zeros(len(order)), torch.zeros(len(order))) for arm in ("", "_random")}
    start = 0
    while start < len(order):
        size = max(1, LOGITS // (3 * subject.vocab * (int(found.pos[order[start]]) + 8)))
        some = order[start : start + size]
        start += size
        length = int(found.pos[some].max()) + 1
        part = Tokens(tokens.ids[found.text[some], :length], tokens.mask[found.text[some], :length])
        h = subject.read(part, [case.target])[case.target]
        n = torch.arange(len(some))
        arms = [h, h.clone(), h.clone()]
        arms[1][n, found.pos[some]] -= found.part[some].to(h)
        arms[2][n, found.pos[some]] -= noise[some].to(h)
        three = Tokens(torch.cat([part.ids] * 3), torch.cat([part.mask] * 3))
        logits = subject.finish(three, case.target, torch.cat(arms)).logits
        clean, *changed = logits[torch.arange(3 * len(some)), found.pos[some].repeat(3)].float().cpu().chunk(3)
        for arm, said in zip(("", "_random"), changed, strict=True):
            c = said - clean
            c = c - c.median(-1, keepdim=True).values
            norm = c.norm(dim=-1)
            result[arm][0][some] = (c.abs().sum(-1) / norm.clamp_min(1e-30)).square() / c.shape[-1]
            result[arm][1][some] = norm
    return result

"""Does exchanging a few latents between two entities change one of their attributes and leave the others?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...batch import Tokens
from ..answers import last, parts
from ..case import Case
from ..examples import OURS, TEST, TRAIN, folds
from ..scores import Direction, Score, Scores, Sums

NEEDS = ("swaps",)
IDENTITY = {"isolation_rebuilt": 1.0}
MEAN = {"mask_share": 0.0}
SCALE_INVARIANT = ("disentangle", "cause", "isolation")
HOTTEST, COLDEST = 1.0, 1e-4  # temperatures of the mask's sigmoid, at the first and the last step


@dataclass(frozen=True, eq=False)
class Swaps:
    """Prompts that ask an attribute of an entity and end where the answer is due.

    `at` marks the entity's tokens, `answer` is a token id. Entities are never split between folds (0 train, 2 test).
    Raises ValueError when the parts do not fit, or an attribute has one answer only.
    """

    tokens: Tokens
    at: Bool[Tensor, "text pos"]
    answer: Int[Tensor, " text"]
    entity: Int[Tensor, " text"]
    attribute: Int[Tensor, " text"]
    attributes: Sequence[str]
    fold: Int[Tensor, " text"]
    published: bool = False

    @classmethod
    def of(
        cls,
        tokens: Tokens,
        at: Bool[Tensor, "text pos"],
        answer: Int[Tensor, " text"],
        entity: Int[Tensor, " text"],
        attribute: Int[Tensor, " text"],
        attributes: Sequence[str],
        *,
        seed: int = 0,
    ) -> "Swaps":
        """70 % of the entities for training, drawn from `seed`, the others for the test."""
        return cls(tokens, at, answer, entity, attribute, attributes, folds(entity, shares=(0.7, 0.0, 0.3), seed=seed))

    def __post_init__(self) -> None:
        n = len(self.tokens.ids)
        for name in ("answer", "entity", "attribute", "fold"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} must hold one number per prompt ({n}), got {len(getattr(self, name))}")
        if self.at.shape != self.tokens.ids.shape:
            raise ValueError(f"at must be {tuple(self.tokens.ids.shape)} as the tokens, got {tuple(self.at.shape)}")
        if not bool((self.at & self.tokens.mask).any(1).all()) or bool((self.at & ~self.tokens.mask).any()):
            raise ValueError("every prompt needs a real token of its entity, marked in `at`, and no padding there")
        if len(self.attributes) < 2 or not 0 <= int(self.attribute.min()) <= int(self.attribute.max()) < len(
            self.attributes
        ):
            raise ValueError(f"attribute must number two or more attributes, got {len(self.attributes)} names")
        for a, name in enumerate(self.attributes):
            if len(self.answer[self.attribute == a].unique()) < 2:
                raise ValueError(f"attribute {name!r} has one answer only: nothing to exchange, leave it out")
        for k, name in ((TRAIN, "train"), (TEST, "test")):
            if not bool((self.fold == k).any()):
                raise ValueError(f"the {name} fold is empty: give more entities")
        of = self.entity * 3 + self.fold
        if len(of.unique()) != len(self.entity.unique()):
            raise ValueError("an entity stands in two folds: split by entity")


class _Pairs(NamedTuple):
    """Whose attribute is put into whom, and what the base prompt should say then."""

    base: Int[Tensor, " pair"]  # prompts
    source: Int[Tensor, " pair"]
    attribute: Int[Tensor, " pair"]  # that is exchanged
    cause: Bool[Tensor, " pair"]  # the base prompt asks this very attribute
    wanted: Int[Tensor, " pair"]  # token id

    def take(self, which: Tensor) -> "_Pairs":
        return _Pairs(*(part[which] for part in self))


class _Rows(NamedTuple):
    """What stands at the entities' tokens: `row[text, i]` is the row of a prompt's i-th such token, -1 for none."""

    h: Float[Tensor, "text pos d"]  # the whole prompts at the codec's target
    row: Int[Tensor, "text most"]
    pos: Int[Tensor, " row"]
    clean: Float[Tensor, "row d"]
    rebuilt: Float[Tensor, "row d"]  # what an exchange starts from: the reconstruction
    code: Float[Tensor, "row used"]  # of the latents that fire on any of them
    atoms: Float[Tensor, "used d"]


def ravel(
    case: Case,
    *,
    steps: int = 200,
    batch: int = 64,
    lr: float = 1e-2,
    pairs: int = 1024,
    subspace: int = 16,
    draws: int = 4,
    error: bool = False,
) -> Scores:
    """Mean of cause and isolation: one attribute becomes the source entity's, the others stay the base entity's.

    One binary mask over latents for each attribute, sigmoid(mask / T) with T annealed from 1 to 1e-4, is trained on
    pairs of train entities and scored on pairs of test entities. At the base entity's tokens the codes in the mask
    become the source's, and the reconstruction from them (plus the dictionary's error with `error`) goes in. Only
    prompts that the subject answers rightly count, and only pairs whose answers differ. Chance is a random mask of the
    same size, drawn `draws` times. Beside it: the whole vector exchanged (`_full`), a learnt subspace of `subspace`
    dimensions instead of latents (`_subspace`, after MDAS), isolation when nothing is exchanged (`_rebuilt`), and the
    share of latents in the masks. Data: `tasks.facts.swaps`.
    Raises ValueError when the subject answers too few prompts, or no pair can be made.
    Source: Huang et al. 2024, arXiv:2402.17700, and SAEBench (Karvonen et al. 2025, arXiv:2503.09532); ours compares
    the next token over the whole vocabulary, and asks that pairs differ in the attribute that must stay, too.
    """
    if min(steps, batch, pairs, subspace, draws) < 1 or lr <= 0:
        raise ValueError(f"steps, batch, pairs, subspace, draws and lr must be positive, got lr={lr}, steps={steps}")
    given = case.need("swaps", Swaps)
    subject = case.subject
    if subject is None:
        raise ValueError(f"{case.name} has no subject to ask: give Case(codec, subject, ...)")
    rows, right = _read(case, given, error)
    train, test = (_pairs(given, rows, right, k, pairs, case.seed + k) for k in (TRAIN, TEST))
    masks, basis = _learn(case, given, rows, train, steps, batch, lr, min(subspace, rows.clean.shape[1]))
    drawn = torch.Generator().manual_seed(case.seed)
    shuffled = [_shuffled(masks, drawn) for _ in range(draws)]
    whole = torch.eye(rows.clean.shape[1]).expand(len(masks), -1, -1)
    arms = {
        "": _answers(case, given, rows, test, masks=masks),
        "_full": _answers(case, given, rows, test, basis=whole),
        "_subspace": _answers(case, given, rows, test, basis=basis),
        "_rebuilt": _answers(case, given, rows, test, masks=torch.zeros_like(masks)),
    }
    chances = [_answers(case, given, rows, test, masks=m) for m in shuffled]
    which = torch.nn.functional.one_hot(test.attribute, len(given.attributes)).double()
    place = given.entity[test.base].unique(return_inverse=True)[1]

    def summed(values: Tensor) -> Tensor:
        return torch.zeros(int(place.max()) + 1, *values.shape[1:]).double().index_add_(0, place, values)

    kinds = {"cause": test.cause, "isolation": ~test.cause}
    by = {"pairs": summed(torch.ones(len(place)).double())}
    by |= {f"{kind}s": summed(which * on[:, None]) for kind, on in kinds.items()}
    for arm, good in {**arms, "_random": torch.stack(chances).mean(0)}.items():
        by |= {f"{kind}{arm}": summed(which * (good * on)[:, None]) for kind, on in kinds.items()}
    sums = Sums(by, "entity")

    def accuracy(s, kinds: Sequence[str], arm: str) -> Tensor:  # mean over attributes of the mean over kinds
        each = torch.stack([s[f"{kind}{arm}"] / s[f"{kind}s"].clamp_min(1) for kind in kinds]).mean(0)
        there = (torch.stack([s[f"{kind}s"] for kind in kinds]) > 0).all(0)
        return (each * there).sum(-1) / there.sum(-1).clamp_min(1)

    left_out = 1 - float(right.double().mean())
    note = "" if given.published else OURS

    def score(metric: str, kinds: Sequence[str], arm: str = "", direction: Direction = "none") -> Score:
        chance = None
        if not arm:
            chance = float(accuracy(sums.total(), kinds, "_random")[0])
        return case.score(
            metric,
            sums,
            lambda s: accuracy(s, kinds, arm),
            unit="share of pairs, mean over attributes",
            direction=direction,
            range=(0.0, 1.0),
            chance=chance,
            counted="pairs",
            share_excluded=left_out,
            note=note,
        )

    both, share = ("cause", "isolation"), float((masks > 0).double().mean())
    used = share * masks.shape[1] / case.codec.latents
    return Scores.of(
        score("disentangle", both, direction="higher"),
        score("cause", both[:1], direction="higher"),
        score("isolation", both[1:], direction="higher"),
        score("disentangle_full", both, "_full"),
        score("disentangle_subspace", both, "_subspace"),
        score("isolation_rebuilt", both[1:], "_rebuilt"),
        case.score(
            "mask_share",
            sums,
            lambda s: torch.full_like(s["pairs"], used),
            unit="share of all latents, mean over attributes",
            direction="none",
            range=(0.0, 1.0),
            counted="pairs",
            share_excluded=left_out,
            note=note,
        ),
    )


@torch.no_grad()
def _read(case: Case, given: Swaps, error: bool) -> tuple[_Rows, Bool[Tensor, " text"]]:
    """Vectors and codes at the entities' tokens, and which prompts are answered rightly with no token excluded."""
    subject, tokens, rule = case.subject, given.tokens, case.exclusion
    assert subject is not None
    keep = rule.by_token(tokens, subject.special_ids)
    logits, xs, hs = [], [], []
    for part in parts(tokens, subject.vocab):
        some = tokens.rows(part)
        h = subject.read(some, list(dict.fromkeys([case.site, case.target])))
        keep[part] &= (rule.by_norm(case.site, h[case.site]) & rule.by_norm(case.target, h[case.target])).cpu()
        xs.append(h[case.site][given.at[part]].cpu())
        hs.append(h[case.target].cpu())
        logits.append(last(subject.run(some).logits, some))
    x, h = torch.cat(xs), torch.cat(hs)
    right = (torch.cat(logits).argmax(-1) == given.answer) & (keep | ~given.at).all(1)
    if not bool(right.any()):
        raise ValueError(
            f"{subject.name} answers none of the {len(right)} prompts rightly: ask what it knows, or more tokens"
        )
    text, pos = given.at.nonzero(as_tuple=True)
    row = torch.full((len(tokens.ids), int(given.at.sum(1).max())), -1)
    row[text, given.at.cumsum(1)[text, pos] - 1] = torch.arange(len(text))
    code = case.encoded(x)
    at, latent, value = (part.cpu() for part in code.entries())
    used, place = latent.unique(return_inverse=True)
    dense = torch.zeros(len(x), max(1, len(used)))  # a dictionary that is silent everywhere keeps one column of zeros
    dense[at, place] = value.float()
    atoms = case.codec.atoms(used if len(used) else [0]).detach().cpu().float()
    clean = h[text, pos]
    rebuilt = clean if error else case.codec.reconstruct(x).detach().cpu()
    return _Rows(h, row, pos, clean, rebuilt, dense, atoms), right


def _pairs(given: Swaps, rows: _Rows, right: Bool[Tensor, " text"], fold: int, most: int, seed: int) -> _Pairs:
    """For each base prompt one source for its own attribute (cause) and one for another attribute (isolation)."""
    rng = np.random.default_rng(seed)
    known = torch.full((int(given.entity.max()) + 1, len(given.attributes)), -1)
    known[given.entity[right], given.attribute[right]] = given.answer[right]
    size = (rows.row >= 0).sum(1)
    there = (right & (given.fold == fold)).nonzero()[:, 0]
    order = there[torch.from_numpy(rng.permutation(len(there)))][: max(1, most // 2)]
    found: list[list[Tensor]] = []
    fits = False
    for cause in (True, False):
        shift = torch.from_numpy(rng.integers(1, len(given.attributes), len(order)))
        attribute = given.attribute[order] if cause else (given.attribute[order] + shift) % len(given.attributes)
        asked = given.attribute[order]
        mine, theirs = known[given.entity[order], asked], known[given.entity[there]][:, asked].T  # (base, source)
        other = (given.entity[order][:, None] != given.entity[there]) & (theirs >= 0) & (theirs != mine[:, None])
        other &= given.attribute[there] == attribute[:, None]
        fits = fits or bool(other.any())
        other &= size[order][:, None] == size[there]
        ok = other.any(1)
        score = torch.from_numpy(rng.random(other.shape)) * other
        pick = score.argmax(1)[ok]
        base = order[ok]
        wanted = theirs[ok].gather(1, pick[:, None])[:, 0] if cause else mine[ok]
        found.append([base, there[pick], attribute[ok], torch.full((len(base),), cause), wanted])
    if not len(found[0][0]) or not len(found[1][0]):
        where = "train" if fold == TRAIN else "test"
        why = "the entities differ in their number of tokens" if fits else "too few prompts are answered rightly"
        raise ValueError(f"no pair of {where} entities can be made, {why}: give more entities of one length")
    return _Pairs(*(torch.cat(part) for part in zip(*found, strict=True)))


def _exchanged(rows: _Rows, pairs: _Pairs, masks: Tensor | None, basis: Tensor | None) -> Float[Tensor, "pair pos d"]:
    """The base prompts with the source's part at the entities' tokens: of the code, or of a subspace of the vector."""
    base, source = rows.row[pairs.base], rows.row[pairs.source]  # (pair, most)
    on = base >= 0
    if masks is not None:
        change = (rows.code[source] - rows.code[base]) * masks[pairs.attribute][:, None]
        new = rows.rebuilt[base] + change @ rows.atoms
    else:
        assert basis is not None
        turn = basis[pairs.attribute]
        new = rows.clean[base] + (rows.clean[source] - rows.clean[base]) @ turn @ turn.mT
    pair = torch.arange(len(base))[:, None].expand_as(base)
    return rows.h[pairs.base].index_put((pair[on], rows.pos[base[on]]), new[on])


def _said(case: Case, given: Swaps, pairs: _Pairs, value: Float[Tensor, "pair pos d"]) -> Float[Tensor, "pair vocab"]:
    assert case.subject is not None
    tokens = given.tokens.rows(pairs.base)
    return last(case.subject.finish(tokens, case.target, value).logits, tokens)


def _learn(
    case: Case, given: Swaps, rows: _Rows, pairs: _Pairs, steps: int, batch: int, lr: float, size: int
) -> tuple[Float[Tensor, "attribute used"], Float[Tensor, "attribute d size"]]:
    """Hard masks and orthonormal bases, trained side by side in the same forward passes."""
    drawn = np.random.default_rng(case.seed)
    soft = torch.zeros(len(given.attributes), rows.code.shape[1], requires_grad=True)
    start = torch.from_numpy(drawn.standard_normal((len(given.attributes), rows.clean.shape[1], size))).float()
    turn = start.requires_grad_()
    optimiser = torch.optim.Adam([{"params": [soft]}, {"params": [turn]}], lr=lr)
    for step in range(steps):
        heat = HOTTEST * (COLDEST / HOTTEST) ** (step / max(1, steps - 1))
        some = pairs.take(torch.from_numpy(drawn.integers(len(pairs.base), size=batch)))
        with torch.enable_grad():
            value = torch.cat(
                [
                    _exchanged(rows, some, torch.sigmoid(soft / heat), None),
                    _exchanged(rows, some, None, torch.linalg.qr(turn).Q),
                ]
            )
            both = _Pairs(*(torch.cat([part, part]) for part in some))
            logits = _said(case, given, both, value)
            loss = 2 * torch.nn.functional.cross_entropy(logits, both.wanted)  # the arms share no parameter
            soft.grad, turn.grad = torch.autograd.grad(loss, [soft, turn])
        optimiser.step()
    return (soft > 0).float().detach(), torch.linalg.qr(turn.detach()).Q


def _shuffled(masks: Float[Tensor, "attribute used"], drawn: torch.Generator) -> Float[Tensor, "attribute used"]:
    """Masks of the same sizes, of random latents."""
    order = torch.rand(masks.shape, generator=drawn).argsort(-1)
    return masks.gather(1, order)


@torch.no_grad()
def _answers(
    case: Case,
    given: Swaps,
    rows: _Rows,
    pairs: _Pairs,
    *,
    masks: Tensor | None = None,
    basis: Tensor | None = None,
) -> Float[Tensor, " pair"]:
    """1 where the subject says what is wanted after the exchange."""
    assert case.subject is not None
    found = []
    for part in parts(given.tokens.rows(pairs.base), case.subject.vocab):
        some = _Pairs(*(each[part] for each in pairs))
        said = _said(case, given, some, _exchanged(rows, some, masks, basis))
        found.append((said.argmax(-1) == some.wanted).double())
    return torch.cat(found)

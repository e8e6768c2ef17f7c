"""Do a few latents, held negative, make the subject forget some facts and keep the others?"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...batch import Tokens
from ..answers import last, parts
from ..case import Case
from ..examples import OURS, TEST, VALIDATION, folds
from ..scores import Direction, Score, Scores, Sums

NEEDS = ("forgetting",)
MEAN = {"forgotten": 0.0, "retained": 1.0, "side_effect": 0.0}
SCALE_INVARIANT = ("forgotten", "retained", "side_effect")
Mode = Literal["clamp", "scale", "zero"]
MODES: tuple[Mode, ...] = ("clamp", "scale", "zero")


@dataclass(frozen=True, eq=False)
class Forgetting:
    """Questions that end where the answer (a token id) is due, some `forget` and some to keep, and text of both kinds.

    Latents are ranked on `forget_text` and `retain_text`; side effects are measured on `other_text`, retained as well.
    Settings are chosen on fold 1 of the questions and reported on fold 2; `group` is never split between them.
    Raises ValueError when the parts do not fit, or a fold lacks questions of a kind.
    """

    questions: Tokens
    answer: Int[Tensor, " question"]
    forget: Bool[Tensor, " question"]
    group: Int[Tensor, " question"]
    fold: Int[Tensor, " question"]
    forget_text: Tokens
    retain_text: Tokens
    other_text: Tokens
    published: bool = False

    def __post_init__(self) -> None:
        n = len(self.questions.ids)
        for name in ("answer", "forget", "group", "fold"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} must hold one value per question ({n}), got {len(getattr(self, name))}")
        for name in ("forget_text", "retain_text", "other_text"):
            if not len(getattr(self, name).ids):
                raise ValueError(f"there is no {name}: latents are ranked, and side effects measured, on text")
        if not bool(self.forget.any()) or bool(self.forget.all()):
            what = "to forget" if not bool(self.forget.any()) else "to keep"
            raise ValueError(f"there are no facts {what}: mark some of the {n} questions in `forget`, not all")
        for k, name in ((VALIDATION, "validation"), (TEST, "test")):
            for kind, on in (("to forget", self.forget), ("to keep", ~self.forget)):
                if not bool((on & (self.fold == k)).any()):
                    raise ValueError(f"the {name} half has no question {kind}: give more, of more groups")
        if len((self.group * 3 + self.fold).unique()) != len(self.group.unique()):
            raise ValueError("a group of questions stands in both halves: split by group")

    @classmethod
    def halves(
        cls, group: Int[Tensor, " question"], forget: Bool[Tensor, " question"], *, seed: int = 0
    ) -> Int[Tensor, " question"]:
        """1 or 2 for each question: half the groups of each kind, drawn from `seed`."""
        found = torch.empty_like(group)
        for kind in (forget, ~forget):
            found[kind] = folds(group[kind], shares=(0.0, 0.5, 0.5), seed=seed)
        return found


class Setting(NamedTuple):
    """Which latents, by rank among those silent on retained text, and how far they are pushed."""

    density: float
    n: int
    multiplier: float


class _Read(NamedTuple):
    """Token rows as an edit meets them: the vectors, and the values of the candidates, 0 where nothing is edited."""

    tokens: Tokens
    h: Float[Tensor, "text pos d"]
    value: Float[Tensor, "text pos candidate"]


def unlearning(
    case: Case,
    *,
    densities: Sequence[float] = (0.001, 0.01),
    latents: Sequence[int] = (10, 20),
    multipliers: Sequence[float] = (1.0, 5.0, 20.0, 100.0),
    keep: float = 0.99,
) -> Scores:
    """Share of the facts to forget that the subject no longer says, where it still says `keep` of the others.

    Latents that fire on at most a share `densities` of retained tokens are ranked by how often they fire on text to
    forget; the first `latents` of them are pushed wherever they are active, the dictionary's error kept. Three ways:
    clamp to -multiplier times the latent's mean active size on text to forget (the headline), scale by -multiplier, and
    set to zero. For each, density, number and multiplier are chosen on the validation half of the questions: the
    lowest accuracy on facts to forget where accuracy on the others is at least `keep`; nothing is edited where no
    setting keeps so much. All is reported on the other half, with the rise of the loss on other retained text. Only
    questions that the subject answers rightly count. Data: `tasks.facts.forgetting`.
    Raises ValueError when the subject answers no question of a kind.
    Source: Farrell, Lau, Conmy 2024, arXiv:2410.19278, and SAEBench (Karvonen et al. 2025, arXiv:2503.09532), which
    reports 1 - accuracy chosen and measured on the same questions, of four choices; ours asks for the next token, and
    counts multipliers in the latent's own size, so that the units of atoms do not matter.
    """
    if not densities or not latents or not multipliers or min(latents) < 1 or min(multipliers) <= 0:
        raise ValueError(f"densities, latents and multipliers must be positive, got {latents} and {multipliers}")
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be an accuracy above 0, at most 1, got {keep}")
    given = case.need("forgetting", Forgetting)
    if case.subject is None:
        raise ValueError(f"{case.name} has no subject to ask: give Case(codec, subject, ...)")
    order, size = _ranked(case, given, densities, max(latents))
    chosen = torch.cat(list(order.values())).unique() if order else torch.zeros(0, dtype=torch.long)
    place = {density: torch.searchsorted(chosen, found) for density, found in order.items()}
    atoms = case.codec.atoms(chosen if len(chosen) else [0]).detach().cpu().float()[: len(chosen)]
    known = _right(case, given)
    for kind, name in ((given.forget, "to forget"), (~given.forget, "to keep")):
        for k in (VALIDATION, TEST):
            if not bool((known & kind & (given.fold == k)).any()):
                raise ValueError(f"{case.subject.name} answers no question {name} rightly: ask what it knows")
    halves = {k: (known & (given.fold == k)).nonzero()[:, 0] for k in (VALIDATION, TEST)}
    read = {k: _read(case, given.questions.rows(which), chosen) for k, which in halves.items()}
    other = _read(case, given.other_text, chosen)

    def answers(fold: int, mode: Mode, setting: Setting) -> Float[Tensor, " question"]:
        said = _edited(case, read[fold], atoms, _push(read[fold].value, size[chosen], place, mode, setting))
        return (said.argmax(-1) == given.answer[halves[fold]]).double()

    forget, group = given.forget[halves[TEST]], given.group[halves[TEST]]
    clean = _nll(case, other, atoms, None)
    scores: list[Score] = []
    settings: dict[str, Setting] = {}
    for mode in MODES:
        best, setting = inf, Setting(densities[0], 0, 0.0)
        held = given.forget[halves[VALIDATION]]
        for density in densities:
            for n in sorted({min(n, len(order[density])) for n in latents} - {0}):
                for multiplier in (0.0,) if mode == "zero" else multipliers:
                    tried = Setting(density, n, multiplier)
                    right = answers(VALIDATION, mode, tried)
                    if float(right[~held].mean()) >= keep and float(right[held].mean()) < best:
                        best, setting = float(right[held].mean()), tried
        settings[mode] = setting
        right = answers(TEST, mode, setting)
        rise = _nll(case, other, atoms, _push(other.value, size[chosen], place, mode, setting)) - clean
        scores += _scored(case, given, mode, right, forget, group, rise, float(known.double().mean()))
    setting = settings["clamp"]
    some = _sums({"of": forget.double()}, group, "group")
    for metric, value, unit in (
        ("latents_edited", float(setting.n), "latents"),
        ("multiplier", setting.multiplier, "times the mean active size"),
    ):
        scores.append(
            case.score(
                metric,
                some,
                lambda s, value=value: torch.full_like(s["of"], value),
                unit=unit,
                direction="none",
                range=(0.0, inf),
                counted="of",
                share_excluded=0.0,
            )
        )
    return Scores.of(*scores)


def _scored(
    case: Case,
    given: Forgetting,
    mode: Mode,
    right: Float[Tensor, " question"],
    forget: Bool[Tensor, " question"],
    group: Int[Tensor, " question"],
    rise: Float[Tensor, "text next"],
    known: float,
) -> list[Score]:
    """What one way of editing loses, keeps, and costs on the test half."""
    tail, note = "" if mode == "clamp" else f"_{mode}", "" if given.published else OURS
    text = torch.arange(len(rise))
    counted = ~rise.isnan()
    kinds: tuple[tuple[str, Tensor, Tensor, Direction, float], ...] = (
        ("forgotten", forget, 1 - right, "higher", 0.0),
        ("retained", ~forget, right, "higher", 1.0),
    )
    found = []
    for name, kind, value, direction, chance in kinds:
        found.append(
            case.score(
                name + tail,
                _sums({"questions": torch.ones(int(kind.sum())), "hits": value[kind]}, group[kind], "group"),
                lambda s: s["hits"] / s["questions"],
                unit="share of questions that the subject answers",
                direction=direction if not tail else "none",
                range=(0.0, 1.0),
                chance=chance,
                counted="questions",
                share_excluded=1 - known,
                note=note,
            )
        )
    sums = _sums({"predictions": counted.double().sum(1), "rise": rise.nan_to_num().double().sum(1)}, text, "text")
    found.append(
        case.score(
            f"side_effect{tail}",
            sums,
            lambda s: s["rise"] / s["predictions"],
            unit="nats per token of retained text",
            direction="lower" if not tail else "none",
            range=(-inf, inf),
            chance=0.0,
            counted="predictions",
            share_excluded=0.0,
            note=note,
        )
    )
    return found


def _sums(values: dict[str, Tensor], group: Int[Tensor, " n"], unit: str) -> Sums:
    distinct, place = group.unique(return_inverse=True)
    by = {k: torch.zeros(len(distinct)).double().index_add_(0, place, v.double()) for k, v in values.items()}
    return Sums(by, unit)


@torch.no_grad()
def _kept(case: Case, tokens: Tokens) -> tuple[Float[Tensor, "text pos inp"], Tensor, Bool[Tensor, "text pos"]]:
    """Vectors at the codec's site and target, and the positions that an edit may touch."""
    subject = case.subject
    assert subject is not None
    read = [subject.read(tokens.rows(p), list(dict.fromkeys([case.site, case.target]))) for p in _parts(case, tokens)]
    x, y = (torch.cat([h[site] for h in read]) for site in (case.site, case.target))
    keep = case.exclusion.by_token(tokens, subject.special_ids).to(x.device)
    keep &= case.exclusion.by_norm(case.site, x) & case.exclusion.by_norm(case.target, y)
    return x.cpu(), y.cpu(), keep.cpu()


def _parts(case: Case, tokens: Tokens) -> list[slice]:
    assert case.subject is not None
    if case.subject.vocab is None:
        raise ValueError(f"{case.subject.name} predicts no tokens: unlearning needs a language model")
    return parts(tokens, case.subject.vocab)


def _ranked(
    case: Case, given: Forgetting, densities: Sequence[float], most: int
) -> tuple[dict[float, Int[Tensor, " some"]], Float[Tensor, " latent"]]:
    """The first `most` latents for each retain density, and each latent's mean active size on text to forget."""
    fired, size = [], torch.zeros(case.codec.latents)
    for text in (given.forget_text, given.retain_text):
        count, rows = torch.zeros(case.codec.latents).double(), 0
        for part in _parts(case, text):
            x, _, keep = _kept(case, text.rows(part))
            code = case.encoded(x[keep])
            _, latent, value = (entry.cpu() for entry in code.entries())
            count += torch.bincount(latent, minlength=len(count))
            rows += len(code)
            if text is given.forget_text:
                size.index_add_(0, latent, value.abs().float())
        fired.append(count / max(1, rows))
        size = size / count.clamp_min(1).float() if text is given.forget_text else size
    forget, retain = fired
    ranked = forget.argsort(descending=True, stable=True)
    ranked = ranked[forget[ranked] > 0]
    return {d: ranked[retain[ranked] <= d][:most] for d in densities}, size


def _read(case: Case, tokens: Tokens, chosen: Int[Tensor, " candidate"]) -> _Read:
    x, y, keep = _kept(case, tokens)
    value = torch.zeros(*keep.shape, len(chosen))
    if len(chosen):
        code = case.encoded(x[keep])
        inside = torch.full((code.latents,), -1)
        inside[chosen] = torch.arange(len(chosen))
        row, latent, size = (part.cpu() for part in code.entries())
        on = inside[latent] >= 0
        dense = torch.zeros(len(code), len(chosen))
        dense[row[on], inside[latent[on]]] = size[on].float()
        value[keep] = dense
    return _Read(tokens, y, value)


def _push(
    value: Float[Tensor, "text pos candidate"],
    size: Float[Tensor, " candidate"],
    place: dict[float, Int[Tensor, " some"]],
    mode: Mode,
    setting: Setting,
) -> Float[Tensor, "text pos candidate"]:
    """How much is added to each candidate's value: nothing where it is not active, or not among the first n."""
    among = torch.zeros(value.shape[-1])
    among[place[setting.density][: setting.n]] = 1.0
    whole = size * value.sign() if mode == "clamp" else value
    return among * (-setting.multiplier * whole - value)  # a multiplier of 0 sets to zero


@torch.no_grad()
def _edited(
    case: Case, read: _Read, atoms: Float[Tensor, "candidate d"], push: Float[Tensor, "text pos candidate"]
) -> Float[Tensor, "text vocab"]:
    """Logits at each text's last real token after the edit."""
    assert case.subject is not None
    found = []
    for part in _parts(case, read.tokens):
        some = read.tokens.rows(part)
        logits = case.subject.finish(some, case.target, read.h[part] + push[part] @ atoms).logits
        found.append(last(logits, some))
    return torch.cat(found)


@torch.no_grad()
def _nll(
    case: Case, read: _Read, atoms: Float[Tensor, "candidate d"], push: Float[Tensor, "text pos candidate"] | None
) -> Float[Tensor, "text next"]:
    """Loss in nats of each next real token; NaN where there is none."""
    assert case.subject is not None
    found = []
    for part in _parts(case, read.tokens):
        some = read.tokens.rows(part)
        h = read.h[part] if push is None else read.h[part] + push[part] @ atoms
        said = case.subject.finish(some, case.target, h).logits[:, :-1].float().log_softmax(-1).cpu()
        lost = -said.gather(-1, some.ids[:, 1:, None].cpu())[..., 0]
        found.append(torch.where((some.mask[:, 1:] & some.mask[:, :-1]).cpu(), lost, torch.nan))
    return torch.cat(found)


@torch.no_grad()
def _right(case: Case, given: Forgetting) -> Bool[Tensor, " question"]:
    assert case.subject is not None
    found = []
    for part in _parts(case, given.questions):
        some = given.questions.rows(part)
        found.append(last(case.subject.run(some).logits, some).argmax(-1) == given.answer[part])
    return torch.cat(found)

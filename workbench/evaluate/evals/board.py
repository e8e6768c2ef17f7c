"""Can the state of a board be read from single latents: coverage, and reconstruction from latents of high precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...code import Code
from .. import probes
from ..case import Case
from ..examples import OURS, TEST, TRAIN, VALIDATION, Examples
from ..scores import Direction, Score, Scores, Sums

NEEDS = ("board",)
MEAN = {"coverage": 0.0, "reconstruction": 0.0}
SCALE_INVARIANT = ("coverage", "reconstruction", "latents_kept", "coverage_probe", "reconstruction_probe")
THRESHOLDS = tuple(t / 10 for t in range(10))
STRENGTHS = (1e-2, 1.0)  # of the probes


@dataclass(frozen=True, eq=False)
class Board:
    """Rows that each stand for a position of a game, and which properties hold there, `truth[row, property]`.

    The groups of `examples` are games. Made by `tasks.board.board(subject, site)`. Raises ValueError when the parts do
    not fit, or a property always or never holds in a fold.
    """

    examples: Examples
    truth: Bool[Tensor, "row property"]
    names: Sequence[str]

    def __post_init__(self) -> None:
        if self.examples.count != len(self.examples.x) or len(self.truth) != len(self.examples.x):
            raise ValueError(
                f"a position is one row, got {len(self.examples.x)} rows of {self.examples.count} positions, "
                f"{len(self.truth)} of them with properties"
            )
        if self.truth.dtype != torch.bool or self.truth.ndim != 2 or self.truth.shape[1] != len(self.names):
            raise ValueError(f"truth must be bool (row, property) for {len(self.names)} names, got {self.truth.dtype} "
                             f"{tuple(self.truth.shape)}")  # fmt: skip
        if not len(self.names):
            raise ValueError("a board needs a property or more")
        for i, name in enumerate(self.names):
            probes.check(self.truth[:, i], self.examples.fold, name)

    @cached_property
    def by_probes(self) -> Bool[Tensor, "row property"]:
        """What a linear probe for each property says of every row; made once for all dictionaries."""
        x = self.examples.x.flatten(1)
        fits = [probes.fit(x, y, self.examples.fold, strengths=STRENGTHS, balanced=False) for y in self.truth.T]
        return torch.stack([probe(x) > 0 for probe in fits], 1)


class Readers(NamedTuple):
    """The latent and threshold (share of the latent's maximum) that say each property best."""

    latent: Int[Tensor, " property"]
    threshold: Float[Tensor, " property"]


def board(case: Case, *, precision: float = 0.95, least: int = 10) -> Scores:
    """Each property of a board by the latent that says it best, and the whole board by latents that are seldom wrong.

    A latent says yes where it is above t of its maximum over the training games, t in 0, 0.1 .. 0.9. `coverage`: for
    each property the latent and t of highest F1 in training games, mean F1 over properties in test games; its chance
    level is to say yes always. `reconstruction`: latents that have at least `precision` for a property, and are on
    `least` times or more, in training games say it of the test games, a property holds when one of them says so; mean
    over positions of the F1 of the board so predicted; t is that which is best in validation games, one for all. Its
    chance level is the constant board that does best in validation games; a dictionary without latents has 0 in both.
    `latents_kept`: mean number of such latents a property. `coverage_probe` and `reconstruction_probe` are of linear
    probes on the rows. Data: `tasks.board.board`. Source: Karvonen et al. 2024, arXiv 2408.00113; theirs takes the
    best latent for coverage, and t, on the data that it reports.
    """
    given = case.need("board", Board)
    if not 0 < precision <= 1 or least < 1:
        raise ValueError(f"precision must be above 0, up to 1, and least 1 or more, got {precision} and {least}")
    code, examples = case.of(given.examples).to_csr(), given.examples
    assert code.indices is not None
    fold, truth = examples.fold, given.truth
    relative = _relative(code, fold == TRAIN)
    best, found = torch.full((len(given.names),), -1.0), Readers(*(torch.zeros(len(given.names)),) * 2)
    chosen: tuple[float, Tensor, float] | None = None
    for t in THRESHOLDS:
        on = code.like((relative > t).float())
        counts = _overlap(on, truth, fold == TRAIN)
        found, best = _better(found, best, counts, t)
        kept = (counts.both >= precision * counts.on[:, None] - 1e-6) & (counts.on >= least)[:, None]
        said = on.combine(kept.float()) > 0  # (row, property)
        right = float(_rowwise(said, truth)[fold == VALIDATION].mean())
        if chosen is None or right > chosen[0]:
            chosen = right, said, float(kept.sum()) / len(given.names)
    assert chosen is not None
    _, by_precision, kept_count = chosen
    by_best = torch.stack(
        [code.like(relative).column(int(i)) > t for i, t in zip(found.latent.tolist(), found.threshold, strict=True)], 1
    )
    prior = truth[fold == TRAIN].double().mean(0)
    constant = [(prior >= share).expand_as(truth) for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)]
    constant = max(constant, key=lambda said: float(_rowwise(said, truth)[fold == VALIDATION].mean()))
    always = float(_coverage(_said(given, torch.ones_like(truth)).total())[0])
    steady = float(_rowwise(constant, truth)[fold == TEST].mean())
    note = "" if examples.published else OURS

    def covered(metric: str, said: Tensor, unit: str, direction: Direction, chance: float) -> Score:
        return case.score(
            metric, _said(given, said), _coverage, unit=unit, direction=direction, range=(0.0, 1.0), chance=chance,
            counted="examples", share_excluded=examples.share_excluded, note=note,
        )  # fmt: skip

    def rebuilt(metric: str, said: Tensor, unit: str, direction: Direction, chance: float) -> Score:
        sums = examples.sums({"f1": _rowwise(said, truth)})
        return case.score(
            metric, sums, lambda s: s["f1"] / s["examples"], unit=unit, direction=direction, range=(0.0, 1.0),
            chance=chance, counted="examples", share_excluded=examples.share_excluded, note=note,
        )  # fmt: skip

    many = examples.sums({"kept": torch.full((len(truth),), kept_count)})
    return Scores.of(
        covered("coverage", by_best, "mean F1 of the best latent for each property", "higher", always),
        rebuilt("reconstruction", by_precision, f"F1 of the board by latents of precision >= {precision:g}", "higher",
                steady),
        case.score(
            "latents_kept", many, lambda s: s["kept"] / s["examples"], unit="pairs of latent and property a property",
            direction="none", range=(0.0, float("inf")), chance=0.0, counted="examples",
            share_excluded=examples.share_excluded, note=note,
        ),
        covered("coverage_probe", given.by_probes, "mean F1 of a linear probe for each property", "none", always),
        rebuilt("reconstruction_probe", given.by_probes, "F1 of the board by linear probes", "none", steady),
    )  # fmt: skip


class Counts(NamedTuple):
    """Over the training rows: where latent and property are both on, and each of them."""

    both: Float[Tensor, "latent property"]
    on: Float[Tensor, " latent"]
    true: Float[Tensor, " property"]


def _relative(code: Code, train: Bool[Tensor, " row"]) -> Float[Tensor, " n"]:
    """Values as shares of the latent's maximum over the training rows; 0 where that is not above 0."""
    row, latent, value = code.entries()
    known = train[row.cpu()].to(value.device)
    most = value.new_zeros(code.latents).scatter_reduce_(0, latent[known], value[known], "amax")
    most = most[latent]
    return torch.where(most > 0, value / most.clamp_min(1e-30), 0).detach()


def _overlap(on: Code, truth: Bool[Tensor, "row property"], train: Bool[Tensor, " row"]) -> Counts:
    wanted = torch.cat([truth, torch.ones(len(truth), 1, dtype=torch.bool)], 1) & train[:, None]
    both = on.support.collect(on.values, wanted.float().to(on.values.device)).cpu()
    return Counts(both[:, :-1], both[:, -1], (truth & train[:, None]).sum(0).float())


def _better(known: Readers, best: Tensor, counts: Counts, t: float) -> tuple[Readers, Tensor]:
    f1, latent = (2 * counts.both / (counts.on[:, None] + counts.true).clamp_min(1)).max(0)
    won = f1 > best
    return Readers(torch.where(won, latent, known.latent.long()), torch.where(won, t, known.threshold)), best.max(f1)


def _rowwise(said: Bool[Tensor, "row property"], truth: Bool[Tensor, "row property"]) -> Float[Tensor, " row"]:
    """F1 of each position's board; 1 where nothing holds and nothing is said."""
    return torch.where(said.any(-1) | truth.any(-1), probes.f1(said, truth), 1.0)


def _said(given: Board, said: Bool[Tensor, "row property"]) -> Sums:
    return given.examples.sums({"both": said & given.truth, "said": said, "true": given.truth})


def _coverage(s: Any) -> Float[Tensor, " replicate"]:
    return (2 * s["both"] / (s["said"] + s["true"]).clamp_min(1)).mean(-1)

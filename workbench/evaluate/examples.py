"""Labelled rows in memory: what evals of probes look at, split once into train, validation and test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..batch import Exclusion, Tokens
from ..site import Site
from .scores import Sums

if TYPE_CHECKING:
    from ..subject import Subject

TRAIN, VALIDATION, TEST = range(3)
FOLDS = ("train", "validation", "test")
SHARES = (0.6, 0.2, 0.2)
BATCH = 32  # texts read at once
OURS = "not comparable with published scores: other data and models"


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples of one or more rows each, and what is known of them. Made by `Examples.of` or `Examples.read`.

    `x` are rows at the site that a dictionary reads, `y` at the one it writes; `example` is the example of each row.
    `labels[name]` is a class number per example, named in `classes[name]`. `group` is what an example shares with
    others (its document, word or person): groups are never split between folds, and intervals resample them. `fold` is
    0 train, 1 validation, 2 test. `published` says that these are a published benchmark's own data.
    Raises ValueError when the parts do not fit, a fold is empty, or a number is not finite.
    """

    x: Float[Tensor, "row *inp"]
    y: Float[Tensor, "_ out"]
    example: Int[Tensor, " _"]
    labels: Mapping[str, Int[Tensor, " _"]]
    classes: Mapping[str, Sequence[str]]
    group: Int[Tensor, " _"]
    fold: Int[Tensor, " _"]
    share_excluded: float = 0.0
    unit: str = "example"  # what a group is, in words
    published: bool = False

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "row *inp"],
        labels: Mapping[str, Int[Tensor, " _"]],
        classes: Mapping[str, Sequence[str]],
        *,
        y: Float[Tensor, "_ out"] | None = None,
        example: Int[Tensor, " _"] | None = None,
        group: Int[Tensor, " _"] | None = None,
        fold: Int[Tensor, " _"] | None = None,
        seed: int = 0,
        share_excluded: float = 0.0,
        unit: str = "example",
        published: bool = False,
    ) -> "Examples":
        """Every row an example of its own, every example a group of its own, folds drawn from `seed`, where None."""
        example = torch.arange(len(x)) if example is None else example
        count = int(example.max()) + 1 if len(example) else 0
        group = torch.arange(count) if group is None else group
        fold = folds(group, seed=seed) if fold is None else fold
        return cls(x, x if y is None else y, example, labels, classes, group, fold, share_excluded, unit, published)

    def __post_init__(self) -> None:
        n = self.count
        if not len(self.x) == len(self.y) == len(self.example):
            raise ValueError(f"examples need one x, y and example number per row, got {len(self.x)} rows of x")
        if not len(self.x) or int(self.example.min()) < 0 or len(self.example.unique()) != n:
            raise ValueError("every example from 0 on must have a row: number them without gaps, drop empty ones")
        for name, label in self.labels.items():
            if len(label) != n:
                raise ValueError(f"label {name!r} must hold one class per example ({n}), got {len(label)}")
            known = self.classes.get(name, ())
            if not 0 <= int(label.min()) <= int(label.max()) < len(known):
                raise ValueError(f"label {name!r} must be class numbers of its {len(known)} classes")
            if len(label.unique()) < 2:
                raise ValueError(f"label {name!r} is of one class only: give examples of two or more")
        for name, h in (("x", self.x), ("y", self.y)):
            if not bool(h.isfinite().all()):
                raise ValueError(f"{name} holds NaN or infinity: look at the rows that were read")
        for name, numbers in (("group", self.group), ("fold", self.fold)):
            if len(numbers) != n:
                raise ValueError(f"{name} must hold one number per example ({n}), got {len(numbers)}")
        for k, name in enumerate(FOLDS):
            if not bool((self.fold == k).any()):
                raise ValueError(f"the {name} fold is empty: give more examples, of more groups")

    @property
    def count(self) -> int:
        """How many examples there are."""
        return int(self.example.max()) + 1 if len(self.example) else 0

    @cached_property
    def sizes(self) -> Int[Tensor, " example"]:
        """Rows of each example."""
        return torch.bincount(self.example, minlength=self.count)

    def at(self, fold: int) -> Bool[Tensor, " example"]:
        """True for the examples of a fold."""
        return self.fold == fold

    def pooled(self, rows: Float[Tensor, "row m"]) -> Float[Tensor, "example m"]:
        """Mean over each example's rows."""
        sums = rows.new_zeros(self.count, rows.shape[1]).index_add_(0, self.example, rows)
        return sums / self.sizes[:, None]

    def sums(self, values: Mapping[str, Tensor], which: Bool[Tensor, " example"] | None = None) -> Sums:
        """`values[name]` (example, *more) summed over each group of the chosen examples (the test fold when None).

        Beside them `examples`, how many of the chosen ones each group has. For `case.score(..., counted="examples")`.
        """
        chosen = self.at(TEST) if which is None else which
        distinct, place = self.group[chosen].unique(return_inverse=True)
        found = {"examples": torch.ones(len(chosen))} | dict(values)
        by = {}
        for name, value in found.items():
            value = value[chosen].detach().cpu().double()
            by[name] = value.new_zeros(len(distinct), *value.shape[1:]).index_add_(0, place, value)
        return Sums(by, self.unit)

    def reseeded(self, seed: int) -> "Examples":
        """The same examples with folds drawn from another seed."""
        return replace(self, fold=folds(self.group, seed=seed))

    @classmethod
    def read(
        cls,
        subject: "Subject",
        tokens: Tokens,
        site: Site | str,
        labels: Mapping[str, Int[Tensor, " text"]],
        classes: Mapping[str, Sequence[str]],
        *,
        target: Site | str | None = None,
        at: Literal["all", "last"] | Bool[Tensor, "_ _"] = "all",
        exclusion: Exclusion | None = None,
        group: Int[Tensor, " text"] | None = None,
        seed: int = 0,
        unit: str = "example",
        published: bool = False,
    ) -> "Examples":
        """Every text an example: its kept positions, its last one, or those where `at` is True.

        `exclusion` is the subject's own rule when None; it holds for `at="all"`, and for the others only where the
        caller applied it. Raises ValueError for a text without a position left.
        """
        rule = subject.exclusion if exclusion is None else exclusion
        if isinstance(at, str):
            if at not in ("all", "last"):
                raise ValueError(f"at must be 'all', 'last' or a mask (text, pos), got {at!r}")
            real = int(tokens.mask.sum()) if at == "all" else len(tokens.ids)
            at = rule.by_token(tokens, subject.special_ids) if at == "all" else _last(tokens)
        else:
            real = int(at.sum())
        if at.shape != tokens.ids.shape:
            raise ValueError(
                f"a mask of positions must be {tuple(tokens.ids.shape)} as the tokens, got {tuple(at.shape)}"
            )
        source = Site.of(site)
        goal = source if target is None else Site.of(target)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, len(tokens.ids), BATCH):
            part = slice(start, start + BATCH)
            h = subject.read(tokens.rows(part), list(dict.fromkeys([source, goal])))
            keep = at[part].to(h[source].device) & rule.by_norm(source, h[source]) & rule.by_norm(goal, h[goal])
            parts.append((h[source][keep].cpu(), h[goal][keep].cpu(), start + keep.nonzero()[:, 0].cpu()))
        x, y, example = (torch.cat(p) for p in zip(*parts, strict=True))
        empty = len(tokens.ids) - len(example.unique())
        if empty:
            raise ValueError(
                f"{empty} of {len(tokens.ids)} texts have no position left: give longer texts, or drop them"
            )
        return cls.of(
            x,
            labels,
            classes,
            y=None if goal == source else y,
            example=example,
            group=group,
            seed=seed,
            share_excluded=1 - len(x) / max(1, real),
            unit=unit,
            published=published,
        )


def folds(
    group: Int[Tensor, " example"], *, shares: Sequence[float] = SHARES, seed: int = 0
) -> Int[Tensor, " example"]:
    """0 train, 1 validation, 2 test for each example: whole groups in an order drawn from `seed`, filled by shares."""
    distinct, place, counts = group.unique(return_inverse=True, return_counts=True)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(distinct)))
    middle = counts[order].cumsum(0) - counts[order] / 2  # of each group, in examples
    edges = torch.tensor(shares).cumsum(0)[:-1] * len(group)
    fold = torch.empty(len(distinct), dtype=torch.long)
    fold[order] = torch.bucketize(middle.double(), edges.double(), right=True)
    return fold[place]


def _last(tokens: Tokens) -> Bool[Tensor, "text pos"]:
    """True at the last real token of each text."""
    places = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
    return places == torch.where(tokens.mask, places, -1).amax(1, keepdim=True)

"""Does taking out the latents of a spurious concept free a biased probe of it?"""

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import probes
from ..case import Case
from ..examples import FOLDS, OURS, TEST, TRAIN, VALIDATION, Examples
from ..removal import COUNTS, along, counts, largest, live, without
from ..scores import Scores

NEEDS = ("spurious",)
MEAN = {"scr_10": 0.0}
SCALE_INVARIANT = ("scr_10", "base_accuracy", "ablated_accuracy", "oracle_accuracy")
LEAST = 1e-3  # a smaller gap between oracle and base counts as no bias to remove


def scr(case: Case, *, n: int = 10, ns: Sequence[int] = COUNTS, draws: int = 5) -> Scores:
    """Spurious correlation removal: the share of a biased probe's loss of accuracy that comes back.

    `spurious`: examples with two labels of two classes (`evaluate.tasks.spurious`); rows are pooled by their mean. A
    probe is trained where the labels agree (first with first, second with second class), so it may use either. Of the
    two labels the wanted one is that on which it is the less accurate, by the validation fold. A latent's effect on the
    probe of the other, unwanted label is |(mean code of its second class - of its first) * (atom . weight)|, on the
    train fold with all four combinations equally often; the `n` largest are taken out of all rows, the error is kept.
    `scr_{n}` is (ablated - base) / (oracle - base) accuracy on the wanted label, 0 where oracle - base < 0.001; below 0
    it got worse. The oracle is a probe trained on the four combinations; accuracy is the mean over them on the test
    fold. Chance is the mean of `draws` random choices of as many latents among those that fire in training.
    Source: Marks et al. 2024, arXiv 2403.19647 (SHIFT); SAEBench (Karvonen et al. 2025), where epoch and direction are
    chosen by test accuracy.
    Raises ValueError when labels are not two of two classes, a fold lacks one of the four combinations, or the
    dictionary has fewer than n latents.
    """
    examples, sizes = case.need("spurious", Examples), counts(case, n, ns)
    if draws < 1:
        raise ValueError(f"chance needs one or more draws, got {draws}")
    cell = _cells(examples)
    labels = list(examples.labels)
    truth = {label: examples.labels[label] == 1 for label in labels}
    fold, test = examples.fold, examples.at(TEST)
    even = _even(cell, fold, case.seed)
    y, codes = examples.pooled(examples.y.flatten(1).double()), case.pooled(examples)
    agree = truth[labels[0]] == truth[labels[1]]
    biased = probes.fit(y, truth[labels[0]], torch.where(agree | test, fold, -1))
    held = examples.at(VALIDATION)
    base = {label: _four(((biased(y[held]) > 0) == t[held]).double(), cell[held]) for label, t in truth.items()}
    wanted, unwanted = sorted(labels, key=lambda label: base[label])
    spurious, oracle = (probes.fit(y, truth[label], even) for label in (unwanted, wanted))
    toward = along(case, [biased, spurious])
    effect = (probes.differences(codes, truth[unwanted][None], even)[0] * toward[:, 1]).abs()
    clean, seen, goal = biased(y)[test, None], codes[test].double(), truth[wanted][test]
    alive, drawn = live(codes, fold), np.random.default_rng(case.seed)

    def right(latents: Tensor) -> Float[Tensor, " test"]:
        return ((without(clean, seen, toward[:, :1], latents)[:, 0] > 0) == goal).double()

    def by_cell(values: Float[Tensor, " test"]) -> Float[Tensor, "example 4"]:
        found = torch.zeros(len(cell), 4, dtype=torch.float64)
        found[test, cell[test]] = values
        return found

    known = {
        "base": ((clean[:, 0] > 0) == goal).double(),
        "oracle": ((oracle(y[test]) > 0) == goal).double(),
        "cells": torch.ones(int(test.sum()), dtype=torch.float64),
    }
    total = {k: by_cell(v).sum(0, keepdim=True) for k, v in known.items()}
    picks = {size: [alive[drawn.permutation(len(alive))[:size]] for _ in range(draws)] for size in sizes}
    luck = {
        size: float(
            np.mean([float(_scr(total | {"ablated": by_cell(right(p)).sum(0, keepdim=True)})[0]) for p in some])
        )
        for size, some in picks.items()
    }
    sums = {
        size: examples.sums({k: by_cell(v) for k, v in (known | {"ablated": right(largest(effect, size))}).items()})
        for size in sizes
    }
    said = f"{unwanted} taken out of a probe of {wanted}"
    note = said if examples.published else f"{said}; {OURS}"
    about = {"counted": "examples", "share_excluded": examples.share_excluded, "note": note}
    scores = [
        case.score(
            f"scr_{size}",
            sums[size],
            _scr,
            unit=f"share of the lost accuracy that comes back, {size} latents",
            direction="higher",
            range=(-inf, inf),
            chance=luck[size],
            **about,
        )
        for size in sizes
    ]
    accuracies = [
        case.score(
            f"{name}_accuracy",
            sums[n],
            lambda s, name=name: _accuracy(s, name),
            unit=f"accuracy on {wanted}, four combinations weighed the same",
            direction="none",
            range=(0.0, 1.0),
            chance=0.5,
            **about,
        )
        for name in ("base", "ablated", "oracle")
    ]
    return Scores((*scores, *accuracies))


def _cells(examples: Examples) -> Int[Tensor, " example"]:
    """Which of the four combinations each example is: 2 * first label + second."""
    if len(examples.labels) != 2 or any(len(examples.classes[label]) != 2 for label in examples.labels):
        came = ", ".join(f"{label} of {len(examples.classes[label])} classes" for label in examples.labels)
        raise ValueError(f"spurious examples need two labels of two classes each, got {came}")
    first, second = examples.labels
    cell = 2 * examples.labels[first] + examples.labels[second]
    for fold, said in enumerate(FOLDS):
        seen = torch.bincount(cell[examples.fold == fold], minlength=4).tolist()
        if 0 in seen:
            a, b = divmod(seen.index(0), 2)
            raise ValueError(
                f"the {said} fold has no example of {examples.classes[first][a]} ({first}) with "
                f"{examples.classes[second][b]} ({second}): all four combinations are needed in every fold"
            )
    return cell


def _even(cell: Int[Tensor, " example"], fold: Int[Tensor, " example"], seed: int) -> Int[Tensor, " example"]:
    """The folds with as many train, and as many validation, examples of each combination; -1 for those left out."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(cell)))
    even = torch.where(fold == TEST, TEST, -1)
    for k in (TRAIN, VALIDATION):
        of = [order[(cell[order] == c) & (fold[order] == k)] for c in range(4)]
        for some in of:
            even[some[: min(map(len, of))]] = k
    return even


def _four(right: Float[Tensor, " example"], cell: Int[Tensor, " example"]) -> float:
    """Accuracy with the four combinations weighed the same."""
    return float(torch.stack([right[cell == c].mean() for c in range(4)]).mean())


def _accuracy(s: Mapping[str, Tensor], name: str) -> Float[Tensor, " replicate"]:
    return (s[name] / s["cells"]).nanmean(-1)  # NaN: a combination that the resample lost


def _scr(s: Mapping[str, Tensor]) -> Float[Tensor, " replicate"]:
    base, ablated, oracle = (_accuracy(s, name) for name in ("base", "ablated", "oracle"))
    gap = oracle - base
    return torch.where(gap < LEAST, 0.0, (ablated - base) / torch.where(gap < LEAST, 1.0, gap))

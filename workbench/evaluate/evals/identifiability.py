"""Is there one latent, with one threshold, that says whether an object is there?"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import probes
from ..case import Case
from ..examples import OURS, TRAIN, Examples
from ..scores import Scores

NEEDS = ("objects",)
MEAN = {"identifiability": 0.5}
SCALE_INVARIANT = ("identifiability", "identifiability_coordinate")
CHUNK = 1 << 22  # examples x latents sorted at once


class Detector(NamedTuple):
    """A class is said to be there where the feature is above the threshold."""

    feature: int
    threshold: float


def identifiability(case: Case, *, label: str | None = None) -> Scores:
    """Mean over classes of the balanced accuracy of each class's best latent and threshold ("soft identifiability").

    `objects` are labelled `Examples`, each latent's value the mean over an example's rows. Every class of `label` (of
    all labels when None) is told from the others; of two classes only the second, as in ("absent", "present"). Latent
    and threshold are chosen on the train fold, the number is of the test fold. Chance 0.5. `identifiability_coordinate`
    is the same for one coordinate of the row, of either sign. `detectors(case)` says which latent it is.
    `tasks.planted.objects` and `tasks.planted.digits` make examples. Raises ValueError for a fold without a class.
    Source: Fel et al. 2025, arXiv 2502.12892; theirs chooses and reports on the same images.
    """
    examples = case.need("objects", Examples)
    present = _present(examples, label)
    pooled = examples.pooled(examples.x.flatten(1).float())
    features = {
        "identifiability": case.pooled(examples),
        "identifiability_coordinate": torch.cat([pooled, -pooled], 1),
    }
    scores = []
    for metric, values in features.items():
        said = torch.stack([values[:, f] > t for f, t in best(values, present, examples.fold)], 1)  # (example, class)
        sums = examples.sums(
            {
                "hits": (said & present.T).double(),
                "present": present.T.double(),
                "passed": (~said & ~present.T).double(),
                "absent": (~present.T).double(),
            }
        )
        scores.append(
            case.score(
                metric,
                sums,
                _balanced,
                unit=f"balanced accuracy, mean over {len(present)} classes",
                direction="higher" if metric == "identifiability" else "none",
                range=(0.0, 1.0),
                chance=0.5,
                counted="examples",
                share_excluded=examples.share_excluded,
                note="" if examples.published else OURS,
            )
        )
    return Scores.of(*scores)


def detectors(case: Case, *, label: str | None = None) -> list[Detector]:
    """Latent and threshold of each class, in the order of `label` (of all labels when None)."""
    examples = case.need("objects", Examples)
    return best(case.pooled(examples), _present(examples, label), examples.fold)


def best(
    values: Float[Tensor, "example m"], present: Bool[Tensor, "class example"], fold: Int[Tensor, " example"]
) -> list[Detector]:
    """Feature and threshold of the highest balanced accuracy on the train fold, for each class.

    A threshold lies half-way between two values that were seen.
    """
    train = fold == TRAIN
    x, y = values[train].float(), present[:, train].float()  # (example, m), (class, example)
    wanted = y / y.sum(1, keepdim=True)  # what an example adds to the true-positive rate
    unwanted = (1 - y) / (1 - y).sum(1, keepdim=True)
    top = torch.full((len(y),), -1.0)
    found = [Detector(0, 0.0)] * len(y)
    for start in range(0, x.shape[1], max(1, CHUNK // len(x))):
        part, order = x[:, start : start + max(1, CHUNK // len(x))].sort(dim=0, descending=True, stable=True)
        cut = torch.ones_like(part, dtype=torch.bool)  # may the threshold lie below this one?
        cut[:-1] = part[:-1] > part[1:]
        cut[-1] = False
        for c in range(len(y)):
            gain = (wanted[c] - unwanted[c])[order].cumsum(0)  # TPR - FPR when all down to here are said to be present
            score = torch.where(cut, gain, -torch.inf)
            at = int(score.T.argmax())
            feature, place = at // len(part), at % len(part)
            if float(score[place, feature]) > float(top[c]):
                top[c] = score[place, feature]
                threshold = float((part[place, feature] + part[place + 1, feature]) / 2)
                found[c] = Detector(start + feature, threshold)
    return found


def _present(examples: Examples, label: str | None) -> Bool[Tensor, "class example"]:
    """One row per class that is told from the others."""
    if label is not None and label not in examples.labels:
        raise ValueError(f"objects have no label {label!r}: there is {', '.join(examples.labels) or 'none'}")
    rows = []
    for name in examples.labels if label is None else [label]:
        classes = examples.classes[name]
        for k in range(len(classes)) if len(classes) > 2 else [1]:
            there = examples.labels[name] == k
            probes.check(there, examples.fold, f"{name} {classes[k]}")
            rows.append(there)
    if not rows:
        raise ValueError("objects need one or more labels: say what is in each example")
    return torch.stack(rows)


def _balanced(s: Mapping[str, Tensor]) -> Float[Tensor, " replicate"]:
    """Mean over classes of the mean of both rates; a class that a resample lacks on one side is left out of it."""
    both = (s["hits"] / s["present"] + s["passed"] / s["absent"]) / 2
    return both.nanmean(-1)

"""The one path of every probe: trained on the train fold, chosen on the validation fold, reported on the test fold.

Nothing in this file looks at a test example but `right`, `auc` and `f1`, which report.
Standard logistic regression of scikit-learn on standardised features; the penalty is chosen by validation loss.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .examples import FOLDS, TEST, TRAIN, VALIDATION

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the inverse of the penalty


class Probe(NamedTuple):
    """A linear read-out in the units of its features: positive where `x @ weight + bias` > 0."""

    weight: Float[Tensor, " d"]
    bias: float
    strength: float  # C chosen on validation

    def __call__(self, x: Float[Tensor, "example d"]) -> Float[Tensor, " example"]:
        """The logit of each example."""
        return x.double() @ self.weight + self.bias


def fit(
    x: Float[Tensor, "example d"],
    y: Bool[Tensor, " example"],
    fold: Int[Tensor, " example"],
    *,
    strengths: Sequence[float] = STRENGTHS,
    balanced: bool = True,
    steps: int = 300,
) -> Probe:
    """A logistic probe for `y`; with `balanced`, both classes weigh the same in training and in the choice of C.

    Features that never vary in training get no weight. Raises ValueError when a fold lacks a class.
    """
    from sklearn.linear_model import LogisticRegression

    check(y, fold)
    train, held = (fold == TRAIN).numpy(), (fold == VALIDATION).numpy()
    features, truth = x.detach().cpu().double().numpy(), y.cpu().numpy().astype(bool)
    mean, spread = features[train].mean(0), features[train].std(0)
    used = spread > 1e-9 * max(1e-30, float(np.abs(features[train]).max()))
    z = (features[:, used] - mean[used]) / spread[used]
    if not used.any():
        return Probe(torch.zeros(x.shape[1], dtype=torch.float64), 0.0, float("nan"))
    best: tuple[float, Probe] | None = None
    for c in sorted(strengths):  # a tie goes to the stronger penalty
        model: Any = LogisticRegression(C=c, max_iter=steps, class_weight="balanced" if balanced else None)
        model.fit(z[train], truth[train])
        loss = _loss(model.decision_function(z[held]), truth[held], balanced)
        if best is None or loss < best[0] - 1e-12:
            weight = np.zeros(x.shape[1])
            weight[used] = model.coef_[0] / spread[used]
            bias = float(model.intercept_[0] - weight @ mean)
            best = loss, Probe(torch.from_numpy(weight), bias, float(c))
    assert best is not None
    return best[1]


def check(y: Bool[Tensor, " example"], fold: Int[Tensor, " example"], name: str = "label") -> None:
    """Raises ValueError when a fold lacks one of the two classes."""
    for k, said in enumerate(FOLDS):
        positive, n = int(y[fold == k].sum()), int((fold == k).sum())
        if not 0 < positive < n:
            raise ValueError(f"the {said} fold has {positive} of {n} examples of {name!r}: both classes are needed")


def _loss(logits: np.ndarray, truth: np.ndarray, balanced: bool) -> float:
    each = np.logaddexp(0.0, np.where(truth, -logits, logits))
    return float((each[truth].mean() + each[~truth].mean()) / 2) if balanced else float(each.mean())


def ranked(
    x: Float[Tensor, "example m"], y: Bool[Tensor, " example"], fold: Int[Tensor, " example"]
) -> Int[Tensor, " m"]:
    """Features by |mean of positives - mean of negatives| on the train fold, the largest first."""
    train = fold == TRAIN
    difference = x[train & y].double().mean(0) - x[train & ~y].double().mean(0)
    return difference.abs().argsort(descending=True, stable=True)


def sparse(
    x: Float[Tensor, "example m"],
    y: Bool[Tensor, " example"],
    fold: Int[Tensor, " example"],
    k: int,
    *,
    order: Int[Tensor, " m"] | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """A probe on the first `k` features of `order` (those of `ranked` when None), over all m with zeros elsewhere."""
    check(y, fold)
    chosen = (ranked(x, y, fold) if order is None else order)[:k]
    small = fit(x[:, chosen], y, fold, strengths=strengths)
    weight = torch.zeros(x.shape[1], dtype=torch.float64)
    weight[chosen] = small.weight
    return Probe(weight, small.bias, small.strength)


def right(probe: Probe, x: Float[Tensor, "example d"], y: Bool[Tensor, " example"]) -> Float[Tensor, " example"]:
    """1 where the probe is right: over `examples.sums({"right": ...})` its ratio to examples is test accuracy."""
    return ((probe(x) > 0) == y).double()


def auc(logits: Float[Tensor, " example"], y: Bool[Tensor, " example"], fold: Int[Tensor, " example"]) -> float:
    """Area under the ROC curve on the test fold; ties count half. Chance 0.5."""
    from sklearn.metrics import roc_auc_score

    test = fold == TEST
    return float(roc_auc_score(y[test].numpy(), logits[test].numpy()))


def f1(said: Bool[Tensor, "*label example"], y: Bool[Tensor, "*label example"]) -> Float[Tensor, "*label"]:
    """F1 of statements about `y`, 0 where nothing true was said."""
    both = (said & y).sum(-1).double()
    return 2 * both / (said.sum(-1) + y.sum(-1)).clamp_min(1)

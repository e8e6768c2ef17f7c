"""The one path of every probe: trained on the train fold, chosen on the validation fold, reported on the test fold.

Nothing in this file looks at a test example but `right`, `auc` and `f1`, which report.
Logistic regression with an L2 penalty on standardised features, by scikit-learn; the penalty is chosen by validation
loss. Features are turned to the directions that the training rows span, so wide codes cost no more than there are rows:
20 labels, 4 penalties and 2,400 x 576 training numbers take seconds of one core.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .examples import FOLDS, TEST, TRAIN, VALIDATION, Examples

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the inverse of the penalty
GRADIENT = 1e-7  # of the mean loss, at which a probe is taken as trained (scikit-learn's default: 1e-4)
CHUNK = 1 << 23  # numbers made double at once
DIRECTIONS = 1e-10  # share of the largest variance below which a direction of the training rows is left out


class Probe(NamedTuple):
    """A linear read-out in the units of its features: positive where `x @ weight + bias` > 0."""

    weight: Float[Tensor, " d"]
    bias: float
    strength: float  # C chosen on validation, NaN where no feature varies

    def __call__(self, x: Float[Tensor, "example d"]) -> Float[Tensor, " example"]:
        """The logit of each example."""
        return x.double() @ self.weight + self.bias


class Singles(NamedTuple):
    """A probe on each feature alone, in the features' units: `x[:, i] * weight[label, i] + bias[label, i]`.

    `loss` (nats, both classes weighing the same) is over train and validation; of train, it is what was minimised.
    """

    weight: Float[Tensor, "label m"]
    bias: Float[Tensor, "label m"]
    loss: Float[Tensor, "label m"]


def fit(
    x: Float[Tensor, "example d"],
    y: Bool[Tensor, " example"],
    fold: Int[Tensor, " example"],
    *,
    strengths: Sequence[float] = STRENGTHS,
    balanced: bool = True,
    standard: bool = True,
    steps: int = 300,
) -> Probe:
    """A logistic probe for `y`; with `balanced`, both classes weigh the same in training and in the choice of C.

    Features that never vary in training get no weight; without `standard` features keep their own units in the penalty.
    Raises ValueError when a fold lacks a class, or a feature is not finite.
    """
    (found,) = several(x, y[None], fold, strengths=strengths, balanced=balanced, standard=standard, steps=steps)
    return found


def several(
    x: Float[Tensor, "example d"],
    ys: Bool[Tensor, "label example"],
    fold: Int[Tensor, " example"],
    *,
    strengths: Sequence[float] = STRENGTHS,
    balanced: bool = True,
    standard: bool = True,
    steps: int = 300,
) -> list[Probe]:
    """What `fit` gives for each label; the features are prepared once."""
    cs = sorted(strengths)  # a tie goes to the stronger penalty
    if not cs or cs[0] <= 0:
        raise ValueError(f"strengths must be one or more numbers above 0, got {list(strengths)}")
    for i, y in enumerate(ys):
        check(y, fold, "label" if len(ys) == 1 else f"label {i}")
    finite(x[(fold == TRAIN) | (fold == VALIDATION)])
    wide = spread(x[fold == TRAIN])
    used = wide > 0
    train, held = (x[fold == k].detach().cpu()[:, used].double().numpy() for k in (TRAIN, VALIDATION))
    truth = ys[:, fold == TRAIN].cpu().numpy()
    weigh = _weights(truth, balanced)
    if not used.any():
        share = (weigh * truth).sum(1)
        nothing = torch.zeros(x.shape[1], dtype=torch.float64)
        return [Probe(nothing, float(b), float("nan")) for b in np.log(share / (1 - share))]
    mean, unit = train.mean(0), wide[used].numpy() if standard else 1.0
    z = (train - mean) / unit
    basis = _directions(z)
    a, b = _minimum(z @ basis, truth, weigh, cs, steps)
    logits = ((held - mean) / unit @ basis) @ a.reshape(-1, a.shape[-1]).T
    logits = logits.T.reshape(*b.shape, -1) + b[..., None]
    found = []
    for i, y in enumerate(ys[:, fold == VALIDATION].cpu().numpy()):
        losses = [_loss(of_c, y, balanced) for of_c in logits[i]]
        best = next(k for k, loss in enumerate(losses) if loss <= min(losses) + 1e-9)
        small = basis @ a[i, best] / unit
        weight = torch.zeros(x.shape[1], dtype=torch.float64)
        weight[used] = torch.from_numpy(small)
        found.append(Probe(weight, float(b[i, best] - small @ mean), float(cs[best])))
    return found


def check(y: Bool[Tensor, " example"], fold: Int[Tensor, " example"], name: str = "label") -> None:
    """Raises ValueError when a fold lacks one of the two classes."""
    for k, said in enumerate(FOLDS):
        positive, n = int(y[fold == k].sum()), int((fold == k).sum())
        if not 0 < positive < n:
            raise ValueError(f"the {said} fold has {positive} of {n} examples of {name!r}: both classes are needed")


def finite(x: Float[Tensor, "example m"]) -> None:
    """Raises ValueError for features that are NaN or infinite."""
    if bad := int((~x.isfinite()).sum()):
        raise ValueError(f"features of a probe must be finite, {bad} numbers are not: look at the rows or codes")


def spread(x: Float[Tensor, "example m"]) -> Float[Tensor, " m"]:
    """Standard deviation of each feature; 0, not rounding noise, for one that never varies."""
    found = []
    for part in x.detach().split(max(1, CHUNK // max(1, len(x))), dim=1):
        wide = part.double().std(0, correction=0)
        found.append(torch.where(wide > 1e-9 * part.abs().amax(0), wide, 0.0))
    return torch.cat(found).cpu()


def _loss(logits: np.ndarray, truth: np.ndarray, balanced: bool) -> float:
    each = np.logaddexp(0.0, np.where(truth, -logits, logits))
    return float((each[truth].mean() + each[~truth].mean()) / 2) if balanced else float(each.mean())


def _weights(truth: np.ndarray, balanced: bool) -> np.ndarray:
    """Weight of every training example under each label, summing to 1."""
    positive = truth.mean(1, keepdims=True) if balanced else np.full((len(truth), 1), 0.5)
    return np.where(truth, 0.5 / positive, 0.5 / (1 - positive)) / truth.shape[1]


def _directions(z: np.ndarray) -> np.ndarray:
    """Orthonormal directions that the rows span `(m, r)`: all that a penalty needs."""
    wide = z.shape[1] > z.shape[0]
    size, found = np.linalg.eigh((z @ z.T if wide else z.T @ z) / len(z))
    keep = size > DIRECTIONS * size[-1]
    size, found = size[keep], found[:, keep]
    return z.T @ found / np.sqrt(size * len(z)) if wide else found


def _minimum(
    z: np.ndarray, truth: np.ndarray, weigh: np.ndarray, cs: Sequence[float], steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (label, strength, direction) and bias (label, strength) of least loss."""
    from sklearn.linear_model import LogisticRegression

    weights, biases = np.empty((len(truth), len(cs), z.shape[1])), np.empty((len(truth), len(cs)))
    for i, y in enumerate(truth):
        model = LogisticRegression(tol=GRADIENT, max_iter=steps, warm_start=True)
        for j, c in enumerate(cs):  # each starts where the stronger penalty ended
            model.set_params(C=c).fit(z, y, weigh[i] * len(z))
            weights[i, j], biases[i, j : j + 1] = model.coef_[0], model.intercept_
    return weights, biases


def differences(
    x: Float[Tensor, "example m"], ys: Bool[Tensor, "label example"], fold: Int[Tensor, " example"]
) -> Float[Tensor, "label m"]:
    """Mean of the positives less mean of the negatives, on the train fold."""
    train = fold == TRAIN
    rows, truth = x[train], ys[:, train].to(x.device)
    found = []
    for part in rows.split(max(1, CHUNK // max(1, len(rows))), dim=1):
        total, positive = part.double().sum(0), truth.double() @ part.double()
        n = truth.sum(1, keepdim=True)
        found.append(positive / n - (total - positive) / (len(rows) - n))
    return torch.cat(found, 1)


def ranked(
    x: Float[Tensor, "example m"], y: Bool[Tensor, " example"], fold: Int[Tensor, " example"]
) -> Int[Tensor, " m"]:
    """Features by |mean of positives - mean of negatives| on the train fold, the largest first."""
    return differences(x, y[None], fold)[0].abs().argsort(descending=True, stable=True)


def sparse(
    x: Float[Tensor, "example m"],
    y: Bool[Tensor, " example"],
    fold: Int[Tensor, " example"],
    k: int,
    *,
    order: Int[Tensor, " some"] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    balanced: bool = True,
    standard: bool = True,
) -> Probe:
    """A probe on the first `k` features of `order` (those of `ranked` when None), over all m with zeros elsewhere.

    Raises ValueError as `fit` does, and for a `k` that is not 1 to m.
    """
    if not 1 <= k <= x.shape[1]:
        raise ValueError(f"k must be 1 to the {x.shape[1]} features there are, got {k}")
    check(y, fold)
    chosen = (ranked(x, y, fold) if order is None else order)[:k]
    small = fit(x[:, chosen], y, fold, strengths=strengths, balanced=balanced, standard=standard)
    weight = torch.zeros(x.shape[1], dtype=torch.float64)
    weight[chosen] = small.weight
    return Probe(weight, small.bias, small.strength)


def singles(
    x: Float[Tensor, "example m"],
    ys: Bool[Tensor, "label example"],
    fold: Int[Tensor, " example"],
    *,
    strength: float = 1.0,
    steps: int = 50,
) -> Singles:
    """A logistic probe on every feature alone, both classes weighing the same, by Newton steps on all at once.

    The penalty (scikit-learn's C, on features of spread 1) only keeps weights finite. Time grows with the entries of
    `x` that are not zero. Raises ValueError as `fit` does.
    """
    for i, y in enumerate(ys):
        check(y, fold, "label" if len(ys) == 1 else f"label {i}")
    finite(x[(fold == TRAIN) | (fold == VALIDATION)])
    wide = spread(x[fold == TRAIN])
    wide[wide == 0] = torch.inf  # what never varies counts as zero
    parts = {k: _Entries.of(x[fold == k].detach().cpu() / wide.to(x.dtype)) for k in (TRAIN, VALIDATION)}
    found = []
    for y in ys.cpu():
        folds = {k: y[fold == k].numpy() for k in parts}
        w, b = _newton(parts[TRAIN], folds[TRAIN], strength, steps)
        sizes = {k: len(part) for k, part in folds.items()}
        losses = [sizes[k] * _weighed(parts[k], folds[k]).at(w, b)[0] for k in parts]
        found.append([w / wide.numpy(), b, sum(losses) / sum(sizes.values())])
    return Singles(*(torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True)))


class _Entries(NamedTuple):
    """The entries of features that are not zero, features in order."""

    feature: np.ndarray
    example: np.ndarray
    value: np.ndarray
    count: int  # of features

    @classmethod
    def of(cls, x: Float[Tensor, "example m"]) -> "_Entries":
        by_feature = x.T.contiguous().numpy()
        feature, example = by_feature.nonzero()
        return cls(feature, example, by_feature[feature, example].astype(np.float64), len(by_feature))


class _Weighed(NamedTuple):
    """Entries with the sign and weight of their examples, and of each class the weight in which a feature is zero."""

    feature: np.ndarray
    value: np.ndarray
    sign: np.ndarray
    weigh: np.ndarray
    zeros: np.ndarray  # (class, feature), positives first

    def at(self, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Loss of each feature's probe, gradient (2, feature) and Hessian (ww, wb, bb) in weight and bias."""
        m = len(w)
        margin = self.sign * (w[self.feature] * self.value + b[self.feature])
        small = np.exp(-np.abs(margin))
        wrong = np.where(margin > 0, small, 1.0) / (1 + small)
        sums = lambda v: np.bincount(self.feature, v, m)  # noqa: E731
        zeros, p = self.zeros, 1 / (1 + np.exp(-b))
        loss = sums(self.weigh * (np.maximum(-margin, 0) + np.log1p(small)))
        loss = loss + zeros[0] * np.logaddexp(0, -b) + zeros[1] * np.logaddexp(0, b)
        pull, bend = -self.sign * self.weigh * wrong, self.weigh * wrong * (1 - wrong)
        grad = np.stack([sums(pull * self.value), sums(pull) - zeros[0] * (1 - p) + zeros[1] * p])
        bent = bend * self.value
        hessian = np.stack([sums(bent * self.value), sums(bent), sums(bend) + zeros.sum(0) * p * (1 - p)])
        return loss, grad, hessian

    def only(self, these: np.ndarray) -> "_Weighed":
        """The same for the chosen features."""
        stay, place = these[self.feature], np.cumsum(these) - 1
        return _Weighed(
            place[self.feature[stay]], self.value[stay], self.sign[stay], self.weigh[stay], self.zeros[:, these]
        )


def _weighed(entries: _Entries, y: np.ndarray) -> _Weighed:
    sign, weigh = np.where(y, 1.0, -1.0)[entries.example], _weights(y[None], True)[0][entries.example]
    zeros = [0.5 - np.bincount(entries.feature, weigh * (sign == s), entries.count) for s in (1, -1)]
    return _Weighed(entries.feature, entries.value, sign, weigh, np.stack(zeros))


class _Walk(NamedTuple):
    """Descents side by side, one a column: where they are, and which step they try next."""

    p: np.ndarray
    value: np.ndarray
    grad: np.ndarray
    step: np.ndarray
    ahead: np.ndarray

    def going(self) -> np.ndarray:
        return (np.abs(self.grad).max(0) > GRADIENT) & (self.step > 1e-8)

    def only(self, these: np.ndarray) -> "_Walk":
        return _Walk(*(part[..., these] for part in self))


def _newton(entries: _Entries, y: np.ndarray, strength: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of each feature's own probe."""
    data, of = _weighed(entries, y), np.arange(entries.count)  # of: features still under way
    ridge, none = 1.0 / (strength * len(y)), np.zeros((2, entries.count))
    best = none.copy()
    walk = _Walk(none, np.full(entries.count, np.inf), none + np.inf, np.ones(entries.count), none)
    for _ in range(steps):
        walk = _newton_stride(walk, data, ridge)
        best[:, of] = walk.p
        going = walk.going()
        if not going.any():
            break
        if going.mean() < 0.7:
            walk, data, of = walk.only(going), data.only(going), of[going]
    return best[0], best[1]


def _newton_stride(walk: _Walk, data: _Weighed, ridge: float) -> _Walk:
    """One Newton step of every feature, not taken and halved where it would not lower the loss."""
    there = walk.p + walk.step * walk.ahead
    value, grad, (ww, wb, bb) = data.at(there[0], there[1])
    value, grad[0], ww, bb = value + ridge * there[0] ** 2 / 2, grad[0] + ridge * there[0], ww + ridge, bb + 1e-12
    ok = value <= walk.value + 1e-15
    ahead = np.stack([wb * grad[1] - bb * grad[0], wb * grad[0] - ww * grad[1]]) / (ww * bb - wb**2)
    p, grad, ahead = (np.where(ok, new, old) for new, old in ((there, walk.p), (grad, walk.grad), (ahead, walk.ahead)))
    value, step = np.where(ok, value, walk.value), np.where(ok, 1.0, walk.step / 2)
    return _Walk(p, value, grad, step, ahead)


def tasks(examples: Examples) -> tuple[list[str], Bool[Tensor, "task example"]]:
    """Each class of each label against the rest, and its name; of two classes the second.

    Raises ValueError when there is no label, or a fold lacks a class.
    """
    names, ys = [], []
    for name, label in examples.labels.items():
        known = examples.classes[name]
        for i in [1] if len(known) == 2 else range(len(known)):
            names.append(f"{name}: {known[i]}")
            ys.append(label == i)
            check(ys[-1], examples.fold, names[-1])
    if not ys:
        raise ValueError("the examples have no label: give labels and classes")
    return names, torch.stack(ys)


def by_class(
    values: Float[Tensor, "task example"], ys: Bool[Tensor, "task example"]
) -> dict[str, Float[Tensor, "example task"]]:
    """What `examples.sums` needs for `class_mean`: each value beside the class of its example."""
    up, down = ys.T.double(), (~ys).T.double()
    return {"up": values.T * up, "down": values.T * down, "positive": up, "negative": down}


def class_mean(s: Mapping[str, Tensor]) -> Float[Tensor, " replicate"]:
    """A value's mean over tasks, both classes of a task weighing the same: of `right`, balanced accuracy.

    A class that a resample did not draw is left out of it.
    """
    return torch.stack([s["up"] / s["positive"], s["down"] / s["negative"]]).nanmean(0).mean(-1)


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

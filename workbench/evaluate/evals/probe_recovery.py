"""How well the best single latent tells a class: its loss as a one-dimensional probe, in nats."""

from math import inf, log

import torch
from torch.nn.functional import softplus

from .. import probes
from ..case import Case
from ..examples import OURS, Examples
from ..scores import Score, Scores

NEEDS = ("labelled",)
MEAN = {"probe_loss": log(2)}
SCALE_INVARIANT = ("probe_loss", "coordinate_loss", "dense_loss")


def probe_recovery(case: Case, *, strength: float = 1.0) -> Scores:
    """Test cross-entropy of a logistic probe on one latent, the best of all latents for each task, mean over tasks.

    A task is a class of a label of `labelled` against the rest. Every latent gets a probe of its own on its mean code,
    trained on the train fold by Newton's method; the latent of least loss over train and validation examples is taken
    (two weights hardly overfit, a choice among thousands does) and its loss on the test fold is the score. Both classes
    weigh the same, so a guess without knowledge costs ln 2. `coordinate_loss` is the same for the coordinates of the
    mean row (neurons, at their site), `dense_loss` that of a probe on the whole row. `strength` is scikit-learn's
    C on latents of spread 1: it only keeps weights finite.
    Source: Gao et al. 2024, arXiv 2406.04093, "recovery of known features with 1d probes"; theirs uses latents before
    the activation function, and chooses and reports on the same examples.
    `evaluate.tasks.texts` makes the data. Raises ValueError for a fold that lacks a class.
    """
    examples = case.need("labelled", Examples)
    names, ys = probes.tasks(examples)
    rows, fold = examples.pooled(examples.x.flatten(1).float()), examples.fold

    def score(metric: str, logits: torch.Tensor) -> Score:
        loss = softplus(torch.where(ys, -logits, logits))
        return case.score(
            metric,
            examples.sums(probes.by_class(loss, ys)),
            probes.class_mean,
            unit=f"nats per example, mean of {len(names)} task{'s' * (len(names) > 1)}",
            direction="lower" if metric == "probe_loss" else "none",
            range=(0.0, inf),
            chance=log(2),
            counted="examples",
            share_excluded=examples.share_excluded,
            note="" if examples.published else OURS,
        )

    scores = []
    for metric, x in (("probe_loss", case.pooled(examples)), ("coordinate_loss", rows)):
        found = probes.singles(x, ys, fold, strength=strength)
        best, task = found.loss.argmin(-1), torch.arange(len(ys))
        weight, bias = found.weight[task, best], found.bias[task, best]
        scores.append(score(metric, (x[:, best].double() * weight + bias).T))
    dense = torch.stack([probe(rows) for probe in probes.several(rows, ys, fold)])
    return Scores.of(*scores, score("dense_loss", dense))

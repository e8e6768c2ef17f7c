"""How well one, two or five latents tell a class: probes on few latents against as few coordinates, and all of them."""

import torch

from .. import probes
from ..case import Case
from ..examples import OURS, Examples
from ..scores import Score, Scores

NEEDS = ("labelled",)
MEAN = {"latents_1": 0.5, "latents_2": 0.5, "latents_5": 0.5}
SCALE_INVARIANT = ("latents_1", "latents_2", "latents_5", "coordinates_1", "dense")


def sparse_probing(
    case: Case,
    *,
    ks: tuple[int, ...] = (1, 2, 5),
    strengths: tuple[float, ...] = probes.STRENGTHS,
    balanced: bool = True,
    standard: bool = True,
) -> Scores:
    """Test accuracy of logistic probes on the `k` latents whose mean differs most between class and rest, for each k.

    Each class of every label of `labelled` against the rest (of two classes one), mean codes of each example;
    accuracies are averaged over these tasks. `coordinates_k` are as many coordinates of the mean row, chosen and probed
    alike; `dense` is a probe on the whole row. With `balanced` both classes weigh the same, in training and in the
    accuracy, so chance is 0.5 whatever the classes' shares; without it the accuracy is plain and no chance is given.
    Source: Gurnee et al. 2023, arXiv 2305.01610; SAEBench's numbers are those of `strengths=(1.0,), balanced=False,
    standard=False` on evenly drawn classes; ours choose the penalty on validation examples.
    `evaluate.tasks.texts` makes the data. Raises ValueError for a k that is not 1 to the number of latents and
    coordinates, and for a fold that lacks a class.
    """
    examples = case.need("labelled", Examples)
    names, ys = probes.tasks(examples)
    rows = examples.pooled(examples.x.flatten(1).float())
    most = min(case.codec.latents, rows.shape[1])
    if not ks or len(set(ks)) < len(ks) or min(ks) < 1 or max(ks) > most:
        raise ValueError(f"ks must be distinct numbers of 1 to {most} latents or coordinates, got {ks}")
    fold, scores = examples.fold, []
    same = {"strengths": strengths, "balanced": balanced, "standard": standard}

    def score(metric: str, x: torch.Tensor, found: list[probes.Probe]) -> Score:
        right = torch.stack([probes.right(probe, x, y) for probe, y in zip(found, ys, strict=True)])
        sums = examples.sums(probes.by_class(right, ys) if balanced else {"right": right.T})
        return case.score(
            metric,
            sums,
            probes.class_mean if balanced else lambda s: (s["right"] / s["examples"][:, None]).mean(-1),
            unit=f"{'balanced ' * balanced}accuracy, mean of {len(names)} task{'s' * (len(names) > 1)}",
            direction="higher" if metric.startswith("latents") else "none",
            range=(0.0, 1.0),
            chance=0.5 if balanced else None,
            counted="examples",
            share_excluded=examples.share_excluded,
            note="" if examples.published else OURS,
        )

    for what, x in (("latents", case.pooled(examples)), ("coordinates", rows)):
        order = probes.differences(x, ys, fold).abs().topk(max(ks), dim=-1).indices
        for k in ks:
            found = [probes.sparse(x, y, fold, k, order=of, **same) for y, of in zip(ys, order, strict=True)]
            scores.append(score(f"{what}_{k}", x, found))
    return Scores.of(*scores, score("dense", rows, probes.several(rows, ys, fold, **same)))

"""Does taking out a class's latents hurt the probe of that class, and no other?"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .. import probes
from ..case import Case
from ..examples import OURS, TEST, Examples
from ..removal import COUNTS, along, counts, label_of, largest, live, without
from ..scores import Scores, Sums

NEEDS = ("labelled",)
MEAN = {"tpp_10": 0.0}
SCALE_INVARIANT = ("tpp_10", "targeted_drop", "other_drop", "probe_accuracy")


def tpp(case: Case, *, n: int = 10, ns: Sequence[int] = COUNTS, label: str | None = None, draws: int = 5) -> Scores:
    """Targeted probe perturbation: the drop of a class's own probe less the mean drop of the other classes' probes.

    `labelled`: examples with a label of three or more classes (`evaluate.tasks.spurious`, or any labelled texts); rows
    are pooled by their mean. One logistic probe per class against the rest, at the site that the dictionary writes.
    A latent's effect on it is max(0, mean code in the class - mean code outside) * (atom . weight), on the train fold;
    the `n` largest above zero are taken out of all rows, the error is kept. Accuracy is that of the test fold with
    both sides of a probe weighed the same. `tpp_{n}` is the mean over classes, for each n that the dictionary has
    latents for; `targeted_drop` and `other_drop` are its two parts at the headline's n. Chance is the mean of `draws`
    random choices of as many latents per class among those that fire in training, drawn from the case's seed.
    Source: Marks et al. 2024, arXiv 2403.19647 (SHIFT); SAEBench (Karvonen et al. 2025), where a probe's epoch is
    chosen by its test accuracy and negatives are drawn to be as many as positives.
    Raises ValueError for fewer than three classes, a dictionary of fewer than n latents, or a fold without a class.
    """
    examples, sizes = case.need("labelled", Examples), counts(case, n, ns)
    label = label_of(examples, label)
    number, names = examples.labels[label], examples.classes[label]
    if len(names) < 3:
        raise ValueError(f"label {label!r} has two classes, whose probes are one: give examples of three or more")
    if draws < 1:
        raise ValueError(f"chance needs one or more draws, got {draws}")
    truth = number[:, None] == torch.arange(len(names))
    for k, name in enumerate(names):
        probes.check(truth[:, k], examples.fold, str(name))
    fold, test = examples.fold, examples.at(TEST)
    y, codes = examples.pooled(examples.y.flatten(1).double()), case.pooled(examples)
    fitted = probes.several(y, truth.T, fold)
    toward = along(case, fitted)
    clean, seen, yes = torch.stack([p(y[test]) for p in fitted], -1), codes[test].double(), truth[test]
    effect = probes.differences(codes, truth.T, fold).clamp_min(0) * toward.T
    alive, drawn = live(codes, fold), np.random.default_rng(case.seed)

    def tried(chosen: Sequence[Tensor]) -> dict[str, Tensor]:
        """Right answers on test, of each probe (last axis) with nothing taken out (place 0) or a class's latents."""
        said = [clean, *(without(clean, seen, toward, latents) for latents in chosen)]
        right = torch.stack([((s > 0) == yes).double() for s in said], 1)
        side = yes[:, None].double()
        return {"in": right * side, "out": right * (1 - side), "yes": side[:, 0], "no": 1 - side[:, 0]}

    def summed(values: dict[str, Tensor]) -> Sums:
        full = {k: v.new_zeros(len(test), *v.shape[1:]) for k, v in values.items()}
        for k, v in values.items():
            full[k][test] = v
        return examples.sums(full)

    def luck(size: int) -> float:
        found = []
        for _ in range(draws):
            picks = [alive[drawn.permutation(len(alive))[:size]] for _ in names]
            found.append(float(_tpp({k: v.sum(0, keepdim=True) for k, v in tried(picks).items()})[0]))
        return float(np.mean(found))

    sums = {size: summed(tried([largest(e, size) for e in effect])) for size in sizes}
    about = {
        "counted": "examples",
        "share_excluded": examples.share_excluded,
        "note": "" if examples.published else OURS,
    }
    scores = [
        case.score(
            f"tpp_{size}",
            sums[size],
            _tpp,
            unit=f"accuracy lost by the class's own probe above others', {size} latents each, {len(names)} classes",
            direction="higher",
            range=(-2.0, 2.0),
            chance=luck(size),
            **about,
        )
        for size in sizes
    ]
    parts = {"targeted_drop": lambda s: _drops(s)[0], "other_drop": lambda s: _drops(s)[1]}
    scores[1:1] = [
        case.score(
            name,
            sums[n],
            statistic,
            unit=f"accuracy, {n} latents each",
            direction="none",
            range=(-1.0, 1.0),
            chance=0.0,
            **about,
        )
        for name, statistic in parts.items()
    ]
    accuracy = case.score(
        "probe_accuracy",
        sums[n],
        lambda s: _accuracy(s)[..., 0, :].nanmean(-1),
        unit="accuracy of the probes with nothing taken out, both sides weighed the same",
        direction="none",
        range=(0.0, 1.0),
        chance=0.5,
        **about,
    )
    return Scores((*scores, accuracy))


def _accuracy(s: Mapping[str, Tensor]) -> Float[Tensor, "replicate removed probe"]:
    """Both sides of a probe weighed the same; NaN where a resample lost one of them."""
    return (s["in"] / s["yes"][..., None, :] + s["out"] / s["no"][..., None, :]) / 2


def _drops(s: Mapping[str, Tensor]) -> tuple[Float[Tensor, " replicate"], Float[Tensor, " replicate"]]:
    """Mean drop of the probe whose class's latents were taken out, and of the others."""
    accuracy = _accuracy(s)
    drop = accuracy[..., :1, :] - accuracy[..., 1:, :]  # (replicate, removed, probe)
    own = torch.eye(drop.shape[-1], dtype=torch.bool)
    return drop[..., own].nanmean(-1), drop[..., ~own].nanmean(-1)


def _tpp(s: Mapping[str, Tensor]) -> Float[Tensor, " replicate"]:
    own, other = _drops(s)
    return own - other

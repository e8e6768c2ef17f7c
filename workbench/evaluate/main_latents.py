"""Which latents stand for a class: k-sparse probes that grow while F1 jumps (what absorption and splitting share)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import probes
from .case import Case
from .examples import TEST, TRAIN, VALIDATION, Examples


class Concept(NamedTuple):
    """One class against all others."""

    name: str
    truth: Bool[Tensor, " example"]


class Main(NamedTuple):
    """A class's main latents in the order they were found, and what their probe says of all examples."""

    latents: Int[Tensor, " k"]
    said: Bool[Tensor, " example"]
    first: Bool[Tensor, " example"]  # what a probe on the first of them says


def concepts(examples: Examples) -> list[Concept]:
    """Each class of a label of three or more; of a label of two its second class, with the label's name.

    Raises ValueError where a fold lacks a class: nothing can be fitted or judged there.
    """
    found = []
    for label, number in examples.labels.items():
        names = examples.classes[label]
        for k in range(len(names)) if len(names) > 2 else [1]:
            name = str(names[k]) if len(names) > 2 else label
            probes.check(number == k, examples.fold, name)
            found.append(Concept(name, number == k))
    return found


def main_latents(
    codes: Float[Tensor, "example latent"],
    truths: Bool[Tensor, "class example"],
    fold: Int[Tensor, " example"],
    *,
    jump: float = 0.03,
    most: int = 10,
) -> list[Main]:
    """Of each class, latents are added while the F1 of a probe on them rises by more than `jump` on validation.

    The next latent is the one along which the training loss of the probe so far falls steepest, per standard deviation
    of its code, among those that speak for the class. None is found where every latent is silent or speaks against it.
    Source: Chanin et al. 2024, arXiv 2409.14507; there an L1 probe ranks the latents once and F1 is that of the test
    words. A greedy order needs no penalty to set, and the test fold stays unseen.
    """
    z = codes[fold == TRAIN]
    mean, wide = z.mean(0), probes.spread(z).to(z.dtype)
    return [_grown(codes, z, mean, wide, truth, fold, jump, most) for truth in truths]


def _grown(
    codes: Float[Tensor, "example latent"],
    z: Float[Tensor, "train latent"],
    mean: Float[Tensor, " latent"],
    wide: Float[Tensor, " latent"],
    truth: Bool[Tensor, " example"],
    fold: Int[Tensor, " example"],
    jump: float,
    most: int,
) -> Main:
    train, held = fold == TRAIN, fold == VALIDATION
    y = truth[train].double()
    weight = torch.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum())  # both classes weigh the same
    chance = torch.full_like(y, 0.5)
    found: list[int] = []
    best, said, first = float("-inf"), torch.zeros_like(truth), torch.zeros_like(truth)
    while len(found) < min(most, codes.shape[1]):
        left = (weight * (y - chance)).to(z.dtype)
        gain = torch.where(wide > 0, (left @ z - left.sum() * mean) / torch.where(wide > 0, wide, 1.0), 0.0)
        gain[found] = 0.0
        if float(gain.max()) <= 0:
            break
        tried = [*found, int(gain.argmax())]
        probe = probes.fit(codes[:, tried], truth, fold)
        logits = probe(codes[:, tried])
        f1 = float(probes.f1(logits[held] > 0, truth[held]))
        if f1 <= best + jump:
            break
        best, found, said, chance = f1, tried, logits > 0, logits[train].sigmoid()
        first = said if len(found) == 1 else first
    return Main(torch.tensor(found, dtype=torch.long), said, first)


def mains(case: Case, examples: Examples, *, jump: float, most: int) -> list[Main]:
    """Main latents of every concept of the examples, found once for all evals of the case.

    Raises ValueError where an example has several rows: a latent is on or off in a row.
    """
    if not 0 <= jump < 1 or most < 1:
        raise ValueError(f"jump must be within 0..1 and most 1 or more, got {jump} and {most}")
    if int(examples.sizes.max()) > 1:
        raise ValueError(
            f"examples must be one row each, got one of {int(examples.sizes.max())}: read them with at='last'"
        )
    key = f"main latents {id(examples.x)} {id(examples.fold)} {jump} {most}"
    if key not in case.cache:
        truths = torch.stack([c.truth for c in concepts(examples)])
        found = main_latents(case.pooled(examples), truths, examples.fold, jump=jump, most=most)
        case.cache[key] = (examples, found)  # the examples stay, so their ids are not used again
    return case.cache[key][1]


def f1_sums(
    said: Bool[Tensor, "example class"], truth: Bool[Tensor, "example class"]
) -> dict[str, Float[Tensor, "example class"]]:
    """What F1 per class is made of, by example: twice the hits, and what was said plus what is true."""
    return {"twice": 2 * (said & truth).double(), "spoken": said.double() + truth.double()}


def over_classes(top: Float[Tensor, "*some c"], bottom: Float[Tensor, "*some c"]) -> Float[Tensor, "*some"]:
    """Mean over classes of a ratio of sums; a class that a resample lost is left out of it."""
    there = bottom > 0
    ratio = torch.where(there, top / torch.where(there, bottom, 1.0), 0.0)
    return ratio.sum(-1) / there.sum(-1).clamp_min(1)


def guessed(truth: Bool[Tensor, "example class"], fold: Int[Tensor, " example"]) -> float:
    """Mean F1 on the test fold of saying yes to every class."""
    share = truth[fold == TEST].double().mean(0)
    return float((2 * share / (1 + share)).mean())

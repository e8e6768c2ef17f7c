"""MSAE: one code read at several sparsities, its k largest latents reconstruct for each k (Zaigrajew et al. 2025)."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from ...code import Code
from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Dictionary, Pass, Progress, Recipe, Term

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.85  # of planted atoms, in the suite


def nested_k_mse(ks: Sequence[int], weights: Sequence[int]) -> Term:
    """Weighted mean over ks of the squared error of each row's k largest, of a wide code with the largest first."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> torch.Tensor:
        left, errors = (p.y - d.decoder.bias).flatten(1), []
        for a, b in pairwise([0, *ks]):
            part = Code.fixed(p.wide.indices[:, a:b], p.wide.values[:, a:b], d.latents)  # type: ignore[index]
            left = left - part.combine(d.decoder.weight)
            errors.append(left.square().sum(-1).mean())
        return sum(w * e for w, e in zip(weights, errors, strict=True)) / sum(weights)  # type: ignore[return-value]

    return Term(loss, losses.ENCODER | losses.DECODER)


def recipe(d: int, latents: int, *, k: int = 32, levels: int = 4, reverse: bool = False) -> Recipe:
    """Trained at k, 2k, 4k ... so many `levels`, read at k unless `dictionary.sparsifier.k` is set (2502.20578).

    Errors weigh alike (the paper's UW), with `reverse` levels, ..., 2, 1 from the smallest k on (RW). The paper's last
    level is all latents; ours stops where the code is still sparse, as far as `levels` says.
    """
    ks = sorted({min(k * 2**level, latents) for level in range(levels)})
    if len(ks) < 2:
        raise ValueError(f"k={k} and latents={latents} give {len(ks)} level: take a smaller k, or more levels")
    weights = range(len(ks), 0, -1) if reverse else [1] * len(ks)
    dictionary = within(d, latents, sparsifiers.TopK(k, latents, wide=ks[-1]))
    return Recipe(dictionary, {"mse": nested_k_mse(ks, weights)}, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

"""Mutual feature regularisation (MFR): dictionaries pull each other's atoms together (Marks et al. 2024, 2411.01220).

train([recipe(..., seed=0), recipe(..., seed=1)], stream, coupled=mutual_regularised.coupled())
"""

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from .. import hooks, losses, schedules, sparsifiers
from ..compose import within
from ..core import Dictionary, Pass, Progress, Recipe, Term

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.93  # of planted atoms, in the suite: which trains one alone


def coupled(weight: float = 0.1, *, warmup: float = 0.05) -> dict[str, Term]:
    """For `train(coupled=)`: 1 less the mean of each atom's largest cosine in another dictionary, over ordered pairs.

    In units of a row's expected squared norm, d, so that `weight` does not depend on the width; reached over the first
    `warmup` share of the run. The paper weighs a mean squared error per coordinate. Dead atoms are not drawn anew.
    """

    def loss(passes: Sequence[Pass], dictionaries: Sequence[Dictionary], at: Progress) -> Tensor:
        missing = [1 - agreement(a, b) for a, b in permutations([d.decoder.weight for d in dictionaries], 2)]
        return torch.stack(missing).mean() * dictionaries[0].d

    return {"mutual": Term(loss, frozenset({"decoder.weight"}), weight=schedules.ramp(weight, over=warmup))}


def agreement(atoms: Tensor, others: Tensor) -> Tensor:
    """Mean over atoms of the largest cosine with another's; the match itself is found without gradient."""
    with torch.no_grad():
        best = (normalize(atoms, dim=-1) @ normalize(others, dim=-1).T).argmax(-1)
    return cosine_similarity(atoms, others[best], dim=-1).mean()


def recipe(d: int, latents: int, *, k: int = 32, aux: float = 1 / 32, aux_k: int | None = None) -> Recipe:
    """One of the dictionaries, a TopK autoencoder. Train two or more of different seeds, `coupled`."""
    dictionary = within(d, latents, sparsifiers.TopK(k, latents))
    terms = {"mse": losses.mse(), "auxk": losses.auxk(aux_k or d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

"""Does the dictionary hold the directions that the model's own classes are read along?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ... import geometry
from ..case import Case
from ..examples import OURS
from ..scores import Scores, Sums

NEEDS = ("heads",)
SCALE_INVARIANT = ("plausibility", "plausibility_centred")
DRAWS, ATOMS = 20, 1 << 15  # random dictionaries behind the chance level, and atoms drawn in all


@dataclass(frozen=True)
class Heads:
    """The direction of each class in the space the dictionary writes to: rows of a linear classifier at that site.

    Raises ValueError when there is none, a direction is zero or not finite, or the names do not fit.
    """

    directions: Float[Tensor, "class d"]
    classes: Sequence[str]
    published: bool = False

    def __post_init__(self) -> None:
        if self.directions.ndim != 2 or not len(self.directions):
            raise ValueError(f"heads must be one or more directions (class, d), got {tuple(self.directions.shape)}")
        if not bool(self.directions.isfinite().all()) or bool((self.directions.norm(dim=-1) == 0).any()):
            raise ValueError("every class's direction must be finite and not zero")
        if len(self.classes) != len(self.directions):
            raise ValueError(f"heads need one name per direction ({len(self.directions)}), got {len(self.classes)}")


def plausibility(case: Case) -> Scores:
    """Mean over classes of the largest |cosine| between the class's head and a live atom.

    Latents that never fire on the held-out rows are left out. `plausibility_centred` is of heads less their mean, since
    what all heads have in common tells no class from another. Chance: as many random unit atoms, in up to 20 draws.
    Intervals resample classes. `tasks.planted.heads` gives the heads of our digit classifiers.
    Raises ValueError for heads of another width, or when no latent fires.
    Source: Fel et al. 2025, arXiv 2502.12892.
    """
    heads = case.need("heads", Heads)
    atoms = case.codec.atoms().detach().flatten(1).float().cpu()
    if atoms.shape[1] != heads.directions.shape[1]:
        raise ValueError(f"heads are {heads.directions.shape[1]} wide, the atoms of {case.name} {atoms.shape[1]}")
    atoms = atoms[(case.scanned[1].counts.sum(0) > 0) & (atoms.norm(dim=-1) > 0)]
    if not len(atoms):
        raise ValueError(f"none of the {case.codec.latents} latents of {case.name} fires: no atom to compare")
    wanted = {"plausibility": heads.directions.float()}
    centred = wanted["plausibility"] - wanted["plausibility"].mean(0)
    if bool((centred.norm(dim=-1) > 0).all()):
        wanted["plausibility_centred"] = centred
    scores, number = [], max(1, min(DRAWS, ATOMS // len(atoms)))
    for metric, directions in wanted.items():
        largest = geometry.nearest(directions, atoms, absolute=True).cosines.double()
        draws = [geometry.random_directions(*atoms.shape, seed=DRAWS * case.seed + i) for i in range(number)]
        chance = sum(float(geometry.nearest(directions, a, absolute=True).cosines.mean()) for a in draws) / number
        scores.append(
            case.score(
                metric,
                Sums({"classes": torch.ones(len(largest)).double(), "largest": largest}, "class"),
                lambda s: s["largest"] / s["classes"],
                unit=f"|cosine| of the nearest of {len(atoms):,} atoms, mean over {len(largest)} classes",
                direction="higher",
                range=(0.0, 1.0),
                chance=chance,
                counted="classes",
                note="" if heads.published else OURS,
            )
        )
    return Scores.of(*scores)

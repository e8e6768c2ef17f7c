"""Do the examples that a latent fires on look alike to another model?"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ..case import Case
from ..examples import OURS, Examples
from ..scores import Scores, Sums

NEEDS = ("embedded",)
SCALE_INVARIANT = ("monosemanticity", "monosemanticity_coordinate", "best_tenth", "worst_tenth")
COLUMNS = 2048  # scored at once


@dataclass(frozen=True, eq=False)
class Embedded:
    """Examples, and what an independent encoder made of each: the two must not be the same model.

    Labels are not looked at: `Examples.of(x, {}, {})` will do.
    Raises ValueError when there is not one finite vector, other than zero, per example.
    """

    examples: Examples
    vectors: Float[Tensor, "example p"]
    by: str = "another encoder"

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != self.examples.count:
            raise ValueError(f"one vector per example ({self.examples.count}), got {tuple(self.vectors.shape)}")
        if not bool(self.vectors.isfinite().all()) or bool((self.vectors.norm(dim=-1) == 0).any()):
            raise ValueError("every embedding must be finite and not zero")


def monosemanticity(case: Case, *, center: bool = False) -> Scores:
    """Mean cosine of embeddings over pairs of examples, weighed by how strongly a latent fires on both; over latents.

    A latent's value is the mean over an example's rows, brought to 0..1 between its least and largest. `center` takes
    the mean embedding off first, so that what all examples share does not count. A latent that fires on fewer than two
    examples has no score and is left out. Chance: a latent that fires on all alike. `monosemanticity_coordinate` is of
    the row's own coordinates; `best_tenth` and `worst_tenth` are means over those latents. Intervals resample latents.
    `per_latent(case)` has them all. `tasks.planted.embedded` makes embeddings of digits.
    Source: Pach et al. 2025, arXiv 2504.02821; sums over pairs are exact, without the pairs.
    """
    given = case.need("embedded", Embedded)
    examples, vectors = given.examples, _unit(given.vectors, center)
    found = per_latent(case, center=center)
    found = found[~found.isnan()]
    if not len(found):
        raise ValueError(f"no latent of {case.name} fires on two examples: nothing can be compared")
    coordinates = score(examples.pooled(examples.x.flatten(1).float()), vectors)
    coordinates = coordinates[~coordinates.isnan()]
    n = len(vectors)
    uniform = float((vectors.sum(0).square().sum() - n) / (n * (n - 1)))
    order, tenth = found.sort(descending=True).values, max(1, len(found) // 10)
    scores = []
    for metric, values in (
        ("monosemanticity", found),
        ("monosemanticity_coordinate", coordinates),
        ("best_tenth", order[:tenth]),
        ("worst_tenth", order[-tenth:]),
    ):
        counted = "coordinates" if metric == "monosemanticity_coordinate" else "latents"
        sums = Sums({counted: torch.ones(len(values)).double(), "cosine": values.double()}, counted.removesuffix("s"))
        scores.append(
            case.score(
                metric,
                sums,
                lambda s, counted=counted: s["cosine"] / s[counted],
                unit=f"mean cosine of {n:,} {examples.unit}s by {given.by}{', centred' if center else ''}",
                direction="higher" if metric == "monosemanticity" else "none",
                range=(-1.0, 1.0),
                chance=uniform,
                counted=counted,
                share_excluded=examples.share_excluded,
                note="" if examples.published else OURS,
            )
        )
    return Scores.of(*scores)


def per_latent(case: Case, *, center: bool = False) -> Float[Tensor, " latent"]:
    """The score of each latent, NaN where it fires on fewer than two examples."""
    given = case.need("embedded", Embedded)
    return score(case.pooled(given.examples), _unit(given.vectors, center))


def score(values: Float[Tensor, "example m"], unit: Float[Tensor, "example p"]) -> Float[Tensor, " m"]:
    """Sum over pairs of a_i a_j cos(e_i, e_j) over sum of a_i a_j, for each column a of values brought to 0..1.

    NaN for a column that is the same everywhere, or above its least in one example only.
    """
    unit, found = unit.double(), []
    for part in values.split(COLUMNS, 1):
        a = part.double()
        low, high = a.amin(0), a.amax(0)
        a = (a - low) / torch.where(high > low, high - low, 1.0)
        own = a.square().sum(0)
        alike = (a.T @ unit).square().sum(-1) - own  # twice the sum over pairs
        pairs = a.sum(0).square() - own
        found.append(torch.where((a > 0).sum(0) > 1, alike / torch.where(pairs > 0, pairs, 1.0), torch.nan))
    return torch.cat(found)


def _unit(vectors: Float[Tensor, "example p"], center: bool) -> Float[Tensor, "example p"]:
    return normalize(vectors.double() - vectors.double().mean(0) * center, dim=-1)

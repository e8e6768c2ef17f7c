"""How often latents fire: the share that are nearly always on, and the typical density."""

from collections.abc import Mapping
from math import inf

import torch

from ..case import Case
from ..scores import Scores, Sums

SCALE_INVARIANT = ("dense_share", "log10_density")


def density(case: Case, *, dense: float = 0.1) -> Scores:
    """Share of latents active in more than `dense` of the held-out rows, and the median log10 density of live ones.

    Density is the share of rows in which a latent is active; a live latent fires at least once. Intervals resample
    documents, in up to 64 groups, so memory does not grow with documents. `densities(case)` has one value per latent.
    There is no median when no latent fires at all.
    """
    if not 0 < dense < 1:
        raise ValueError(f"dense is a share of rows between 0 and 1, got {dense}")
    _, fired = case.scanned
    sums = Sums({"fired": fired.counts, "rows": fired.rows}, fired.unit)
    scores = [
        case.score(
            "dense_share",
            sums,
            lambda s: (s["fired"] > dense * s["rows"][:, None]).double().mean(1),
            unit=f"share of latents with density > {dense:g}",
            direction="lower",
            range=(0.0, 1.0),
        )
    ]
    if bool(fired.counts.any()):
        scores.append(
            case.score(
                "log10_density",
                sums,
                _median,
                unit="log10 share of rows, median over latents that fire",
                direction="none",
                range=(-inf, 0.0),
            )
        )
    return Scores.of(*scores)


def _median(s: Mapping[str, torch.Tensor]) -> torch.Tensor:
    shares = s["fired"] / s["rows"][:, None]
    return torch.where(shares > 0, shares, torch.nan).log10().nanmedian(1).values


def densities(case: Case) -> torch.Tensor:
    """Share of held-out rows in which each latent is active, `(latent,)`."""
    _, fired = case.scanned
    return fired.counts.sum(0) / fired.rows.sum()

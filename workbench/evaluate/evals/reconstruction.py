"""How well held-out rows are rebuilt: FVU, cosine, norm ratio and shrinkage."""

from math import inf

from ..case import Case, variance
from ..scores import Scores

IDENTITY = {"fvu": 0.0, "cosine": 1.0, "norm_ratio": 1.0, "gamma": 1.0}
MEAN = {"fvu": 1.0, "gamma": 1.0}
SCALE_INVARIANT = ("fvu", "cosine", "norm_ratio", "gamma")


def reconstruction(case: Case) -> Scores:
    """Fraction of variance unexplained, cosine, norm ratio and bias of the reconstruction, on held-out rows.

    FVU is the squared error over the total centred variance of all evaluated rows (`torch.var` times its degrees of
    freedom), a ratio of sums and not a mean of ratios; above 1 is worse than the mean. Cosine and norm ratio
    |y_hat| / |y| are means over rows that are not zero; an empty reconstruction has cosine 0. gamma = E|y_hat|^2 /
    E[y . y_hat] is below 1 when the reconstruction shrinks; NaN is refused where y . y_hat sums to zero.
    Source: gamma is the relative reconstruction bias of Rajamanoharan et al. 2024, arXiv 2404.16014.
    Raises ValueError when the rows do not vary, or nothing was reconstructed.
    """
    sums, _ = case.scanned
    total = sums.total()
    if float(variance(total)) <= 0:
        raise ValueError(f"the held-out rows at {case.target} are all equal: FVU has no meaning, check the store")
    if float(total["inner"]) == 0:
        raise ValueError(
            f"{case.name} reconstructs nothing on these rows: all its latents are silent and its bias is 0"
        )
    directed = float(total["directed"])
    return Scores.of(
        case.score(
            "fvu",
            sums,
            lambda s: s["error"] / variance(s),
            unit="share of variance",
            direction="lower",
            range=(0.0, inf),
            chance=1.0,
        ),
        case.score(
            "cosine",
            sums,
            lambda s: s["cosine"] / s["directed"],
            unit="cosine",
            direction="higher",
            range=(-1.0, 1.0),
            chance=float(total["mean_cosine"]) / directed,
            counted="directed",
        ),
        case.score(
            "norm_ratio",
            sums,
            lambda s: s["ratio"] / s["directed"],
            unit="norm over norm",
            direction="none",
            range=(0.0, inf),
            chance=float(total["mean_ratio"]) / directed,
            counted="directed",
        ),
        case.score(
            "gamma",
            sums,
            lambda s: s["hat2"] / s["inner"],
            unit="ratio of squared norms",
            direction="none",
            range=(-inf, inf),
            chance=1.0,
        ),
    )

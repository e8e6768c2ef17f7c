"""How far splicing the reconstruction moves the model's predictions."""

from math import inf

from .. import splices
from ..case import Case
from ..scores import Scores

SPLICES = True
IDENTITY = {"kl": 0.0}


def kl(case: Case) -> Scores:
    """KL(clean || spliced) of the next-token distribution, in nats, mean over predictions at spliced positions.

    Beside it the divergence under mean and zero ablation; the chance level of `kl` is mean ablation.
    """
    sums, left_out = splices.of(case)

    def nats(metric, arm, direction, chance=None):
        return case.score(
            metric,
            sums,
            lambda s: s[f"kl_{arm}"] / s["predictions"],
            unit="nats per prediction",
            direction=direction,
            range=(0.0, inf),
            chance=chance,
            counted="predictions",
            share_excluded=left_out,
        )

    total = sums.total()
    return Scores.of(
        nats("kl", "spliced", "lower", float(total["kl_mean"]) / float(total["predictions"])),
        nats("kl_mean", "mean", "none"),
        nats("kl_zero", "zero", "none"),
    )

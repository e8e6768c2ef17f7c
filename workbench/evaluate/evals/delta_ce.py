"""What splicing the reconstruction costs the model, in nats per token: the number to look at first."""

from math import inf

from .. import splices
from ..case import Case
from ..scores import Scores

SPLICES = True
IDENTITY = {"delta_ce": 0.0}


def delta_ce(case: Case) -> Scores:
    """Rise of the next-token cross-entropy when the site holds the reconstruction, in nats per prediction.

    Mean over predictions made at spliced positions (`splices.Spliced` says which). Beside it the clean cross-entropy
    and the rise under zero and mean ablation; the chance level of `delta_ce` is mean ablation.
    """
    sums, left_out = splices.of(case)
    total = sums.total()

    def nats(metric, statistic, direction, low, chance=None):
        return case.score(
            metric,
            sums,
            statistic,
            unit="nats per prediction",
            direction=direction,
            range=(low, inf),
            chance=chance,
            counted="predictions",
            share_excluded=left_out,
        )

    def rise(arm):
        return lambda s: (s[f"ce_{arm}"] - s["ce_clean"]) / s["predictions"]

    return Scores.of(
        nats("delta_ce", rise("spliced"), "lower", -inf, float(rise("mean")(total))),
        nats("clean_ce", lambda s: s["ce_clean"] / s["predictions"], "none", 0.0),
        nats("delta_ce_mean", rise("mean"), "none", -inf),
        nats("delta_ce_zero", rise("zero"), "none", -inf),
    )

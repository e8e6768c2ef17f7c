"""Which share of the loss that ablation costs the reconstruction saves."""

from math import inf

from .. import splices
from ..case import Case
from ..scores import Scores

SPLICES = True
IDENTITY = {"loss_recovered_zero": 1.0, "loss_recovered_mean": 1.0}
MEAN = {"loss_recovered_mean": 0.0}


def loss_recovered(case: Case) -> Scores:
    """Share of the loss gap, from an ablated site to the clean model, that splicing the reconstruction keeps.

    1 is lossless, 0 no better than the ablation (every kept position zero, or the mean of the store); can be negative.
    Zero ablation flatters at sites with large norms, where zeroing breaks the model: read `delta_ce` first.
    Raises ValueError if an ablated loss is not above the clean one.
    Source: Bricken et al. 2023, "Towards Monosemanticity"; ours averages over tokens, not texts.
    """
    sums, left_out = splices.of(case)
    total = sums.total()
    scores = []
    for arm in ("zero", "mean"):
        clean, ablated = float(total["ce_clean"]), float(total[f"ce_{arm}"])
        if not ablated > clean:
            n = float(total["predictions"])
            raise ValueError(
                f"{arm} ablation at {case.target} does not raise the loss ({ablated / n:.4f} <= {clean / n:.4f} nats): "
                "there is nothing to recover, use delta_ce, or more tokens"
            )
        scores.append(
            case.score(
                f"loss_recovered_{arm}",
                sums,
                lambda s, arm=arm: (s[f"ce_{arm}"] - s["ce_spliced"]) / (s[f"ce_{arm}"] - s["ce_clean"]),
                unit=f"share of the rise under {arm} ablation",
                direction="higher",
                range=(-inf, inf),
                chance=(ablated - float(total["ce_mean"])) / (ablated - clean),
                counted="predictions",
                share_excluded=left_out,
            )
        )
    return Scores.of(*scores)

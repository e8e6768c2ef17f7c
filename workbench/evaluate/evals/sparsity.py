"""How many latents are active per row at inference, beside the k of training."""

from math import inf

from ..case import Case
from ..scores import Scores

SCALE_INVARIANT = ("l0",)


def sparsity(case: Case, *, k: int | None = None) -> Scores:
    """Mean number of active latents per held-out row, and its ratio to the k of training where there is one.

    `k` is taken from the dictionary's recipe when not given (its argument `k`). A BatchTopK dictionary holds k on
    average over a training batch only, and its inference threshold may keep more or fewer.
    """
    sums, _ = case.scanned
    trained = _trained_k(case) if k is None else k
    scores = [
        case.score(
            "l0",
            sums,
            lambda s: s["active"] / s["rows"],
            unit="latents per row",
            direction="lower",
            range=(0.0, inf),
        )
    ]
    if trained:
        scores.append(
            case.score(
                "l0_over_k",
                sums,
                lambda s: s["active"] / s["rows"] / trained,
                unit=f"ratio to training k = {trained:g}",
                direction="none",
                range=(0.0, inf),
            )
        )
    return Scores.of(*scores)


def _trained_k(case: Case) -> int | float | None:
    call = getattr(case.codec, "call", None)  # codecs that are no recipe's have none
    return (call or {}).get("args", {}).get("k")

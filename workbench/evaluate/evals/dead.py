"""Which share of the latents never fires on the held-out rows."""

from ..case import Case, resampled
from ..scores import Score, Scores, Sums, jackknife

SCALE_INVARIANT = ("dead_share",)


def dead(case: Case) -> Scores:
    """Share of latents silent in all N held-out rows; N stands in the unit. More rows can only lower it.

    The interval is a delete-one jackknife over documents (in up to 64 groups): a bootstrap would leave out a third of
    the documents each time and count as dead what fires only there. It covers the share silent over N such rows, not
    over more.
    Source: the variance of a count of species seen, Heltshe & Forrester 1983.
    """
    _, fired = case.scanned
    rows = round(float(fired.rows.sum()))
    silent = (fired.counts.sum(0) == 0).double().mean()
    only_here = (fired.counts > 0) & ((fired.counts > 0).sum(0) == 1)  # dead, were this group left out
    reach = jackknife(only_here.double().mean(1))
    return Scores.of(
        Score(
            metric="dead_share",
            value=float(silent),
            low=float((silent - reach).clamp_min(0)),
            high=float((silent + reach).clamp_max(1)),
            unit=f"share of latents silent over {rows:,} rows",
            direction="lower",
            range=(0.0, 1.0),
            chance=None,
            n=case.codec.latents,
            counted="latents",
            share_excluded=float(case.rows.share_excluded),
            resampled=f"jackknife of {resampled(Sums({'rows': fired.rows}, fired.unit))}",
        )
    )

"""Specialised autoencoder's tilted loss (TERM): rows that fit badly weigh more (Muhamed et al. 2024, 2411.00743)."""

from math import log

from torch import Tensor

from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Dictionary, Pass, Progress, Recipe, Term

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.9  # of planted atoms, in the suite


def tilted_mse(tilt: float) -> Term:
    """(1 / tilt) log mean exp(tilt * error) over rows, errors in units of the batch's mean error, times that mean."""
    if tilt <= 0:
        raise ValueError(f"tilt must be above 0, got {tilt}: a tilt of 0 is the plain mean, topk_auxk")

    def loss(p: Pass, d: Dictionary, at: Progress) -> Tensor:
        errors = (p.y - p.y_hat).square().flatten(1).sum(-1)
        unit = errors.mean().detach().clamp_min(1e-12)
        return unit / tilt * ((tilt * errors / unit).logsumexp(0) - log(len(errors)))

    return Term(loss, losses.ENCODER | losses.DECODER)


def recipe(
    d: int, latents: int, *, k: int = 32, tilt: float = 0.5, aux: float = 1 / 32, aux_k: int | None = None
) -> Recipe:
    """The tilt goes from the mean error (0) to the worst row's (large); leave outlying rows out of the stream.

    TopK, so that the penalty is no part of the tilted error; the paper also chooses the rows.
    """
    dictionary = within(d, latents, sparsifiers.TopK(k, latents))
    terms = {"mse": tilted_mse(tilt), "auxk": losses.auxk(aux_k or d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

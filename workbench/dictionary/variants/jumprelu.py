"""JumpReLU autoencoder, thresholds learned by straight-through gradients (Rajamanoharan et al. 2024, 2407.14435)."""

from .. import hooks, losses, schedules, sparsifiers
from ..compose import within
from ..core import Dictionary, Pass, Progress, Recipe, Term

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "l0": 2.0}
RECOVERS = 0.8  # of planted atoms, in the suite


def l0_penalty(weight: losses.Schedule) -> Term:
    """The mean number of latents that are on, through the sparsifier's gate: trains the threshold alone."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> losses.Scalar:
        return d.sparsifier.gate(p.pre).sum(-1).mean()

    return Term(loss, frozenset({"sparsifier.threshold"}), frozenset({"pre"}), weight)


def recipe(
    d: int, latents: int, *, l0: float = 2.0, init: float = 1.0, width: float = 1.0, warmup: float = 0.2
) -> Recipe:
    """A latent that is on costs `l0` in units of a row's squared error, reached over the first `warmup` of the run.

    `init` and `width` of the kernel are in units of rows scaled to norm sqrt(d). Ours differs from the paper in
    learning the threshold itself instead of its logarithm, which saturates. To name an L0: `jumprelu_target_l0`.
    """
    dictionary = within(d, latents, sparsifiers.JumpReLU(latents, init=init, width=width))
    terms = {
        "mse": losses.mse(trains=losses.ENCODER | losses.DECODER | {"sparsifier"}),
        "l0": l0_penalty(schedules.ramp(l0, over=warmup)),
    }
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()))

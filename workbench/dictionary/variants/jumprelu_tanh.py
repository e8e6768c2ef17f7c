"""JumpReLU autoencoder with a tanh penalty that saturates (Conerly et al. 2025, Circuits January update)."""

from .. import hooks, losses, schedules, sparsifiers
from ..compose import within
from ..core import Dictionary, Pass, Progress, Recipe, Term

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "sparsity": 1.5}
RECOVERS = 0.85  # of planted atoms, in the suite

ALL = losses.ENCODER | {"sparsifier", "decoder.bias"}  # the bias because the encoder is centred by it


def tanh_penalty(steep: float, weight: losses.Schedule) -> Term:
    """Sum over latents of tanh(steep * value): about 1 for each that is clearly on."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> losses.Scalar:
        return (steep * p.code.to_dense()).tanh().sum(-1).mean()

    return Term(loss, ALL, weight=weight)


def pull_up(weight: float) -> Term:
    """How far dead latents' pre-activations are below their thresholds, summed."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> losses.Scalar:
        if p.pre_dead is None or p.dead is None:
            return p.y.new_zeros(())
        return (d.sparsifier.threshold[p.dead] - p.pre_dead).relu().sum(-1).mean()

    return Term(loss, ALL, frozenset({"pre_dead"}), weight)


def recipe(
    d: int,
    latents: int,
    *,
    sparsity: float = 1.5,
    steep: float = 4.0,
    dead: float = 3e-6,
    init: float = 1.0,
    width: float = 2.0,
) -> Recipe:
    """A latent that is on costs up to `sparsity`, reached at the end of the run, in units of a row's squared error.

    Values, `init` and `width` of the kernel are in units of rows scaled to norm sqrt(d). Ours keeps atoms at norm 1
    instead of weighing by their norm, learns the threshold itself instead of its logarithm, and centres.
    """
    dictionary = within(d, latents, sparsifiers.JumpReLU(latents, init=init, width=width))
    terms = {
        "mse": losses.mse(trains=losses.ENCODER | losses.DECODER | {"sparsifier"}),
        "tanh": tanh_penalty(steep, schedules.ramp(sparsity, over=1.0)),
        "dead": pull_up(dead),
    }
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()))

"""End-to-end autoencoder that also keeps later layers' rows as they were (Braun et al. 2024, arXiv:2405.12241)."""

from collections.abc import Sequence

from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Recipe

KIND = "finish"
SUITE = {"d": 16, "latents": 48, "k": 4, "later": ["2.resid"]}
RECOVERS = 0.8  # of planted atoms, in the suite


def recipe(
    d: int, latents: int, *, k: int = 32, later: Sequence[str], kl: float = 0.5, downstream: float = 2.5
) -> Recipe:
    """`kl` times the divergence of the output in nats, `downstream` times the mean error at the sites `later`.

    An error there is a share of the site's variance in the batch; the paper's is a mean square. TopK instead of ReLU
    and L1.
    """
    dictionary = within(d, latents, sparsifiers.TopK(k, latents))
    terms = {"kl": losses.output_kl(kl, read=later), "downstream": losses.downstream(later, downstream)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()))

"""End-to-end autoencoder: trained for the model's output, not for its rows (Braun et al. 2024, arXiv:2405.12241)."""

from .. import hooks, losses, sparsifiers
from ..compose import within
from ..core import Recipe

KIND = "finish"
SUITE = {"d": 16, "latents": 48, "k": 4}
RECOVERS = 0.45  # of planted atoms, in the suite: the output does not say all about a row


def recipe(d: int, latents: int, *, k: int = 32) -> Recipe:
    """The KL divergence in nats from the model's distribution to the one after the splice, at the batch's rows.

    TopK instead of the paper's ReLU and L1. No term looks at the rows, so dead latents are left alone.
    """
    dictionary = within(d, latents, sparsifiers.TopK(k, latents))
    return Recipe(dictionary, {"kl": losses.output_kl()}, (hooks.CenterBias(), hooks.Project()))

"""Top-AFA autoencoder: as many latents as make the code as long as the row, no k (Lee et al. 2025, 2503.24277)."""

from .. import decoders, encoders, hooks, losses, sparsifiers
from ..core import Dictionary, Pass, Progress, Recipe, Term

KIND = "rows"
SUITE = {"d": 16, "latents": 48, "most": 8}
RECOVERS = 0.85  # of planted atoms, in the suite; 0 of them without `most`, when about 46 latents stay on


def afa(weight: float) -> Term:
    """Squared difference between the norms of code and centred row: atoms that are on should be near orthogonal."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> losses.Scalar:
        norm = (p.x - d.decoder.bias).detach().norm(dim=-1)
        return (p.code.to_dense().square().sum(-1).clamp_min(1e-12).sqrt() - norm).square().mean()

    return Term(loss, losses.ENCODER | {"decoder.bias"}, weight=weight)


def recipe(d: int, latents: int, *, match: float = 0.1, aux: float = 1 / 32, most: int | None = None) -> Recipe:
    """Unit atoms near orthogonal make a code as long as its row: the row's norm says how many latents are on.

    `match` weighs the difference that is left; up to `most` latents (d) are looked at. Dead ones share d / 2 places in
    the auxiliary reconstruction. Rows keep their norms, in the paper's code each is brought to 1.
    """
    dictionary = Dictionary(
        encoders.WithNorm(d, latents), sparsifiers.TopAFA(most or d), decoders.Linear(latents, (d,))
    )
    dictionary.encoder.weight.data.copy_(dictionary.decoder.weight.data.T)
    terms = {"mse": losses.mse(), "afa": afa(match), "auxk": losses.auxk(d // 2, aux)}
    return Recipe(dictionary, terms, (hooks.CenterBias(), hooks.Project()), lr=2e-3)

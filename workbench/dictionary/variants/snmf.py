"""Semi-non-negative factors: signed sparse atoms, codes of 0 and more, by alternation (Shafran et al. 2025)."""

from collections.abc import Iterable
from functools import partial

import torch
from torch.nn.functional import normalize

from ...batch import Batch
from .. import decoders, encoders, sparsifiers
from ..core import Dictionary, Recipe, head

KIND = "rows"
SUITE = {"d": 16, "latents": 12, "keep": 1.0}


def recipe(d: int, latents: int, *, keep: float = 0.01, steps: int = 500, rows: int = 16_384) -> Recipe:
    """Ding et al. 2010's factors of up to `rows` rows; an atom keeps the `keep` share of its entries (2506.10920).

    A row's code is the non-negative least-squares one, so that new rows have one too; atoms are brought to norm 1.
    Made for activations inside an MLP, whose coordinates mean something; elsewhere `keep=1`.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be a share above 0, got {keep}")
    dictionary = Dictionary(encoders.NonNegative(), sparsifiers.Given(), decoders.Linear(latents, (d,)))
    return Recipe(dictionary, fit=partial(fit, entries=max(1, round(keep * d)), steps=steps, rows=rows))


@torch.no_grad()
def fit(dictionary: Dictionary, stream: Iterable[Batch], *, entries: int, steps: int, rows: int) -> None:
    """Alternates atoms by least squares, cut to their largest entries, and codes by their multiplicative rule.

    The cut breaks the descent, so the best atoms seen are kept.
    """
    x = head(stream, rows).double()
    atoms = dictionary.decoder.weight
    z = (x @ normalize(atoms, dim=-1).double().T).abs() + 1e-3  # (row, latent)
    best, ridge = float("inf"), 1e-6 * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    for _ in range(steps):
        f = torch.linalg.solve(z.T @ z + ridge, z.T @ x)  # (latent, d)
        f = f.scatter(1, (-f.abs()).topk(f.shape[1] - entries, dim=-1).indices, 0)
        size = z.norm(dim=0).clamp_min(1e-12)
        z, f = z / size, f * size[:, None]
        error = float((x - z @ f).square().sum())
        if error < best:
            best = error
            atoms.copy_(normalize(f, dim=-1))
        pull, push = x @ f.T, f @ f.T
        over = pull.relu() + z @ (-push).relu()
        z = z * (over / ((-pull).relu() + z @ push.relu() + 1e-12)).sqrt()

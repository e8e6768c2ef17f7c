"""Model diffing: one crosscoder over two models, and which of its latents belong to one of them alone.

both = Both(collect(base, texts, "8.resid"), collect(tuned, texts, "8.resid"), "8.resid")
crosscoder = train(recipe("crosscoder_batch_topk", d=base.d, latents=4608), both, site=None)
table(crosscoder, both.all())
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..batch import Batch
from ..code import Code
from ..dictionary import Dictionary
from .both import Both

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Both", "table"]


@torch.no_grad()
def table(dictionary: Dictionary, batches: Iterable[Batch], *, alone: float = 0.9, scaling: float = 0.5) -> "DataFrame":
    """For each latent of a crosscoder over two models: whose it is.

    `share` of the second model in the sum of the atom's two norms; `cosine` of its two halves; `density`. Latent
    scaling: how much of the latent's direction, at the rows where it fires, the other model has too, relative to its
    own model (1: as much, 0: none), in what the crosscoder reconstructs of that model (`nu_reconstruction`) and in what
    it misses without the latent (`nu_error`). `owner` is "first" or "second" where `share` is beyond `alone`, "shared"
    within 0.3..0.7, else "between"; `private` where besides both nu are below `scaling`: an L1 crosscoder calls latents
    private that the other model has under other latents, or unexplained. NaN for a latent that never fires.
    Source: Lindsey et al. 2024 (norms), Minder et al. 2025, arXiv:2504.02922 (nu); ours leaves biases out.
    """
    if dictionary.decoder.shape[:-1] != (2,):
        raise ValueError(f"a crosscoder of two models is wanted, this decoder writes {dictionary.decoder.shape}")
    import pandas as pd

    atoms = dictionary.atoms()
    norms, own = atoms.norm(dim=-1), atoms.norm(dim=-1).argmax(-1)
    each = torch.arange(len(atoms), device=atoms.device)
    direction = atoms[each, own]
    inner = torch.einsum("lmd,ld->lm", atoms, direction)
    squares, fired, rows = torch.zeros(len(atoms)).double(), torch.zeros(len(atoms)), 0
    sums = torch.zeros(2, len(atoms), 2).double()  # of f <d, target>: error, reconstruction
    for batch in batches:
        f = dictionary.encode(batch.x).to_dense()
        y_hat = dictionary.reconstruct(batch.x)
        left = f.square().sum(0)[:, None] * inner + _along(f, batch.x - y_hat, direction)
        rebuilt = _along(f, y_hat - dictionary.decode(Code.dense(torch.zeros_like(f[:1]))), direction)
        sums += torch.stack([left, rebuilt]).double()
        squares, fired, rows = squares + f.square().sum(0), fired + (f > 0).sum(0), rows + len(f)
    other = sums[:, each, 1 - own] / torch.where(squares > 0, sums[:, each, own], torch.nan)
    share, nu_error, nu_rebuilt = (norms[:, 1] / norms.sum(-1)), *other
    owner = ["first" if s < 1 - alone else "second" if s > alone else "shared" if 0.3 <= s <= 0.7 else "between"
             for s in share.tolist()]  # fmt: skip
    found = pd.DataFrame({"latent": each.tolist(), "share": share.tolist(), "owner": owner})
    found["cosine"] = cosine_similarity(atoms[:, 0], atoms[:, 1], dim=-1).tolist()
    found["density"] = (fired / rows).tolist()
    found["nu_error"], found["nu_reconstruction"] = nu_error.tolist(), nu_rebuilt.tolist()
    known = found["owner"].isin(["first", "second"])
    found["private"] = known & (found["nu_error"] < scaling) & (found["nu_reconstruction"] < scaling)
    return found


def _along(
    f: Float[Tensor, "row latent"], rows: Float[Tensor, "row 2 d"], direction: Float[Tensor, "latent d"]
) -> Float[Tensor, "latent 2"]:
    """Sum over rows of a latent's value times the part of each model's row along its direction."""
    return torch.stack([(f * (rows[:, m] @ direction.T)).sum(0) for m in (0, 1)], 1)

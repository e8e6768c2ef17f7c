"""The rows of the same tokens at several layers: what `layer_profile` wants."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from ...batch import Tokens
from ...site import Site
from ..evals.layer_profile import Layered
from ..examples import BATCH

if TYPE_CHECKING:
    from ...subject import Subject


def layers(
    subject: "Subject",
    tokens: Tokens,
    sites: Sequence[Site | str],
    *,
    texts: Int[Tensor, " text"] | None = None,
    most: int = 4096,
    seed: int = 0,
) -> Layered:
    """Rows at `sites`, in the order given, of up to `most` kept positions drawn from `tokens`.

    `texts` is the document of each token row, each its own when None (`evaluate.held_out(rows)` gives both).
    """
    chosen = [Site.of(site) for site in sites]
    keep = subject.exclusion.by_token(tokens, subject.special_ids)
    parts = []
    for start in range(0, len(tokens.ids), BATCH):
        rows = slice(start, start + BATCH)
        h = subject.read(tokens.rows(rows), chosen)
        kept = keep[rows].clone()
        for site in chosen:
            kept &= subject.exclusion.by_norm(site, h[site])
        parts.append((torch.stack([h[site][kept] for site in chosen], 1).cpu(), start + kept.nonzero()[:, 0].cpu()))
    x, text = (torch.cat(p) for p in zip(*parts, strict=True))
    used = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:most].sort().values
    document = text if texts is None else torch.as_tensor(texts)[text]
    excluded = 1 - len(x) / max(1, int(tokens.mask.sum()))
    return Layered(x[used], document[used], [str(site) for site in chosen], excluded)

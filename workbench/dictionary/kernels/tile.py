"""Encode and select without keeping rows x latents numbers: tiles of rows, each in cache while it is looked at."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...code import Code

TILE = 1 << 21  # pre-activations in a tile (8 MB): it stays in cache while the best are looked for
MOST = 1 << 25  # and at most, where so few rows would make the product slow
ROWS = 256  # rows below which the product is slow
SLACK = 1.25  # candidates for each place when a rough product ranks them


def tiles(rows: int, latents: int) -> Iterator[slice]:
    """Consecutive slices of rows whose pre-activations fit into cache."""
    step = min(max(ROWS, TILE // latents), max(64, MOST // latents))
    return (slice(i, min(i + step, rows)) for i in range(0, max(rows, 1), step))


@torch.no_grad()
def choose(
    encoder: Any,
    sparsifier: Any,
    decoder: Any,
    x: Float[Tensor, "row *inp"],
    latents: int,
    *,
    dead: Int[Tensor, " dead"] | None = None,
    rough: bool = False,
) -> tuple[Code, Float[Tensor, "row dead"] | None]:
    """The sparsifier's choice, its values the pre-activations, and the pre-activations of dead latents.

    `rough`: a bfloat16 product names SLACK times as many candidates; their float32 values decide among them. A latent
    that the rough product ranks below all candidates is missed.
    """
    product: Callable[..., Tensor] = encoder.rough(decoder) if rough else encoder
    at_dead: list[Tensor] = []

    def pre() -> Iterator[Tensor]:
        at_dead.clear()
        for part in tiles(len(x), latents):
            tile = product(x[part], decoder)
            if dead is not None:
                at_dead.append(tile.index_select(1, dead).to(x.dtype))
            yield tile

    if hasattr(sparsifier, "choose"):
        code = sparsifier.choose(pre, len(x), SLACK if rough else 1.0)
    elif getattr(sparsifier, "rowwise", False):
        code = Code.cat([sparsifier(tile) for tile in pre()])
    else:
        code = sparsifier(torch.cat(list(pre())))
    if rough:
        code = sparsifier.refine(code.like(encoder.values(x, decoder, code.support)))
    return code, torch.cat(at_dead) if dead is not None else None

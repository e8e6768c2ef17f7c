"""Sparse training steps: the one product of size rows x latents is made tile by tile and never kept.

A step of B rows, F latents, width d and k active costs 2 B F d FLOPs to encode and about 8 B k d for all the rest;
plain autograd pays 10-12 B F d. `WORKBENCH_KERNELS=dense` makes every step the plain one, the reference that each fast
path is held to; `sparse` forces the fast one; otherwise codes of up to one latent in eight are trained sparse.
"""

import os
from typing import Any

from .nested import check_widths, prefixes
from .pick import pick
from .select import top_batch, top_rows
from .tile import choose, tiles

CROWDED = 1 / 8  # share of latents on in a row above which gathering costs more than a product

__all__ = ["check_widths", "choose", "is_sparse", "pick", "prefixes", "tiles", "top_batch", "top_rows"]


def is_sparse(sparsifier: Any, latents: int) -> bool:
    """Whether a step with this sparsifier is made sparse. Raises ValueError for a wrong WORKBENCH_KERNELS."""
    path = os.environ.get("WORKBENCH_KERNELS", "")
    if path not in ("", "dense", "sparse"):
        raise ValueError(f"WORKBENCH_KERNELS must be dense or sparse, or not set, got {path!r}")
    if not sparsifier.selects or path == "dense":
        return False
    return path == "sparse" or getattr(sparsifier, "k", 0) <= CROWDED * latents

"""Attribution graph by a cross-layer transcoder: a latent reads one layer and writes to it and all later ones.

Ameisen et al. 2025, Circuit Tracing; Lindsey et al. 2025. An edge is the sum over all layers that the latent writes to.
"""

from collections.abc import Sequence
from typing import Any

from ...dictionary import Dictionary
from ...subject import Subject
from ..graph import Graph
from ..targets import LatentTarget, Target
from . import transcoder


def trace(
    subject: Subject,
    prompt: Any,
    dictionary: Dictionary,
    targets: Sequence[Target | LatentTarget] | None = None,
    *,
    budget: int | None = None,
    batch: int = transcoder.AT_ONCE,
    progress: bool = True,
) -> Graph:
    """The graph of one prompt; all else as in `transcoder.trace`.

    Raises ValueError for a dictionary whose rows are not (layer, d), or whose latents are no equal block a layer.
    """
    if len(dictionary.shape) != 2 or dictionary.decoder.shape != dictionary.shape:
        raise ValueError(
            f"a cross-layer transcoder reads and writes rows (layer, d), got {dictionary.shape} to "
            f"{tuple(dictionary.decoder.shape)}: transcoder.trace takes one dictionary a layer"
        )
    if dictionary.latents % dictionary.shape[0]:
        raise ValueError(f"{dictionary.latents} latents are no equal block for each of {dictionary.shape[0]} layers")
    return transcoder.trace(subject, prompt, dictionary, targets, budget=budget, batch=batch, progress=progress)

"""Hierarchical attribution: the graph of what matters to the targets, found by pruning during the backward pass.

Ge et al. 2024, arXiv:2405.13868. Ours replaces MLPs only (attention patterns are held whole), keeps a row for every
latent that it visits, and gathers what it does not follow in nodes `unexplored`, so that every row adds up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from ...dictionary import Dictionary
from ...subject import Subject
from ..graph import Graph
from ..targets import LatentTarget, Target
from .transcoder import AT_ONCE, Tracing


def trace(
    subject: Subject,
    prompt: Any,
    transcoders: Mapping[int, Dictionary] | Dictionary,
    targets: Sequence[Target | LatentTarget] | None = None,
    *,
    threshold: int | float,
    batch: int = AT_ONCE,
    progress: bool = True,
) -> Graph:
    """The graph of the latents whose attribution to some target, times its weight, is `threshold` or more in size.

    The attribution of a latent is what its writing adds to the target, in logits, directly and through kept latents of
    later layers, each of which passes on value / pre-activation of what it receives (its gate is held). It is settled
    layer by layer from the top: a latent below the threshold passes nothing on. Exact in the held model for what kept
    latents do while all others stay as they are; `faithful.predicted(graph)` gives it, signed, by target and node.
    With threshold 0 this is `transcoder.trace`. `targets` as there.
    Raises ValueError for more than one text and for a threshold below 0.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold is a size in logits, 0 or more, got {threshold}")
    run = Tracing(subject, prompt, transcoders, targets, batch=batch, progress=progress)
    first = run.first
    edges, kept = [run.rows(first)], []
    total = edges[0] * run.weights[first, None]  # (target, node), complete down to the layer at hand
    for layer in tqdm(reversed(run.layers), total=len(run.layers), desc="layers", disable=not progress):
        here = (run.active.layer == layer).nonzero()[:, 0]
        here = here[~torch.isin(here, first)]
        kept.append(here[total[:, here].abs().amax(0) >= threshold])
        edges.append(run.rows(kept[-1]))
        total = total + (total[:, kept[-1]] / run.values[kept[-1]]) @ edges[-1]
    order = torch.cat(kept).argsort()
    rows = torch.cat([edges[0], torch.cat(edges[1:])[order]])
    return run.merged(rows, torch.cat([first, torch.cat(kept)[order]]))

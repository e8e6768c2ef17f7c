"""Integrated gradients over dictionary latents: attribution patching by the mean gradient on the way to the patch.

Sundararajan et al. 2017, arXiv:1703.01365; over latents and errors: Marks et al. 2024, arXiv:2403.19647.
"""

from typing import TYPE_CHECKING, Any

import torch

from ...subject import Subject
from ...subject.generating import Edits
from .. import splices

if TYPE_CHECKING:
    import pandas as pd


def effects(
    subject: Subject,
    clean: Any,
    patch: Any | None,
    dictionaries: splices.Dictionaries,
    of: splices.Metric,
    *,
    steps: int = 10,
    batch: int = 10,
) -> "pd.DataFrame":
    """Mean gradient on the straight line from clean to patch, times patch - clean: the table of activation patching.

    Site by site: all nodes of one site move together, what follows is recomputed. A site's effects add up to
    of(site patched) - of(clean), closer with more `steps`. Gradients are taken at the middles (i + 1/2) / steps, where
    Marks et al. take i / steps: that sum never sees the patch end, and misses by order 1/steps, ours by its square.
    An effect is a share in the move of the whole site, near the mean of patching the node alone and restoring it alone
    (`activation_patching.effects` of swapped prompts, times -1). Nodes patched alone are ranked better by the gradient
    at the clean run, on our tiny subjects (tests/test_tracers_patching.py). `batch`: gradients at once.
    Raises ValueError as `splices.splice` does, and for steps below 1.
    """
    if steps < 1:
        raise ValueError(f"steps is the number of gradients on the line, 1 or more, got {steps}")
    tokens, sites = splices.splice(subject, clean, patch, dictionaries)
    shares, tables = (torch.arange(steps) + 0.5) / steps, []
    for nodes in sites:
        total = torch.zeros((), device=subject.device)
        for part in splices.spans(steps, batch):
            many = splices.copies(tokens, len(shares[part]))
            edits: Edits = {nodes.site: nodes.together(shares[part])}
            grads = subject.gradients(many, [nodes.site], lambda logits: splices.each(of, logits).sum(), edits)
            total = total + grads[nodes.site].sum(0)
        tables.append(nodes.table(nodes.along(total / steps)))
    return splices.joined(tables)

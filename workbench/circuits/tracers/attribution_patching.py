"""Attribution patching of dictionary latents: all nodes' effects to first order, by one forward and one backward pass.

Nanda 2023, Attribution Patching; over latents and errors: Marks et al. 2024, arXiv:2403.19647.
"""

from typing import TYPE_CHECKING, Any

from ...subject import Subject
from .. import splices

if TYPE_CHECKING:
    import pandas as pd


def effects(
    subject: Subject, clean: Any, patch: Any | None, dictionaries: splices.Dictionaries, of: splices.Metric
) -> "pd.DataFrame":
    """Gradient at the clean run, times patch - clean: the table of `activation_patching.effects`, estimated.

    A latent's gradient is the site's along its atom, an error's the site's itself; behind a site the gradient is the
    model's own, as codes and errors further on are recomputed together. Raises ValueError as `splices.splice` does.
    """
    tokens, sites = splices.splice(subject, clean, patch, dictionaries)
    grads = subject.gradients(tokens, [nodes.site for nodes in sites], lambda logits: splices.each(of, logits).sum())
    return splices.joined([nodes.table(nodes.along(grads[nodes.site][0])) for nodes in sites])

"""Activation patching of dictionary latents: the effect of every node, one run each. The oracle of the others.

Vig et al. 2020, Causal Mediation Analysis; over latents and errors: Marks et al. 2024, arXiv:2403.19647.
"""

from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from ...subject import Subject
from .. import splices

if TYPE_CHECKING:
    import pandas as pd


@torch.no_grad()
def effects(
    subject: Subject,
    clean: Any,
    patch: Any | None,
    dictionaries: splices.Dictionaries,
    of: splices.Metric,
    *,
    batch: int = 32,
    progress: bool = True,
) -> "pd.DataFrame":
    """of(logits with one node at its patch value) - of(logits), all that follows recomputed, codes and errors alike.

    Columns site, pos, latent (-1: the position's error), clean and patch value (norms for errors), effect in units of
    `of`, which takes the logits (1, pos, vocab) of one text. `patch` None: nodes are set to 0. One row for each latent
    that differs and each position's error. Swapped prompts give what restoring each node in the patched run does.
    `batch`: nodes at once, the clean run beside them.
    Raises ValueError as `splices.splice` does.
    """
    tokens, sites = splices.splice(subject, clean, patch, dictionaries)
    tables, bar = [], tqdm(total=sum(map(len, sites)), desc="nodes", disable=not progress)
    for nodes in sites:
        found = torch.zeros(len(nodes))
        for part in splices.spans(len(nodes), batch):
            which = torch.arange(len(nodes), device=nodes.pos.device)[part]
            many = splices.copies(tokens, len(which) + 1)
            values = splices.each(of, subject.run(many, {nodes.site: nodes.singly(which)}).logits)
            found[part] = (values[:-1] - values[-1]).cpu()  # the last text is clean: its rounding is the others'
            bar.update(len(which))
        tables.append(nodes.table(found))
    bar.close()
    return splices.joined(tables)

"""Labelled texts of a hub data set, where the network and the package `datasets` are there; nothing else needs them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ...site import Site
from ..examples import Examples

if TYPE_CHECKING:
    from ...subject import Subject


def labelled(
    subject: "Subject",
    site: Site | str,
    path: str,
    *,
    text: str = "text",
    label: str = "label",
    config: str | None = None,
    split: str = "train",
    classes: Sequence[str] | None = None,
    each: int = 1000,
    length: int = 128,
    seed: int = 0,
) -> Examples:
    """`each` texts of every class of a hub data set, mean-pooled by evals: what `sparse_probing` and `tpp` want.

        given={"labelled": hub.labelled(model, "8.resid", "fancyzhx/ag_news")}

    `text` and `label` name its columns, `classes` the labels to keep (all when None). The texts are marked as
    published, so scores on them are not called "not comparable". They are drawn here, not by the original split.
    Raises ImportError without `datasets`, ValueError for a column or a class that is not there.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(f"{path} is on the hub: pip install datasets, or use evaluate.tasks.texts offline") from None
    rows = datasets.load_dataset(path, config, split=split)
    if lack := {text, label} - set(rows.column_names):
        raise ValueError(f"{path} has no column {', '.join(sorted(lack))}: it has {', '.join(rows.column_names)}")
    said = [str(value) for value in rows[label]]
    names = sorted(set(said)) if classes is None else list(classes)
    if absent := [name for name in names if name not in set(said)]:
        raise ValueError(f"{path} has no class {', '.join(absent)} in {label}: it has {', '.join(sorted(set(said)))}")
    order = torch.randperm(len(said), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = [i for name in names for i in [j for j in order if said[j] == name][:each]]
    tokens = subject.tokenize([str(rows[i][text]) for i in chosen], length)
    labels = {label: torch.tensor([names.index(said[i]) for i in chosen])}
    return Examples.read(subject, tokens, site, labels, {label: names}, seed=seed, unit="text", published=True)

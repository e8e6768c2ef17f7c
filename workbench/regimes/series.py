"""A series over checkpoints: each dictionary begins where the one before it ended (SAE-Track, Xu et al. 2024)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tqdm import tqdm

from .. import lineage
from ..batch import Stream
from ..dictionary import Dictionary, Hook, Pass, Progress, Recipe, recipe, train
from ..site import Site
from .streams import First, place


class Later(Hook):
    """A hook that leaves the starting point alone: the weights were learned before."""

    def __init__(self, inner: Hook):
        self.inner = inner

    def before_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        self.inner.before_step(dictionary, seen, progress)

    def after_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None:
        self.inner.after_step(dictionary, seen, progress)


def continued(dictionary: Dictionary) -> Recipe:
    """The dictionary's own recipe, which begins at its weights: to train it on with other rows.

    It is not changed itself. Raises ValueError for one made without `recipe`, or by a `fit`, which begins anew.
    """
    if dictionary.call is None:
        raise ValueError("this dictionary does not know its recipe: make it with workbench.recipe(name, ...)")
    call = dictionary.call
    made = recipe(call["variant"], seed=call["seed"], **call["args"])
    if made.fit is not None:
        raise ValueError(f"{call['variant']} is fitted at once and cannot go on from weights: train it anew")
    made.dictionary.load_state_dict(dictionary.state_dict())
    made.dictionary.call = call | {"begun": lineage.tensors_hash(dictionary.state_dict())}  # another run than from call
    hooks = tuple(Later(hook) for hook in made.hooks)
    return Recipe(made.dictionary, made.losses, hooks, lr=made.lr, betas=made.betas, call=made.dictionary.call)


def series(
    first: Recipe,
    streams: Mapping[str, Stream],
    *,
    site: Site | str | None,
    share: float = 0.05,
    lr: float | None = None,
    lr_later: float | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    progress: bool = True,
) -> dict[str, Dictionary]:
    """One dictionary per checkpoint, in the order of `streams`: the first on its whole stream, later ones on a `share`.

    A latent keeps its number along the series, so that `drift` can follow it. Rows are scaled for each checkpoint by
    itself, and weights are carried over in scaled units: growing norms are not drift. `lr_later` is for all but the
    first (`lr` unless given). With a `folder`, one for each checkpoint, a series that was cut short goes on.
    Source: Xu et al. 2024, arXiv:2412.17626; theirs carries weights over unscaled and is a ReLU with ghost gradients.
    """
    if not streams or not 0 < share <= 1:
        raise ValueError(f"a series has one stream or more and a share within 0..1, got {len(streams)} and {share}")
    found: dict[str, Dictionary] = {}
    made = first
    for label, stream in tqdm(streams.items(), desc="series", unit="checkpoint", disable=not progress):
        begun = bool(found)
        found[label] = train(
            made,
            First(stream, max(1, round(share * len(stream)))) if begun else stream,
            site=site,
            lr=lr_later if begun and lr_later is not None else lr,
            seed=seed,
            folder=None if folder is None else Path(folder) / label,
            progress=progress,
            **place(stream),
        )
        if len(found) < len(streams):
            made = continued(found[label])
    return found


@torch.no_grad()
def drift(dictionaries: Sequence[Dictionary]) -> Float[Tensor, "step latent"]:
    """Cosine of each latent's atom with its own atom at the end of the series; the last row is 1."""
    last = dictionaries[-1].atoms().flatten(1)
    return torch.stack([cosine_similarity(one.atoms().flatten(1), last, dim=-1) for one in dictionaries])

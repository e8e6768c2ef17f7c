"""A subject that reads images or rows, seen through its inputs' numbers: so harvests and dictionaries work on it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .. import lineage
from ..batch import Exclusion, Tokens
from ..site import Site
from ..subject import Subject


class Indexed:
    """Input i is a text whose tokens all are i, one for each position of `site` (a ViT's patches, an MLP's one row).

    `collect(indexed, indexed.tokens, site)` harvests it; a row's token is its input's number. No position is left out:
    an image has no first token. Raises ValueError when there is no input.
    """

    special_ids: frozenset[int] = frozenset()
    exclusion = Exclusion(first=False, special=False)

    def __init__(self, subject: Subject, inputs: Float[Tensor, "text ..."], site: Site | str):
        if not len(inputs):
            raise ValueError("no input was given: give at least one image or row")
        self.subject, self.inputs, self.site = subject, inputs, Site.of(site)
        self.name, self.dtype = subject.name, subject.dtype
        positions = subject.read(inputs[:1], [self.site])[self.site].shape[1]
        ids = torch.arange(len(inputs))[:, None].expand(-1, positions).contiguous()
        self.tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))

    @property
    def fingerprint(self) -> str:
        """Of the model and of the inputs: numbers of other inputs mean other rows."""
        return lineage.fingerprint([self.subject.fingerprint, lineage.tensors_hash({"inputs": self.inputs})])

    def tokenize(self, text: object) -> Tokens:
        raise ValueError(f"{self.name} reads no text: harvest its `tokens`")

    def width(self, site: Site | str) -> int:
        return self.subject.width(site)

    def read(self, tokens: Tokens, sites: Sequence[Site | str]) -> dict[Site, Float[Tensor, "text pos d"]]:
        return self.subject.read(self.inputs[tokens.ids[:, 0]], sites)

"""Texts as unit vectors of a text encoder: what is near in meaning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from .. import lineage
from ..batch import Tokens
from ..site import Site

PART = 256  # texts in one file of vectors


@runtime_checkable
class Encodes(Protocol):
    """What embedding needs of a Subject."""

    layers: int

    @property
    def fingerprint(self) -> str: ...
    def width(self, site: Site | str) -> int: ...
    def tokenize(self, text: Any, length: int | None = None) -> Tokens: ...
    def read(self, tokens: Any, sites: Sequence[Site | str]) -> dict[Site, Tensor]: ...


@torch.no_grad()
def embed(
    encoder: Encodes,
    texts: Sequence[str],
    *,
    length: int = 256,
    batch: int = 32,
    folder: Path | str | None = None,
    progress: bool = True,
) -> Float[Tensor, "text d"]:
    """Unit vectors of texts: the mean of the last layer over real tokens, as all-MiniLM-L6-v2 was trained to be read.

    `encoder` is `Subject("minilm")` or another text encoder; texts are cut at `length` tokens. Texts of like length run
    together. With a `folder`, 256 texts at a time are kept there, and what is there is not embedded again.
    """
    site, parts = Site(encoder.layers - 1, "resid"), []
    for first in tqdm(range(0, len(texts), PART), desc="embed", unit="part", disable=not progress):
        some = list(texts[first : first + PART])
        key = lineage.fingerprint([encoder.fingerprint, length, some])
        path = None if folder is None else Path(folder) / f"{key}.safetensors"
        if path is not None and path.is_file():
            with safe_open(path, "pt") as file:
                parts.append(file.get_tensor("vectors"))
            continue
        order = sorted(range(len(some)), key=lambda i: len(some[i]))
        vectors = torch.empty(len(some), encoder.width(site))
        for begin in range(0, len(order), batch):
            which = order[begin : begin + batch]
            tokens = encoder.tokenize([some[i] for i in which], length)
            h, mask = encoder.read(tokens, [site])[site], tokens.mask[..., None]
            vectors[which] = normalize((h * mask).sum(1) / mask.sum(1), dim=-1).cpu()
        parts.append(vectors)
        if path is not None:
            lineage.write_tensors(path, {"vectors": vectors})
    return torch.cat(parts)

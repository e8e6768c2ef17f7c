"""Data for a specialised dictionary: the passages nearest in meaning to a few seed texts (Muhamed et al. 2024)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from .. import lineage
from ..batch import Tokens
from ..harvest import Corpus
from ..harvest.tokens import cuts
from ..site import Site

PART = 256  # passages in one file of embeddings


@runtime_checkable
class Encodes(Protocol):
    """What retrieval needs of a Subject."""

    layers: int

    @property
    def fingerprint(self) -> str: ...
    def width(self, site: Site | str) -> int: ...
    def tokenize(self, text: Any, length: int | None = None) -> Tokens: ...
    def read(self, tokens: Any, sites: Sequence[Site | str]) -> dict[Site, Tensor]: ...


class Selection(NamedTuple):
    """Passages by falling score (cosine with the nearest seed), and the document of each in what was searched."""

    texts: list[str]
    scores: Float[Tensor, " passage"]
    documents: Int[Tensor, " passage"]


def passages(texts: Sequence[str], characters: int = 500) -> tuple[list[str], Int[Tensor, " passage"]]:
    """Documents cut before white space into passages of at most so many characters, and the document of each."""
    found = [(text[a:b].strip(), i) for i, text in enumerate(texts) for a, b in cuts(text, characters)]
    return [text for text, _ in found], torch.tensor([i for _, i in found])


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


def retrieve(
    texts: Sequence[str] | Corpus,
    seeds: Sequence[str],
    count: int,
    *,
    encoder: Encodes,
    characters: int = 500,
    length: int = 256,
    folder: Path | str | None = None,
    progress: bool = True,
) -> Selection:
    """The `count` passages with the largest cosine to any of the seed texts: rows to fine-tune a general dictionary on.

        chosen = retrieve(corpus, seeds, 500, encoder=wb.Subject("minilm"))
        train(series.continued(general), Mixed(Live(subject, chosen.texts, site="8.resid")), site="8.resid")

    Seeds are passages of the sub-domain; do not take them from what the dictionary will be judged on.
    Source: Muhamed et al. 2024, arXiv:2411.00743; theirs retrieves with Contriever, by inner product.
    """
    pieces, documents = passages(texts.texts if isinstance(texts, Corpus) else texts, characters)
    if not seeds or not 1 <= count <= len(pieces):
        raise ValueError(f"give seed texts, and count 1 to {len(pieces)} passages, got {len(seeds)} seeds and {count}")
    options = {"length": length, "folder": folder, "progress": progress}
    score = (embed(encoder, pieces, **options) @ embed(encoder, seeds, **options).T).amax(-1)
    best = score.argsort(descending=True, stable=True)[:count]
    return Selection([pieces[i] for i in best.tolist()], score[best], documents[best])

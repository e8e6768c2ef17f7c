"""Data for a specialised dictionary: the passages nearest in meaning to a few seed texts (Muhamed et al. 2024)."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..harvest import Corpus
from ..harvest.tokens import cuts
from ..harvest.vectors import Encodes, embed


class Selection(NamedTuple):
    """Passages by falling score (cosine with the nearest seed), and the document of each in what was searched."""

    texts: list[str]
    scores: Float[Tensor, " passage"]
    documents: Int[Tensor, " passage"]


def passages(texts: Sequence[str], characters: int = 500) -> tuple[list[str], Int[Tensor, " passage"]]:
    """Documents cut before white space into passages of at most so many characters, and the document of each."""
    found = [(text[a:b].strip(), i) for i, text in enumerate(texts) for a, b in cuts(text, characters)]
    return [text for text, _ in found], torch.tensor([i for _, i in found])


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

"""Does a text encoder place the windows in which a latent fires nearer to its explanation than other windows?

Needs no judge. It hears what a window is about; a latent of syntax or of position it hears badly.
Source: delphi's embedding scorer (Paulo et al. 2024, arXiv 2410.13928). Ours splits documents into those that an
explanation may see and those that are scored, leaves out windows in which the latent fires anywhere from the negative
ones, and shows beside each score that of another latent's explanation on the same windows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from ...harvest.vectors import Encodes, embed
from ..index import WINDOW, Context, Index

LEAST = 5  # windows of each kind below which a latent is not scored
WORDS = 8  # tokens in an explanation by words
Z = 1.959964


class Windows(NamedTuple):
    """Windows of text, the token row of each, and the latents that fire anywhere inside."""

    texts: list[str]
    rows: list[int]
    fires: Bool[Tensor, "window latent"]


def embedding(
    index: Index,
    latents: Sequence[int] | None = None,
    explanations: Mapping[int, str] | None = None,
    *,
    encoder: Encodes,
    query: str = "words",
    negatives: int = 100,
    window: tuple[int, int] = WINDOW,
    seed: int = 0,
) -> pd.DataFrame:
    """Area under the ROC curve of a latent's windows against others, by cosine with its explanation; a line each.

    Columns: latent, query, auc (chance 0.5, higher is better), low, high (95 %, DeLong's variance), shuffled (the same
    windows, another latent's query), positives, negatives. `latents` are all that fired when None; one with fewer than
    five windows of either kind has NaN. Positives come from every tenth of its activations.
    `explanations` are scored as they are. Without them `query="words"` makes one of the tokens on which the latent is
    strongest, `query="examples"` takes the mean vector of its windows less that of others; both from half of the
    documents, while the scores are of the other half. Half of what explanations you bring may have seen is scored too:
    make them from other documents.
    Raises ValueError for a query it does not know, a latent without an explanation, or fewer than two latents.
    """
    if query not in ("words", "examples"):
        raise ValueError(f"query must be 'words' or 'examples', got {query!r}")
    if index.subject is None:
        raise ValueError("the index was opened without a subject, its windows have no text: give subject= to index()")
    chosen = np.flatnonzero(index.alive).tolist() if latents is None else [int(i) for i in latents]
    if len(set(chosen)) < 2:
        raise ValueError(f"the shuffled baseline wants two latents or more, got {chosen}")
    if explanations is not None and (lack := [i for i in chosen if i not in explanations]):
        raise ValueError(f"latent {lack[0]} has no explanation: explain it, or leave it out of latents")
    seen = _seen(index, seed)
    others = _others(index, negatives, window, seed)
    mine = {i: index.contexts(i, "quantile", window=window) for i in chosen}
    strong = {i: [c for c in index.contexts(i, "top", window=window) if seen[c.text]] for i in chosen}
    far = embed(encoder, others.texts, progress=False)
    decode = index.subject.tokenizer.decode
    near = {
        i: embed(encoder, [decode(list(c.ids)) for c in cs], progress=False) if cs else far[:0]
        for i, cs in mine.items()
    }
    learnt = torch.tensor([bool(seen[row]) for row in others.rows])
    queries: dict[int, Tensor] = {}
    for i in chosen:
        if explanations is None and query == "examples":
            known = torch.tensor([bool(seen[c.text]) for c in mine[i]], dtype=torch.bool)
            if bool(known.any()) and bool(learnt.any()):
                queries[i] = normalize(near[i][known].mean(0) - far[learnt].mean(0), dim=-1)
        elif explanations is not None or strong[i]:
            text = explanations[i] if explanations is not None else words(strong[i])
            queries[i] = embed(encoder, [text], progress=False)[0]
    turn = dict(zip(queries, [*list(queries)[1:], *list(queries)[:1]], strict=True))  # another latent's query
    lines = []
    for i in chosen:
        tested = torch.tensor([not seen[c.text] for c in mine[i]], dtype=torch.bool)
        good, bad = near[i][tested], far[~learnt & ~others.fires[:, i]]
        line = {"latent": i, "query": "given" if explanations is not None else query}
        counts = {"positives": len(good), "negatives": len(bad)}
        if i not in queries or len(queries) < 2 or min(counts.values()) < LEAST:
            lines.append(line | dict.fromkeys(("auc", "low", "high", "shuffled"), float("nan")) | counts)
            continue
        area, low, high = auc(good @ queries[i], bad @ queries[i])
        other = queries[turn[i]]
        lines.append(
            line | {"auc": area, "low": low, "high": high, "shuffled": auc(good @ other, bad @ other)[0]} | counts
        )
    return pd.DataFrame(lines)


def words(contexts: Sequence[Context], most: int = WORDS) -> str:
    """An explanation from a latent's strongest contexts: the tokens on which it fires, the commonest first."""
    counts = Counter(c.tokens[c.center].strip() for c in contexts)
    told = [word for word, _ in counts.most_common(most) if word]
    return ", ".join(told) or "punctuation and spaces"


def auc(good: Float[Tensor, " positive"], bad: Float[Tensor, " negative"]) -> tuple[float, float, float]:
    """Share of pairs in which the positive is above, ties half, and its 95 % interval.

    Source: DeLong, DeLong, Clarke-Pearson 1988. The interval is on the logit scale, so that it stays within 0 and 1.
    """
    above = (good[:, None] > bad).double() + 0.5 * (good[:, None] == bad).double()
    area = float(above.mean())
    spread = float(above.mean(1).var() / len(good) + above.mean(0).var() / len(bad)) ** 0.5
    n = len(good) * len(bad)
    inside = min(max(area, 0.5 / n), 1 - 0.5 / n)
    logit, half = np.log(inside / (1 - inside)), Z * max(spread, 0.5 / n) / (inside * (1 - inside))
    low, high = (float(1 / (1 + np.exp(-(logit + side * half)))) for side in (-1, 1))
    return area, min(low, area), max(high, area)


def _seen(index: Index, seed: int) -> Bool[np.ndarray, " text"]:
    """True for token rows of documents that explanations may be made of: half of the documents."""
    documents = np.asarray(index.store.texts)
    distinct, place = np.unique(documents, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(distinct)) % 2 == 0)[place]


def _others(index: Index, count: int, window: tuple[int, int], seed: int) -> Windows:
    """Windows around rows drawn from the store, twice `count`, since half are of documents that are not scored."""
    drawn = np.random.default_rng(seed + 1)
    picks = np.sort(drawn.choice(index.store.rows, min(2 * count, index.store.rows), replace=False))
    text, pos = index.store.where(torch.from_numpy(picks))
    ids, mask = index.store.tokens
    fires = torch.zeros(len(picks), index.latents, dtype=torch.bool)
    texts = []
    for i, (row, at) in enumerate(zip(text.tolist(), pos.tolist(), strict=True)):
        first, last = max(0, at + window[0]), min(ids.shape[1], at + window[1] + 1)
        inside: Int[Tensor, " token"] = ids[row, first:last][mask[row, first:last]]
        texts.append(index.subject.tokenizer.decode(inside.tolist()))
        begin, end = int(index._first[row]), int(index._first[row + 1])
        places = index.store.where(torch.arange(begin, end))[1]
        of_window = torch.arange(begin, end)[(places >= first) & (places < last)]
        fires[i, index.codes.rows(of_window).entries()[1].cpu()] = True
    return Windows(texts, text.tolist(), fires)

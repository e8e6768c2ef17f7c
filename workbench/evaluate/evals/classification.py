"""Can texts be classified by which latents fire in them: binarised counts against mean rows and a bag of words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...batch import Tokens
from ...code import Code
from .. import probes
from ..case import Case
from ..examples import OURS, TRAIN, Examples
from ..scores import Score, Scores

NEEDS = ("labelled_texts",)
SCALE_INVARIANT = ("counts_f1", "binary_f1", "pooled_f1", "dense_f1", "bag_f1")
BAG = (0.1, 1.0, 10.0, 100.0)  # scikit-learn's C for TF-IDF rows, which have norm 1 and are not standardised


@dataclass(frozen=True, eq=False)
class Texts:
    """Labelled texts: their rows, and the tokens that a bag of words counts.

    `transfer` are texts of another domain under the same classes: probes of the first are tried on all of them.
    Raises ValueError when the parts do not fit.
    """

    examples: Examples
    tokens: Tokens
    transfer: Optional["Texts"] = None

    def __post_init__(self) -> None:
        if len(self.tokens.ids) != self.examples.count:
            raise ValueError(
                f"texts need one row of tokens per example ({self.examples.count}), got {len(self.tokens.ids)}"
            )
        if empty := int((~self.tokens.mask.any(1)).sum()):
            raise ValueError(f"{empty} of {len(self.tokens.ids)} texts have no token: drop them")
        if not self.examples.labels:
            raise ValueError("texts to classify need a label: give labels and classes")
        if self.transfer is not None:
            here, there = ({n: list(c) for n, c in t.examples.classes.items()} for t in (self, self.transfer))
            if here != there:
                raise ValueError(f"texts to transfer to must have the classes {here}, got {there}")


def classification(case: Case, *, top: int | None = 5, strengths: tuple[float, ...] = probes.STRENGTHS) -> Scores:
    """Macro-F1 of logistic probes that read which latents fire in a text; texts of the test fold.

    `counts_f1`: in each row the `top` largest latents count 1 (all that are active when None), summed over the text.
    `binary_f1`: 1 where that sum is not 0. `pooled_f1`: mean codes as they are. Against them `dense_f1`, mean rows, and
    `bag_f1`, TF-IDF of the tokens that two or more training texts hold. One probe for each class, the largest logit
    decides; F1 is averaged over classes, then labels. With texts to transfer to, `transfer_*` are F1 of the same probes
    on all of those. Chance is that of guessing classes by their shares: one over their number.
    Source: Gallifant et al. 2025, arXiv 2502.11367 (MOSAIC); there penalties are chosen by cross-validation.
    `evaluate.tasks.texts` makes the data. Raises ValueError for a fold that lacks a class.
    """
    if top is not None and top < 1:
        raise ValueError(f"top must be 1 or more latents of each row, or None for all, got {top}")
    texts = case.need("labelled_texts", Texts)
    parts = [texts] if texts.transfer is None else [texts, texts.transfer]
    fold, labels = texts.examples.fold, texts.examples.labels
    sizes = [len(texts.examples.classes[name]) for name in labels]
    counts = [_counts(case.of(t.examples), t.examples, top) for t in parts]
    features: dict[str, tuple[list[Tensor], bool]] = {
        "counts": (counts, True),
        "binary": ([(c > 0).float() for c in counts], True),
        "pooled": ([case.pooled(t.examples) for t in parts], True),
        "dense": ([t.examples.pooled(t.examples.x.flatten(1).float()) for t in parts], True),
        "bag": (_tfidf([t.tokens for t in parts], fold == TRAIN), False),
    }

    def score(metric: str, examples: Examples, said: list[Tensor], which: Tensor | None) -> Score:
        """`said` and truth as one-hot classes, labels side by side."""
        hot = [torch.nn.functional.one_hot(s, n) for s, n in zip(said, sizes, strict=True)]
        true = [torch.nn.functional.one_hot(examples.labels[name], n) for name, n in zip(labels, sizes, strict=True)]
        a, b = torch.cat(hot, 1), torch.cat(true, 1)
        own = metric in ("counts_f1", "binary_f1", "pooled_f1")
        return case.score(
            metric,
            examples.sums({"both": a * b, "either": a + b}, which),
            lambda s: _macro(s, sizes),
            unit="macro-F1" if len(sizes) == 1 else f"macro-F1, mean of {len(sizes)} labels",
            direction="higher" if own else "none",
            range=(0.0, 1.0),
            chance=sum(1 / n for n in sizes) / len(sizes),
            counted="examples",
            share_excluded=examples.share_excluded,
            note="" if examples.published else OURS,
        )

    scores, moved = [], []
    for name, (x, standard) in features.items():
        said: list[list[Tensor]] = [[] for _ in parts]
        for label, size in zip(labels, sizes, strict=True):
            wanted = range(size) if size > 2 else [1]
            ys = torch.stack([labels[label] == i for i in wanted])
            for i, y in zip(wanted, ys, strict=True):
                probes.check(y, fold, f"{label}: {texts.examples.classes[label][i]}")
            found = probes.several(x[0], ys, fold, strengths=strengths if standard else BAG, standard=standard)
            for of, h in zip(said, x, strict=True):
                logits = torch.stack([probe(h) for probe in found])
                of.append(logits.argmax(0) if size > 2 else (logits[0] > 0).long())
        scores.append(score(f"{name}_f1", texts.examples, said[0], None))
        if len(parts) > 1:
            whole = torch.ones(parts[1].examples.count, dtype=torch.bool)
            moved.append(score(f"transfer_{name}_f1", parts[1].examples, said[1], whole))
    return Scores.of(*scores, *moved)


def _macro(s: Mapping[str, Tensor], sizes: list[int]) -> Float[Tensor, " replicate"]:
    """F1 averaged over the classes that were said or there, then over labels."""
    each = (2 * s["both"] / s["either"]).split(sizes, -1)
    return torch.stack([f1.nanmean(-1) for f1 in each]).mean(0)


def tops(code: Code, top: int | None) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """(row, latent) of the `top` active latents of each row that are largest by magnitude; all when None."""
    if top is None or code.offsets is not None:
        row, latent, value = code.entries()
        if top is None:
            return row, latent
        order = value.abs().argsort(descending=True, stable=True)
        order = order[row[order].argsort(stable=True)]
        row, latent = row[order], latent[order]
        ends = torch.bincount(row, minlength=len(code)).cumsum(0)
        rank = torch.arange(len(row), device=row.device) - torch.where(row > 0, ends[row - 1], 0)
        return row[rank < top], latent[rank < top]
    found = code.values.abs().topk(min(top, code.values.shape[1]), dim=-1)
    row, slot = (found.values > 0).nonzero(as_tuple=True)
    at = found.indices[row, slot]
    return row, at if code.indices is None else code.indices[row, at]


def _counts(code: Code, examples: Examples, top: int | None) -> Float[Tensor, "example latent"]:
    row, latent = tops(code, top)
    flat = examples.example[row.cpu()] * code.latents + latent.cpu()
    return torch.bincount(flat, minlength=examples.count * code.latents).view(examples.count, -1).float()


def _tfidf(parts: list[Tokens], train: Bool[Tensor, " text"]) -> list[Float[Tensor, "text token"]]:
    """Counts of tokens times ln((1 + texts) / (1 + texts with the token)) + 1, rows of norm 1; learned on `train`."""
    most = max(int(t.ids.max()) for t in parts) + 1
    sparse = []
    for tokens in parts:
        text, _ = tokens.mask.nonzero(as_tuple=True)
        pair, count = (text * most + tokens.ids[tokens.mask]).unique(return_counts=True)
        sparse.append((pair // most, pair % most, count.float()))
    text, token, _ = sparse[0]
    held = torch.bincount(token[train[text]], minlength=most)
    known = held >= 2
    place = known.cumsum(0) - 1
    weight = ((1 + train.sum()) / (1 + held)).log() + 1
    found = []
    for tokens, (text, token, count) in zip(parts, sparse, strict=True):
        keep = known[token]
        x = torch.zeros(len(tokens.ids), int(known.sum()))
        x[text[keep], place[token[keep]]] = count[keep] * weight[token[keep]]
        found.append(torch.nn.functional.normalize(x, dim=-1))
    return found

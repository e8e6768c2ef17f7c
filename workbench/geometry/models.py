"""How far two models hold the same features: latents paired by what they do, their atoms compared beside chance."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..code import Code
from ..harvest.codes import Codes
from .similarity import FEWEST, Score, cka, multiples, rsa, svcca

ABOVE = 0.1  # correlation from which a pair counts
BLOCK = 1 << 24  # products held at once as float64: 128 MiB
ROWS = 16_384  # rows read at once
SAMPLE = 2_000  # pairs that RSA takes of more
MEASURES: dict[str, Callable[..., Score]] = {"svcca": svcca, "rsa": rsa, "cka": cka}
RowPairs = tuple[Int[Tensor, " row"], Int[Tensor, " again"]]
Words = Sequence[Sequence[str]]  # of each latent, as `top_words` gives them


class Pairs(NamedTuple):
    """Latents of A and B that go together, best first; `live_a` and `live_b` are those that vary over the rows."""

    left: Int[Tensor, " pair"]
    right: Int[Tensor, " pair"]
    correlations: Float[Tensor, " pair"]
    live_a: Int[Tensor, " m"]
    live_b: Int[Tensor, " n"]
    rows: int

    def only(self, keep: Sequence[bool] | Tensor) -> "Pairs":
        """The pairs that are kept; what is live stays."""
        which = torch.as_tensor(keep, dtype=torch.bool)
        return self._replace(left=self.left[which], right=self.right[which], correlations=self.correlations[which])


@dataclass(frozen=True, eq=False)
class Universality:
    """Scores by group of pairs and measure."""

    scores: Mapping[tuple[str, str], Score]
    groups: Mapping[str, Pairs]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line for each group and measure: pairs, value, means of both nulls, z and p by the shuffled pairing."""
        return pd.DataFrame(
            [
                {
                    "group": group,
                    "measure": measure,
                    "pairs": len(self.groups[group].left),
                    "distinct_a": len(self.groups[group].left.unique()),
                    "value": score.value,
                    "null": float(score.null.mean()) if len(score.null) else np.nan,
                    "null_sd": float(score.null.std()) if len(score.null) > 1 else np.nan,
                    "random": np.nan if score.random is None else float(score.random.mean()),
                    "z": score.z,
                    "p": score.p,
                    "note": score.note,
                }
                for (group, measure), score in self.scores.items()
            ]
        )

    @property
    def caption(self) -> str:
        """The first group's scores beside their nulls."""
        group, pairs = next(iter(self.groups.items()))
        first = [score for (name, _), score in self.scores.items() if name == group]
        said = ", ".join(
            f"{s.measure} {s.value:.2f} (shuffled {float(s.null.mean()):.2f}, p {s.p:.2g})" if len(s.null) else s.note
            for s in first
        )
        return (
            f"{group}: {len(pairs.left):,} latents of B with {len(pairs.left.unique()):,} of A, paired by correlation "
            f"over {pairs.rows:,} rows. {said}. Nulls of {max(len(s.null) for s in first):,} draws."
        )

    def figure(self, *, title: str = "Are the atoms of two models alike?") -> Any:
        """Plotly small multiples, a row for each group and a column for each measure, both nulls drawn in."""
        measures = list(dict.fromkeys(measure for _, measure in self.scores))
        cells = [[self.scores[group, measure] for measure in measures] for group in self.groups]
        names = [f"{group}, {len(pairs.left):,} pairs" for group, pairs in self.groups.items()]
        return multiples(cells, names, title, self.caption)


def correlate(
    a: Code | Codes,
    b: Code | Codes,
    *,
    rows: RowPairs | None = None,
    above: float = ABOVE,
) -> Pairs:
    """For each latent of B the latent of A with the highest Pearson correlation over the same rows, if above `above`.

    Several latents of B may share one of A: `one_to_one` keeps the best. `rows` are (rows of A, rows of B) that belong
    together (`Aligned.rows`); rows of B in random order give what chance correlates. Row n of A is row n of B without.
    Codes are read in blocks of 16,384 rows, once for each 2^24 products; sums in float64. Latents that never vary take
    no part.
    Raises ValueError when the rows do not pair, fewer than two are given, or a value is not finite.
    Source: Lan et al. 2024, arXiv 2410.06981.
    """
    at_a, at_b = _paired_rows(a, b, rows)
    n, read_a, read_b = len(at_a), _reader(a), _reader(b)
    (mean_a, sd_a), (mean_b, sd_b) = _moments(read_a, at_a, a.latents), _moments(read_b, at_b, b.latents)
    best, partner = np.full(b.latents, -np.inf), np.zeros(b.latents, np.int64)
    step = max(BLOCK // b.latents, 1)
    for begin in range(0, a.latents, step):
        some = slice(begin, min(begin + step, a.latents))
        products = np.zeros((some.stop - begin, b.latents))
        for i, j in zip(at_a.split(ROWS), at_b.split(ROWS), strict=True):
            products += (read_a(i)[:, some].T @ read_b(j)).toarray()
        products /= n
        products -= mean_a[some, None] * mean_b
        with np.errstate(divide="ignore", invalid="ignore"):
            products /= sd_a[some, None] * sd_b
        np.nan_to_num(products, copy=False, nan=-np.inf, posinf=-np.inf, neginf=-np.inf)  # latents that never vary
        top = products.argmax(0)
        value = products[top, np.arange(b.latents)]
        better = value > best
        best[better], partner[better] = value[better], begin + top[better]
    right = np.flatnonzero(best > above)
    right = right[np.argsort(-best[right], kind="stable")]
    left, correlations = torch.from_numpy(partner[right]), torch.from_numpy(best[right].clip(-1, 1))
    live_a, live_b = (torch.from_numpy(np.flatnonzero(sd > 0)) for sd in (sd_a, sd_b))
    return Pairs(left, torch.from_numpy(right), correlations, live_a, live_b, n)


def one_to_one(pairs: Pairs) -> Pairs:
    """Of the latents of B that share a latent of A only the one with the highest correlation."""
    order = pairs.correlations.argsort(descending=True, stable=True)
    _, first = np.unique(pairs.left[order].numpy(), return_index=True)
    keep = torch.zeros(len(pairs.left), dtype=torch.bool)
    keep[order[torch.from_numpy(first)]] = True
    return pairs.only(keep)


def top_words(
    codes: Code | Codes, words: Sequence[str], *, rows: Int[Tensor, " row"] | None = None, k: int = 5
) -> list[list[str]]:
    """What each latent fires on most: the words at its k largest values, largest first, each once, no space around.

    `words` has one entry for each row, or for each of `rows`; [] for a latent that is never on.
    """
    at = torch.arange(len(codes)) if rows is None else rows
    if len(words) != len(at):
        raise ValueError(f"one word for each of the {len(at)} rows is wanted, got {len(words)}")
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    read, begin = _reader(codes), 0
    kept = (np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))  # latent, value, row
    for part in at.split(ROWS):
        block = read(part).tocoo()
        new = (block.col.astype(np.int64), block.data, begin + block.row.astype(np.int64))
        latent, value, row = (np.concatenate(both) for both in zip(kept, new, strict=True))
        order = np.lexsort((row, -value, latent))
        latent = latent[order]
        rank = np.arange(len(latent)) - np.searchsorted(latent, latent)
        order = order[rank < k]
        kept = (latent[rank < k], value[order], row[order])
        begin += len(part)
    found: list[list[str]] = [[] for _ in range(codes.latents)]
    for latent, row in zip(kept[0].tolist(), kept[2].tolist(), strict=True):
        if (word := words[row].strip()) not in found[latent]:
            found[latent].append(word)
    return found


def by_words(pairs: Pairs, words_a: Words, words_b: Words, *, special: Collection[str] = ()) -> Pairs:
    """The pairs whose top words say the same: both sets meet, and none is in `special` or without letter and digit.

    Such words (punctuation, newlines, emoji) are read alike by every model and would carry the score. Source: Lan et
    al. 2024, whose list of signs is fixed; ours goes by the characters.
    """
    barred = {word.strip() for word in special}

    def says(words: Sequence[str]) -> bool:
        return all(word.strip() not in barred and any(c.isalnum() for c in word) for word in words)

    both = _said(pairs, words_a, words_b)
    return pairs.only([says(x) and says(y) and not set(x).isdisjoint(y) for x, y in both])


def about(pairs: Pairs, words_a: Words, words_b: Words, keywords: Collection[str]) -> Pairs:
    """The pairs of a subspace of meaning: the first word of both latents is among the keywords, in any case."""
    wanted = {word.strip().casefold() for word in keywords}
    if not wanted:
        raise ValueError("about wants one or more keywords, got none")

    def first(words: Sequence[str]) -> bool:
        return bool(words) and words[0].strip().casefold() in wanted

    return pairs.only([first(x) and first(y) for x, y in _said(pairs, words_a, words_b)])


def universality(
    a: Float[Tensor, "m d"],
    b: Float[Tensor, "n other"],
    groups: Mapping[str, Pairs],
    *,
    measures: Sequence[str] = ("svcca", "rsa", "cka"),
    draws: int = 100,
    seed: int = 0,
) -> Universality:
    """Do latents that fire together have atoms that lie alike? Similarity of paired atoms, by group of pairs.

    `a` and `b` are the atoms of both dictionaries. Two nulls for each score: the pairing shuffled; and random live
    latents of A and of B in the place of the paired ones, as many times each. RSA takes 2,000 pairs of more, drawn by
    the seed. A group of fewer than ten pairs has no value, and its note says so.
    Pair by activations and compare geometry, as here; pairing by geometry would find what it put in.
    Source: Lan et al. 2024, arXiv 2410.06981; its second null is drawn here with the same repeats.
    """
    if unknown := [m for m in measures if m not in MEASURES] or not measures:
        raise ValueError(f"measures are {', '.join(MEASURES)}, got {unknown if measures else 'none'}")
    if not groups:
        raise ValueError("no group of pairs was given: e.g. {'all': pairs}")
    scores = {}
    for group, pairs in groups.items():
        for atoms, latents, live in ((a, pairs.left, pairs.live_a), (b, pairs.right, pairs.live_b)):
            if not bool(torch.isin(latents, live).all()) or int(live.max() if len(live) else 0) >= len(atoms):
                raise ValueError(
                    f"the pairs of {group!r} are not of these {len(a)} and {len(b)} atoms: give the dictionaries whose "
                    "codes were correlated"
                )
        for name in measures:
            scores[group, name] = _compared(a, b, pairs, name, draws, seed)
    return Universality(scores, dict(groups))


def _said(pairs: Pairs, a: Words, b: Words) -> list[tuple[Sequence[str], Sequence[str]]]:
    """The words of both latents of each pair."""
    if len(pairs.left) and (int(pairs.left.max()) >= len(a) or int(pairs.right.max()) >= len(b)):
        raise ValueError(f"words are wanted for every latent of both dictionaries, got {len(a)} and {len(b)}")
    return [(a[int(i)], b[int(j)]) for i, j in zip(pairs.left, pairs.right, strict=True)]


def _compared(a: Tensor, b: Tensor, pairs: Pairs, name: str, draws: int, seed: int) -> Score:
    rng, measure = np.random.default_rng(seed), MEASURES[name]
    n, note = len(pairs.left), ""
    if n < FEWEST:
        empty = torch.zeros(0, dtype=torch.float64)
        return Score(name.upper(), np.nan, empty, f"{n} pairs, fewer than {FEWEST}: not measured", empty)
    if name == "rsa" and n > SAMPLE:
        pairs = pairs.only(np.isin(np.arange(n), rng.choice(n, SAMPLE, replace=False)).tolist())
        note = f"{SAMPLE:,} of {n:,} pairs"
    score = measure(a[pairs.left], b[pairs.right], draws=draws, seed=seed)
    random = []
    for _ in range(draws):
        left, right = _others(rng, pairs.left, pairs.live_a), _others(rng, pairs.right, pairs.live_b)
        random.append(measure(a[left], b[right], draws=0).value)
    note = "; ".join(part for part in (score.note, note) if part)
    return Score(score.measure, score.value, score.null, note, torch.tensor(random, dtype=torch.float64))


def _others(rng: np.random.Generator, latents: Tensor, live: Tensor) -> Tensor:
    """Random live latents in the place of these, each repeated as often as the one it stands for."""
    distinct, at = latents.unique(return_inverse=True)
    return live[torch.from_numpy(rng.permutation(len(live))[: len(distinct)])][at]


def _paired_rows(a: Code | Codes, b: Code | Codes, rows: RowPairs | None) -> RowPairs:
    if rows is None:
        if len(a) != len(b):
            raise ValueError(f"codes of the same rows are wanted, got {len(a)} and {len(b)}: give rows=(of a, of b)")
        rows = torch.arange(len(a)), torch.arange(len(b))
    if len(rows[0]) != len(rows[1]) or len(rows[0]) < 2:
        raise ValueError(
            f"two or more rows of a, each with its row of b, are wanted: {len(rows[0])} and {len(rows[1])}"
        )
    return rows


def _reader(codes: Code | Codes) -> Callable[[Tensor], Any]:
    """Any rows of codes as a sparse matrix in float64."""
    from scipy.sparse import csr_matrix

    def sparse(code: Code) -> Any:
        code = code.to_csr()
        assert code.indices is not None and code.offsets is not None
        values, indices, offsets = (t.detach().cpu() for t in (code.values, code.indices, code.offsets))
        if not bool(values.isfinite().all()):
            raise ValueError(f"{int((~values.isfinite()).sum())} values of a code are not finite: check the dictionary")
        return csr_matrix((values.double().numpy(), indices.numpy(), offsets.numpy()), shape=(len(code), code.latents))

    if isinstance(codes, Codes):
        return lambda rows: sparse(codes.rows(rows))
    whole = sparse(codes)
    return lambda rows: whole[rows.numpy()]


def _moments(read: Callable[[Tensor], Any], rows: Tensor, latents: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each latent, 0 where it never varies."""
    total, squares = np.zeros(latents), np.zeros(latents)
    for part in rows.split(ROWS):
        block = read(part)
        total += np.asarray(block.sum(0))[0]
        squares += np.asarray(block.multiply(block).sum(0))[0]
    mean, square = total / len(rows), squares / len(rows)
    variance = square - mean**2
    return mean, np.sqrt(np.where(variance > 1e-12 * square, variance, 0))

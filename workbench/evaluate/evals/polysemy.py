"""Does the strongest latent at a word tell its senses apart."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...code import Code
from ..case import Case
from ..examples import OURS
from ..scores import Direction, Score, Scores, Sums

NEEDS = ("pairs",)
IDENTITY = {"f1": 0.0}
MEAN = {"f1": 0.0, "specificity": 1.0, "silent": 1.0}
SCALE_INVARIANT = ("f1", "accuracy", "recall", "specificity", "f1_rows", "f1_rows_scaled")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows at one word in two contexts each; `different` where its sense is not the same. `group`: the word's number.

    Made by `tasks.senses.senses(subject, site)`. Raises ValueError when the parts do not fit or all are of one kind.
    """

    first: Float[Tensor, "pair *inp"]
    second: Float[Tensor, "pair *inp"]
    different: Bool[Tensor, " pair"]
    group: Int[Tensor, " pair"]
    share_excluded: float = 0.0
    unit: str = "word"
    published: bool = False

    def __post_init__(self) -> None:
        n = len(self.different)
        if self.first.shape != self.second.shape or not len(self.first) == len(self.group) == n:
            raise ValueError(
                f"pairs need two rows of one shape, a kind and a group each, got {tuple(self.first.shape)}, "
                f"{tuple(self.second.shape)}, {n} kinds and {len(self.group)} groups"
            )
        if self.different.dtype != torch.bool or not 0 < int(self.different.sum()) < n:
            raise ValueError("pairs must be of both kinds, same sense (False) and different (True), as bool")
        if not bool(self.first.isfinite().all() & self.second.isfinite().all()):
            raise ValueError("pairs hold NaN or infinity: look at the rows that were read")


def polysemy(case: Case, *, dense: float = 0.1) -> Scores:
    """Two contexts close with the same word: says the strongest latent there whether the word means the same in both?

    A pair is called different where the strongest latents differ (largest activation times atom norm; two rows without
    any latent are called the same). Positive is "different": `f1` is the headline, `recall` the share of different
    pairs so called, `specificity` that of same pairs. Latents on in more than `dense` of the held-out rows are left
    out: one that is always on says nothing of a sense. `f1_rows` calls by the largest coordinate of the row itself,
    `f1_rows_scaled` after each coordinate was standardised over all pairs. Chance is to call every pair different, the
    best that can be said without looking; a dictionary without active latents calls none so, and has F1 0. `silent`:
    share of pairs with a row where no latent is left. Data: `tasks.senses.senses`, which have two pairs a word.
    Source: Minegishi et al. 2025, arXiv 2501.06254 (theirs: WiC pairs, GPT-2 small).
    """
    pairs = case.need("pairs", Pairs)
    if not 0 < dense <= 1:
        raise ValueError(f"dense must be a share of rows above 0, up to 1, got {dense}")
    _, fired = case.scanned
    quiet = fired.counts.sum(0) / fired.rows.sum() <= dense
    strongest = [_strongest(case, case.encoded(x), quiet) for x in (pairs.first, pairs.second)]
    rows = torch.stack([pairs.first, pairs.second]).flatten(2)
    flat = rows.flatten(0, 1)
    scaled = (rows - flat.mean(0)) / flat.std(0).clamp_min(1e-12)
    said = {"": strongest[0] != strongest[1]}
    said |= {f"_{name}": h[0].argmax(-1) != h[1].argmax(-1) for name, h in (("rows", rows), ("scaled", scaled))}
    sums = _counted(pairs, said, (strongest[0] < 0) | (strongest[1] < 0))
    share = float(pairs.different.double().mean())
    note = "" if pairs.published else OURS

    def score(metric: str, statistic, unit: str, direction: Direction = "higher", chance: float | None = None) -> Score:
        return case.score(
            metric, sums, statistic, unit=unit, direction=direction, range=(0.0, 1.0), chance=chance, counted="pairs",
            share_excluded=pairs.share_excluded, note=note,
        )  # fmt: skip

    always = 2 * share / (1 + share)
    return Scores.of(
        score("f1", lambda s: _f1(s, ""), "F1 of 'different sense'", chance=always),
        score("accuracy", lambda s: (s["hit"] + s["pass"]) / s["pairs"], "share of pairs", chance=share),
        score("recall", lambda s: s["hit"] / s["positive"].clamp_min(1), "share of different pairs", chance=1.0),
        score(
            "specificity",
            lambda s: s["pass"] / (s["pairs"] - s["positive"]).clamp_min(1),
            "share of same pairs",
            chance=0.0,
        ),
        score("f1_rows", lambda s: _f1(s, "_rows"), "F1, largest coordinate of the row", "none", always),
        score("f1_rows_scaled", lambda s: _f1(s, "_scaled"), "F1, largest standardised coordinate", "none", always),
        score("silent", lambda s: s["silent"] / s["pairs"], "share of pairs", "none", 1.0),
    )


def _strongest(case: Case, code: Code, kept: Bool[Tensor, " latent"]) -> Int[Tensor, " row"]:
    """The kept latent that adds the longest vector to each row, -1 where none is on."""
    row, latent, value = (t.detach().cpu() for t in code.entries())
    size = value.abs() * case.codec.atoms().detach().cpu().flatten(1).norm(dim=1)[latent]
    size = torch.where(kept[latent], size, 0)
    best = torch.zeros(len(code)).scatter_reduce_(0, row, size.float(), "amax")
    won = (size > 0) & (size.float() == best[row])
    found = torch.full((len(code),), code.latents)
    found.scatter_reduce_(0, row[won], latent[won], "amin")  # a tie goes to the first
    return torch.where(found == code.latents, -1, found)


def _counted(pairs: Pairs, said: dict[str, Bool[Tensor, " pair"]], silent: Bool[Tensor, " pair"]) -> Sums:
    truth, main = pairs.different, said[""]
    values = {"pairs": torch.ones(len(truth)), "positive": truth, "pass": ~truth & ~main, "silent": silent}
    for name, guess in said.items():
        values |= {f"hit{name}": guess & truth, f"said{name}": guess}
    place = pairs.group.unique(return_inverse=True)[1]
    n = int(place.max()) + 1
    zeros = torch.zeros(n, dtype=torch.float64)
    return Sums({k: zeros.index_add(0, place, v.double()) for k, v in values.items()}, pairs.unit)


def _f1(s, name: str) -> Tensor:
    return 2 * s[f"hit{name}"] / (s[f"said{name}"] + s["positive"]).clamp_min(1)

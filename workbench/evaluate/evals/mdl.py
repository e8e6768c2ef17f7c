"""How many bits does it take to send a row with this dictionary, every row at the same precision?"""

from collections.abc import Callable
from math import inf, sqrt
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...code import Code
from ..case import Case
from ..examples import OURS
from ..scores import Scores, Sums

IDENTITY = {"rest_bits": 0.0}
MEAN = {"code_bits": 0.0}
SCALE_INVARIANT = ("description_length", "code_bits", "rest_bits")


class Bits(NamedTuple):
    """Bits of each row: of its code, and of what the code leaves."""

    code: Float[Tensor, " row"]
    rest: Float[Tensor, " row"]


def mdl(case: Case, *, nmse: float = 0.01, rows: int = 8192) -> Scores:
    """Bits per row of the code and of what it leaves, both rounded so that rows come back with an error of `nmse`.

    Everything is rounded to multiples of one step (a code value times the length of its atom), so each coordinate is
    off by step^2 / 12, which is `nmse` of the variance of rows about their mean. Each latent and each coordinate is
    sent by itself, by the frequencies of its rounded values; being off is one of them, so a latent costs
    H(p) + p H(value | on). The sum compares dictionaries of any error; `code_bits` alone only those of equal error.
    Of the first `rows` held-out rows. The tables of frequencies are not sent: give many more rows than a latent has
    values. Intervals hold them fixed. Chance: rows less their mean, coordinate by coordinate, without a dictionary.
    Source: Ayonrinde et al. 2024, arXiv 2410.11179: the length of the code alone, least among those of equal error.
    """
    if not 0 < nmse < 1 or rows < 2:
        raise ValueError(f"nmse must lie between 0 and 1 and rows be 2 or more, got {nmse} and {rows}")
    documents, y, code, extra = _first(case, rows)
    step = sqrt(12 * nmse * float((y - y.mean(0)).square().mean()))
    if step == 0:
        raise ValueError("the held-out rows are all the same: there is nothing to describe")
    sizes = case.codec.atoms().detach().flatten(1).norm(dim=-1)
    found = bits(y, code, sizes, lambda z: case.codec.decode(z).detach().flatten(1) + extra, step)
    plain = _by_column(((y - y.mean(0)) / step).round().long())
    distinct, place = documents.unique(return_inverse=True)
    each = {"rows": torch.ones(len(y)), "code": found.code, "rest": found.rest}
    sums = Sums(
        {k: torch.zeros(len(distinct)).double().index_add_(0, place, v.cpu().double()) for k, v in each.items()}
    )
    dense, what = float(plain.mean()), f"bits per row at a normalised squared error of {nmse:g}"

    def score(metric: str, unit: str, parts: tuple[str, ...], chance: float | None):
        return case.score(
            metric,
            sums,
            lambda s: sum((s[p] for p in parts), torch.zeros(())) / s["rows"],
            unit=unit,
            direction="lower",
            range=(0.0, inf),
            chance=chance,
            note=OURS,
        )

    return Scores.of(
        score("description_length", what, ("code", "rest"), dense),
        score("code_bits", f"{what}: the code", ("code",), 0.0),
        score("rest_bits", f"{what}: what the code leaves", ("rest",), dense),
    )


def bits(
    y: Float[Tensor, "row d"],
    code: Code,
    sizes: Float[Tensor, " latent"],
    decode: Callable[[Code], Float[Tensor, "row d"]],
    step: float,
) -> Bits:
    """Bits of each row when its code (times `sizes`, the atoms' lengths) and y - decode(code) are sent in steps.

    What is left is taken after the code was rounded, so the receiver misses y by the rounding of the rest alone.
    """
    at = sizes if code.indices is None else sizes[code.indices]
    whole = code.like((code.values.detach() * at / step).round())
    rounded = whole.like(torch.where(at > 0, whole.values * step / torch.where(at > 0, at, 1.0), 0.0))
    rest = ((y - decode(rounded)) / step).round().long()
    return Bits(_by_latent(whole), _by_column(rest))


def _by_latent(whole: Code) -> Float[Tensor, " row"]:
    """Bits of whole-numbered codes, each latent by its own frequencies."""
    row, latent, value = whole.entries()
    n = len(whole)
    symbol, counts = _symbols(latent, value.long())
    off = n - torch.bincount(latent, minlength=whole.latents).double()
    silence = torch.where(off > 0, -(off.clamp_min(1) / n).log2(), 0.0)  # bits to say that a latent is off
    told = -(counts.double() / n).log2()[symbol] - silence[latent]
    return silence.sum().expand(n).clone().index_add_(0, row, told)


def _by_column(whole: Int[Tensor, "row d"]) -> Float[Tensor, " row"]:
    """Bits of whole numbers, each column by its own frequencies."""
    symbol, counts = _symbols(torch.arange(whole.shape[1], device=whole.device), whole)
    return -(counts.double() / len(whole)).log2()[symbol].sum(-1)


def _symbols(table: Int[Tensor, "*n"], value: Int[Tensor, "*more"]) -> tuple[Int[Tensor, "*more"], Int[Tensor, " m"]]:
    """Which distinct (table, value) each entry is, and how often each occurs."""
    if not value.numel():
        return value, value.new_zeros(0)
    low = value.min()
    _, symbol, counts = (table * (value.max() - low + 1) + value - low).unique(return_inverse=True, return_counts=True)
    return symbol, counts


@torch.no_grad()
def _first(case: Case, rows: int) -> tuple[Tensor, Tensor, Code, Tensor]:
    """Documents, targets and codes of the first rows, and what the reconstruction adds to the decoded code."""
    documents, ys, codes, extras, left = [], [], [], [], rows
    for document, batch in case.batches():
        x, y = batch.x[:left], batch.y[:left].flatten(1)
        code = case.encoded(x)
        plain = getattr(case.codec, "skip", None) is None
        skip = torch.zeros_like(y) if plain else (case.codec.reconstruct(x) - case.codec.decode(code)).flatten(1)
        for kept, part in ((documents, document[:left]), (ys, y), (codes, code), (extras, skip)):
            kept.append(part)
        left -= len(x)
        if left <= 0:
            break
    if left > rows - 2:
        raise ValueError("there are fewer than two held-out rows to describe: collect more")
    return torch.cat(documents), torch.cat(ys), Code.cat(codes), torch.cat(extras)

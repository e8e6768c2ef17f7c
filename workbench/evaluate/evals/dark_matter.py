"""How much of a dictionary's error is a linear map of the row, and how much is not."""

from collections.abc import Iterator
from math import inf

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...code import Codec
from ..case import ROWS, Case, variance
from ..examples import OURS
from ..scores import Direction, Score, Scores, Sums

IDENTITY = {"error_fvu": 0.0, "nonlinear_fvu": 0.0}
MEAN = {"nonlinear_fvu": 0.0, "linear_r2": 1.0}
SCALE_INVARIANT = (
    "error_fvu",
    "nonlinear_fvu",
    "linear_fvu",
    "linear_r2",
    "norm_r2",
    "nonlinear_norm_r2",
    "pursuit_saves",
)
SHORT = 512  # tokens: below it the contexts are not those of the paper


def dark_matter(case: Case, *, rows: int = 32_768, pursuit_rows: int = 512, earlier: Codec | None = None) -> Scores:
    """The error e = y - y_hat on held-out documents, split into what a linear map of x predicts and the rest.

    The least-squares map from x (and a constant) to e is fitted on one half of the documents, drawn by the seed, and
    everything is measured on the other half. Shares are of the variance of y there: `error_fvu` is all of the error,
    `nonlinear_fvu` what is left of it after the map, `linear_fvu` their difference (below 0 where the map only hurts).
    `linear_r2` is the share of the error's own variance that the map predicts, `norm_r2` that of the variance of |e|^2
    by a map of x, `nonlinear_norm_r2` the same of what the map left. A dictionary that knows only the mean has no
    nonlinear error: a low `nonlinear_fvu` says nothing without `error_fvu`. R^2 are left out where the error is 0.
    `pursuit_saves`: by how much gradient pursuit with the same atoms lowers the error, below 0 where the encoder is
    better, on `pursuit_rows` rows, each with as many steps as it has active latents; transcoders have no such number.
    `earlier`, a codec at another site of the same held-out rows: `earlier_fvu` is what is left of the error after a
    linear map of that codec's reconstruction, which stands where less has been computed.
    At most `rows` rows are read, whole documents. Source: Engels et al. 2024, arXiv 2410.14670; they leave out the
    first 200 of 1,024 positions and fit 150,000 rows; ours keeps what the held-out rows hold. Pursuit: Blumensath &
    Davies 2008, for dictionaries Smith 2024. Raises ValueError where a half has no more rows than the map has weights
    for each coordinate, or the rows do not vary.
    """
    if rows < 2 or pursuit_rows < 0:
        raise ValueError(f"rows must be 2 or more and pursuit_rows 0 or more, got {rows} and {pursuit_rows}")
    train, length = _halves(case, rows)
    parts = [torch.cat(p) for p in zip(*_read(case, train, earlier), strict=True)]
    document, x, y, y_hat, before = parts
    fit = train[document] == 1
    kinds = (x, before) if earlier is not None else (x,)
    for h in kinds:
        for name, n in (("fitted", int(fit.sum())), ("tested", int((~fit).sum()))):
            if n < 2 or (name == "fitted" and n <= h.shape[1] + 1):
                raise ValueError(
                    f"dark_matter has {n} rows to be {name} on, a map from {h.shape[1]} coordinates needs more than "
                    f"{h.shape[1] + 1}: hold out more documents, or raise rows (now {rows})"
                )
    error = y - y_hat
    left = error - _mapped(x, error, fit)
    size, rest = error.square().sum(1, keepdim=True), left.square().sum(1, keepdim=True)
    values = {
        "y1": y - y[fit].mean(0), "error": size[:, 0], "left": rest[:, 0], "e1": error - error[fit].mean(0),
        "size1": size[:, 0] - size[fit].mean(), "rest1": rest[:, 0] - rest[fit].mean(),
        "size_left": (size - _mapped(x, size, fit))[:, 0].square(),
        "rest_left": (rest - _mapped(x, rest, fit))[:, 0].square(),
    }  # fmt: skip
    values |= {f"{n}2": values[f"{n}1"].reshape(len(x), -1).square().sum(1) for n in ("y", "e", "size", "rest")}
    if earlier is not None:
        values["earlier"] = (error - _mapped(before, error, fit)).square().sum(1)
    sums = _summed(values, document, ~fit)
    total = sums.total()
    if float(variance(total)) <= 0:
        raise ValueError(f"the tested rows at {case.target} are all equal: nothing can be split, check the store")
    note = OURS if length >= SHORT else f"{OURS}; contexts of {length} tokens, the paper's have 1,024"

    def share(metric: str, part, chance: float | None, direction: Direction = "none", low: float = 0.0) -> Score:
        return case.score(
            metric, sums, lambda s: part(s) / variance(s), unit="share of the variance of y", direction=direction,
            range=(low, inf), chance=chance, note=note,
        )  # fmt: skip

    def r2(metric: str, missed: str, of: str, what: str, chance: float | None = None) -> Score:
        return case.score(
            metric, sums,
            lambda s: 1 - s[missed] / (s[f"{of}2"] - _square(s[f"{of}1"]) / s["rows"]),
            unit=f"R^2 of {what} from x, held out", direction="none", range=(-inf, 1.0), chance=chance, note=note,
        )  # fmt: skip

    found = [
        share("error_fvu", lambda s: s["error"], 1.0, "lower"),
        share("nonlinear_fvu", lambda s: s["left"], 0.0),
        share("linear_fvu", lambda s: s["error"] - s["left"], 1.0, low=-inf),
    ]
    if earlier is not None:
        found.append(share("earlier_fvu", lambda s: s["earlier"], None))
    if float(total["error"]) > 0:
        found.append(r2("linear_r2", "left", "e", "the error", 1.0))
        found.append(r2("norm_r2", "size_left", "size", "the error's squared norm"))
        found.append(r2("nonlinear_norm_r2", "rest_left", "rest", "the nonlinear error's squared norm"))
        tested = (~fit).nonzero()[:, 0]
        drawn = tested[torch.randperm(len(tested), generator=torch.Generator().manual_seed(case.seed))[:pursuit_rows]]
        if case.site == case.target and len(drawn):
            found.append(_pursuit(case, x, size[:, 0], document, drawn.sort().values, note))
    return Scores.of(*found)


def _square(first: Tensor) -> Tensor:
    """Squared sums: of numbers `(replicate,)` or of vectors `(replicate, d)`."""
    return first.square() if first.ndim == 1 else first.square().sum(-1)


def _halves(case: Case, rows: int) -> tuple[Int[Tensor, " document"], int]:
    """1 for documents to fit on, 0 for those to test on, -1 for those left out; and the longest context seen."""
    counts: dict[int, int] = {}
    length = 0
    for documents, batch in case.batches():
        for d, n in zip(*(t.tolist() for t in documents.unique(return_counts=True)), strict=True):
            counts[d] = counts.get(d, 0) + n
        length = length if batch.pos is None else max(length, int(batch.pos.max()) + 1)
    names = torch.tensor(sorted(counts))
    if len(names) < 2:
        raise ValueError(f"dark_matter fits on one half of the documents, there is {len(names)}: hold out more texts")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(case.seed))
    half = torch.full((int(names.max()) + 1,), -1)
    taken = [0, 0]
    for d in names[order].tolist():
        to = int(taken[1] <= taken[0])  # to the half that has less
        if taken[to] and taken[to] + counts[d] > rows / 2:
            continue
        half[d] = to
        taken[to] += counts[d]
    return half, length


@torch.no_grad()
def _read(case: Case, half: Int[Tensor, " document"], earlier: Codec | None) -> Iterator[tuple[Tensor, ...]]:
    """Document, x, y, reconstruction and the earlier codec's reconstruction of the rows that are used; float64."""
    others = None if earlier is None else case.rows.batches(ROWS, site=earlier.site, target=earlier.target)
    for documents, batch in case.batches():
        used = half[documents] >= 0
        before = torch.zeros(len(documents), 0)
        if earlier is not None and others is not None:
            before = earlier.reconstruct(next(others).x).flatten(1)
        if bool(used.any()):
            x = batch.x[used]
            code = case.encoded(x)
            plain = getattr(case.codec, "skip", case) is None
            y_hat = case.codec.decode(code) if plain else case.codec.reconstruct(x)
            flat = (h.detach().cpu().flatten(1).double() for h in (x, batch.y[used], y_hat))
            yield documents[used], *flat, before[used].double()


def _mapped(x: Float[Tensor, "row d"], y: Float[Tensor, "row out"], fit: Bool[Tensor, " row"]) -> Tensor:
    """What least squares from x and a constant, fitted on the rows `fit`, predicts of y in every row."""
    mean, goal = x[fit].mean(0), y[fit].mean(0)
    centred = x[fit] - mean
    inverse = torch.linalg.pinv(centred.T @ centred, rtol=1e-10, hermitian=True)  # rows may lie in a subspace
    return (x - mean) @ (inverse @ (centred.T @ (y[fit] - goal))) + goal


def _summed(values: dict[str, Tensor], document: Int[Tensor, " row"], used: Bool[Tensor, " row"]) -> Sums:
    place = document[used].unique(return_inverse=True)[1]
    n = int(place.max()) + 1
    by = {name: v.new_zeros(n, *v.shape[1:]).index_add_(0, place, v[used]) for name, v in values.items()}
    return Sums(by | {"rows": torch.bincount(place).double()})


def _pursuit(case: Case, x: Tensor, size: Tensor, document: Tensor, drawn: Int[Tensor, " n"], note: str) -> Score:
    rows = x[drawn].float()
    code = case.encoded(rows)
    bias = case.codec.reconstruct(rows).detach() - code.combine(case.codec.atoms().detach())
    signed = bool((code.values < 0).any())
    found = gradient_pursuit(rows - bias, case.codec.atoms().detach(), code.counts(), signed=signed)
    missed, y1 = (rows - bias - found).square().sum(1).double(), x[drawn] - x[drawn].mean(0)
    values = {"encoder": size[drawn], "pursuit": missed, "y1": y1, "y2": y1.square().sum(1)}
    sums = _summed(values, document[drawn], torch.ones(len(drawn)) > 0)
    return case.score(
        "pursuit_saves", sums, lambda s: (s["encoder"] - s["pursuit"]) / variance(s),
        unit="share of the variance that gradient pursuit explains beyond the encoder, at the same L0",
        direction="none", range=(-inf, inf), chance=0.0, note=note,
    )  # fmt: skip


@torch.no_grad()
def gradient_pursuit(
    x: Float[Tensor, "row d"], atoms: Float[Tensor, "latent d"], steps: Int[Tensor, " row"], *, signed: bool = False
) -> Float[Tensor, "row d"]:
    """Reconstruction of each row by `steps[row]` atoms, chosen greedily.

    A step adds the atom of largest cosine with the residual and moves all coefficients of chosen atoms along their
    gradient, as far as lowers the error most; they stay at 0 or more unless `signed`.
    """
    size = atoms.norm(dim=1).clamp_min(1e-12)
    unit = atoms / size[:, None]
    chosen = torch.zeros(len(x), 0, dtype=torch.long)
    values = x.new_zeros(len(x), 0)
    made = torch.zeros_like(x)
    for step in range(int(steps.max()) if len(steps) else 0):
        left = x - made
        score = left @ unit.T
        score = (score.abs() if signed else score).scatter(1, chosen, -torch.inf)
        chosen = torch.cat([chosen, score.argmax(1, keepdim=True)], 1)
        values = torch.cat([values, values.new_zeros(len(x), 1)], 1)
        picked = unit[chosen]  # (row, chosen, d)
        slope = torch.einsum("rkd,rd->rk", picked, left)
        if not signed:
            slope = torch.where((values <= 0) & (slope < 0), 0, slope)  # these would leave 0
        along = torch.einsum("rk,rkd->rd", slope, picked)
        length = (slope * slope).sum(1) / along.square().sum(1).clamp_min(1e-20)
        length = torch.where(steps > step, length, 0)
        values = values + length[:, None] * slope
        values = values if signed else values.clamp_min(0)
        made = torch.einsum("rk,rkd->rd", values, picked)
    return made

"""The same latents one layer on, or in another seed: folded atoms matched, matchings chained, a layer skipped."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..code import Code
from .beside import Against, framed
from .match import NULL, SHARED, Match, match, nearest, random_directions, shared
from .neighbours import CHUNK

ALL_PAIRS = 1 << 22  # pairs up to which a matching looks at all of them
CANDIDATES = 32  # of each row, beyond: half by cosine, half by inner product
FRESH = 1 << 40  # added to a null's seed: a control made by `random_directions` must not be its own null


class Folded(NamedTuple):
    """A dictionary whose latents are all of the scale 1: the atoms carry the size."""

    encoder: Float[Tensor, "latent inp"]  # columns of the encoder, one row each
    bias: Float[Tensor, " latent"]
    atoms: Float[Tensor, "latent d"]


def fold(
    encoder: Float[Tensor, "latent inp"],
    bias: Float[Tensor, " bias"],
    atoms: Float[Tensor, "atom d"],
    scale: Float[Tensor, " scale"],
) -> Folded:
    """Each latent divided by its `scale` (JumpReLU's threshold, else its mean activation), its atom multiplied by it.

    The function stays: codes are f / scale, thresholds become threshold / scale (1, where they are the scale), and the
    decoder's own bias is untouched. An exact identity for ReLU and JumpReLU; TopK must select by f, not f / scale.
    Raises ValueError for lengths that differ, or a scale that is not above 0 (a dead latent has none: give it 1 and
    leave it out by `live`).
    Source: Balagansky et al. 2024, arXiv 2410.07656.
    """
    lengths = len(encoder), len(bias), len(atoms), len(scale)
    if len(set(lengths)) > 1:
        raise ValueError(f"encoder, bias, atoms and scale must have one row for each latent, got {lengths}")
    if bad := int((~(scale.isfinite() & (scale > 0))).sum()):
        raise ValueError(f"{bad} of {len(scale)} scales are not above 0: give dead latents 1 and leave them out (live)")
    return Folded(encoder / scale[:, None], bias / scale, atoms * scale[:, None])


@dataclass(frozen=True, eq=False)
class Matched:
    """Pairs of folded atoms, and what pairs at random (`shuffled`) and random directions of b's norms would give."""

    match: Match  # the cosines are of atoms, even if columns helped to choose
    table: pd.DataFrame  # a line for each pair: left, right, cosine, distance (squared), norm_left, norm_right
    cosine: Against  # mean over pairs; the null is of shuffled pairs
    explained: Against  # 1 - squared distances / squared distances of the left atoms from their mean
    distance: float  # mean squared distance, lower is better
    distance_shuffled: float
    random: pd.DataFrame  # a line for each draw of random directions: cosine, explained, distance, alone
    alone: float  # share of live rows of a without a partner of cosine `above` or more
    above: float
    histograms: dict[str, np.ndarray]

    @property
    def caption(self) -> str:
        null = self.random.mean()
        return (
            f"{len(self.table):,} pairs: mean cosine {self.cosine.value:.3f} (shuffled pairs "
            f"{float(self.cosine.null.mean()):.3f}, matched random directions {null.cosine:.3f}), explained "
            f"{self.explained.value:.2f} ({float(self.explained.null.mean()):.2f}, {null.explained:.2f}). Without a "
            f"partner of cosine {self.above:g}: {self.alone:.0%} (random {null.alone:.0%})."
        )

    def figure(self, title: str = "Matched atoms") -> Any:
        """Histogram of the pairs' cosines over those of both nulls."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for (name, values), color in zip(self.histograms.items(), ("#5b7db1", "#b8b8b8", "#d9a05b"), strict=True):
            heights, edges = np.histogram(values, 60, (-0.5, 1.0))
            figure.add_scatter(
                x=(edges[1:] + edges[:-1]) / 2, y=heights / len(values), name=name,
                line={"shape": "hvh", "color": color}, fill="tozeroy" if name == "matched" else None,
            )  # fmt: skip
        figure.add_vline(self.above, line={"dash": "dot", "color": "#888"})
        figure.update_xaxes(title="cosine of partners").update_yaxes(title="share of pairs")
        return framed(figure, title, self.caption)


def sae_match(
    a: Float[Tensor, "m d"],
    b: Float[Tensor, "n other"],
    *,
    columns: tuple[Float[Tensor, "m inp"], Float[Tensor, "n inp2"]] | None = None,
    live: tuple[Bool[Tensor, " m2"], Bool[Tensor, " n2"]] | None = None,
    candidates: int | None = None,
    above: float = SHARED,
    draws: int = 100,
    random: int = 3,
    seed: int = 0,
) -> Matched:
    """SAE Match: the one-to-one pairs of (folded) atoms with the smallest sum of squared distances.

    Norms count. A row that stays alone pays its own squared norm, so that a pair is taken only where the inner product
    is positive, and the sum of inner products is what is made large, whatever m and n. Encoder `columns` are joined to
    the atoms: their squared distances are added as they are. Up to 2^22 pairs all are looked at; beyond that (or with
    `candidates`) each row's and column's 32 best, half by cosine, half by inner product. Squared distance is no guide
    to candidates: small atoms are near everything. At 1,500 x 1,500 with log-normal norms (sigma 1), half of the rows
    twins or none, the sum lost 0.04 to 0.06 % by these 32, 0.8 % by cosine alone, 2 to 6 % by inner product, 4 to 15 %
    by distance.
    Raises ValueError for widths that differ, rows that are not finite, `live` that does not fit, nothing to pair.
    Source: Balagansky et al. 2024, arXiv 2410.07656; theirs has m = n and forces every row into a pair.
    """
    if draws < 2 or random < 1:
        raise ValueError(f"nulls want draws of 2 or more and random of 1 or more, got {draws} and {random}")
    ids = _live(a, b, live)
    a, b = _checked(a, "a")[ids[0]], _checked(b, "b")[ids[1]]
    joined = a, b
    if columns is not None:
        read = [_checked(column, "columns")[which] for column, which in zip(columns, ids, strict=True)]
        joined = torch.cat([a, read[0]], 1), torch.cat([b, read[1]], 1)
    i, j = _assign(joined[0], joined[1], candidates)
    if not len(i):
        raise ValueError("no two atoms have a positive inner product: nothing can be paired")
    cosine, distance, explained = _judge(a[i], b[j])
    rng = np.random.default_rng([seed, NULL])
    left, right = a[i], b[j]
    nulls = [_judge(left, right[torch.from_numpy(rng.permutation(len(j)))]) for _ in range(draws)]
    fresh, lines = torch.empty(0), []
    for draw in range(random):
        other = random_directions(len(b), b.shape[1], seed=FRESH + 1000 * seed + draw).to(a) * b.norm(
            dim=1, keepdim=True
        )
        one, two = _assign(a, other, candidates)
        fresh, far, part = _judge(a[one], other[two])
        alone = 1 - float((fresh >= above).sum()) / len(a)
        lines.append((float(fresh.mean()), part, float(far.mean()), alone))
    table = {
        "left": ids[0][i], "right": ids[1][j], "cosine": cosine, "distance": distance,
        "norm_left": a[i].norm(dim=1), "norm_right": b[j].norm(dim=1),
    }  # fmt: skip
    return Matched(
        Match(ids[0][i], ids[1][j], cosine),
        pd.DataFrame({name: column.numpy() for name, column in table.items()}),
        Against(float(cosine.mean()), torch.stack([n[0].mean() for n in nulls])),
        Against(explained, torch.tensor([n[2] for n in nulls])),
        float(distance.mean()),
        float(np.mean([float(n[1].mean()) for n in nulls])),
        pd.DataFrame(lines, columns=["cosine", "explained", "distance", "alone"]),
        1 - float((cosine >= above).sum()) / len(a),
        above,
        {
            "matched": cosine.numpy(),
            "null: shuffled pairs": nulls[0][0].numpy(),
            "null: matched random directions": fresh.numpy(),
        },
    )


@dataclass(frozen=True, eq=False)
class Persistence:
    """How far a chain of matchings from layer to layer is still the matching of its ends.

    A line of `table` for each pair of layers: `composed` and `same` (share of live rows that the chain still pairs, and
    share of those that the direct matching pairs alike; `same_null` by a shuffled chain), cosine and explained of the
    chain, directly, and by a shuffled chain; `random`, `random_direct`: cosines of the chain and the direct matching
    through random directions of the same norms (a chain of chance is not at 0: each matching has its extreme value); z
    and p of the chain's cosine against shuffled ones; `alone`: share of live rows without a chained partner of cosine
    `above`.
    """

    table: pd.DataFrame
    partners: dict[tuple[str, str], Int[Tensor, " latent"]]  # by the chain, -1 where none
    above: float

    @property
    def caption(self) -> str:
        near, far = (self.table[self.table.hops == h].mean(numeric_only=True) for h in (1, self.table.hops.max()))
        return (
            f"Over one layer partners have cosine {near.cosine:.2f} (shuffled {near.shuffled:.2f}, random directions "
            f"{near.random:.2f}), over {far.hops:.0f} by the chain {far.cosine:.2f} (shuffled {far.shuffled:.2f}, "
            f"random {far.random:.2f}). The chain agrees with the direct matching for {far.same:.0%} "
            f"(chance {far.same_null:.1%})."
        )

    def figure(self, title: str = "Persistence over layers") -> Any:
        """A panel for each starting layer: cosine by chain and directly, with the nulls."""
        from plotly.subplots import make_subplots

        starts = list(dict.fromkeys(self.table["from"]))
        columns = min(3, len(starts))
        figure = make_subplots(
            -(-len(starts) // columns), columns, shared_yaxes=True, subplot_titles=[f"from {s}" for s in starts]
        )
        for at, start in enumerate(starts):
            part = self.table[self.table["from"] == start]
            for key, name, color, dash in (
                ("cosine", "chain", "#5b7db1", "solid"), ("direct", "direct matching", "#6a9f6a", "solid"),
                ("shuffled", "null: shuffled pairs", "#999", "dot"),
                ("random", "null: chain of random directions", "#d9a05b", "dot"),
            ):  # fmt: skip
                figure.add_scatter(
                    x=part["to"], y=part[key], name=name, legendgroup=name, showlegend=at == 0, mode="lines+markers",
                    line={"color": color, "dash": dash}, row=at // columns + 1, col=at % columns + 1,
                )  # fmt: skip
        figure.update_xaxes(type="category").update_yaxes(title="mean cosine", range=[-0.1, 1], col=1)
        return framed(figure, title, self.caption, height=300 * -(-len(starts) // columns))


def persistence(
    atoms: Sequence[Float[Tensor, "_ d"]],
    *,
    names: Sequence[str] | None = None,
    live: Sequence[Bool[Tensor, " _"]] | None = None,
    candidates: int | None = None,
    above: float = SHARED,
    draws: int = 100,
    seed: int = 0,
) -> Persistence:
    """Matchings of neighbouring layers chained, P_{l->l+2} = P_{l+1->l+2} P_{l->l+1}, beside the direct ones.

    `atoms`: one (folded) dictionary per layer, in order, of any widths. Every pair of layers is matched, and every pair
    of random dictionaries of the same norms: n (n - 1) matchings.
    Raises ValueError for fewer than two layers, names or `live` that do not fit, and as `sae_match`.
    Source: Balagansky et al. 2024, arXiv 2410.07656.
    """
    n = len(atoms)
    names = [str(i) for i in range(n)] if names is None else list(names)
    if n < 2 or len(names) != n or len(set(names)) != n or (live is not None and len(live) != n):
        raise ValueError(f"persistence wants two layers or more, each with a name of its own and a live mask, got {n}")
    if draws < 2:
        raise ValueError(f"a null wants draws of 2 or more, got {draws}")
    rng, lines = np.random.default_rng([seed, NULL]), []
    masks = [torch.ones(len(a), dtype=torch.bool) for a in atoms] if live is None else [x.cpu() for x in live]
    real = [_checked(a, f"layer {name}") for a, name in zip(atoms, names, strict=True)]
    drawn = [
        random_directions(*a.shape, seed=FRESH + 1000 * seed + at).double() * a.norm(dim=1, keepdim=True)
        for at, a in enumerate(real)
    ]
    chains, straight = _chained(real, masks, candidates)
    null_chains, null_straight = _chained(drawn, masks, candidates)
    for (start, end), to in sorted(chains.items(), key=lambda item: (item[0][1] - item[0][0], item[0])):
        kept = (to >= 0).nonzero()[:, 0]
        if not len(kept):
            raise ValueError(f"no pair of atoms is left from {names[start]} to {names[end]}: take fewer layers")
        number, left, right = int(masks[start].sum()), real[start][kept], real[end][to[kept]]
        cosine, _, explained = _judge(left, right)
        orders = [torch.from_numpy(rng.permutation(len(kept))) for _ in range(draws)]
        nulls = [_judge(left, right[order]) for order in orders]
        beside = Against(float(cosine.mean()), torch.stack([x[0].mean() for x in nulls]))
        direct = straight[start, end]
        alike = [float((direct[kept] == to[kept][order]).double().mean()) for order in orders]

        def partnered(rows: list[Tensor], pairs: Tensor, start: int = start, end: int = end) -> tuple[float, float]:
            on = pairs >= 0
            found = _judge(rows[start][on], rows[end][pairs[on]])
            return float(found[0].mean()), found[2]

        lines.append(
            {
                "from": names[start], "to": names[end], "hops": end - start, "composed": len(kept) / number,
                "same": float((direct[kept] == to[kept]).double().mean()), "same_null": float(np.mean(alike)),
                "cosine": beside.value, "direct": partnered(real, direct)[0], "shuffled": float(beside.null.mean()),
                "random": partnered(drawn, null_chains[start, end])[0],
                "random_direct": partnered(drawn, null_straight[start, end])[0], "z": beside.z, "p": beside.p,
                "explained": explained, "explained_direct": partnered(real, direct)[1],
                "explained_shuffled": float(np.mean([x[2] for x in nulls])),
                "alone": 1 - float((cosine >= above).sum()) / number,
            }
        )  # fmt: skip
    return Persistence(pd.DataFrame(lines), {(names[s], names[e]): to for (s, e), to in chains.items()}, above)


def _chained(
    atoms: list[Tensor], masks: list[Tensor], candidates: int | None
) -> tuple[dict[tuple[int, int], Tensor], dict[tuple[int, int], Tensor]]:
    """Partners in each later layer by the chain of neighbouring matchings, and by a matching of the two; -1: none."""
    chain, direct = {}, {}
    for hops in range(1, len(atoms)):
        for start in range(len(atoms) - hops):
            end = start + hops
            own, other = _live(atoms[start], atoms[end], (masks[start], masks[end]))
            i, j = _assign(atoms[start][own], atoms[end][other], candidates)
            direct[start, end] = torch.full((len(atoms[start]),), -1).index_put((own[i],), other[j])
            if hops == 1:
                chain[start, end] = direct[start, end]
            else:
                middle = chain[start, end - 1]
                chain[start, end] = torch.where(middle >= 0, chain[end - 1, end][middle.clamp_min(0)], -1)
    return chain, direct


def moved(
    code: Code,
    match: Match,
    latents: int,
    *,
    scales: tuple[Float[Tensor, " latent"], Float[Tensor, " latent2"]] | None = None,
) -> Code:
    """The code in the partners' numbers, for a dictionary of `latents`; what has no partner is dropped.

    With `scales` (those that folded left and right), f becomes f / scale_left * scale_right: the folded value stays.
    """
    if len(match.right) and int(match.right.max()) >= latents:
        raise ValueError(f"the matching names latent {int(match.right.max())}, the dictionary has {latents}")
    partners = match.partners(code.latents)
    rows, own, values = code.entries()
    to = partners[own]
    rows, own, to, values = (x[to >= 0] for x in (rows, own, to, values))
    if scales is not None:
        values = values / scales[0][own] * scales[1][to]
    counts = torch.bincount(rows, minlength=len(code))
    return Code.csr(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), to, values, latents)


@dataclass(frozen=True, eq=False)
class Skipped:
    """A layer replaced by a matching. `table`: arm, draw, explained, low, high, delta_ce (nats, NaN: not asked)."""

    table: pd.DataFrame
    explained: Against  # the null: the same with partners shuffled

    @property
    def caption(self) -> str:
        by = self.table.drop_duplicates("arm").set_index("arm").explained
        return (
            f"The next layer from the matched code explains {by['matched']:.2f} (shuffled partners "
            f"{float(self.explained.null.mean()):.2f}, z {self.explained.z:.1f}); left as it was before the layer "
            f"{by['identity']:.2f}; its mean {by['mean']:.2f}. Bars: 95 % over documents or rows."
        )

    def figure(self, title: str = "Skipping a layer") -> Any:
        """Explained variance, and delta-CE where it was measured, of the four arms."""
        from plotly.subplots import make_subplots

        by = self.table.drop_duplicates("arm")
        both = bool(by.delta_ce.notna().any())
        figure = make_subplots(1, 1 + both, subplot_titles=["explained variance", "delta-CE (nats)"][: 1 + both])
        names = ["null: " * (arm in ("shuffled", "mean")) + arm for arm in by.arm]
        color = ["#b8b8b8" if name.startswith("null") else "#5b7db1" for name in names]
        error = {"array": by.high - by.explained, "arrayminus": by.explained - by.low}
        figure.add_bar(x=names, y=by.explained, error_y=error, marker_color=color, showlegend=False, row=1, col=1)
        if both:
            figure.add_bar(x=names, y=by.delta_ce, marker_color=color, showlegend=False, row=1, col=2)
        return framed(figure, title, self.caption)


@torch.no_grad()
def layer_skip(
    encode: Callable[[Float[Tensor, "row d"]], Code],
    decode: Callable[[Code], Float[Tensor, "row d"]],
    match: Match,
    latents: int,
    before: Float[Tensor, "row d"],
    after: Float[Tensor, "row2 d"],
    *,
    scales: tuple[Float[Tensor, " latent"], Float[Tensor, " latent2"]] | None = None,
    delta_ce: Callable[[Callable[[Float[Tensor, "row d"]], Float[Tensor, "row d"]]], float] | None = None,
    texts: Int[Tensor, " row3"] | None = None,
    draws: int = 20,
    resamples: int = 200,
    seed: int = 0,
) -> Skipped:
    """h_{l+1} ~ decode_B(P(encode_A(h_l))): how much of the next layer's rows the matched code explains.

    `before` and `after` are the rows of one set of tokens at both sites, `latents` those of B. Arms: matched; shuffled
    (partners permuted, `draws` times); identity (the layer does nothing); mean (every row the mean of `after`, so
    explained is 0). `delta_ce(f)` runs the model with rows f(h_l) in the place of h_{l+1} and gives nats above the
    clean run; the shuffled arm asks it for its first draw only. Intervals are bootstraps of documents (`texts`), else
    of rows.
    Raises ValueError for rows that are not pairs, or an `after` that does not vary.
    Source: Balagansky et al. 2024, arXiv 2410.07656; the shuffled arm is ours.
    """
    if before.shape != after.shape or (texts is not None and len(texts) != len(before)):
        raise ValueError(
            f"before, after and texts must tell of the same rows, got {tuple(before.shape)}, {tuple(after.shape)}"
            f"{'' if texts is None else f' and {len(texts)} texts'}"
        )
    if draws < 2 or len(before) < 2:
        raise ValueError(f"layer_skip wants two rows and two draws or more, got {len(before)} and {draws}")
    mean = after.double().mean(0).to(after.dtype)
    total = (after - mean).double().square().sum(1)
    if not float(total.sum()) > 0:
        raise ValueError("the rows after the layer do not vary: there is nothing to explain")
    rng = np.random.default_rng([seed, NULL])

    def by(pairs: Match) -> Callable[[Tensor], Tensor]:
        return lambda x: decode(moved(encode(x), pairs, latents, scales=scales))

    permuted = [match.right[torch.from_numpy(rng.permutation(len(match.right)))] for _ in range(draws)]
    arms = [("matched", by(match)), *(("shuffled", by(match._replace(right=right))) for right in permuted)]
    arms += [("identity", lambda x: x), ("mean", lambda x: mean.expand(len(x), -1))]
    groups = torch.arange(len(before)) if texts is None else texts.unique(return_inverse=True)[1].cpu()
    size = int(groups.max()) + 1
    weights = torch.from_numpy(rng.multinomial(size, np.full(size, 1 / size), resamples)).double()
    whole = torch.zeros(size).double().index_add(0, groups, total.cpu())
    lines: list[dict[str, Any]] = []
    for arm, function in arms:
        draw = sum(line["arm"] == arm for line in lines)
        left = [
            (function(x) - y).double().square().sum(1)
            for x, y in zip(before.split(CHUNK), after.split(CHUNK), strict=True)
        ]
        errors = torch.zeros(size).double().index_add(0, groups, torch.cat(left).cpu())
        spread = 1 - (weights @ errors) / (weights @ whole)
        low, high = (float(spread.quantile(q)) for q in (0.025, 0.975))
        ce = float(delta_ce(function)) if delta_ce is not None and draw == 0 else float("nan")
        value = 1 - float(errors.sum() / whole.sum())
        lines.append({"arm": arm, "draw": draw, "explained": value, "low": low, "high": high, "delta_ce": ce})
    table = pd.DataFrame(lines)
    null = torch.tensor(table[table.arm == "shuffled"].explained.to_numpy())
    return Skipped(table, Against(table.explained[0], null))


@dataclass(frozen=True, eq=False)
class Correlated:
    """Pearson correlation of partners' activations over rows, NaN where one never varies; null: partners shuffled."""

    pairs: Float[Tensor, " pair"]  # in the order of the matching
    shuffled: Float[Tensor, " pair"]  # of the first shuffle
    mean: Against  # over pairs that vary
    rows: int

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame({"correlation": self.pairs.numpy(), "shuffled": self.shuffled.numpy()})

    @property
    def caption(self) -> str:
        return (
            f"Activations of {int(self.pairs.isfinite().sum()):,} pairs over {self.rows:,} rows: mean correlation "
            f"{self.mean.value:.3f}, shuffled partners {float(self.mean.null.mean()):.3f} (z {self.mean.z:.0f}, "
            f"p {self.mean.p:.3f}, {len(self.mean.null)} shuffles)."
        )

    def figure(self, title: str = "Do partners fire together?") -> Any:
        """Histogram of pairs' correlations over that of shuffled partners."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for name, values in (("null: shuffled partners", self.shuffled), ("partners", self.pairs)):
            color = "#b8b8b8" if name.startswith("null") else "#5b7db1"
            found = values[values.isfinite()].numpy()
            figure.add_histogram(
                x=found, name=name, opacity=0.7, marker_color=color, xbins={"start": -1, "end": 1.02, "size": 0.04}
            )
        figure.update_layout(barmode="overlay")
        figure.update_xaxes(title="correlation").update_yaxes(title="pairs", type="log")
        return framed(figure, title, self.caption)


def correlated(codes: Iterable[tuple[Code, Code]], match: Match, *, draws: int = 20, seed: int = 0) -> Correlated:
    """Do matched latents fire together? Blocks of the two dictionaries' codes of the same rows, read once.

    Only active entries are touched; memory is that of a block. Raises ValueError for blocks whose rows differ, a
    matching that does not fit, or no pair that varies.
    """
    if draws < 2:
        raise ValueError(f"a null wants draws of 2 or more, got {draws}")
    rng, rows, sums = np.random.default_rng([seed, NULL]), 0, None
    orders = [np.arange(len(match.left)), *(rng.permutation(len(match.left)) for _ in range(draws))]
    rights = [match.right[torch.from_numpy(order)] for order in orders]
    products = torch.zeros(len(rights), len(match.left)).double()
    for one, other in codes:
        if len(one) != len(other):
            raise ValueError(f"a block of codes must be of the same rows, got {len(one)} and {len(other)}")
        if sums is None:
            sums = [torch.zeros(2, c.latents).double() for c in (one, other)]
            if int(match.left.max()) >= one.latents or int(match.right.max()) >= other.latents:
                raise ValueError(f"the matching does not fit codes of {one.latents} and {other.latents} latents")
        rows += len(one)
        for total, code in zip(sums, (one, other), strict=True):
            _, which, values = code.entries()
            total[0].index_add_(0, which, values.double())
            total[1].index_add_(0, which, values.double().square())
        own, latent, value = other.entries()
        key, order = (own.long() * other.latents + latent).sort()
        value = value.double()[order]
        at, left, size = one.entries()
        where = torch.full((one.latents,), -1).index_put((match.left,), torch.arange(len(match.left)))
        pair = where[left]
        at, pair, size = at[pair >= 0], pair[pair >= 0], size[pair >= 0].double()
        if not len(key):
            continue
        for product, right in zip(products, rights, strict=True):
            wanted = at.long() * other.latents + right[pair]
            place = torch.searchsorted(key, wanted).clamp_max(len(key) - 1)
            product.index_add_(0, pair, torch.where(key[place] == wanted, size * value[place], 0))
    if sums is None:
        raise ValueError("no block of codes came: give at least one")
    (m1, q1), (m2, q2) = (s / rows for s in sums)
    v1, v2 = (torch.where(q - m.square() > 1e-12 * q, q - m.square(), 0) for m, q in ((m1, q1), (m2, q2)))
    found = []
    for product, right in zip(products, rights, strict=True):
        by = (v1[match.left] * v2[right]).sqrt()
        r = (product / rows - m1[match.left] * m2[right]) / by
        found.append(torch.where(by > 0, r.clamp(-1, 1), torch.nan))
    if not bool(found[0].isfinite().any()):
        raise ValueError("no pair has two latents that vary on these rows: take more rows")
    means = torch.stack([r.nanmean() for r in found])
    return Correlated(found[0], found[1], Against(float(means[0]), means[1:]), rows)


@dataclass(frozen=True, eq=False)
class SeedOverlap:
    """What dictionaries of several seeds share. `stable[s]`: latents of seed s shared with every other seed.

    `table`: a line for each ordered pair: cosine (mean, matched), mmcs, shared (share); `random_...`: the same of
    random directions of the same shapes. `random_stable`: the stable share of random directions.
    """

    table: pd.DataFrame
    stable: tuple[Bool[Tensor, " latent"], ...]
    random_stable: float
    cosines: dict[str, np.ndarray]  # of matched pairs, and of matched random directions
    above: float
    both: bool  # atoms and encoder columns, not atoms alone

    @property
    def caption(self) -> str:
        by, null = self.table.mean(numeric_only=True), self.random_stable
        share = float(np.mean([float(s.double().mean()) for s in self.stable]))
        return (
            f"{len(self.stable)} seeds by {'atoms and encoder columns' if self.both else 'atoms alone'}: mean matched "
            f"cosine {by.cosine:.3f} (random directions {by.random_cosine:.3f}), {by.shared:.1%} shared above cosine "
            f"{self.above:g} (random {by.random_shared:.1%}). Stable, shared with every other seed: {share:.1%} "
            f"(random {null:.1%})."
        )

    def figure(self, title: str = "Overlap of seeds") -> Any:
        """Histogram of matched cosines of each pair of seeds, over that of random directions."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for name, values in self.cosines.items():
            heights, edges = np.histogram(values, 60, (-0.2, 1.0))
            line = {"shape": "hvh", "dash": "dot", "color": "#999"} if name.startswith("null") else {"shape": "hvh"}
            figure.add_scatter(x=(edges[1:] + edges[:-1]) / 2, y=heights / len(values), name=name, line=line)
        figure.add_vline(self.above, line={"dash": "dot", "color": "#888"})
        figure.update_xaxes(title="cosine of partners").update_yaxes(title="share of pairs")
        return framed(figure, title, self.caption)


def seed_overlap(
    atoms: Sequence[Float[Tensor, "_ d"]],
    columns: Sequence[Float[Tensor, "_ inp"]] | None = None,
    *,
    absolute: bool = False,
    above: float = SHARED,
    candidates: int | None = None,
    seed: int = 0,
) -> SeedOverlap:
    """Cross-seed matching: which latents have one partner by atoms and by encoder columns, in every other seed.

    Widths may differ. Beyond 2^22 pairs 32 candidates of each are looked at. Leave dead latents out before.
    Raises ValueError for fewer than two dictionaries, columns that do not fit, and as `match`.
    Source: Paulo & Belrose 2025, arXiv 2501.16615; the null of random directions is ours.
    """
    if len(atoms) < 2:
        raise ValueError(f"seed_overlap wants two dictionaries or more, got {len(atoms)}")
    if columns is not None and [len(c) for c in columns] != [len(a) for a in atoms]:
        raise ValueError(f"columns must be of the atoms' latents {[len(a) for a in atoms]}, got {[*map(len, columns)]}")

    def drawn(like: Sequence[Tensor], first: int) -> list[Tensor]:
        return [random_directions(len(x), x.shape[1], seed=FRESH + first + i) for i, x in enumerate(like)]

    many = len(atoms)
    real = _overlap(atoms, columns, absolute, above, candidates)
    read = None if columns is None else drawn(columns, (2 * seed + 1) * many)
    null = _overlap(drawn(atoms, 2 * seed * many), read, absolute, above, candidates)
    lines, pooled = [], {}
    for (i, j), (found, near, same) in real.items():
        chance = null[i, j]
        lines.append(
            {
                "left": i, "right": j, "cosine": float(found.mean()), "mmcs": near,
                "shared": float(same.double().mean()), "random_cosine": float(chance[0].mean()),
                "random_mmcs": chance[1], "random_shared": float(chance[2].double().mean()),
            }
        )  # fmt: skip
        if i < j:
            pooled[f"{i} and {j}"] = found.numpy()
    pooled["null: matched random directions"] = null[0, 1][0].numpy()
    stable, chance = (
        tuple(torch.stack([f[i, j][2] for j in range(many) if j != i]).all(0) for i in range(many))
        for f in (real, null)
    )
    share = float(np.mean([float(s.double().mean()) for s in chance]))
    return SeedOverlap(pd.DataFrame(lines), stable, share, pooled, above, columns is not None)


def _overlap(
    atoms: Sequence[Tensor], columns: Sequence[Tensor] | None, absolute: bool, above: float, candidates: int | None
) -> dict[tuple[int, int], tuple[Tensor, float, Tensor]]:
    """For each ordered pair: matched cosines, MMCS, and which rows of the first are shared."""
    found = {}
    for i in range(len(atoms)):
        for j in range(i + 1, len(atoms)):
            few = candidates if candidates or len(atoms[i]) * len(atoms[j]) <= ALL_PAIRS else CANDIDATES
            by = match(atoms[i], atoms[j], absolute=absolute, candidates=few)
            read = by if columns is None else match(columns[i], columns[j], absolute=absolute, candidates=few)
            same = shared(by, read, len(atoms[i]), above=above)
            there = same[by.left]
            back = torch.zeros(len(atoms[j]), dtype=torch.bool).index_put((by.right[there],), torch.tensor(True))
            for one, other, mask in ((i, j, same), (j, i, back)):
                near = float(nearest(atoms[one], atoms[other], absolute=absolute).cosines.mean())
                found[one, other] = by.cosines, near, mask
    return found


def _assign(a: Tensor, b: Tensor, candidates: int | None) -> tuple[Tensor, Tensor]:
    """The pairs with the largest sum of inner products, each above 0."""
    if candidates is not None and candidates < 2:
        raise ValueError(f"candidates must be 2 or more, got {candidates}")
    if candidates is None and len(a) * len(b) <= ALL_PAIRS:
        from scipy.optimize import linear_sum_assignment

        gains = (a @ b.T).clamp_min(0)
        i, j = (torch.from_numpy(x) for x in linear_sum_assignment(gains.numpy(), maximize=True))
        kept = gains[i, j] > 0
        return i[kept], j[kept]
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    a, b = a.float(), b.float()  # to rank candidates; the pairs are judged in float64
    m, n, k = len(a), len(b), (candidates or CANDIDATES) // 2
    keys, gains = [], []
    sizes = [x.norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny) for x in (a, b)]
    for one, other, size, flip in ((a, b, sizes[1], False), (b, a, sizes[0], True)):
        for start in range(0, m if not flip else n, CHUNK):
            inner = one[start : start + CHUNK] @ other.T
            near = torch.cat([x.topk(min(k, len(other)), -1).indices for x in (inner, inner / size)], 1)
            own = torch.arange(start, start + len(inner))[:, None]
            value = inner.gather(1, near)
            keys.append((near * n + own if flip else own * n + near)[value > 0])
            gains.append(value[value > 0])
    key, first = np.unique(torch.cat(keys).numpy(), return_index=True)
    gain = torch.cat(gains).numpy()[first].astype(np.float64)
    # every row has a column of its own that costs what no pair costs, so a full matching exists
    dear = 2 * max(gain.max(initial=0), 1e-300)
    at = np.concatenate([key // n, np.arange(m)]), np.concatenate([key % n, n + np.arange(m)])
    graph = csr_matrix((np.concatenate([dear - gain, np.full(m, dear)]), at), shape=(m, n + m))
    rows, partners = min_weight_full_bipartite_matching(graph)
    kept = partners < n
    i, j = (torch.from_numpy(x[kept].astype(np.int64)) for x in (rows, partners))
    return i, j


def _judge(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, float]:
    """Cosine and squared distance of each pair, and the share of the left rows' variance that the right explain."""
    inner = torch.einsum("nd,nd->n", left, right)
    size, other = (torch.einsum("nd,nd->n", x, x) for x in (left, right))
    distance = (size + other - 2 * inner).clamp_min(0)
    spread = size.sum() - len(left) * left.mean(0).square().sum()
    explained = float(1 - distance.sum() / spread) if len(left) > 1 else float("nan")
    return (inner / (size * other).sqrt()).clamp(-1, 1), distance, explained


def _checked(rows: Tensor, name: str) -> Tensor:
    rows = rows.detach().cpu().double()
    if bad := int((~rows.isfinite().all(1)).sum()):
        raise ValueError(f"{bad} of {len(rows)} rows of {name} are not finite: check the dictionary's weights")
    return rows


def _live(a: Tensor, b: Tensor, live: Sequence[Tensor] | None) -> list[Tensor]:
    """Numbers of the rows that take part. A row of zeros has no direction and must be left out."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"only atoms of one space can be matched: a is {a.shape[1]} wide, b {b.shape[1]}")
    ids = []
    for x, mask in zip((a, b), live or (None, None), strict=True):
        if mask is not None and len(mask) != len(x):
            raise ValueError(f"live wants a bool for each of {len(x)} latents, got {len(mask)}")
        ids.append(torch.arange(len(x)) if mask is None else mask.cpu().nonzero()[:, 0])
        if not len(ids[-1]):
            raise ValueError("nothing is left to match: no latent is live")
        if bad := int((x[ids[-1].to(x.device)].norm(dim=1) == 0).sum()):
            raise ValueError(f"{bad} live rows are zero and have no direction: leave them out (live)")
    return ids

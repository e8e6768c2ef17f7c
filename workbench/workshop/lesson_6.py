"""Lesson 6, steer, and measure the damage: its checks and the mistakes they foresee, and the dictionaries it steers."""

from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .. import testbeds
from ..batch import Tokens
from ..dictionary import Dictionary, recipe, train
from ..harvest import Live
from ..testbeds.worlds import tiny_text
from .hints import NotYet, ask, compare, draw, entries, number
from .lessons import Exercise, Wrong

SITE = "0.resid"


# 6.1 direction(h, keep, positive): texts of unequal length, the first position massive
H = draw(11, 6, 9, 5) + torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
H[:, 0] *= 20
KEEP = (torch.arange(9) < torch.tensor([9, 6, 8, 4, 9, 5])[:, None]) & (torch.arange(9) > 0)
POSITIVE = torch.tensor([True, False, True, False, False, True])


def side(h: Tensor, keep: Tensor, which: Tensor) -> Tensor:
    return h[which][keep[which]].mean(0)


def right_direction(
    h: Float[Tensor, "text pos d"], keep: Bool[Tensor, "text pos"], positive: Bool[Tensor, " text"]
) -> Float[Tensor, " d"]:
    return side(h, keep, positive) - side(h, keep, ~positive)


def check_direction(answer: Any) -> str:
    what, want = "direction(h, keep, positive)", right_direction(H, KEEP, POSITIVE)
    got, every = ask(answer, H, KEEP, POSITIVE, what=what), torch.ones_like(KEEP)
    if isinstance(got, Tensor) and got.shape == H.shape[1:]:
        raise NotYet("a difference at each position: wanted one direction, the mean is over texts and positions")
    zeroed = H * KEEP[..., None]
    by_text = zeroed.sum(1) / KEEP.sum(1)[:, None]
    known = {
        "`keep` is not used: padding and the first position are in the means": right_direction(H, every, POSITIVE),
        "what is left out is set to 0 but still counted: index, h[keep], or divide by the number kept": right_direction(
            zeroed, every, POSITIVE
        ),
        "the other way round: positive texts less the others": -want,
        "a mean of the texts' means: here every kept position counts the same, take all rows of a side together": (
            by_text[POSITIVE].mean(0) - by_text[~POSITIVE].mean(0)
        ),
        "sums, wanted means: the sides need not have as many rows": H[POSITIVE][KEEP[POSITIVE]].sum(0)
        - H[~POSITIVE][KEEP[~POSITIVE]].sum(0),
        "normalised: its length is wanted here, a strength comes later": want / want.norm(),
        "the mean of the positive side alone: what both sides share is to be taken off": side(H, KEEP, POSITIVE),
        "the mean of all texts is taken off, wanted that of the other side": side(H, KEEP, POSITIVE) - H[KEEP].mean(0),
    }
    compare(got, want, what=what, known=known)
    first = right_direction(H, every & (torch.arange(9) == 0), POSITIVE)
    return (
        f"Its length is {float(want.norm()):.1f}; from first positions alone, which are massive, it would be "
        f"{float(first.norm()):.1f}. Masks choose rows by index; what is multiplied by 0 still counts in a mean."
    )


def wrong_direction() -> Sequence[Wrong]:
    every = torch.ones_like(KEEP)
    return (
        Wrong("mask ignored", lambda h, k, p: right_direction(h, every, p), "`keep` is not used"),
        Wrong("zeroed", lambda h, k, p: right_direction(h * k[..., None], every, p), "still counted"),
        Wrong("turned round", lambda h, k, p: right_direction(h, k, ~p), "the other way round"),
        Wrong("sums", lambda h, k, p: h[p][k[p]].sum(0) - h[~p][k[~p]].sum(0), "sums, wanted means"),
        Wrong("one side", lambda h, k, p: side(h, k, p), "positive side alone"),
        Wrong("mean of all", lambda h, k, p: side(h, k, p) - h[k].mean(0), "mean of all texts"),
        Wrong("position by position", lambda h, k, p: h[p].mean(0) - h[~p].mean(0), "at each position"),
    )


# 6.2 push(h, v, strength, unit, keep)
V, STRENGTH, UNIT = 0.3 * draw(21, 5), 0.8, 6.0


def right_push(
    h: Float[Tensor, "text pos d"], v: Float[Tensor, " d"], strength: float, unit: float, keep: Bool[Tensor, "text pos"]
) -> Tensor:
    return h + strength * unit * v / v.norm() * keep[..., None]


def check_push(answer: Any) -> str:
    what, args = "push(h, v, strength, unit, keep)", (H, V, STRENGTH, UNIT, KEEP)
    got, want, every = ask(answer, *args, what=what), right_push(*args), torch.ones_like(KEEP)
    known = {
        "pushed at every position: only where keep is true, the first position is left as it is": right_push(
            *args[:4], every
        ),
        "pushed at the positions to leave out: keep is true where to push": right_push(*args[:4], ~KEEP),
        "v is not normalised: only its direction counts, the length is strength * unit": right_push(
            H, V, STRENGTH * float(V.norm()), UNIT, KEEP
        ),
        "unit is forgotten: a strength is in units of the usual length, here of the site's median norm": right_push(
            H, V, STRENGTH, 1.0, KEEP
        ),
        "pushed the other way": right_push(H, -V, STRENGTH, UNIT, KEEP),
        "a share of each position's own norm: wanted the same push everywhere, strength * unit": H
        + STRENGTH * H.norm(dim=-1, keepdim=True) * V / V.norm() * KEEP[..., None],
        "positions to leave out are set to 0: they stay as they are": (H + STRENGTH * UNIT * V / V.norm())
        * KEEP[..., None],
        "that is the push alone: add it to h": want - H,
    }
    compare(got, want, what=what, known=known)
    moved = (want - H).norm(dim=-1)
    return (
        f"{int(KEEP.sum())} of {KEEP.numel()} positions are moved, each by {float(moved.max()):.1f}; the first ones, "
        f"{float(H[:, 0].norm(dim=-1).median()):.0f} long beside {float(H[KEEP].norm(dim=-1).median()):.0f}, are "
        f"not."
    )


def wrong_push() -> Sequence[Wrong]:
    def unit(v: Tensor) -> Tensor:
        return v / v.norm()

    return (
        Wrong("everywhere", lambda h, v, s, u, k: h + s * u * unit(v), "pushed at every position"),
        Wrong("length of v counts", lambda h, v, s, u, k: h + s * u * v * k[..., None], "not normalised"),
        Wrong("unit forgotten", lambda h, v, s, u, k: h + s * unit(v) * k[..., None], "unit is forgotten"),
        Wrong("others zeroed", lambda h, v, s, u, k: (h + s * u * unit(v)) * k[..., None], "set to 0"),
        Wrong("the push alone", lambda h, v, s, u, k: s * u * unit(v) * k[..., None], "the push alone"),
        Wrong("mask turned", lambda h, v, s, u, k: right_push(h, v, s, u, ~k), "keep is true where to push"),
        Wrong("in place", lambda h, v, s, u, k: h.add_(s * u * unit(v)), "in place"),
    )


# 6.3 project(h, v)
ROWS, W = draw(31, 12, 5) + 1, 1.7 * draw(32, 5)


def right_project(h: Float[Tensor, "row d"], v: Float[Tensor, " d"]) -> Float[Tensor, "row d"]:
    unit = v / v.norm()
    return h - (h @ unit)[:, None] * unit


def check_project(answer: Any) -> str:
    what, want, unit = "project(h, v)", right_project(ROWS, W), W / W.norm()
    along = ROWS @ unit
    known = {
        "v is not normalised: divide by its squared length, or take v / |v| first": ROWS - (ROWS @ W)[:, None] * W,
        "divided by the length of v once: the formula holds v twice, so its squared length": ROWS
        - (ROWS @ W)[:, None] * W / W.norm(),
        "that is the part along v: wanted what is left without it": along[:, None] * unit,
        "the part along v is added: take it off": ROWS + along[:, None] * unit,
        "v itself is taken off every row: wanted each row's own part along v": ROWS - W,
        "one length for all rows: each row's own part is taken off": ROWS - along.mean() * unit,
        "only positive parts are taken off: nothing along v may be left, of either sign": ROWS
        - along.relu()[:, None] * unit,
    }
    compare(ask(answer, ROWS, W, what=what), want, what=what, known=known)
    lost = 1 - float(want.square().sum() / ROWS.square().sum())
    return (
        f"Nothing is left along v (a second projection changes nothing), at the price of {lost:.0%} of the squared "
        f"length of these rows: where the mean lies along v, it goes, too."
    )


def wrong_project() -> Sequence[Wrong]:
    return (
        Wrong("v not normalised", lambda h, v: h - (h @ v)[:, None] * v, "squared length"),
        Wrong("normalised once", lambda h, v: h - (h @ v)[:, None] * v / v.norm(), "holds v twice"),
        Wrong("the part along v", lambda h, v: h - right_project(h, v), "what is left without it"),
        Wrong("v from each row", lambda h, v: h - v, "own part along v"),
        Wrong("added", lambda h, v: 2 * h - right_project(h, v), "take it off"),
        Wrong("the mean part", lambda h, v: h - (h @ v).mean() * v / v.square().sum(), "one length for all rows"),
    )


# 6.4 ablate(h, encode, decode, latent)
X, ENC, DEC, BIAS = draw(41, 15, 5), draw(42, 5, 8), 0.5 * draw(43, 8, 5), draw(44, 5)
LATENT = 3


def encode(h: Tensor) -> Tensor:
    return (h @ ENC - 0.5).relu()


def decode(z: Tensor) -> Tensor:
    return z @ DEC + BIAS


Map = Callable[[Tensor], Tensor]


def without(z: Tensor, latent: int) -> Tensor:
    return z * (torch.arange(z.shape[-1]) != latent)


def right_ablate(h: Float[Tensor, "row d"], encode: Map, decode: Map, latent: int) -> Float[Tensor, "row d"]:
    z = encode(h)
    return h + decode(without(z, latent)) - decode(z)


def check_ablate(answer: Any) -> str:
    what, args = "ablate(h, encode, decode, latent)", (X, encode, decode, LATENT)
    want, z = right_ablate(*args), encode(X)
    atom = DEC[LATENT] / DEC[LATENT].norm()
    known = {
        "nothing changes: were z and the ablated code the same tensor? Change a copy, z.clone()": X,
        "that is the reconstruction without the latent: the error x - x_hat is lost, add only the change to h": decode(
            without(z, LATENT)
        ),
        "the latent is alone what is left: set this one to 0, keep the others": X
        + decode(z - without(z, LATENT))
        - decode(z),
        "turned round: decode(without the latent) - decode(with it)": X - decode(without(z, LATENT)) + decode(z),
        "the row of that number is set to 0, wanted the latent: z[:, latent]": X
        + decode(z * (torch.arange(len(z)) != LATENT)[:, None])
        - decode(z),
        "the bias is taken away, too: the difference of two decoded codes has none": want - BIAS,
        "the atom is projected out: wanted only what the latent wrote, its value times its atom": X
        - (X @ atom)[:, None] * atom,
    }
    compare(ask(answer, *args, what=what), want, what=what, known=known)
    active = z[:, LATENT] > 0
    error = float((X - decode(z)).norm(dim=-1).mean())
    return (
        f"{int(active.sum())} of {len(X)} rows change, those where the latent is on. Had the error been thrown away, "
        f"all would, by {error:.1f} on average: such a cost says nothing about the latent."
    )


def wrong_ablate() -> Sequence[Wrong]:
    def aliased(h: Tensor, encode: Map, decode: Map, latent: int) -> Tensor:
        z = encode(h)
        z0 = z
        z0[:, latent] = 0
        return h + decode(z0) - decode(z)

    def by_row(h: Tensor, encode: Map, decode: Map, latent: int) -> Tensor:
        z = encode(h)
        z0 = z.clone()
        z0[latent] = 0
        return h + decode(z0) - decode(z)

    return (
        Wrong("aliased", aliased, "nothing changes"),
        Wrong("error lost", lambda h, e, d, i: d(without(e(h), i)), "the error x - x_hat is lost"),
        Wrong("turned round", lambda h, e, d, i: 2 * h - right_ablate(h, e, d, i), "turned round"),
        Wrong("a row for a column", by_row, "z[:, latent]"),
        Wrong("the bias too", lambda h, e, d, i: h - d(e(h) - without(e(h), i)), "the bias is taken away"),
        Wrong(
            "projected out",
            lambda h, e, d, i: right_project(h, d(torch.eye(8)[i]) - d(torch.zeros(8))),
            "projected out",
        ),
    )


# 6.5 kl(clean, steered, keep)
BEFORE = 2 * draw(51, 4, 6, 11)
AFTER = BEFORE + draw(52, 4, 6, 11)
K_KEEP = (torch.arange(6) < torch.tensor([6, 4, 5, 6])[:, None]) & (torch.arange(6) > 0)


def each_kl(clean: Tensor, steered: Tensor) -> Float[Tensor, "text pos"]:
    p, q = clean.log_softmax(-1), steered.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def right_kl(clean: Float[Tensor, "text pos vocab"], steered: Tensor, keep: Bool[Tensor, "text pos"]) -> float:
    return float(each_kl(clean, steered)[keep].mean())


def check_kl(answer: Any) -> str:
    what, right, all_ = "kl(clean, steered, keep)", right_kl(BEFORE, AFTER, K_KEEP), each_kl(BEFORE, AFTER)
    got, p, q = ask(answer, BEFORE, AFTER, K_KEEP, what=what), BEFORE.log_softmax(-1), AFTER.log_softmax(-1)
    known = {
        "the other direction: KL(clean || steered) weighs by the clean probabilities": right_kl(AFTER, BEFORE, K_KEEP),
        "every position is in it: take those that keep marks, by index": float(all_.mean()),
        "what is left out is set to 0 but still counted: index with keep before the mean": float(
            (all_ * K_KEEP).mean()
        ),
        "a sum over positions, wanted the mean": float(all_[K_KEEP].sum()),
        "a mean over the vocabulary: sum over it, then the mean over positions": right / BEFORE.shape[-1],
        "in bits, wanted nats": right / float(torch.log(torch.tensor(2.0))),
        "the logits are not normalised: log_softmax(-1) first": float(
            (p.exp() * (BEFORE - AFTER)).sum(-1)[K_KEEP].mean()
        ),
        "the sum over texts, divided by their number: wanted the mean over kept positions": float(
            (all_ * K_KEEP).sum() / len(all_)
        ),
        "a mean of the texts' means: wanted the mean over all kept positions": float(
            ((all_ * K_KEEP).sum(1) / K_KEEP.sum(1)).mean()
        ),
        "that is a cross-entropy: take the clean entropy off, or write p * (log p - log q)": float(
            -(p.exp() * q).sum(-1)[K_KEEP].mean()
        ),
    }
    number(got, right, what=what, known=known)
    back = right_kl(AFTER, BEFORE, K_KEEP)
    return (
        f"{right:.3f} nats; in the other direction it would be {back:.3f}. It is 0 only where nothing changed, and "
        f"counts the wanted change with the unwanted: damage is to be compared at equal KL, or success at equal damage."
    )


def wrong_kl() -> Sequence[Wrong]:
    return (
        Wrong("other direction", lambda p, q, k: right_kl(q, p, k), "the other direction"),
        Wrong("mask ignored", lambda p, q, k: each_kl(p, q).mean(), "every position is in it"),
        Wrong("zeroed", lambda p, q, k: (each_kl(p, q) * k).mean(), "still counted"),
        Wrong("sum", lambda p, q, k: each_kl(p, q)[k].sum(), "wanted the mean"),
        Wrong("mean over everything", lambda p, q, k: each_kl(p, q)[k].mean() / p.shape[-1], "over the vocabulary"),
        Wrong("logits", lambda p, q, k: (p.softmax(-1) * (p - q)).sum(-1)[k].mean(), "not normalised"),
        Wrong("one for each position", lambda p, q, k: each_kl(p, q)[k], "must be one number"),
    )


# 6.6 at_damage(damage, success, level)
DAMAGE, SUCCESS = torch.tensor([0.0, 0.05, 0.2, 0.7, 1.6]), torch.tensor([-7.0, -6.6, -5.7, -4.1, -3.5])
LEVEL = 0.3


def right_at_damage(damage: Float[Tensor, " strength"], success: Tensor, level: float) -> float:
    over = (damage >= level).nonzero()[:, 0].tolist()
    if not over:
        return nan
    i = over[0]
    if i == 0:
        return float(success[0])
    share = (level - damage[i - 1]) / (damage[i] - damage[i - 1])
    return float(success[i - 1] + share * (success[i] - success[i - 1]))


def check_at_damage(answer: Any) -> str:
    what, right = "at_damage(damage, success, level)", right_at_damage(DAMAGE, SUCCESS, LEVEL)
    got, far = (ask(answer, DAMAGE, SUCCESS, level, what=what) for level in (LEVEL, 2.5))
    near = int((DAMAGE - LEVEL).abs().argmin())
    known = {
        "the nearest strength, whose damage is not the level: draw a line between its neighbours": float(SUCCESS[near]),
        "the last strength below the level: its damage is smaller; draw a line to the next": float(SUCCESS[2]),
        "the first strength above the level: its damage is larger; draw a line from the one before": float(SUCCESS[3]),
        "the largest success of all, whatever its damage": float(SUCCESS.max()),
        "that is a damage: wanted success where damage is the level": float(
            np.interp(LEVEL, SUCCESS.numpy(), DAMAGE.numpy())
        ),
        "halfway between the neighbours: the level divides them otherwise": float(SUCCESS[2:4].mean()),
        "a line through the ends of the sweep: take the two strengths around the level": float(
            SUCCESS[0] + (SUCCESS[-1] - SUCCESS[0]) * LEVEL / DAMAGE[-1]
        ),
        "a gain over strength 0: wanted success itself": right - float(SUCCESS[0]),
    }
    number(got, right, what=what, known=known)
    if far is None:
        raise NotYet(
            "where the sweep never reaches the level, give float('nan'), not None: it is to be drawn and averaged"
        )
    if float(far) == float(far):
        how = "its last value" if abs(float(far) - float(SUCCESS[-1])) < 1e-3 else "a line drawn on beyond it"
        raise NotYet(
            f"the sweep ends at a damage of 1.6; at 2.5 you give {how}: wanted float('nan'), nothing is known there"
        )
    return (
        f"{right:.2f} at a damage of {LEVEL:g}, between {float(SUCCESS[2]):.1f} and {float(SUCCESS[3]):.1f}. At equal "
        f"strength two methods would be compared at different damage, and the stronger push would win."
    )


def wrong_at_damage() -> Sequence[Wrong]:
    return (
        Wrong("nearest", lambda d, s, x: s[(d - x).abs().argmin()], "draw a line between"),
        Wrong("first above", lambda d, s, x: s[min(int((d < x).sum()), len(s) - 1)], "draw a line from"),
        Wrong("best of all", lambda d, s, x: s.max(), "the largest success"),
        Wrong("clamped", lambda d, s, x: float(np.interp(x, d.numpy(), s.numpy())), "its last value"),
        Wrong("axes swapped", lambda d, s, x: float(np.interp(x, s.numpy(), d.numpy())), "that is a damage"),
        Wrong(
            "None beyond the end",
            lambda d, s, x: right_at_damage(d, s, x) if x <= float(d[-1]) else None,
            "not None",
        ),
        Wrong("a gain", lambda d, s, x: right_at_damage(d, s, x) - float(s[0]), "over strength 0"),
    )


# 6.7 against(value, random)
RANDOM = torch.tensor(
    [0.31, -0.12, 0.45, 0.08, 0.62, 0.27, -0.03, 0.19, 0.95, 0.38, 0.11, 0.50, 0.24, 0.33, -0.20, 0.05]
)
VALUE = 0.55


def right_against(value: float, random: Float[Tensor, " draw"]) -> dict[str, float]:
    low, high = np.quantile(random.double().numpy(), [0.025, 0.975]).tolist()
    return {"p": (1 + int((random >= value).sum())) / (1 + len(random)), "low": low, "high": high}


def check_against(answer: Any) -> str:
    what, want = "against(value, random)", right_against(VALUE, RANDOM)
    got = entries(ask(answer, VALUE, RANDOM, what=what), tuple(want), what=what)
    n, above, mean, sd = len(RANDOM), int((RANDOM >= VALUE).sum()), float(RANDOM.mean()), float(RANDOM.std())
    p = f"{what}['p']"
    number(got["p"], want["p"], what=p, known={
        f"{p} lacks the value itself: (1 + number at least as large) / (1 + draws), or p could be 0": above / n,
        f"{p} counts the draws below: wanted those at least as large": (1 + n - above) / (1 + n),
        f"{p} is two-sided: the question is whether it beats a random push, one side": 2 * want["p"],
        f"{p} counts the value above only, in one of the two places": above / (1 + n),
        f"{p} divides by the draws alone: the value counts below, too": (1 + above) / n,
    })  # fmt: skip
    for name, sign, q in (("low", -1, 0.025), ("high", 1, 0.975)):
        each = f"{what}[{name!r}]"
        number(got[name], want[name], what=each, known={
            f"{each} is that of the mean of the draws, and shrinks with their number: wanted where draws lie, the "
            f"quantile at {q:g}": mean + sign * 1.96 * sd / n**0.5,
            f"{each} takes the draws as normal: wanted their own quantile at {q:g}": mean + sign * 1.96 * sd,
            f"{each} is one standard deviation from the mean: wanted the quantile at {q:g}": mean + sign * sd,
            f"{each} is the {'smallest' if sign < 0 else 'largest'} draw: wanted the quantile at {q:g}": float(
                RANDOM.min() if sign < 0 else RANDOM.max()
            ),
            f"{each} is the quantile at {0.05 if sign < 0 else 0.95:g}: wanted 0.025 and 0.975": float(
                np.quantile(RANDOM.double().numpy(), 0.05 if sign < 0 else 0.95)
            ),
            f"{each} is the other end": want["high" if sign < 0 else "low"],
        })  # fmt: skip
    return (
        f"{above} of {n} draws reach {VALUE:g}, so p = {want['p']:.2f}, and 95% of them lie in {want['low']:.2f} to "
        f"{want['high']:.2f}. With {n} draws no p is below {1 / (1 + n):.3f}, however good the push."
    )


def wrong_against() -> Sequence[Wrong]:
    def of(random: Tensor, p: float | None = None, ends: tuple[float, float] | None = None) -> dict[str, float]:
        right = right_against(VALUE, random)
        low, high = ends or (right["low"], right["high"])
        return {"p": right["p"] if p is None else p, "low": low, "high": high}

    def spread(random: Tensor, by: float) -> tuple[float, float]:
        mean, sd = float(random.mean()), float(random.std())
        return mean - by * sd, mean + by * sd

    return (
        Wrong("p may be 0", lambda v, r: of(r, float((r >= v).float().mean())), "lacks the value itself"),
        Wrong("the other tail", lambda v, r: of(r, (1 + int((r < v).sum())) / (1 + len(r))), "at least as large"),
        Wrong("two-sided", lambda v, r: of(r, 2 * (1 + int((r >= v).sum())) / (1 + len(r))), "two-sided"),
        Wrong("of the mean", lambda v, r: of(r, ends=spread(r, 1.96 / len(r) ** 0.5)), "shrinks with their number"),
        Wrong("as if normal", lambda v, r: of(r, ends=spread(r, 1.96)), "takes the draws as normal"),
        Wrong("range", lambda v, r: of(r, ends=(float(r.min()), float(r.max()))), "is the smallest draw"),
        Wrong("p alone", lambda v, r: {"p": right_against(v, r)["p"]}, "lacks 'low'"),
    )


# 6.8 verdict(steered, random)
STEERED, CLOSE_CALL = torch.tensor([1.9, 2.6, 2.2]), torch.tensor([0.5, 1.2, 0.8])  # by seed
DRAWS = 0.6 + 0.4 * draw(81, 3, 10)


def right_verdict(
    steered: Float[Tensor, " seed"], random: Float[Tensor, "seed draw"], *, wide: float | None = None
) -> dict[str, Any]:
    from scipy.stats import t

    gaps = (steered - random.mean(1)).double()
    n = len(gaps)
    half = float(gaps.std()) / n**0.5 * (float(t.ppf(0.975, n - 1)) if wide is None else wide)
    mean = float(gaps.mean())
    return {"difference": mean, "low": mean - half, "high": mean + half, "steers": mean - half > 0}


def check_verdict(answer: Any) -> str:
    what, want = "verdict(steered, random)", right_verdict(STEERED, DRAWS)
    got = entries(ask(answer, STEERED, DRAWS, what=what), tuple(want), what=what)
    gaps, mean = STEERED - DRAWS.mean(1), want["difference"]
    n, t_wide, each = len(gaps), want["high"] - mean, f"{what}['difference']"
    number(got["difference"], mean, what=each, known={
        f"{each} is the random push less the steered one: turn it round": -mean,
        f"{each} leaves the random pushes out: take their mean off, seed by seed": float(STEERED.mean()),
        f"{each} is against the best random draw: wanted their mean": float((STEERED - DRAWS.max(1).values).mean()),
        f"{each} is that of the best seed: wanted the mean over seeds": float(gaps.max()),
    })  # fmt: skip
    pooled = (STEERED[:, None] - DRAWS).flatten()
    sd, normal = float(gaps.std()), 1.96 * float(gaps.std()) / n**0.5
    for name, sign in (("low", -1), ("high", 1)):
        each = f"{what}[{name!r}]"
        number(got[name], want[name], what=each, known={
            f"{each} uses 1.96: with {n} seeds Student's t is wider, t.ppf(0.975, {n - 1})": mean + sign * normal,
            f"{each} counts every random draw as a sample: seeds are what was repeated, n = {n}": mean
            + sign * 1.96 * float(pooled.std()) / len(pooled) ** 0.5,
            f"{each} has too many degrees of freedom: n - 1": right_verdict(STEERED, DRAWS, wide=_t(n))[name],
            f"{each} is the spread of seeds: that of their mean is over sqrt(n)": mean + sign * t_wide * n**0.5,
            f"{each} is one standard deviation away: wanted a 95% interval of the mean": mean + sign * sd,
            f"{each} is one standard error away: wanted t.ppf(0.975, n - 1) of them": mean + sign * sd / n**0.5,
            f"{each} divides squares by n: a sample's is over n - 1": mean + sign * t_wide * ((n - 1) / n) ** 0.5,
            f"{each} is the one-sided t: 0.975 leaves 2.5% on each side": right_verdict(
                STEERED, DRAWS, wide=_t(n - 1, 0.95)
            )[name],
        })  # fmt: skip
    less = ask(answer, CLOSE_CALL, DRAWS, what=what)
    for data, said, truth in ((STEERED, got, want), (CLOSE_CALL, less, right_verdict(CLOSE_CALL, DRAWS))):
        if not isinstance(said["steers"], bool | np.bool_) and not (
            isinstance(said["steers"], Tensor) and said["steers"].numel() == 1
        ):
            raise NotYet(f"{what}['steers'] must be True or False, got {said['steers']!r}")
        if bool(said["steers"]) != truth["steers"]:
            seeds = ", ".join(f"{v:.2f}" for v in data.tolist())
            raise NotYet(
                f"{what}['steers'] is {bool(said['steers'])} for seeds {seeds}: the whole interval must lie "
                f"above 0, and here that is {truth['low']:.2f} to {truth['high']:.2f}"
            )
    return (
        f"{mean:.2f} [{want['low']:.2f}, {want['high']:.2f}] over {n} seeds; with 1.96 for t the interval would be "
        f"{t_wide / normal:.1f} times too narrow. More random draws would not narrow it: seeds are repeated here."
    )


def _t(freedom: int, at: float = 0.975) -> float:
    from scipy.stats import t

    return float(t.ppf(at, freedom))


def wrong_verdict() -> Sequence[Wrong]:
    def pooled(s: Tensor, r: Tensor) -> dict[str, Any]:
        gaps = (s[:, None] - r).flatten()
        half, mean = 1.96 * float(gaps.std()) / len(gaps) ** 0.5, float(gaps.mean())
        return {"difference": mean, "low": mean - half, "high": mean + half, "steers": mean > half}

    def alone(s: Tensor, r: Tensor) -> dict[str, Any]:
        return right_verdict(s, torch.zeros_like(r))

    right = right_verdict
    return (
        Wrong("normal", lambda s, r: right(s, r, wide=1.96), "uses 1.96"),
        Wrong("draws as samples", pooled, "counts every random draw"),
        Wrong("no control", alone, "leaves the random pushes out"),
        Wrong("spread of seeds", lambda s, r: right(s, r, wide=_t(2) * 3**0.5), "over sqrt(n)"),
        Wrong("degrees of freedom", lambda s, r: right(s, r, wide=_t(3)), "degrees of freedom"),
        Wrong("turned round", lambda s, r: right(-s, -r), "turn it round"),
        Wrong(
            "the mean is enough", lambda s, r: right(s, r) | {"steers": bool((s > r.mean(1)).all())}, "whole interval"
        ),
        Wrong("words", lambda s, r: right(s, r) | {"steers": "yes"}, "True or False"),
    )


EXERCISES = {
    "6.1": Exercise(check_direction, lambda: right_direction, wrong_direction),
    "6.2": Exercise(check_push, lambda: right_push, wrong_push),
    "6.3": Exercise(check_project, lambda: right_project, wrong_project),
    "6.4": Exercise(check_ablate, lambda: right_ablate, wrong_ablate),
    "6.5": Exercise(check_kl, lambda: right_kl, wrong_kl),
    "6.6": Exercise(check_at_damage, lambda: right_at_damage, wrong_at_damage),
    "6.7": Exercise(check_against, lambda: right_against, wrong_against),
    "6.8": Exercise(check_verdict, lambda: right_verdict, wrong_verdict),
}


SEEDS, LATENTS, K = (0, 1, 2), 512, 16  # of the model; of the lesson's dictionaries


def read_from(texts: int) -> Any:
    """What vectors, targets and dictionaries are made from: windows of the training part."""
    return tiny_text.windows(np.random.default_rng(0), texts, False)


def dictionaries(place: Path, small: bool) -> dict[int, Dictionary]:
    """A TopK dictionary of the stream behind the first layer, for each seed of the model."""
    ids, found = read_from(100 if small else 600).ids, {}
    for seed in SEEDS[: 1 if small else None]:
        model = testbeds.subject("tiny_text_gelu", seed=seed)
        stream = Live(model, Tokens(ids, ids >= 0), site=SITE, steps=40 if small else 150, batch=8, seed=seed)
        plan = recipe("topk", d=model.d, latents=LATENTS, k=K, seed=seed)
        found[seed] = train(plan, stream, site=SITE, lr=3e-3, seed=seed, progress=False, folder=place / str(seed))
    return found


CAUGHT_UP = {"6.4": dictionaries}

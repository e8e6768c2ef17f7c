"""Lesson 5, trace and test a circuit: its checks and the mistakes they foresee, and the transcoders its graph needs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import testbeds
from ..dictionary import Dictionary
from ..harvest import corpus
from ..regimes import layers
from .hints import NotYet, ask, compare, draw, entries, number, tensor
from .lessons import Exercise, Wrong

# 5.1 logit_difference(logits, right, wrong)
LOGITS = 3 * draw(11, 5, 7, 20)
RIGHT, WRONG = torch.tensor([3, 17, 0, 9, 12]), torch.tensor([8, 2, 5, 19, 1])


def right_difference(
    logits: Float[Tensor, "text pos vocab"], right: Int[Tensor, " text"], wrong: Int[Tensor, " text"]
) -> Float[Tensor, " text"]:
    last, row = logits[:, -1], torch.arange(len(right))
    return last[row, right] - last[row, wrong]


def check_difference(answer: Any) -> str:
    what, want = "logit_difference(logits, right, wrong)", right_difference(LOGITS, RIGHT, WRONG)
    got, p = ask(answer, LOGITS, RIGHT, WRONG, what=what), LOGITS.softmax(-1)
    if isinstance(got, Tensor) and got.shape == (len(RIGHT),) * 2:
        raise NotYet("every text got every text's tokens, (text, text): index both axes, last[row, right]")
    if isinstance(got, Tensor) and got.shape == LOGITS.shape[:2]:
        raise NotYet("a difference at every position: wanted the last one only, logits[:, -1]")
    if isinstance(got, Tensor) and got.numel() == 1 or isinstance(got, float):
        raise NotYet("one number for all texts, wanted one for each: the mean comes later, beside its spread")
    known = {
        "those are probabilities: wanted logits, whose differences parts of the model add up to": right_difference(
            p, RIGHT, WRONG
        ),
        "the right token's log-probability alone: wanted its logit less the wrong one's": right_difference(
            p.log(), RIGHT, WRONG
        )
        + p.log()[:, -1].gather(1, WRONG[:, None])[:, 0],
        "the right token's logit alone: the wrong one's is to be taken off": LOGITS[:, -1].gather(1, RIGHT[:, None])[
            :, 0
        ],
        "taken at the first position, wanted the last": right_difference(LOGITS[:, :1], RIGHT, WRONG),
        "a mean over positions: only the last one answers": right_difference(LOGITS.mean(1)[:, None], RIGHT, WRONG),
    }
    compare(got, want, what=what, known=known)
    best = float(want.max())
    return (
        f"Log-probabilities would differ by just as much: their normaliser cancels. The {best:.1f} nats of text "
        f"{int(want.argmax())} say that right is {2.718281828**best:.0f} times as likely as wrong; and they are a sum "
        f"over the model's parts."
    )


def wrong_difference() -> Sequence[Wrong]:
    right = right_difference
    return (
        Wrong("turned round", lambda z, a, b: right(z, b, a), "right up to sign"),
        Wrong("probabilities", lambda z, a, b: right(z.softmax(-1), a, b), "those are probabilities"),
        Wrong("every text's tokens", lambda z, a, b: z[:, -1][:, a] - z[:, -1][:, b], "index both axes"),
        Wrong("no control", lambda z, a, b: z[torch.arange(len(a)), -1, a], "logit alone"),
        Wrong("a mean over texts", lambda z, a, b: right(z, a, b).mean(), "one for each"),
        Wrong("first position", lambda z, a, b: right(z[:, :1], a, b), "wanted the last"),
        Wrong("mean over positions", lambda z, a, b: right(z.mean(1, keepdim=True), a, b), "only the last one"),
    )


# 5.2 attribution(parts, gain, direction)
PARTS = draw(21, 4, 3, 12) * torch.tensor([3.0, 1.0, 2.0])[:, None] + 0.7
GAIN, TOWARDS = 1 + 0.4 * draw(22, 12), draw(23, 4, 12)


def held_scale(whole: Tensor) -> Tensor:
    """What the final LayerNorm divides by."""
    return (whole.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def right_attribution(
    parts: Float[Tensor, "text part d"],
    gain: Float[Tensor, " d"],
    direction: Float[Tensor, "text d"],
    *,
    scale: Tensor | None = None,
    centre: bool = True,
) -> Float[Tensor, "text part"]:
    scale = held_scale(parts.sum(1))[:, None] if scale is None else scale
    written = parts - parts.mean(-1, keepdim=True) if centre else parts
    return (written / scale * gain * direction[:, None]).sum(-1)


def check_attribution(answer: Any) -> str:
    what, args = "attribution(parts, gain, direction)", (PARTS, GAIN, TOWARDS)
    got, whole, one = ask(answer, *args, what=what), PARTS.sum(1), torch.ones(1)
    if isinstance(got, Tensor) and got.shape == (len(PARTS),):
        raise NotYet("the parts are summed: wanted one number for each text and part, (text, part)")
    known = {
        "each part is divided by its own spread: the norm is held, one scale, that of the sum of all parts": (
            right_attribution(*args, scale=held_scale(PARTS))
        ),
        "the parts are not centred: LayerNorm takes the mean over d away before it divides": right_attribution(
            *args, centre=False
        ),
        "nothing is divided: the final norm divides by the spread of the sum of all parts": right_attribution(
            *args, scale=one
        ),
        "gain is forgotten: the norm multiplies by it before the unembedding reads": right_attribution(
            PARTS, torch.ones_like(GAIN), TOWARDS
        ),
        "neither norm nor gain: that is parts @ direction, what the unembedding would read without its norm": (
            PARTS * TOWARDS[:, None]
        ).sum(-1),
        "divided by the length: LayerNorm divides by the standard deviation, the length over sqrt(d)": (
            right_attribution(*args, scale=(whole - whole.mean(-1, keepdim=True)).norm(dim=-1)[:, None, None])
        ),
        "that is RMSNorm's scale: LayerNorm's is the spread around the mean": right_attribution(
            *args, scale=whole.square().mean(-1).sqrt()[:, None, None]
        ),
        "the spread over n - 1: LayerNorm divides by n, var(unbiased=False)": right_attribution(
            *args, scale=whole.std(-1)[:, None, None]
        ),
    }
    want = right_attribution(*args)
    compare(got, want, what=what, known=known)
    own = right_attribution(*args, scale=held_scale(PARTS)).sum(1) / want.sum(1)
    return (
        f"The parts add up to what all of them together say. Had each its own scale, the sums of these {len(PARTS)} "
        f"texts would be {float(own.min()):.1f} to {float(own.max()):.1f} times that. Held: what a part does to the "
        f"norm, and to later parts, is left out."
    )


def wrong_attribution() -> Sequence[Wrong]:
    own: Callable[..., Tensor] = right_attribution
    return (
        Wrong("own scales", lambda p, g, v: own(p, g, v, scale=held_scale(p)), "divided by its own spread"),
        Wrong("not centred", lambda p, g, v: own(p, g, v, centre=False), "not centred"),
        Wrong("no norm at all", lambda p, g, v: (p * v[:, None]).sum(-1), "neither norm nor gain"),
        Wrong("gain forgotten", lambda p, g, v: own(p, torch.ones_like(g), v), "gain is forgotten"),
        Wrong("no scale", lambda p, g, v: own(p, g, v, scale=torch.ones(1)), "nothing is divided"),
        Wrong("summed", lambda p, g, v: own(p, g, v).sum(1), "the parts are summed"),
        Wrong("axes", lambda p, g, v: own(p, g, v).T, "transposed"),
    )


# 5.3 effect(patched, clean, corrupted)
CLEAN, CORRUPTED = 6 + draw(31, 30), 1 + draw(32, 30)
PATCHED = CORRUPTED + 0.4 * (CLEAN - CORRUPTED) + 0.5 * draw(33, 30)


def right_effect(patched: Tensor, clean: Tensor, corrupted: Tensor) -> float:
    return float((patched - corrupted).mean() / (clean - corrupted).mean())


def check_effect(answer: Any) -> str:
    what, right = "effect(patched, clean, corrupted)", right_effect(PATCHED, CLEAN, CORRUPTED)
    got = ask(answer, PATCHED, CLEAN, CORRUPTED, what=what)
    known = {
        "that is what is still missing: 0 is the corrupted run, 1 the clean one": 1 - right,
        "not normalised: divide by how far the clean run is from the corrupted one": float(
            (PATCHED - CORRUPTED).mean()
        ),
        "divided by the clean value: the corrupted run is not at 0, take it off below, too": float(
            (PATCHED - CORRUPTED).mean() / CLEAN.mean()
        ),
        "a share of the clean value: take the corrupted value off, above and below": float(
            PATCHED.mean() / CLEAN.mean()
        ),
        "a mean of ratios, one for each text: where the runs are close one text outweighs all; means first": (
            float(((PATCHED - CORRUPTED) / (CLEAN - CORRUPTED)).mean())
        ),
    }
    number(got, right, what=what, known=known)
    ratios = (PATCHED - CORRUPTED) / (CLEAN - CORRUPTED)
    return (
        f"{right:.2f} of the way back. By text the ratios run from {float(ratios.min()):.1f} to "
        f"{float(ratios.max()):.1f}, which is why means are divided, not ratios averaged. Nothing keeps an effect "
        f"within 0 to 1."
    )


def wrong_effect() -> Sequence[Wrong]:
    return (
        Wrong("from the clean end", lambda p, c, x: (c - p).mean() / (c - x).mean(), "still missing"),
        Wrong("not normalised", lambda p, c, x: (p - x).mean(), "not normalised"),
        Wrong("corrupted at 0", lambda p, c, x: p.mean() / c.mean(), "above and below"),
        Wrong("mean of ratios", lambda p, c, x: ((p - x) / (c - x)).mean(), "a mean of ratios"),
        Wrong("sign", lambda p, c, x: (x - p).mean() / (c - x).mean(), "right up to sign"),
        Wrong("one for each text", lambda p, c, x: (p - x) / (c - x), "must be one number"),
    )


# 5.4 estimate(clean, corrupted, gradient)
H_CLEAN, H_OTHER, H_GRAD = draw(41, 3, 6, 4, 5), draw(42, 3, 6, 4, 5), draw(43, 3, 6, 4, 5)


def right_estimate(
    clean: Float[Tensor, "text pos head width"], corrupted: Tensor, gradient: Tensor
) -> Float[Tensor, "text head"]:
    return ((clean - corrupted) * gradient).sum((1, 3))


def check_estimate(answer: Any) -> str:
    what, change = "estimate(clean, corrupted, gradient)", H_CLEAN - H_OTHER
    got = ask(answer, H_CLEAN, H_OTHER, H_GRAD, what=what)
    if isinstance(got, Tensor) and got.shape == H_CLEAN.shape[:3]:
        raise NotYet("one number for each position: the whole head is patched, so sum over positions, too")
    if isinstance(got, Tensor) and got.shape == H_CLEAN.shape[:2]:
        raise NotYet("summed over heads, wanted (text, head): sum over positions and width, dims 1 and 3")
    if isinstance(got, Tensor) and got.shape == H_CLEAN.shape[2:3]:
        raise NotYet("texts are summed, too: wanted (text, head)")
    known = {
        "gradient times activation: wanted gradient times the change, clean - corrupted": (H_CLEAN * H_GRAD).sum(
            (1, 3)
        ),
        "gradient times the corrupted activation: wanted gradient times clean - corrupted": (H_OTHER * H_GRAD).sum(
            (1, 3)
        ),
        "a mean over positions or width: each of them is patched, so their changes add up": (change * H_GRAD).mean(
            (1, 3)
        ),
        "a mean over positions: all of them are patched, so their changes add up": (change * H_GRAD).mean(1).sum(-1),
        "sizes are summed: a push and a pull may cancel, keep the signs": (change * H_GRAD).abs().sum((1, 3)),
        "lengths are multiplied: wanted the inner product, of which only what lies along the gradient counts": (
            change.norm(dim=-1) * H_GRAD.norm(dim=-1)
        ).sum(1),
    }
    compare(got, right_estimate(H_CLEAN, H_OTHER, H_GRAD), what=what, known=known)
    x = torch.tensor([0.0, 6.0])
    true, slope = float(x.sigmoid()[1] - x.sigmoid()[0]), float(x.sigmoid()[1] * (1 - x.sigmoid()[1]) * 6)
    return (
        f"One backward pass for all heads in place of one run each, exact where the rest is linear. Where it is not: "
        f"sigmoid from 0 to 6 rises by {true:.2f}, the slope at 6 says {slope:.2f}. Where an attention pattern is "
        f"saturated, an important head looks idle."
    )


def wrong_estimate() -> Sequence[Wrong]:
    right = right_estimate
    return (
        Wrong("gradient times activation", lambda c, x, g: (c * g).sum((1, 3)), "gradient times activation"),
        Wrong("turned round", lambda c, x, g: right(x, c, g), "right up to sign"),
        Wrong("mean", lambda c, x, g: ((c - x) * g).mean((1, 3)), "each of them is patched"),
        Wrong("positions kept", lambda c, x, g: ((c - x) * g).sum(-1), "one number for each position"),
        Wrong("heads summed", lambda c, x, g: ((c - x) * g).sum((2, 3)), "summed over heads"),
        Wrong("texts summed", lambda c, x, g: right(c, x, g).sum(0), "texts are summed"),
        Wrong("absolute", lambda c, x, g: ((c - x) * g).abs().sum((1, 3)), "keep the signs"),
    )


# 5.5 scores(circuit, rest, model, nothing)
M = {"circuit": 7.1, "rest": 3.3, "model": 9.0, "nothing": 2.5}


def right_scores(circuit: float, rest: float, model: float, nothing: float) -> dict[str, float]:
    span = model - nothing
    return {"faithfulness": (circuit - nothing) / span, "completeness": (rest - nothing) / span}


def check_scores(answer: Any) -> str:
    what, want = "scores(circuit, rest, model, nothing)", right_scores(**M)
    got = entries(ask(answer, *M.values(), what=what), tuple(want), what=what)
    for name, part in (("faithfulness", "circuit"), ("completeness", "rest")):
        each, other = f"{what}[{name!r}]", "rest" if part == "circuit" else "circuit"
        known = {
            f"{each} is taken of `{other}`: {name} is that of `{part}`": want[
                "completeness" if part == "circuit" else "faithfulness"
            ],
            f"{each} is a share of the model's value: take m(nothing) off, above and below": M[part] / M["model"],
            f"{each} divides by the model's value: m(nothing) is to be taken off below, too": (M[part] - M["nothing"])
            / M["model"],
            f"{each} is the gap to the model: wanted 0 at nothing, 1 at the model": (M["model"] - M[part])
            / (M["model"] - M["nothing"]),
            f"{each} is not normalised: divide by m(model) - m(nothing)": M[part] - M["nothing"],
        }
        number(got[name], want[name], what=each, known=known)
    return (
        f"Faithfulness {want['faithfulness']:.2f}: the circuit alone does that much. Completeness "
        f"{want['completeness']:.2f}: all the rest still does this much, and near 0 is good. A circuit needs both, "
        f"beside circuits of its size drawn at random."
    )


def wrong_scores() -> Sequence[Wrong]:
    def of(way: Callable[[float, float, float], float]) -> Callable[..., dict[str, float]]:
        return lambda c, r, m, n: {"faithfulness": way(c, m, n), "completeness": way(r, m, n)}

    return (
        Wrong("swapped", lambda c, r, m, n: right_scores(r, c, m, n), "faithfulness is that of `circuit`"),
        Wrong("share of the model", of(lambda v, m, n: v / m), "above and below"),
        Wrong("nothing left in below", of(lambda v, m, n: (v - n) / m), "taken off below, too"),
        Wrong("the gap", of(lambda v, m, n: (m - v) / (m - n)), "the gap to the model"),
        Wrong("not normalised", of(lambda v, m, n: v - n), "not normalised"),
        Wrong(
            "completeness as a gap",
            lambda c, r, m, n: {"faithfulness": (c - n) / (m - n), "completeness": (m - r) / (m - n)},
            "wanted 0 at nothing",
        ),
        Wrong("one of two", lambda c, r, m, n: {"faithfulness": (c - n) / (m - n)}, "lacks 'completeness'"),
    )


# 5.6 edges(values, atoms, whole, gain, direction)
VALUES, ATOMS, WHOLE = draw(57, 7).abs(), draw(52, 7, 10) + 0.3, 4 * draw(53, 10) + 0.5
E_GAIN, E_TOWARDS = 1 + 0.4 * draw(54, 10), draw(55, 10)


def right_edges(
    values: Float[Tensor, " latent"],
    atoms: Float[Tensor, "latent d"],
    whole: Float[Tensor, " d"],
    gain: Float[Tensor, " d"],
    direction: Float[Tensor, " d"],
    *,
    scale: Tensor | None = None,
    centre: bool = True,
) -> Float[Tensor, " latent"]:
    scale = held_scale(whole) if scale is None else scale
    through = gain * direction / scale
    return values * (atoms @ (through - through.mean() if centre else through))


def check_edges(answer: Any) -> str:
    what, args = "edges(values, atoms, whole, gain, direction)", (VALUES, ATOMS, WHOLE, E_GAIN, E_TOWARDS)
    got, own = ask(answer, *args, what=what), (VALUES[:, None] * ATOMS)
    if isinstance(got, Tensor) and got.ndim == 0:
        raise NotYet("the latents are summed: wanted one edge for each")
    known = {
        "values are forgotten: those are weights between latent and logit, an edge is what flows on this prompt": (
            right_edges(torch.ones_like(VALUES), *args[1:])
        ),
        "the atoms are normalised: what a latent writes is its value times its atom, length and all": right_edges(
            VALUES, ATOMS / ATOMS.norm(dim=-1, keepdim=True), *args[2:]
        ),
        "atoms are not centred: LayerNorm takes the mean over d away, of each thing that is written": right_edges(
            *args, centre=False
        ),
        "nothing is divided: the held norm divides by the spread of `whole`": right_edges(*args, scale=torch.ones(1)),
        "gain is forgotten": right_edges(VALUES, ATOMS, WHOLE, torch.ones_like(E_GAIN), E_TOWARDS),
        "neither norm nor gain: the unembedding reads what the final norm gives": own @ E_TOWARDS,
        "each latent is divided by its own spread: the norm is held at that of `whole`": right_edges(
            *args, scale=torch.ones(1)
        )
        / held_scale(own)[:, 0],
        "divided by the length of `whole`: LayerNorm divides by its standard deviation": right_edges(
            *args, scale=(WHOLE - WHOLE.mean()).norm()
        ),
    }
    want = right_edges(*args)
    compare(got, want, what=what, known=known)
    by_size, by_value = int(want.abs().argmax()), int(VALUES.argmax())
    return (
        f"The strongest edge is that of latent {by_size}, the largest activation that of latent {by_value}: how active "
        f"a latent is does not say what it does here. {int((want < 0).sum())} of {len(want)} edges are negative."
    )


def wrong_edges() -> Sequence[Wrong]:
    right: Callable[..., Tensor] = right_edges
    ones = torch.ones(1)
    return (
        Wrong("values forgotten", lambda z, a, w, g, v: right(torch.ones_like(z), a, w, g, v), "values are forgotten"),
        Wrong("unit atoms", lambda z, a, w, g, v: right(z, a / a.norm(dim=-1)[:, None], w, g, v), "normalised"),
        Wrong("not centred", lambda z, a, w, g, v: right(z, a, w, g, v, centre=False), "not centred"),
        Wrong("no scale", lambda z, a, w, g, v: right(z, a, w, g, v, scale=ones), "nothing is divided"),
        Wrong("no norm, no gain", lambda z, a, w, g, v: z * (a @ v), "neither norm nor gain"),
        Wrong("gain forgotten", lambda z, a, w, g, v: right(z, a, w, torch.ones_like(g), v), "gain is forgotten"),
        Wrong("summed", lambda z, a, w, g, v: right(z, a, w, g, v).sum(), "summed"),
    )


# 5.7 influence(edges, weights): nodes 0 to 2 are fed by nothing, node 6 is the logit
EDGES = torch.zeros(7, 7)
EDGES[3, :3], EDGES[4, [0, 1, 3]] = torch.tensor([2.0, -1.0, 1.0]), torch.tensor([0.5, 1.5, -2.0])
EDGES[5, [2, 3, 4]], EDGES[6, [1, 3, 4, 5]] = torch.tensor([-3.0, 0.6, 0.4]), torch.tensor([1.0, -0.5, 2.5, 1.0])
WEIGHTS = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


def paths(shares: Tensor, weights: Tensor) -> Tensor:
    eye = torch.eye(len(shares), dtype=shares.dtype)
    return weights @ (torch.linalg.inv(eye - shares) - eye)


def shares_of(edges: Tensor, dim: int = 1) -> Tensor:
    return edges.abs() / edges.abs().sum(dim, keepdim=True).clamp_min(1e-30)


def right_influence(edges: Float[Tensor, "target source"], weights: Float[Tensor, " target"]) -> Tensor:
    return paths(shares_of(edges), weights)


def check_influence(answer: Any) -> str:
    what, shares = "influence(edges, weights)", shares_of(EDGES)
    got, want, eye = ask(answer, EDGES, WEIGHTS, what=what), right_influence(EDGES, WEIGHTS), torch.eye(len(EDGES))
    if isinstance(got, Tensor) and got.shape == EDGES.shape:
        raise NotYet("that is the matrix from every node to every node: multiply by the weights from the left, w @ B")
    if isinstance(got, Tensor) and got.shape == want.shape and bool(got.isnan().any()):
        raise NotYet("NaN: a node that nothing feeds has a row of zeros; divide by the sum or by something tiny")
    known = {
        "direct edges only: influence runs over all paths, A + A^2 + ... = (I - A)^-1 - I": WEIGHTS @ shares,
        "the logit's own weight is counted: take the paths of no edge off, - I": want + WEIGHTS,
        "signs are kept: shares are of absolute values, or a push and a pull cancel": paths(
            EDGES / EDGES.abs().sum(1, keepdim=True).clamp_min(1e-30), WEIGHTS
        ),
        "columns are normalised: a row holds what feeds one target, and adds up to 1": paths(
            shares_of(EDGES, 0), WEIGHTS
        ),
        "the rows are not normalised: divide absolute values by the row's sum": paths(EDGES.abs(), WEIGHTS),
        "the edges as they come: absolute values, then each row divided by its sum": paths(EDGES, WEIGHTS),
        "(I + A)^-1: paths of even and odd length would cancel": WEIGHTS @ (torch.linalg.inv(eye + shares) - eye),
        "read the wrong way: rows are targets, so weights multiply from the left, w @ B": paths(shares.T, WEIGHTS),
        "each row is divided by its length: shares are of the sum of absolute values": paths(
            EDGES.abs() / EDGES.norm(dim=1, keepdim=True).clamp_min(1e-30), WEIGHTS
        ),
    }
    compare(got, want, what=what, known=known)
    direct = WEIGHTS @ shares
    return (
        f"Node 0 has no edge to the logit ({float(direct[0]):g}) and an influence of {float(want[0]):.2f}, all through "
        f"others. What nothing feeds shares out the whole: {float(want[:3].sum()):.2f} in all."
    )


def wrong_influence() -> Sequence[Wrong]:
    return (
        Wrong("direct edges", lambda e, w: w @ shares_of(e), "direct edges only"),
        Wrong("- I forgotten", lambda e, w: right_influence(e, w) + w, "paths of no edge"),
        Wrong("signed", lambda e, w: paths(e / e.abs().sum(1, keepdim=True).clamp_min(1e-30), w), "signs are kept"),
        Wrong("columns", lambda e, w: paths(shares_of(e, 0), w), "columns are normalised"),
        Wrong("not normalised", lambda e, w: paths(e.abs(), w), "not normalised"),
        Wrong("0 / 0", lambda e, w: paths(e.abs() / e.abs().sum(1, keepdim=True), w), "a row of zeros"),
        Wrong("transposed", lambda e, w: paths(shares_of(e).T, w), "rows are targets"),
        Wrong(
            "the matrix",
            lambda e, w: torch.linalg.inv(torch.eye(len(e)) - shares_of(e)),
            "multiply by the weights",
        ),
    )


# 5.8 prune(influence, share)
FOUND = 3 * torch.tensor([0.02, 0.40, 0.05, 0.21, 0.00, 0.12, 0.30, 0.10, 0.08])
SHARE = 0.75


def right_prune(influence: Float[Tensor, " node"], share: float) -> Bool[Tensor, " node"]:
    order = influence.argsort(descending=True)
    total = influence[order].cumsum(0)
    count = int((total < share * total[-1]).sum()) + 1
    return torch.isin(torch.arange(len(influence)), order[:count])


def check_prune(answer: Any) -> str:
    what, want = "prune(influence, share)", right_prune(FOUND, SHARE)
    got = ask(answer, FOUND, SHARE, what=what)
    mask = tensor(got, what)
    if mask.dtype != torch.bool:
        some = mask.ndim == 1 and len(mask) == int(want.sum())
        raise NotYet(
            f"{what} gives {'numbers of nodes' if some else mask.dtype}, wanted a mask: True for nodes to keep"
        )
    order, total = FOUND.argsort(descending=True), FOUND.sum()
    size = FOUND[order].cumsum(0)
    least = FOUND.argsort()
    known = {
        "one node too few: the node that crosses the share is needed to reach it": torch.isin(
            torch.arange(len(FOUND)), order[: int(want.sum()) - 1]
        ),
        "the mask is in the order of influence, wanted that of the nodes: put it back in its places": (
            torch.arange(len(FOUND)) < want.sum()
        ),
        "a share of the nodes: wanted a share of their influence": torch.isin(
            torch.arange(len(FOUND)), order[: round(SHARE * len(FOUND))]
        ),
        "not a share: the sum of all influence is not 1 here, divide by it": torch.isin(
            torch.arange(len(FOUND)), order[: int((size < SHARE).sum()) + 1]
        ),
        "the weakest are kept: sort with the largest first": torch.isin(
            torch.arange(len(FOUND)), least[: int((FOUND[least].cumsum(0) < SHARE * total).sum()) + 1]
        ),
        "every node above a share of the largest: wanted the fewest that hold the share together": (
            FOUND.ge((1 - SHARE) * FOUND.max())
        ),
        "that mask is of what to take away": ~want,
    }
    if mask.shape == want.shape and not torch.equal(mask, want):
        for hint, wrong in known.items():
            if torch.equal(mask, wrong):
                raise NotYet(hint)
        held = float(FOUND[mask].sum() / total)
        raise NotYet(f"{what} keeps {int(mask.sum())} nodes with {held:.0%} of the influence, wanted {int(want.sum())}")
    compare(mask.float(), want.float(), what=what)
    return (
        f"{int(want.sum())} of {len(FOUND)} nodes hold {float(FOUND[want].sum() / total):.0%} of the influence. The "
        f"share is of the sum over nodes, and a path counts in each node on it: it is no share of the logit explained."
    )


def wrong_prune() -> Sequence[Wrong]:
    def first(influence: Tensor, count: int, *, descending: bool = True) -> Tensor:
        return torch.isin(torch.arange(len(influence)), influence.argsort(descending=descending)[:count])

    def crossing(influence: Tensor, share: float) -> int:
        return int((influence.sort(descending=True).values.cumsum(0) < share * influence.sum()).sum())

    return (
        Wrong("one too few", lambda i, s: first(i, crossing(i, s)), "one node too few"),
        Wrong("in sorted order", lambda i, s: torch.arange(len(i)) <= crossing(i, s), "in the order of influence"),
        Wrong("share of the nodes", lambda i, s: first(i, round(s * len(i))), "a share of the nodes"),
        Wrong("numbers of nodes", lambda i, s: i.topk(crossing(i, s) + 1).indices, "wanted a mask"),
        Wrong("above a share of the largest", lambda i, s: i >= (1 - s) * i.max(), "share of the largest"),
        Wrong("turned round", lambda i, s: ~right_prune(i, s), "to take away"),
        Wrong(
            "sum taken as 1",
            lambda i, s: first(i, int((i.sort(descending=True).values.cumsum(0) < s).sum()) + 1),
            "divide by it",
        ),
    )


EXERCISES = {
    "5.1": Exercise(check_difference, lambda: right_difference, wrong_difference),
    "5.2": Exercise(check_attribution, lambda: right_attribution, wrong_attribution),
    "5.3": Exercise(check_effect, lambda: right_effect, wrong_effect),
    "5.4": Exercise(check_estimate, lambda: right_estimate, wrong_estimate),
    "5.5": Exercise(check_scores, lambda: right_scores, wrong_scores),
    "5.6": Exercise(check_edges, lambda: right_edges, wrong_edges),
    "5.7": Exercise(check_influence, lambda: right_influence, wrong_influence),
    "5.8": Exercise(check_prune, lambda: right_prune, wrong_prune),
}


EVERY, ROWS = 12, 80_000  # documents of the pack that are trained on (one in so many), tokens of them


def replaced(place: Path, small: bool) -> dict[int, Dictionary]:
    """A skip transcoder for each of the two MLPs of the tiny text model."""
    model, texts = testbeds.subject("tiny_text_gelu"), corpus("pack").texts[::EVERY]
    latents, k, tokens = (128, 8, 8_000) if small else (512, 16, ROWS)
    return layers.transcoders(
        model, texts, latents=latents, k=k, tokens=tokens, batch=8, folder=place, progress=False
    ).dictionaries


CAUGHT_UP = {"5.6": replaced}

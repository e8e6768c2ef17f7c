"""Lesson 2, train and break an SAE: its checks and the mistakes they foresee, and the dictionaries its cells train."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from .. import geometry, testbeds
from ..dictionary import Dictionary, Recipe, recipe, train
from ..testbeds.vectors import SITE, recovered
from .hints import NotYet, absent, ask, compare, draw, entries, kind, number
from .lessons import Exercise, Wrong

D, LATENTS, K = 32, 64, 3


def world(seed: int = 0) -> Any:
    """64 directions in 32 dimensions, 3 on: what the lesson's dictionaries are trained on."""
    return testbeds.world("superposition", n=LATENTS, d=D, mean=K / LATENTS, world_seed=seed)


# 2.1 encode(x, W_enc, b_enc, b_dec, k)
X, W_ENC, B_ENC, B_DEC = draw(11, 9, 4), draw(12, 4, 7), 0.3 * draw(13, 7), draw(14, 4)


def right_encode(
    x: Tensor, w_enc: Tensor, b_enc: Tensor, b_dec: Tensor, k: int, *, axis: int = -1, largest: bool = True
) -> Float[Tensor, "row latent"]:
    pre = (x - b_dec) @ w_enc + b_enc
    top = pre.topk(k, dim=axis, largest=largest)
    return torch.zeros_like(pre).scatter(axis, top.indices, top.values.relu() if largest else top.values)


def kept(pre: Tensor, k: int, *, by: Tensor | None = None) -> Tensor:
    indices = (pre if by is None else by).topk(k, dim=-1).indices
    return torch.zeros_like(pre).scatter(-1, indices, pre.gather(-1, indices))


def check_encode(answer: Any) -> str:
    pre, k, what = (X - B_DEC) @ W_ENC + B_ENC, 4, "encode(x, W_enc, b_enc, b_dec, k)"
    known = {
        "b_dec is not subtracted: the encoder looks at x - b_dec": kept(X @ W_ENC + B_ENC, k).relu(),
        "b_dec is added, wanted x - b_dec": kept((X + B_DEC) @ W_ENC + B_ENC, k).relu(),
        "b_enc is forgotten": kept((X - B_DEC) @ W_ENC, k).relu(),
        "negative values are kept: a relu after the choice, so that fewer than k may be on": kept(pre, k),
        "nothing is left out: keep the k largest of each row, set the others to 0": pre.relu(),
        "chosen by size: a strongly negative latent is off, so take the largest, then the relu": kept(
            pre, k, by=pre.abs()
        ).relu(),
        "the k smallest are kept": right_encode(X, W_ENC, B_ENC, B_DEC, k, largest=False),
        "chosen along the wrong axis: each row keeps its own k latents, dim=-1": right_encode(
            X, W_ENC, B_ENC, B_DEC, k, axis=0
        ),
        "the values alone do not say which latents: scatter them into zeros (row, latent)": pre.topk(
            k, dim=-1
        ).values.relu(),
    }
    got = ask(answer, X, W_ENC, B_ENC, B_DEC, k, what=what)
    want = right_encode(X, W_ENC, B_ENC, B_DEC, k)
    if isinstance(got, Tensor) and got.shape == (len(X), k):
        raise NotYet(list(known)[-1])
    compare(got, want, what=what, known=known)
    return (
        f"At most {k} of {W_ENC.shape[1]} latents are on in a row, {float((want > 0).sum(-1).float().mean()):.1f} on "
        f"average: where fewer are positive, fewer are on. The decoder adds z W_dec and b_dec."
    )


def wrong_encode() -> Sequence[Wrong]:
    def pre(x: Tensor, w: Tensor, e: Tensor, d: Tensor) -> Tensor:
        return (x - d) @ w + e

    return (
        Wrong("b_dec left in", lambda x, w, e, d, k: kept(x @ w + e, k).relu(), "b_dec is not subtracted"),
        Wrong("b_enc forgotten", lambda x, w, e, d, k: kept((x - d) @ w, k).relu(), "b_enc is forgotten"),
        Wrong("no relu", lambda x, w, e, d, k: kept(pre(x, w, e, d), k), "negative values are kept"),
        Wrong("no topk", lambda x, w, e, d, k: pre(x, w, e, d).relu(), "nothing is left out"),
        Wrong("along the batch", lambda x, w, e, d, k: right_encode(x, w, e, d, k, axis=0), "wrong axis"),
        Wrong("values only", lambda x, w, e, d, k: pre(x, w, e, d).topk(k).values.relu(), "which latents"),
        Wrong("all that topk returns", lambda x, w, e, d, k: pre(x, w, e, d).topk(k), "all that torch returns"),
        Wrong("W_enc transposed", lambda x, w, e, d, k: kept((x - d) @ w.T + e, k).relu(), "stops"),
    )


# 2.2 fvu(x, x_hat)
Y = draw(21, 50, 6) + 2 * draw(22, 6)
Y_HAT = Y + 0.4 * draw(23, 50, 6)


def right_fvu(x: Tensor, x_hat: Tensor) -> Tensor:
    return (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()


def check_fvu(answer: Any) -> str:
    what, error, var = "fvu(x, x_hat)", (Y - Y_HAT).square(), (Y - Y.mean(0)).square()
    known = {
        "the mean is not taken out: divide by the variance, sum of (x - mean of the rows)^2": error.sum()
        / Y.square().sum(),
        "one mean for all coordinates: take the mean row, x.mean(0)": error.sum() / (Y - Y.mean()).square().sum(),
        "the mean of each row is taken out, wanted the mean row: x.mean(0)": error.sum()
        / (Y - Y.mean(-1, keepdim=True)).square().sum(),
        "that is the share explained: fvu is what is left, 1 less it": 1 - error.sum() / var.sum(),
        "a mean of ratios, one for each row: sum error and variance over all rows first, then divide": (
            error.sum(-1) / var.sum(-1)
        ).mean(),
        "a mean of ratios, one for each coordinate: sum error and variance first, then divide": (
            error.sum(0) / var.sum(0)
        ).mean(),
        "the squared error alone: divide by the variance, or the number has units": error.sum(),
        "the mean squared error alone: divide by the variance, or the number has units": error.mean(),
        "lengths in place of squares": (error.sum() / var.sum()).sqrt(),
    }
    number(
        ask(answer, Y, Y_HAT, what=what),
        float(right_fvu(Y, Y_HAT)),
        what=what,
        known={hint: float(value) for hint, value in known.items()},
    )
    return (
        f"0 is perfect, 1 is what knowing the mean alone gives. Without centring this one would read "
        f"{float(error.sum() / Y.square().sum()):.3f} and not {float(error.sum() / var.sum()):.3f}: a large mean is "
        f"easy to rebuild."
    )


def wrong_fvu() -> Sequence[Wrong]:
    var = lambda x: (x - x.mean(0)).square()  # noqa: E731
    return (
        Wrong("not centred", lambda x, y: (x - y).square().sum() / x.square().sum(), "the mean is not taken out"),
        Wrong("share explained", lambda x, y: 1 - right_fvu(x, y), "share explained"),
        Wrong("mean of ratios", lambda x, y: ((x - y).square().sum(-1) / var(x).sum(-1)).mean(), "one for each row"),
        Wrong("squared error alone", lambda x, y: (x - y).square().mean(), "or the number has units"),
        Wrong("a number per row", lambda x, y: (x - y).square().sum(-1) / var(x).sum(-1), "must be one number"),
        Wrong("no root was asked for", lambda x, y: right_fvu(x, y).sqrt(), "lengths in place of squares"),
    )


# 2.3 a dictionary trained on world()
LR = 1e-2


@cache
def trained(steps: int = 400, *, variant: str = "topk", k: int = K, seed: int = 0, place: str = "") -> Dictionary:
    """What the lesson trains first: 64 latents, k = 3, batches of 256 rows of `world(seed)`."""
    parts = recipe(variant, d=D, latents=LATENTS, k=k, seed=0)
    return train(
        parts, world(seed).stream(256, steps), site=SITE, lr=LR, progress=False, folder=Path(place) if place else None
    )


def check_trained(answer: Any) -> str:
    if (hint := absent(answer, "sae")) is not None:
        raise NotYet(hint)
    if isinstance(answer, Recipe):
        raise NotYet("that is the recipe, a plan: hand over what wb.train(recipe, stream, ...) returns")
    if isinstance(answer, list):
        raise NotYet("a list of dictionaries: give wb.train one recipe, or hand over one of the list")
    if not isinstance(answer, Dictionary):
        raise NotYet(f"wanted the dictionary that wb.train returns, got {kind(answer)}")
    if (answer.d, answer.latents) != (D, LATENTS):
        raise NotYet(f"wanted d = {D} and {LATENTS} latents, got d = {answer.d} and {answer.latents}: see the recipe")
    held = world().sample(2048, testbeds.core.HELD_OUT)
    with torch.no_grad():
        most = int(answer.encode(held.x).counts().max())
        left = float(right_fvu(held.x, answer.reconstruct(held.x)))
    if most != K:
        raise NotYet(f"up to {most} latents are on in a row, wanted a TopK of k = {K}: give wb.recipe k={K}")
    found, chance = (recovered(world().truth, a) for a in (answer.atoms(), geometry.random_directions(LATENTS, D)))
    if found < chance + 0.1:
        raise NotYet(
            f"its atoms find the truth with a mean cosine of {found:.2f}, and random ones reach {chance:.2f}: was it "
            f"trained, and on rows of this world? A stream is world.stream(rows, steps)"
        )
    if found < 0.75:
        raise NotYet(
            f"it has begun to learn (recovery {found:.2f}, chance {chance:.2f}): more steps, or lr nearer 1e-2"
        )
    return (
        f"Recovery {found:.2f}, where random atoms reach {chance:.2f}; it leaves {left:.0%} of the variance of "
        f"held-out rows, since with k = {K} a row that has more directions on cannot be rebuilt."
    )


def wrong_trained() -> Sequence[Wrong]:
    plan = recipe("topk", d=D, latents=LATENTS, k=K, seed=0)
    return (
        Wrong("still the recipe", plan, "that is the recipe"),
        Wrong("never trained", plan.dictionary, "was it trained"),
        Wrong("too few latents", recipe("topk", d=D, latents=48, k=K).dictionary, "wanted d = 32 and 64 latents"),
        Wrong("another k", recipe("topk", d=D, latents=LATENTS, k=5).dictionary, "k = 3"),
        Wrong("trained on another world", trained(20, seed=5), "rows of this world"),
        Wrong("stopped early", trained(20), "more steps"),
        Wrong("a list", [plan.dictionary], "a list of dictionaries"),
    )


# 2.4 dead(z)
Z = (draw(41, 40, 25) - 1.4).relu() * (draw(42, 25) > -0.3)


def right_dead(z: Tensor) -> float:
    return float((z == 0).all(0).float().mean())


def check_dead(answer: Any) -> str:
    off, what = (Z == 0).float(), "dead(z)"
    rows, some = float((Z == 0).all(-1).float().mean()), float((Z == 0).any(0).float().mean())
    known = {
        "that is the share of zeros: a latent is dead only if it is 0 in every row": float(off.mean()),
        "that is the share of rows without a latent: look down the columns, dim 0": rows,
        "that is the share alive": 1 - right_dead(Z),
        "that is how many, wanted the share of all latents": float((Z == 0).all(0).sum()),
        "latents that are 0 in some row: wanted all rows, .all(0) and not .any(0)": some,
    }
    number(ask(answer, Z, what=what), right_dead(Z), what=what, known=known)
    return (
        f"{right_dead(Z):.0%} of these latents never fire, although {float(off.mean()):.0%} of all entries are 0. A "
        f"share of dead latents belongs to the number of rows looked at: more rows can only lower it."
    )


def wrong_dead() -> Sequence[Wrong]:
    return (
        Wrong("share of zeros", lambda z: (z == 0).float().mean(), "share of zeros"),
        Wrong("rows for columns", lambda z: (z == 0).all(-1).float().mean(), "look down the columns"),
        Wrong("share alive", lambda z: (z != 0).any(0).float().mean(), "share alive"),
        Wrong("how many", lambda z: (z == 0).all(0).sum(), "wanted the share"),
        Wrong("off in some row", lambda z: (z == 0).any(0).float().mean(), "not .any(0)"),
        Wrong("which, not how many", lambda z: (z == 0).all(0), "must be one number"),
    )


# 2.5 shrinkage(x, x_hat)
V = draw(51, 50, 6)
V_HAT = 0.7 * V + 0.2 * draw(52, 50, 6)


def right_shrinkage(x: Tensor, x_hat: Tensor) -> Tensor:
    return x_hat.square().sum() / (x * x_hat).sum()


def check_shrinkage(answer: Any) -> str:
    what, inner, size = "shrinkage(x, x_hat)", (V * V_HAT).sum(), V_HAT.square().sum()
    known = {
        "squares over squares counts what is missing, too: divide by the sum of x * x_hat": size / V.square().sum(),
        "lengths over lengths: divide the sum of x_hat * x_hat by the sum of x * x_hat": (
            V_HAT.norm(dim=-1) / V.norm(dim=-1)
        ).mean(),
        "the inverse: x_hat * x_hat stands above": inner / size,
        "that projects on x: the sum of x * x_hat stands below, x_hat * x_hat above": inner / V.square().sum(),
        "that is a cosine, in which length has no say": torch.cosine_similarity(V, V_HAT).mean(),
        "a mean of ratios, one for each row: sum over all rows first, then divide": (
            V_HAT.square().sum(-1) / (V * V_HAT).sum(-1)
        ).mean(),
    }
    number(
        ask(answer, V, V_HAT, what=what),
        float(right_shrinkage(V, V_HAT)),
        what=what,
        known={hint: float(value) for hint, value in known.items()},
    )
    halved = float(right_shrinkage(V, 0.5 * V))
    return (
        f"Rows rebuilt at half their length read {halved:g}. Below 1 every reconstruction could be stretched by "
        f"1 / gamma for a smaller error: that is a bias, and no lack of latents."
    )


def wrong_shrinkage() -> Sequence[Wrong]:
    return (
        Wrong("squares over squares", lambda x, y: y.square().sum() / x.square().sum(), "counts what is missing"),
        Wrong("lengths over lengths", lambda x, y: (y.norm(dim=-1) / x.norm(dim=-1)).mean(), "lengths over lengths"),
        Wrong("upside down", lambda x, y: (x * y).sum() / y.square().sum(), "the inverse"),
        Wrong("a cosine", lambda x, y: torch.cosine_similarity(x, y).mean(), "length has no say"),
        Wrong("mean of ratios", lambda x, y: (y.square().sum(-1) / (x * y).sum(-1)).mean(), "one for each row"),
        Wrong("one number per row", lambda x, y: y.square().sum(-1) / (x * y).sum(-1), "must be one number"),
    )


# 2.6 silent(fires, parent, child)
PARENT = draw(61, 400) > 0.2
CHILD = PARENT & (draw(62, 400) > 0.6)
FIRES = torch.where(CHILD, draw(63, 400) > 0.8, PARENT & (draw(63, 400) > -1.5)) | (draw(64, 400) > 1.8)


def right_silent(fires: Tensor, parent: Tensor, child: Tensor) -> dict[str, float]:
    off = (~fires).float()
    return {"with child": float(off[child].mean()), "alone": float(off[parent & ~child].mean())}


def check_silent(answer: Any) -> str:
    what = "silent(fires, parent, child)"
    got = entries(ask(answer, FIRES, PARENT, CHILD, what=what), ("with child", "alone"), what=what)
    off, alone, want = (~FIRES).float(), PARENT & ~CHILD, right_silent(FIRES, PARENT, CHILD)
    for name, rows in (("with child", CHILD), ("alone", alone)):
        each = f"{what}[{name!r}]"
        known = {
            f"{each} is the share in which it fires: wanted silent, ~fires": float(1 - off[rows].mean()),
            f"{each} is a share of all rows: look only at the rows in question, fires[rows]": float(
                (off * rows).mean()
            ),
            f"{each} asks which share of the silent rows are such rows: turn it round": float(
                (off * rows).sum() / off.sum()
            ),
            f"{each} takes all rows of the parent, those with a child too: parent & ~child": float(off[PARENT].mean()),
            f"{each} takes rows without the parent too: there its latent should be silent": float(off[~CHILD].mean()),
            f"{each} is a count, wanted a share": float((off * rows).sum()),
        }
        number(got[name], want[name], what=each, known=known)
    return (
        f"Silent in {want['with child']:.0%} of the rows with a child, in {want['alone']:.0%} of the parent's other "
        f"rows. The second number is the control: a latent that is simply weak is silent in both."
    )


def wrong_silent() -> Sequence[Wrong]:
    def of(
        score: Callable[[Tensor, Tensor], Any], *, alone: Callable[[Tensor, Tensor], Tensor] = lambda p, c: p & ~c
    ) -> Callable[[Tensor, Tensor, Tensor], dict[str, Any]]:
        return lambda f, p, c: {"with child": score(f, c), "alone": score(f, alone(p, c))}

    def off(f: Tensor, rows: Tensor) -> Tensor:
        return (~f[rows]).float().mean()

    return (
        Wrong("share of firing", of(lambda f, rows: f[rows].float().mean()), "wanted silent"),
        Wrong("share of all rows", of(lambda f, rows: (~f & rows).float().mean()), "a share of all rows"),
        Wrong("the other conditional", of(lambda f, rows: rows[~f].float().mean()), "turn it round"),
        Wrong("control with children", of(off, alone=lambda p, c: p), "parent & ~child"),
        Wrong("control without parent", of(off, alone=lambda p, c: ~c), "without the parent"),
        Wrong("no control", lambda f, p, c: {"with child": off(f, c)}, "lacks 'alone'"),
    )


# 2.7 agreement(a, b)
A = draw(71, 8, 4) * draw(73, 8, 1).abs()
B = torch.cat([A[:4] + 0.3 * draw(72, 4, 4), draw(74, 4, 4)])[torch.tensor([4, 0, 6, 3, 1, 7, 2, 5])]


def right_agreement(a: Tensor, b: Tensor) -> float:
    from scipy.optimize import linear_sum_assignment

    cosine = normalize(a, dim=-1) @ normalize(b, dim=-1).T
    left, right = linear_sum_assignment(cosine.numpy(), maximize=True)
    return float(cosine[left, right].mean())


def greedy(a: Tensor, b: Tensor) -> float:
    cosine, found = normalize(a, dim=-1) @ normalize(b, dim=-1).T, []
    for row in range(len(a)):
        best = int(cosine[row].argmax())
        found.append(float(cosine[row, best]))
        cosine[:, best] = -torch.inf
    return sum(found) / len(found)


def check_agreement(answer: Any) -> str:
    from scipy.optimize import linear_sum_assignment

    what, cosine = "agreement(a, b)", normalize(A, dim=-1) @ normalize(B, dim=-1).T
    dots = A @ B.T
    least = linear_sum_assignment(cosine.numpy())
    most = linear_sum_assignment(dots.numpy(), maximize=True)
    known = {
        "several atoms may share one partner here: match one-to-one, scipy.optimize.linear_sum_assignment": float(
            cosine.max(-1).values.mean()
        ),
        "the atoms are not normalised: wanted cosines": float(dots[most].mean()),
        "the worst matching: linear_sum_assignment(..., maximize=True)": float(cosine[least].mean()),
        "atom i of one seed has nothing to do with atom i of another: match them first": float(
            cosine.diagonal().mean()
        ),
        "the mean over all pairs: match atoms first": float(cosine.mean()),
        "the sum over pairs, wanted the mean": len(A) * right_agreement(A, B),
        "taken one after another, each the best that is left: the sum of all pairs is not the largest that way": greedy(
            A, B
        ),
    }
    number(ask(answer, A, B, what=what), right_agreement(A, B), what=what, known=known)
    null = right_agreement(geometry.random_directions(64, D, seed=1), geometry.random_directions(64, D, seed=2))
    return f"Two sets of 64 random atoms in 32 dimensions agree to {null:.2f}: two trained ones have to beat that."


def wrong_agreement() -> Sequence[Wrong]:
    def cosines(a: Tensor, b: Tensor) -> Tensor:
        return normalize(a, dim=-1) @ normalize(b, dim=-1).T

    def worst(a: Tensor, b: Tensor) -> Tensor:
        from scipy.optimize import linear_sum_assignment

        return cosines(a, b)[linear_sum_assignment(cosines(a, b).numpy())].mean()

    return (
        Wrong("nearest, may be shared", lambda a, b: cosines(a, b).max(-1).values.mean(), "one-to-one"),
        Wrong("same index", lambda a, b: cosines(a, b).diagonal().mean(), "match them first"),
        Wrong("greedy", greedy, "one after another"),
        Wrong("smallest sum", worst, "maximize=True"),
        Wrong("sum", lambda a, b: len(a) * right_agreement(a, b), "wanted the mean"),
        Wrong("all cosines", cosines, "must be one number"),
    )


EXERCISES = {
    "2.1": Exercise(check_encode, lambda: right_encode, wrong_encode),
    "2.2": Exercise(check_fvu, lambda: right_fvu, wrong_fvu),
    "2.3": Exercise(check_trained, lambda: trained(250), wrong_trained),
    "2.4": Exercise(check_dead, lambda: right_dead, wrong_dead),
    "2.5": Exercise(check_shrinkage, lambda: right_shrinkage, wrong_shrinkage),
    "2.6": Exercise(check_silent, lambda: right_silent, wrong_silent),
    "2.7": Exercise(check_agreement, lambda: right_agreement, wrong_agreement),
}


RATES, PENALTIES, TREES, WIDTHS = (1e-2, 3e-2), (0.5, 1.0, 2.0, 4.0), (0, 1, 2), (64, 192)  # of the lesson's cells


def zipf() -> Any:
    """128 directions in 32 dimensions, 4 on, by Zipf's law: what latents die on."""
    return testbeds.world("superposition", n=128, d=D, mean=4 / 128, zipf=True)


def made(parts: Any, stream: Any, place: Path, *, lr: float, seed: int = 0) -> Any:
    return train(parts, stream, site=SITE, lr=lr, seed=seed, progress=False, folder=place)


def first(place: Path, small: bool) -> Dictionary:
    return trained(150 if small else 400, place=str(place))


def dying(place: Path, small: bool) -> dict[float, list[Dictionary]]:
    """By learning rate: TopK, TopK with AuxK."""
    names, found = ("topk", "topk_auxk"), {}
    for lr in RATES:
        parts = [recipe(name, d=D, latents=128, k=4, seed=0) for name in names]
        found[lr] = made(parts, zipf().stream(256, 60 if small else 300), place / f"{lr:g}", lr=lr)
    return found


def shrinking(place: Path, small: bool) -> list[Dictionary]:
    """ReLU with each penalty, then TopK."""
    parts = [recipe("relu_l1", d=D, latents=LATENTS, l1=l1, seed=0) for l1 in PENALTIES]
    parts.append(recipe("topk", d=D, latents=LATENTS, k=K, seed=0))
    return made(parts, world().stream(256, 60 if small else 400), place, lr=LR)


def absorbing(place: Path, small: bool) -> dict[int, list[Dictionary]]:
    """By tree: BatchTopK, Matryoshka."""
    found: dict[int, list[Dictionary]] = {}
    for tree in TREES[: 1 if small else None]:
        args = {"d": D, "latents": 20, "k": 2, "seed": tree}
        parts = [
            recipe("batch_topk", **args),
            recipe("matryoshka_batch_topk", shares=[3 / 20, 12 / 20, 1.0], **args),
        ]
        data: Any = testbeds.world("hierarchy", root=0.4, world_seed=200 + tree)
        found[tree] = made(parts, data.stream(256, 150 if small else 500, tree), place / str(tree), lr=5e-3, seed=tree)
    return found


def disagreeing(place: Path, small: bool) -> dict[int, list[Dictionary]]:
    """By width: the same recipe from two seeds, each with its own rows."""
    found: dict[int, list[Dictionary]] = {}
    for width in WIDTHS:
        found[width] = [
            made(
                recipe("topk", d=D, latents=width, k=K, seed=seed),
                world().stream(256, 60 if small else 400, seed),
                place / f"{width}-{seed}",
                lr=LR,
                seed=seed,
            )
            for seed in (1, 2)
        ]
    return found


CAUGHT_UP = {"2.3": first, "2.4": dying, "2.5": shrinking, "2.6": absorbing, "2.7": disagreeing}

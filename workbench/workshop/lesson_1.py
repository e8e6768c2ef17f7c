"""Lesson 1, superposition and sparse coding by hand: its toy model, its checks and the mistakes they foresee."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from .. import geometry, lineage
from .hints import ask, compare, draw, entries, number
from .lessons import Exercise, Wrong

Forward = Callable[[Tensor, Tensor, Tensor], Tensor]
DENSITIES, SEEDS = (1.0, 0.3, 0.05), (0, 1)  # of the toy models that the lesson trains


def fit_toy(
    forward: Forward, density: float, seed: int = 0, *, n: int = 5, m: int = 2, steps: int = 1500
) -> Float[Tensor, "n m"]:
    """W of a toy model that stores n numbers in m dimensions: `forward(x, W, b)` is trained to give x back.

    Each number of a row is on with probability `density`, then even on 0..1; number i matters 0.9^i.
    Source: Elhage et al. 2022, arXiv:2209.10652.
    """
    rng = torch.Generator().manual_seed(seed)
    weight = (0.5 * torch.randn(n, m, generator=rng)).requires_grad_()
    bias = torch.zeros(n, requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=0.01)
    matters = 0.9 ** torch.arange(n)
    for _ in range(steps):
        x = torch.rand(512, n, generator=rng) * (torch.rand(512, n, generator=rng) < density)
        loss = ((x - forward(x, weight, bias)).square() * matters).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return weight.detach()


# 1.1 cosines(atoms)
VECTORS = draw(11, 5, 3)


def right_cosines(atoms: Tensor) -> Tensor:
    unit = normalize(atoms, dim=-1)
    return unit @ unit.T


def check_cosines(answer: Any) -> str:
    got = ask(answer, VECTORS, what="cosines(atoms)")
    unit = normalize(VECTORS, dim=-1)
    known = {
        "these are dot products: divide each vector by its length first (normalize along the last axis)": VECTORS
        @ VECTORS.T,
        "the right side is not normalised: both vectors of a cosine have length 1": unit @ VECTORS.T,
        "the left side is not normalised: both vectors of a cosine have length 1": VECTORS @ unit.T,
        "normalised along the wrong axis: an atom is a row, so its length is along dim=-1": normalize(VECTORS, dim=0)
        @ normalize(VECTORS, dim=0).T,
        "the angle in radians, wanted its cosine": right_cosines(VECTORS).clamp(-1, 1).arccos(),
    }
    compare(got, right_cosines(VECTORS), what="cosines(atoms)", known=known)
    many = ask(answer, geometry.random_directions(256, 64), what="cosines(atoms)")
    off = many[~torch.eye(256, dtype=torch.bool)]
    return (
        f"256 random directions in 64 dimensions: cosines spread by {off.std():.3f} (1 / sqrt(64) = 0.125), and the "
        f"nearest pair has {off.max():.2f}. More directions than dimensions cannot all be orthogonal."
    )


def wrong_cosines() -> Sequence[Wrong]:
    return (
        Wrong("dot products, lengths left in", lambda a: a @ a.T, "divide each vector by its length"),
        Wrong("between coordinates, not atoms", lambda a: normalize(a, dim=0).T @ normalize(a, dim=0), "wrong shape"),
        Wrong("lengths along the wrong axis", lambda a: normalize(a, dim=0) @ normalize(a, dim=0).T, "wrong axis"),
        Wrong("a list of rows", lambda a: list(right_cosines(a)), "wanted one tensor"),
        Wrong("sizes without signs", lambda a: right_cosines(a).abs(), "have the wrong sign"),
        Wrong("no return", lambda a: None, "`return`"),
        Wrong("called before it was handed over", right_cosines(VECTORS), "without calling it"),
    )


# 1.2 interference(on, d, square)
SETTINGS = ((3.0, 32, 1.0625), (5.0, 128, 1.0625), (2.0, 16, 0.5))


def right_interference(on: float, d: int, square: float) -> float:
    return (on * square / d) ** 0.5


def check_interference(answer: Any) -> str:
    for on, d, square in SETTINGS:
        what = f"interference(on={on:g}, d={d}, square={square:g})"
        known = {
            f"{what} is a variance: the spread is its root": on * square / d,
            f"{what} leaves out how large a coefficient is: each direction that is on adds `square` / d": (on / d)
            ** 0.5,
            f"{what} takes the root of d twice, or of nothing else: all of on * square / d stands under it": (
                on * square
            )
            ** 0.5
            / d,
            f"{what} counts one direction only: all that are on add up": (square / d) ** 0.5,
            f"{what} adds the spreads: it is the variances of independent things that add": on * (square / d) ** 0.5,
        }
        number(ask(answer, on, d, square, what=what), right_interference(on, d, square), what=what, known=known)
    few, many = (float(answer(3.0, d, 1.0625)) for d in (32, 512))
    return (
        f"With 3 directions on in 32 dimensions a silent one reads 0 ± {few:.2f}, next to 1 for one that is on; in 512 "
        f"dimensions it is ± {many:.2f}. Interference grows with what is on, not with how many directions there are."
    )


def wrong_interference() -> Sequence[Wrong]:
    return (
        Wrong("the variance", lambda on, d, square: on * square / d, "the spread is its root"),
        Wrong("coefficients taken as 1", lambda on, d, square: (on / d) ** 0.5, "how large a coefficient is"),
        Wrong("one direction only", lambda on, d, square: (square / d) ** 0.5, "all that are on add up"),
        Wrong("spreads added", lambda on, d, square: on * (square / d) ** 0.5, "variances of independent things"),
        Wrong("the inverse", lambda on, d, square: (d / on / square) ** 0.5, "its inverse"),
        Wrong("text", lambda on, d, square: "0.3", "must be one number"),
    )


# 1.3 toy(x, W, b)
X, W, B = draw(31, 7, 4), draw(32, 4, 2), draw(33, 4)


def right_toy(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (x @ weight @ weight.T + bias).relu()


def check_toy(answer: Any) -> str:
    pre = X @ W @ W.T + B
    known = {
        "the bias b is forgotten: relu(x W W^T + b)": (X @ W @ W.T).relu(),
        "the relu is forgotten: what comes out must not be negative": pre,
        "the bias stands outside the relu: add it before": (X @ W @ W.T).relu() + B,
        "the bias is subtracted: add it": (X @ W @ W.T - B).relu(),
        "the relu is where the two dimensions are: nothing is cut there, only at the end": (X @ W).relu() @ W.T + B,
        "two relus: the hidden layer of this model is linear": ((X @ W).relu() @ W.T + B).relu(),
    }
    compare(ask(answer, X, W, B, what="toy(x, W, b)"), right_toy(X, W, B), what="toy(x, W, b)", known=known)
    return "Row i of W is where number i is stored. Two dimensions hold two numbers exactly; the relu may hide more."


def wrong_toy() -> Sequence[Wrong]:
    return (
        Wrong("forgot the bias", lambda x, w, b: (x @ w @ w.T).relu(), "the bias b is forgotten"),
        Wrong("forgot the relu", lambda x, w, b: x @ w @ w.T + b, "the relu is forgotten"),
        Wrong("bias after the relu", lambda x, w, b: (x @ w @ w.T).relu() + b, "outside the relu"),
        Wrong("what is stored, not what is read", lambda x, w, b: x @ w, "wrong shape"),
        Wrong("W the wrong way round", lambda x, w, b: (x @ w.T @ w + b).relu(), "stops"),
        Wrong("rows as columns", lambda x, w, b: right_toy(x, w, b).T, "right, but transposed"),
    )


# 1.4 pursuit(x, atoms, k)
ATOMS = normalize(draw(41, 12, 6), dim=-1)
ROWS = draw(42, 40, 12).clamp_min(0.9).sub(0.9) @ ATOMS + 0.02 * draw(43, 40, 6)
STEPS = 5


def right_pursuit(x: Tensor, atoms: Tensor, k: int, *, add: bool = True, signed: bool = False) -> Tensor:
    code, left, row = x.new_zeros(len(x), len(atoms)), x, torch.arange(len(x))
    for _ in range(k):
        score = left @ atoms.T
        best = (score.abs() if signed else score).argmax(-1)
        value = score[row, best]
        code = code.index_put((row, best), value, accumulate=add)
        left = left - value[:, None] * atoms[best]
    return code


def at_once(x: Tensor, atoms: Tensor, k: int) -> Tensor:
    top = (x @ atoms.T).topk(k, dim=-1)
    return x.new_zeros(len(x), len(atoms)).scatter(1, top.indices, top.values)


def never_left(x: Tensor, atoms: Tensor, k: int) -> Tensor:
    best = (x @ atoms.T).max(-1)
    return x.new_zeros(len(x), len(atoms)).scatter(1, best.indices[:, None], k * best.values[:, None])


def taken_away(x: Tensor, atoms: Tensor, k: int) -> Tensor:
    best = (x @ atoms.T).max(-1)
    x -= best.values[:, None] * atoms[best.indices]
    return right_pursuit(x, atoms, k)


def check_pursuit(answer: Any) -> str:
    known = {
        "the k atoms are chosen all at once: subtract what the first explains before you look for the second": at_once(
            ROWS, ATOMS, STEPS
        ),
        "the same atom is taken k times: the residual must lose what was found, left = left - value * atom": never_left(
            ROWS, ATOMS, STEPS
        ),
        "an atom that is taken again must add to its coefficient, code[...] = value forgets the first": right_pursuit(
            ROWS, ATOMS, STEPS, add=False
        ),
        "atoms are chosen by |product|, so coefficients turn negative: take the largest product itself": right_pursuit(
            ROWS, ATOMS, STEPS, signed=True
        ),
        "one step too few": right_pursuit(ROWS, ATOMS, STEPS - 1),
        "one step too many": right_pursuit(ROWS, ATOMS, STEPS + 1),
    }
    what = "pursuit(x, atoms, k)"
    compare(ask(answer, ROWS, ATOMS, STEPS, what=what), right_pursuit(ROWS, ATOMS, STEPS), what=what, known=known)
    left = (ROWS - answer(ROWS.clone(), ATOMS, STEPS) @ ATOMS).square().sum() / ROWS.square().sum()
    once = (ROWS - at_once(ROWS, ATOMS, STEPS) @ ATOMS).square().sum() / ROWS.square().sum()
    return (
        f"{STEPS} steps leave {left:.1%} of the rows' squared length. The {STEPS} largest products at once, as a plain "
        f"encoder takes them, leave {once:.0%}: what one atom explains is counted again by its neighbours."
    )


def wrong_pursuit() -> Sequence[Wrong]:
    return (
        Wrong("the k largest products at once", at_once, "all at once"),
        Wrong("residual never updated", never_left, "the same atom is taken k times"),
        Wrong("coefficients overwritten", lambda x, a, k: right_pursuit(x, a, k, add=False), "must add"),
        Wrong("chosen by size", lambda x, a, k: right_pursuit(x, a, k, signed=True), "coefficients turn negative"),
        Wrong("changes x in place", taken_away, "in place"),
        Wrong("a tuple of code and residual", lambda x, a, k: (right_pursuit(x, a, k), x), "wanted one tensor"),
        Wrong("one step too many", lambda x, a, k: right_pursuit(x, a, k + 1), "one step too many"),
    )


# 1.5 refit(x, atoms, chosen)
CHOSEN = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(51 + i))[:3] for i in range(40)])


def right_refit(x: Tensor, atoms: Tensor, chosen: Tensor) -> Tensor:
    return torch.linalg.lstsq(atoms[chosen].mT, x[..., None]).solution[..., 0]


def products(x: Tensor, atoms: Tensor, chosen: Tensor) -> Tensor:
    return (atoms[chosen] @ x[..., None])[..., 0]


def check_refit(answer: Any) -> str:
    want, what = right_refit(ROWS, ATOMS, CHOSEN), "refit(x, atoms, chosen)"
    full = torch.linalg.lstsq(ATOMS.T, ROWS.T).solution.T.gather(1, CHOSEN)
    known = {
        "these are plain products: atoms that overlap must share, so solve for all chosen ones together": products(
            ROWS, ATOMS, CHOSEN
        ),
        "fitted with all atoms: only those of `chosen` may take part, atoms[chosen] is (row, k, d)": full,
        "the code over all atoms: wanted the coefficients of the chosen ones only, (row, k)": torch.zeros(
            40, 12
        ).scatter(1, CHOSEN, want),
    }
    got = ask(answer, ROWS, ATOMS, CHOSEN, what=what)
    if isinstance(got, Tensor) and got.shape == (40, 12):
        compare(got, torch.full((40, 12), torch.inf), what=what, known=known)
    compare(got, want, what=what, known=known)
    plain = products(ROWS, ATOMS, CHOSEN)
    left, other = (
        products(ROWS - (z[:, None] @ ATOMS[CHOSEN])[:, 0], ATOMS, CHOSEN).abs().max() for z in (want, plain)
    )
    return (
        f"What is left is orthogonal to every chosen atom: no product above {max(float(left), 1e-4):.4f}, where plain "
        f"products leave up to {other:.2f}."
    )


def wrong_refit() -> Sequence[Wrong]:
    return (
        Wrong("plain products", products, "atoms that overlap must share"),
        Wrong("all atoms fitted", lambda x, a, c: torch.linalg.lstsq(a.T, x.T).solution.T.gather(1, c), "all atoms"),
        Wrong("all of what lstsq returns", lambda x, a, c: torch.linalg.lstsq(a[c].mT, x[..., None]), "one tensor"),
        Wrong("a last axis of 1", lambda x, a, c: right_refit(x, a, c)[..., None], "axis of length 1"),
        Wrong("residual turned round", lambda x, a, c: -right_refit(x, a, c), "right up to sign"),
        Wrong("atoms not transposed", lambda x, a, c: torch.linalg.lstsq(a[c], x[..., None]).solution, "stops"),
    )


# 1.6 update(code, x)
CODE = draw(61, 60, 5).clamp_min(0)
MADE = CODE @ draw(62, 5, 3) + 0.1 * draw(63, 60, 3)


def right_update(code: Tensor, x: Tensor) -> Tensor:
    return normalize(torch.linalg.lstsq(code, x).solution, dim=-1)


def check_update(answer: Any) -> str:
    free, what = torch.linalg.lstsq(CODE, MADE).solution, "update(code, x)"
    known = {
        "the least squares are right, but atoms must have length 1: normalise each row": free,
        "these are mean rows where a latent is on: others are on in the same rows, solve for all together": normalize(
            CODE.T @ MADE, dim=-1
        ),
        "normalised along the wrong axis: an atom is a row": normalize(free, dim=0),
    }
    compare(ask(answer, CODE, MADE, what=what), right_update(CODE, MADE), what=what, known=known)
    cosine = (right_update(CODE, MADE) * normalize(CODE.T @ MADE, dim=-1)).sum(-1)
    return (
        f"Given the code, the best atoms are one least-squares problem. Plain averages would miss: their cosine with "
        f"these goes down to {cosine.min():.2f}."
    )


def wrong_update() -> Sequence[Wrong]:
    return (
        Wrong("not normalised", lambda z, x: torch.linalg.lstsq(z, x).solution, "length 1"),
        Wrong("averages of rows", lambda z, x: normalize(z.T @ x, dim=-1), "others are on in the same rows"),
        Wrong("columns normalised", lambda z, x: normalize(torch.linalg.lstsq(z, x).solution, dim=0), "wrong axis"),
        Wrong("atoms as columns", lambda z, x: right_update(z, x).T, "right, but transposed"),
        Wrong("solved the other way round", lambda z, x: torch.linalg.lstsq(x, z).solution, "axes the wrong way"),
        Wrong("sign lost", lambda z, x: -right_update(z, x), "right up to sign"),
    )


# 1.7 recovery(true, found, random)
TRUE, FOUND, RANDOM = (normalize(draw(s, n, 6), dim=-1) for s, n in ((71, 9), (72, 7), (73, 7)))


def right_recovery(true: Tensor, found: Tensor, random: Tensor) -> dict[str, float]:
    return {k: float((true @ a.T).max(-1).values.mean()) for k, a in (("found", found), ("chance", random))}


def check_recovery(answer: Any) -> str:
    what = "recovery(true, found, random)"
    got = entries(ask(answer, TRUE, FOUND, RANDOM, what=what), ("found", "chance"), what=what)
    want = right_recovery(TRUE, FOUND, RANDOM)
    for name, atoms in (("found", FOUND), ("chance", RANDOM)):
        cosine, each = TRUE @ atoms.T, f"{what}[{name!r}]"
        known = {
            f"{each} goes from found atoms to the truth: ask of every true direction which atom is nearest": float(
                cosine.max(0).values.mean()
            ),
            f"{each} averages over all pairs: take the largest cosine of each true direction first": float(
                cosine.mean()
            ),
            f"{each} takes |cosine|: an atom that points the other way has not found the direction": float(
                cosine.abs().max(-1).values.mean()
            ),
            f"{each} is the best single pair: average over the true directions": float(cosine.max()),
            f"{each} is the number for {'random' if name == 'found' else 'found'} atoms": want[
                "chance" if name == "found" else "found"
            ],
        }
        number(got[name], want[name], what=each, known=known)
    directions, atoms = (geometry.random_directions(64, 32, seed=seed) for seed in (1, 2))
    null = right_recovery(directions, atoms, atoms)["chance"]
    return (
        f"The null is not 0: 64 random atoms in 32 dimensions come within a cosine of {null:.2f} of 64 "
        f"directions on average. A recovery is read beside that number."
    )


def wrong_recovery() -> Sequence[Wrong]:
    def of(score: Callable[[Tensor], Any]) -> Callable[[Tensor, Tensor, Tensor], dict[str, Any]]:
        return lambda true, found, random: {"found": score(true @ found.T), "chance": score(true @ random.T)}

    return (
        Wrong("from atoms to truth", of(lambda c: c.max(0).values.mean()), "which atom is nearest"),
        Wrong("mean over all pairs", of(lambda c: c.mean()), "largest cosine of each true direction"),
        Wrong("sizes of cosines", of(lambda c: c.abs().max(-1).values.mean()), "points the other way"),
        Wrong("found and chance swapped", lambda t, f, r: right_recovery(t, r, f), "is the number for random atoms"),
        Wrong("no null", lambda t, f, r: {"found": right_recovery(t, f, r)["found"]}, "lacks 'chance'"),
        Wrong("only a number", lambda t, f, r: right_recovery(t, f, r)["found"], "must be a dictionary"),
        Wrong("one number per direction", of(lambda c: c.max(-1).values), "must be one number"),
    )


EXERCISES = {
    "1.1": Exercise(check_cosines, lambda: right_cosines, wrong_cosines),
    "1.2": Exercise(check_interference, lambda: right_interference, wrong_interference),
    "1.3": Exercise(check_toy, lambda: right_toy, wrong_toy),
    "1.4": Exercise(check_pursuit, lambda: right_pursuit, wrong_pursuit),
    "1.5": Exercise(check_refit, lambda: right_refit, wrong_refit),
    "1.6": Exercise(check_update, lambda: right_update, wrong_update),
    "1.7": Exercise(check_recovery, lambda: right_recovery, wrong_recovery),
}


def toys(place: Path, small: bool) -> dict[tuple[float, int], Tensor]:
    """W of the lesson's toy models by (density, seed)."""
    from safetensors.torch import load_file

    path = place / "toys.safetensors"
    wanted = [(density, seed) for density in DENSITIES for seed in SEEDS]
    if not path.is_file():
        steps = 300 if small else 1500
        made = {f"{density} {seed}": fit_toy(right_toy, density, seed, steps=steps) for density, seed in wanted}
        lineage.write_tensors(path, made)
    held = load_file(path)
    return {(density, seed): held[f"{density} {seed}"] for density, seed in wanted}


CAUGHT_UP = {"1.3": toys}

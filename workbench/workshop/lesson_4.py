"""Lesson 4, metrics that mislead: its checks and the mistakes they foresee, and the dictionaries that it scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import normalize

from ..dictionary import Dictionary, load, recipe, save
from .hints import NotYet, ask, draw, entries, number, tensor
from .lesson_3 import LATENTS, D, K, numbers, trained
from .lessons import Exercise, Wrong

# 4.1 fvu(x, x_hat, keep)
X = draw(11, 120, 6) + 0.7 * draw(12, 6)
KEEP = torch.arange(120) % 12 != 0
X[~KEEP] = 40 + draw(13, 10, 6)
X_HAT = torch.where(KEEP[:, None], X + 0.5 * draw(14, 120, 6), X + 2 * draw(15, 120, 6))


def share(error: Tensor, spread: Tensor) -> float:
    return float(error.square().sum() / spread.square().sum())


def right_fvu(x: Tensor, x_hat: Tensor, keep: Tensor) -> float:
    return share((x - x_hat)[keep], x[keep] - x[keep].mean(0))


def check_fvu(answer: Any) -> str:
    what, zeroed = "fvu(x, x_hat, keep)", X * KEEP[:, None]
    known = {
        "keep is not used: only rows with keep count, x[keep] and x_hat[keep]": share(X - X_HAT, X - X.mean(0)),
        "the rows to leave out are the ones used: x[keep], not x[~keep]": right_fvu(X, X_HAT, ~KEEP),
        "the mean is that of all rows: the left-out ones decide it, take x[keep].mean(0)": share(
            (X - X_HAT)[KEEP], X[KEEP] - X.mean(0)
        ),
        "only the error is restricted to keep: the variance below it has the left-out rows still": share(
            (X - X_HAT)[KEEP], X - X.mean(0)
        ),
        "left-out rows are set to 0 and still count as rows: take them out, x[keep]": share(
            zeroed - X_HAT * KEEP[:, None], zeroed - zeroed.mean(0)
        ),
        "the mean is not taken out: divide by the summed squares of x[keep] - x[keep].mean(0)": share(
            (X - X_HAT)[KEEP], X[KEEP]
        ),
        "that is the share explained: fvu is what is left, 1 less it": 1 - right_fvu(X, X_HAT, KEEP),
    }
    number(ask(answer, X, X_HAT, KEEP, what=what), right_fvu(X, X_HAT, KEEP), what=what, known=known)
    return (
        f"Over the rows to keep {right_fvu(X, X_HAT, KEEP):.3f} of the variance is missed, over all rows "
        f"{share(X - X_HAT, X - X.mean(0)):.4f}: {int((~KEEP).sum())} long rows of {len(X)} hide the others."
    )


def wrong_fvu() -> Sequence[Wrong]:
    def zeroed(x: Tensor, x_hat: Tensor, keep: Tensor) -> float:
        x, x_hat = x * keep[:, None], x_hat * keep[:, None]
        return share(x - x_hat, x - x.mean(0))

    return (
        Wrong("all rows", lambda x, y, k: share(x - y, x - x.mean(0)), "keep is not used"),
        Wrong("the others", lambda x, y, k: right_fvu(x, y, ~k), "not x[~keep]"),
        Wrong("mean of all", lambda x, y, k: share((x - y)[k], x[k] - x.mean(0)), "that of all rows"),
        Wrong("variance of all", lambda x, y, k: share((x - y)[k], x - x.mean(0)), "only the error is restricted"),
        Wrong("zeroed", zeroed, "are set to 0"),
        Wrong("not centred", lambda x, y, k: share((x - y)[k], x[k]), "the mean is not taken out"),
        Wrong("a number per row", lambda x, y, k: (x - y)[k].square().sum(-1), "must be one number"),
    )


# 4.2 cosine(x, x_hat)
V = (draw(21, 60, 6) + 1.2) * draw(22, 60, 1).abs()
V_HAT = 0.4 * V + 0.5 * draw(23, 60, 6) * V.norm(dim=-1, keepdim=True) / 3


def right_cosine(x: Tensor, x_hat: Tensor) -> float:
    return float(torch.cosine_similarity(x, x_hat, dim=-1).mean())


def check_cosine(answer: Any) -> str:
    what = "cosine(x, x_hat)"
    known = {
        "one cosine of all rows laid end to end: long rows decide it, so one for each row, then the mean": right_cosine(
            V.reshape(1, -1), V_HAT.reshape(1, -1)
        ),
        "the cosines of the columns: one for each row, dim=-1": right_cosine(V.T, V_HAT.T),
        "centred: that is a correlation, the cosine is taken of the rows as they are": right_cosine(
            V - V.mean(0), V_HAT - V_HAT.mean(0)
        ),
        "inner products: divide by both lengths": float((V * V_HAT).sum(-1).mean()),
        "divided by the length of x only": float(((V * V_HAT).sum(-1) / V.square().sum(-1)).mean()),
        "the sum over rows, wanted the mean": len(V) * right_cosine(V, V_HAT),
        "the cosine of the mean rows: one for each row, then the mean": right_cosine(
            V.mean(0)[None], V_HAT.mean(0)[None]
        ),
    }
    number(ask(answer, V, V_HAT, what=what), right_cosine(V, V_HAT), what=what, known=known)
    mean = V.mean(0).expand_as(V)
    return (
        f"Halve every reconstruction and the cosine stays {right_cosine(V, 0.5 * V_HAT):.2f}. The mean row alone, "
        f"which says nothing of any row, has {right_cosine(V, mean):.2f} here: 0 is not the chance level."
    )


def wrong_cosine() -> Sequence[Wrong]:
    return (
        Wrong("flattened", lambda x, y: right_cosine(x.reshape(1, -1), y.reshape(1, -1)), "laid end to end"),
        Wrong("columns", lambda x, y: right_cosine(x.T, y.T), "the cosines of the columns"),
        Wrong("centred", lambda x, y: right_cosine(x - x.mean(0), y - y.mean(0)), "that is a correlation"),
        Wrong("inner product", lambda x, y: (x * y).sum(-1).mean(), "divide by both lengths"),
        Wrong("one length", lambda x, y: ((x * y).sum(-1) / x.square().sum(-1)).mean(), "the length of x only"),
        Wrong("per row", lambda x, y: torch.cosine_similarity(x, y, dim=-1), "must be one number"),
    )


# 4.3 recovered(clean, spliced, ablated)
CLEAN = draw(31, 300).square() + 1.5
SPLICED, ABLATED = CLEAN + 0.8 * draw(32, 300).square(), CLEAN + 3 + 1.5 * draw(33, 300)


def right_recovered(clean: Tensor, spliced: Tensor, ablated: Tensor) -> float:
    return float((ablated.mean() - spliced.mean()) / (ablated.mean() - clean.mean()))


def check_recovered(answer: Any) -> str:
    what = "recovered(clean, spliced, ablated)"
    c, s, a = (float(v.mean()) for v in (CLEAN, SPLICED, ABLATED))
    known = {
        "that is the share lost: 1 less it": (s - c) / (a - c),
        "a mean of ratios, one for each token, where some gaps are nearly 0: means first, then divide": float(
            ((ABLATED - SPLICED) / (ABLATED - CLEAN)).mean()
        ),
        "that is the rise in nats: divide what is saved by the whole gap, ablated - clean": s - c,
        "that is what is saved, in nats: divide it by the whole gap, ablated - clean": a - s,
        "divided by the ablated loss: the clean loss is not 0, so divide by ablated - clean": (a - s) / a,
        "clean over spliced: losses have no natural zero, compare their gaps to the ablated one": c / s,
        "the inverse: the whole gap, ablated - clean, stands below": (a - c) / (a - s),
    }
    got = ask(answer, CLEAN, SPLICED, ABLATED, what=what)
    number(got, right_recovered(CLEAN, SPLICED, ABLATED), what=what, known=known)
    twice = right_recovered(CLEAN, SPLICED, ABLATED + (a - c))
    return (
        f"{right_recovered(CLEAN, SPLICED, ABLATED):.1%} recovered, at a cost of {s - c:.2f} nats. Were the ablation "
        f"twice as harmful, the same reconstruction would read {twice:.1%}, at the same cost."
    )


def wrong_recovered() -> Sequence[Wrong]:
    return (
        Wrong("share lost", lambda c, s, a: (s.mean() - c.mean()) / (a.mean() - c.mean()), "the share lost"),
        Wrong("mean of ratios", lambda c, s, a: ((a - s) / (a - c)).mean(), "one for each token"),
        Wrong("nats", lambda c, s, a: s.mean() - c.mean(), "the rise in nats"),
        Wrong("of the ablated loss", lambda c, s, a: 1 - s.mean() / a.mean(), "divided by the ablated loss"),
        Wrong("ratio of losses", lambda c, s, a: c.mean() / s.mean(), "no natural zero"),
        Wrong("no mean", lambda c, s, a: (a - s) / (a - c), "must be one number"),
    )


# 4.4 both_ways(found, truth)
TRUTH = draw(41, 8, 6)
FOUND = 3 * torch.cat([TRUTH[:2], TRUTH[:2], TRUTH[:2], -TRUTH[2:4], draw(42, 2, 6)]) + 0.5 * draw(43, 10, 6)
WAYS = ("precision", "recall", "matched")


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return normalize(a, dim=-1) @ normalize(b, dim=-1).T


def right_both_ways(found: Tensor, truth: Tensor) -> dict[str, float]:
    from scipy.optimize import linear_sum_assignment

    cosine = cosines(found, truth)
    pairs = cosine[linear_sum_assignment(cosine.numpy(), maximize=True)]
    return {
        "precision": float(cosine.amax(1).mean()),
        "recall": float(cosine.amax(0).mean()),
        "matched": float(pairs.sum() / len(truth)),
    }


def check_both_ways(answer: Any) -> str:
    from scipy.optimize import linear_sum_assignment

    what, want = "both_ways(found, truth)", right_both_ways(FOUND, TRUTH)
    got = entries(ask(answer, FOUND, TRUTH, what=what), WAYS, what=what)
    cosine, dots = cosines(FOUND, TRUTH), FOUND @ TRUTH.T
    size = cosine.abs()
    worst = float(cosine[linear_sum_assignment(cosine.numpy())].sum()) / len(TRUTH)
    known = {
        "precision": {
            "precision and recall are exchanged: precision is a mean over what was found": want["recall"],
            "the size of cosines: an atom that points the other way is not the direction": float(size.amax(1).mean()),
            "the atoms are not normalised: wanted cosines": float(dots.amax(1).mean()),
            "the largest of all: wanted the mean over atoms of each one's nearest": float(cosine.max()),
        },
        "recall": {
            "precision and recall are exchanged: recall is a mean over the true directions": want["precision"],
            "the size of cosines: an atom that points the other way is not the direction": float(size.amax(0).mean()),
            "the atoms are not normalised: wanted cosines": float(dots.amax(0).mean()),
        },
        "matched": {
            "'matched' lets several atoms share one direction: linear_sum_assignment pairs them one-to-one": want[
                "recall"
            ],
            "'matched' lets several atoms share one direction; linear_sum_assignment pairs them one-to-one": want[
                "precision"
            ],
            "'matched' is the worst matching: linear_sum_assignment(..., maximize=True)": worst,
            "'matched' is a sum over pairs: divide by the number of true directions": want["matched"] * len(TRUTH),
            "'matched' is divided by the number of atoms: by that of true directions": want["matched"]
            * len(TRUTH)
            / len(FOUND),
        },
    }
    for name in WAYS:
        number(got[name], want[name], what=f"{what}[{name!r}]", known=known[name])
    return (
        f"{len(FOUND)} atoms, six of them copies of two of {len(TRUTH)} directions: precision {want['precision']:.2f}, "
        f"recall {want['recall']:.2f}, matched {want['matched']:.2f}. A copy costs nothing until each direction may be "
        f"claimed only once."
    )


def wrong_both_ways() -> Sequence[Wrong]:
    def turned(found: Tensor, truth: Tensor) -> dict[str, float]:
        said = right_both_ways(found, truth)
        return said | {"precision": said["recall"], "recall": said["precision"]}

    def shared(found: Tensor, truth: Tensor) -> dict[str, float]:
        said = right_both_ways(found, truth)
        return said | {"matched": said["recall"]}

    def sized(found: Tensor, truth: Tensor) -> dict[str, float]:
        size = cosines(found, truth).abs()
        return right_both_ways(found, truth) | {"precision": float(size.amax(1).mean())}

    def worst(found: Tensor, truth: Tensor) -> dict[str, float]:
        from scipy.optimize import linear_sum_assignment

        cosine = cosines(found, truth)
        least = float(cosine[linear_sum_assignment(cosine.numpy())].sum()) / len(truth)
        return right_both_ways(found, truth) | {"matched": least}

    def bare(found: Tensor, truth: Tensor) -> dict[str, float]:
        return right_both_ways(found, truth) | {"precision": float((found @ truth.T).amax(1).mean())}

    return (
        Wrong("exchanged", turned, "are exchanged"),
        Wrong("shared partners", shared, "one-to-one"),
        Wrong("sizes", sized, "points the other way"),
        Wrong("worst matching", worst, "maximize=True"),
        Wrong("not normalised", bare, "are not normalised"),
        Wrong("one number", lambda f, t: cosines(f, t).amax(1).mean(), "must be a dictionary"),
        Wrong("matched missing", lambda f, t: {"precision": 1.0, "recall": 1.0}, "lacks 'matched'"),
    )


# 4.5 silent(rate, n)
RATE = torch.cat([10 ** (draw(51, 60) - 2.2), torch.zeros(4)]).clamp_max(0.9)
DRAWN = 200


def right_silent(rate: Tensor, n: int) -> float:
    return float(((1 - rate) ** n).mean())


def check_silent(answer: Any) -> str:
    what = "silent(rate, n)"
    known = {
        "that is the share that fires at least once: 1 less it": 1 - right_silent(RATE, DRAWN),
        "one rate for all: the rare latents are the silent ones, so a chance for each latent, then the mean": float(
            (1 - RATE.mean()) ** DRAWN
        ),
        "that is for one row: silent in all n rows is (1 - rate) to the power n": float((1 - RATE).mean()),
        "rate to the power n is the chance to fire in every row: take (1 - rate) ** n": float((RATE**DRAWN).mean()),
        "1 - n * rate goes below 0 for a common latent: take (1 - rate) ** n": float((1 - DRAWN * RATE).mean()),
        "1 - n * rate, cut at 0, is too small: take (1 - rate) ** n": float((1 - DRAWN * RATE).clamp_min(0).mean()),
        "only those that never fire at all: in n rows the rare ones are silent too": float((RATE == 0).float().mean()),
        "a number of latents, wanted the share": len(RATE) * right_silent(RATE, DRAWN),
    }
    number(ask(answer, RATE, DRAWN, what=what), right_silent(RATE, DRAWN), what=what, known=known)
    said = ", ".join(f"{right_silent(RATE, n):.0%} in {n:,} rows" for n in (100, 1_000, 10_000))
    return (
        f"Expected to be silent, of one dictionary: {said}. A share of dead latents without its number of rows is none."
    )


def wrong_silent() -> Sequence[Wrong]:
    return (
        Wrong("alive", lambda r, n: 1 - right_silent(r, n), "fires at least once"),
        Wrong("one rate", lambda r, n: (1 - r.mean()) ** n, "one rate for all"),
        Wrong("one row", lambda r, n: (1 - r).mean(), "that is for one row"),
        Wrong("every row", lambda r, n: (r**n).mean(), "to fire in every row"),
        Wrong("linear", lambda r, n: (1 - n * r).clamp_min(0).mean(), "cut at 0"),
        Wrong("never", lambda r, n: (r == 0).float().mean(), "never fire at all"),
        Wrong("each", lambda r, n: (1 - r) ** n, "must be one number"),
    )


# 4.6 auc(score, label)
LABEL = numbers(61, 10, 200) == 0
SCORE = (draw(62, 200) + 1.0 * LABEL).mul(2).round() / 2 - 1.0


def right_auc(score: Tensor, label: Tensor) -> float:
    good, bad = score[label][:, None], score[~label]
    return float(((good > bad).double() + 0.5 * (good == bad)).mean())


def check_auc(answer: Any) -> str:
    what, good, bad = "auc(score, label)", SCORE[LABEL][:, None], SCORE[~LABEL]
    said = SCORE > 0
    hit, quiet = said[LABEL].float().mean(), (~said)[~LABEL].float().mean()
    known = {
        "ties count nothing: a pair with equal scores counts half": float((good > bad).float().mean()),
        "ties count in full: a pair with equal scores counts half": float((good >= bad).float().mean()),
        "turned round: count pairs in which the labelled row scores higher": 1 - right_auc(SCORE, LABEL),
        "that is accuracy at a threshold of 0: compare every labelled row with every other": float(
            (said == LABEL).float().mean()
        ),
        "that is balanced accuracy, at one threshold: compare every labelled row with every other": float(
            (hit + quiet) / 2
        ),
        "a number of pairs, wanted the share": right_auc(SCORE, LABEL) * good.numel() * bad.numel(),
        "pairs of any two rows: only those of a labelled and an unlabelled one": float(
            (SCORE[:, None] > SCORE).float().mean()
        ),
    }
    number(ask(answer, SCORE, LABEL, what=what), right_auc(SCORE, LABEL), what=what, known=known)
    never = float((~LABEL).float().mean())
    return (
        f"AUC {right_auc(SCORE, LABEL):.2f}, whatever the threshold and the base rate. Accuracy at 0 is "
        f"{float((said == LABEL).float().mean()):.0%}, and to say no always is right in {never:.0%}; its AUC is 0.5."
    )


def wrong_auc() -> Sequence[Wrong]:
    return (
        Wrong("no ties", lambda s, y: (s[y][:, None] > s[~y]).float().mean(), "ties count nothing"),
        Wrong("full ties", lambda s, y: (s[y][:, None] >= s[~y]).float().mean(), "ties count in full"),
        Wrong("turned round", lambda s, y: 1 - right_auc(s, y), "turned round"),
        Wrong("accuracy", lambda s, y: ((s > 0) == y).float().mean(), "accuracy at a threshold"),
        Wrong("any pairs", lambda s, y: (s[:, None] > s).float().mean(), "pairs of any two rows"),
        Wrong("all pairs", lambda s, y: s[y][:, None] > s[~y], "must be one number"),
    )


# 4.7 split(document, share, seed)
DOCUMENT = numbers(71, 10_000, 40)[numbers(72, 40, 900)]  # numbers of documents, in no order, some longer than others
PART = 0.25


def right_split(document: Tensor, share: float, seed: int) -> Bool[Tensor, " row"]:
    known = document.unique()
    order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
    return torch.isin(document, order[: round(share * len(known))])


def check_split(answer: Any) -> str:
    what = "split(document, share, seed)"
    parts = []
    for seed in range(3):
        held = tensor(ask(answer, DOCUMENT, PART, seed, what=what), what)
        if held.dtype != torch.bool:
            raise NotYet(f"{what} must be True or False for each row, True where held out, got {held.dtype}")
        if held.shape != DOCUMENT.shape:
            raise NotYet(f"{what} must say for each of {len(DOCUMENT)} rows if it is held out, got {tuple(held.shape)}")
        parts.append(held)
    first, documents = parts[0], DOCUMENT.unique()
    both = set(DOCUMENT[first].tolist()) & set(DOCUMENT[~first].tolist())
    if both:
        raise NotYet(f"{len(both)} of {len(documents)} documents stand on both sides: hold out documents, not rows")
    shares = [len(DOCUMENT[p].unique()) / len(documents) for p in parts]
    if abs(shares[0] - (1 - PART)) < 0.02:
        raise NotYet(f"{shares[0]:.0%} of the documents are held out, wanted {PART:.0%}: True is for those held out")
    if abs(shares[0] - PART) > 0.04:
        raise NotYet(f"{shares[0]:.0%} of the documents are held out, wanted {PART:.0%} of them, drawn by seed")
    if torch.equal(parts[0], parts[1]) and torch.equal(parts[1], parts[2]):
        raise NotYet("every seed holds out the same documents: draw them, torch.randperm(..., generator=...)")
    if not torch.equal(ask(answer, DOCUMENT, PART, 0, what=what), first):
        raise NotYet("the same seed gave another split: draw with torch.Generator().manual_seed(seed)")
    rows = float(torch.isin(DOCUMENT, DOCUMENT[right_rows(DOCUMENT, PART, 0)]).float().mean())
    return (
        f"{shares[0]:.0%} of {len(documents)} documents are held out and none is on both sides. Had rows been drawn, "
        f"{rows:.0%} of all rows would be of documents that both sides know."
    )


def right_rows(document: Tensor, share: float, seed: int) -> Tensor:
    """The usual mistake: rows are held out, whatever their document."""
    order = torch.randperm(len(document), generator=torch.Generator().manual_seed(seed))
    return torch.isin(torch.arange(len(document)), order[: round(share * len(document))])


def wrong_split() -> Sequence[Wrong]:
    return (
        Wrong("rows", right_rows, "hold out documents, not rows"),
        Wrong("by value", lambda d, share, seed: d <= d.unique()[round(share * len(d.unique())) - 1], "every seed"),
        Wrong("the other part", lambda d, share, seed: ~right_split(d, share, seed), "True is for those held out"),
        Wrong("no seed", lambda d, share, seed: right_split(d, share, int(torch.randint(1 << 30, ()))), "same seed"),
        Wrong("half", lambda d, share, seed: right_split(d, 0.5, seed), "wanted 25%"),
        Wrong("row numbers", lambda d, share, seed: right_split(d, share, seed).nonzero()[:, 0], "True or False"),
        Wrong("documents", lambda d, share, seed: right_split(d.unique(), share, seed), "for each of 900 rows"),
    )


EXERCISES = {
    "4.1": Exercise(check_fvu, lambda: right_fvu, wrong_fvu),
    "4.2": Exercise(check_cosine, lambda: right_cosine, wrong_cosine),
    "4.3": Exercise(check_recovered, lambda: right_recovered, wrong_recovered),
    "4.4": Exercise(check_both_ways, lambda: right_both_ways, wrong_both_ways),
    "4.5": Exercise(check_silent, lambda: right_silent, wrong_silent),
    "4.6": Exercise(check_auc, lambda: right_auc, wrong_auc),
    "4.7": Exercise(check_split, lambda: right_split, wrong_split),
}


KINDS: dict[str, dict[str, Any]] = {
    "k = 12": {"name": "batch_topk", "k": K},
    "k = 2": {"name": "batch_topk", "k": 2},
    "random atoms": {"name": "random_atoms", "k": K},
}


def scored(place: Path, small: bool) -> dict[str, Dictionary]:
    """The dictionaries that the lesson scores: a good one, one with two latents on, and random atoms."""
    homes = {name: place / name.replace(" = ", "").replace(" ", "_") for name in KINDS}
    if not all((home / "spec.json").is_file() for home in homes.values()):
        made = trained([recipe(d=D, latents=LATENTS, seed=0, **args) for args in KINDS.values()], small)
        for dictionary, home in zip(made, homes.values(), strict=True):
            save(dictionary, home)
    return {name: load(home) for name, home in homes.items()}


CAUGHT_UP = {"4.1": scored}

"""Lesson 3, read latents: its checks and the mistakes they foresee, and the dictionary that its cells read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import testbeds
from ..dictionary import Dictionary, load, recipe, save, train
from ..harvest import Store, collect, corpus
from .hints import NotYet, ask, compare, draw, entries, number
from .lessons import Exercise, Wrong

SUBJECT, SITE, ROWS, D, LATENTS, K, STEPS = "tiny_text_gelu", "1.resid", 40_000, 128, 512, 12, 300
SMALL_ROWS, SMALL_STEPS = 12_000, 60


def numbers(seed: int, high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


# 3.1 strongest(z, ids, n)
IDS = numbers(11, 12, 300)
CODES = ((IDS[:, None] == torch.arange(8)) * 1.4 + draw(12, 300, 8) - 0.3).relu()


def right_strongest(z: Tensor, ids: Tensor, n: int) -> Int[Tensor, "latent n"]:
    return ids[z.topk(n, dim=0).indices].T


def check_strongest(answer: Any) -> str:
    what, n = "strongest(z, ids, n)", 6
    known = {
        "those are numbers of rows: look up their tokens, ids[rows]": CODES.topk(n, dim=0).indices.T,
        "the order is turned round: the strongest row comes first": right_strongest(CODES, IDS, n).flip(1),
        "those are the weakest rows, most of them zeros: largest first": ids_of(CODES.argsort(0)[:n]),
        "those are activations: wanted the tokens on which they stand": CODES.topk(n, dim=0).values.T.long(),
        "those are latents: look down the rows, topk(n, dim=0), and not along a row's latents": CODES[: len(CODES.T)]
        .topk(n, dim=1)
        .indices,
    }
    got = ask(answer, CODES, IDS, n, what=what)
    if isinstance(got, Tensor) and got.shape == (len(CODES), n):
        raise NotYet(list(known)[-1])
    compare(got, right_strongest(CODES, IDS, n), what=what, known=known)
    top = (right_strongest(CODES, IDS, n) == torch.arange(8)[:, None]).float().mean()
    every = ((IDS[:, None] == torch.arange(8)) & (CODES > 0)).sum() / (CODES > 0).sum()
    return (
        f"Here latent i fires more on token i: that token is {float(top):.0%} of the strongest {n} rows, and "
        f"{float(every):.0%} of all rows where the latent fires. Whoever looks at the top sees the first number."
    )


def ids_of(rows: Int[Tensor, "n latent"]) -> Int[Tensor, "latent n"]:
    return IDS[rows].T


def wrong_strongest() -> Sequence[Wrong]:
    return (
        Wrong("row numbers", lambda z, ids, n: z.topk(n, dim=0).indices.T, "look up their tokens"),
        Wrong("strongest last", lambda z, ids, n: right_strongest(z, ids, n).flip(1), "turned round"),
        Wrong("weakest", lambda z, ids, n: ids[z.argsort(0)[:n]].T, "the weakest rows"),
        Wrong("along a row", lambda z, ids, n: z.topk(n, dim=1).indices, "topk(n, dim=0)"),
        Wrong("activations", lambda z, ids, n: z.topk(n, dim=0).values.T, "those are activations"),
        Wrong("transposed", lambda z, ids, n: right_strongest(z, ids, n).T, "transposed"),
        Wrong("all that topk returns", lambda z, ids, n: z.topk(n, dim=0), "all that torch returns"),
    )


# 3.2 writes(atoms, unembed, gain)
ATOMS, UNEMBED, GAIN = draw(21, 6, 16), draw(22, 400, 16) + draw(23, 16), draw(24, 16).abs() + 0.3


def right_writes(atoms: Tensor, unembed: Tensor, gain: Tensor) -> Float[Tensor, "latent vocab"]:
    effect = (atoms * gain) @ unembed.T
    return effect - effect.mean(-1, keepdim=True)


def check_writes(answer: Any) -> str:
    what, raw = "writes(atoms, unembed, gain)", (ATOMS * GAIN) @ UNEMBED.T
    bare, divided = ATOMS @ UNEMBED.T, (ATOMS / GAIN) @ UNEMBED.T
    known = {
        "not centred: softmax does not see what all tokens share, take each latent's mean over the vocabulary": raw,
        "centred along the wrong axis: the mean over the vocabulary, dim=-1, keepdim=True": raw - raw.mean(0),
        "one mean for all latents: each has its own, .mean(-1, keepdim=True)": raw - raw.mean(),
        "the gain is forgotten: the last norm multiplies each coordinate by it": bare - bare.mean(-1, keepdim=True),
        "divided by the gain: the last norm multiplies by it": divided - divided.mean(-1, keepdim=True),
        "the atoms are made unit vectors: keep their length, it is what one unit of activation adds": right_writes(
            ATOMS / ATOMS.norm(dim=-1, keepdim=True), UNEMBED, GAIN
        ),
    }
    want = right_writes(ATOMS, UNEMBED, GAIN)
    compare(ask(answer, ATOMS, UNEMBED, GAIN, what=what), want, what=what, known=known)
    most = (want.max(-1).values / want.std(-1)).mean()
    return (
        f"The most promoted of {UNEMBED.shape[0]} tokens stands {float(most):.1f} standard deviations above the mean, "
        f"and these atoms are noise: some list of tokens comes out of any direction."
    )


def wrong_writes() -> Sequence[Wrong]:
    raw: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda a, u, g: (a * g) @ u.T  # noqa: E731
    return (
        Wrong("not centred", raw, "not centred"),
        Wrong("centred over latents", lambda a, u, g: raw(a, u, g) - raw(a, u, g).mean(0), "wrong axis"),
        Wrong("no gain", lambda a, u, g: right_writes(a, u, torch.ones_like(g)), "the gain is forgotten"),
        Wrong("divided", lambda a, u, g: right_writes(a, u, 1 / g), "divided by the gain"),
        Wrong("transposed", lambda a, u, g: right_writes(a, u, g).T, "transposed"),
        Wrong("unit atoms", lambda a, u, g: right_writes(a / a.norm(dim=-1, keepdim=True), u, g), "keep their length"),
    )


# 3.3 agree(rule, z, above)
RULE = numbers(31, 10, 400) < 2
FIRED = torch.where(RULE & (draw(32, 400) > -1.2), 1.2 + draw(33, 400), draw(34, 400) - 0.9).relu()
ABOVE = 0.8


def right_agree(rule: Tensor, z: Tensor, above: float) -> dict[str, float]:
    fires = z > above
    both = float((rule & fires).sum())
    return {"precision": both / float(rule.sum()), "recall": both / float(fires.sum())}


def check_agree(answer: Any) -> str:
    what, want = "agree(rule, z, above)", right_agree(RULE, FIRED, ABOVE)
    got = entries(ask(answer, RULE, FIRED, ABOVE, what=what), tuple(want), what=what)
    fires, loose = FIRED > ABOVE, right_agree(RULE, FIRED, 0.0)
    alike = float((~(RULE ^ fires)).float().mean())
    for name, other in (("precision", "recall"), ("recall", "precision")):
        each = f"{what}[{name!r}]"
        below = "named" if name == "precision" else "that fire"
        known = {
            "precision and recall are exchanged: precision is a share of the rows that the rule names": want[other],
            f"{each} does not use the threshold: a row counts as firing where z > above": loose[name],
            f"{each} is a share of all rows: divide by the rows {below}": float((RULE & fires).float().mean()),
            f"{each} is a count, wanted a share": float((RULE & fires).sum()),
            f"{each} is the share of rows on which both agree, silence included": alike,
            f"{each} is a share of the rows that do not fire: look at those that do": float((RULE & ~fires).sum())
            / float((RULE if name == "precision" else ~fires).sum()),
        }
        number(got[name], want[name], what=each, known=known)
    return (
        f"Above {ABOVE:g} the rule finds {want['recall']:.0%} of the firings with a precision of "
        f"{want['precision']:.0%}; above 0 it is {loose['recall']:.0%} and {loose['precision']:.0%}. Same rule, same "
        f"latent: a score without its threshold says little."
    )


def wrong_agree() -> Sequence[Wrong]:
    def of(score: Callable[[Tensor, Tensor], Sequence[Any]]) -> Callable[[Tensor, Tensor, float], dict[str, Any]]:
        return lambda rule, z, above: dict(zip(("precision", "recall"), score(rule, z > above), strict=True))

    both: Callable[[Tensor, Tensor], Tensor] = lambda r, f: (r & f).sum()  # noqa: E731
    return (
        Wrong("exchanged", of(lambda r, f: (both(r, f) / f.sum(), both(r, f) / r.sum())), "are exchanged"),
        Wrong("no threshold", lambda r, z, above: right_agree(r, z, 0.0), "does not use the threshold"),
        Wrong("share of all rows", of(lambda r, f: ((r & f).float().mean(),) * 2), "a share of all rows"),
        Wrong("accuracy", of(lambda r, f: ((r == f).float().mean(),) * 2), "silence included"),
        Wrong("counts", of(lambda r, f: (both(r, f), both(r, f))), "wanted a share"),
        Wrong("recall missing", lambda r, z, above: {"precision": 0.5}, "lacks 'recall'"),
        Wrong("a pair", lambda r, z, above: (0.5, 0.5), "must be a dictionary"),
    )


# 3.4 tenths(z)
ACTS = torch.zeros(200).index_put((torch.randperm(200, generator=torch.Generator().manual_seed(41))[:60],),
                                  draw(42, 60).exp())  # fmt: skip


def right_tenths(z: Tensor) -> Int[Tensor, " row"]:
    where = (z > 0).nonzero()[:, 0]
    order = where[z[where].argsort()]
    return torch.full(z.shape, -1).index_put((order,), torch.arange(len(order)) * 10 // len(order))


def by_value(z: Tensor) -> Tensor:
    low, high = z[z > 0].min(), z.max()
    bins = ((z - low) / (high - low) * 10).floor().clamp(0, 9).long()
    return torch.where(z > 0, bins, -1)


def ranked(z: Tensor) -> Tensor:
    return z.argsort().argsort() * 10 // len(z)


def check_tenths(answer: Any) -> str:
    what, want = "tenths(z)", right_tenths(ACTS)
    known = {
        "ten equal ranges of activation: wanted ten groups of equally many rows, so rank them": by_value(ACTS),
        "silent rows are ranked too: rank only those with z > 0, the others are -1": ranked(ACTS),
        "turned round: 0 is the weakest tenth, 9 the strongest": torch.where(want >= 0, 9 - want, -1),
        "counted from 1: the weakest tenth is 0": torch.where(want >= 0, want + 1, -1),
        "counted from 1: the weakest tenth is 0, and a silent row -1": want + 1,
        "silent rows are in the weakest tenth: they are -1": want.clamp_min(0),
    }
    compare(ask(answer, ACTS, what=what), want, what=what, known=known)
    most = int((by_value(ACTS) == 9).sum())
    return (
        f"Each tenth holds {int((want == 9).sum())} of {int((want >= 0).sum())} rows. The strongest of ten equal "
        f"ranges of activation would hold {most}, and the weakest {int((by_value(ACTS) == 0).sum())}: most are weak."
    )


def wrong_tenths() -> Sequence[Wrong]:
    return (
        Wrong("by value", by_value, "ten equal ranges"),
        Wrong("zeros ranked", ranked, "silent rows are ranked too"),
        Wrong("turned round", lambda z: torch.where(z > 0, 9 - right_tenths(z), -1), "turned round"),
        Wrong("from one", lambda z: torch.where(z > 0, right_tenths(z) + 1, -1), "counted from 1"),
        Wrong("silent at 0", lambda z: right_tenths(z).clamp_min(0), "silent rows are in the weakest tenth"),
        Wrong("only the firing rows", lambda z: right_tenths(z)[z > 0], "wrong shape"),
    )


# 3.5 balanced(rule, fires)
SAID = numbers(51, 20, 600) == 0
ON = torch.where(SAID, numbers(52, 10, 600) < 6, numbers(53, 30, 600) == 0)


def right_balanced(rule: Tensor, fires: Tensor) -> float:
    return float((rule[fires].float().mean() + (~rule)[~fires].float().mean()) / 2)


def check_balanced(answer: Any) -> str:
    what, both = "balanced(rule, fires)", float((SAID & ON).sum())
    hit, quiet = float(SAID[ON].float().mean()), float((~SAID)[~ON].float().mean())
    precision = both / float(SAID.sum())
    known = {
        "that is accuracy, which silent rows decide: the mean of two shares, one of the firing rows, one of the silent "
        "ones": float((SAID == ON).float().mean()),
        "only the firing rows: add the share of silent rows that the rule leaves alone, and halve": hit,
        "only the silent rows: add the share of firing rows that the rule names, and halve": quiet,
        "the mean of precision and recall: that leaves out the silent rows": (hit + precision) / 2,
        "that is F1, which leaves out the silent rows: its chance moves with how often the latent fires": 2
        * precision
        * hit
        / (precision + hit),
        "the two shares are turned round: of the rows that fire, not of those that the rule names": (
            precision + float((~ON)[~SAID].float().mean())
        )
        / 2,
        "the sum of both shares: halve it": hit + quiet,
    }
    number(ask(answer, SAID, ON, what=what), right_balanced(SAID, ON), what=what, known=known)
    never = float((~ON).float().mean())
    return (
        f"This rule has {right_balanced(SAID, ON):.2f}. One that never says yes is right in {never:.0%} of the rows, "
        f"and its balanced accuracy is {right_balanced(torch.zeros_like(ON), ON):g}: chance, whatever the base rate."
    )


def wrong_balanced() -> Sequence[Wrong]:
    def precision(r: Tensor, f: Tensor) -> Tensor:
        return f[r].float().mean()

    return (
        Wrong("accuracy", lambda r, f: (r == f).float().mean(), "that is accuracy"),
        Wrong("recall", lambda r, f: r[f].float().mean(), "only the firing rows"),
        Wrong("specificity", lambda r, f: (~r)[~f].float().mean(), "only the silent rows"),
        Wrong("given the rule", lambda r, f: (precision(r, f) + (~f)[~r].float().mean()) / 2, "are turned round"),
        Wrong("not halved", lambda r, f: 2 * right_balanced(r, f), "halve it"),
        Wrong("per row", lambda r, f: (r == f).float(), "must be one number"),
    )


# 3.6 pick(first, second)
FIRST, SECOND = 0.5 + 0.03 * draw(61, 200, 30), 0.5 + 0.03 * draw(62, 200, 30)


def right_pick(first: Tensor, second: Tensor) -> dict[str, float]:
    best = first.argmax(0)
    there = torch.arange(first.shape[1])
    return {"picked": float(first[best, there].mean()), "held out": float(second[best, there].mean())}


def check_pick(answer: Any) -> str:
    what, want = "pick(first, second)", right_pick(FIRST, SECOND)
    got = entries(ask(answer, FIRST, SECOND, what=what), tuple(want), what=what)
    one, across = FIRST.mean(1).argmax(), FIRST.argmax(1)
    picked = {
        "the best latent for each rule: wanted the best rule for each latent, over dim 0": float(FIRST.amax(1).mean()),
        "one rule for all latents: each latent gets its own": float(FIRST[one].mean()),
        "the largest of all scores: wanted the mean over latents of each one's best": float(FIRST.max()),
        "nothing is picked: that is the mean over all rules": float(FIRST.mean()),
        "that is the score on held-out rows: 'picked' is what was seen while choosing": want["held out"],
        "a sum over latents, wanted the mean": FIRST.shape[1] * want["picked"],
    }
    held = {
        "'held out' picks again on the held-out rows: score there the rule that `first` chose": float(
            SECOND.amax(0).mean()
        ),
        "'held out' is the score that picked the rule: look the same rule up in `second`": want["picked"],
        "'held out' is the mean over all rules: only that of the rule picked": float(SECOND.mean()),
        "the best latent for each rule, over dim 1: wanted the best rule for each latent": float(
            SECOND[torch.arange(len(SECOND)), across].mean()
        ),
        "one rule for all latents: each latent gets its own": float(SECOND[one].mean()),
    }
    for name, known in (("picked", picked), ("held out", held)):
        number(got[name], want[name], what=f"{what}[{name!r}]", known=known)
    return (
        f"All {len(FIRST)} rules were noise around 0.5. The best of them reads {want['picked']:.2f}, and "
        f"{want['held out']:.2f} on rows that did not choose it: only the second number is a result."
    )


def wrong_pick() -> Sequence[Wrong]:
    def said(picked: Any, held: Any) -> dict[str, Any]:
        return {"picked": picked, "held out": held}

    return (
        Wrong("picked again", lambda a, b: said(a.amax(0).mean(), b.amax(0).mean()), "picks again"),
        Wrong("other axis", lambda a, b: said(a.amax(1).mean(), b.amax(1).mean()), "the best latent for each rule"),
        Wrong("all rules", lambda a, b: said(a.mean(), b.mean()), "nothing is picked"),
        Wrong("same score", lambda a, b: said(a.amax(0).mean(), a.amax(0).mean()), "that picked the rule"),
        Wrong("one best", lambda a, b: said(a.max(), b.max()), "the largest of all"),
        Wrong("no held out", lambda a, b: {"picked": a.amax(0).mean()}, "lacks 'held out'"),
        Wrong("no mean", lambda a, b: said(a.amax(0), b.amax(0)), "must be one number"),
    )


# 3.7 effective(z, ids, vocab)
WORDS = (draw(71, 500).abs() * 6).long().clamp_max(19)
MASS = (draw(72, 500) + 1.5 * (WORDS < 3) - 0.6).relu()


def shares(z: Tensor, ids: Tensor, vocab: int) -> Float[Tensor, " vocab"]:
    mass = torch.zeros(vocab).index_add(0, ids, z.float())
    return mass / mass.sum()


def entropy(p: Tensor) -> float:
    return float(-(p * p.clamp_min(1e-12).log()).sum())


def right_effective(z: Tensor, ids: Tensor, vocab: int) -> float:
    return float(torch.tensor(entropy(shares(z, ids, vocab))).exp())


def check_effective(answer: Any) -> str:
    what, p = "effective(z, ids, vocab)", shares(MASS, WORDS, 30)
    nats, fired = entropy(p), (MASS > 0).float()
    known = {
        "that is the entropy, in nats: its exponential counts tokens": nats,
        "that is the entropy, in bits: wanted exp of it in nats, or 2 to that power": nats / 0.6931472,
        "2 to the power of nats: exp for nats, 2 ** for bits": 2.0**nats,
        "every firing counts the same there: weigh tokens by activation": right_effective(fired, WORDS, 30),
        "silent rows are counted too: add up activation, which is 0 there": right_effective(
            torch.ones_like(MASS), WORDS, 30
        ),
        "how many tokens it ever fires on: one that is rare counts as much as the commonest": float((p > 0).sum()),
        "1 over the sum of squared shares is another count: exp of the entropy was asked for": float(
            1 / p.square().sum()
        ),
        "the sign: entropy is minus the sum of p log p": float(torch.tensor(-nats).exp()),
        "an entropy over rows: add up the activation of each token first": float(
            torch.tensor(entropy(MASS / MASS.sum())).exp()
        ),
    }
    number(ask(answer, MASS, WORDS, 30, what=what), right_effective(MASS, WORDS, 30), what=what, known=known)
    return (
        f"It fires on {int((p > 0).sum())} different tokens, and its activation is spread as over "
        f"{right_effective(MASS, WORDS, 30):.1f} equal ones. Activations dealt to rows at random would give "
        f"{right_effective(MASS[torch.arange(500).flip(0)], WORDS, 30):.1f}: that is the number to be below."
    )


def wrong_effective() -> Sequence[Wrong]:
    return (
        Wrong("entropy", lambda z, i, v: entropy(shares(z, i, v)), "in nats"),
        Wrong("bits", lambda z, i, v: entropy(shares(z, i, v)) / 0.6931472, "in bits"),
        Wrong("counts", lambda z, i, v: right_effective((z > 0).float(), i, v), "weigh tokens by activation"),
        Wrong("all rows", lambda z, i, v: right_effective(torch.ones_like(z), i, v), "silent rows are counted"),
        Wrong("distinct", lambda z, i, v: len(i[z > 0].unique()), "how many tokens it ever fires on"),
        Wrong("squares", lambda z, i, v: 1 / shares(z, i, v).square().sum(), "sum of squared shares"),
        Wrong("log of zero", lambda z, i, v: (-(shares(z, i, v) * shares(z, i, v).log()).sum()).exp(), "is NaN"),
    )


EXERCISES = {
    "3.1": Exercise(check_strongest, lambda: right_strongest, wrong_strongest),
    "3.2": Exercise(check_writes, lambda: right_writes, wrong_writes),
    "3.3": Exercise(check_agree, lambda: right_agree, wrong_agree),
    "3.4": Exercise(check_tenths, lambda: right_tenths, wrong_tenths),
    "3.5": Exercise(check_balanced, lambda: right_balanced, wrong_balanced),
    "3.6": Exercise(check_pick, lambda: right_pick, wrong_pick),
    "3.7": Exercise(check_effective, lambda: right_effective, wrong_effective),
}


def harvested(small: bool) -> tuple[Any, Store, Store]:
    """The subject, and token rows of the committed pack at its last layer, split by documents; kept in the cache."""
    model = testbeds.subject(SUBJECT)
    store = collect(model, corpus("pack"), [SITE], rows=SMALL_ROWS if small else ROWS, seed=0, quiet=True)
    return model, *store.split(by="text", test=0.25, seed=0)


def trained(plan: Any, small: bool) -> Any:
    """What a recipe, or a list of them, becomes on the training rows."""
    model, rows, _ = harvested(small)
    stream = rows.stream(1024, site=SITE, steps=SMALL_STEPS if small else STEPS, seed=0)
    known = {"exclusion": rows.exclusion, "subject_fingerprint": model.fingerprint}
    return train(plan, stream, site=SITE, seed=0, progress=False, **known)


def first(place: Path, small: bool) -> Dictionary:
    """A BatchTopK of the last layer of the tiny language model, the one that lies in `place` if there is one."""
    if not (place / "spec.json").is_file():
        save(trained(recipe("batch_topk", d=D, latents=LATENTS, k=K, seed=0), small), place)
    return load(place)


CAUGHT_UP = {"3.1": first}

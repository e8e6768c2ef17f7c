"""Labelled prompts: what a set is, how one is drawn, and how well a model does on it.

prompts = prompt_set("ioi", n=32)            workbench/testbeds/prompts/ has a file for each set
accuracy(prompts, wb.Subject("smollm2-135m"))
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .. import catalogue
from ..batch import Tokens
from ..html import join, tag
from .core import Quality

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["answer", "repeat", "class", "sense", "place"]
MOST = 1_000_000  # prompts in one set
RADIUS = 6371.0088  # km, mean of the Earth
SHRINKS = np.logspace(-1, 6, 15)  # ridge penalties; inputs are standardised


@dataclass(frozen=True, eq=False)
class Prompts:
    """Labelled prompts, one row each. `kind` is what is asked of a model:

    "answer": the next token, one of `right` and none of `wrong` (token strings, leading spaces kept);
    "repeat": each text is a list of tokens given twice, the second half can be copied from the first;
    "class": the label `target` is to be read from activations, of documents never seen (label `document`);
    "sense": rows in threes, two contexts of one sense of a word and one of another (labels `word`, `sense`);
    "place": the labels `latitude` and `longitude` (degrees) are to be read from activations.
    `right` and `wrong` are empty lists in all kinds but the first. `pool` says where activations are read.
    """

    name: str
    texts: list[str]
    right: list[list[str]]
    wrong: list[list[str]]
    labels: "pd.DataFrame"
    doc: str
    kind: Kind = "answer"
    target: str | None = None
    pool: Literal["mean", "last"] = "mean"

    def __post_init__(self) -> None:
        n = len(self.texts)
        if not n == len(self.right) == len(self.wrong) == len(self.labels) or n < 1:
            raise ValueError(f"{self.name}: texts, right, wrong and labels must be equally many and not none")
        if len(set(self.texts)) < n:
            raise ValueError(f"{self.name}: a prompt is there twice")
        for text, good, bad in zip(self.texts, self.right, self.wrong, strict=True):
            if (self.kind == "answer") != bool(good and bad) or set(good) & set(bad):
                raise ValueError(f"{self.name}: {text!r} has right answers {good} and wrong ones {bad}")

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Prompts({self.name!r}, {len(self)} prompts, {self.kind}, labels {', '.join(self.labels.columns)})"

    def frame(self) -> "pd.DataFrame":
        """A row per prompt: text, the answers where there are some, labels."""
        found = self.labels.copy()
        if self.kind == "answer":
            found.insert(0, "wrong", self.wrong)
            found.insert(0, "right", self.right)
        found.insert(0, "text", self.texts)
        return found

    def _repr_html_(self) -> str:
        lines = []
        for i, text in enumerate(self.texts[:3]):
            shown = text if len(text) <= 200 else f"{text[:200]}…"
            said = f"{_said(self.right[i])} not {_said(self.wrong[i])}" if self.kind == "answer" else ""
            known = ", ".join(f"{k} {v}" for k, v in self.labels.iloc[i].items())
            pre = tag("span", shown, attrs={"style": "white-space: pre-wrap; font-family: monospace"})
            lines.append(tag("div", pre, " ", tag("b", said), " ", tag("small", known)))
        head = tag("div", tag("b", self.name), f" {len(self)} prompts: {self.doc.strip().partition(chr(10))[0]}")
        return tag("div", head, join(*lines))


def _said(answers: Sequence[str]) -> str:
    return "/".join(answers[:4]) + ("/…" if len(answers) > 4 else "")


def prompt_set(name: str, **args: Any) -> Prompts:
    """A set by name, its parameters as arguments. Raises ValueError that lists the sets there are."""
    return catalogue.entry("prompts", name)(**catalogue.bound("prompts", name, **args))


def made(
    module: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    kind: Kind = "answer",
    target: str | None = None,
    pool: Literal["mean", "last"] = "mean",
) -> Prompts:
    """A set of a file (its `globals()`) from rows of "text", "right", "wrong" and labels."""
    import pandas as pd

    answers = ("text", "right", "wrong")
    labels = pd.DataFrame([{k: v for k, v in row.items() if k not in answers} for row in rows])
    right, wrong = ([list(row.get(k, ())) for row in rows] for k in answers[1:])
    name = module["__name__"].rpartition(".")[2]
    return Prompts(name, [row["text"] for row in rows], right, wrong, labels, module["__doc__"], kind, target, pool)


def picks(n: int, counts: Sequence[int], seed: int) -> list[list[int]]:
    """n different choices, uniform over all: one index below each of `counts`. A larger n keeps the first ones.

    Raises ValueError when n is less than 1 or more than there are (or than a million).
    """
    total = math.prod(counts)
    if not 1 <= n <= min(total, MOST):
        raise ValueError(f"n must be 1 to {min(total, MOST)} different prompts, got {n}")
    rng = np.random.default_rng(seed)
    if total <= MOST:
        flat = rng.permutation(total)[:n]
        return np.stack(np.unravel_index(flat, tuple(counts)), -1).tolist()
    found: dict[tuple[int, ...], None] = {}
    while len(found) < n:
        found[tuple(rng.integers(0, list(counts)).tolist())] = None
    return [list(key) for key in found]


def unlike(items: Sequence[str], places: Sequence[int]) -> list[str]:
    """Different items, one for each place; places are below len(items), len(items) - 1, ... and each choice differs."""
    left = list(items)
    return [left.pop(place) for place in places]


def passages(texts: Sequence[str], n: int, seed: int, *, words: int, most: int) -> list[tuple[int, str]]:
    """n different passages of `words` words, each with its text's number: of every text one before of any a second.

    Texts are cut into passages from their begin, at most `most` of a text are used, drawn by seed. Raises ValueError
    when n is less than 1 or more than there are.
    """
    if words < 1:
        raise ValueError(f"words must be 1 or more, got {words}")
    rng = np.random.default_rng(seed)
    drawn = []
    for i in map(int, rng.permutation(len(texts))):
        split = texts[i].split()
        starts = rng.permutation(len(split) // words)[:most].tolist()
        drawn.append([(i, " ".join(split[k * words : (k + 1) * words])) for k in starts])
    found: dict[str, int] = {}
    for turn in range(most):
        for group in drawn:
            if turn < len(group):
                found.setdefault(group[turn][1], group[turn][0])  # mails repeat each other
    if not 1 <= n <= len(found):
        raise ValueError(f"n must be 1 to {len(found)} different prompts, got {n}")
    return [(i, text) for text, i in found.items()][:n]


# How well a model does.


def accuracy(
    prompts: Prompts, subject: Any, batch: int = 16, *, layer: int | None = None, folds: int = 5
) -> list[Quality]:
    """How well a subject does on a set, each number with its 95 % interval and chance level; `goal` repeats chance.

    answer: how often the best right answer beats every wrong one (chance right / (right + wrong)), how often the most
    likely token is right, and the mean logit of the right ones above that of the wrong ones, in nats.
    repeat: share of the second half's tokens that are the most likely one, given the first of them (chance: guessing
    among the tokens of the text), and their loss in nats per token (chance: the loss in the first half).
    class, sense, place: linear probes on the residual stream behind `layer` (by default the middle one), first
    position left out; `folds`-fold over documents, words or cities and countries, penalty chosen in the training part.
    Raises ValueError for an answer that is not one token of this subject.
    """
    if prompts.kind == "answer":
        return _answers(prompts, subject, batch)
    if prompts.kind == "repeat":
        return _repeats(prompts, subject, batch)
    site = f"{subject.layers // 2 if layer is None else layer}.resid"
    features = _features(prompts, subject, batch, site)
    return {"class": _classes, "sense": _senses, "place": _places}[prompts.kind](prompts, features, site, folds)


def _batches(prompts: Prompts, subject: Any, batch: int) -> "list[tuple[list[int], Tokens]]":
    """Texts of like length together: (their numbers, tokens)."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts.texts[i]), i))
    groups = [order[i : i + batch] for i in range(0, len(order), batch)]
    return [(group, subject.tokenize([prompts.texts[i] for i in group])) for group in groups]


def _ids(prompts: Prompts, subject: Any, answers: Sequence[str]) -> list[int]:
    found = [subject.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    for answer, ids in zip(answers, found, strict=True):
        if len(ids) != 1:
            raise ValueError(f"the answer {answer!r} of {prompts.name} is {len(ids)} tokens of {subject.name}, not one")
    return [ids[0] for ids in found]


def _answers(prompts: Prompts, subject: Any, batch: int) -> list[Quality]:
    n = len(prompts)
    beats, first, gap, chance, vocab = 0, 0, torch.zeros(n), 0.0, 1
    for group, tokens in _batches(prompts, subject, batch):
        logits = subject.run(tokens).logits
        last = tokens.mask.long().sum(-1) - 1  # padding stands on the right
        for i, row in zip(group, logits[torch.arange(len(last)), last].float(), strict=True):
            right = _ids(prompts, subject, prompts.right[i])
            wrong = _ids(prompts, subject, prompts.wrong[i])
            beats += int(row[right].max() > row[wrong].max())
            first += int(row.argmax()) in right
            gap[i] = row[right].mean() - row[wrong].mean()
            chance += len(right) / (len(right) + len(wrong)) / n
            vocab = len(row)
    lucky = sum(map(len, prompts.right)) / n / vocab
    return [
        Quality.share("right beats wrong", float(beats), n, chance=chance, goal=chance),
        Quality.share("top-1", float(first), n, chance=lucky, goal=lucky),
        Quality.mean("logit difference", gap, chance=0.0, goal=0.0, unit="nats", higher=True),
    ]


def _repeats(prompts: Prompts, subject: Any, batch: int) -> list[Quality]:
    hits, early, late, chance = (torch.zeros(len(prompts)) for _ in range(4))
    for group, tokens in _batches(prompts, subject, batch):
        logits = subject.run(tokens).logits
        for i, ids, mask, row in zip(group, tokens.ids, tokens.mask, logits, strict=True):
            ids, row = ids[mask], row[mask].float()
            half = len(ids) // 2
            if half < 2 or not torch.equal(ids[:half], ids[half:]):
                raise ValueError(f"{prompts.texts[i][:40]!r}… of {prompts.name} is no repetition in {subject.name}")
            lost = torch.nn.functional.cross_entropy(row[:-1], ids[1:], reduction="none")
            early[i], late[i] = lost[: half - 1].mean(), lost[half:].mean()
            hits[i] = (row[half:-1].argmax(-1) == ids[half + 1 :]).float().mean()
            chance[i] = 1 / len(ids[:half].unique())
    known, guess = float(early.mean()), float(chance.mean())
    return [
        Quality.mean("second-half accuracy", hits, chance=guess, goal=guess, unit="share", higher=True),
        Quality.mean("second-half loss", late, chance=known, goal=known, unit="nats per token"),
    ]


def _features(prompts: Prompts, subject: Any, batch: int, site: str) -> Float[np.ndarray, "text d"]:
    """Residual stream of each text, mean over its positions but the first, or at its last."""
    found: list[Tensor] = [torch.empty(0)] * len(prompts)
    for group, tokens in _batches(prompts, subject, batch):
        h = next(iter(subject.read(tokens, [site]).values()))
        keep: Bool[Tensor, "text pos"] = tokens.mask & (tokens.positions > 0)  # the first position is massive
        if not keep.any(-1).all():
            raise ValueError(f"a text of {prompts.name} is a single token of {subject.name}: nothing is left of it")
        for i, rows, kept in zip(group, h.float().cpu(), keep.cpu(), strict=True):
            found[i] = rows[kept].mean(0) if prompts.pool == "mean" else rows[kept][-1]
    return torch.stack(found).numpy()


def _held_out(
    x: Float[np.ndarray, "text d"],
    y: Any,
    groups: Sequence[Any],
    folds: int,
    probe: Callable[[], Any],
) -> Any:
    """Predictions for every row from a probe that saw no row of its group."""
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    there = len(set(groups))
    if not 2 <= folds <= there:
        raise ValueError(f"folds must be 2 to {there}, the groups there are, got {folds}")
    found = np.empty_like(y)
    for train, test in GroupKFold(folds, shuffle=True, random_state=0).split(x, groups=list(groups)):
        fitted = make_pipeline(StandardScaler(), probe()).fit(x[train], y[train])
        found[test] = fitted.predict(x[test])
    return found


def _share(metric: str, right: Bool[np.ndarray, " n"], groups: Sequence[Any], chance: float) -> Quality:
    """A share whose interval counts groups, not rows: rows of one document are not independent."""
    n = len(set(groups))
    return Quality.share(metric, float(right.mean()) * n, n, chance=chance, goal=chance)


def _classes(prompts: Prompts, x: Float[np.ndarray, "text d"], site: str, folds: int) -> list[Quality]:
    from sklearn.linear_model import RidgeClassifierCV

    y = prompts.labels[prompts.target].to_numpy().astype(str)
    names, y = np.unique(y, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"{prompts.name} has one {prompts.target} only, {names[0]}: draw more prompts")
    groups = prompts.labels["document"].tolist()
    guess = _held_out(x, y, groups, folds, lambda: RidgeClassifierCV(SHRINKS))
    chance = float(np.bincount(y).max() / len(y))
    return [_share(f"{prompts.target} by a probe at {site}", guess == y, groups, chance)]


class Threes(NamedTuple):
    """Two contexts of one sense of a word, and one of another."""

    a: Float[np.ndarray, "word d"]
    alike: Float[np.ndarray, "word d"]
    other: Float[np.ndarray, "word d"]


def _senses(prompts: Prompts, x: Float[np.ndarray, "text d"], site: str, folds: int) -> list[Quality]:
    from sklearn.linear_model import RidgeClassifierCV

    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    three = Threes(x[0::3], x[1::3], x[2::3])
    words = prompts.labels["word"].tolist()[::3]
    closer = (three.a * three.alike).sum(-1) > (three.a * three.other).sum(-1)
    apart = np.concatenate([np.abs(three.a - three.alike), np.abs(three.a - three.other)])
    same = np.repeat([1, 0], len(words))
    guess = _held_out(apart, same, words * 2, folds, lambda: RidgeClassifierCV(SHRINKS))
    return [
        _share(f"same sense is closer (cosine) at {site}", closer, words, 0.5),
        _share(f"same or other sense by a probe at {site}", guess == same, words * 2, 0.5),
    ]


def unit(latitude: Float[np.ndarray, " n"], longitude: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Points on the unit sphere from degrees."""
    up, east = np.radians(latitude), np.radians(longitude)
    return np.stack([np.cos(up) * np.cos(east), np.cos(up) * np.sin(east), np.sin(up)], -1)


def distance(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Great-circle distance in km between directions of any length."""
    cross = np.linalg.norm(np.cross(a, b), axis=-1)
    return RADIUS * np.arctan2(cross, (a * b).sum(-1))


def _places(prompts: Prompts, x: Float[np.ndarray, "text d"], site: str, folds: int) -> list[Quality]:
    from sklearn.linear_model import RidgeCV

    labels = prompts.labels
    y = unit(labels["latitude"].to_numpy(float), labels["longitude"].to_numpy(float))
    found = []
    for what, groups in (("cities", labels.index.tolist()), ("countries", labels["country"].tolist())):
        guess = _held_out(x, y, groups, folds, lambda: RidgeCV(SHRINKS))
        missed, spread = ((guess - y) ** 2).sum(-1), ((y - y.mean(0)) ** 2).sum(-1)
        r2 = 1 - missed.mean() / spread.mean()
        # a ratio's linearisation: its mean is R^2, its scatter gives the interval
        values = torch.from_numpy(r2 - (missed - (1 - r2) * spread) / spread.mean())
        far, mean = torch.from_numpy(distance(guess, y)), float(distance(np.broadcast_to(y.mean(0), y.shape), y).mean())
        found += [
            Quality.mean(f"R2 of new {what} at {site}", values, chance=0.0, goal=0.0, unit="share", higher=True),
            Quality.mean(f"error for new {what} at {site}", far, chance=mean, goal=mean, unit="km"),
        ]
    return found

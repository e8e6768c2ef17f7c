"""Labelled texts for probes: prompt sets with classes, passages by source, and planted rows with classes.

    texts = prompts(subject, site, "spam")
    Case(codec, subject, rows, given={"labelled": texts.examples, "labelled_texts": texts})

An example is a text with all its kept positions, a group a document: passages of one document are never split between
folds. Every class has its share of each fold.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from ...batch import Tokens
from ...harvest import corpus
from ...site import Site
from ...testbeds import prompt_set, world
from ...testbeds.prompt import passages
from ..evals.classification import Texts
from ..examples import Examples, folds

if TYPE_CHECKING:
    from ...subject import Subject
    from ...testbeds.worlds.superposition import Superposition

_corpus = cache(corpus)  # unpacking the pack takes a second
LABELS = {"professions": ("gender", "stereotype")}  # of sets that name no target
GROUPS = {"professions": "name"}  # what must not be split where there is no document; jobs are in every fold


def prompts(
    subject: "Subject",
    site: Site | str,
    name: str,
    n: int = 400,
    *,
    labels: Sequence[str] | None = None,
    least: int = 10,
    length: int = 128,
    target: Site | str | None = None,
    seed: int = 0,
    **args: Any,
) -> Texts:
    """A prompt set's texts under its own label (genres, spam, decades; of professions gender and stereotype).

    `labels` names other columns. Texts of a class with fewer than `least` documents are left out; texts are cut at
    `length` tokens. Raises ValueError for an unknown column, and when fewer than two classes are left.
    """
    found = prompt_set(name, n=n, seed=seed, **args)
    known = list(found.labels.columns)
    wanted = list(labels or LABELS.get(name) or ([found.target] if found.target else []))
    if not wanted or not set(wanted) <= set(known):
        raise ValueError(f"labels must be among {', '.join(known)} of {name}, got {wanted}")
    unit = GROUPS.get(name, "document" if "document" in known else "text")
    groups = [str(v) for v in found.labels[unit]] if unit in known else [str(i) for i in range(len(found))]
    columns = {label: [str(v) for v in found.labels[label]] for label in wanted}
    kept = list(range(len(found)))
    for label, column in columns.items():
        documents = Counter(v for v, _ in {(column[i], groups[i]) for i in kept})
        kept = [i for i in kept if documents[column[i]] >= least]
        if len({column[i] for i in kept}) < 2:
            raise ValueError(
                f"fewer than two classes of {label} have {least} {unit}s: raise n (now {n}) or lower least"
            )
    columns = {label: [column[i] for i in kept] for label, column in columns.items()}
    return _read(
        subject,
        site,
        [found.texts[i] for i in kept],
        columns,
        [groups[i] for i in kept],
        length=length,
        target=target,
        seed=seed,
        unit=unit,
    )


def sources(
    subject: "Subject",
    site: Site | str,
    n: int = 400,
    *,
    of: Sequence[str] = ("austen", "glosses", "moby_dick", "sotu"),
    words: int = 48,
    length: int = 128,
    target: Site | str | None = None,
    seed: int = 0,
) -> Texts:
    """As many passages of each source of the committed pack, `n` in all, labelled `source`.

    Raises ValueError for a source that is not there, or too few passages.
    """
    return _passages(subject, site, {s: s for s in of}, "source", n, words, length, target, seed)


def fiction(
    subject: "Subject",
    site: Site | str,
    n: int = 400,
    *,
    words: int = 48,
    length: int = 128,
    target: Site | str | None = None,
    seed: int = 0,
) -> Texts:
    """Fiction or not: Austen against State of the Union addresses, to be transferred to Moby-Dick against glosses.

    `n` passages of either pair, labelled `kind`. Raises ValueError for too few passages.
    """
    here = {"austen": "fiction", "sotu": "not fiction"}
    there = {"moby_dick": "fiction", "glosses": "not fiction"}
    first, second = (_passages(subject, site, pair, "kind", n, words, length, target, seed) for pair in (here, there))
    return Texts(first.examples, first.tokens, second)


def planted(
    count: int = 300,
    classes: int = 4,
    *,
    rows: int = 6,
    n: int = 24,
    d: int = 32,
    share: float = 0.5,
    noise: float = 0.01,
    seed: int = 0,
) -> tuple[Texts, "Superposition"]:
    """Examples of `rows` superposition rows: direction c is on in a `share` of the rows of class c, as ever elsewhere.

    Labelled `class`; each row's token is its largest direction. The world comes beside: `world.truth` are the
    directions. Raises ValueError for more classes than directions.
    """
    if not 2 <= classes <= n:
        raise ValueError(f"classes must be 2 to the {n} directions there are, got {classes}")
    made: Any = world("superposition", n=n, d=d, mean=2 / n, noise=noise, world_seed=seed)
    x, code = made.sample(count * rows, seed + 1)
    label = torch.arange(count) % classes
    of = label.repeat_interleave(rows)
    drawn = torch.Generator().manual_seed(seed)
    on = (torch.rand(len(x), generator=drawn) < share) & (code[torch.arange(len(x)), of] == 0)
    more = torch.nn.functional.one_hot(of, n) * on[:, None] * (1 + 0.25 * torch.rand(len(x), 1, generator=drawn))
    tokens = Tokens((code + more).argmax(-1).view(count, rows), torch.ones(count, rows, dtype=torch.bool))
    examples = Examples.of(
        x + more @ made.truth,
        {"class": label},
        {"class": [f"class {i}" for i in range(classes)]},
        example=torch.arange(count).repeat_interleave(rows),
        fold=_stratified(torch.arange(count), label, seed),
        unit="text",
    )
    return Texts(examples, tokens), made


def _passages(
    subject: "Subject",
    site: Site | str,
    classes: Mapping[str, str],
    label: str,
    n: int,
    words: int,
    length: int,
    target: Site | str | None,
    seed: int,
) -> Texts:
    """As many passages of each source, under the class it is given."""
    pack = _corpus("pack")
    there = sorted(set(pack.labels["source"]))
    if len(classes) < 2 or not set(classes) <= set(there):
        raise ValueError(f"sources must be two or more of {', '.join(there)}, got {', '.join(classes)}")
    texts, documents, said = [], [], []
    for source, name in classes.items():
        chosen = [t for t, s in zip(pack.texts, pack.labels["source"], strict=True) if s == source]
        for i, text in passages(chosen, n // len(classes), seed, words=words, most=4):
            texts.append(text)
            documents.append(f"{source} {i}")
            said.append(name)
    return _read(
        subject, site, texts, {label: said}, documents, length=length, target=target, seed=seed, unit="document"
    )


def _read(
    subject: "Subject",
    site: Site | str,
    texts: list[str],
    columns: Mapping[str, list[str]],
    groups: list[str],
    *,
    length: int,
    target: Site | str | None,
    seed: int,
    unit: str,
) -> Texts:
    tokens = subject.tokenize(texts, length)
    classes = {name: sorted(set(column)) for name, column in columns.items()}
    labels = {name: torch.tensor([classes[name].index(v) for v in column]) for name, column in columns.items()}
    place = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    group = torch.tensor([place[g] for g in groups])
    found = Examples.read(subject, tokens, site, labels, classes, target=target, group=group, unit=unit, seed=seed)
    fold = _stratified(group, next(iter(labels.values())), seed)
    return Texts(replace(found, fold=fold), tokens)


def _stratified(group: Int[Tensor, " example"], label: Int[Tensor, " example"], seed: int) -> Int[Tensor, " example"]:
    """Folds of whole groups, shared out among the groups of each class (that of a group's first example) by itself."""
    distinct, place = group.unique(return_inverse=True)
    first = torch.full((len(distinct),), len(group)).scatter_reduce(0, place, torch.arange(len(group)), "amin")
    of, fold = label[first][place], torch.empty_like(group)
    for c in of.unique():
        fold[of == c] = folds(group[of == c], seed=seed)
    return fold

"""Two binary concepts that a biased probe confuses, and classes whose latents can be taken out one by one.

case = Case(codec, subject, rows, given={"spurious": people(subject, "15.resid"), "labelled": facts("1.resid")})
evaluate.run([case], ["scr", "tpp"])
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...batch import Tokens
from ...site import Site
from ...subject import Subject
from ...testbeds import prompt_set, world
from ...testbeds import subject as testbed
from ...testbeds.worlds.facts import ATTRIBUTES, ID, VALUES
from ..examples import Examples


def people(
    subject: Subject,
    site: Site | str,
    *,
    n: int = 600,
    jobs: tuple[str, str] | None = None,
    target: Site | str | None = None,
    seed: int = 0,
) -> Examples:
    """Sentences of the prompt set `professions`, labelled by `gender` (of the name) and `job`, all positions pooled.

    `job` is the stereotype of the profession, or with `jobs=("carpenter", "nurse")` which of the two it is, first one
    paired with female. Names are the groups, so that a probe is judged on names that it never saw.
    Raises ValueError when fewer than 12 sentences are left, or a profession is not in the set.
    """
    prompts = prompt_set("professions", n=n, seed=seed)
    known, texts = prompts.labels, prompts.texts
    if jobs is not None:
        if missing := set(jobs) - set(known["profession"]):
            raise ValueError(f"no sentence of {n} tells of {', '.join(sorted(missing))}: raise n, or take another job")
        kept = known["profession"].isin(jobs).to_numpy().nonzero()[0].tolist()
        known, texts = known.iloc[kept], [texts[i] for i in kept]
    if len(texts) < 12:
        raise ValueError(f"{len(texts)} sentences are too few to split in three: raise n, now {n}")
    said, job = (known["stereotype"], ("female", "male")) if jobs is None else (known["profession"], jobs)
    labels = {
        "gender": torch.tensor([g == "male" for g in known["gender"]]).long(),
        "job": torch.tensor([j == job[1] for j in said]).long(),
    }
    names = {name: i for i, name in enumerate(dict.fromkeys(known["name"]))}
    return Examples.read(
        subject,
        subject.tokenize(texts),
        site,
        labels,
        {"gender": ("female", "male"), "job": job},
        target=target,
        group=torch.tensor([names[name] for name in known["name"]]),
        seed=seed,
        unit="name",
    )


def told(
    site: Site | str = "1.resid",
    *,
    attribute: str = "trade",
    templates: tuple[int, int] = (0, 2),
    target: Site | str | None = None,
    seed: int = 0,
) -> Examples:
    """Sentences of the subject `facts`, labelled by the half of an attribute's values told, and by template.

    Both are in the text and independent of each other; all positions are pooled. Entities are the groups.
    Raises ValueError for an unknown attribute or template.
    """
    sentences = _sentences(attribute)
    if len(set(templates)) != 2 or not set(templates) <= set(range(4)):
        raise ValueError(f"templates must be two of 0 to 3, got {templates}")
    chosen = torch.isin(sentences.template, torch.tensor(templates))
    half = (len(VALUES[attribute].split()) + 1) // 2
    labels = {"value": sentences.value >= half, "template": sentences.template == templates[1]}
    classes = {"value": ("first half", "second half"), "template": tuple(map(str, templates))}
    return _read(sentences, chosen, site, target, {k: v.long() for k, v in labels.items()}, classes, seed)


def facts(
    site: Site | str = "1.resid",
    *,
    attribute: str = "trade",
    least: int = 20,
    target: Site | str | None = None,
    seed: int = 0,
) -> Examples:
    """Sentences of the subject `facts`, labelled by the value that they tell; all positions are pooled.

    Values told in fewer than `least` sentences are left out. Entities are the groups.
    Raises ValueError for an unknown attribute, or when fewer than three values are left.
    """
    sentences, names = _sentences(attribute), VALUES[attribute].split()
    many = sentences.value.bincount(minlength=len(names))
    kept = (many >= least).nonzero()[:, 0]
    if len(kept) < 3:
        raise ValueError(f"{len(kept)} values of {attribute} are told in {least} sentences or more: lower least")
    number = torch.zeros(len(names), dtype=torch.long).scatter(0, kept, torch.arange(len(kept)))
    labels = {attribute: number[sentences.value]}
    chosen = torch.isin(sentences.value, kept)
    return _read(sentences, chosen, site, target, labels, {attribute: [names[i] for i in kept]}, seed)


def _sentences(attribute: str) -> Any:
    """All that is told of an attribute."""
    if attribute not in ATTRIBUTES:
        raise ValueError(f"attribute must be one of {', '.join(ATTRIBUTES)}, got {attribute!r}")
    data: Any = world("facts")
    parts = [data.told(asked) for asked in (False, True)]
    of = [part.attribute == ATTRIBUTES.index(attribute) for part in parts]
    return type(parts[0])(
        *(torch.cat([x[k] for x, k in zip(field, of, strict=True)]) for field in zip(*parts, strict=True))
    )


def _read(
    sentences: Any,
    chosen: torch.Tensor,
    site: Site | str,
    target: Site | str | None,
    labels: Mapping[str, torch.Tensor],
    classes: Mapping[str, Sequence[str]],
    seed: int,
) -> Examples:
    ids = sentences.ids[chosen]
    return Examples.read(
        testbed("facts"),
        Tokens(ids, ids != ID["<pad>"]),
        site,
        {name: label[chosen] for name, label in labels.items()},
        classes,
        target=target,
        group=sentences.entity[chosen],
        seed=seed,
        unit="entity",
    )


def planted(
    name: str = "correlated",
    *,
    first: Sequence[int] = (0, 8),
    second: Sequence[int] = (1, 9),
    n: int = 8192,
    seed: int = 0,
    **args: Any,
) -> Examples:
    """Rows of a world of vectors, labelled by two concepts: which of two directions is on, or whether one is.

    `n` rows are drawn, and those left out in which both or none of a pair are on; `args` are the world's.
    Raises ValueError when the world has no such directions, or too few rows are left.
    """
    data: Any = world(name, **args)
    rows = data.sample(n, seed)
    code = getattr(rows, "code", None)
    which = [*first, *second]
    if code is None or len(set(which)) < len(which) or not 0 <= min(which) <= max(which) < code.shape[1]:
        has = "no code of its rows" if code is None else f"directions 0 to {code.shape[1] - 1}"
        raise ValueError(
            f"first and second must be different directions of {name}, got {first}, {second}: it has {has}"
        )
    kept = torch.ones(n, dtype=torch.bool)
    labels, classes = {}, {}
    for label, some in (("first", first), ("second", second)):
        on = code[:, list(some)] != 0
        if len(some) not in (1, 2):
            raise ValueError(f"{label} must be one direction or two, got {some}")
        kept &= on[:, 0] != on[:, -1] if len(some) == 2 else True
        labels[label] = on[:, -1].long()
        classes[label] = [f"direction {i}" for i in some] if len(some) == 2 else ["off", "on"]
    if int(kept.sum()) < 12:
        raise ValueError(f"{int(kept.sum())} of {n} rows have one of {first} and one of {second} on: raise n")
    labels = {label: v[kept] for label, v in labels.items()}
    return Examples.of(rows.x[kept], labels, classes, seed=seed, unit="row")


def roots(n: int = 4096, *, seed: int = 0, **args: Any) -> Examples:
    """Rows of the world `hierarchy` in which one root alone is on, labelled by that root; `args` are the world's."""
    data: Any = world("hierarchy", **args)
    rows = data.sample(n, seed)
    top = [i for i, parent in enumerate(data.parents) if parent < 0]
    on = rows.code[:, top] != 0
    one = on.sum(-1) == 1
    names = [f"root {i}" for i in top]
    return Examples.of(rows.x[one], {"root": on[one].long().argmax(-1)}, {"root": names}, seed=seed, unit="row")

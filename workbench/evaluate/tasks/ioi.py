"""Who gave what to whom: prompts with independent attributes, of a language model and of a toy made by hand."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import lineage
from ...batch import Exclusion, Tokens
from ...edit import At, Edit
from ...site import Site
from ...testbeds.prompts._words import FEMALE, MALE
from ...testbeds.prompts.ioi import PLACES, TEMPLATES, THINGS
from ...testbeds.vectors import directions
from ..evals.supervised_ioi import Attributes

if TYPE_CHECKING:
    from ...subject import Subject

ORDERS = ("ABBA", "BABA")
SITE = Site(0, "resid")
SIZES = {"io": 6, "s": 6, "order": 2}  # values of the toy's attributes


def ioi(
    subject: "Subject",
    *,
    n: int = 320,
    names: int = 8,
    at: Literal["end", "s2"] = "end",
    template: int | None = 0,
    seed: int = 0,
) -> Attributes:
    """IOI prompts of a few names, looked at where the answer is due or at the name said twice.

    Attributes: `io` (the answer), `s` (the name said twice), `order` (which of them stands first: ABBA or BABA), drawn
    independently; one template, or any when None; places and things vary. `names` are half female, half male.
    Raises ValueError when a name is not one token of the subject.
    """
    if not 3 <= names <= 2 * len(MALE) or n < 10 or at not in ("end", "s2"):
        raise ValueError(
            f"names must be 3 to {2 * len(MALE)}, n 10 or more, at 'end' or 's2'; got {names}, {n}, {at!r}"
        )
    pool, rng = [*FEMALE[: (names + 1) // 2], *MALE[: names // 2]], np.random.default_rng(seed)
    ids = {}
    for name in pool:
        found = subject.tokenizer(f" {name}", add_special_tokens=False)["input_ids"]
        if len(found) != 1:
            raise ValueError(f"the name {name!r} is {len(found)} tokens of {subject.name}: choose names of one token")
        ids[name] = found[0]
    values = {"io": rng.integers(names, size=n), "order": rng.integers(2, size=n)}
    values["s"] = _another(rng, names, values["io"])
    values = {a: values[a] for a in SIZES}
    forms = rng.integers(len(TEMPLATES), size=n) if template is None else np.full(n, template)
    rest = [(TEMPLATES[f], PLACES[p], THINGS[t]) for f, p, t in zip(
        forms, rng.integers(len(PLACES), size=n), rng.integers(len(THINGS), size=n), strict=True)]  # fmt: skip

    def told(values: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
        """Texts, and what stands before the name said twice is said again."""
        texts, before = [], []
        for (form, place, thing), i, j, order in zip(rest, values["io"], values["s"], values["order"], strict=True):
            io, s = pool[i], pool[j]
            a, b = (s, io) if order else (io, s)
            texts.append(form.format(a=a, b=b, s=s, place=place, thing=thing))
            before.append(form[: form.index("{s}") + 3].format(a=a, b=b, s=s, place=place))
        return texts, before

    texts, before = told(values)
    tokens = subject.tokenize(texts)
    where = (tokens if at == "end" else subject.tokenize(before)).mask.sum(1) - 1
    changed, changed_to = {}, {}
    for a, size in (("io", names), ("s", names), ("order", 2)):
        new = _another(rng, size, values[a], *([values["s" if a == "io" else "io"]] if a != "order" else []))
        changed[a], changed_to[a] = subject.tokenize(told(values | {a: new})[0]), torch.from_numpy(new)
    return Attributes(
        tokens,
        where.cpu(),
        torch.tensor([ids[pool[i]] for i in values["io"]]),
        torch.tensor([ids[pool[i]] for i in values["s"]]),
        {a: torch.from_numpy(v) for a, v in values.items()},
        {"io": pool, "s": pool, "order": ORDERS},
        changed,
        changed_to,
        Attributes.folds(n, seed=seed),
    )


def _another(rng: np.random.Generator, size: int, *taken: np.ndarray) -> np.ndarray:
    """Uniform over the values below `size` that none of the `taken` has, for each entry."""
    score = rng.random((len(taken[0]), size))
    for values in taken:
        score[np.arange(len(values)), values] = -1
    return score.argmax(1)


class _Run(NamedTuple):
    logits: Tensor
    h: dict[Site, Tensor]


class Toy:
    """A subject whose vectors are known by hand: tokens are looked up, and `head` says the logits. Site "0.resid" only.

    `head` maps vectors `(text, pos, d)` to logits `(text, pos, vocab)`. It reads, runs with edits and finishes as a
    Subject does. Position 0 is excluded, as everywhere.
    """

    special_ids: frozenset[int] = frozenset()
    exclusion = Exclusion()
    tokenizer = None

    def __init__(self, embed: Float[Tensor, "token d"], head: Callable[[Tensor], Tensor], *, name: str = "toy"):
        self.embed, self.head, self.name = embed, head, name
        self.vocab = head(embed[:1, None]).shape[-1]
        self.fingerprint = lineage.tensors_hash({"embed": embed, "head": head(embed[:, None]).contiguous()})

    def width(self, site: Site | str) -> int:
        self._check(site)
        return self.embed.shape[1]

    def _check(self, *sites: Any) -> None:
        for site in sites:
            if Site.of(site) != SITE:
                raise ValueError(f"{self.name} has no site {site}: it has {SITE}")

    def read(self, tokens: Tokens, sites: Sequence[Site | str]) -> dict[Site, Float[Tensor, "text pos d"]]:
        self._check(*sites)
        return {SITE: self.embed[tokens.ids]}

    def run(self, tokens: Tokens, edits: Mapping[Any, Edit] | None = None, read: Sequence[Site | str] = ()) -> _Run:
        self._check(*(edits or {}), *read)
        h = self.embed[tokens.ids]
        keep = self.exclusion.by_token(tokens, self.special_ids)
        at = At(SITE, tokens.ids, tokens.positions, tokens.mask, keep, tokens.mask)
        for edit in (edits or {}).values():
            h = edit(h, at)
        return _Run(self.head(h), {SITE: h} if read else {})

    def finish(
        self, tokens: Tokens, site: Site | str, value: Tensor, read: Sequence[Site | str] = (), *, before: Any = None
    ) -> _Run:
        self._check(site, *read)
        return _Run(self.head(value), {})


class Planted(NamedTuple):
    """The toy, prompts for `supervised_ioi`, rows to train on, and the vectors of all values, in order."""

    subject: Any  # a Toy
    attributes: Attributes
    rows: Float[Tensor, "row d"]
    atoms: Float[Tensor, "value d"]
    mean: Float[Tensor, " d"]


def toy(*, d: int = 32, copies: int = 8, noise: float = 0.05, seed: int = 0) -> Planted:
    """Three independent attributes (6, 6 and 2 values) as planted vectors with a linear read-out, as IOI would be.

    A row is a mean plus one unit vector for each attribute plus noise of this standard deviation per entry. Its logits
    are those of the 72 joint answers, each the sum of what the dual vectors of its three values read. The wrong answer
    differs in all three. A prompt is a first token that nothing reads and one of 72 * `copies` tokens.
    """
    rng = np.random.default_rng(seed)
    sizes = list(SIZES.values())
    vectors = directions(rng, sum(sizes), d)
    if d < sum(sizes):
        raise ValueError(f"d must be {sum(sizes)} or more to read every value, got {d}")
    dual, starts = torch.linalg.pinv(vectors), [0, sizes[0], sizes[0] + sizes[1]]
    joint = torch.cartesian_prod(*map(torch.arange, sizes))  # (answer, attribute)
    reads = sum((dual[:, start + joint[:, i]] for i, start in enumerate(starts)), torch.zeros(()))  # (d, answer)
    mean = directions(rng, 1, d)[0]
    which = joint.repeat(copies, 1)
    clean = mean + sum((vectors[start + which[:, i]] for i, start in enumerate(starts)), torch.zeros(()))
    x = clean + noise * torch.from_numpy(rng.standard_normal(clean.shape)).float()
    subject = Toy(torch.cat([torch.zeros(1, d), x]), lambda h: (h - mean) @ reads, name="ioi toy")
    n = len(which)

    def prompts(rows: Int[Tensor, " text"]) -> Tokens:
        ids = torch.stack([torch.zeros_like(rows), 1 + rows], 1)
        return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))

    def answer(values: Int[Tensor, "text attribute"]) -> Int[Tensor, " text"]:
        return (values[:, 0] * sizes[1] + values[:, 1]) * sizes[2] + values[:, 2]

    changed, changed_to = {}, {}
    for i, (a, size) in enumerate(SIZES.items()):
        new = which.clone()
        new[:, i] = torch.from_numpy(_another(rng, size, which[:, i].numpy()))
        copy = torch.from_numpy(rng.integers(copies, size=n))
        changed[a], changed_to[a] = prompts(copy * len(joint) + answer(new)), new[:, i]
    shifted = (which + 1) % torch.tensor(sizes)
    attributes = Attributes(
        prompts(torch.arange(n)),
        torch.ones(n, dtype=torch.long),
        answer(which),
        answer(shifted),
        {a: which[:, i] for i, a in enumerate(SIZES)},
        {a: [f"{a}{v}" for v in range(size)] for a, size in SIZES.items()},
        changed,
        changed_to,
        Attributes.folds(n, seed=seed),
    )
    return Planted(subject, attributes, x, vectors, mean)

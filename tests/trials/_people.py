"""People as sums of planted vectors, one for each value of three attributes, and questions that read one of them."""

from collections.abc import Sequence
from types import SimpleNamespace

import plain_codecs
import torch
from plain_codecs import PlainCodec
from torch import Tensor

from workbench.batch import Tokens
from workbench.evaluate.tasks.ioi import SITE, Toy

ATTRIBUTES, VALUES, PEOPLE, D = ("city", "trade", "colour"), 4, 48, 24
ANSWERS = len(ATTRIBUTES) * VALUES
FIRST, ASKED = 1 + ANSWERS, 1 + ANSWERS + PEOPLE  # token 0, then answers, people, questions
BY = 37.5


def tokens(rows: Sequence[Sequence[int]] | Tensor) -> Tokens:
    ids = torch.as_tensor(rows)
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))


def world(seed: int = 7) -> SimpleNamespace:
    """A subject that answers `0 person question`: its logits read the person's vector one position earlier."""
    drawn = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(ANSWERS + len(ATTRIBUTES), D, generator=drawn), dim=-1)
    dual = torch.linalg.pinv(vectors)
    values = torch.randint(VALUES, (PEOPLE, len(ATTRIBUTES)), generator=drawn)
    which = values + VALUES * torch.arange(len(ATTRIBUTES))
    people = vectors[which].sum(1)
    embed = torch.cat([torch.zeros(1 + ANSWERS, D), people, vectors[ANSWERS:]])

    def head(h: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
        asked = (h @ dual[:, ANSWERS:]).repeat_interleave(VALUES, -1)
        said = torch.full((*h.shape[:2], len(embed)), -4.0)
        said[..., 1:FIRST] = 0
        return said.index_add(-1, torch.arange(1, FIRST), before @ dual[:, :ANSWERS] + 5 * asked)

    subject = Toy(embed, head, name="people")
    true = plain_codecs.true(vectors, SITE)
    codecs = {
        "true": true,
        "random": plain_codecs.random(len(vectors), D, site=SITE),
        "identity": plain_codecs.identity(D, SITE),
        "mean": plain_codecs.mean(people.mean(0), SITE),
    }
    larger = Toy(BY * embed, lambda h: head(h / BY), name="people")
    return SimpleNamespace(
        subject=subject, larger=larger, vectors=vectors, values=values, answer=1 + which, people=people, codecs=codecs,
        rows=plain_codecs.MemoryRows(people), more=plain_codecs.MemoryRows(BY * people),
    )  # fmt: skip


def asked(person: Tensor, attribute: Tensor) -> Tokens:
    return tokens(torch.stack([torch.zeros_like(person), FIRST + person, ASKED + attribute], 1))


def every() -> tuple[Tensor, Tensor]:
    """Every person with every attribute."""
    person, attribute = torch.meshgrid(torch.arange(PEOPLE), torch.arange(len(ATTRIBUTES)), indexing="ij")
    return person.flatten(), attribute.flatten()


def cases(given: dict[str, object], made: SimpleNamespace) -> SimpleNamespace:
    from workbench.evaluate import Case

    found = {n: Case(c, made.subject, made.rows, name=n, resamples=300, given=given) for n, c in made.codecs.items()}
    codec: PlainCodec = plain_codecs.rescaled(made.codecs["random"], BY)
    return SimpleNamespace(**found, larger=Case(codec, made.larger, made.more, resamples=300, given=given))

"""What the subject `facts` knows of its invented people, for exchanging attributes and for forgetting."""

from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ...batch import Tokens
from ...testbeds.worlds.facts import ATTRIBUTES, ID, LENGTH, TEMPLATES, WORLD, Told
from ..evals.ravel import Swaps
from ..evals.unlearning import Forgetting
from ..examples import TEST, VALIDATION

if TYPE_CHECKING:
    from ...subject import Subject


def swaps(
    subject: "Subject",
    *,
    at: Literal["question", "name"] = "question",
    prompts: int | None = 1024,
    asked: bool | None = None,
    seed: int = 0,
) -> Swaps:
    """Prompts that ask an attribute of a person; what is exchanged stands at the last token, or at the name's.

    A fact in the template that training kept out (`asked`), in the three others (False), or in all (None); of these
    `prompts` are drawn from `seed`, all when None. This subject looks a fact up behind the prompt's last token, in its
    last block: take "1.resid" there; at the name its attributes are one. Raises ValueError for another subject.
    """
    told = _told(subject, asked)
    order = torch.randperm(len(told.at), generator=torch.Generator().manual_seed(seed))[:prompts].sort().values
    told = Told(*(part[order] for part in told))
    places = torch.arange(LENGTH)
    if at == "question":
        marked = places == told.at[:, None] - 1
    elif at == "name":
        before = torch.tensor([[t.split().index("{}") for t in TEMPLATES[a]] for a in ATTRIBUTES])
        begin = 1 + before[told.attribute, told.template]  # behind <bos>
        size = torch.tensor([len(name) for name in WORLD.names])[told.entity]
        marked = (places >= begin[:, None]) & (places < (begin + size)[:, None])
    else:
        raise ValueError(f"at must be 'question' or 'name', got {at!r}")
    return Swaps.of(_prompts(told), marked, told.answer, told.entity, told.attribute, ATTRIBUTES, seed=seed)


def forgetting(subject: "Subject", *, what: str = "people", seed: int = 0) -> Forgetting:
    """Facts to forget: those of the world's forget set of people, or all of one attribute (`what="trade"`).

    Each fact is asked in the template that training kept out; halves are split by person. Text to forget tells the
    facts to be forgotten, retained text the other facts of the validation half's people, other text those of the test
    half's; all in templates of training, which are not asked. Raises ValueError for another subject or attribute.
    """
    if what != "people" and what not in ATTRIBUTES:
        raise ValueError(f"what is to be forgotten: 'people' or one of {', '.join(ATTRIBUTES)}, got {what!r}")
    told, text = _told(subject, True), _told(subject, False)
    gone, out = (t.forget if what == "people" else t.attribute == ATTRIBUTES.index(what) for t in (told, text))
    fold = Forgetting.halves(told.entity, WORLD.forgotten[told.entity], seed=seed)
    half = torch.zeros(len(WORLD.names), dtype=torch.long)
    half[told.entity] = fold
    kinds = (out, ~out & (half[text.entity] == VALIDATION), ~out & (half[text.entity] == TEST))
    texts = [_sentences(text.ids[kind]) for kind in kinds]
    return Forgetting(_prompts(told), told.answer, gone, told.entity, fold, texts[0], texts[1], texts[2])


def _told(subject: "Subject", asked: bool | None) -> Told:
    ids = WORLD.told(asked=True).ids
    if subject.vocab is None or int(ids.max()) >= subject.vocab or subject.width("0.resid") != 96:
        raise ValueError(f"these facts are known to testbeds.subject('facts') only, got {subject.name}")
    parts = [WORLD.told(asked=a) for a in ([True, False] if asked is None else [asked])]
    return Told(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _prompts(told: Told) -> Tokens:
    """Sentences up to the value, which is not shown."""
    mask = torch.arange(LENGTH) < told.at[:, None]
    return Tokens(told.ids * mask, mask)


def _sentences(ids: Int[Tensor, "text pos"]) -> Tokens:
    return Tokens(ids, ids != ID["<pad>"])

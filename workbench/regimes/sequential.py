"""Chats, each run whole and by itself, or packed into blocks as pre-training text is (FAST, Li et al. 2025)."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from ..batch import Exclusion, Tokens
from ..harvest import Mixed
from ..harvest.live import Live
from ..site import Site
from ..subject import Subject

Chat = Sequence[Mapping[str, str]]  # of {"role", "content"}
KEEP = Exclusion(special=False)  # special tokens are what a chat has and other text has not; the first stays out


def conversations(subject: Subject, chats: Sequence[Chat], *, length: int = 8192) -> Tokens:
    """A token row for each chat under the subject's template, cut at `length`: no row holds two.

    `collect` and `Live` take them, with `exclusion=sequential.KEEP`.
    """
    return subject.tokenize([list(chat) for chat in chats], length)


def blocks(subject: Subject, chats: Sequence[Chat], *, length: int, seed: int = 0) -> Tokens:
    """The same chats end to end in a seeded order, cut every `length` tokens: the control.

    What is left over is dropped. Raises ValueError when the chats do not fill one block.
    """
    whole = subject.tokenize([list(chat) for chat in chats])
    order = torch.randperm(len(whole.ids), generator=torch.Generator().manual_seed(seed))
    ids = whole.ids[order][whole.mask[order]]
    if len(ids) < length:
        raise ValueError(
            f"{len(chats)} chats give {len(ids)} tokens, one block has {length}: give more or shorter blocks"
        )
    rows = ids[: len(ids) // length * length].view(-1, length)
    return Tokens(rows, torch.ones_like(rows, dtype=torch.bool))


def stream(
    subject: Subject,
    tokens: Tokens,
    *,
    site: Site | str,
    size: int = 4096,
    buffer: int = 32_768,
    batch: int = 8,
    epochs: float = 1,
    seed: int = 0,
) -> Mixed:
    """Training batches of `conversations` or `blocks`: every row of a text enters the buffer, which mixes them.

    All positions but the first of each text are there, special tokens too. The texts of one `batch` share a length:
    the shorter are padded, and padding is masked.
    Source: Li et al. 2025, arXiv:2506.07691; theirs drops no position.
    """
    live = Live(subject, tokens, site=site, batch=batch, epochs=epochs, seed=seed, exclusion=KEEP)
    return Mixed(live, size, buffer=buffer, seed=seed)


def template(subject: Subject, chats: Sequence[Chat], *, length: int = 8192) -> Bool[Tensor, "text pos"]:
    """True at the tokens of `conversations` that the template wrote: special tokens, roles, line ends between turns.

    A token that holds some of what was said is not the template's. Raises ValueError where a template changes what was
    said, so that it cannot be found again.
    """
    rows = []
    for chat in chats:
        text = subject.tokenizer.apply_chat_template(list(chat), tokenize=False)
        said, at = [], 0
        for turn in chat:
            content = turn["content"].strip()
            begin = text.find(content, at)
            if begin < 0:
                raise ValueError(f"the template of {subject.name} rewrites {content[:40]!r}: its tokens cannot be told")
            at = begin + len(content)
            said.append((begin, at))
        spans = subject.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        rows.append([not any(a < end and b > begin for begin, end in said) for a, b in spans][:length])
    found = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool)
    for i, row in enumerate(rows):
        found[i, : len(row)] = torch.tensor(row)
    return found

"""Continue prompts token by token, with edits, over a KV cache."""

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..batch import Tokens
from ..edit import Edit
from ..site import Site

if TYPE_CHECKING:
    from .core import Subject

Edits = Mapping[Site | str, Edit]


class Generation(NamedTuple):
    """Generated rows, prompt included; texts without special tokens; log-probabilities of the new tokens in nats.

    `logprobs` is `(text, new)`, NaN after a row's end.
    """

    tokens: Tokens
    texts: list[str]
    new_texts: list[str]
    logprobs: Float[Tensor, "text new"]


def generate(
    subject: "Subject",
    prompt: Any,
    edits: Edits | None = None,
    *,
    new: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    on_token: Callable[[Int[Tensor, " text"]], Any] | None = None,
    stop: Callable[[], bool] | threading.Event | None = None,
) -> Generation:
    """Continue prompts or chats; edits act on the prompt and on every new token. Temperature 0 takes the likeliest.

    `on_token` is called with each step's tokens; generation ends after `new` tokens, at every row's end of text, or
    as soon as `stop` is true or set. At temperature 0 rows of different lengths give what each gives alone.
    """
    if new < 1:
        raise ValueError(f"new must be 1 or more tokens, got {new}")
    if temperature < 0:
        raise ValueError(f"temperature must be 0 or more, got {temperature}")
    stopped = stop.is_set if isinstance(stop, threading.Event) else stop
    known = subject.tokens(prompt if isinstance(prompt, Tokens | Tensor) else subject.tokenize(prompt, generate=True))
    subject._fits(int(known.mask.sum(-1).max()) + new)
    rows = [row[mask].tolist() for row, mask in zip(known.ids, known.mask, strict=True)]
    known = subject.pad(rows, left=True)
    from transformers import DynamicCache

    cache = DynamicCache(config=subject.config)
    positions, real, keep, ones = subject._places(known)
    generator = torch.Generator().manual_seed(seed)
    ends = ends_of(subject)
    alive = torch.ones(len(rows), dtype=torch.bool, device=subject.device)
    ids, mask, step, logprobs = known.ids, known.mask, known, []
    where = (positions, real, keep, ones)
    for _ in range(new):
        with torch.no_grad():
            logits = subject._run(Tokens(step.ids, mask), edits or {}, (), past=cache, at=where).logits
            logits = subject._predicted(logits)[:, -1].float()
        given = logits.log_softmax(-1)
        if temperature == 0:
            chosen = logits.argmax(-1)
        else:
            shares = (logits / temperature).softmax(-1).cpu()
            chosen = torch.multinomial(shares, 1, generator=generator)[:, 0].to(subject.device)
        logprobs.append(torch.where(alive, given.gather(-1, chosen[:, None])[:, 0], torch.nan))
        fill = getattr(subject.tokenizer, "pad_token_id", None) or 0
        chosen = torch.where(alive, chosen, fill)
        ids, mask = torch.cat([ids, chosen[:, None]], 1), torch.cat([mask, alive[:, None]], 1)
        if on_token is not None:
            on_token(chosen)
        alive = alive & ~torch.isin(chosen, ends)
        if not alive.any() or (stopped is not None and stopped()):
            break
        step = Tokens(chosen[:, None], mask)
        new_keep = mask[:, -1:] & ~torch.isin(chosen, special(subject))[:, None]
        where = (Tokens(ids, mask).positions[:, -1:], mask[:, -1:], new_keep, torch.zeros_like(mask[:, -1:]))
    done = Tokens(ids, mask)
    texts = [decode(subject, row[m]) for row, m in zip(ids, mask, strict=True)]
    start = known.ids.shape[1]
    tails = [decode(subject, row[start:][m[start:]]) for row, m in zip(ids, mask, strict=True)]
    return Generation(done, texts, tails, torch.stack(logprobs, 1).cpu())


def special(subject: "Subject") -> Tensor:
    return torch.tensor(sorted(subject.special_ids) if subject.exclusion.special else [], dtype=torch.long).to(
        subject.device
    )


def ends_of(subject: "Subject") -> Tensor:
    end = getattr(getattr(subject.model, "generation_config", None), "eos_token_id", None)
    end = end if end is not None else getattr(subject.config, "eos_token_id", None)
    end = end if end is not None else getattr(subject.tokenizer, "eos_token_id", None)
    ids = [] if end is None else [end] if isinstance(end, int) else list(end)
    return torch.tensor(ids, dtype=torch.long, device=subject.device)


def decode(subject: "Subject", ids: Tensor) -> str:
    return "" if subject.tokenizer is None else subject.tokenizer.decode(ids.tolist(), skip_special_tokens=True)

"""Public-domain English in 2,048 byte-level tokens, and two-layer language models that learned it.

The text is the committed pack: State of the Union addresses, Austen, Moby Dick, WordNet glosses. A tenth of its
documents, drawn once by seed 0, is held out whole; the two parts are each one string, documents joined by
<|endoftext|>. A row is the first 128 tokens of a window whose first character is uniform over the part's spaces.
`sample` draws from the held-out part, training from the other; the label of a row is the source of its first character.
The tokenizer is a BPE over bytes, trained on the training part (`python tools/build_tokenizer.py`), 3.2 bytes a token.

Subjects, all of width 128: `tiny_text_attn` has attention only, `tiny_text_gelu` GELU MLPs (three seeds, and eight
checkpoints of the first), `tiny_text_bilinear` bilinear MLPs and rotary positions. Bits per byte are over tokens 1..127
of a row, each given those before it in its row; the score is the mean over rows, and its interval takes rows as
independent although two windows may meet. The recipe is ours.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...harvest import corpus
from ...html import tag
from ..core import HELD_OUT, Quality, Task, rows
from ..models import bilinear, gpt, next_token_loss

TOKENIZER = Path(__file__).parents[1] / "data" / "tiny_text_tokenizer.json"
VOCAB, LENGTH, WINDOW = 2048, 128, 1000  # tokens, tokens, characters
END = "<|endoftext|>"


class Windows(NamedTuple):
    """Token rows, the bytes that each token stands for, and the place of the row's source in `TinyText.sources`."""

    ids: Int[Tensor, "row 128"]
    bytes: Int[Tensor, "row 128"]
    source: Int[Tensor, " row"]


class Part(NamedTuple):
    """All text of a part, where each document begins in it, and the source of each document."""

    text: str
    begins: list[int]
    sources: list[str]


@cache
def held_out() -> Bool[Tensor, " document"]:
    """True for the documents of the pack that are never trained on."""
    return torch.from_numpy(np.random.default_rng(0).random(len(corpus("pack").texts)) < 0.1)


@cache
def part(held: bool) -> Part:
    """The held-out or the training part of the pack."""
    pack = corpus("pack")
    chosen = [i for i, out in enumerate(held_out().tolist()) if out == held]
    texts = [pack.texts[i] for i in chosen]
    begins = [0, *accumulate(len(t) + len(END) for t in texts)][:-1]
    return Part(END.join(texts), begins, [str(pack.labels["source"][i]) for i in chosen])


@cache
def tokenizer() -> Any:
    """The committed tokenizer. Raises FileNotFoundError when the package is damaged."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), eos_token=END, pad_token=END)


@cache
def _sizes() -> Int[Tensor, " vocab"]:
    """Bytes of every token; the end of a text stands for none."""
    inner = tokenizer().backend_tokenizer
    return torch.tensor([0 if i == 0 else len(inner.id_to_token(i)) for i in range(VOCAB)])  # one letter is one byte


def windows(rng: np.random.Generator, n: int, held: bool) -> Windows:
    """n rows of a part, drawn by the generator."""
    text, begins, sources = part(held)
    places = []
    for at in rng.integers(0, len(text) - WINDOW - 100, n).tolist():
        space = text.find(" ", at, at + 100)
        places.append(at if space < 0 else space)
    found = tokenizer().backend_tokenizer.encode_batch([text[p : p + WINDOW] for p in places])
    ids = torch.tensor([(e.ids + [0] * LENGTH)[:LENGTH] for e in found])
    names = TinyText.sources
    where = torch.tensor([names.index(sources[bisect_right(begins, p) - 1]) for p in places])
    return Windows(ids, _sizes()[ids], where)


@dataclass(frozen=True)
class TinyText:
    """English by source. `truth` is the share of each source in the held-out text."""

    sources = ("austen", "glosses", "moby_dick", "sotu")

    @property
    def truth(self) -> dict[str, float]:
        text, begins, sources = part(True)
        ends = [*begins[1:], len(text)]
        size: dict[str, int] = dict.fromkeys(self.sources, 0)
        for a, b, source in zip(begins, ends, sources, strict=True):
            size[source] += b - a
        return {source: size[source] / len(text) for source in self.sources}

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Windows:
        return rows(lambda rng, n: windows(rng, n, True), n, seed, start)

    def figure(self, seed: int = 0) -> Any:
        """Bytes per token by source: what the tokenizer finds common."""
        import plotly.graph_objects as go

        found = self.sample(512, seed)
        figure = go.Figure()
        for i, source in enumerate(self.sources):
            per_token = found.bytes[found.source == i].float().mean(1)
            figure.add_box(y=per_token.tolist(), name=f"{source} ({self.truth[source]:.0%})", boxpoints="outliers")
        return figure.update_layout(
            title="Tiny text: 512 held-out rows, by source and its share of the text",
            yaxis_title="bytes per token", template="plotly_white", showlegend=False,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        ids = self.sample(1).ids[0, :24].tolist()
        colours = ("#e8eefc", "#fdf0d5")
        words = [
            tag("span", tokenizer().decode([i]), attrs={"style": f"background:{colours[k % 2]};color:#111"})
            for k, i in enumerate(ids)
        ]
        return tag("div", tag("b", "tiny text"), f" {VOCAB:,} byte-level tokens: ", *words, " …")


def tiny_text() -> TinyText:
    """English by source, 2,048 tokens."""
    return TinyText()


def _quality(model: nn.Module, seed: int) -> list[Quality]:
    found = TinyText().sample(512, seed)
    bits = []
    with torch.no_grad():
        for ids, size in zip(found.ids.split(32), found.bytes.split(32), strict=True):
            logits = model(input_ids=ids).logits[:, :-1].float()
            nats = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").sum(1)
            bits.append(nats / math.log(2) / size[:, 1:].sum(1))
    uniform = math.log2(VOCAB) * (LENGTH - 1) / float(found.bytes[:, 1:].sum(1).float().mean())
    return [Quality.mean("bits per byte", torch.cat(bits), chance=uniform, goal=2.3, unit="bits/byte")]


def _task(build: Any, **changes: Any) -> Task:
    """Batches of 32 rows of the training part, in a stream of its own for each seed."""

    def batch(seed: int, step: int) -> Tensor:
        return windows(np.random.default_rng([seed, step]), 32, False).ids

    given = {
        "build": build, "batch": batch, "loss": next_token_loss, "quality": _quality, "steps": 1000, "lr": 4e-3,
        "weight_decay": 0.05, "tokenizer": tokenizer, "site": "1.resid",
        "inputs": lambda n: TinyText().sample(n, HELD_OUT + 1).ids[:, :32],
        "data": "nine tenths of the public-domain pack, 4,096 tokens a step",
        "licence": "MIT; the text is in the public domain, glosses under the WordNet licence (NOTICE)",
    }  # fmt: skip
    return Task(**(given | changes))


KEPT = (0, 15, 30, 60, 125, 250, 500, 750)
TASKS = {
    "tiny_text_attn": _task(lambda seed: gpt(VOCAB, length=LENGTH, mlp=False)),
    "tiny_text_bilinear": _task(lambda seed: bilinear(VOCAB, length=LENGTH)),
    "tiny_text_gelu": _task(lambda seed: gpt(VOCAB, length=LENGTH), keep=KEPT, seeds=(0, 1, 2)),
}

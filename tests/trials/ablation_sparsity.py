"""Words as sums of planted vectors, each of which says four words of the next token's logits."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import plain_codecs
import torch

from workbench.batch import Tokens
from workbench.evaluate import Case
from workbench.evaluate.tasks.ioi import SITE, Toy

LATENTS, D, VOCAB, BY = 24, 32, 96, 37.5


@cache
def cases() -> SimpleNamespace:
    x, atoms = plain_codecs.planted(VOCAB, LATENTS, D, k=3, seed=7, lean=0.0)
    says = torch.linalg.pinv(atoms) @ torch.eye(LATENTS).repeat(1, VOCAB // LATENTS)  # word w hears atom w % 24
    subject: Any = Toy(x, lambda h: h @ says)
    large: Any = Toy(BY * x, lambda h: h @ says / BY)
    ids = torch.randint(VOCAB, (24, 12), generator=torch.Generator().manual_seed(0))
    tokens, texts = Tokens(ids, torch.ones_like(ids, dtype=torch.bool)), torch.arange(24) // 2
    codecs = {
        "true": plain_codecs.true(atoms, SITE),
        "random": plain_codecs.random(LATENTS, D, site=SITE),
        "identity": plain_codecs.identity(D, SITE),
        "mean": plain_codecs.mean(x.mean(0), SITE),
    }
    rows = plain_codecs.MemoryRows(x)
    found = {n: Case(c, subject, rows, tokens, texts, n, resamples=300) for n, c in codecs.items()}
    codec = plain_codecs.rescaled(codecs["random"], BY)
    larger = Case(codec, large, plain_codecs.MemoryRows(BY * x), tokens, texts, resamples=300)
    return SimpleNamespace(**found, larger=larger)

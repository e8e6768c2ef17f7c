"""Heads that lie near six of the planted atoms."""

from functools import cache
from types import SimpleNamespace

import plain_codecs
import torch

from workbench.evaluate import Case
from workbench.evaluate.evals.plausibility import Heads

BY = 37.5


@cache
def cases() -> SimpleNamespace:
    x, atoms = plain_codecs.planted(400, 24, 32, k=2)
    near = -3 * (atoms[:6] + 0.05 * torch.randn(6, 32, generator=torch.Generator().manual_seed(1)))
    given = {"heads": Heads(near, tuple("abcdef"))}

    def case(codec: plain_codecs.PlainCodec, unit: float = 1.0) -> Case:
        return Case(codec, None, plain_codecs.MemoryRows(unit * x), resamples=300, given=given)

    random = plain_codecs.random(24, 32)
    return SimpleNamespace(
        true=case(plain_codecs.true(atoms)),
        random=case(random),
        identity=case(plain_codecs.identity(32)),
        mean=None,
        larger=case(plain_codecs.rescaled(random, BY), BY),
    )

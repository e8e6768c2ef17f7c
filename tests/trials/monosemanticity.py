"""Rows of one planted atom each; the other encoder sees that atom as a direction of its own."""

from functools import cache
from types import SimpleNamespace

import plain_codecs
import torch

from workbench.evaluate import Case, Examples
from workbench.evaluate.evals.monosemanticity import Embedded

BY = 37.5


@cache
def cases() -> SimpleNamespace:
    x, atoms = plain_codecs.planted(400, 24, 32, k=1)
    drawn = torch.Generator().manual_seed(1)
    which = plain_codecs.true(atoms).encode(x).to_dense().argmax(-1)
    seen = torch.randn(24, 16, generator=drawn)[which] + 0.3 * torch.randn(400, 16, generator=drawn)

    def case(codec: plain_codecs.PlainCodec, unit: float = 1.0) -> Case:
        given = {"embedded": Embedded(Examples.of(unit * x, {}, {}), seen)}
        return Case(codec, None, plain_codecs.MemoryRows(unit * x), resamples=300, given=given)

    random = plain_codecs.random(24, 32)
    return SimpleNamespace(
        true=case(plain_codecs.true(atoms)),
        random=case(random),
        identity=case(plain_codecs.identity(32)),
        mean=None,
        larger=case(plain_codecs.rescaled(random, BY), BY),
    )

"""Sums of two of 24 atoms that are nearly orthogonal; those of the shared world all lean the same way."""

from functools import cache
from types import SimpleNamespace

import plain_codecs

from workbench.evaluate import Case

BY = 37.5


@cache
def cases() -> SimpleNamespace:
    x, atoms = plain_codecs.planted(400, 24, 32, k=2, lean=0.0)

    def case(codec: plain_codecs.PlainCodec, unit: float = 1.0) -> Case:
        return Case(codec, None, plain_codecs.MemoryRows(unit * x), resamples=300)

    random = plain_codecs.random(24, 32)
    return SimpleNamespace(
        true=case(plain_codecs.true(atoms)),
        random=case(random),
        identity=case(plain_codecs.identity(32)),
        mean=case(plain_codecs.mean(x.mean(0))),
        larger=case(plain_codecs.rescaled(random, BY), BY),
    )

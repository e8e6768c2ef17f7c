"""Rows that known atoms made, with the code that made them."""

from functools import cache
from types import SimpleNamespace

import plain_codecs

from workbench.evaluate import Case
from workbench.evaluate.evals.recovery import Truth

BY = 37.5


@cache
def cases() -> SimpleNamespace:
    x, atoms = plain_codecs.planted(400, 24, 32, k=2)
    code = plain_codecs.true(atoms).encode(x).to_dense()

    def case(codec: plain_codecs.PlainCodec, unit: float = 1.0) -> Case:
        given = {"truth": Truth(atoms, unit * x, code)}
        return Case(codec, None, plain_codecs.MemoryRows(unit * x), resamples=300, given=given)

    random = plain_codecs.random(24, 32)
    larger = case(plain_codecs.rescaled(random, BY), BY)
    true, identity = case(plain_codecs.true(atoms)), case(plain_codecs.identity(32))
    return SimpleNamespace(true=true, random=case(random), identity=identity, mean=None, larger=larger)

"""Rows labelled by which of six planted atoms are on."""

from functools import cache
from types import SimpleNamespace

import plain_codecs

from workbench.evaluate import Case, Examples

BY = 37.5


@cache
def cases() -> SimpleNamespace:
    x, atoms = plain_codecs.planted(400, 24, 32, k=4)
    on = plain_codecs.true(atoms).encode(x).to_dense()[:, :6] > 0.5
    labels = {f"atom {j}": on[:, j].long() for j in range(6)}

    def case(codec: plain_codecs.PlainCodec, unit: float = 1.0) -> Case:
        objects = Examples.of(unit * x, labels, dict.fromkeys(labels, ("absent", "present")))
        return Case(codec, None, plain_codecs.MemoryRows(unit * x), resamples=300, given={"objects": objects})

    random = plain_codecs.random(24, 32)
    return SimpleNamespace(
        true=case(plain_codecs.true(atoms)),
        random=case(random),
        identity=case(plain_codecs.identity(32)),
        mean=case(plain_codecs.mean(x.mean(0))),
        larger=case(plain_codecs.rescaled(random, BY), BY),
    )

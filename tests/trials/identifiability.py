"""Rows labelled by which of six planted atoms are on."""

from functools import cache
from types import SimpleNamespace

import plain_codecs

from workbench.evaluate import Examples


@cache
def cases() -> SimpleNamespace:
    x, atoms = plain_codecs.planted(400, 24, 32, k=4)
    on = plain_codecs.true(atoms).encode(x).to_dense()[:, :6] > 0.5
    labels = {f"atom {j}": on[:, j].long() for j in range(6)}
    objects = Examples.of(x, labels, dict.fromkeys(labels, ("absent", "present")))
    return plain_codecs.trial("objects", objects, atoms)

"""A small tree: the true dictionary has a latent for each root, a random one has none."""

from functools import cache
from types import SimpleNamespace

import plain_codecs

from workbench import testbeds
from workbench.evaluate.tasks.words import hierarchy


@cache
def cases() -> SimpleNamespace:
    examples, atoms = hierarchy(800, roots=True), testbeds.world("hierarchy").truth
    return plain_codecs.trial("words", examples, atoms)

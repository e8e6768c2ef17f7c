"""A small tree: a root is one latent of the true dictionary, and several of a random one."""

from functools import cache
from types import SimpleNamespace

import plain_codecs

from workbench import testbeds
from workbench.evaluate.tasks.words import hierarchy


@cache
def cases() -> SimpleNamespace:
    examples, atoms = hierarchy(800, roots=True), testbeds.world("hierarchy").truth
    return plain_codecs.trial("words", examples, atoms)

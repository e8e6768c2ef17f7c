"""A small tree: a root is one latent of the true dictionary, and several of a random one."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import plain_codecs
import torch

from workbench import testbeds
from workbench.evaluate import Case
from workbench.evaluate.tasks.words import hierarchy

BY = 37.5


@cache
def cases() -> SimpleNamespace:
    examples, atoms = hierarchy(800, roots=True), testbeds.world("hierarchy").truth
    larger = replace(examples, x=BY * examples.x, y=BY * examples.y)
    true, random = plain_codecs.true(atoms), plain_codecs.random(20, 32)

    def case(codec, examples=examples):
        return Case(codec, None, plain_codecs.MemoryRows(examples.x), resamples=300, given={"words": examples})

    return SimpleNamespace(
        true=case(true),
        random=case(random),
        identity=case(plain_codecs.identity(32)),
        mean=case(plain_codecs.mean(torch.zeros(32))),
        larger=case(plain_codecs.rescaled(random, BY), larger),
    )

"""Four classes, each with three atoms of its own of which a row has two, among twelve atoms of no class."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import plain_codecs
import torch

from workbench.evaluate import Case, Examples

BY = 37.5


@cache
def cases() -> SimpleNamespace:
    drawn = torch.Generator().manual_seed(0)
    _, atoms = plain_codecs.planted(1, 24, 32, k=2)
    label = torch.randint(4, (480,), generator=drawn)
    own = torch.rand(480, 3, generator=drawn).topk(2, dim=-1).indices + 3 * label[:, None]
    other = torch.rand(480, 12, generator=drawn).topk(3, dim=-1).indices + 12
    on = torch.cat([own, other], 1)
    z = torch.zeros(480, 24).scatter(1, on, 1 + torch.rand(480, 5, generator=drawn))
    examples = Examples.of(z @ atoms, {"class": label}, {"class": ("a", "b", "c", "d")})
    larger = replace(examples, x=BY * examples.x, y=BY * examples.y)
    true, random = plain_codecs.true(atoms), plain_codecs.random(24, 32)

    def case(codec, examples=examples):
        return Case(codec, None, plain_codecs.MemoryRows(examples.x), resamples=300, given={"labelled": examples})

    return SimpleNamespace(
        true=case(true),
        random=case(random),
        identity=case(plain_codecs.identity(32)),
        mean=case(plain_codecs.mean(torch.zeros(32))),
        larger=case(plain_codecs.rescaled(random, BY), larger),
    )

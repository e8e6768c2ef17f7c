"""Four classes, each with three atoms of its own of which a row has two, among twelve atoms of no class."""

from functools import cache
from types import SimpleNamespace

import plain_codecs
import torch

from workbench.evaluate import Examples


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
    return plain_codecs.trial("labelled", examples, atoms)

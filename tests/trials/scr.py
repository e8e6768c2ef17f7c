"""Two concepts of two atoms each; the spurious one is told more loudly. Forty atoms are of neither."""

from functools import cache
from types import SimpleNamespace

import plain_codecs
import torch

from workbench.evaluate import Examples


@cache
def cases() -> SimpleNamespace:
    drawn = torch.Generator().manual_seed(0)
    atoms = torch.linalg.qr(torch.randn(48, 44, generator=drawn)).Q.T.contiguous()
    wanted, unwanted = torch.randint(2, (2, 600), generator=drawn)
    other = torch.rand(600, 40, generator=drawn).topk(10, dim=-1).indices + 4
    on = torch.cat([wanted[:, None], 2 + unwanted[:, None], other], 1)
    size = torch.tensor([0.7, 2.0, *[1.0] * 10]) * (1 + 0.2 * torch.rand(600, 12, generator=drawn))
    z = torch.zeros(600, 44).scatter(1, on, size)
    names = {"job": ("nurse", "guard"), "gender": ("female", "male")}
    examples = Examples.of(z @ atoms, {"job": wanted, "gender": unwanted}, names)
    return plain_codecs.trial("spurious", examples, atoms)

"""Three layers; each atom is on in one of them only."""

from functools import cache
from types import SimpleNamespace

import plain_codecs
import torch

from workbench.evaluate import Case
from workbench.evaluate.evals.layer_profile import Layered

LATENTS, LAYERS, D, N, BY = 24, 3, 32, 600, 37.5


@cache
def cases() -> SimpleNamespace:
    _, atoms = plain_codecs.planted(1, LATENTS, D, k=1, lean=0.5)
    drawn = torch.Generator().manual_seed(1)
    each = LATENTS // LAYERS
    z = torch.zeros(N, LAYERS, LATENTS)
    for layer in range(LAYERS):
        on = torch.rand(N, each, generator=drawn).topk(2).indices + layer * each
        z[:, layer].scatter_(1, on, 1 + torch.rand(N, 2, generator=drawn))
    x, random = z @ atoms, plain_codecs.random(LATENTS, D)

    def case(codec: plain_codecs.PlainCodec, by: float = 1.0) -> Case:
        given = Layered(by * x, torch.arange(N) // 10, ["0.resid", "1.resid", "2.resid"])
        return Case(codec, None, plain_codecs.MemoryRows(by * x[:, 0]), resamples=300, given={"layered": given})

    return SimpleNamespace(
        true=case(plain_codecs.true(atoms)), random=case(random), identity=None, mean=None,
        larger=case(plain_codecs.rescaled(random, BY), BY),
    )  # fmt: skip

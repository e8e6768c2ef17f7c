"""240 places on the sphere; six of the atoms each stand for a region, the others for nothing that has a place."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import plain_codecs
import torch
from torch.nn.functional import normalize

from workbench.evaluate import Case, Examples
from workbench.evaluate.evals.geospatial import Places

LATENTS, REGIONS, D, N, BY = 24, 6, 32, 240, 37.5


@cache
def cases() -> SimpleNamespace:
    x, atoms = plain_codecs.planted(N, LATENTS, D, k=8, lean=0.0)
    drawn = torch.Generator().manual_seed(1)
    points = normalize(torch.randn(N, 3, generator=drawn), dim=-1)
    centres = normalize(torch.randn(REGIONS, 3, generator=drawn), dim=-1)
    region = (points @ centres.T).argmax(-1)
    z = x @ torch.linalg.pinv(atoms)
    z[:, :REGIONS] = 1.0 * torch.nn.functional.one_hot(region, REGIONS)
    x = z.relu() @ atoms
    latitude, longitude = points[:, 2].asin().rad2deg(), torch.atan2(points[:, 1], points[:, 0]).rad2deg()
    found = Examples.of(x, {}, {}, group=torch.arange(N) // 3, unit="country")
    random = plain_codecs.random(LATENTS, D)

    def case(codec: plain_codecs.PlainCodec, by: float = 1.0) -> Case:
        given = Places(replace(found, x=by * x, y=by * x), latitude, longitude)
        return Case(codec, None, plain_codecs.MemoryRows(by * x), resamples=300, given={"places": given})

    return SimpleNamespace(
        true=case(plain_codecs.true(atoms)), random=case(random), identity=None, mean=None,
        larger=case(plain_codecs.rescaled(random, BY), BY),
    )  # fmt: skip

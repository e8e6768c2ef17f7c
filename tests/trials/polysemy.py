"""Forty words, two pairs each; the longest part of a row is the atom of its sense."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import plain_codecs
import torch

from workbench.evaluate import Case
from workbench.evaluate.evals.polysemy import Pairs

LATENTS, D, WORDS, BY = 24, 32, 40, 37.5


def few(codec: plain_codecs.PlainCodec, k: int = 2) -> plain_codecs.PlainCodec:
    """The same dictionary with the k largest latents on, so that none is dense."""

    def encode(x: torch.Tensor) -> torch.Tensor:
        z = codec.encoder(x)
        return torch.where(z >= z.topk(k, -1).values[:, -1:], z, 0)

    return replace(codec, encoder=encode)


@cache
def cases() -> SimpleNamespace:
    x, atoms = plain_codecs.planted(800, LATENTS, D, k=2, lean=1.0)
    drawn = torch.Generator().manual_seed(1)
    senses = torch.rand(WORDS, LATENTS, generator=drawn).topk(2).indices  # of each word
    which = torch.stack([senses[:, 0], senses[:, 0], senses[:, 0], senses[:, 1]], 1).view(-1, 2)  # (pair, 2)
    other = torch.randint(LATENTS, which.shape, generator=drawn)
    h = 2 * atoms[which] + 1.5 * atoms[other]
    different = torch.tensor([False, True]).repeat(WORDS)
    pairs = Pairs(h[:, 0], h[:, 1], different, torch.arange(WORDS).repeat_interleave(2))
    rows, random = plain_codecs.MemoryRows(x), few(plain_codecs.random(LATENTS, D))

    def case(codec: plain_codecs.PlainCodec, by: float = 1.0) -> Case:
        given = replace(pairs, first=by * pairs.first, second=by * pairs.second)
        return Case(codec, None, replace(rows, x=by * x), resamples=300, given={"pairs": given})

    return SimpleNamespace(
        true=case(plain_codecs.true(atoms)),
        random=case(random),
        identity=case(plain_codecs.identity(D)),
        mean=case(plain_codecs.mean(x.mean(0))),
        larger=case(plain_codecs.rescaled(random, BY), BY),
    )

"""Forty games of ten positions; six of the atoms each are on where their square is taken."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import plain_codecs
import torch

from workbench.evaluate import Case, Examples
from workbench.evaluate.evals.board import Board

LATENTS, SQUARES, D, N, BY = 24, 6, 32, 400, 37.5


@cache
def cases() -> SimpleNamespace:
    x, atoms = plain_codecs.planted(600, LATENTS, D, k=6, lean=0.5)
    truth = (x @ torch.linalg.pinv(atoms))[:, :SQUARES] > 0.5
    x, truth = x[truth.any(-1)][:N], truth[truth.any(-1)][:N]
    found = Examples.of(x, {}, {}, group=torch.arange(N) // 10, unit="game")
    random = plain_codecs.random(LATENTS, D)

    def case(codec: plain_codecs.PlainCodec, by: float = 1.0) -> Case:
        given = Board(replace(found, x=by * x, y=by * x), truth, [f"square {i}" for i in range(SQUARES)])
        return Case(codec, None, plain_codecs.MemoryRows(by * x), resamples=300, given={"board": given})

    return SimpleNamespace(
        true=case(plain_codecs.true(atoms)), random=case(random), identity=None,
        mean=case(plain_codecs.mean(x.mean(0))), larger=case(plain_codecs.rescaled(random, BY), BY),
    )  # fmt: skip

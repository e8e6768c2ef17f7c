"""A board that a model computes, and one that it could not know: can single latents say which?"""

from functools import cache

import torch
from plain_codecs import MemoryRows
from rows import Rows

from workbench.batch import Tokens
from workbench.dictionary import recipe, train
from workbench.evaluate import Case
from workbench.evaluate.evals.board import Board, board
from workbench.evaluate.tasks import board as boards
from workbench.subject import Subject
from workbench.testbeds import subject, world
from workbench.testbeds.subjects import task

CLAIM = "Latents of a trained Othello model cover its board better than those of a randomly initialised one"
SOURCE = "Karvonen et al. 2024, arXiv:2408.00113"
SETTING = (
    "Othello 6x6 subject, 1.resid, other initial weights at each seed; TopK with AuxK, 1,024 latents, k = 32, 400 "
    "steps of 512 rows of 1,000 games; 200 other games, 72 properties (mine or yours on a square)"
)
ARMS = ("coverage on the trained model", "on the randomly initialised one")
MARGIN = 0.1
SEEDS = 4
NOTE = (
    "Site and k chosen at seed 100 after a first look: at 2.resid the two are 0.40 and 0.32, at 3.resid 0.38 and 0.30, "
    "with k = 8 at 1.resid 0.37 and 0.26. To say yes always gets 0.44, and linear probes get 0.78 and 0.48: a single "
    "latent seldom says whose disc lies on a square"
)
SITE, LATENTS, K, STEPS = "1.resid", 1024, 32, 400


def untrained(seed: int) -> Subject:
    """The same architecture as it was before training."""
    torch.manual_seed(seed)
    known = task("othello")
    tokenizer = known.tokenizer() if known.tokenizer else None
    return Subject(known.build(seed).eval(), tokenizer, name=f"untrained {seed}")


def rows(model: Subject, seed: int, games: int = 1000) -> torch.Tensor:
    """Rows at every move but the first of games that the model was not trained on."""
    played = world("othello").sample(games, 20_000 + seed)
    parts = zip(played.ids.split(100), played.turn.split(100), strict=True)
    return torch.cat([model.read(Tokens(ids, turn >= 0), [SITE]).popitem()[1][:, 1:][turn[:, 1:] >= 0]
                      for ids, turn in parts])  # fmt: skip


def case(model: Subject, x: torch.Tensor, made: object, data: Board) -> Case:
    return Case(made, model, MemoryRows(x[:64]), resamples=2, given={"board": data})  # type: ignore[arg-type]


@cache
def scores(seed: int) -> list[tuple[float, float]]:
    """Coverage and reconstruction on the trained model and on the untrained one."""
    found = []
    for model in (subject("othello"), untrained(seed)):
        x = rows(model, seed)
        made = recipe("topk_auxk", d=model.d, latents=LATENTS, k=K, seed=seed)
        made = train(made, Rows(x, 512, STEPS, seed), site=SITE, seed=seed, progress=False)
        got = board(case(model, x, made, boards.board(model, SITE, games=200, seed=seed)))
        found.append((got["coverage"].value, got["reconstruction"].value))
    return found


def measure(seed: int) -> tuple[float, float]:
    (first, _), (second, _) = scores(seed)
    return first, second

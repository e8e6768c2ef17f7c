"""Positions of Othello and whose disc lies where: what the eval `board` wants."""

from typing import TYPE_CHECKING

import torch

from ...batch import Tokens
from ...site import Site
from ...testbeds.core import HELD_OUT
from ...testbeds.worlds.othello import othello
from ..evals.board import Board
from ..examples import Examples

if TYPE_CHECKING:
    from ...subject import Subject


def board(subject: "Subject", site: Site | str, *, games: int = 200, size: int = 6, seed: int = 0) -> Board:
    """Every position but the first of `games` held-out games, read at the move that made it; games are the groups.

    Properties: the disc on a square is mine, or yours, for the side to move next. Raises ValueError for fewer than 10
    games.
    """
    if games < 10:
        raise ValueError(f"a board is split by games, got {games}: give 10 or more")
    rules = othello(size)
    played = rules.sample(games, HELD_OUT + 500 + seed)
    tokens = Tokens(played.ids, played.turn >= 0)
    keep = subject.exclusion.by_token(tokens, subject.special_ids)
    site = Site.of(site)
    h = torch.cat([subject.read(Tokens(*part), [site])[site].cpu()
                   for part in zip(tokens.ids.split(64), tokens.mask.split(64), strict=True)])  # fmt: skip
    keep = keep.cpu() & subject.exclusion.by_norm(site, h)
    relative = played.relative[keep]
    examples = Examples.of(
        h[keep], {}, {}, group=keep.nonzero()[:, 0], seed=seed, unit="game",
        share_excluded=1 - int(keep.sum()) / int(tokens.mask.sum()),
    )  # fmt: skip
    names = [f"{square} {whose}" for whose in ("mine", "yours") for square in rules.names]
    return Board(examples, torch.cat([relative == 1, relative == 2], 1), names)

"""Random legal games of Othello on a 6x6 or 8x8 board, and a GPT that learned which moves are legal.

Black moves first from the usual four discs (white on the main diagonal). Each move is uniform over the legal moves of
the side to move. A side without a move passes; a pass is no token. A game ends when neither side can move, after at
most size^2 - 4 moves; shorter games are padded. Token s is the square s = row * size + column, called `c4` for the
third column and fourth row; token size^2 is `<pad>`. The first token is the first move: there is no start token.
A disc is called stable by the usual rule, the smallest set that obeys: in each of the four axes the disc's whole line
is filled, or its neighbour on one side is off the board or a stable disc of its own colour. Such a disc can never be
flipped; the rule finds most such discs, not all.
Source: Li et al. 2023, arXiv:2210.13382; Nanda et al. 2023, arXiv:2309.00941 (mine/yours). Ours trains on the uniform
distribution over all legal moves, not on the move that was played: the same expected gradient, with less noise.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...html import Markup, tag
from ..core import HELD_OUT, Quality, Task, rows
from ..models import gpt, word_tokenizer

STEPS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # the last four turn the first round


class Games(NamedTuple):
    """Moves and what holds at each of them; after the end of a game `board`, `relative` and `stable` stay as they are.

    `ids` are squares; `legal` and `turn` (0 black, 1 white, -1 no move) are before the move, the others after it.
    `board`: 0 empty, 1 black, 2 white. `relative`: 0 empty, 1 mine, 2 yours, for the side that moves next (after the
    last move: the side that did not make it).
    """

    ids: Int[Tensor, "row move"]
    turn: Int[Tensor, "row move"]
    legal: Bool[Tensor, "row move square"]
    board: Int[Tensor, "row move square"]
    relative: Int[Tensor, "row move square"]
    stable: Bool[Tensor, "row move square"]


@dataclass(frozen=True)
class Othello:
    """Othello's rules on bitboards: square s is bit s of a uint64. `truth` is the board at the start."""

    size: int

    @property
    def squares(self) -> int:
        return self.size**2

    @property
    def moves(self) -> int:
        return self.squares - 4

    @property
    def pad(self) -> int:
        return self.squares

    @property
    def names(self) -> list[str]:
        return ["abcdefgh"[s % self.size] + str(s // self.size + 1) for s in range(self.squares)]

    @property
    def truth(self) -> Int[Tensor, "size size"]:
        """The first board: 0 empty, 1 black, 2 white."""
        board, m = torch.zeros(self.size, self.size, dtype=torch.int8), self.size // 2
        board[[m - 1, m], [m - 1, m]] = 2
        board[[m - 1, m], [m, m - 1]] = 1
        return board

    @cached_property
    def _shift(self) -> tuple[Any, Any, Any]:
        """Left shift, right shift and the squares a step can end on, each `(8, 1)`."""
        column = np.arange(self.squares) % self.size
        by = np.array([dr * self.size + dc for dr, dc in STEPS])
        ends = [self._pack((column != 0) if dc == 1 else (column != self.size - 1) | (dc == 0)) for _, dc in STEPS]
        return np.maximum(by, 0).astype(np.uint64)[:, None], np.maximum(-by, 0).astype(np.uint64)[:, None], \
            np.array(ends, dtype=np.uint64)[:, None]  # fmt: skip

    def _pack(self, squares: Any) -> Any:
        return (np.asarray(squares).astype(np.uint64) << np.arange(self.squares, dtype=np.uint64)).sum(-1, dtype="u8")

    def _unpack(self, bits: Any) -> Any:
        return ((bits[..., None] >> np.arange(self.squares, dtype=np.uint64)) & np.uint64(1)).astype(bool)

    def _step(self, bits: Any) -> Any:
        """Every disc one step on: `(n,)` or `(8, n)` to `(8, n)`, one row a direction."""
        left, right, ends = self._shift
        return ((bits << left) >> right) & ends

    def _flood(self, bits: Any, over: Any) -> Any:
        run = self._step(bits) & over
        for _ in range(self.size - 3):
            run |= self._step(run) & over
        return run

    def legal(self, mine: Any, yours: Any) -> Any:
        """Legal moves of the side that owns `mine`; all are bitboards `(n,)`."""
        ends = np.bitwise_or.reduce(self._step(self._flood(mine, yours)))
        return ends & ~(mine | yours)

    def flips(self, mine: Any, yours: Any, put: Any) -> Any:
        """Discs that turn when `mine` moves to `put`; all are bitboards `(n,)`."""
        run = self._flood(put, yours)
        return np.bitwise_or.reduce(np.where(self._step(run) & mine, run, np.uint64(0)))

    def stable(self, black: Any, white: Any) -> Any:
        """Stable discs of both colours; bitboards `(n,)`."""
        every = self._pack(np.ones(self.squares))
        gaps = np.broadcast_to(every & ~(black | white), (8, len(black)))
        for _ in range(self.size - 1):
            gaps = gaps | self._step(gaps)
        inside = self._step(every[None])  # squares with a neighbour behind them
        safe = ~(gaps[:4] | gaps[4:]) | ~(inside[:4] & inside[4:])
        found = np.zeros_like(black)
        while True:
            near = [self._step(found & colour) for colour in (black, white)]
            kept = [c & np.bitwise_and.reduce(safe | s[:4] | s[4:]) for c, s in zip((black, white), near, strict=True)]
            if np.array_equal(kept[0] | kept[1], found):
                return found
            found = kept[0] | kept[1]

    def play(self, rng: np.random.Generator, n: int) -> tuple[Any, Any, Any, Any, Any]:
        """n games: moves, turns `(n, moves)`, legal moves and black and white discs, bitboards `(n, moves)`."""
        mine, yours = (np.full(n, self._pack(self.truth.flatten().numpy() == c), dtype=np.uint64) for c in (1, 2))
        turn = np.zeros(n, dtype=np.int64)
        ids, turns, legals, blacks, whites = [], [], [], [], []
        for _ in range(self.moves):
            legal = self.legal(mine, yours)
            passes = legal == 0
            mine, yours = np.where(passes, yours, mine), np.where(passes, mine, yours)
            turn = turn ^ passes
            legal = np.where(passes, self.legal(mine, yours), legal)
            over = legal == 0
            move = (rng.random((n, self.squares), dtype=np.float32) + 1).astype(np.float32)
            move = (move * self._unpack(legal)).argmax(-1)
            put = np.where(over, np.uint64(0), np.uint64(1) << move.astype(np.uint64))
            turned = self.flips(mine, yours, put)
            ids.append(np.where(over, self.pad, move))
            turns.append(np.where(over, -1, turn))
            legals.append(legal)
            mine, yours = yours & ~turned, mine | put | turned
            turn = turn ^ 1
            blacks.append(np.where(turn == 0, mine, yours))
            whites.append(np.where(turn == 0, yours, mine))
        return tuple(np.stack(x, 1) for x in (ids, turns, legals, blacks, whites))  # type: ignore[return-value]

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Games:
        def draw(rng: np.random.Generator, n: int) -> Games:
            ids, turn, legal, black, white = self.play(rng, n)
            board = self._unpack(black) + 2 * self._unpack(white).astype(np.int8)
            after = np.concatenate([turn[:, 1:], np.full((n, 1), -1)], 1)  # who moves next
            for t in range(self.moves):  # at the end of a game: who did not make the last move
                last = turn[:, t] if t == 0 else np.where(turn[:, t] >= 0, turn[:, t], last)
                after[:, t] = np.where(after[:, t] >= 0, after[:, t], 1 - last)
            relative = np.where(after[..., None] == 1, (3 - board) % 3, board)
            stable = self._unpack(self.stable(black.ravel(), white.ravel())).reshape(board.shape)
            parts = ids, turn, self._unpack(legal), board.astype(np.int8), relative.astype(np.int8), stable
            return Games(*map(torch.from_numpy, parts))

        return rows(draw, n, seed, start)

    def figure(self, seed: int = 0) -> Any:
        """A board in the middle of a game; the legal moves are marked by small dots."""
        import plotly.graph_objects as go

        game, t = self.sample(1, seed), self.moves // 2
        names = ["empty", "black", "white"]
        figure = go.Figure()
        marks = [("black", "black", 34, game.board[0, t - 1] == 1), ("white", "white", 34, game.board[0, t - 1] == 2)]
        for name, colour, width, where in [*marks, ("legal move", "gold", 12, game.legal[0, t])]:
            at = where.nonzero()[:, 0]
            figure.add_scatter(
                x=(at % self.size).tolist(), y=(at // self.size).tolist(), mode="markers", name=name,
                marker={"color": colour, "size": width, "line": {"color": "#222", "width": 1}},
                text=[self.names[s] for s in at.tolist()], hoverinfo="text+name",
            )  # fmt: skip
        lines = {"tick0": 0.5, "dtick": 1, "showgrid": True, "gridcolor": "#1f5c3a"}  # between the squares
        axis = {"tickvals": [*range(self.size)], "range": [-0.5, self.size - 0.5], "zeroline": False, "showgrid": False,
                "minor": lines, "mirror": True, "linecolor": "#1f5c3a",
                "constrain": "domain"}  # fmt: skip
        mover = names[int(game.turn[0, t]) + 1]
        return figure.update_layout(
            title=f"Othello {self.size}x{self.size} after {t} moves, {mover} to move", plot_bgcolor="#3a8a5a",
            xaxis=axis | {"ticktext": list("abcdefgh"[: self.size])}, width=560, height=520,
            yaxis=axis | {"ticktext": [*range(1, self.size + 1)], "range": [self.size - 0.5, -0.5], "scaleanchor": "x"},
        )  # fmt: skip

    def _repr_html_(self) -> str:
        t, game = self.moves // 2, self.sample(1)
        discs = "".join(
            f'<circle cx="{s % self.size * 10 + 5}" cy="{s // self.size * 10 + 5}" r="4" '
            f'fill="{"black" if c == 1 else "white"}"/>'
            for s, c in enumerate(game.board[0, t - 1].tolist())
            if c
        )
        w = self.size * 10
        board = (
            f'<svg width="{w}" height="{w}" viewBox="0 0 {w} {w}" style="vertical-align:middle">'
            f'<rect width="{w}" height="{w}" fill="#3a8a5a"/>'
        )
        moves = " ".join(self.names[s] for s in game.ids[0, :8].tolist())
        return tag(
            "div", tag("b", f"othello {self.size}x{self.size}"), f" {moves} … ", Markup(board + discs + "</svg>")
        )


def othello(size: int = 6) -> Othello:
    """Random games of Othello. Raises ValueError for a size other than 6 or 8."""
    if size not in (6, 8):
        raise ValueError(f"size must be 6 or 8, got {size}")
    return Othello(size)


WORLD = othello()
BATCH = 64


class Batch(NamedTuple):
    """Moves, and the legal moves before each of them."""

    ids: Int[Tensor, "row move"]
    legal: Bool[Tensor, "row move square"]


def _batch(seed: int, step: int) -> Batch:
    ids, _, legal, _, _ = WORLD.play(np.random.default_rng([seed, step]), BATCH)
    return Batch(torch.from_numpy(ids), torch.from_numpy(WORLD._unpack(legal)))


def _loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Cross-entropy in nats against the uniform distribution over the legal next moves, mean over moves."""
    logp = model(input_ids=batch.ids[:, :-1]).logits.float().log_softmax(-1)[..., : WORLD.squares]
    legal = batch.legal[:, 1:]
    each = -(logp * legal).sum(-1) / legal.sum(-1).clamp_min(1)
    return each.sum() / legal.any(-1).sum()


def _quality(model: nn.Module, seed: int) -> list[Quality]:
    """Top-1 legality, moves averaged within each game, interval over 2,048 games."""
    games = WORLD.sample(2048, seed)
    with torch.no_grad():
        top = torch.cat([model(input_ids=x[:, :-1]).logits.argmax(-1) for x in games.ids.split(256)])
    legal = games.legal[:, 1:]
    ask = legal.any(-1)
    wide = torch.cat([legal, torch.zeros_like(legal[..., :1])], -1)  # <pad> is never legal
    right = (wide.gather(-1, top[..., None])[..., 0] & ask).sum(-1) / ask.sum(-1)
    chance = float(legal[ask].float().sum(-1).mean()) / WORLD.squares
    return [Quality.mean("top-1 legality", right, chance=chance, goal=0.97, unit="share", higher=True)]


TASKS = {
    "othello": Task(
        build=lambda seed: gpt(WORLD.squares + 1, length=WORLD.moves, d=128, layers=4, heads=4),
        batch=_batch,
        loss=_loss,
        quality=_quality,
        steps=5500,
        lr=1.5e-3,
        tokenizer=lambda: word_tokenizer([*WORLD.names, "<pad>"]),
        site="2.resid",
        inputs=lambda n: WORLD.sample(n, HELD_OUT).ids,
        data=f"random legal games of 6x6 Othello, {BATCH} new ones a step, soft targets over the legal moves",
    )
}

"""Perfect mazes as lists of connections, and a transformer that walks from the start to the goal.

A maze is a uniform random spanning tree of the size x size grid (Wilson's loop-erased random walks: every tree is
equally likely); start and goal are two different cells, uniform and independent of the tree. The text is `<maze>`, the
size^2 - 1 connections in random order, one token each (`a1-b1`: column letter and row number, smaller cell first),
`<from>` start `<to>` goal `<path>`, then the only path from start to goal, cell by cell, both ends included, then
`<end>`, padded with `<pad>`. Tokens 0 .. size^2 - 1 are the cells row by row.
Source: Ivanitskiy et al. 2023, arXiv:2309.10498 (maze-dataset); theirs has several generators (depth-first search,
percolation, Wilson's) and writes a connection as two cells, ours has Wilson's only and one token a connection.
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

SPECIAL = ("<pad>", "<maze>", "<from>", "<to>", "<path>", "<end>")


class Mazes(NamedTuple):
    """Texts, and of each maze its connections (symmetric), its two cells and every cell's steps to the goal."""

    ids: Int[Tensor, "row pos"]
    connected: Bool[Tensor, "row cell cell"]
    start: Int[Tensor, " row"]
    goal: Int[Tensor, " row"]
    distance: Int[Tensor, "row cell"]


@dataclass(frozen=True)
class Maze:
    """Uniform perfect mazes on a grid. `truth` is which cells a connection can join: the grid's own neighbours."""

    size: int

    @property
    def cells(self) -> int:
        return self.size**2

    @cached_property
    def edges(self) -> Int[Tensor, "edge 2"]:
        """All connections there can be, in the order of their tokens (`cells` + edge)."""
        s = self.size
        pairs = [(c, c + by) for c in range(s * s) for by in (1, s) if (c % s < s - 1 if by == 1 else c < s * s - s)]
        return torch.tensor(pairs)

    @cached_property
    def truth(self) -> Bool[Tensor, "cell cell"]:
        a, b = self.edges.T
        grid = torch.zeros(self.cells, self.cells, dtype=torch.bool)
        grid[a, b] = grid[b, a] = True
        return grid

    @property
    def words(self) -> list[str]:
        """The vocabulary: cells, connections, special tokens."""
        cell = ["abcdefgh"[c % self.size] + str(c // self.size + 1) for c in range(self.cells)]
        return [*cell, *(f"{cell[a]}-{cell[b]}" for a, b in self.edges.tolist()), *SPECIAL]

    def token(self, word: str) -> int:
        """Id of a special token."""
        return self.cells + len(self.edges) + SPECIAL.index(word)

    @property
    def path_at(self) -> int:
        """Position of `<path>`; the start cell is the next one."""
        return self.cells + 4

    @property
    def length(self) -> int:
        return self.path_at + 1 + self.cells + 1

    def _trees(self, rng: np.random.Generator, n: int) -> Any:
        """n uniform spanning trees as edge masks `(n, edge)`, all walked at once.

        Wilson's walks from cell 0, 1, ..., to the tree so far; keeping each cell's last exit erases the loops.
        """
        s, every = self.size, np.arange(n)
        neighbours = [self.truth[c].nonzero()[:, 0].tolist() for c in range(self.cells)]
        degree = np.array([len(x) for x in neighbours])
        table = np.array([x + [0] * (4 - len(x)) for x in neighbours])
        number = np.zeros((self.cells, self.cells), dtype=np.int64)
        for e, (a, b) in enumerate(self.edges.tolist()):
            number[a, b] = number[b, a] = e
        inside, leave = np.zeros((n, self.cells), dtype=bool), np.zeros((n, self.cells), dtype=np.int64)
        inside[:, s * s - 1] = True
        kept = np.zeros((n, len(self.edges)), dtype=bool)
        for begin in range(self.cells - 1):
            at = np.full(n, begin)
            while len(out := every[~inside[every, at]]):
                here = at[out]
                leave[out, here] = table[here, (rng.random(len(out)) * degree[here]).astype(np.int64)]
                at[out] = leave[out, here]
            at = np.full(n, begin)
            while len(out := every[~inside[every, at]]):
                here, there = at[out], leave[out, at[out]]
                inside[out, here] = True
                kept[out, number[here, there]] = True
                at[out] = there
        return kept

    def draw(self, rng: np.random.Generator, n: int) -> Mazes:
        """n mazes, all from one generator."""
        every, e = np.arange(n), self.edges.numpy()
        kept = self._trees(rng, n)
        connected = np.zeros((n, self.cells, self.cells), dtype=bool)
        connected[:, e[:, 0], e[:, 1]] = connected[:, e[:, 1], e[:, 0]] = kept
        start = rng.integers(0, self.cells, n)
        goal = (start + rng.integers(1, self.cells, n)) % self.cells
        distance, front = np.full((n, self.cells), -1), np.zeros((n, self.cells), dtype=bool)
        front[every, goal] = True
        for steps in range(self.cells):
            distance[front] = steps
            front = (connected & front[:, None]).any(-1) & (distance < 0)
        ids = np.full((n, self.length), self.token("<pad>"))
        order = np.argsort(np.where(kept, rng.random(kept.shape), 2.0), 1)[:, : self.cells - 1]
        ids[:, 0] = self.token("<maze>")
        ids[:, 1 : self.cells] = order + self.cells
        for i, word in enumerate(("<from>", "<to>", "<path>")):
            ids[:, self.cells + 2 * i] = self.token(word)
        ids[:, self.cells + 1], ids[:, self.cells + 3] = start, goal
        at = start
        for i in range(self.cells):
            walking = distance[every, start] >= i
            ids[walking, self.path_at + 1 + i] = at[walking]
            at = np.where(connected[every, at] & (distance == distance[every, at][:, None] - 1), 1, 0).argmax(-1)
        ids[every, self.path_at + 2 + distance[every, start]] = self.token("<end>")
        return Mazes(*map(torch.from_numpy, (ids, connected, start, goal, distance)))

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Mazes:
        return rows(self.draw, n, seed, start)

    def _lines(self, maze: Mazes) -> tuple[list[tuple[int, int]], list[int]]:
        """Connections and path of a sample's first maze."""
        open_ = [(a, b) for a, b in self.edges.tolist() if maze.connected[0, a, b]]
        return open_, [c for c in maze.ids[0, self.path_at + 1 :].tolist() if c < self.cells]

    def figure(self, seed: int = 0) -> Any:
        """One maze, its corridors in grey, its path in colour."""
        import plotly.graph_objects as go

        corridors, path = self._lines(self.sample(1, seed))
        figure, s = go.Figure(), self.size
        x = [v for a, b in corridors for v in (a % s, b % s, None)]
        y = [v for a, b in corridors for v in (a // s, b // s, None)]
        figure.add_scatter(
            x=x, y=y, mode="lines+markers", line={"width": 26, "color": "#d5d9de"}, name="connections",
            marker={"size": 26, "symbol": "square", "opacity": 1}, hoverinfo="skip",
        )  # fmt: skip
        away = {1: "middle left", -1: "middle right", s: "top center", -s: "bottom center"}  # by where the path goes
        figure.add_scatter(
            x=[c % s for c in path], y=[c // s for c in path], mode="lines+markers+text", name="path",
            text=["start", *[""] * (len(path) - 2), "goal"], line={"color": "#c0392b"}, marker={"size": 8},
            textposition=[away[path[1] - path[0]], *["top center"] * (len(path) - 2), away[path[-2] - path[-1]]],
        )  # fmt: skip
        axis = {
            "tickvals": [*range(s)],
            "showgrid": False,
            "zeroline": False,
            "range": [-0.6, s - 0.4],
            "constrain": "domain",
        }
        return figure.update_layout(
            title=f"A perfect maze on a {s}x{s} grid and its path", template="plotly_white", width=440, height=460,
            showlegend=False,
            xaxis=axis | {"ticktext": list("abcdefgh"[:s])},
            yaxis=axis | {"ticktext": [*range(1, s + 1)], "range": [s - 0.4, -0.6], "scaleanchor": "x"},
        )  # fmt: skip

    def _repr_html_(self) -> str:
        corridors, path = self._lines(self.sample(1))
        s, w = self.size, self.size * 12

        def line(cells: Any, colour: str, width: int) -> str:
            points = " ".join(f"{c % s * 12 + 6},{c // s * 12 + 6}" for c in cells)
            return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'

        drawn = "".join(line(edge, "#c5cad1", 6) for edge in corridors) + line(path, "#c0392b", 2)
        picture = f'<svg width="{w}" height="{w}" viewBox="0 0 {w} {w}" style="vertical-align:middle">{drawn}</svg>'
        said = " ".join(self.words[c] for c in path)
        return tag("div", tag("b", f"mazes {s}x{s}"), f" {said} ", Markup(picture))


def mazes(size: int = 4) -> Maze:
    """Uniform perfect mazes. Raises ValueError for a size outside 2..8."""
    if not 2 <= size <= 8:
        raise ValueError(f"size must be 2 to 8, got {size}")
    return Maze(size)


WORLD = mazes()
BATCH = 64


def _loss(model: nn.Module, ids: Int[Tensor, "row pos"]) -> Float[Tensor, ""]:
    """Cross-entropy in nats of the path after its start, mean over its tokens."""
    wanted = torch.full_like(ids, -100)
    cut = WORLD.path_at + 1
    wanted[:, cut + 1 :] = ids[:, cut + 1 :]
    wanted[wanted == WORLD.token("<pad>")] = -100
    logits = model(input_ids=ids[:, :-1]).logits[:, cut:].float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), wanted[:, cut + 1 :].flatten(), ignore_index=-100)


def _quality(model: nn.Module, seed: int) -> list[Quality]:
    """Valid: the step goes to a cell that is connected to the present one; interval over 2,048 mazes.

    Exact: every step and the end are right, which is when greedy generation writes the true path.
    """
    maze, cut = WORLD.sample(2048, seed), WORLD.path_at + 1
    with torch.no_grad():
        top = torch.cat([model(input_ids=x[:, :-1]).logits[:, cut:].argmax(-1) for x in maze.ids.split(256)])
    here, wanted = maze.ids[:, cut:-1], maze.ids[:, cut + 1 :]
    steps = wanted < WORLD.cells
    inside = top < WORLD.cells
    row = torch.arange(len(here))[:, None]
    valid = maze.connected[row, here.clamp_max(WORLD.cells - 1), top.clamp_max(WORLD.cells - 1)] & inside & steps
    share = valid.sum(-1) / steps.sum(-1)
    exact = ((top == wanted) | (wanted == WORLD.token("<pad>"))).all(-1)
    doors = maze.connected.sum(-1).gather(1, here.clamp_max(WORLD.cells - 1))
    blind = float(torch.where(steps, 1 / doors, 1.0).prod(-1).mean())  # a walk that picks any open door
    return [
        Quality.mean(
            "valid next steps", share, chance=float(doors[steps].float().mean()) / WORLD.cells, goal=0.95,
            unit="share", higher=True,
        ),
        Quality.share("exact paths", float(exact.sum()), len(exact), chance=blind, goal=0.8),
    ]  # fmt: skip


TASKS = {
    "mazes": Task(
        build=lambda seed: gpt(len(WORLD.words), length=WORLD.length, d=128, layers=4, heads=4),
        batch=lambda seed, step: WORLD.draw(np.random.default_rng([seed, step]), BATCH).ids,
        loss=_loss,
        quality=_quality,
        steps=2000,
        lr=1e-3,
        tokenizer=lambda: word_tokenizer(WORLD.words),
        site="2.resid",
        inputs=lambda n: WORLD.sample(n, HELD_OUT).ids,
        data=f"random perfect {WORLD.size}x{WORLD.size} mazes and their paths, {BATCH} new ones a step",
    )
}

"""A finite-state machine of 100 states, written as two digits each: the model must infer the state from tokens.

Machine: each of N = 100 states has E = 10 distinct successors, drawn uniformly from all N (a state may follow itself),
each with probability 1/E. A row is `<bos>` and then a walk of T = 32 states: the first uniform over N, each next one
uniform over the successors of the one before, each state written as two base-10 digits, most significant first; 1 + 2T
tokens over a vocabulary of 11 (digit d is token d, `<bos>` is token 10). No token names a state, and states (100) and
allowed transitions (1000) are far more than the MLP neurons of the subject (32 a layer).
Source: Tamkin, Taufeeque, Goodman 2023, "Codebook features", arXiv:2310.17230, the TokFSM data; in their code walks
have 64 states and the model is larger (four layers of width 128, 512 neurons a layer).
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...html import join, tag
from ..core import HELD_OUT, Quality, Task, rows
from ..models import gpt, next_token_loss, word_tokenizer


class Machine(NamedTuple):
    """Who may follow whom, with which probability, and how each state is written."""

    allowed: Bool[Tensor, "state state"]  # [now, next]
    probability: Float[Tensor, "state state"]  # rows sum to 1
    digits: Int[Tensor, "state 2"]


class Walks(NamedTuple):
    """Token rows with the walk behind them.

    `state` is the last state whose two digits are both there, -1 before the first; `allowed` the tokens that may come
    next, so that a row of it is all the machine permits after a prefix.
    """

    ids: Int[Tensor, "row pos"]
    walk: Int[Tensor, "row step"]
    state: Int[Tensor, "row pos"]
    allowed: Bool[Tensor, "row pos token"]


@dataclass(frozen=True)
class FiniteState:
    """One machine, drawn from its own seed. Token `base` is `<bos>`; state s is the digits s // base, s % base."""

    states: int
    edges: int
    base: int
    steps: int
    machine: int

    @cached_property
    def truth(self) -> Machine:
        order = np.random.default_rng(self.machine).random((self.states, self.states)).argsort(1)
        allowed = torch.zeros(self.states, self.states, dtype=torch.bool)
        allowed.scatter_(1, torch.from_numpy(order[:, : self.edges]), True)
        s = torch.arange(self.states)
        return Machine(allowed, allowed.float() / self.edges, torch.stack([s // self.base, s % self.base], 1))

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Walks:
        successors = self.truth.allowed.nonzero()[:, 1].view(self.states, self.edges).numpy()

        def draw(rng: np.random.Generator, n: int) -> Walks:
            walk = np.empty((n, self.steps), dtype=np.int64)
            walk[:, 0] = rng.integers(0, self.states, n)
            edge = rng.integers(0, self.edges, (self.steps, n))
            for t in range(1, self.steps):
                walk[:, t] = successors[walk[:, t - 1], edge[t]]
            return self._rows(torch.from_numpy(walk))

        return rows(draw, n, seed, start)

    def _rows(self, walk: Int[Tensor, "row step"]) -> Walks:
        n, digits = len(walk), self.truth.digits
        bos = torch.full((n, 1), self.base)
        ids = torch.cat([bos, digits[walk].flatten(1)], 1)
        state = torch.cat([torch.full((n, 2), -1), walk.repeat_interleave(2, 1)], 1)[:, :-1]
        first, second = self._tables
        allowed = torch.empty(*ids.shape, self.base + 1, dtype=torch.bool)
        allowed[:, 0::2] = first[state[:, 0::2]]
        allowed[:, 1::2] = second[state[:, 1::2], ids[:, 1::2]]
        return Walks(ids, walk, state, allowed)

    @cached_property
    def _tables(self) -> tuple[Bool[Tensor, "state1 token"], Bool[Tensor, "state1 digit token"]]:
        """Allowed first digits after a state, second ones after a state and a first; row -1: any state may begin."""
        allowed = torch.cat([self.truth.allowed, torch.ones(1, self.states, dtype=torch.bool)])
        now, new = allowed.nonzero(as_tuple=True)
        high, low = self.truth.digits[new].T
        second = torch.zeros(self.states + 1, self.base, self.base + 1, dtype=torch.bool)
        second[now, high, low] = True
        first = torch.zeros(self.states + 1, self.base + 1, dtype=torch.bool)
        first[now, high] = True
        return first, second

    def figure(self, seed: int = 0) -> Any:
        """A walk on the transition graph, with all ways out of its states; rows are first digits, columns second."""
        import plotly.graph_objects as go

        walk = self.sample(1, seed).walk[0, :8]
        high, low = self.truth.digits.float().T
        now, new = self.truth.allowed.nonzero(as_tuple=True)
        shown = torch.isin(now, walk)  # all of them hide each other
        now, new = now[shown], new[shown]
        gap = torch.full_like(now, torch.nan, dtype=torch.float)
        x, y = (torch.stack([c[now], c[new], gap], 1).flatten().tolist() for c in (low, high))
        edges = go.Scatter(
            x=x, y=y, mode="lines", line={"width": 1, "color": "#c9ced6"}, name="ways out", hoverinfo="skip",
        )  # fmt: skip
        names = [self.name(s) for s in range(self.states)]
        after = self.truth.allowed.nonzero()[:, 1].view(self.states, self.edges).tolist()
        follow = [f"{n} → " + " ".join(names[t] for t in ts) for n, ts in zip(names, after, strict=True)]
        nodes = go.Scatter(
            x=low.tolist(), y=high.tolist(), mode="markers+text", text=names, textfont={"size": 9}, hovertext=follow,
            hoverinfo="text", showlegend=False,
            marker={"size": 20, "color": ["#fde3d3" if s in walk else "white" for s in range(self.states)],
                    "line": {"color": "#888", "width": 1}},
        )  # fmt: skip
        path = go.Scatter(
            x=low[walk].tolist(), y=high[walk].tolist(), mode="lines+markers", line={"width": 2, "color": "#c2410c"},
            marker={"size": 12, "symbol": "arrow", "angleref": "previous", "standoff": 11}, name="one walk",
            hoverinfo="skip",
        )  # fmt: skip
        said = " ".join(names[s] for s in walk.tolist())
        title = f"{self.states} states, {self.edges} ways out of each; the walk {said}"
        figure = go.Figure([edges, path, nodes])
        figure.update_yaxes(title="first digit", autorange="reversed", dtick=1, showgrid=False, zeroline=False)
        figure.update_xaxes(title="second digit", dtick=1, showgrid=False, zeroline=False)
        return figure.update_layout(
            title=title, template="plotly_white", height=600, width=640, legend={"orientation": "h", "y": 1.06}
        )

    def name(self, state: int) -> str:
        """A state's two digits, joined by a dot where the base has digits of more than one character."""
        return ("" if self.base <= 10 else ".").join(map(str, divmod(state, self.base)))

    def _repr_html_(self) -> str:
        walk = self.sample(1).walk[0, :12].tolist()
        hue = {s: f"hsl({360 * s // self.states} 60% 45%)" for s in walk}
        path = join(*(tag("span", f"{self.name(s)} ", attrs={"style": f"color:{hue[s]}"}) for s in walk))
        return tag("div", tag("b", f"{self.states} states, {self.edges} ways out: "), path, "…")


def finite_state(states: int = 100, edges: int = 10, base: int = 10, steps: int = 32, machine: int = 0) -> FiniteState:
    """A machine of `states`, each with `edges` successors, walked for `steps` states; `machine` seeds its transitions.

    Raises ValueError when two digits of the base do not reach all states, or edges do not fit.
    """
    if base < 2 or not 2 <= states <= base**2:
        raise ValueError(f"states must be 2 to base² (two digits), got {states} with base {base}")
    if not 1 <= edges <= states or steps < 1:
        raise ValueError(f"edges must be 1 to {states} and steps 1 or more, got {edges} and {steps}")
    return FiniteState(states, edges, base, steps, machine)


WORLD = finite_state()
ROWS = 32  # walks a batch; divides a block


@lru_cache(maxsize=2)
def _block(seed: int, block: int) -> Int[Tensor, "row pos"]:
    return WORLD.sample(1024, seed, 1024 * block).ids


def _batch(seed: int, step: int) -> Int[Tensor, "row pos"]:
    block, part = divmod(step * ROWS, 1024)
    return _block(seed, block)[part : part + ROWS]


def _quality(model: nn.Module, seed: int) -> list[Quality]:
    """One transition a walk, after a uniform step: both digits drawn from the model, as Tamkin et al. generate."""
    n = 4096
    ids, walk, *_ = WORLD.sample(n, seed)
    draw, every = torch.Generator().manual_seed(seed), torch.arange(n)
    step = torch.randint(WORLD.steps - 1, (n,), generator=draw)
    now, at = walk[every, step], 2 * step + 2
    drawn = []
    with torch.no_grad():
        for j in range(2):
            p = model(input_ids=ids).logits[every, at + j].float().softmax(-1)
            drawn.append(torch.multinomial(p, 1, generator=draw)[:, 0])
            ids[every, at + j + 1] = drawn[-1]
    next_ = drawn[0] * WORLD.base + drawn[1]
    real = (torch.stack(drawn) < WORLD.base).all(0) & (next_ < WORLD.states)
    right = real & WORLD.truth.allowed[now, next_.clamp_max(WORLD.states - 1)]
    chance = WORLD.edges / WORLD.states
    return [Quality.share("allowed transitions", float(right.sum()), n, chance=chance, goal=0.99)]


TASKS = {
    "finite_state": Task(
        build=lambda seed: gpt(WORLD.base + 1, length=2 * WORLD.steps + 1, d=64, layers=3, heads=4, hidden=32),
        batch=_batch,
        loss=lambda model, ids: next_token_loss(model, ids),
        quality=_quality,
        steps=5500,
        lr=4e-3,
        weight_decay=0.0,
        tokenizer=lambda: word_tokenizer([*map(str, range(WORLD.base)), "<bos>"]),
        site="0.resid",
        inputs=lambda n: WORLD.sample(n, HELD_OUT).ids,
        data=f"walks of {WORLD.steps} states on the machine of {WORLD.states} states and {WORLD.edges} edges each",
    )
}

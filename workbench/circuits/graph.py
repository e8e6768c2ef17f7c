"""An attribution graph: nodes, and for every visited target one row of contributions that adds up to its value."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush, heappushpop
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("latent", "error", "token", "bias", "unexplored", "logit")
ROW = 1e-3  # a row may miss its target by this share of the sum of its absolute terms
ENDS = ("token", "error", "bias")  # what nothing feeds
LEFT_OUT = ("bias", "unexplored")  # what circuit-tracer has no nodes for


@dataclass(frozen=True, eq=False)
class Graph:
    """`nodes`: kind, layer, pos, latent, value and label of each, sources before what they feed.

    `edges[i, j]`: what node j adds to the value of target i (a pre-activation before the encoder's bias is taken as a
    source of its own, a logit less the mean logit), in the target's units. `targets`: the node of each row. `weights`:
    how much each target counts, 0 for all that are not explained for themselves.
    """

    nodes: "pd.DataFrame"
    edges: Float[Tensor, "target node"]
    targets: Int[Tensor, " target"]
    weights: Float[Tensor, " target"]

    def __post_init__(self) -> None:
        wanted = (len(self.targets), len(self.nodes))
        if tuple(self.edges.shape) != wanted:
            raise ValueError(f"edges must be {wanted} (target, node), got {tuple(self.edges.shape)}")

    @property
    def values(self) -> Float[Tensor, " target"]:
        return torch.tensor(self.nodes["value"].to_numpy(), dtype=self.edges.dtype)[self.targets]

    def misses(self) -> Float[Tensor, " target"]:
        """|sum of the row - value of the target|, as a share of the sum of the row's absolute terms."""
        total = self.edges.abs().sum(1).clamp_min(1e-30)
        return (self.edges.sum(1) - self.values).abs() / total

    def check(self, tolerance: float = ROW) -> "Graph":
        """The graph itself. Raises ValueError naming the target whose row does not add up."""
        misses = self.misses()
        if len(misses) and float(misses.max()) > tolerance:
            worst = int(misses.argmax())
            node = self.nodes.iloc[int(self.targets[worst])]
            raise ValueError(
                f"the row of {node['label']} adds up to {float(self.edges[worst].sum()):.4g}, its value is "
                f"{float(node['value']):.4g}: off by {float(misses[worst]):.1e} of its terms (at most {tolerance:g})"
            )
        return self

    def of(self, *kinds: str) -> Bool[Tensor, " node"]:
        """Which nodes are of these kinds."""
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"kinds are {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
        return torch.tensor(self.nodes["kind"].isin(kinds).to_numpy())

    def shares(self) -> Float[Tensor, "target node"]:
        """|edges| of each row as shares of their sum."""
        size = self.edges.abs()
        return size / size.sum(1, keepdim=True).clamp_min(1e-30)

    def influence(self) -> Float[Tensor, " node"]:
        """How much of the weighted targets each node makes, over all paths: w (A + A^2 + ...) for A the shares."""
        return influence(self.shares(), self.targets, self.weights, len(self.nodes))

    def hops(self) -> float:
        """Mean number of edges from where a path begins to a weighted target, each path counted by its influence."""
        shares, row = self.shares(), {int(n): i for i, n in enumerate(self.targets)}
        ends = torch.tensor([i not in row for i in range(len(self.nodes))])
        at, total, reached = self.weights, 0.0, 0.0
        for step in range(1, len(self.nodes) + 2):
            found = at @ shares
            total, reached = total + step * float(found[ends].sum()), reached + float(found[ends].sum())
            at = found[self.targets]
            if not at.any():
                break
        return total / max(reached, 1e-30)

    def scores(self) -> dict[str, float]:
        """Replacement: the tokens' part of what tokens and errors influence. Completeness: how little of every target,
        by its influence, is error. `replacement` and `completeness` count bias and unexplored nodes as not explained;
        `..._as_circuit_tracer` leave them out of the graph (Ameisen et al. 2025; decoderesearch/circuit-tracer).
        `explored`: the share of the influence that ends in tokens, errors and biases, not in what was not visited.
        All are within 0..1, higher is better.
        """
        found = self.influence()
        ends, lost_there = (float(found[self.of(*kinds)].sum()) for kinds in (ENDS, ("unexplored",)))
        plain = self.without(*LEFT_OUT)
        lost = ("error", *LEFT_OUT)
        return {
            "replacement": _replacement(self, lost),
            "completeness": _completeness(self, lost),
            "replacement_as_circuit_tracer": _replacement(plain, ("error",)),
            "completeness_as_circuit_tracer": _completeness(plain, ("error",)),
            "explored": ends / max(ends + lost_there, 1e-30),
        }

    def without(self, *kinds: str) -> "Graph":
        """The graph without nodes of these kinds; rows no longer add up."""
        return self.only(~self.of(*kinds))

    def only(self, keep: Bool[Tensor, " node"]) -> "Graph":
        """The graph of some nodes and the edges between them."""
        number = torch.cumsum(keep.long(), 0) - 1
        rows = keep[self.targets]
        return replace(
            self,
            nodes=self.nodes[keep.numpy()].reset_index(drop=True),
            edges=self.edges[rows][:, keep],
            targets=number[self.targets[rows]],
            weights=self.weights[rows],
        )

    def prune(self, nodes: int | float = 0.8, edges: int | float = 0.98, *, most: int | None = None) -> "Graph":
        """The nodes that carry a share of the influence, then the edges that do, then nothing that leads nowhere.

        Tokens and targets stay. Dropped edges are 0. `most` nodes in all, tokens and targets among them: those of most
        influence where the share would take more. Raises ValueError for shares that are none, and for `most` below the
        number of tokens and targets.
        """
        for name, share in (("nodes", nodes), ("edges", edges)):
            if not 0 < share <= 1:
                raise ValueError(f"{name} is a share of the influence within 0..1, got {share}")
        found, always = self.influence(), self._stay()
        chosen = _leading(found, nodes)
        if most is not None:
            if most < (room := int(always.sum())):
                raise ValueError(f"most must be {room} or more, the number of tokens and targets, got {most}")
            others = torch.where(always, -1.0, found).argsort(descending=True)[most - room :]
            chosen[others] = False
        kept = self.only(chosen | always)
        strength = kept.shares() * (kept.influence()[kept.targets] + kept.weights)[:, None]
        kept = replace(kept, edges=torch.where(_leading(strength.flatten(), edges).view_as(strength), kept.edges, 0))
        while True:
            feeds = (kept.edges != 0).any(0)
            fed = torch.zeros(len(kept.nodes), dtype=torch.bool)
            fed[kept.targets] = (kept.edges != 0).any(1)
            alive = kept._stay() | (feeds & (fed | ~kept.of("latent")))
            if alive.all():
                return kept
            kept = kept.only(alive)

    def _stay(self) -> Bool[Tensor, " node"]:
        """Tokens and what is explained."""
        stay = self.of("token", "logit")
        stay[self.targets[self.weights > 0]] = True
        return stay

    def paths(self, count: int = 10) -> list[tuple[float, list[int]]]:
        """The `count` strongest paths into weighted targets: (product of shares x weight, nodes from the source on)."""
        shares, row = self.shares(), {int(n): i for i, n in enumerate(self.targets)}
        open_ = [(-float(w), [int(n)]) for n, w in zip(self.targets, self.weights, strict=True) if w > 0]
        heapify(open_)
        done: list[tuple[float, list[int]]] = []  # a heap, the weakest of the strongest first
        while open_:
            strength, path = heappop(open_)
            values, order = (shares[row[path[0]]] * -strength).sort(descending=True)
            for value, node in zip(values.tolist(), order.tolist(), strict=True):
                if value <= (done[0][0] if len(done) == count else 0):  # what follows a weaker path is weaker yet
                    break
                if node in row:
                    heappush(open_, (-value, [node, *path]))
                else:
                    (heappushpop if len(done) == count else heappush)(done, (value, [node, *path]))
        return sorted(done, reverse=True)


def influence(
    shares: Float[Tensor, "target node"], targets: Int[Tensor, " target"], weights: Float[Tensor, " target"], count: int
) -> Float[Tensor, " node"]:
    """w (A + A^2 + ...) over nodes; A is nilpotent, as nothing feeds what came before it."""
    at, total = weights.clone(), torch.zeros(count, dtype=shares.dtype)
    for _ in range(count + 1):
        step = at @ shares
        if not step.any():
            return total
        total += step
        at = step[targets]
    raise ValueError("the graph has a cycle: a node feeds one that feeds it")


def _leading(values: Float[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
    """The largest values that together make a share of the sum."""
    order = values.argsort(descending=True)
    total = values[order].cumsum(0)
    count = int((total < share * total[-1]).sum()) + 1 if len(values) else 0
    keep = torch.zeros(len(values), dtype=torch.bool)
    keep[order[:count]] = True
    return keep & (values > 0)


def _replacement(graph: Graph, lost: Sequence[str]) -> float:
    found = graph.influence()
    tokens, rest = (float(found[graph.of(*kinds)].sum()) for kinds in (("token",), lost))
    return tokens / max(tokens + rest, 1e-30)


def _completeness(graph: Graph, lost: Sequence[str]) -> float:
    weight = graph.influence()[graph.targets] + graph.weights
    explained = 1 - graph.shares()[:, graph.of(*lost)].sum(1)
    return float((explained * weight).sum() / weight.sum().clamp_min(1e-30))


def frame(rows: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """The table of nodes."""
    import pandas as pd

    return pd.DataFrame(rows, columns=["kind", "layer", "pos", "latent", "value", "label"])

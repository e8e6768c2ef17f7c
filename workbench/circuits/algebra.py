"""Graphs beside each other: what two prompts do differently, and what a set of prompts has in common.

Nodes are one when kind, layer, latent and position are (a logit's and a bias's name too; a logit's probability does not
count). Positions may be aligned by the caller, or pooled. What a graph does not have adds 0 there: a latent that is off
and one that its budget did not visit look alike, so trace graphs that are to be compared with no budget.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .graph import Graph, frame

if TYPE_CHECKING:
    import pandas as pd

CHANCE = re.compile(r" \(p [\d.]+\)$")  # as `targets.likely` writes it
PLACE = re.compile(r" at \d+$")
Alignment = Mapping[int, int]


class Difference(NamedTuple):
    """`graph`: first less second, nodes and edges, weights their mean; its rows add up as theirs do.

    `nodes`, beside the graph's: value and influence in each graph and the differences; `edges`: the non-zero ones, node
    numbers and labels, `first`, `second`, `difference`, largest first. `found`: "both", "first" or "second".
    """

    graph: Graph
    nodes: "pd.DataFrame"
    edges: "pd.DataFrame"


class Union(NamedTuple):
    """`graph`: the mean over graphs. `nodes`: in how many `graphs` each is, its mean value and influence.

    `edges`: the non-zero ones, node numbers and labels, mean, and in how many `graphs` each is; largest first.
    """

    graph: Graph
    nodes: "pd.DataFrame"
    edges: "pd.DataFrame"


def difference(first: Graph, second: Graph, *, align: Alignment | None = None) -> Difference:
    """What `first` has more than `second`, node by node and edge by edge: a clean prompt and a corrupted one.

    `align`: the first's position for each of the second's; one without a partner gets a number that the first does not
    have, two may share one. Where the graphs agree the difference is rounding, and so is what `check` says of it.
    Raises ValueError for a position that `align` does not name, and for two nodes that cannot be told apart.
    """
    pool = _Pool([first, second], None if align is None else [{p: p for p in _positions(first)}, align], pooled=False)
    a, b = pool.edges
    table = pool.table()
    values, influence = pool.values(), pool.influence()
    found = [("both", "first", "second")[0 if x and y else 1 if x else 2] for x, y in pool.has().T.tolist()]
    table["found"] = found
    for name, column in (("", values), ("influence_", influence)):
        table[f"{name}first"], table[f"{name}second"] = (c.numpy() for c in column)
        table[f"{name}difference"] = (column[0] - column[1]).numpy()
    return Difference(
        pool.graph(values[0] - values[1], a - b),
        table,
        pool.listed({"first": a, "second": b, "difference": a - b}, by="difference"),
    )


def union(graphs: Sequence[Graph], *, align: Sequence[Alignment] | None = None, pooled: bool = False) -> Union:
    """The circuit of a set of prompts: the mean of their graphs, where an absent node or edge counts 0.

    Rows add up when those of all graphs do, and when a node that has a row in one has one wherever it is.
    `align`: for each graph, a common number for each of its positions. `pooled`: positions do not count and are 0; a
    node's edges and values are summed over them within a graph, tokens of one spelling are one node. Latents of one
    layer that feed each other across positions then feed each other in a cycle, which `influence` refuses.
    `only` the nodes of enough `graphs` are the circuit that prompts share; rows no longer add up then:

        both = union([trace(...) for prompt in prompts], pooled=True)
        shared = both.graph.only(torch.tensor((both.nodes["graphs"] >= 8).to_numpy()))

    Raises ValueError for no graphs, alignments that do not fit, and nodes of a graph that cannot be told apart.
    """
    if not graphs:
        raise ValueError("no graphs to unite: give one or more")
    if align is not None and pooled:
        raise ValueError("align tells positions apart, pooled does not: give one of them")
    pool = _Pool(graphs, align, pooled=pooled)
    edges, values = torch.stack(pool.edges), pool.values().mean(0)
    table = pool.table()
    table["graphs"] = pool.has().sum(0).numpy()
    table["value"] = values.numpy()
    table["influence"] = pool.influence().mean(0).numpy()
    mean, count = edges.mean(0), (edges != 0).sum(0)
    return Union(pool.graph(values, mean), table, pool.listed({"mean": mean, "graphs": count}, by="mean"))


class _Pool:
    """The nodes of several graphs under common numbers."""

    def __init__(self, graphs: Sequence[Graph], align: Sequence[Alignment] | None, *, pooled: bool):
        if align is not None and len(align) != len(graphs):
            raise ValueError(f"one alignment for each of {len(graphs)} graphs is wanted, got {len(align)}")
        self.graphs, self.number = graphs, {}
        self.words: list[dict[str, None]] = []
        self.place: list[Int[Tensor, " node"]] = []
        for i, graph in enumerate(graphs):
            to = None if align is None else align[i]
            if to is not None and (lost := _positions(graph) - set(to)):
                raise ValueError(
                    f"graph {i} has positions {sorted(lost)} that its alignment does not name: give each a number, "
                    "one of its own where it has no partner"
                )
            at = []
            for node in graph.nodes.to_dict("records"):
                kind, pos, label = node["kind"], node["pos"], CHANCE.sub("", node["label"])
                if pos >= 0:
                    pos = 0 if pooled else pos if to is None else to[pos]
                named = kind in ("logit", "bias") or (pooled and kind == "token")
                key = (kind, node["layer"], pos, node["latent"], label if named else "")
                at.append(self.number.setdefault(key, len(self.number)))
                if at[-1] == len(self.words):
                    self.words.append({})
                self.words[at[-1]][PLACE.sub("", label) if pooled else label] = None
            if len(set(at)) < len(at) and align is None and not pooled:
                twice = next(j for j, n in enumerate(at) if n in at[:j])
                raise ValueError(f"graph {i} has two nodes {graph.nodes['label'].iloc[twice]!r} that are one: drop one")
            self.place.append(torch.tensor(at))
        self.targets = torch.cat([p[g.targets] for p, g in zip(self.place, graphs, strict=True)]).unique()
        row = torch.full((len(self.number),), -1)
        row[self.targets] = torch.arange(len(self.targets))
        self.rows = [row[p[g.targets]] for p, g in zip(self.place, graphs, strict=True)]
        self.dtype = graphs[0].edges.dtype
        for graph in graphs:
            self.dtype = torch.promote_types(self.dtype, graph.edges.dtype)
        self.edges = [self._spread(g, r, p) for g, r, p in zip(graphs, self.rows, self.place, strict=True)]

    def _spread(self, graph: Graph, rows: Tensor, place: Tensor) -> Float[Tensor, "target node"]:
        empty = torch.zeros(len(self.targets), len(self.number), dtype=self.dtype)
        return empty.index_put_((rows[:, None], place[None]), graph.edges.to(self.dtype), accumulate=True)

    def values(self) -> Float[Tensor, "graph node"]:
        return self._nodes([torch.tensor(g.nodes["value"].to_numpy(dtype=float)) for g in self.graphs])

    def influence(self) -> Float[Tensor, "graph node"]:
        return self._nodes([g.influence().double() for g in self.graphs])

    def has(self) -> Tensor:
        return self._nodes([torch.ones(len(g.nodes)).double() for g in self.graphs]) > 0

    def _nodes(self, columns: Sequence[Tensor]) -> Float[Tensor, "graph node"]:
        empty = torch.zeros(len(columns), len(self.number), dtype=torch.float64)
        for i, (place, column) in enumerate(zip(self.place, columns, strict=True)):
            empty[i].index_add_(0, place, column)
        return empty

    def table(self) -> "pd.DataFrame":
        rows = []
        for (kind, layer, pos, latent, _), words in zip(self.number, self.words, strict=True):
            label = " | ".join([*words][:3]) + (" | …" if len(words) > 3 else "")
            rows.append({"kind": kind, "layer": layer, "pos": pos, "latent": latent, "value": 0.0, "label": label})
        return frame(rows).drop(columns="value")

    def graph(self, values: Tensor, edges: Tensor) -> Graph:
        weights = torch.zeros(len(self.graphs), len(self.targets), dtype=self.dtype)
        for i, (rows, graph) in enumerate(zip(self.rows, self.graphs, strict=True)):
            weights[i].index_add_(0, rows, graph.weights.to(self.dtype))
        nodes = frame(self.table().assign(value=values.numpy()).to_dict("records"))
        return Graph(nodes, edges, self.targets, weights.mean(0))

    def listed(self, columns: Mapping[str, Tensor], by: str) -> "pd.DataFrame":
        import pandas as pd

        size = torch.stack([c.abs() for c in columns.values()]).amax(0)
        row, source = size.nonzero(as_tuple=True)
        order = columns[by][row, source].abs().argsort(descending=True, stable=True)
        row, source = row[order], source[order]
        target, labels = self.targets[row], self.table()["label"].to_numpy()
        return pd.DataFrame(
            {
                "source": source.numpy(),
                "target": target.numpy(),
                "from": labels[source.numpy()],
                "to": labels[target.numpy()],
                **{name: c[row, source].numpy() for name, c in columns.items()},
            }
        )


def _positions(graph: Graph) -> set[int]:
    return {int(p) for p in graph.nodes["pos"] if p >= 0}

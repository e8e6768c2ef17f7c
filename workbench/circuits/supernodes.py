"""Supernodes: latents of a graph that read, write, fire or are described alike, as one node.

    pruned = graph.prune()
    reads, writes = supernodes.directions(pruned, transcoders)
    alike = supernodes.similarity(pruned, reads=reads, writes=writes, labels=labels)
    groups = supernodes.propose(pruned, alike, labels=labels)
    small = supernodes.merged(pruned, groups)

Groups are made by hand in Ameisen et al. 2025, Circuit Tracing; these are proposals to start from.
"""

import re
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ..dictionary import Dictionary
from . import replacement
from .export import node_ids
from .graph import Graph

if TYPE_CHECKING:
    import pandas as pd

WORD = re.compile(r"\w+")
NEVER = 1e9  # the distance of two latents that may not be in one group: no average brings it below 1
LINKAGES = ("average", "complete")


@torch.no_grad()
def directions(
    graph: Graph, transcoders: Mapping[int, Dictionary] | Dictionary
) -> tuple[Float[Tensor, "latent d"], Float[Tensor, "latent width"]]:
    """What each latent of the graph reads, and what it writes (to all layers, one after another, if across layers).

    Reading directions are the encoder's gradient at 0, so an encoder that is no linear map has others on a prompt.
    Raises ValueError for a latent of a layer that has no transcoder.
    """
    nodes: Any = graph.nodes[graph.nodes["kind"] == "latent"]
    layer, latent = (torch.tensor(nodes[c].to_numpy()) for c in ("layer", "latent"))
    if isinstance(transcoders, Dictionary):
        return _directions(transcoders, layer, latent)
    if lost := sorted(set(layer.tolist()) - set(transcoders)):
        raise ValueError(f"the graph has latents of layers {lost}, transcoders are given for {sorted(transcoders)}")
    reads: list[Tensor] = [torch.empty(0)] * len(nodes)
    writes = list(reads)
    for at in layer.unique().tolist():
        where = (layer == at).nonzero()[:, 0]
        for place, r, w in zip(where.tolist(), *_directions(transcoders[at], layer[where], latent[where]), strict=True):
            reads[place], writes[place] = r, w
    return torch.stack(reads), torch.stack(writes)


def _directions(dictionary: Dictionary, layer: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
    nowhere = dictionary.scale_in.new_zeros(len(latent), *dictionary.shape)
    parts = latent.split(replacement.AT_ONCE)
    reads = torch.cat([replacement.directions(dictionary, nowhere[: len(some)], some) for some in parts])
    if reads.ndim == 3:  # a latent of a cross-layer transcoder reads one layer
        reads = reads[torch.arange(len(latent)), layer]
    return reads, dictionary.atoms(latent.tolist()).flatten(1)


def similarity(
    graph: Graph,
    *,
    reads: Float[Tensor, "latent d"] | None = None,
    writes: Float[Tensor, "latent width"] | None = None,
    together: "pd.DataFrame | None" = None,
    labels: "pd.DataFrame | None" = None,
    weights: Mapping[str, float] | None = None,
) -> Float[Tensor, "latent latent"]:
    """How alike the graph's latents are, in the order of its nodes: the weighted mean of what is known of a pair.

    `reads`, `writes`: one vector for each latent node; cosine. `together`: columns layer, latent, other_layer,
    other_latent, value (how often both are on, a correlation or an overlap, at most 1); a pair of latents that both
    occur in it but not together counts 0. `labels`: columns layer, latent, label (text); cosine of their words, rare
    ones counting more. `weights`: by these four names, 1 unless given. A pair of which nothing is known is 0.
    Raises ValueError when nothing is given, and for arrays and tables of another form.
    """
    nodes = graph.nodes[graph.nodes["kind"] == "latent"]
    keys = list(zip(nodes["layer"].tolist(), nodes["latent"].tolist(), strict=True))
    given = {"reads": reads, "writes": writes, "together": together, "labels": labels}
    given = {name: value for name, value in given.items() if value is not None}
    if not given or (unknown := set(weights or {}) - set(given)):
        said = f"weights are for {', '.join(sorted(unknown))}" if given else "nothing"
        raise ValueError(f"give one or more of reads, writes, together and labels, got {said}")
    total = torch.zeros(len(keys), len(keys), dtype=torch.float64)
    known = torch.zeros_like(total)
    for name, value in given.items():
        if name in ("reads", "writes"):
            found = _cosine(name, torch.as_tensor(value).double(), len(keys))
        else:
            found = _pairs(value, keys) if name == "together" else _words(value, keys)
        weight = (weights or {}).get(name, 1.0)
        total += weight * found.nan_to_num(0.0)
        known += weight * ~found.isnan()
    alike = torch.where(known > 0, total / known.clamp_min(1e-30), 0)
    return alike.fill_diagonal_(1.0)


def _cosine(name: str, vectors: Tensor, count: int) -> Tensor:
    if vectors.ndim != 2 or len(vectors) != count or not vectors.isfinite().all():
        raise ValueError(f"{name} must be finite, of shape ({count}, d), one row a latent, got {tuple(vectors.shape)}")
    empty = vectors.norm(dim=-1) == 0
    found = normalize(vectors, dim=-1) @ normalize(vectors, dim=-1).T
    return found.masked_fill(empty[:, None] | empty[None], torch.nan)


def _columns(table: "pd.DataFrame", name: str, wanted: Sequence[str]) -> None:
    if lost := set(wanted) - set(table.columns):
        raise ValueError(f"{name} must have the columns {', '.join(wanted)}, got none called {', '.join(sorted(lost))}")


def _pairs(table: "pd.DataFrame", keys: Sequence[tuple[int, int]]) -> Tensor:
    _columns(table, "together", ("layer", "latent", "other_layer", "other_latent", "value"))
    pairs, seen = {}, set()
    for row in table.to_dict("records"):
        one, other = (row["layer"], row["latent"]), (row["other_layer"], row["other_latent"])
        if not abs(row["value"]) <= 1:
            raise ValueError(f"together holds {row['value']} for {one} and {other}: -1 to 1 is wanted")
        pairs[one, other] = pairs[other, one] = row["value"]
        seen |= {one, other}
    found = [
        [1.0 if a == b else pairs.get((a, b), 0.0 if a in seen and b in seen else torch.nan) for b in keys]
        for a in keys
    ]
    return torch.tensor(found, dtype=torch.float64).view(len(keys), len(keys))


def _words(table: "pd.DataFrame", keys: Sequence[tuple[int, int]]) -> Tensor:
    said = {key: set(WORD.findall(text.lower())) for key, text in _texts(table).items()}
    number = {word: i for i, word in enumerate(sorted(set().union(*said.values())))}
    counts = torch.zeros(len(keys), len(number), dtype=torch.float64)
    for i, key in enumerate(keys):
        counts[i, [number[w] for w in said.get(key, ())]] = 1
    distinct = [said[key] for key in {*keys} & said.keys()]
    for word, i in number.items():
        often = sum(word in words for words in distinct)
        counts[:, i] *= torch.tensor((1 + len(distinct)) / max(often, 1)).log()
    return _cosine("labels", counts, len(keys))


def _texts(table: "pd.DataFrame | None") -> dict[tuple[int, int], str]:
    if table is None:
        return {}
    _columns(table, "labels", ("layer", "latent", "label"))
    return {(r["layer"], r["latent"]): r["label"] for r in table.to_dict("records") if isinstance(r["label"], str)}


def propose(
    graph: Graph,
    alike: Float[Tensor, "latent latent"],
    *,
    threshold: float = 0.5,
    linkage: str = "average",
    near: int | None = 1,
    same_pos: bool = True,
    labels: "pd.DataFrame | None" = None,
) -> "pd.DataFrame":
    """Groups of two or more latents: columns node, supernode, layer, pos, latent, label, alike (mean to the others).

    Clusters merge while the mean similarity of their members ("average"), or the least ("complete"), is `threshold` or
    more. Two latents of which one feeds the other, over any path, stay apart when their layers differ by more than
    `near` (None: never for that). A merge that would make a supernode feed itself through another node is left out, so
    `merged` takes what this gives. `same_pos`: positions stay apart. A supernode is named after the member that is most
    like the others, by its text in `labels` (columns layer, latent, label) where there is one.
    Raises ValueError for another linkage, and similarities that are not (latents, latents), symmetric and at most 1.
    """
    import pandas as pd
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    if linkage not in LINKAGES:
        raise ValueError(f"linkage must be of {', '.join(LINKAGES)}, got {linkage!r}")
    nodes: Any = graph.nodes[graph.nodes["kind"] == "latent"]
    alike, n = alike.double(), len(nodes)
    if tuple(alike.shape) != (n, n) or not torch.allclose(alike, alike.T) or bool((alike > 1 + 1e-6).any()):
        raise ValueError(f"alike must be ({n}, {n}), symmetric and at most 1, got {tuple(alike.shape)}")
    feeds = _feeds(graph)
    apart = torch.zeros(n, n, dtype=torch.bool)
    layer, pos = (torch.tensor(nodes[c].to_numpy()) for c in ("layer", "pos"))
    if near is not None:
        path = _closure(feeds)
        apart |= (path | path.T) & ((layer[:, None] - layer).abs() > near)
    if same_pos:
        apart |= pos[:, None] != pos
    clusters, fed = {i: [i] for i in range(n)}, feeds.clone()  # fed: of clusters, each at its first member's place
    if n > 1:
        distance = torch.where(apart, NEVER, (1 - alike).clamp_min(0)).fill_diagonal_(0)
        tree = hierarchy.linkage(squareform(distance.numpy(), checks=False), linkage)
        for number, (a, b, height, _) in enumerate(tree.tolist(), start=n):
            if height > 1 - threshold + 1e-9:
                break
            if a not in clusters or b not in clusters:
                continue
            one, other = clusters[int(a)][0], clusters[int(b)][0]
            if not (_through(fed, one, other) or _through(fed, other, one)):
                clusters[number] = clusters.pop(int(a)) + clusters.pop(int(b))
                fed[one] |= fed[other]
                fed[:, one] |= fed[:, other]
                fed[other], fed[:, other], fed[one, one] = False, False, False
    texts, table, names = _texts(labels), nodes.reset_index(names="node").to_dict("records"), set()
    rows: list[dict[str, Any]] = []
    for members in sorted((sorted(m) for m in clusters.values() if len(m) > 1), key=lambda m: m[0]):
        mean = (alike[members][:, members].sum(1) - 1) / (len(members) - 1)
        lead = table[members[int(mean.argmax())]]
        name = start = texts.get((lead["layer"], lead["latent"]), lead["label"])
        count = 1
        while name in names:
            count += 1
            name = f"{start} ({count})"
        names.add(name)
        for member, value in zip(members, mean.tolist(), strict=True):
            kept = {c: table[member][c] for c in ("layer", "pos", "latent", "label")}
            rows.append({"node": table[member]["node"], "supernode": name, **kept, "alike": value})
    return pd.DataFrame(rows, columns=["node", "supernode", "layer", "pos", "latent", "label", "alike"])


def _feeds(graph: Graph) -> Tensor:
    """[i, j]: latent j has an edge to latent i."""
    full = torch.zeros(len(graph.nodes), len(graph.nodes), dtype=torch.bool)
    full[graph.targets] = graph.edges != 0
    latent = graph.of("latent")
    return full[latent][:, latent]


def _closure(feeds: Tensor) -> Tensor:
    path = feeds
    while True:
        further = path | (path.float() @ path.float() > 0)
        if torch.equal(further, path):
            return path
        path = further


def _through(fed: Tensor, start: int, end: int) -> bool:
    """Is there a path from one cluster to another through a third?"""
    at = fed[:, start].clone()
    at[[start, end]] = False
    seen = at.clone()
    while at.any():
        step = fed[:, at].any(1)
        if step[end]:
            return True
        at = step & ~seen
        seen |= step
    return False


def merged(graph: Graph, groups: "pd.DataFrame | Mapping[int, str]") -> Graph:
    """The graph with each group one node. `groups`: columns node, supernode, or a supernode's name by node.

    A supernode's column is the sum of its members' columns, its row the sum of their rows. What members give each other
    is then a term of the supernode's own row. That term leaves the row and leaves the value with it: the value is what
    enters the group from outside, and rows add up (a row that missed by x before misses by x, or the members' sum). So
    no node feeds itself, influence on all other nodes is what the self term's geometric series would give, and in
    `faithful.predicted` a share of what enters is a share of what leaves, as for a chain of latents. `inside` has the
    terms. Kind, layer, position and latent are those of the member of largest value; the label is the group's name.
    Raises ValueError for nodes that are not there, in two groups or of two kinds, members with and without a row, and
    groups that feed themselves through another node.
    """
    members = _members(graph, groups)
    place, first = _places(graph, members)
    count = len(first)
    targets = place[graph.targets].unique()
    row = torch.full((count,), -1)
    row[targets] = torch.arange(len(targets))
    rows = row[place[graph.targets]]
    edges = graph.edges.new_zeros(len(targets), count).index_put_((rows[:, None], place), graph.edges, accumulate=True)
    weights = graph.weights.new_zeros(len(targets)).index_add_(0, rows, graph.weights)
    nodes = graph.nodes.iloc[first].reset_index(drop=True)
    values = torch.zeros(count, dtype=torch.float64)
    values.index_add_(0, place, torch.tensor(graph.nodes["value"].to_numpy(dtype=float)))
    within = torch.arange(len(targets)), targets
    values[targets] -= edges[within].double()
    edges[within] = 0
    nodes["value"] = values.numpy()
    for name, which in members.items():
        nodes.loc[int(place[which[0]]), "label"] = name
    to, source = edges.nonzero(as_tuple=True)
    sources: dict[int, list[int]] = {}
    for t, s in zip(targets[to].tolist(), source.tolist(), strict=True):
        sources.setdefault(t, []).append(s)
    try:
        TopologicalSorter(sources).prepare()
    except CycleError as error:
        ring = " -> ".join(repr(nodes["label"].iloc[i]) for i in reversed(error.args[1]))
        raise ValueError(f"a group feeds itself through another node, {ring}: split it") from None
    return Graph(nodes, edges, targets, weights)


def inside(graph: Graph, groups: "pd.DataFrame | Mapping[int, str]") -> "pd.DataFrame":
    """Each supernode's members, the sum of their values, and how much of it they give each other or comes from outside.

    Columns supernode, members, value, inside, outside; value = inside + outside where rows add up.
    """
    import pandas as pd

    rows = []
    for name, which in _members(graph, groups).items():
        own = torch.isin(graph.targets, torch.tensor(which))
        within = float(graph.edges[own][:, which].sum())
        value = float(graph.nodes["value"].iloc[which].sum())
        rows.append(
            {"supernode": name, "members": len(which), "value": value, "inside": within, "outside": value - within}
        )
    return pd.DataFrame(rows, columns=["supernode", "members", "value", "inside", "outside"])


def listed(
    graph: Graph, groups: "pd.DataFrame | Mapping[int, str]", *, token_ids: Sequence[int] | None = None
) -> list[list[str]]:
    """The groups as front-ends have them, [name, id, id, ...]: ids are those of `export.to_json` of this graph.

    value = export.to_json(graph, ...)
    value["qParams"]["supernodes"] = supernodes.listed(graph, groups)
    """
    ids = node_ids(graph, token_ids if token_ids is not None else range(max(graph.nodes["pos"]) + 1))
    return [[name, *(i for n in which if (i := ids[n]) is not None)] for name, which in _members(graph, groups).items()]


def _members(graph: Graph, groups: "pd.DataFrame | Mapping[int, str]") -> dict[str, list[int]]:
    """Nodes of each group, checked."""
    if isinstance(groups, Mapping):
        pairs = list(groups.items())
    else:
        _columns(groups, "groups", ("node", "supernode"))
        pairs = list(zip(groups["node"].tolist(), groups["supernode"].tolist(), strict=True))
    found: dict[str, list[int]] = {}
    for node, name in pairs:
        if not 0 <= node < len(graph.nodes):
            raise ValueError(f"the graph has nodes 0 to {len(graph.nodes) - 1}, {name!r} has {node}")
        found.setdefault(name, []).append(int(node))
    if len({node for node, _ in pairs}) < len(pairs):
        raise ValueError("a node is in two groups, or twice in one: give it once")
    targets = set(graph.targets.tolist())
    for name, which in found.items():
        kinds = graph.nodes["kind"].iloc[which].unique()
        if len(kinds) > 1:
            raise ValueError(f"{name!r} has nodes of kinds {', '.join(kinds)}: one kind makes a supernode")
        if len(with_row := [n for n in which if n in targets]) not in (0, len(which)):
            raise ValueError(f"{len(with_row)} of {len(which)} members of {name!r} have a row: all or none")
    return found


def _places(graph: Graph, members: Mapping[str, list[int]]) -> tuple[Tensor, list[int]]:
    """Each node's new number, and the old node that stands for each new one."""
    size = graph.nodes["value"].abs().tolist()
    lead = {n: max(which, key=lambda m: size[m]) for which in members.values() for n in which}
    new: dict[int, int] = {}
    place = [new.setdefault(lead.get(n, n), len(new)) for n in range(len(graph.nodes))]
    return torch.tensor(place), list(new)

"""An attribution graph to prune, read, pin, group, label and try out in the model."""

import copy
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import traitlets as t
from torch import Tensor

from workbench import edit, lineage
from workbench.circuits import export, faithful, supernodes
from workbench.circuits.graph import Graph
from workbench.circuits.targets import LatentTarget, Target
from workbench.site import Site

from . import payload, worker
from .base import STATIC, Widget
from .labels import Labels

SHOWN = 150  # nodes that the slider leaves at first
TRIALS = 8  # interventions that stay in the list
KEY = "view"  # of the key `workbench` of a file: what the front-ends have no place for

Card = Callable[[int, int], Mapping[str, Any]]


class GraphViewer(Widget):
    """Token columns by layer rows: prune by influence, walk along inputs and outputs, pin, group, label, intervene.

        viewer = GraphViewer(graph=graph, tracing=tracing, index={8: index}, labels="labels.json")
        viewer = GraphViewer.load("graph.json")  # Neuronpedia's, Anthropic's and circuit-tracer's files
        viewer.pinned, viewer.supernodes  # what was pinned and grouped, by node id
        viewer.save("graph.json")  # the graph as it is pruned, with pins, groups and labels

    `graph`: a `circuits` Graph or a file. `tokens`: the prompt's, else those of the graph's token nodes. `tracing`: the
    `transcoder.Tracing` it was made by, which interventions and proposals need. `index`: for features' cards, an
    `interpret.Index` by layer, or a function of (layer, latent) that gives what `payload.card` does. `labels`: a file
    or `Labels`, by node id (`export.node_ids`). `nodes`, `edges`: shares of the influence that are shown, as in
    `Graph.prune` (nodes: what 150 of them hold, 0.8 at most). The `most` nodes of most influence reach the page.
    Raises ValueError for a graph with numbers that are not finite, for tokens, a tracing and marks that do not fit.
    """

    _esm, _css = STATIC / "graph_viewer.js", STATIC / "graph_viewer.css"
    selected = t.Unicode("").tag(sync=True)
    pinned = t.List(t.Unicode()).tag(sync=True)
    supernodes = t.List(t.List(t.Unicode())).tag(sync=True)
    labels = t.Dict().tag(sync=True)
    shares = t.List().tag(sync=True)
    data = t.Dict().tag(sync=True)
    kept = t.Dict().tag(sync=True)
    sub = t.Dict().tag(sync=True)
    proposed = t.List().tag(sync=True)
    trials = t.List().tag(sync=True)
    card = t.Dict().tag(sync=True)
    said = t.Unicode("").tag(sync=True)
    can = t.Dict().tag(sync=True)
    query = t.Dict().tag(sync=True)
    title = t.Unicode("").tag(sync=True)
    svg = t.Unicode("")  # the picture that was exported last: not in the notebook

    def __init__(
        self,
        *,
        graph: Graph | Path | str,
        tokens: Sequence[str] | None = None,
        tracing: Any = None,
        index: Any = None,
        labels: Labels | Path | str | None = None,
        title: str = "",
        nodes: float | None = None,
        edges: float = 0.98,
        most: int = 400,
    ):
        self._file: dict[str, Any] | None = None
        self._path: Path | None = None
        if not isinstance(graph, Graph):
            self._path = Path(graph)
            self._file = _read(self._path)
            graph = _of(self._path, self._file)
        _finite(graph)
        if not 10 <= most <= 5000:
            raise ValueError(f"most is the number of nodes in the page, 10 to 5000, got {most}")
        if index is not None and not (isinstance(index, Mapping) or callable(index)):
            raise TypeError(
                f"index is one for each layer, {{8: index}}, or a function (layer, latent), got {type(index).__name__}"
            )
        self.graph, self.most, self._tracing, self._index = graph, most, tracing, index
        self._words = _words(graph, tokens, self._file)
        self._ids = _ids(graph, self._file, tracing)
        self._place = {name: i for i, name in enumerate(self._ids)}
        self._labels = labels if isinstance(labels, Labels) else Labels(labels)
        self._aims = () if tracing is None else _aims(graph, tracing)
        self._predicted: Tensor | None = None
        self._before: dict[bool, Tensor] | None = None  # the targets as they are, with attention held and free
        marks, said = _marks(self._file, self._place)
        shares = [marks["nodes"] if nodes is None else nodes, edges]
        pinned, groups = marks["pinned"], marks["supernodes"]
        data = self._made(pinned, groups)
        shares[0] = _start(data) if shares[0] is None else shares[0]
        _shares(shares)
        super().__init__(
            selected=marks["selected"],
            pinned=pinned,
            supernodes=groups,
            labels={**marks["labels"], **{k: v for k, v in self._labels.items() if k in self._place}},
            shares=shares,
            data=data,
            kept=payload.graph_pruned(graph, data, shares[0], shares[1], most),
            sub=self._sub(pinned, groups),
            said=said,
            can={"card": index is not None, "scale": tracing is not None},
            title=title or _title(graph),
        )
        self.on_msg(self._heard)
        if self.selected:
            self._show(None)

    @classmethod
    def load(cls, path: Path | str, **given: Any) -> "GraphViewer":
        """The graph of a file, with its pins, supernodes and labels; what else is given as to the class."""
        return cls(graph=path, **given)

    # ---- what a change asks for

    @t.validate("shares")
    def _checked(self, proposal: Any) -> list[float]:
        return _shares(proposal["value"])

    @t.validate("pinned")
    def _known(self, proposal: Any) -> list[str]:
        self._nodes(proposal["value"])
        return list(dict.fromkeys(proposal["value"]))

    @t.observe("shares")
    def _prune(self, change: Any) -> None:
        if not self.data or self.kept.get("shares") == change["new"]:
            return
        shares = _shares(change["new"])  # a page sends 1 for 1.0
        self.work(
            "pruning",
            lambda job: self.put(kept=payload.graph_pruned(self.graph, self.data, shares[0], shares[1], self.most)),
            key="prune",
        )

    @t.observe("pinned", "supernodes")
    def _marked(self, change: Any) -> None:
        if not self.data or self.sub.get("of") == [self.pinned, self.supernodes]:
            return

        def job(_: worker.Job) -> None:
            pinned, groups = list(self.pinned), [list(g) for g in self.supernodes]
            self._grouping(groups)
            self.put(**self._grown(pinned, groups), sub=self._sub(pinned, groups))

        self.work("summing edges", job, key="sub")

    @t.observe("selected")
    def _show(self, change: Any) -> None:
        if not getattr(self, "data", None) or self._index is None or self.selected == self.card.get("of", ""):
            return
        name = self.selected
        node = self._place.get(name, -1)
        kind = self.graph.nodes["kind"].iloc[node] if node >= 0 else ""
        if kind != "latent":
            self.put(card={})
            return
        self.work("reading the card", lambda job: self.put(card=self._card(name, node)), key="card")

    @t.observe("query")
    def _asked(self, change: Any) -> None:
        ask = change["new"]
        do = ask.get("do")
        if do == "label":
            try:
                self.label(str(ask.get("id")), str(ask.get("text", "")))
            except (ValueError, OSError) as error:
                self.put(error=f"{type(error).__name__}: {error}")
            return
        ids = [str(i) for i in ask.get("ids", [])]
        known: dict[str, tuple[str, Callable[[worker.Job], Any]]] = {
            "group": ("grouping", lambda job: self.group(str(ask.get("name", "")), ids)),
            "ungroup": ("ungrouping", lambda job: self.ungroup(str(ask.get("name", "")))),
            "propose": ("looking for latents that are alike", lambda job: self.propose()),
            "take": ("grouping", lambda job: self.take([str(n) for n in ask.get("names", [])])),
            "scale": ("running the model", lambda job: self.scale(ids, ask.get("factor"), str(ask.get("name", "")))),
            "save": ("writing", lambda job: self.put(said=f"written to {self.save()}")),
        }
        if do in known:
            what, call = known[do]
            self.work(what, call, key=str(do))

    def _heard(self, _: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict) and isinstance(content.get("svg"), str):
            self.svg = content["svg"]

    # ---- the same from Python

    def label(self, node: str, text: str) -> None:
        """Name a node, in the file of labels too; an empty text takes the name away. Raises ValueError."""
        self._nodes([node])
        self._labels.set(node, text)
        named = {k: v for k, v in self.labels.items() if k != node}
        self.put(labels=named | ({node: self._labels[node]} if node in self._labels else {}), error="")

    def group(self, name: str, nodes: Sequence[str]) -> None:
        """Make a supernode of nodes. Raises ValueError for a name in use, and nodes that cannot be one node."""
        name = " ".join(name.split()) or self._free("group")
        self._one(nodes, name)
        self._regroup([*self.supernodes, [name, *nodes]])

    def ungroup(self, name: str) -> None:
        """Its members stand alone again, pinned. Raises ValueError for a supernode that there is not."""
        if name not in (names := [g[0] for g in self.supernodes]):
            raise ValueError(f"there is no supernode {name!r}: there are {', '.join(names) or 'none'}")
        self._regroup([g for g in self.supernodes if g[0] != name])

    def propose(self, threshold: float = 0.5) -> list[list[str]]:
        """Supernodes of the shown latents that read and write alike, and whose labels are: `proposed`, to `take`.

        Raises ValueError without a tracing or labels.
        """
        graph = self._pruned()
        known: dict[str, Any] = {}
        if self._tracing is not None:
            of: Any = self._tracing.active.of
            first = next(iter(of.values()), None)
            if first is not None and len(first.shape) > 1:  # one dictionary across layers
                of = first
            known["reads"], known["writes"] = supernodes.directions(graph, of)
        if len(named := self._named(graph)):
            known["labels"] = named
        if not known:
            raise ValueError("proposals compare what latents read and write, or their labels: give tracing=, or labels")
        taken = {i for g in self.supernodes for i in g[1:]}
        found = supernodes.propose(
            graph, supernodes.similarity(graph, **known), threshold=threshold, labels=known.get("labels")
        )
        at = graph.nodes["at"].tolist()
        groups = [
            [str(name), *(self._ids[at[n]] for n in members["node"])]
            for name, members in found.groupby("supernode", sort=False)
        ]
        groups = [[self._name(g), *g[1:]] for g in groups if not taken & set(g[1:])]
        self.put(proposed=groups, said="" if groups else "no latents are alike enough to group")
        return groups

    def take(self, names: Sequence[str]) -> None:
        """Make supernodes of proposals."""
        chosen = [g for g in self.proposed if g[0] in names]
        for group in chosen:
            self._one(group[1:], group[0])
        self._regroup([*self.supernodes, *chosen])
        self.put(proposed=[g for g in self.proposed if g not in chosen])

    def scale(self, nodes: Sequence[str], factor: Any, name: str = "") -> dict[str, Any]:
        """Multiply what latents write by `factor` and run the model: how the targets change, predicted and observed.

        0 takes them away. With attention held and free; MLPs and norms react. A group's prediction is the sum of its
        members'. Raises ValueError without a tracing, for nodes that are no latents, and a factor that is no number.
        """
        if self._tracing is None:
            raise ValueError("interventions run the model: give GraphViewer(tracing=transcoder.Tracing(...))")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor) or factor == 1:
            raise ValueError(f"factor is a number other than 1, which changes nothing; got {factor!r}")
        places, table = self._nodes(nodes), self.graph.nodes
        if not places or (wrong := [i for i in places if table["kind"].iloc[i] != "latent"]):
            what = f"{table['label'].iloc[wrong[0]]} is {table['kind'].iloc[wrong[0]]}" if places else "none came"
            raise ValueError(f"only latents are scaled: {export.short(what)}")
        active = self._tracing.active
        which = [active.place(*(int(table[c].iloc[i]) for c in ("layer", "pos", "latent"))) for i in places]
        if self._predicted is None:
            self._predicted = faithful.predicted(self.graph)
        said = (factor - 1) * self._predicted[:, places].sum(1)
        if self._before is None:
            self._before = {f: changed(self._tracing, self._aims, [], 1.0, frozen=f) for f in (True, False)}
        runs = {f: changed(self._tracing, self._aims, which, factor, frozen=f) for f in (True, False)}
        held, free = (runs[f] - self._before[f] for f in (True, False))
        aims = self.graph.targets[self.graph.weights > 0].tolist()
        names = [self._said(i) for i in aims]
        numbers = (v.double().tolist() for v in (self._before[True], said, held, free))
        name = name or (self._said(places[0]) if len(places) == 1 else f"{len(places)} latents")
        one = payload.graph_trial(name, list(nodes), factor, names, *numbers)
        self.put(trials=[one, *self.trials][:TRIALS])
        return one

    def save(self, path: Path | str | None = None) -> Path:
        """Write pins, supernodes and labels with the graph, as the front-ends read it: an opened file keeps all that it
        had, another graph is pruned as it is shown. Without `path` where it was opened or saved last, else as a new
        file, graph.json, beside the notebook.
        """
        free = (p for n in itertools.count(1) if not (p := Path(f"graph-{n}.json" if n > 1 else "graph.json")).exists())
        path = Path(path) if path is not None else self._path or next(free)
        if self._file is not None:
            value, ids = copy.deepcopy(self._file), self._ids
        else:
            graph = self._pruned()
            ids = [self._ids[i] for i in graph.nodes["at"]]
            plain = Graph(graph.nodes.drop(columns="at"), graph.edges, graph.targets, graph.weights)
            given = self._tracing and self._tracing.tokens.ids[0].tolist()
            words = [str(self._words.get(p, "")) for p in range(max(self._words, default=-1) + 1)]
            value = export.to_json(
                plain, slug=re.sub(r"[^\w-]+", "-", path.stem) or "graph", prompt_tokens=words, token_ids=given
            )
            ids = [n or i for n, i in zip(value[export.KEY]["ids"], ids, strict=True)]
        _marked(value, ids, self.labels, self.pinned, self.supernodes, self.selected, self.shares)
        self._path = lineage.write(path, json.dumps(value, separators=(",", ":"), allow_nan=False).encode())
        return self._path

    # ---- parts

    def _nodes(self, names: Sequence[str]) -> list[int]:
        if unknown := [n for n in names if n not in self._place]:
            raise ValueError(f"the graph has no node {export.short(unknown[0])}: ids are as {self._ids[0]!r}")
        return [self._place[n] for n in names]

    def _made(self, pinned: Sequence[str], groups: Sequence[Sequence[str]]) -> dict[str, Any]:
        also = self._nodes([*pinned, *(i for g in groups for i in g[1:])])
        return payload.graph(self.graph, self._words, self._ids, most=self.most, also=also)

    def _grown(self, pinned: Sequence[str], groups: Sequence[Sequence[str]]) -> dict[str, Any]:
        """The data anew where something pinned was not in the page."""
        if {*pinned, *(i for g in groups for i in g[1:])} <= set(self.data["nodes"]["id"]):
            return {}
        data = self._made(pinned, groups)
        return {"data": data, "kept": payload.graph_pruned(self.graph, data, self.shares[0], self.shares[1], self.most)}

    def _sub(self, pinned: Sequence[str], groups: Sequence[Sequence[str]]) -> dict[str, Any]:
        members = {str(g[0]): self._nodes(g[1:]) for g in groups}
        made = payload.graph_sub(self.graph, self._ids, self._nodes(pinned), members)
        return made | {"of": [list(pinned), [list(g) for g in groups]]}

    def _grouping(self, groups: Sequence[Sequence[str]]) -> None:
        names = [g[0] for g in groups if g]
        if len(names) < len(groups) or len(set(names)) < len(names):
            raise ValueError("supernodes are [name, id, id, ...], each name once")
        if short := [g[0] for g in groups if len(set(g[1:])) < 2]:
            raise ValueError(f"a supernode has two nodes or more, {export.short(short[0])} has fewer: pick them first")

    def _regroup(self, groups: Sequence[Sequence[str]]) -> None:
        self._grouping(groups)
        old = {i for g in self.supernodes for i in g[1:]}
        inside = {i for g in groups for i in g[1:]}
        pinned = list(dict.fromkeys([i for i in self.pinned if i not in inside] + sorted(old - inside)))
        sub = self._sub(pinned, groups)
        self.put(**self._grown(pinned, groups), sub=sub)
        self.put(supernodes=[list(g) for g in groups], pinned=pinned, error="")

    def _one(self, nodes: Sequence[str], name: str) -> None:
        """Raises ValueError where nodes cannot be one among what is pinned and grouped, as `supernodes.merged`."""
        keep = torch.zeros(len(self.graph.nodes), dtype=torch.bool)
        others = [*self.pinned, *(i for g in self.supernodes for i in g[1:])]
        keep[[*self._nodes(others), *(places := self._nodes(nodes))]] = True
        number = keep.cumsum(0) - 1
        supernodes.merged(self.graph.only(keep), {int(number[i]): name for i in places})

    def _free(self, start: str) -> str:
        names = {g[0] for g in [*self.supernodes, *self.proposed]}
        return next(n for i in range(1, len(names) + 2) if (n := f"{start} {i}") not in names)

    def _name(self, group: Sequence[str]) -> str:
        named = [self.labels[i] for i in group[1:] if i in self.labels]
        name = named[0] if named else str(group[0])
        return name if name not in {g[0] for g in self.supernodes} else self._free(name)

    def _pruned(self) -> Graph:
        """The graph as shown: pruned, and what is pinned or grouped; its nodes have `at`."""
        small = payload.graph_numbered(self.graph, self.shares[0], self.shares[1], self.most)
        here = set(small.nodes["at"])
        also = set(self._nodes([*self.pinned, *(i for g in self.supernodes for i in g[1:])]))
        if also <= here:
            return small
        keep = torch.zeros(len(self.graph.nodes), dtype=torch.bool)
        keep[list(here | also)] = True
        whole = Graph(
            self.graph.nodes.assign(at=range(len(self.graph.nodes))),
            self.graph.edges,
            self.graph.targets,
            self.graph.weights,
        )
        return whole.only(keep)

    def _named(self, graph: Graph) -> Any:
        """Labels of latents that say something, as `supernodes.similarity` takes them."""
        import pandas as pd

        rows = []
        nodes: Any = graph.nodes
        for n in nodes.itertuples():
            said = self._said(int(n.at))
            if n.kind == "latent" and said != f"{n.layer}/{n.latent} at {n.pos}":
                rows.append({"layer": n.layer, "latent": n.latent, "label": said})
        return pd.DataFrame(rows, columns=["layer", "latent", "label"])

    def _said(self, node: int) -> str:
        return self.labels.get(self._ids[node]) or str(self.graph.nodes["label"].iloc[node])

    def _card(self, name: str, node: int) -> dict[str, Any]:
        row: Any = self.graph.nodes.iloc[node]
        layer, latent = int(row["layer"]), int(row["latent"])
        index: Any = self._index
        if isinstance(index, Mapping):
            if layer not in index:
                return {"of": name, "none": f"no index of layer {layer} was given"}
            index = index[layer]
        made = index(layer, latent) if callable(index) else payload.card(index, latent)
        return {"of": name, "card": made}


@torch.no_grad()
def changed(
    tracing: Any, aims: Sequence[Target | LatentTarget], which: Sequence[int], factor: float, *, frozen: bool
) -> Tensor:
    """The targets when what some active latents write is multiplied, as in `faithful.observed`, of several at once."""
    edits = {}
    for layer, written in tracing.written.items():
        mine = torch.isin(written.by, torch.tensor(which))
        if mine.any():
            change = torch.zeros_like(tracing.words)
            change.index_add_(0, tracing.active.pos[written.by[mine]], written.what()[mine].to(change.dtype))
            edits[Site(layer, "mlp_out")] = edit.function(_adds((factor - 1) * change)).everywhere()
    ends = [Site(None, f"{tracing.subject.plan.unembed}:{side}") for side in ("in", "out")]
    read = [*(Site(i, "mlp_in") for i in tracing.layers), *ends]
    held = tracing.held
    h = (held.run(edits, read, norms=False) if frozen else tracing.subject.run(held.tokens, edits, read)).h
    x, logits = (h[end][0, -1] for end in ends)
    found = []
    for target in aims:
        if isinstance(target, Target):
            found.append(target.value(logits, x).double())
        else:
            reads = tracing.active.reads(torch.tensor([tracing.active.place(*target[1:])]))[0]
            found.append((reads @ h[Site(target.layer, "mlp_in")][0, target.pos].to(reads.dtype)).double())
    return torch.stack(found)


def _adds(change: Tensor) -> Any:
    return lambda h, at: h + change.to(h.dtype)


def _read(path: Path) -> dict[str, Any]:
    text = path.read_bytes()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch it again") from error


def _of(path: Path, value: Any) -> Graph:
    try:
        return export.from_json(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _finite(graph: Graph) -> None:
    if not len(graph.nodes):
        raise ValueError("the graph has no nodes: nothing to show")
    for name in ("edges", "weights"):
        if wrong := int((~getattr(graph, name).isfinite()).sum()):
            raise ValueError(f"{name} of the graph must be finite numbers, {wrong} are not: trace it again")


def _words(graph: Graph, tokens: Sequence[str] | None, file: Mapping[str, Any] | None) -> dict[int, str]:
    """The prompt's tokens by position."""
    nodes: Any = graph.nodes
    last = int(nodes["pos"].max())
    own = nodes[nodes["kind"] == "token"]
    known = dict(zip(own["pos"].tolist(), map(str, own["label"]), strict=True))
    if tokens is not None:
        if len(tokens) <= last:
            raise ValueError(f"tokens has {len(tokens)}, the graph has nodes up to position {last}: give all tokens")
        return dict(enumerate(map(str, tokens)))
    listed = file.get("metadata", {}).get("prompt_tokens", []) if file else []
    return known | dict(enumerate(listed))


def _ids(graph: Graph, file: Mapping[str, Any] | None, tracing: Any) -> list[str]:
    """A name for each node: the file's own, else `export.node_ids`, else by its kind."""
    found: list[str | None]
    nodes: Any = graph.nodes
    if file is not None:
        found = file[export.KEY]["ids"] if export.KEY in file else [n["node_id"] for n in file["nodes"]]
    else:
        last = int(nodes["pos"].max())
        ids = range(last + 1) if tracing is None else tracing.tokens.ids[0].tolist()
        if len(ids) <= last:
            raise ValueError(f"the tracing is of {len(ids)} tokens, the graph has nodes up to position {last}")
        found = export.node_ids(graph, ids)
    seen = {name for name in found if name is not None}
    names = []
    for node, name in zip(nodes.itertuples(), found, strict=True):
        if name is None:
            start = f"{node.kind}_{node.layer}" + (f"_{node.pos}" if node.pos >= 0 else "")
            name = next(n for i in range(1, len(found) + 2) if (n := start if i == 1 else f"{start}_{i}") not in seen)
            seen.add(name)
        names.append(name)
    return names


def _aims(graph: Graph, tracing: Any) -> list[Target | LatentTarget]:
    """The tracing's targets in the order of the graph's. Raises ValueError where the two do not fit."""
    goals = {goal.label: goal for goal in tracing.goals}
    found: list[Target | LatentTarget] = []
    for row in (graph.weights > 0).nonzero()[:, 0].tolist():
        node: Any = graph.nodes.iloc[int(graph.targets[row])]
        weight = float(graph.weights[row])
        if node["kind"] == "latent":
            place = int(node["layer"]), int(node["pos"]), int(node["latent"])
            tracing.active.place(*place)
            found.append(LatentTarget(weight, *place))
        elif node["label"] in goals:
            found.append(goals[node["label"]])
        else:
            raise ValueError(f"the tracing has no target {export.short(node['label'])}: give the graph's own tracing")
    return found


def _marks(file: Mapping[str, Any] | None, place: Mapping[str, int]) -> tuple[dict[str, Any], str]:
    """What was pinned, grouped and named in a file, and a line about what it names that is not there."""
    marks: dict[str, Any] = {"pinned": [], "supernodes": [], "selected": "", "labels": {}, "nodes": None}
    if file is None:
        return marks, ""
    given, own = file.get("qParams") or {}, (file.get(export.KEY) or {}).get(KEY) or {}
    for name, value in (("qParams", given), (f"{export.KEY}.{KEY}", own)):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be an object, got {export.short(value)}")
    pinned = own.get("pinned", given.get("pinnedIds") or [])
    pinned = pinned.split(",") if isinstance(pinned, str) else pinned
    groups = own.get("supernodes", given.get("supernodes") or [])
    groups = _parsed(groups, "supernodes")
    if not isinstance(pinned, list) or not all(isinstance(i, str) for i in pinned):
        raise ValueError(f"pinnedIds must be a list of ids, got {export.short(pinned)}")
    if not isinstance(groups, list) or not all(
        isinstance(g, list) and all(isinstance(i, str) for i in g) for g in groups
    ):
        raise ValueError(f"supernodes must be lists of a name and ids, got {export.short(groups)}")
    lost = {i for i in [*pinned, *(i for g in groups for i in g[1:])] if i not in place}
    marks["supernodes"], names, taken = [], set(), set()
    for group in groups:
        members = [i for i in dict.fromkeys(group[1:]) if i in place and i not in taken]
        if len(members) > 1 and group[0] not in names:
            marks["supernodes"].append([group[0], *members])
            names.add(group[0])
            taken |= set(members)
    marks["pinned"] = [i for i in dict.fromkeys(pinned) if i in place and i not in taken]
    marks["selected"] = i if isinstance(i := given.get("clickedId"), str) and i in place else ""
    marks["labels"] = _clerps(given.get("clerps"), file)
    at = own.get("nodes", given.get("pruningThreshold"))
    try:
        at = float(at) if at not in (None, "") else None
    except (TypeError, ValueError, OverflowError):
        at = None
    marks["nodes"] = at if at is not None and 0 < at <= 1 else None
    return marks, f"{len(lost)} pinned or grouped ids of the file are not among its nodes" if lost else ""


def _parsed(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else []
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} of qParams is text that is not JSON ({error})") from None


def _clerps(given: Any, file: Mapping[str, Any]) -> dict[str, str]:
    """Labels of qParams by node: front-ends name a node by its feature, or by layer, feature and position."""
    given = _parsed(given or [], "clerps")
    if isinstance(given, Mapping):
        given = list(given.items())
    if not isinstance(given, list) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in given):
        raise ValueError(f"clerps must be pairs of a key and a label, got {export.short(given)}")
    named = {str(key): " ".join(label.split())[:500] for key, label in given if isinstance(label, str)}
    found = {}
    for node in file["nodes"] if named else ():
        feature = node.get("feature")
        keys = [node["node_id"], f"{node.get('layer')}_{feature}_{node.get('ctx_idx')}"]
        keys += [] if feature in (None, -1) or node.get("feature_type") in ("embedding", "logit") else [str(feature)]
        if label := next((named[k] for k in keys if named.get(k)), None):
            found[node["node_id"]] = label
    return found


def _marked(
    value: dict[str, Any],
    ids: Sequence[str],
    labels: Mapping[str, str],
    pinned: Sequence[str],
    groups: Sequence[Sequence[str]],
    selected: str,
    shares: Sequence[float],
) -> None:
    """Write marks where front-ends look for them; what they have no node for goes under our own key."""
    listed = {node["node_id"] for node in value["nodes"]}
    named = []
    for node in value["nodes"]:
        if (label := labels.get(node["node_id"])) and node["feature_type"] not in ("embedding", "logit"):
            node["clerp"] = label
            named.append([f"{node.get('layer')}_{node.get('feature')}_{node['ctx_idx']}", label])
    marks = value["qParams"] = dict(value.get("qParams") or {})
    marks["pinnedIds"] = [i for i in pinned if i in listed]
    marks["pinnedIds"] += [i for g in groups for i in g[1:] if i in listed]  # front-ends group what is pinned
    marks["supernodes"] = [[g[0], *(i for i in g[1:] if i in listed)] for g in groups]
    marks |= {"clickedId": selected if selected in listed else "", "pruningThreshold": str(shares[0])}
    marks["clerps"] = json.dumps(named, ensure_ascii=False)
    if export.KEY in value:
        own = value[export.KEY]
        own["nodes"]["label"] = [labels.get(i) or old for i, old in zip(ids, own["nodes"]["label"], strict=True)]
        own[KEY] = {"pinned": list(pinned), "supernodes": [list(g) for g in groups], "nodes": shares[0]}


def _shares(shares: Any) -> list[float]:
    if len(shares) != 2 or not all(isinstance(s, int | float) and 0 < s <= 1 for s in shares):
        raise ValueError(f"shares are of nodes and of edges, each above 0 and at most 1, got {export.short(shares)}")
    return [float(s) for s in shares]


def _start(data: Mapping[str, Any]) -> float:
    """The share of the influence at which about `SHOWN` nodes are left, 0.8 at most."""
    ranks = sorted(r for r in data["nodes"]["rank"] if r)
    room = SHOWN - sum(not r for r in data["nodes"]["rank"])
    if not ranks or room >= len(ranks):
        return 0.8
    return min(0.8, max(0.01, math.floor(100 * ranks[max(room, 0)]) / 100))


def _title(graph: Graph) -> str:
    names = graph.nodes["label"].iloc[graph.targets[graph.weights > 0].tolist()].astype(str).tolist()
    said = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return payload.cut(f"What makes {said}", 120) if names else "Attribution graph"

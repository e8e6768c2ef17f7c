"""Attribution graphs as the JSON of Neuronpedia and of Anthropic's and circuit-tracer's front-ends, and back.

`nodes` and `links` hold what the front-ends know: latents, errors, tokens, logits. They ignore the key `workbench`,
which keeps the rest: bias and unexplored nodes with their links, values, labels, targets, weights, the dtype. Numbers
are written by repr, so what is read equals what was written, bit by bit (an edge of -0.0 is 0).

Ids: latent `{layer}_{latent}_{pos}`, error `err_{layer}_{pos}`, token `E_{token}_{pos}`, logit
`{layers + 1}_{token}_{pos}`; `_2`, `_3`, ... follow where one repeats. circuit-tracer calls an error `0_{layer}_{pos}`,
which is also latent `layer` of layer 0: links can then not be told apart. Neuronpedia only looks ids up.
Source: hijohnnylin/neuronpedia, graph-schema.json and graph/utils.ts; decoderesearch/circuit-tracer, graph_models.py.
"""

import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import lineage
from .graph import KINDS, LEFT_OUT, Graph, frame

KEY, VERSION = "workbench", 1
TYPES = {
    "latent": "cross layer transcoder",  # of transcoders of one layer too
    "error": "mlp reconstruction error",
    "token": "embedding",
    "logit": "logit",
}
DTYPES = {str(t).removeprefix("torch."): t for t in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
COLUMNS = ("kind", "layer", "pos", "latent", "value", "label")
LARGEST = 2**30  # entries of the dense matrix of edges
TOP = 2**53  # whole numbers above are not the same in JavaScript
LATENT_ID = re.compile(r"(\d{1,9})_(\d{1,15})_(\d{1,9})", re.ASCII)
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON has them, tables do not
CHANCE = re.compile(r"\(p=(\d*\.?\d+)\)", re.ASCII)  # in a logit's label: Output " Paris" (p=0.123)
WORD = re.compile(r"""(['"])(.*)\1 \(p [\d.]+\)""")  # a label of `targets.likely`


def write(
    graph: Graph,
    path: Path | str,
    *,
    slug: str,
    prompt_tokens: Sequence[str],
    scan: str | None = None,
    token_ids: Sequence[int] | None = None,
    metadata: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> Path:
    """The graph as a JSON file, whole or not at all; arguments as of `to_json`."""
    value = to_json(
        graph, slug=slug, prompt_tokens=prompt_tokens, scan=scan, token_ids=token_ids, metadata=metadata, strict=strict
    )
    return lineage.write(Path(path), json.dumps(value, separators=(",", ":"), allow_nan=False).encode())


def read(path: Path | str) -> Graph:
    """The graph of a JSON file, as `from_json`. Raises ValueError, one line, for a file that holds none."""
    text = Path(path).read_bytes()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch it again") from error
    try:
        return from_json(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_json(
    graph: Graph,
    *,
    slug: str,
    prompt_tokens: Sequence[str],
    scan: str | None = None,
    token_ids: Sequence[int] | None = None,
    metadata: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """The graph as the front-ends read it; `strict` leaves out the key `workbench`: bias and unexplored nodes are lost.

    `slug` names the graph in URLs, `scan` the model and its transcoders (a hash of `transcoder_list` unless given).
    `token_ids` go into the ids of tokens (positions unless given); `metadata` is further metadata: `transcoder_list`,
    `prompt`, `node_threshold` (where the slider stands, 0.8), `info`, `feature_details` and so on.

    `influence` is what the slider compares: the share of the influence, in the graph without bias and unexplored nodes,
    that a node and all more influential ones hold (0: leading, 1: last). `activation` is a latent's value, `token_prob`
    a logit's weight. Neuronpedia itself refuses graphs with nothing above layer 0.
    Raises ValueError for numbers that are not finite, positions without a token, two rows of one node, and cycles.
    """
    further, words = dict(metadata or {}), [_text(word, "a prompt token") for word in prompt_tokens]
    if not re.fullmatch(r"[\w-][\w.-]*", slug):
        raise ValueError(f"slug is part of a URL: letters, digits, '-', '_' and '.', got {short(slug)}")
    if clash := further.keys() & {"slug", "scan", "prompt_tokens", "schema_version"}:
        raise ValueError(f"metadata may not hold {', '.join(sorted(clash))}: give them as arguments")
    if token_ids is not None and len(token_ids) != len(words):
        raise ValueError(f"token_ids must be one for each of {len(words)} prompt_tokens, got {len(token_ids)}")
    _writable(graph, len(words))
    transcoders = further.setdefault("transcoder_list", [])
    listed = ~graph.of(*LEFT_OUT)
    ids = node_ids(graph, range(len(words)) if token_ids is None else token_ids)
    plain = graph.only(listed)
    targets, table = graph.targets.tolist(), graph.nodes.to_dict("list")
    links, rest = [], []
    kept = graph.edges != 0
    for (row, node), weight in zip(kept.nonzero().tolist(), graph.edges[kept].tolist(), strict=True):
        if listed[node] and listed[targets[row]]:
            links.append({"source": ids[node], "target": ids[targets[row]], "weight": weight})
        else:
            rest.append([row, node, weight])
    value = {
        "metadata": {
            "slug": slug,
            "scan": scan if scan is not None else f"custom-{lineage.fingerprint(transcoders)}",
            "prompt_tokens": words,
            "prompt": "".join(words),
            "node_threshold": 0.8,
            "schema_version": 1,
            **further,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": _entries(plain, [i for i in ids if i is not None], words),
        "links": links,
    }
    if strict:
        return value
    return value | {
        KEY: {
            "version": VERSION,
            "nodes": {column: table[column] for column in COLUMNS},
            "ids": ids,
            "targets": targets,
            "weights": graph.weights.tolist(),
            "dtype": str(graph.edges.dtype).removeprefix("torch."),
            "links": rest,
        }
    }


def from_json(value: Any) -> Graph:
    """The graph of a front-end's JSON. With the key `workbench`, exactly the graph that was written.

    Without it: targets are the nodes with incoming links, weights are `token_prob` (or the p of the label) of logits,
    values are `activation`, 0 where the file has none, so rows do not add up; edges are float64; logits lie one layer
    above the rest, where Neuronpedia puts them (files say either L or L + 1). Latents are known by their id, else by
    `feature`, Cantor-coded or plain. A `feature_type` with `error` or `bias` in it is that, an unknown one a latent.
    As in the front-ends, links of nodes that are not listed do not count. With the key `workbench` they are errors, and
    labels and numbers of `nodes` do not count.
    Raises ValueError, one line, for anything else: ids that repeat, numbers that are not finite, cycles.
    """
    top = _object(value, "the file")
    nodes, links = (_list(_get(top, key, "the file"), key) for key in ("nodes", "links"))
    about = _object(top.get("metadata", {}), "metadata")
    words = [_text(w, "a prompt token") for w in _list(about.get("prompt_tokens", []), "prompt_tokens")]
    ids = [_text(_get(_object(n, "a node"), "node_id", "a node"), "node_id") for n in nodes]
    if not ids:
        raise ValueError("nodes is empty: a graph has at least one")
    if repeated := [i for i, count in Counter(ids).items() if count > 1]:
        raise ValueError(
            f"{short(repeated[0])} is the id of two nodes (in circuit-tracer's files an error may share a latent's): "
            "their links cannot be told apart, rename one"
        )
    read_links = [_link(link) for link in links]
    if KEY in top:
        return _exact(_object(top[KEY], KEY), ids, read_links)
    found = [_node(n, words, about.get("schema_version") == 1) for n in nodes]
    layers = 1 + max((n.layer for n in found if n.kind != "logit"), default=-1)
    found = [n._replace(layer=layers) if n.kind == "logit" else n for n in found]
    place = {name: i for i, name in enumerate(ids)}
    inner = [
        (place[target], place[source], w) for target, source, w in read_links if target in place and source in place
    ]
    targets = sorted({target for target, _, _ in inner})
    row = {node: i for i, node in enumerate(targets)}
    return _graph(
        [n._asdict() for n in found],
        [(row[target], source, w) for target, source, w in inner],
        targets,
        [found[t].weight for t in targets],
        torch.float64,
    )


# ---- writing


def _writable(graph: Graph, count: int) -> None:
    table = graph.nodes
    if tuple(table.columns) != COLUMNS:
        raise ValueError(f"nodes must have the columns {', '.join(COLUMNS)}, got {', '.join(map(str, table.columns))}")
    if not len(table):
        raise ValueError("the graph has no nodes: nothing to write")
    if len(set(graph.targets.tolist())) < len(graph.targets):
        raise ValueError("two rows are of one target: a file has links between nodes, keep one row of each")
    if graph.edges.dtype != graph.weights.dtype or graph.edges.dtype not in DTYPES.values():
        raise ValueError(
            f"edges and weights must be of one float dtype, got {graph.edges.dtype} and {graph.weights.dtype}"
        )
    for name, finite in (
        ("edges", graph.edges.isfinite().all()),
        ("weights", graph.weights.isfinite().all()),
        ("values", all(map(math.isfinite, table["value"]))),
    ):
        if not finite:
            raise ValueError(f"{name} must be finite numbers: JSON has no others")
    if wrong := [c for c in ("layer", "pos", "latent") if table[c].dtype.kind != "i"]:
        raise ValueError(f"{', '.join(wrong)} of nodes must be whole numbers, got {table[wrong[0]].dtype}")
    for node in _each(graph):
        _text(node.label, "the label of a node")
        if node.kind not in KINDS:
            raise ValueError(f"kinds are {', '.join(KINDS)}, got {short(node.kind)}")
        if node.kind in LEFT_OUT:
            continue
        if not 0 <= node.pos < count:
            raise ValueError(f"{short(node.label)} is at position {node.pos}, prompt_tokens has {count}: give them all")
        if node.kind != "token" and node.layer < 0 or node.kind == "latent" and node.latent < 0:
            raise ValueError(
                f"{short(node.label)} ({node.kind}) has layer {node.layer} and latent {node.latent}: 0 or more"
            )


def _each(graph: Graph) -> list[Any]:
    """The nodes, their columns as attributes."""
    return list(graph.nodes.itertuples())


def node_ids(graph: Graph, tokens: Sequence[int]) -> list[str | None]:
    """A name for each node that the front-ends know, no two the same."""
    seen: Counter[str] = Counter()
    found: list[str | None] = []
    logit = 0
    for node in _each(graph):
        if node.kind in LEFT_OUT:
            found.append(None)
            continue
        if node.kind == "latent":
            name = f"{node.layer}_{node.latent}_{node.pos}"
        elif node.kind == "error":
            name = f"err_{node.layer}_{node.pos}"
        elif node.kind == "token":
            name = f"E_{tokens[node.pos]}_{node.pos}"
        else:
            name = f"{node.layer + 1}_{_vocab(node, logit)}_{node.pos}"
            logit += 1
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found


def _vocab(node: Any, number: int) -> int:
    """A logit's token; a number where it is none, as of a difference of logits."""
    return int(node.latent) if node.latent >= 0 else number


def _entries(plain: Graph, ids: Sequence[str], words: Sequence[str]) -> list[dict[str, Any]]:
    shares, found, logit = _cumulative(plain), [], 0
    weights = dict(zip(plain.targets.tolist(), plain.weights.tolist(), strict=True))
    best = max((w for w in weights.values() if w > 0), default=None)
    for i, (node, name) in enumerate(zip(_each(plain), ids, strict=True)):
        weight, clerp, influence = 0.0, node.label, shares[i]
        if node.kind == "latent":
            feature, code = cantor(int(node.layer), int(node.latent)), f"{node.layer}_{node.latent}-0"
        elif node.kind == "error":
            feature, code = -1, f"err_{node.layer}_{node.pos}-0"
        elif node.kind == "token":
            feature, code, clerp = int(node.pos), f"{name.rsplit('_', 1)[0]}-{node.pos}", words[node.pos]
        else:
            feature, weight, influence = _vocab(node, logit), weights.get(i, 0.0), None
            code, logit = f"L_{feature}-{node.pos}", logit + 1
            said = m[2] if (m := WORD.fullmatch(clerp)) else clerp
            clerp = f'Output "{said}" (p={weight:.3f})'  # Neuronpedia fails on a logit without "(p="
        found.append(
            {
                "node_id": name,
                "feature": feature,
                "layer": "E" if node.kind == "token" else str(node.layer + (node.kind == "logit")),
                "ctx_idx": int(node.pos),
                "feature_type": TYPES[node.kind],
                "token_prob": weight,
                "is_target_logit": node.kind == "logit" and weight == best,
                "run_idx": 0,
                "reverse_ctx_idx": 0,
                "jsNodeId": code,
                "clerp": clerp,
                "influence": influence,
                "activation": float(node.value) if node.kind == "latent" else None,
            }
        )
    return found


def _cumulative(graph: Graph) -> list[float | None]:
    found = graph.influence().double()
    order = found.argsort(descending=True, stable=True)
    total = found[order].cumsum(0)
    if not len(total) or total[-1] <= 0:
        return [None] * len(found)
    shares = torch.empty_like(found)
    shares[order] = total / total[-1]  # ends at 1 exactly: a slider at 1 shows all
    return shares.tolist()


def cantor(layer: int, latent: int) -> int:
    """One number for a pair: (l + f)(l + f + 1) / 2 + f."""
    return (layer + latent) * (layer + latent + 1) // 2 + latent


def uncantor(feature: int) -> tuple[int, int]:
    """The pair of layer and latent of a number."""
    diagonal = (math.isqrt(8 * feature + 1) - 1) // 2
    latent = feature - diagonal * (diagonal + 1) // 2
    return diagonal - latent, latent


# ---- reading


class _Node(NamedTuple):
    kind: str
    layer: int
    pos: int
    latent: int
    value: float
    label: str
    weight: float


def _node(entry: dict[str, Any], words: Sequence[str], coded: bool) -> _Node:
    where = f"node {short(entry['node_id'])}"
    said = _text(_get(entry, "feature_type", where), f"feature_type of {where}")
    kind = next((k for k, t in TYPES.items() if t == said), None) or next(
        (k for k in ("error", "bias") if k in said), "latent"
    )
    pos = _whole(_get(entry, "ctx_idx", where), f"ctx_idx of {where}", 2**31)
    clerp = _text("" if entry.get("clerp") is None else entry["clerp"], f"clerp of {where}")
    value = _number(0.0 if entry.get("activation") is None else entry["activation"], f"activation of {where}")
    if kind == "token":
        return _Node(kind, -1, pos, -1, value, words[pos] if pos < len(words) else clerp, 0.0)
    if kind == "logit":
        feature = entry.get("feature")
        token = -1 if feature in (None, -1) else _whole(feature, f"feature of {where}", TOP)
        chance = entry.get("token_prob")
        if chance is None:
            chance = float(m[1]) if (m := CHANCE.search(clerp)) else 0.0
        return _Node(kind, 0, pos, token, value, clerp, _number(chance, f"token_prob of {where}"))
    layer = _get(entry, "layer", where)
    if isinstance(layer, str) and re.fullmatch(r"\d{1,9}", layer, re.ASCII):
        layer = int(layer)
    layer = _whole(layer, f"layer of {where}", 2**31)
    if kind != "latent":
        return _Node(kind, layer, pos, -1, value, clerp or f"{kind} {layer} at {pos}", 0.0)
    if (m := LATENT_ID.fullmatch(entry["node_id"])) and (int(m[1]), int(m[3])) == (layer, pos):
        latent = int(m[2])
    else:
        latent = _whole(_get(entry, "feature", where), f"feature of {where}", 2**63)
        if coded and uncantor(latent)[0] == layer:
            latent = uncantor(latent)[1]
    name = f"{layer}/{latent} at {pos}"
    return _Node(kind, layer, pos, latent, value, clerp or (name if said == TYPES[kind] else f"{said} {name}"), 0.0)


def _link(link: Any) -> tuple[str, str, float]:
    link = _object(link, "a link")
    target, source = (_text(_get(link, key, "a link"), f"{key} of a link") for key in ("target", "source"))
    try:
        return target, source, _number(_get(link, "weight", "it"), "weight")
    except ValueError as error:
        raise ValueError(f"link {short(source)} -> {short(target)}: {error}") from None


def _exact(more: dict[str, Any], listed: Sequence[str], links: Sequence[tuple[str, str, float]]) -> Graph:
    """What `to_json` wrote. Raises ValueError where the two parts of the file do not fit."""
    if _get(more, "version", KEY) != VERSION:
        raise ValueError(f"{KEY} has version {short(more['version'])}, this reads {VERSION}: update the workbench")
    table = _object(_get(more, "nodes", KEY), f"{KEY}.nodes")
    if set(table) != set(COLUMNS):
        raise ValueError(f"{KEY}.nodes must have the columns {', '.join(COLUMNS)}, got {short(sorted(table))}")
    columns = {name: _list(table[name], f"{KEY}.nodes.{name}") for name in COLUMNS}
    names = _list(_get(more, "ids", KEY), f"{KEY}.ids")
    if len({len(names), *map(len, columns.values())}) > 1:
        raise ValueError(f"{KEY}.ids and the columns of {KEY}.nodes must be of one length: the file is damaged")
    place = {_text(name, f"{KEY}.ids"): i for i, name in enumerate(names) if name is not None}
    if sorted(name for name in names if name is not None) != sorted(listed):
        raise ValueError(
            f"nodes and {KEY}.ids name different nodes: delete the key {KEY} to read nodes and links alone"
        )
    for name in ("layer", "pos", "latent"):
        for number in columns[name]:
            _whole(number, f"{KEY}.nodes.{name}", TOP, -TOP)
    for kind, value, label in zip(columns["kind"], columns["value"], columns["label"], strict=True):
        if kind not in KINDS:
            raise ValueError(f"{KEY}.nodes.kind must be of {', '.join(KINDS)}, got {short(kind)}")
        _number(value, f"{KEY}.nodes.value")
        _text(label, f"{KEY}.nodes.label")
    targets = [_whole(t, f"{KEY}.targets", len(names)) for t in _list(_get(more, "targets", KEY), f"{KEY}.targets")]
    weights = [_number(w, f"{KEY}.weights") for w in _list(_get(more, "weights", KEY), f"{KEY}.weights")]
    if len(set(targets)) < len(targets) or len(weights) != len(targets):
        raise ValueError(f"{KEY} must have one weight for each target, and no target twice: the file is damaged")
    dtype = _text(_get(more, "dtype", KEY), f"{KEY}.dtype")
    if dtype not in DTYPES:
        raise ValueError(f"{KEY}.dtype must be of {', '.join(DTYPES)}, got {short(dtype)}")
    row, terms = {node: i for i, node in enumerate(targets)}, []
    for target, source, weight in links:
        if source not in place or place.get(target) not in row:
            raise ValueError(f"link {short(source)} -> {short(target)} does not join a node to a target of {KEY}")
        terms.append((row[place[target]], place[source], weight))
    for link in _list(_get(more, "links", KEY), f"{KEY}.links"):
        if not isinstance(link, list) or len(link) != 3:
            raise ValueError(f"{KEY}.links must be [row, node, weight], got {short(link)}")
        to, node = (_whole(n, f"{KEY}.links", size) for n, size in zip(link, (len(targets), len(names)), strict=False))
        terms.append((to, node, _number(link[2], f"{KEY}.links")))
    rows: list[dict[str, Any]] = [dict(zip(COLUMNS, v, strict=True)) for v in zip(*columns.values(), strict=True)]
    return _graph(rows, terms, targets, weights, DTYPES[dtype])


def _graph(
    rows: Sequence[dict[str, Any]],
    terms: Sequence[tuple[int, int, float]],
    targets: Sequence[int],
    weights: Sequence[float],
    dtype: torch.dtype,
) -> Graph:
    if len(targets) * len(rows) > LARGEST:
        raise ValueError(f"{len(targets)} targets of {len(rows)} nodes do not fit in memory: prune the graph first")
    sources: dict[int, set[int]] = {t: set() for t in targets}
    if repeated := [pair for pair, count in Counter((to, node) for to, node, _ in terms).items() if count > 1]:
        to, node = (rows[i]["label"] for i in (targets[repeated[0][0]], repeated[0][1]))
        raise ValueError(f"{short(node)} -> {short(to)} is linked twice: write the sum")
    for to, node, weight in terms:
        if weight:
            sources[targets[to]].add(node)
    try:
        TopologicalSorter(sources).prepare()
    except CycleError as error:
        raise ValueError(f"the graph has a cycle through {short(rows[error.args[1][0]]['label'])}") from None
    edges = torch.zeros(len(targets), len(rows), dtype=dtype)
    if terms:
        to, node, weight = zip(*terms, strict=True)
        edges[list(to), list(node)] = torch.tensor(weight, dtype=dtype)
    counts = torch.tensor(weights, dtype=dtype)
    if not (edges.isfinite().all() and counts.isfinite().all()):
        raise ValueError(f"links and weights must be finite as {dtype}: the file is damaged")
    return Graph(frame(rows), edges, torch.tensor(targets, dtype=torch.int64), counts)


def short(value: Any) -> str:
    """At most 80 characters of it, in one line."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _get(value: dict[str, Any], key: str, where: str) -> Any:
    if key not in value:
        raise ValueError(f"{where} has no {key}")
    return value[key]


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, got {short(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list, got {short(value)}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or SURROGATE.search(value):
        raise ValueError(f"{what} must be text, got {short(value)}")
    return value


def _whole(value: Any, what: str, below: int, start: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not start <= value < below:
        raise ValueError(f"{what} must be a whole number from {start} to below {below}, got {short(value)}")
    return value


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
        raise ValueError(f"{what} must be a finite number, got {short(value)}")
    if isinstance(value, int) and abs(value) > TOP:
        raise ValueError(f"{what} must be within 2**53 where it is whole, got {short(value)}")
    return float(value)

"""A graph drawn: positions from left to right, layers from the bottom up, tokens below and targets on top."""

from typing import TYPE_CHECKING, Any

import torch

from .graph import KINDS, Graph

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LOOKS = {  # kind -> colour, symbol
    "latent": ("#3f6fb5", "circle"), "error": ("#9aa3ad", "diamond"), "token": ("#4d8f5b", "square"),
    "bias": ("#b79a4b", "cross"), "unexplored": ("#c8c8c8", "circle-open"), "logit": ("#c2703d", "star"),
}  # fmt: skip
SIGNS = {1: ("adds", "rgba(63,111,181,.5)"), -1: ("takes away", "rgba(194,112,61,.5)")}
SPREAD = 0.8  # of a column, for the nodes of one layer and position


def figure(graph: Graph, *, edges: int = 150, title: str = "Attribution graph") -> "Figure":
    """The graph, best pruned before, with its `edges` strongest edges by influence: share of the row x of the target.

    Nodes grow with their influence; what has no position stands on the left. Point at a node for its label, value and
    strongest sources.
    """
    import plotly.graph_objects as go

    nodes: Any = graph.nodes
    influence = graph.influence()
    x, y = _places(graph)
    strength = graph.shares() * (influence[graph.targets] + graph.weights)[:, None]
    count = min(edges, int((strength > 0).sum()))
    row, source = torch.unravel_index(strength.flatten().topk(count).indices, strength.shape)
    top = float(strength.max()) if count else 1.0
    made = go.Figure()
    for sign, (name, color) in SIGNS.items():
        for low, width in ((0.3, 4.0), (0.1, 2.0), (0.0, 0.8)):
            high = {0.3: 2.0, 0.1: 0.3, 0.0: 0.1}[low]
            size = strength[row, source] / top
            here = (graph.edges[row, source].sign() == sign) & (size >= low) & (size < high)
            lines: list[list[Any]] = [[], []]
            for r, s in zip(row[here].tolist(), source[here].tolist(), strict=True):
                t = int(graph.targets[r])
                lines[0] += [x[s], x[t], None]
                lines[1] += [y[s], y[t], None]
            made.add_scatter(
                x=lines[0], y=lines[1], mode="lines", line={"color": color, "width": width}, name=name,
                legendgroup=name, showlegend=width == 4.0, hoverinfo="skip",
            )  # fmt: skip
    told = _told(graph)
    for kind in KINDS:
        here = graph.of(kind).nonzero()[:, 0].tolist()
        if not here:
            continue
        color, symbol = LOOKS[kind]
        sizes = [6 + 18 * float(influence[i] / influence.max().clamp_min(1e-30)) ** 0.5 for i in here]
        sizes = [14.0] * len(here) if kind == "logit" else sizes
        made.add_scatter(
            x=[x[i] for i in here], y=[y[i] for i in here], mode="markers", name=kind,
            marker={"color": color, "symbol": symbol, "size": sizes, "line": {"color": "white", "width": 1}},
            customdata=[told[i] for i in here], hovertemplate="%{customdata}<extra></extra>",
        )  # fmt: skip
    tokens = nodes[nodes["kind"] == "token"].drop_duplicates("pos").sort_values("pos")
    made.update_xaxes(
        tickvals=tokens["pos"].tolist(), ticktext=[repr(w)[1:-1] for w in tokens["label"]], tickangle=-40,
        showgrid=False, zeroline=False,
    )  # fmt: skip
    last = int(nodes["layer"].max())
    levels = list(range(0, last, max(1, last // 10)))
    made.update_yaxes(
        title="layer", tickvals=[-1.5, *levels, last + 0.5], ticktext=["tokens", *map(str, levels), "targets"],
        showgrid=False, zeroline=False,
    )  # fmt: skip
    return made.update_layout(title=title, template="plotly_white", height=640, legend={"orientation": "h", "y": -0.2})


def _places(graph: Graph) -> tuple[list[float], list[float]]:
    """Where each node is drawn; nodes of one layer and position side by side."""
    nodes: Any = graph.nodes
    x, y = [], []
    level = {"token": -1.5, "logit": float(nodes["layer"].max()) + 0.5}
    groups = nodes.groupby(["layer", "pos", nodes["kind"].isin(["token", "logit"])], sort=False)
    rank, size = groups.cumcount(), groups["kind"].transform("size")
    for kind, layer, pos, at, of in zip(nodes["kind"], nodes["layer"], nodes["pos"], rank, size, strict=True):
        step = SPREAD / max(of, 4)
        x.append(float(pos) + (at - (of - 1) / 2) * step)
        y.append(level.get(kind, float(layer)))
    return x, y


def _told(graph: Graph) -> list[str]:
    """What is shown of a node: label, value, and where most of it comes from."""
    from ..html import escape

    labels, row = graph.nodes["label"].tolist(), {int(t): i for i, t in enumerate(graph.targets)}
    found = []
    for i, (label, value) in enumerate(zip(labels, graph.nodes["value"], strict=True)):
        lines = [f"<b>{escape(str(label))}</b>", f"value {value:.3g}"]
        if i in row:
            edges = graph.edges[row[i]]
            for source in edges.abs().topk(min(5, len(labels))).indices.tolist():
                if float(edges[source]):
                    lines.append(f"{float(edges[source]):+.3g} from {escape(str(labels[source]))}")
        found.append("<br>".join(lines))
    return found

"""Attribution graph by transcoders: exact in the model whose attention patterns and norm denominators are held.

Ameisen et al. 2025, Circuit Tracing; Lindsey et al. 2025. Ours has nodes for what is constant (biases) and for what the
budget did not visit, so that every row adds up.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from ...dictionary import Dictionary
from ...site import Site
from ...subject import Subject
from ...subject.freeze import Held
from .. import replacement
from ..graph import Graph, frame
from ..targets import LatentTarget, Target, likely

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = 64  # targets of one backward pass
ROOM = 2**29  # bytes of gradients in one backward pass: fewer targets at once for long prompts


def trace(
    subject: Subject,
    prompt: Any,
    transcoders: Mapping[int, Dictionary] | Dictionary,
    targets: Sequence[Target | LatentTarget] | None = None,
    *,
    budget: int | None = None,
    batch: int = AT_ONCE,
    progress: bool = True,
) -> Graph:
    """The graph of one prompt. `targets`: weighted logits at the last position, before any cap on them (the likely ones
    unless given), directions there, or latents (`targets.latent`). `transcoders`: by layer, or a cross-layer one.

    `budget`: how many latents are visited beside targets, those of most influence first; the others' edges go to nodes
    `unexplored`. Layers without a transcoder are one error node per position. With `progress` the memory that it will
    take is estimated before. Raises ValueError for more than one text, and a latent as target that is not on.
    """
    if budget is not None and budget < 1:
        raise ValueError(f"budget is the number of latents to visit, 1 or more, got {budget}")
    return Tracing(subject, prompt, transcoders, targets, batch=batch, progress=progress).graph(budget)


class Tracing:
    """A prompt's held run as a linear function of what its nodes write, and the rows of targets under it.

    Columns of a row: active latents, errors by (layer, pos), tokens, the decoder biases by layer, the model's biases
    and the encoder's, then the targets themselves. Places of `rows` and `values`: active latents, then targets.
    """

    def __init__(
        self,
        subject: Subject,
        prompt: Any,
        transcoders: Mapping[int, Dictionary] | Dictionary,
        targets: Sequence[Target | LatentTarget] | None = None,
        *,
        batch: int = AT_ONCE,
        progress: bool = True,
    ):
        if subject.plan.unembed is None or not subject.layers:
            raise ValueError(f"a graph ends in logits: {subject.name} has no layers and unembedding that were found")
        tokens = subject.tokens(prompt)
        if len(tokens.ids) != 1:
            raise ValueError(f"a graph is of one text, got {len(tokens.ids)}: trace them one by one")
        self.subject, self.tokens, self.progress = subject, tokens, progress
        self.held, self.layers, self.count = Held(subject, tokens), range(subject.layers), tokens.ids.shape[1]
        self.embed, self.out = Site(None, "embed"), Site(None, f"{subject.plan.unembed}:in")
        self.writes = [Site(layer, "mlp_out") for layer in self.layers]
        self.reads = [Site(layer, "mlp_in") for layer in self.layers]
        unembed = subject._modules[subject.plan.unembed]
        with torch.no_grad():
            clean = self.held.run({}, [self.embed, *self.reads, *self.writes, self.out]).h
        self.ends = clean[self.out][0, -1].detach().requires_grad_()
        logits = unembed(self.ends)
        given = list(targets) if targets is not None else likely(subject, logits.detach())
        if not given:
            raise ValueError("no target: give one or more, or None for the likely next tokens")
        self.goals = [target for target in given if isinstance(target, Target)]
        goal = [target.value(logits, self.ends) for target in self.goals]
        towards = [torch.autograd.grad(one, self.ends, retain_graph=True)[0] for one in goal]
        self.towards = torch.stack(towards) if towards else self.ends.new_zeros(0, len(self.ends))
        self.keep = subject.exclusion.by_token(tokens, subject.special_ids)[0]
        self.inputs = {layer: clean[self.reads[layer]][0] for layer in self.layers}
        self.active, self.written = replacement.put(transcoders, self.inputs, self.keep)
        self.words = clean[self.embed][0]
        self.batch = max(1, min(batch, ROOM // (4 * self.words.numel() * (subject.layers + 1))))
        with torch.no_grad():
            self.left = {i: clean[self.writes[i]][0] - self._stands_in(i, self.inputs[i]) for i in self.layers}
        self._linear(clean)
        self.values = torch.cat([self.active.pre, *(one.detach()[None] for one in goal)])
        self.starts = self._starts()
        self.columns = self.starts["logit"] + len(self.goals)
        n = len(self.active)
        latents = {self.active.place(*t[1:]): t.weight for t in given if isinstance(t, LatentTarget)}
        self.first = torch.tensor([*range(n, n + len(self.goals)), *latents])  # places that have a row whatever comes
        self.weights = self.words.new_zeros(n + len(self.goals))
        self.weights[self.first] = self.weights.new_tensor([*(t.weight for t in self.goals), *latents.values()])

    def _starts(self) -> dict[str, int]:
        """Where each kind's columns begin."""
        sizes = {"latent": len(self.active), "error": len(self.layers) * self.count, "token": self.count}
        sizes |= {"bias": len(self.layers) + 2, "logit": len(self.goals)}
        ends = torch.tensor([0, *sizes.values()]).cumsum(0).tolist()
        return dict(zip(sizes, ends, strict=False))

    def _stands_in(self, layer: int, u: Tensor) -> Tensor:
        """What the replacement writes to a layer, its skip included; nothing where nothing is replaced."""
        if layer not in self.written:
            return torch.zeros_like(self.words)
        w = self.written[layer]
        total = torch.zeros_like(self.words).index_add_(0, self.active.pos[w.by], w.what().to(self.words.dtype))
        total = total + w.bias if w.skip is None else total + w.bias + w.skip(u)
        return total * self.keep[:, None]

    def _linear(self, clean: dict[Site, Tensor]) -> None:
        """The held run as a function of leaves, its graph kept, and what it gives when every leaf is 0."""
        leaves: dict[Site, Tensor] = {self.embed: clean[self.embed].detach().requires_grad_()}

        def write(layer: int, value: Tensor, received: dict[int, Tensor]) -> Any:
            skip = self.written[layer].skip if layer in self.written else None
            if skip is None:
                return value
            return lambda h, at: value + skip(received[layer]) * self.keep[:, None]

        def run(values: dict[Site, Tensor]) -> list[Tensor]:
            """What each layer's MLP receives (pos, d), then what the unembedding receives at the end (d)."""
            received: dict[int, Tensor] = {}
            given: dict[Site, Any] = {self.embed: values[self.embed]}
            for layer in self.layers:
                given[self.reads[layer]] = lambda h, at, layer=layer: received.setdefault(layer, h)
                given[self.writes[layer]] = write(layer, values[self.writes[layer]], received)
            h = self.held.run(given, [*self.reads, self.out]).h
            return [*(h[site][0] for site in self.reads), h[self.out][0, -1]]

        for layer in self.layers:
            value, w = clean[self.writes[layer]].detach(), self.written.get(layer)
            if w is not None and w.skip is not None:
                value = value - w.skip(clean[self.reads[layer]].detach()) * self.keep[:, None]
            leaves[self.writes[layer]] = value.detach().requires_grad_()
        with torch.enable_grad():
            self.graph_of = run(leaves)
        self.leaves = leaves
        with torch.no_grad():
            self.nothing = run({site: torch.zeros_like(leaf) for site, leaf in leaves.items()})

    def rows(self, which: Int[Tensor, " target"]) -> Float[Tensor, "target node"]:
        """The rows of some targets."""
        found = self.words.new_zeros(len(which), self.columns)
        self._fill(found, which)
        return found

    def _fill(self, found: Tensor, which: Tensor) -> None:
        layers = self.layer_of(which)
        for layer in layers.unique().tolist():
            for part in (layers == layer).nonzero()[:, 0].split(self.batch):
                found[part] = self._rows(layer, which[part])

    def layer_of(self, which: Int[Tensor, " target"]) -> Int[Tensor, " target"]:
        """Of latents; of targets the number of layers."""
        n = len(self.active)
        layers = torch.full_like(which, len(self.layers))
        layers[which < n] = self.active.layer[which[which < n]]
        return layers

    def _rows(self, layer: int, which: Tensor) -> Tensor:
        a, n, first = self.active, len(self.active), self.starts
        seen, nothing = self.graph_of[layer], self.nothing[layer]
        pull = seen.new_zeros(len(which), *seen.shape)
        if layer == len(self.layers):
            pull[:] = towards = self.towards[which - n]
            clean = self.ends.detach().expand_as(towards)
            nothing = nothing.expand_as(towards)
        else:
            pos, towards = a.pos[which], a.reads(which).to(pull.dtype)
            pull[torch.arange(len(which)), pos] = towards
            clean, nothing = self.inputs[layer][pos], nothing[pos]
        early = [self.embed, *self.writes[:layer]]
        grads = torch.autograd.grad(
            seen, [self.leaves[s] for s in early], pull, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        row = pull.new_zeros(len(which), self.columns)
        if grads[0] is not None:
            row[:, first["token"] : first["bias"]] = (grads[0][:, 0] * self.words).sum(-1)
        for source, g in zip(self.layers, grads[1:], strict=False):
            if g is None:
                continue
            g = g[:, 0]  # (target, pos, d)
            error = first["error"] + source * self.count
            row[:, error : error + self.count] = torch.einsum("bpd,pd->bp", g, self.left[source])
            if (w := self.written.get(source)) is not None:
                row[:, w.by] += _at(g, a.pos[w.by], w.what().to(g.dtype))
                row[:, first["bias"] + source] = g[:, self.keep].sum(1) @ w.bias.to(g.dtype)
        model, encoder = first["bias"] + len(self.layers), first["bias"] + len(self.layers) + 1
        row[:, model] = (nothing * towards).sum(-1)
        row[:, encoder] = self.values[which].to(row.dtype) - (clean * towards).sum(-1)
        return row.detach()

    def graph(self, budget: int | None = None) -> Graph:
        """All targets' rows and those of the `budget` latents of most influence, found a few at a time."""
        n, first = len(self.active), len(self.first)
        goal = min(n - int((self.first < n).sum()), budget or n)
        self._say(first + goal)
        edges, visited = self.words.new_zeros(first + goal, self.columns), self.first
        self._fill(edges[:first], visited)
        with tqdm(total=goal, desc="latents", disable=not self.progress) as bar:
            while (done := len(visited) - first) < goal:
                value = self.influence(edges[: len(visited)], visited)[:n]
                value[visited[visited < n]] = -1
                count = min(4 * self.batch, goal - done) if budget else goal
                chosen = value.topk(count).indices.sort().values
                self._fill(edges[len(visited) : len(visited) + count], chosen)
                visited = torch.cat([visited, chosen])
                bar.update(count)
        return self.merged(edges, visited)

    def influence(self, edges: Float[Tensor, "target node"], which: Int[Tensor, " target"]) -> Float[Tensor, " node"]:
        """How much of the weighted targets each column makes, over all paths through these rows."""
        layers, column, total = self.layer_of(which), self._column(which), edges.new_zeros(self.columns)
        total[self._column(self.first)] = self.weights[self.first]
        for layer in sorted(set(layers.tolist()), reverse=True):  # a layer's latents do not feed each other
            here = (layers == layer).nonzero()[:, 0]
            size = edges[here].abs()
            total += (total[column[here]] / size.sum(1).clamp_min(1e-30)) @ size
        total[self._column(self.first)] -= self.weights[self.first]
        return total

    def _column(self, which: Int[Tensor, " target"]) -> Int[Tensor, " target"]:
        n = len(self.active)
        return torch.where(which < n, which, which - n + self.starts["logit"])

    def _say(self, rows: int) -> None:
        if not self.progress:
            return
        patterns = sum(p.numel() for p in self.held.patterns.values())
        gradients = 2 * self.batch * self.words.numel() * (len(self.layers) + 1)
        size = 4 * (patterns + gradients + rows * self.columns) / 1e9
        tqdm.write(f"{len(self.active):,} latents are on, {rows:,} rows of {self.columns:,}: about {size:.1f} GB",
                   file=sys.stderr)  # fmt: skip

    def merged(self, edges: Float[Tensor, "target node"], which: Int[Tensor, " target"]) -> Graph:
        """The graph of these rows, all targets among them; latents without a row become a node per layer and pos.

        Raises ValueError when a row does not add up.
        """
        a, n = self.active, len(self.active)
        column = self._column(which)
        seen = torch.zeros(self.columns, dtype=torch.bool)
        seen[column], seen[n:] = True, True
        hidden = (~seen).nonzero()[:, 0]
        groups, member = (a.layer[hidden] * self.count + a.pos[hidden]).unique(return_inverse=True)
        pooled = edges.new_zeros(len(edges), len(groups)).index_add_(1, member, edges[:, hidden])
        number = torch.cumsum(seen.long(), 0) - 1
        return Graph(
            self._table(seen[:n].nonzero()[:, 0], groups),
            torch.cat([edges[:, seen], pooled], 1),
            number[column],
            self.weights[which],
        ).check()

    def _table(self, latents: Tensor, groups: Tensor) -> "pd.DataFrame":
        """Some latents, all other nodes, and those that stand for unvisited latents of a layer and position."""
        a, rows = self.active, []

        def add(kind: str, layer: int, pos: int, latent: int, value: float, label: str) -> None:
            rows.append({"kind": kind, "layer": layer, "pos": pos, "latent": latent, "value": value, "label": label})

        columns = (t[latents].tolist() for t in (a.layer, a.pos, a.latent, a.pre))
        for layer, pos, latent, value in zip(*columns, strict=True):
            add("latent", layer, pos, latent, value, f"{layer}/{latent} at {pos}")
        for layer in self.layers:
            for pos, size in enumerate(self.left[layer].norm(dim=-1).tolist()):
                add("error", layer, pos, -1, size, f"error {layer} at {pos}")
        ids = self.tokens.ids[0]
        words = self.subject.words(ids) if self.subject.tokenizer else ids.tolist()
        for pos, (word, size) in enumerate(zip(words, self.words.norm(dim=-1).tolist(), strict=True)):
            add("token", -1, pos, -1, size, str(word))
        for layer in self.layers:
            add("bias", layer, -1, -1, 1.0, f"decoder bias {layer}")
        add("bias", -1, -1, -1, 1.0, "model's biases")
        add("bias", -1, -1, -1, 1.0, "encoder bias")
        for goal, value in zip(self.goals, self.values[len(a) :].tolist(), strict=True):
            add("logit", len(self.layers), self.count - 1, -1, value, goal.label)
        for group in groups.tolist():
            layer, pos = divmod(group, self.count)
            add("unexplored", layer, pos, -1, 0.0, f"unexplored {layer} at {pos}")
        return frame(rows)


def _at(
    g: Float[Tensor, "target pos d"], pos: Int[Tensor, " m"], what: Float[Tensor, "m d"]
) -> Float[Tensor, "target m"]:
    """<g at each pos, what>, without a gradient for each of m: rows of `what` side by side at their position."""
    counts = torch.bincount(pos, minlength=g.shape[1])
    order = pos.argsort(stable=True)
    slot = torch.empty_like(pos)
    slot[order] = torch.arange(len(pos)) - (counts.cumsum(0) - counts)[pos[order]]
    wide = what.new_zeros(g.shape[1], int(counts.max()) if len(pos) else 0, what.shape[-1])
    wide[pos, slot] = what
    return torch.einsum("bpd,psd->bps", g, wide)[:, pos, slot]

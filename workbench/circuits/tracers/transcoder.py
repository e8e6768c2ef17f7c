"""Attribution graph by transcoders: exact in the model whose attention patterns and norm denominators are held.

Ameisen et al. 2025, Circuit Tracing; Lindsey et al. 2025. Ours has nodes for what is constant (biases) and for what the
budget did not visit, so that every row adds up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ...dictionary import Dictionary
from ...site import Site
from ...subject import Subject
from ...subject.freeze import Held
from .. import replacement
from ..graph import Graph, frame, influence
from ..targets import Target, likely

AT_ONCE = 32  # targets of one backward pass


def trace(
    subject: Subject,
    prompt: Any,
    transcoders: Mapping[int, Dictionary] | Dictionary,
    targets: Sequence[Target] | None = None,
    *,
    budget: int | None = None,
    batch: int = AT_ONCE,
    progress: bool = True,
) -> Graph:
    """The graph of one prompt. `targets`: weighted logits at the last position (the likely ones unless given).

    `budget`: how many latents are visited, those of most influence first; the others' edges go to nodes `unexplored`.
    Layers without a transcoder are one error node per position. Raises ValueError for more than one text.
    """
    tokens = subject.tokens(prompt)
    if len(tokens.ids) != 1:
        raise ValueError(f"a graph is of one text, got {len(tokens.ids)}: trace them one by one")
    if budget is not None and budget < 1:
        raise ValueError(f"budget is the number of latents to visit, 1 or more, got {budget}")
    return _Run(subject, tokens, transcoders, targets, batch, progress).graph(budget)


class _Run:
    def __init__(self, subject: Subject, tokens: Any, transcoders: Any, targets: Any, batch: int, progress: bool):
        self.subject, self.tokens, self.batch, self.progress = subject, tokens, batch, progress
        self.held, self.layers, self.count = Held(subject, tokens), range(subject.layers), tokens.ids.shape[1]
        self.embed = Site(None, "embed")
        self.writes = [Site(layer, "mlp_out") for layer in self.layers]
        self.reads = [Site(layer, "mlp_in") for layer in self.layers]
        self.out = Site(None, f"{subject.plan.unembed}:out")
        with torch.no_grad():
            clean = self.held.run({}, [self.embed, *self.reads, *self.writes, self.out]).h
        logits = clean[self.out][0, -1]
        self.goals = list(targets) if targets is not None else likely(subject, logits)
        self.keep = subject.exclusion.by_token(tokens, subject.special_ids)[0]
        u = {layer: clean[self.reads[layer]][0] for layer in self.layers}
        self.active, self.written = replacement.put(transcoders, u, self.keep)
        self.words = clean[self.embed][0]
        self.left: dict[int, Tensor] = {}
        with torch.no_grad():
            for layer in self.layers:
                self.left[layer] = clean[self.writes[layer]][0] - self._stands_in(layer, u[layer])
        self._linear(clean)
        self.goal = torch.stack([g.of.to(logits.dtype) for g in self.goals])
        self.values = torch.cat([self.active.pre, self.goal @ logits])
        self.table = self._nodes()

    def _stands_in(self, layer: int, u: Tensor) -> Tensor:
        """What the replacement writes to a layer, its skip included; nothing where nothing is replaced."""
        if layer not in self.written:
            return torch.zeros_like(self.words)
        w = self.written[layer]
        total = torch.zeros_like(self.words).index_add_(0, self.active.pos[w.by], w.what.to(self.words.dtype))
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

        def run(values: dict[Site, Tensor]) -> dict[Site, Tensor]:
            received: dict[int, Tensor] = {}
            given: dict[Site, Any] = {self.embed: values[self.embed]}
            for layer in self.layers:
                given[self.reads[layer]] = lambda h, at, layer=layer: received.setdefault(layer, h)
                given[self.writes[layer]] = write(layer, values[self.writes[layer]], received)
            return self.held.run(given, [*self.reads, self.out]).h

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

    def _nodes(self) -> list[dict[str, Any]]:
        a = self.active
        rows = [
            {
                "kind": "latent",
                "layer": layer,
                "pos": pos,
                "latent": latent,
                "value": value,
                "label": f"{layer}/{latent} at {pos}",
            }
            for layer, pos, latent, value in zip(*(t.tolist() for t in (a.layer, a.pos, a.latent, a.pre)), strict=True)
        ]
        size = {layer: self.left[layer].norm(dim=-1).tolist() for layer in self.layers}
        rows += [
            {
                "kind": "error",
                "layer": layer,
                "pos": pos,
                "latent": -1,
                "value": size[layer][pos],
                "label": f"error {layer} at {pos}",
            }
            for layer in self.layers
            for pos in range(self.count)
        ]
        words = self.subject.words(self.tokens.ids[0]) if self.subject.tokenizer else self.tokens.ids[0].tolist()
        rows += [
            {
                "kind": "token",
                "layer": -1,
                "pos": pos,
                "latent": -1,
                "value": float(self.words[pos].norm()),
                "label": str(word),
            }
            for pos, word in enumerate(words)
        ]
        names = [*(f"decoder bias {layer}" for layer in self.layers), "model's biases", "encoder bias"]
        at = [*self.layers, -1, -1]
        rows += [
            {"kind": "bias", "layer": layer, "pos": -1, "latent": -1, "value": 1.0, "label": name}
            for layer, name in zip(at, names, strict=True)
        ]
        rows += [
            {
                "kind": "logit",
                "layer": len(self.layers),
                "pos": self.count - 1,
                "latent": -1,
                "value": value,
                "label": goal.label,
            }
            for goal, value in zip(self.goals, self.values[len(a) :].tolist(), strict=True)
        ]
        return rows

    def rows(self, which: Tensor) -> Float[Tensor, "target node"]:
        """The rows of some targets: places among latents, then logits."""
        found = torch.zeros(len(which), len(self.table), dtype=self.words.dtype)
        n = len(self.active)
        layer = torch.where(which < n, self.active.layer[which.clamp_max(max(n - 1, 0))] if n else 0, len(self.layers))
        for at in layer.unique().tolist():
            places = (layer == at).nonzero()[:, 0]
            for part in places.split(self.batch):
                found[part] = self._rows(at, which[part])
        return found

    def _rows(self, layer: int, which: Tensor) -> Tensor:
        a, n, last = self.active, len(self.active), layer == len(self.layers)
        seen = self.graph_of[self.out] if last else self.graph_of[self.reads[layer]]
        pull = seen.new_zeros(len(which), *seen.shape)
        if last:
            pull[:, 0, -1] = self.goal[which - n].to(pull.dtype)
            constant = (self.nothing[self.out][0, -1] * self.goal[which - n]).sum(-1)
            encoder = torch.zeros_like(constant)
        else:
            pull[torch.arange(len(which)), 0, a.pos[which]] = a.reads[which].to(pull.dtype)
            constant = (self.nothing[self.reads[layer]][0, a.pos[which]] * a.reads[which]).sum(-1)
            encoder = a.constant[which]
        early = [self.embed, *self.writes[:layer]]
        grads = torch.autograd.grad(
            seen, [self.leaves[s] for s in early], pull, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        row = pull.new_zeros(len(which), len(self.table))
        errors, tokens = n, n + len(self.layers) * self.count
        biases = tokens + self.count
        if grads[0] is not None:
            row[:, tokens : tokens + self.count] = (grads[0][:, 0] * self.words).sum(-1)
        for source, g in zip(self.layers, grads[1:], strict=False):
            if g is None:
                continue
            g = g[:, 0]  # (target, pos, d)
            row[:, errors + source * self.count : errors + (source + 1) * self.count] = (g * self.left[source]).sum(-1)
            if (w := self.written.get(source)) is not None:
                row[:, w.by] += torch.einsum("bmd,md->bm", g[:, a.pos[w.by]], w.what.to(g.dtype))
                row[:, biases + source] = g[:, self.keep].sum(1) @ w.bias.to(g.dtype)
        row[:, biases + len(self.layers)] = constant
        row[:, biases + len(self.layers) + 1] = encoder
        return row.detach()

    def graph(self, budget: int | None) -> Graph:
        n, logits = len(self.active), len(self.goals)
        node = torch.cat([torch.arange(n), torch.arange(len(self.table) - logits, len(self.table))])
        weights = torch.tensor([g.weight for g in self.goals])
        visited = torch.arange(n, n + logits)
        edges = self.rows(visited)
        goal, done = min(n, budget or n), 0
        bar = tqdm(total=goal, desc="latents", disable=not self.progress)
        while done < goal:
            shares = edges.abs() / edges.abs().sum(1, keepdim=True).clamp_min(1e-30)
            start = torch.cat([weights, torch.zeros(len(visited) - logits)])
            value = influence(shares, node[visited], start.to(shares.dtype), len(self.table))[:n]
            value[visited[visited < n]] = -1
            count = min(4 * self.batch, goal - done) if budget else n
            chosen = value.topk(count).indices.sort().values
            edges, visited = torch.cat([edges, self.rows(chosen)]), torch.cat([visited, chosen])
            done += count
            bar.update(count)
        bar.close()
        return self._merged(edges, node[visited], torch.cat([weights, torch.zeros(len(visited) - logits)]))

    def _merged(self, edges: Tensor, targets: Tensor, weights: Tensor) -> Graph:
        """Latents that were not visited become one node per layer and position."""
        n, rows = len(self.active), self.table
        seen = torch.zeros(len(rows), dtype=torch.bool)
        seen[targets], seen[n:] = True, True
        hidden = (~seen).nonzero()[:, 0]
        place = self.active.layer[hidden] * self.count + self.active.pos[hidden] if len(hidden) else hidden
        groups, member = place.unique(return_inverse=True)
        pooled = edges.new_zeros(len(edges), len(groups)).index_add_(1, member, edges[:, hidden])
        extra = [
            {"kind": "unexplored", "layer": g // self.count, "pos": g % self.count, "latent": -1, "value": 0.0,
             "label": f"unexplored {g // self.count} at {g % self.count}"}
            for g in groups.tolist()
        ]  # fmt: skip
        number = torch.cumsum(seen.long(), 0) - 1
        table = frame([row for row, keep in zip(rows, seen.tolist(), strict=True) if keep] + extra)
        return Graph(table, torch.cat([edges[:, seen], pooled], 1), number[targets], weights.to(edges.dtype))

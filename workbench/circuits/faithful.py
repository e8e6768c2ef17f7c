"""Is a graph right? What it predicts for an intervention, beside what the model does."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..dictionary import Dictionary
from ..site import Site
from ..subject import Subject
from ..subject.freeze import Held
from . import replacement
from .graph import Graph
from .targets import LatentTarget, Target

if TYPE_CHECKING:
    import pandas as pd


def predicted(graph: Graph) -> Float[Tensor, "logit node"]:
    """What each weighted target loses when a node is taken away, over all paths: the signed (I - A)^-1.

    A latent that gets x less of its pre-activation passes on x / pre-activation less of what it writes.
    """
    aims = (graph.weights > 0).nonzero()[:, 0]
    values, total = graph.values, torch.zeros(len(aims), len(graph.nodes), dtype=graph.edges.dtype)
    passes = graph.of("latent")[graph.targets]
    at = torch.zeros(len(aims), len(graph.targets), dtype=graph.edges.dtype)
    at[torch.arange(len(aims)), aims] = 1
    for _ in range(len(graph.nodes) + 1):
        step = at @ graph.edges
        if not step.any():
            return total
        total += step
        at = torch.where(passes, step[:, graph.targets] / values, 0)
    raise ValueError("the graph has a cycle: a node feeds one that feeds it")


@torch.no_grad()
def observed(
    subject: Subject,
    prompt: Any,
    transcoders: Mapping[int, Dictionary] | Dictionary,
    graph: Graph,
    nodes: Sequence[int],
    targets: Sequence[Target | LatentTarget],
    *,
    frozen: bool = True,
    factor: float = 0.0,
) -> Float[Tensor, "logit node"]:
    """What each target loses in the model itself when a latent's writing is multiplied by `factor`, one run for each.

    MLPs are the model's own and react; attention patterns are held when `frozen`, norms never. Divided by 1 - factor,
    so that it compares with `predicted`; a target that is a latent by what it reads. Raises ValueError for nodes that
    are no latents, and latents that are not on.
    """
    if factor == 1:
        raise ValueError("factor=1 changes nothing: give another, 0 takes the latent away")
    held, layers = Held(subject, prompt), range(subject.layers)
    keep = subject.exclusion.by_token(held.tokens, subject.special_ids)[0]
    ends = [Site(None, f"{subject.plan.unembed}:{side}") for side in ("in", "out")]
    inputs = [Site(layer, "mlp_in") for layer in layers]
    clean = held.run({}, [*inputs, *ends]).h
    active, written = replacement.put(transcoders, {i: clean[inputs[i]][0] for i in layers}, keep)

    def values(h: Mapping[Site, Tensor]) -> Tensor:
        x, logits = (h[end][0, -1] for end in ends)
        found = []
        for target in targets:
            if isinstance(target, Target):
                found.append(target.value(logits, x))
            else:
                reads = active.reads(torch.tensor([active.place(*target[1:])]))[0]
                found.append(reads @ h[inputs[target.layer]][0, target.pos].to(reads.dtype))
        return torch.stack(found)

    before, lost = values(clean), []
    for node in nodes:
        row = graph.nodes.iloc[node]
        if row["kind"] != "latent":
            raise ValueError(f"only latents are intervened on, node {node} is {row['kind']}: {row['label']}")
        one = active.place(int(row["layer"]), int(row["pos"]), int(row["latent"]))
        edits = {}
        for layer, w in written.items():
            change = (factor - 1) * w.what()[w.by == one].sum(0)
            if change.any():
                edits[Site(layer, "mlp_out")] = _adds(int(row["pos"]), change)
        read = [*inputs, *ends]
        run = held.run(edits, read, norms=False) if frozen else subject._run(held.tokens, edits, read, grad=True)
        lost.append((before - values(run.h)) / (1 - factor))
    return torch.stack(lost, 1)


def agreement(
    predicted: Sequence[Float[Tensor, " node"]],
    observed: Sequence[Float[Tensor, " node"]],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> "pd.DataFrame":
    """Do nodes do what their graphs say? Both by prompt; columns metric, value, low, high, direction, chance, n.

    `sign`: share of nodes that move the target the predicted way, its chance the share of the commoner observed sign;
    `rank`: Spearman's correlation, chance 0. Means over prompts, 95 % intervals by resampling the nodes of each.
    Raises ValueError for prompts of unequal numbers of nodes on the two sides, or fewer than three.
    """
    import numpy as np
    import pandas as pd
    from scipy.stats import rankdata

    def rank(p: Any, o: Any) -> float:
        a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (p, o))
        return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))  # 0 where one side is all alike

    pairs = [(p.double().numpy(), o.double().numpy()) for p, o in zip(predicted, observed, strict=True)]
    if wrong := [(len(p), len(o)) for p, o in pairs if len(p) != len(o) or len(p) < 3] or not pairs:
        raise ValueError(f"as many predicted as observed, three nodes a prompt or more, are wanted, got {wrong}")
    ways = {
        "sign": lambda p, o: float((np.sign(p) == np.sign(o)).mean()),
        "rank": rank,
    }
    chance = {"sign": float(np.mean([max((o > 0).mean(), (o < 0).mean()) for _, o in pairs])), "rank": 0.0}
    rng, rows = np.random.default_rng(seed), []
    picks = [[rng.integers(len(p), size=len(p)) for p, _ in pairs] for _ in range(resamples)]
    for name, way in ways.items():
        drawn = [np.mean([way(p[i], o[i]) for (p, o), i in zip(pairs, some, strict=True)]) for some in picks]
        low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
        rows.append({"metric": name, "value": float(np.mean([way(p, o) for p, o in pairs])), "low": low, "high": high,
                     "direction": "higher", "chance": chance[name], "n": sum(len(p) for p, _ in pairs)})  # fmt: skip
    return pd.DataFrame(rows)


def _adds(pos: int, change: Tensor) -> Any:
    def edit(h: Tensor, at: Any) -> Tensor:
        h = h.clone()
        h[:, pos] += change.to(h.dtype)
        return h

    return edit

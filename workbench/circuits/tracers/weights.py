"""Input-invariant connections, from weights alone: what latents write against what later latents read, and tokens too.

Dunefsky, Chlenski and Nanda 2024, arXiv:2406.11944. Ours names no architecture: it holds the model on one token with
MLPs given, attention closed but for one head, and every norm's denominator 1, and reads the linear map that is left.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...dictionary import Dictionary
from ...site import Site
from ...subject import Subject
from ...subject.freeze import Held

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = 1024  # targets whose weights are made together


def channel(
    subject: Subject, source: Site | str, target: Site | str, *, head: tuple[int, int] | None = None
) -> Float[Tensor, "read write"]:
    """How a vector added at `source` changes the one at `target`: straight along the residual stream, or by one head.

    `head`: (layer, head); only what that head moves from the position it looks at, not what stays in the stream.
    Gains of norms and their removal of the mean are in it; denominators are left out (1), and so is the pattern:
    with those of a prompt it is that prompt's derivative, MLPs and patterns held.
    Raises ValueError where nothing written at the source reaches the target that way.
    """
    source, target = Site.of(source), Site.of(target)
    held = Held(subject, torch.zeros(1, 1, dtype=torch.long))
    held.scales = {path: torch.ones_like(scale) for path, scale in held.scales.items()}
    held.patterns = {path: torch.zeros_like(pattern) for path, pattern in held.patterns.items()}
    if head is None:
        parts = [_jacobian(held, source, target)]
    else:
        layer, number = head
        middle = Site(layer, "attn_out")
        parts = [_jacobian(held, middle, target)]
        pattern = held.patterns[subject.plan.attention[layer]]
        if not 0 <= number < pattern.shape[1]:
            raise ValueError(f"layer {layer} has heads 0 to {pattern.shape[1] - 1}, got {number}")
        pattern[:, number] = 1
        parts.append(_jacobian(held, source, middle))
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        way = "along the residual stream" if head is None else f"through head {head[1]} of layer {head[0]}"
        raise ValueError(f"nothing written at {source} reaches {target} {way}: sources come first, then the head")
    return found[0] if head is None else found[0] @ found[1]


def latents(
    subject: Subject,
    transcoders: Mapping[int, Dictionary] | Dictionary,
    source: int,
    target: int,
    *,
    head: tuple[int, int] | None = None,
    of: Sequence[int] | None = None,
    together: Float[Tensor, "target source"] | None = None,
    count: int = 100,
) -> "pd.DataFrame":
    """The largest weights between latents of two layers: source_layer, source, target_layer, target, weight.

    A weight is the change of the target's pre-activation for one unit of the source's activation, by `channel`. `of`:
    target latents to look at, all unless given. Large weights between latents that are never on together say nothing:
    `together` (all targets by all sources, e.g. the share of tokens with both on; through a head, at the two positions)
    is put beside them and `score`, weight x together, ranks. A cross-layer transcoder's latents write to every layer
    from their own on: their ways are summed.
    Raises ValueError for layers without a transcoder, an encoder that is not linear, a way that does not exist.
    """
    atoms, reads = _writes(transcoders, source), _reads(transcoders, target)
    want = (len(reads), len(atoms[source]))
    if together is not None and tuple(together.shape) != want:
        raise ValueError(f"together must be {want} (target, source), got {tuple(together.shape)}")
    last = target if head is None else head[0]
    ways = [to for to in atoms if to < last] or [source]
    end, chosen = Site(target, "mlp_in"), _chosen(of, len(reads))
    left = torch.cat([_pulled(subject, reads[chosen], Site(to, "mlp_out"), end, head) for to in ways], 1)
    right = torch.cat([atoms[to] for to in ways], 1)
    found = _largest(left, right, None if together is None else together[chosen], count)
    table = {
        "source_layer": source,
        "source": found["source"],
        "target_layer": target,
        "target": chosen[found["target"]],
        **{name: found[name] for name in ("weight", "together", "score") if name in found},
    }
    return _frame(table)


def deembed(
    subject: Subject,
    transcoders: Mapping[int, Dictionary] | Dictionary,
    layer: int,
    *,
    head: tuple[int, int] | None = None,
    of: Sequence[int] | None = None,
    rows: Float[Tensor, "row d"] | None = None,
    count: int = 100,
) -> "pd.DataFrame":
    """Which tokens excite latents of a layer, directly or moved by a head: token, word, latent, weight.

    Largest in size first; a weight is the token's embedding against what the latent reads, by `channel`. `of`: the
    latents to look at, all unless given. `rows`: other vectors of the residual stream in the place of embeddings, e.g.
    `subject.unembed`; position embeddings are left out.
    Raises ValueError as `latents` does.
    """
    reads = _reads(transcoders, layer)
    chosen = _chosen(of, len(reads))
    start = Site(None, "embed")
    if rows is None:
        embedding: Any = subject.model.get_input_embeddings()  # type: ignore[operator]
        start = Site(None, f"{next(p for p, m in subject._modules.items() if m is embedding)}:out")
        with torch.no_grad(), subject.lock:
            rows = embedding(torch.arange(subject.vocab or 0, device=subject.device))
    assert rows is not None
    found = _largest(_pulled(subject, reads[chosen], start, Site(layer, "mlp_in"), head), rows, None, count)
    words = subject.words(found["source"]) if subject.tokenizer else [str(i) for i in found["source"].tolist()]
    latent = chosen[found["target"]]
    return _frame({"token": found["source"], "word": words, "latent": latent, "weight": found["weight"]})


def _jacobian(held: Held, source: Site, target: Site) -> Tensor | None:
    """d target / d source at the one position, MLPs given; None where the target does not depend on the source."""
    subject = held.subject

    def zeros(site: Site) -> Tensor:
        return torch.zeros(1, 1, subject.width(site), dtype=subject.dtype, device=subject.device)

    leaf = zeros(source).requires_grad_()
    given = {site: zeros(site) for site in (Site(layer, "mlp_out") for layer in range(subject.layers))}
    end = Site(None, str(subject.plan.port(target)))  # by its port: what is read is then what the held norm there gives
    with torch.enable_grad():
        y = held.run(given | {source: leaf}, [end]).h[end]
    if not y.requires_grad:
        return None
    each = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)[:, None, None]
    (found,) = torch.autograd.grad(y, leaf, each, allow_unused=True, is_grads_batched=True)
    return None if found is None else found[:, 0, 0]


def _pulled(subject: Subject, reads: Tensor, source: Site, target: Site, head: Any) -> Float[Tensor, "latent d"]:
    """Reading directions as they look to what is written at the source."""
    return reads @ channel(subject, source, target, head=head).to(reads.dtype)


@torch.no_grad()
def _reads(transcoders: Mapping[int, Dictionary] | Dictionary, layer: int) -> Float[Tensor, "latent d"]:
    """d pre-activation / d vector at `mlp_in`, in the model's units, of the latents that read at a layer."""
    dictionary, several = _of(transcoders, layer)
    d, rng = dictionary.shape[-1], torch.Generator().manual_seed(0)
    tried = torch.randn(1, d, generator=rng)
    x = torch.cat([torch.zeros(1, d), torch.eye(d), tried]).to(dictionary.scale_in)
    if several:
        at, x = x, x.new_zeros(len(x), *dictionary.shape)
        x[:, layer] = at
    pre = dictionary.encoder(x * dictionary.scale_in, dictionary.decoder)
    found = pre[1:-1] - pre[0]
    if not torch.allclose(
        tried.to(found) @ found, pre[-1:] - pre[0], rtol=1e-3, atol=1e-4 * float(pre[-1].abs().max())
    ):
        name = type(dictionary.encoder).__name__
        raise ValueError(f"the encoder at layer {layer}, {name}, is not linear: what it reads depends on the input")
    return found.T[_members(dictionary, layer, several)]


@torch.no_grad()
def _writes(transcoders: Mapping[int, Dictionary] | Dictionary, layer: int) -> dict[int, Float[Tensor, "latent d"]]:
    """What a layer's latents write at each layer's `mlp_out`, per unit of activation."""
    dictionary, several = _of(transcoders, layer)
    atoms = dictionary.atoms()[_members(dictionary, layer, several)]
    return {to: atoms[:, to] for to in range(layer, dictionary.shape[0])} if several else {layer: atoms}


def _of(transcoders: Mapping[int, Dictionary] | Dictionary, layer: int) -> tuple[Dictionary, bool]:
    several = isinstance(transcoders, Dictionary)
    there = range(transcoders.shape[0]) if several else sorted(transcoders)
    if layer not in there:
        raise ValueError(f"layer {layer} has no transcoder: there are layers {', '.join(map(str, there))}")
    return (transcoders if several else transcoders[layer]), several  # type: ignore[index, return-value]


def _members(dictionary: Dictionary, layer: int, several: bool) -> slice:
    each = dictionary.latents // dictionary.shape[0] if several else dictionary.latents
    return slice(layer * each, (layer + 1) * each) if several else slice(None)


def _chosen(of: Sequence[int] | None, count: int) -> Int[Tensor, " some"]:
    chosen = torch.arange(count) if of is None else torch.tensor(list(of), dtype=torch.long)
    if not len(chosen) or int(chosen.min()) < 0 or int(chosen.max()) >= count:
        raise ValueError(f"`of` names latents 0 to {count - 1}, one or more, got {chosen.tolist()}")
    return chosen


@torch.no_grad()
def _largest(left: Tensor, right: Tensor, together: Tensor | None, count: int) -> dict[str, Tensor]:
    """The products left x right of largest size, or of largest size times `together`; never all of them at once."""
    if count < 1:
        raise ValueError(f"count is how many to list, 1 or more, got {count}")
    parts = []
    for rows in torch.arange(len(left)).split(AT_ONCE):
        weight = left[rows] @ right.T.to(left)
        score = weight if together is None else weight * together[rows].to(weight)
        top = score.abs().flatten().topk(min(count, score.numel())).indices
        row, source = top // len(right), top % len(right)
        found = {
            "target": rows[row.cpu()],
            "source": source,
            "weight": weight[row, source],
            "score": score[row, source],
        }
        if together is not None:
            found["together"] = together[rows][row.cpu(), source.cpu()]
        parts.append({name: value.cpu() for name, value in found.items()})
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = joined["score"].abs().argsort(descending=True, stable=True)[:count]
    if together is None:
        del joined["score"]
    return {name: value[order] for name, value in joined.items()}


def _frame(columns: Mapping[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame({k: v.numpy() if isinstance(v, Tensor) else v for k, v in columns.items()})

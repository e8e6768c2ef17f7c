"""What attention attends to, what each layer would predict, what each head writes."""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..site import Site
from . import resolve

if TYPE_CHECKING:
    from .core import Subject


def patterns(subject: "Subject", tokens: Any, layer: int) -> Float[Tensor, "text head query key"]:
    """Attention probabilities of one layer, computed by the model's own unfused attention."""
    if not 0 <= layer < len(subject.plan.attention):
        raise ValueError(f"layer must be 0 to {len(subject.plan.attention) - 1}, got {layer}")
    inputs, _ = subject._inputs(tokens)
    with subject.lock, torch.no_grad(), eager(subject):
        with subject._nnsight.trace(**inputs) as tracer:
            output = subject._envoy(subject.plan.attention[layer]).output.save()
            tracer.stop()
        subject._sweep()
    found = [t for t in output if isinstance(t, Tensor) and t.ndim == 4] if isinstance(output, tuple | list) else []
    if not found:
        raise ValueError(f"{subject.plan.attention[layer]} gives no attention probabilities: they stay inside it")
    return found[0].float()


def lens(subject: "Subject", tokens: Any, layers: Sequence[int] | None = None) -> Float[Tensor, "layer text pos vocab"]:
    """Logit lens: every layer's residual stream through the model's head. The last layer gives the model's logits.

    Costs layers x tokens x vocabulary numbers: give `layers` for long texts. Source: nostalgebraist 2020.
    """
    chosen = [Site(layer, "resid") for layer in (range(subject.layers) if layers is None else layers)]
    found = subject.read(tokens, chosen)
    return torch.stack([subject.logits_of(found[site]) for site in chosen])


@torch.no_grad()
def head_effects(
    subject: "Subject", tokens: Any, direction: Float[Tensor, " d"]
) -> Float[Tensor, "text pos layer head"]:
    """What each attention head adds to the logit along `direction`, with all norm denominators frozen.

    `direction` lives where the unembedding reads, e.g. `unembed[a] - unembed[b]`. Direct effects only, before any
    cap or scale of the logits.
    Source: Elhage et al. 2021, direct logit attribution.
    """
    heads = heads_of(subject)
    norm, _ = subject._head()
    if direction.shape != (subject.d,):
        raise ValueError(f"the direction must be ({subject.d},), got {tuple(direction.shape)}")
    last = Site(subject.layers - 1, "resid")
    sites = [Site(layer, s) for layer in range(subject.layers) for s in ("heads", "attn_out")]
    h = subject.read(tokens, [*sites, last])
    gain, centred = frozen(norm, subject.d or 0, subject.dtype, subject.device)
    w = direction.to(subject.device).float() * gain
    w = w - w.mean() if centred else w
    scale = denominator(norm, h[last], gain, centred, subject.dtype)
    effects = []
    for layer in range(subject.layers):
        projection: Any = subject._modules[subject.plan.port(Site(layer, "heads")).path]
        weight = projection.weight.float()
        weight = weight if type(projection).__name__ == "Conv1D" else weight.T  # (in, out)
        out, through, local = subject.plan.port(Site(layer, "attn_out")).path, w, scale
        inner = subject._modules[out]
        if not resolve.has_matrix(inner):  # a norm after attention: its denominator is frozen too
            raw = h[Site(layer, "heads")] @ weight
            raw = raw if projection.bias is None else raw + projection.bias.float()
            own, own_centred = frozen(inner, subject.d or 0, subject.dtype, subject.device)
            through = w * own - (w * own).mean() if own_centred else w * own
            local = scale * denominator(inner, raw, own, own_centred, subject.dtype)
        by_head = (weight @ through).unflatten(0, (heads, -1))  # (head, width)
        each = h[Site(layer, "heads")].unflatten(-1, (heads, -1))
        effects.append(torch.einsum("tphw,hw->tph", each, by_head) * local[..., None])
    return torch.stack(effects, 2)


@contextmanager
def eager(subject: "Subject") -> Any:
    if not hasattr(subject.model, "set_attn_implementation"):
        yield
        return
    old = subject.config._attn_implementation  # type: ignore[union-attr]
    subject.model.set_attn_implementation("eager")  # type: ignore[operator]
    try:
        yield
    finally:
        subject.model.set_attn_implementation(old)  # type: ignore[operator]


def heads_of(subject: "Subject") -> int:
    count = getattr(subject._text_config(), "num_attention_heads", None)
    if count is None or "heads" not in subject.plan.streams:
        raise ValueError(subject.plan.missing("heads"))
    return int(count)


def frozen(norm: nn.Module, d: int, dtype: torch.dtype, device: torch.device) -> tuple[Float[Tensor, " d"], bool]:
    """A norm's gain per entry, and whether it removes the mean; found by trying it on vectors of +1 and -1."""
    with torch.no_grad():
        wide = torch.promote_types(dtype, torch.float32)
        signs = torch.ones(d, device=device, dtype=wide)
        signs[::2] = -1
        if isinstance(norm, nn.Identity):
            return torch.ones(d, device=device), False
        zero = norm(torch.zeros(1, d, dtype=dtype, device=device)).to(wide)[0]
        big = 100 * signs[None].to(dtype)  # large, so that the norm's epsilon does not show
        gain = (norm(big).to(wide)[0] - zero) * signs
        shifted = norm(big + 50).to(wide)[0] - zero
        return gain, bool(torch.allclose(shifted * signs, gain, rtol=1e-2, atol=1e-3))


def denominator(
    norm: nn.Module, x: Float[Tensor, "*row d"], gain: Float[Tensor, " d"], centred: bool, dtype: torch.dtype
) -> Float[Tensor, "*row"]:
    """The factor a norm multiplies each (centred) row by, beside its gain."""
    if isinstance(norm, nn.Identity):
        return torch.ones(x.shape[:-1], device=x.device)
    base = (x - x.mean(-1, keepdim=True) if centred else x) * gain
    out = norm(x.to(dtype)).float() - norm(torch.zeros_like(x).to(dtype)).float()
    return (out * base).sum(-1) / base.square().sum(-1)

"""A prompt's run with attention patterns and norm denominators held: what is left is affine in what is added.

The attention function is registered with transformers, so that any model that looks its attention up there is held,
its own softmax, cap and mask kept; other models by torch's `scaled_dot_product_attention`. A norm is recognised by its
class name and tried out: it must be a gain, a denominator and, for a LayerNorm, the removal of the mean.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..site import Site
from . import inside

if TYPE_CHECKING:
    from .core import Run, Subject

NAME = "workbench_held"
_current: list["Held"] = []  # the one that attends, under its subject's lock


class Compared(NamedTuple):
    """What one layer's heads compare and average, rotary positions applied, keys and values repeated over groups.

    A score, before mask and cap, is `factor` x <query, key>.
    """

    query: Float[Tensor, "text head pos width"]
    key: Float[Tensor, "text head pos width"]
    value: Float[Tensor, "text head pos width_v"]
    factor: float


class Held:
    """One prompt, held. `run` gives what the model would with other vectors at its sites, nothing else changed.

    `patterns` (text, head, query, key) by attention module, or by call where the model is not of transformers; `scales`
    (text, pos, 1) by norm. `run({})` is the model's own run, to rounding. Raises ValueError for a model whose attention
    is neither looked up in transformers nor torch's, and for a norm that is not affine once its denominator is held.
    """

    def __init__(self, subject: "Subject", tokens: Any):
        if subject.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{subject.name} runs in {subject.dtype}, too coarse to be held: Subject(dtype='float32')")
        self.subject, self.tokens = subject, subject.tokens(tokens)
        self.patterns: dict[str, Tensor] = {}
        self.scales: dict[str, Tensor] = {}
        self._compared: dict[str, Compared | None] = {}  # by attention module, for those that are asked for
        self._paths = {id(module): path for path, module in subject._modules.items()}
        self._norms = {
            path: _Affine(module, subject)
            for path, module in subject._modules.items()
            if "norm" in type(module).__name__.lower() and not self._within_attention(path)
        }
        with torch.no_grad():
            self.run({})
        if len(self.patterns) < len(subject.plan.attention):
            raise ValueError(
                f"{len(subject.plan.attention)} layers of {subject.name} attend, {len(self.patterns)} of them by "
                "transformers' registry or torch's scaled_dot_product_attention: it cannot be held"
            )

    def _within_attention(self, path: str) -> bool:
        """Norms of queries and keys make the pattern, which is held whole."""
        return any(path.startswith(attention + ".") for attention in self.subject.plan.attention)

    def run(self, values: Mapping[Site, Any], read: Sequence[Site | str] = (), *, norms: bool = True) -> "Run":
        """Logits and vectors at sites, with their graph under grad mode, given vectors or functions of them at sites.

        Without `norms` only attention is held.
        """
        edits: dict[Site, Callable[..., Tensor]] = {}
        for path, norm in self._norms.items() if norms else ():
            if self._runs(path):
                edits |= self._hold(path, norm)
        for site, value in values.items():
            edit: Any = value if callable(value) else _instead(value)
            place = self._place(site)
            edits[place] = edit if place not in edits else _after(edits[place], edit)
        wanted = {Site.of(s): self._place(Site.of(s)) for s in read}  # by its port: behind what is held or edited there
        with self._attending():
            run = self.subject._run(self.tokens, edits, list(wanted.values()), grad=True)  # in the model's own dtype
        return run._replace(h={site: run.h[place] for site, place in wanted.items()})

    def _place(self, site: Site) -> Site:
        return Site(None, str(self.subject.plan.port(site)))

    def compared(self, layer: int, values: Mapping[Site, Any] | None = None) -> Compared:
        """A layer's queries, keys and values, given vectors at sites, with their graph under grad mode.

        Norms of queries and keys are held too. Raises ValueError for a layer that there is not.
        """
        attention = self.subject.plan.attention
        if not hasattr(self.subject.model, "set_attn_implementation"):
            raise ValueError(f"{self.subject.name} is not of transformers: its queries and keys are not seen")
        if not 0 <= layer < len(attention):
            raise ValueError(f"layer must be 0 to {len(attention) - 1}, got {layer}")
        path = attention[layer]
        norms = {
            name: module
            for name, module in self.subject._modules.items()
            if name.startswith(path + ".") and "norm" in type(module).__name__.lower()
        }

        def hold(name: str, norm: _Affine) -> Callable[..., Tensor]:
            return lambda module, args, y: self._scaled(name, norm, args[0], y)

        hooks = [m.register_forward_hook(hold(name, _Affine(m, self.subject))) for name, m in norms.items()]
        self._compared[path] = None
        try:
            if not norms.keys() <= self.scales.keys():
                with torch.no_grad():
                    self.run({})  # the model's own vectors say the denominators
            self.run(values or {})
            found = self._compared[path]
        finally:
            for hook in hooks:
                hook.remove()
            del self._compared[path]
        assert found is not None
        return found

    def _scaled(self, path: str, norm: "_Affine", x: Tensor, y: Tensor) -> Tensor:
        """A norm with its denominator held; what it gives the first time says the denominator."""
        if path not in self.scales:
            self.scales[path] = norm.scale(x.detach(), y.detach())
            norm.check(path, x.detach(), y.detach(), self.scales[path])
        return norm(x, self.scales[path])

    def _runs(self, path: str) -> bool:
        return any(port.path == path for port in self.subject.plan.order)

    def _hold(self, path: str, norm: "_Affine") -> dict[Site, Callable[..., Tensor]]:
        received: list[Tensor] = []

        def keep(x: Tensor, at: Any) -> Tensor:
            received[:] = [x]
            return x

        def give(y: Tensor, at: Any) -> Tensor:
            return self._scaled(path, norm, received[0], y)

        return {Site(None, f"{path}:in"): keep, Site(None, f"{path}:out"): give}

    def _attending(self) -> AbstractContextManager[None]:
        return self._looked_up() if hasattr(self.subject.model, "set_attn_implementation") else self._called()

    @contextmanager
    def _called(self) -> Iterator[None]:
        """Torch's own attention function, replaced for the time of a run; calls are told apart by their order."""
        count, own = itertools.count(), nn.functional.scaled_dot_product_attention

        def attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
            name = f"attention {next(count)}"
            if name not in self.patterns:
                with torch.no_grad():  # what identity values give is the pattern
                    ones = torch.eye(key.shape[-2], dtype=value.dtype, device=value.device)
                    self.patterns[name] = own(query, key, ones.expand(*key.shape[:-1], -1), *args, **options)
            groups = query.shape[-3] // value.shape[-3] if value.ndim > 3 else 1
            return self.patterns[name] @ value.repeat_interleave(groups, -3)

        with self.subject.lock:
            fast = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            nn.functional.scaled_dot_product_attention = attend  # type: ignore[assignment]
            try:
                yield
            finally:
                nn.functional.scaled_dot_product_attention = own
                torch.backends.mha.set_fastpath_enabled(fast)

    @contextmanager
    def _looked_up(self) -> Iterator[None]:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

        AttentionInterface.register(NAME, _attend)
        AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
        with self.subject.lock:
            old = self.subject.config._attn_implementation  # type: ignore[union-attr]
            self.subject.model.set_attn_implementation(NAME)  # type: ignore[operator]
            _current.append(self)
            try:
                yield
            finally:
                _current.pop()
                self.subject.model.set_attn_implementation(old)  # type: ignore[operator]


def _after(first: Callable[..., Tensor], then: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda h, at: then(first(h, at), at)


def _instead(value: Tensor) -> Callable[..., Tensor]:
    return lambda h, at: value.to(h.dtype)


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
    """The held pattern times the values; on the first run the model's own eager attention says the pattern."""
    held = _current[-1]
    path = held._paths[id(module)]
    spread = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    if path in held._compared:
        factor = options.get("scaling")
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        held._compared[path] = Compared(query, keys, spread, query.shape[-1] ** -0.5 if factor is None else factor)
    if path not in held.patterns:
        with torch.no_grad():
            out, pattern = sys.modules[type(module).__module__].eager_attention_forward(
                module, query, key, value, mask, **options
            )
            if not torch.allclose((pattern @ spread).transpose(1, 2), out, rtol=1e-4, atol=1e-5):
                raise ValueError(f"{path} does more than average values by a pattern: it cannot be held")
        held.patterns[path] = pattern
    return (held.patterns[path] @ spread).transpose(1, 2).contiguous(), held.patterns[path]


class _Affine:
    """A norm as gain x (row, its mean removed or not) x denominator + bias."""

    def __init__(self, module: nn.Module, subject: "Subject"):
        self.module = module
        weight = next((p for p in module.parameters() if p.ndim == 1), None)
        self.d = subject.d if weight is None else len(weight)
        dtype, device = subject.dtype, subject.device
        self.gain, self.centred = inside.frozen(module, self.d or 0, dtype, device)
        with torch.no_grad():
            self.bias = module(torch.zeros(1, self.d or 0, dtype=dtype, device=device))[0]

    def base(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True) if self.centred else x) * self.gain.to(x.dtype)

    def scale(self, x: Tensor, y: Tensor) -> Tensor:
        """The factor that takes the base of x to y, by least squares, one per position."""
        base = self.base(x)
        return ((y - self.bias) * base).sum(-1, keepdim=True) / base.square().sum(-1, keepdim=True).clamp_min(1e-30)

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.base(x) * scale + self.bias

    def check(self, path: str, x: Tensor, y: Tensor, scale: Tensor) -> None:
        off = float((self(x, scale) - y).abs().max() / y.abs().max().clamp_min(1e-30))
        if off > 1e-3:
            raise ValueError(f"{path} is no affine map once its denominator is held (off by {off:.1e} of its largest)")

"""Find a model's streams by probing: run it once, watch what adds up, and verify. No list of model names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..site import STREAMS, Site

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # entry by entry: massive entries must not hide the rest
COARSE = 2e-2  # half precision


class Port(NamedTuple):
    """One side of a module: `path:in` or `path:out`."""

    path: str
    side: str  # in | out

    def __str__(self) -> str:
        return f"{self.path}:{self.side}"


class Call(NamedTuple):
    """What one module received and gave in the probe run; None where it was no floating tensor."""

    path: str
    began: int
    ended: int
    x: Tensor | None
    y: Tensor | None
    several: bool  # gave a tuple


@dataclass(frozen=True)
class Plan:
    """Where the streams of a model are. Streams that were not found are absent from `streams`."""

    blocks: tuple[str, ...]
    streams: Mapping[str, tuple[Port, ...]]  # stream -> one port per layer
    embed: Port | None
    norm: str | None  # final norm
    unembed: str | None
    plain: bool  # the unembedding's output is the logits: neither capped nor scaled
    attention: tuple[str, ...]  # attention modules, one per layer
    order: Mapping[Port, int]  # ports in the order of the forward pass
    widths: Mapping[Port, tuple[int, ...]]  # shape of one text's vectors: (pos, d), or (channels, h, w) of a CNN
    tuples: frozenset[str] = frozenset()  # modules that give a tuple
    why: str = ""  # what could not be found, in words
    tree: str = field(default="", repr=False)

    def port(self, site: Site) -> Port:
        """Where a site is. Raises ValueError that lists what there is, or what mapping to fill in."""
        if site.layer is None and site.stream != "embed":
            path, _, side = site.stream.rpartition(":")
            port = Port(path, side)
            if port not in self.order:
                raise ValueError(f"the model runs no module {path!r}; it runs:\n{self.tree}")
            return port
        if site.stream == "embed":
            if self.embed is None:
                raise ValueError(self.missing("embed"))
            return self.embed
        found = self.streams.get(site.stream)
        if not found:
            raise ValueError(self.missing(site.stream))
        if site.layer is not None and site.layer >= len(found):
            raise ValueError(f"{site} does not exist: layers run from 0 to {len(found) - 1}")
        return found[site.layer or 0]

    def missing(self, stream: str) -> str:
        return (
            f"{stream!r} was not found in this model ({self.why or 'its blocks have no such stream'}). Name it: "
            f'Subject(model, sites={{"{stream}": "path.to.blocks.{{layer}}.module:out"}}). The model runs:\n{self.tree}'
        )


def first_tensor(value: Any) -> Tensor | None:
    """The first floating tensor of a module's inputs or outputs."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            found = first_tensor(item)
            if found is not None:
                return found
    return None


@torch.no_grad()
def watch(model: nn.Module, call: Callable[[], Any]) -> tuple[dict[str, Call], Any]:
    """Run once and keep the first call of every module, in order. Copies are kept: some models write in place."""
    calls: dict[str, Call] = {}
    open_: dict[str, tuple[int, Tensor | None]] = {}
    clock = iter(range(1 << 40))
    copy = lambda t: None if t is None else t.detach().clone()  # noqa: E731

    def before(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if path not in calls and path not in open_:
                open_[path] = (next(clock), copy(first_tensor((*args, *kwargs.values()))))

        return hook

    def after(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if path in open_:
                began, x = open_.pop(path)
                calls[path] = Call(
                    path, began, next(clock), x, copy(first_tensor(output)), isinstance(output, tuple | list)
                )

        return hook

    handles = []
    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(before(path), with_kwargs=True))
            handles.append(module.register_forward_hook(after(path), with_kwargs=True))
    try:
        output = call()
    finally:
        for handle in handles:
            handle.remove()
    return calls, output


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal up to rounding."""
    if a is None or b is None or a.shape != b.shape:
        return False
    tolerance = TOLERANCE.get(b.dtype, COARSE)
    a, b = a.float(), b.float()
    return bool(torch.isclose(a, b, rtol=tolerance, atol=tolerance * float(b.abs().median()) + 1e-12).all())


def find_blocks(model: nn.Module, calls: Mapping[str, Call]) -> list[str]:
    """The longest list of modules through which one stream of vectors passes: each receives what the last gave."""
    best: list[str] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or not len(module):
            continue
        chain = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
        seen = [calls.get(p) for p in chain]
        if any(c is None or c.x is None or c.y is None or c.y.ndim != 3 or c.x.shape != c.y.shape for c in seen):
            continue
        linked = all(same(b.x, a.y) for a, b in zip(seen, seen[1:], strict=False) if a and b)
        alike = len({type(m) for m in module.children()}) == 1
        deep = all(any(True for _ in m.children()) for m in module.children())
        if linked and alike and deep and len(chain) > len(best):
            best = chain
    return best


def has_matrix(module: nn.Module) -> bool:
    return any(p.ndim >= 2 for p in module.parameters())


def inside(calls: Mapping[str, Call], block: str) -> list[Call]:
    """Calls of a block's inner modules, by the time they ended."""
    return sorted((c for p, c in calls.items() if p.startswith(block + ".")), key=lambda c: c.ended)


def find_writes(block: Call, inner: list[Call]) -> list[tuple[Call, ...]]:
    """Module outputs that are added to the residual stream, in order; modules that give the same stand together.

    A write is an output that, added to a state of the stream, gives something that the block uses next: another
    module's input or the block's own output. A norm of a state is a state too (blocks that normalise after the sum).
    """
    assert block.x is not None and block.y is not None
    outs = [c for c in inner if c.y is not None and c.y.shape == block.x.shape]
    later = [c for c in inner if c.x is not None and c.x.shape == block.x.shape]
    states, writes = [block.x], []
    for call in outs:
        assert call.y is not None
        for state in list(states):
            total = state + call.y
            used = same(total, block.y) or any(c.began > call.ended and same(total, c.x) for c in later)
            if used and not any(same(total, s) for s in states):
                states.append(total)
                writes.append(call)
            follows = same(call.y, block.y) or any(c.began > call.ended and same(call.y, c.x) for c in later)
            if same(state, call.x) and follows:
                states.append(call.y)
    if not any(same(state, block.y) for state in states):  # parallel branches: one sum of two
        for i, a in enumerate(outs):
            for b in outs[i + 1 :]:
                if a.y is not None and b.y is not None and same(block.x + a.y + b.y, block.y):
                    return [tuple(c for c in outs if same(c.y, w.y)) for w in (a, b)]
    return [tuple(c for c in outs if same(c.y, w.y)) for w in writes]


def outermost(calls: tuple[Call, ...]) -> Call:
    return min(calls, key=lambda c: (c.path.count("."), c.ended))


def find_mixers(block: str, one: Mapping[str, Call], two: Mapping[str, Call]) -> list[Call]:
    """Modules of a block that move information between positions.

    Two runs differ at one position of their input only; at some other position the mixer receives the same in both and
    gives another output.
    """
    found = []
    for call in inside(one, block):
        other = two.get(call.path)
        if other is None or call.x is None or call.y is None or other.x is None or other.y is None:
            continue
        if call.x.ndim == 3 and call.y.ndim == 3 and call.x.shape == other.x.shape:
            unmoved = (call.x == other.x).all(-1).all(0)
            if unmoved.any() and not same(call.y[:, unmoved], other.y[:, unmoved]):
                found.append(call)
    return found


def producer(inner: list[Call], call: Call) -> Call | None:
    """The outermost module whose output a call received."""
    found = tuple(c for c in inner if c.ended < call.began and c.y is not None and same(c.y, call.x))
    return outermost(found) if found else None


def source(inner: list[Call], write: Call, d: int, modules: Mapping[str, nn.Module]) -> Call:
    """The module that made a write: back through norms, and through modules that do not receive a vector of width d."""
    call = write
    while call.x is None or call.x.shape[-1] != d or not has_matrix(modules[call.path]):
        before = producer(inner, call)
        if before is None:
            return write
        call = before
    return call


def plan(
    model: nn.Module, call: Callable[[int], Any], overrides: Mapping[str, str] | None = None, vocab: int | None = None
) -> Plan:
    """Find the streams. `call(0)` and `call(1)` run the model on two inputs that differ at position 0 only."""
    overrides = dict(overrides or {})
    one, output = watch(model, lambda: call(0))
    tree = draw(model, one)
    order: dict[Port, int] = {}
    widths: dict[Port, tuple[int, ...]] = {}
    for c in one.values():
        for port, tensor, when in ((Port(c.path, "in"), c.x, c.began), (Port(c.path, "out"), c.y, c.ended)):
            if tensor is not None:
                order[port], widths[port] = when, tuple(tensor.shape[1:])
    tuples = frozenset(c.path for c in one.values() if c.several)
    bare = Plan((), {}, None, None, None, True, (), order, widths, tuples, "", tree)
    blocks = expand(overrides.pop("blocks"), model) if "blocks" in overrides else find_blocks(model, one)
    if not blocks:
        why = "no chain of like blocks through which one stream of (text, pos, d) passes"
        return named(replace(bare, why=why), overrides, model)
    two, _ = watch(model, lambda: call(1))
    modules = dict(model.named_modules())
    streams: dict[str, list[Port]] = {"resid": [Port(b, "out") for b in blocks]}
    mixers = find_mixers(blocks[0], one, two)
    why, attention = "", []
    if not mixers:
        why = "no module of the first block moves information between positions"
    else:
        inner, block = inside(one, blocks[0]), one[blocks[0]]
        mixer = outermost(tuple(mixers)).path
        groups = find_writes(block, inner)
        ends = one[mixer].ended
        by_attention = [
            g for g in groups if outermost(g).path.startswith(mixer) or comes_from(inner, outermost(g), mixer)
        ]
        others = [g for g in groups if g not in by_attention]
        matrices = [
            c for c in inner if c.path.startswith(mixer + ".") and c.ended < ends and matrix_leaf(modules[c.path])
        ]
        if by_attention:
            write = outermost(by_attention[0])
            streams["attn_out"] = spread(write.path, "out", blocks)
            if any(c.path == write.path for c in mixers):  # the outermost may hold the norm and the sum too
                mixer = write.path
        streams["attn_in"] = spread(mixer, "in", blocks)
        if matrices:
            streams["heads"] = spread(max(matrices, key=lambda c: c.ended).path, "in", blocks)
        if others:
            write = outermost(others[-1])
            assert block.x is not None
            streams["mlp_out"] = spread(write.path, "out", blocks)
            streams["mlp_in"] = spread(source(inner, write, block.x.shape[-1], modules).path, "in", blocks)
        attention = [b + mixer[len(blocks[0]) :] for b in blocks]
    complete = {name: tuple(ports) for name, ports in streams.items() if all(p in order for p in ports)}
    norm, unembed = find_head(model, one, output, blocks, vocab)
    found = replace(
        bare, blocks=tuple(blocks), streams=complete, embed=Port(blocks[0], "in"), norm=norm, unembed=unembed,
        attention=tuple(attention), why=why,
    )  # fmt: skip
    found = named(found, overrides, model)
    logits = first_tensor(getattr(output, "logits", output))
    given = one[found.unembed].y if found.unembed else None
    same_bits = given is not None and logits is not None and torch.equal(given.float(), logits.detach().float())
    found = replace(found, plain=given is None or same_bits)
    verify(found, one, set(overrides))
    return found


def comes_from(inner: list[Call], call: Call, mixer: str) -> bool:
    """Whether a write's input was made by the mixer, through norms only."""
    before = producer(inner, call)
    return before is not None and before.path.startswith(mixer)


def matrix_leaf(module: nn.Module) -> bool:
    return not any(True for _ in module.children()) and has_matrix(module)


def spread(path: str, side: str, blocks: list[str]) -> list[Port]:
    """The same place in every block."""
    local = path[len(blocks[0]) :]
    return [Port(b + local, side) for b in blocks]


def expand(pattern: str, model: nn.Module) -> list[str]:
    """Paths of a pattern's layers: `h.{layer}` or the list's own path."""
    base = pattern.removesuffix(".{layer}")
    modules = dict(model.named_modules())
    if base not in modules:
        raise ValueError(f"sites['blocks'] names {base!r}, which is no module of the model")
    return [f"{base}.{name}" if base else name for name, _ in modules[base].named_children()]


def named(found: Plan, overrides: Mapping[str, str], model: nn.Module) -> Plan:
    """The plan with the user's own mapping laid over it. Raises ValueError for a stream or module that is not there."""
    streams, rest = dict(found.streams), {"embed": found.embed, "norm": found.norm, "unembed": found.unembed}
    modules = dict(model.named_modules())
    for stream, pattern in overrides.items():
        if stream not in STREAMS and stream not in rest:
            raise ValueError(f"sites maps {', '.join([*STREAMS, *rest, 'blocks'])}, got {stream!r}")
        if stream in ("norm", "unembed"):
            if pattern not in modules:
                raise ValueError(
                    f"sites[{stream!r}] names {pattern!r}, which is no module; the model runs:\n{found.tree}"
                )
            rest[stream] = pattern
            continue
        path, colon, side = pattern.rpartition(":")
        if not colon or side not in ("in", "out"):
            raise ValueError(f"sites[{stream!r}] must end in `:in` or `:out`, got {pattern!r}")
        count = len(found.blocks) or 1 << 16
        if "{layer}" in path:
            ports = []
            for layer in range(count):
                port = Port(path.replace("{layer}", str(layer)), side)
                if port not in found.order:
                    break
                ports.append(port)
        else:
            ports = [port] if (port := Port(path, side)) in found.order else []
        if not ports:
            raise ValueError(f"sites[{stream!r}] names {path!r}, which the model does not run; it runs:\n{found.tree}")
        if stream == "embed":
            rest["embed"] = ports[0]
        else:
            streams[stream] = tuple(ports)
    blocks = found.blocks or tuple(p.path for p in streams.get("resid", ()))
    return replace(found, blocks=blocks, streams=streams, **rest)


def find_head(
    model: nn.Module, calls: Mapping[str, Call], output: Any, blocks: list[str], vocab: int | None
) -> tuple[str | None, str | None]:
    """Final norm and unembedding: the last block's output goes into the one, and its output into the other."""
    last = calls[blocks[-1]].y
    norms = [
        c
        for c in calls.values()
        if c.began > calls[blocks[-1]].ended and same(c.x, last) and not has_matrix(dict(model.named_modules())[c.path])
    ]
    norm = outermost(tuple(norms)) if norms else None
    reads = norm.y if norm else last
    heads = [
        c
        for c in calls.values()
        if c.began > calls[blocks[-1]].ended and c.y is not None and c.y.shape[-1] == vocab and same(c.x, reads)
    ]
    return norm.path if norm else None, outermost(tuple(heads)).path if heads else None


def verify(found: Plan, calls: Mapping[str, Call], trusted: set[str]) -> None:
    """Hold the found streams against the run: in every block, what was added must be what the writes say.

    Raises ValueError naming the block when they do not add up.
    """
    value = lambda port: calls[port.path].x if port.side == "in" else calls[port.path].y  # noqa: E731
    if "attn_out" not in found.streams or "mlp_out" not in found.streams or trusted:
        return
    for layer, block in enumerate(found.blocks):
        call = calls[block]
        a, m = (value(found.streams[s][layer]) for s in ("attn_out", "mlp_out"))
        assert call.x is not None and a is not None and m is not None
        if same(call.x + a + m, call.y):
            continue
        mid = call.x + a  # a block that normalises after each sum: some module receives each sum
        received = [c for c in inside(calls, block) if c.x is not None]
        first = [c for c in received if same(c.x, mid)]
        if not any(c.y is not None and any(same(e.x, c.y + m) for e in received) for c in first):
            raise ValueError(
                f"block {block} does not add up: input + attention + MLP is not its output. Name its streams yourself: "
                f'Subject(model, sites={{"attn_out": "...:out", "mlp_out": "...:out"}}). The model runs:\n{found.tree}'
            )


def draw(model: nn.Module, calls: Mapping[str, Call], most: int = 60) -> str:
    """The module tree with the shapes that went through; layers alike are shown once, by the first."""
    lines, seen = [], set()
    for path, module in model.named_modules():
        c = calls.get(path)
        x, y = (tuple(t.shape[1:]) if c and t is not None else "-" for t in ((c.x, c.y) if c else (None, None)))
        kind = ".".join("*" if part.isdecimal() else part for part in path.split(".")), type(module).__name__, x, y
        if not path or kind in seen:
            continue
        seen.add(kind)
        lines.append(f"  {'  ' * path.count('.')}{path} ({type(module).__name__}) {x} -> {y}")
    more = f"\n  ... and {len(lines) - most} more" if len(lines) > most else ""
    return "\n".join(lines[:most]) + more

"""Where our training step's time goes, and what other designs of its parts would cost.

    python bench/step_parts.py [--threads 2] [--record]

`step_parts`: torch's profiler over whole steps at both shapes of train_step.py, self time of operators by what they do.
`step_designs`: parts of the step beside designs that were tried for them, taking turns in one run; all give the same
result (checked here), only the time differs.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from record import record
from torch import Tensor
from torch.nn.functional import normalize
from torch.profiler import ProfilerActivity, profile
from train_step import SHAPES, STEP, show

from workbench.batch import Batch
from workbench.dictionary import Progress, recipe
from workbench.dictionary.core import Dictionary
from workbench.dictionary.kernels import choose, top_rows
from workbench.dictionary.training import _Learner

WHAT = {  # operators by what they do in a step; the rest is "other"
    "product of the encoder": ("aten::addmm", "aten::mm"),
    "selection": ("aten::topk", "aten::amax", "aten::gather", "aten::sort"),
    "optimiser": ("aten::_fused_adam_",),
    "sparse sums of atoms and rows": (
        "aten::_embedding_bag_forward_only",
        "aten::_embedding_bag_per_sample_weights_backward",
        "aten::_embedding_bag_dense_backward",
        "aten::index_add_",
        "aten::bmm",
    ),
    "projection of atoms": ("aten::addcmul_", "aten::linalg_vecdot", "aten::linalg_vector_norm", "aten::div_"),
    "copies and zeros": ("aten::copy_", "aten::fill_", "aten::zero_"),
}


def learner(shape: tuple[int, int, int, int]) -> tuple[_Learner, Callable[[], None]]:
    rows, latents, d, k = shape
    made = _Learner(recipe("topk_auxk", d=d, latents=latents, k=k), 1e-6, 0)
    x = torch.randn(rows, d, generator=torch.Generator().manual_seed(0))
    at = Progress(0, 0, rows)

    def step() -> None:
        seen, terms, total = made.forward(Batch(x, x), at)
        total.backward()
        made.update(seen, terms, total, at, 1e-6)

    return made, step


def where(shape: tuple[int, int, int, int], steps: int = 10) -> list[dict[str, object]]:
    """Milliseconds of a step by what its operators do."""
    _, step = learner(shape)
    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        began = time.perf_counter()
        for _ in range(steps):
            step()
        whole = 1e3 * (time.perf_counter() - began) / steps
    times = {event.key: event.self_cpu_time_total / 1e3 / steps for event in seen.key_averages()}
    found = {what: sum(times.pop(name, 0.0) for name in names) for what, names in WHAT.items()}
    found |= {"other": whole - sum(found.values())}
    label = dict(zip(("rows", "latents", "d", "k"), shape, strict=True))
    most = sorted(times, key=lambda name: -times[name])[:3]
    rows = [label | {"part": what, "ms": ms, "share": ms / whole} for what, ms in found.items()]
    rows[-1]["part"] = "other, most of it " + ", ".join(most)
    return rows


def projections(latents: int, d: int) -> dict[str, Callable[[], Tensor]]:
    """Dropping the gradient along atoms, Adam's step and atoms back to norm 1, by several designs."""
    import numba
    import numpy as np

    start = normalize(torch.randn(latents, d, generator=torch.Generator().manual_seed(1)), dim=-1)
    slope = 1e-3 * torch.randn(latents, d, generator=torch.Generator().manual_seed(2))

    def shipped() -> Callable[[], Tensor]:
        made = recipe("topk_auxk", d=d, latents=latents, k=1).dictionary.decoder
        made.weight.data.copy_(start)
        adam = torch.optim.Adam([made.weight], lr=1e-3, fused=True)

        def step() -> Tensor:
            made.weight.grad = slope.clone()
            made.project_grad_()
            adam.step()
            made.project_()
            return made.weight.detach()

        return step

    def by_hand(chunk: int) -> Callable[[], Tensor]:
        weight, m, v, count = start.clone(), torch.zeros_like(start), torch.zeros_like(start), 0

        def step() -> Tensor:
            nonlocal count
            count += 1
            grad, size, root = slope.clone(), 1e-3 / (1 - 0.9**count), (1 - 0.999**count) ** 0.5
            for w, g, a, b in zip(weight.split(chunk), grad.split(chunk), m.split(chunk), v.split(chunk), strict=True):
                g.addcmul_(w, torch.linalg.vecdot(g, w)[:, None], value=-1)
                a.lerp_(g, 0.1)
                b.mul_(0.999).addcmul_(g, g, value=1e-3)
                w.addcdiv_(a, b.sqrt().div_(root).add_(1e-8), value=-size)
                w.div_(torch.linalg.vector_norm(w, dim=-1, keepdim=True))
            return weight

        return step

    @numba.njit(parallel=True, fastmath=True)
    def fused(w, g, m, v, size, root):  # one pass over an atom does all
        for i in numba.prange(w.shape[0]):
            along = np.float32(0)
            for j in range(w.shape[1]):
                along += g[i, j] * w[i, j]
            norm = np.float32(0)
            for j in range(w.shape[1]):
                slope = g[i, j] - along * w[i, j]
                m[i, j] += np.float32(0.1) * (slope - m[i, j])
                v[i, j] = np.float32(0.999) * v[i, j] + np.float32(1e-3) * slope * slope
                w[i, j] -= size * m[i, j] / (np.sqrt(v[i, j]) / root + np.float32(1e-8))
                norm += w[i, j] * w[i, j]
            norm = np.sqrt(norm)
            for j in range(w.shape[1]):
                w[i, j] /= norm

    def one_pass() -> Callable[[], Tensor]:
        numba.set_num_threads(torch.get_num_threads())
        weight, m, v, count = start.clone(), torch.zeros_like(start), torch.zeros_like(start), 0

        def step() -> Tensor:
            nonlocal count
            count += 1
            size, root = np.float32(1e-3 / (1 - 0.9**count)), np.float32((1 - 0.999**count) ** 0.5)
            fused(weight.numpy(), slope.clone().numpy(), m.numpy(), v.numpy(), size, root)
            return weight

        return step

    return {
        "shipped: fused Adam, projection in cache-sized chunks": shipped(),
        "Adam and projection together, chunk by chunk": by_hand(1024),
        "one pass over each atom (numba)": one_pass(),
    }


def selections(rows: int, latents: int, d: int, k: int) -> dict[str, Callable[[], Tensor]]:
    """The k largest pre-activations of each row, by several designs; each gives their sorted values."""
    made: Dictionary = recipe("topk_auxk", d=d, latents=latents, k=k).dictionary
    x = torch.randn(rows, d, generator=torch.Generator().manual_seed(3))

    @torch.no_grad()
    def shipped() -> Tensor:
        code, _ = choose(made.encoder, made.sparsifier, made.decoder, x, latents)
        return code.values

    @torch.no_grad()
    def whole(select: Callable[[Tensor], Tensor]) -> Tensor:
        pre = made.encoder(x, made.decoder)
        return pre.gather(1, select(pre))

    return {
        "shipped: tiles in cache, maxima of groups of 12": shipped,
        "whole product, torch.topk": lambda: whole(lambda pre: pre.topk(k, dim=-1, sorted=False).indices),
        "whole product, maxima of groups of 12": lambda: whole(lambda pre: top_rows(pre, k)),
        "whole product, full sort": lambda: whole(lambda pre: pre.sort(dim=-1, descending=True).indices[:, :k]),
    }


def compare(what: str, designs: dict[str, Callable[[], Tensor]], rounds: int = 7) -> list[dict[str, object]]:
    """Median milliseconds of each design, in turns. Raises AssertionError when one gives something else."""
    times: dict[str, list[float]] = {name: [] for name in designs}
    for _ in range(rounds):
        found = {}
        for name, design in designs.items():
            began = time.perf_counter()
            found[name] = design()
            times[name].append(1e3 * (time.perf_counter() - began))
        first = found[next(iter(found))].sort(dim=-1).values
        for name, other in found.items():
            torch.testing.assert_close(other.sort(dim=-1).values, first, rtol=1e-3, atol=1e-4, msg=name)
    middle = {name: median(t[1:]) for name, t in times.items()}  # the first turn compiles and warms
    base = middle[next(iter(middle))]
    return [{"part": what, "design": name, "ms": ms, "x shipped": ms / base} for name, ms in middle.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="write docs/measurements/step_*.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = [row for shape in SHAPES for row in where(shape)]
    designs = []
    for rows, latents, d, k in SHAPES:
        label = {"rows": rows, "latents": latents, "d": d, "k": k}
        designs += [label | row for row in compare("selection", selections(rows, latents, d, k))]
        designs += [label | row for row in compare("Adam and projection of atoms", projections(latents, d))]
    for row in [*parts, *designs]:
        show(row)
    if options.record:
        command = f"python bench/step_parts.py --threads {options.threads} --record"
        for name, rows in (("step_parts", parts), ("step_designs", designs)):
            print(record(name, command, rows, [*STEP, "bench/step_parts.py"]))


if __name__ == "__main__":
    main()

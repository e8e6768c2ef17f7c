"""Milliseconds of a training step and of its parts at the report's shape (set OMP_NUM_THREADS)."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from workbench.batch import Batch
from workbench.dictionary import Progress, recipe
from workbench.dictionary.selection import top_batch, top_rows
from workbench.dictionary.training import _Learner


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of `work`, after one call to warm up."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begin))
    return sorted(times)[len(times) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d", type=int, default=576)
    parser.add_argument("--latents", type=int, default=4608)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dead", type=float, default=0.0, help="share of latents held dead, for AuxK's cost")
    parser.add_argument("--record", action="store_true", help="write docs/measurements/train.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(args.rows, args.d)
    at = Progress(0, 0, args.rows)
    print(f"{torch.get_num_threads()} threads, rows {args.rows}, d {args.d}, latents {args.latents}, k {args.k}")
    rows = []
    for name in ("topk_auxk", "batch_topk", "relu_l1", "jumprelu"):
        given = {} if name == "relu_l1" else {"k": args.k}
        made = recipe(name, d=args.d, latents=args.latents, **given)
        learner = _Learner(made, 1e-3, 0)
        learner.dead = torch.arange(round(args.dead * args.latents))

        def step(learner: _Learner = learner) -> None:
            seen, terms, total = learner.forward(Batch(x, x), at)
            total.backward()
            learner.update(seen, terms, total, at, 1e-3)

        with torch.no_grad():
            encode = milliseconds(lambda d=made.dictionary: d.encoder(x, d.decoder), args.repeats)
        rows.append({"what": f"{name}, a step", "ms": milliseconds(step, args.repeats)})
        rows.append({"what": f"{name}, its encoder", "ms": encode})
    pre = torch.randn(args.rows, args.latents)
    for what, work in {
        "k of each row": lambda: top_rows(pre, args.k),
        "k of each row, torch.topk": lambda: pre.topk(args.k, dim=-1, sorted=False),
        "k x rows of the batch": lambda: top_batch(pre, args.k * args.rows),
        "k x rows of the batch, torch.topk": lambda: pre.flatten().topk(args.k * args.rows, sorted=False),
    }.items():
        rows.append({"what": f"select {what}", "ms": milliseconds(work, args.repeats)})
    for row in rows:
        row["threads"] = torch.get_num_threads()
        print(f"{row['what']:42} {row['ms']:7.1f} ms")
    if args.record:
        command = " ".join(["python bench/train.py", *sys.argv[1:]])
        print(record("train", command, rows, ["workbench/dictionary/*.py", "workbench/code.py", "bench/train.py"]))


if __name__ == "__main__":
    main()

"""Harvest to disk against the bare truncated forward on the same tokens, interleaved in one run.

    python bench/harvest.py [--subject smollm2-135m] [--site 8.resid] [--texts 480] [--rounds 3] [--dtype bfloat16]

Three ways over the same batches, taken in turn: the model's own blocks up to the site and nothing else (bare),
`subject.read` (nnsight, float32), and `collect` from call to finished store. Ratios are of tokens per second in the
least disturbed round of each, bare = 1.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from workbench.batch import Tokens
from workbench.harvest import collect, corpus
from workbench.harvest.tokens import rows_of, rows_of_tokens, stacked
from workbench.site import Site
from workbench.subject import Subject


def bare(subject: Subject, site: Site) -> Callable[[Tokens], Tensor]:
    """The blocks up to the site, by a plain hook that stops the forward pass there."""
    block = dict(subject.model.named_modules())[subject.plan.port(site).path]

    class Stop(Exception):
        pass

    def forward(tokens: Tokens) -> Tensor:
        seen: list[Tensor] = []

        def hook(module, args, output):
            seen.append(output if isinstance(output, Tensor) else output[0])
            raise Stop

        handle = block.register_forward_hook(hook)
        try:
            padded = not bool(tokens.mask.all())
            with torch.no_grad():
                subject.model(
                    input_ids=tokens.ids, use_cache=False, attention_mask=tokens.mask.long() if padded else None
                )
        except Stop:
            return seen[0]
        finally:
            handle.remove()
        raise RuntimeError(f"the forward pass never reached {site}")

    return forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", default="smollm2-135m")
    parser.add_argument("--site", default="8.resid")
    parser.add_argument("--texts", type=int, default=480, help="token rows in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--record", action="store_true", help="write docs/measurements/harvest.json")
    options = parser.parse_args()

    subject, site = Subject(options.subject, dtype=options.dtype), Site.of(options.site)
    texts = corpus().texts
    began = time.perf_counter()
    drawn = rows_of(subject, texts, length=options.length, min_length=32, seed=0)
    chosen = stacked([next(drawn) for _ in range(options.texts)])
    cutting = time.perf_counter() - began
    ordered = stacked(list(rows_of_tokens(chosen, 0)))  # the order that collect takes
    batches = [ordered.rows(slice(i, i + options.batch)) for i in range(0, options.texts, options.batch)]
    tokens = int(chosen.mask.sum())
    _ = subject.fingerprint
    forward = bare(subject, site)
    h, ours = forward(batches[0]).float(), subject.read(batches[0], [site])[site]
    assert torch.equal(h[batches[0].mask], ours[batches[0].mask]), "bare and read must agree to the bit"

    def run_bare() -> None:
        for batch in batches:
            forward(batch)

    def run_read() -> None:
        for batch in batches:
            subject.read(batch, [site])

    def run_collect() -> None:
        with tempfile.TemporaryDirectory() as folder:
            collect(subject, chosen, site, rows=None, batch=options.batch, folder=Path(folder) / "s", quiet=True)

    ways = {"bare forward": run_bare, "subject.read": run_read, "collect to disk": run_collect}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(options.rounds):
        for name in list(ways) if i % 2 == 0 else list(ways)[::-1]:
            a, b = time.perf_counter(), time.process_time()
            ways[name]()
            wall[name].append(time.perf_counter() - a)
            cpu[name].append(time.process_time() - b)
            print(f"round {i + 1} {name}: {wall[name][-1]:.2f} s wall, {cpu[name][-1]:.2f} s CPU", flush=True)
    rows = []
    for name in ways:
        w, c = min(wall[name]), min(cpu[name])  # the least disturbed round
        rows.append(
            {
                "way": name,
                "threads": torch.get_num_threads(),
                "tokens/s": tokens / w,
                "tokens/CPU s": tokens / c,
                "ratio wall": min(wall["bare forward"]) / w,
                "ratio CPU": min(cpu["bare forward"]) / c,
            }
        )
    print(
        f"\n{options.subject} {options.site} {options.dtype}, {options.batch} x {options.length}, {tokens:,} tokens a "
        f"round, {options.rounds} rounds, {torch.get_num_threads()} threads; cutting the texts took {cutting:.2f} s"
    )
    for row in rows:
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{v!s:16}" for k, v in row.items()))
    if options.record:
        command = " ".join(["python bench/harvest.py", *sys.argv[1:]])
        harvest = [f"workbench/harvest/{name}.py" for name in ("collect", "store", "tokens")]
        tested = [*harvest, "workbench/subject/*.py", "workbench/lineage.py", "bench/harvest.py"]
        print(record("harvest", command, rows, tested))


if __name__ == "__main__":
    main()

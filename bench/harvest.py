"""Harvest to disk against the bare truncated forward on the same tokens, interleaved in one run.

    python bench/harvest.py [--subject smollm2-135m] [--site 8.resid] [--texts 480] [--rounds 3] [--dtype bfloat16]
    python bench/harvest.py --profile     where the CPU time of `collect` goes, line by line, into docs/streams.md

Three ways over the same batches, taken in turn: the model's own blocks up to the site and nothing else (bare),
`subject.read` (nnsight, float32), and `collect` from call to finished store. Ratios are of tokens per second in the
least disturbed round of each, bare = 1.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from record import ROOT, processor, record

from workbench import lineage
from workbench.batch import Exclusion, Tokens
from workbench.harvest import collect, corpus
from workbench.harvest.tokens import Plan, rows_of, rows_of_tokens, stacked
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


class Clock:
    """CPU seconds inside functions, in whatever thread they run; what a function calls counts for the callee only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inside = threading.local()

    def wrapped(self, line: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self.inside.callees = getattr(self.inside, "callees", 0.0), 0.0
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.thread_time() - began
                self.seconds[line] = self.seconds.get(line, 0.0) + took - self.inside.callees
                self.inside.callees = outer + took

        return timed

    @contextmanager
    def on(self, lines: Sequence[tuple[str, Any, str]]) -> Iterator[None]:
        """Watch functions: (line of the table, where it lives, its name)."""
        was = [(place, name, getattr(place, name)) for _, place, name in lines]
        for line, place, name in lines:
            setattr(place, name, self.wrapped(line, getattr(place, name)))
        try:
            yield
        finally:
            for place, name, function in was:
                setattr(place, name, function)


READ = "the blocks, nnsight's trace around them, the copy to float32"
MARK = ("<!-- harvest profile: python bench/harvest.py --profile -->\n", "<!-- end of harvest profile -->\n")


def profile(
    subject: Subject, run_bare: Callable[[], None], run_collect: Callable[[], None], rounds: int, about: str
) -> str:
    """A markdown table: CPU time of `collect` by what it does, as a share of the bare forward's."""
    module = sys.modules["workbench.harvest.collect"]
    lines = [
        (READ, subject, "read"),
        ("a check that every vector is finite", module, "refuse_infinite"),
        ("the exclusion rule: tokens, norms", Exclusion, "by_token"),
        ("the exclusion rule: tokens, norms", Exclusion, "by_norm"),
        ("kept rows, cast and gathered into the shard", module._Harvest, "_add"),
        ("shards: SHA-256, write, flush (in a thread)", module, "write_shard"),
        ("the manifest, after every shard", module._Harvest, "_note"),
        ("token rows drawn and stacked", Plan, "_draw"),
        ("once: hash of the token rows", lineage, "tensors_hash"),
        ("once: versions of the packages", lineage, "versions"),
        ("once: the labels, the manifest's beginning", module._Harvest, "_begin"),
        ("once: the finished store, opened", module.Store, "__init__"),
    ]
    bare, found, whole = [], [], []
    for i in range(rounds):
        for step in ("bare", "collect") if i % 2 == 0 else ("collect", "bare"):
            began = time.process_time()
            if step == "bare":
                run_bare()
                bare.append(time.process_time() - began)
            else:
                clock = Clock()
                with clock.on(lines):
                    run_collect()
                whole.append(time.process_time() - began)
                found.append(clock.seconds)
    base = median(bare)
    rows = {line: median(f.get(line, 0.0) for f in found) for line in dict.fromkeys(line for line, _, _ in lines)}
    rows["all else"] = median(w - sum(f.values()) for w, f in zip(whole, found, strict=True))
    table = [f"| the bare truncated forward | {base:.2f} | 100 |"]
    table += [f"| {line} | {seconds:.3f} | {100 * seconds / base:.2f} |" for line, seconds in rows.items()]
    table += [f"| `collect` in all | {median(whole):.2f} | {100 * median(whole) / base:.1f} |"]
    return f"{about}\n\n| what | CPU s | % of the bare forward |\n| --- | --- | --- |\n" + "\n".join(table) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", default="smollm2-135m")
    parser.add_argument("--site", default="8.resid")
    parser.add_argument("--texts", type=int, default=480, help="token rows in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--profile", action="store_true", help="write the table into docs/streams.md")
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

    home = tempfile.TemporaryDirectory()  # emptied at the end: deleting is no part of a harvest
    stores = iter(range(10**6))

    def run_collect() -> None:
        folder = Path(home.name) / str(next(stores))
        collect(subject, chosen, site, rows=None, batch=options.batch, folder=folder, quiet=True)

    if options.profile:
        padding = float((~chosen.mask).float().mean())
        about = (
            f"`{' '.join(['python bench/harvest.py', *sys.argv[1:]])}`: {options.subject} {options.site}, "
            f"{options.dtype}, {options.batch} x {options.length},\n{tokens:,} tokens a round ({padding:.1%} of the "
            f"positions are padding), median of {options.rounds} interleaved rounds,\n"
            f"{torch.get_num_threads()} threads, {processor()}."
        )
        table = profile(subject, run_bare, run_collect, options.rounds, about)
        print(table)
        page = ROOT / "docs" / "streams.md"
        before, rest = page.read_text().split(MARK[0])
        lineage.write(page, (before + MARK[0] + "\n" + table + "\n" + MARK[1] + rest.split(MARK[1])[1]).encode())
        return

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
        harvest = [f"workbench/harvest/{name}.py" for name in ("collect", "shards", "store", "tokens")]
        tested = [*harvest, "workbench/subject/*.py", "workbench/lineage.py", "bench/harvest.py"]
        print(record("harvest", command, rows, tested))


if __name__ == "__main__":
    main()

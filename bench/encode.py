"""Encoding a whole store through a dictionary: rows per second and memory, by variant.

    python bench/encode.py [--rows 32768] [--rounds 2] [--record]

Five ways over the same store, each in a process of its own, in turns: reading it and nothing else; `Dictionary.encode`,
tile by tile; the same into a code store on disk; the same encoder and sparsifier on a whole batch at once; and plain
torch, whose code is a dense matrix.
Memory is the peak of the process above what it held with the dictionary made.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from memory import Table
from peers.feed import reset, status
from record import record
from train_step import show

from workbench.batch import Tokens
from workbench.dictionary import Dictionary, recipe
from workbench.harvest import Store, codes, collect
from workbench.site import Site

D, LATENTS, K, BATCH = 512, 8192, 32, 4096
SITE = "0.resid"
VARIANTS = ("topk_auxk", "batch_topk", "jumprelu_target_l0", "relu_l1")
WAYS = ("read only", "tiled", "tiled, to disk", "whole batch", "dense torch")


def made(variant: str, x: Tensor) -> Dictionary:
    """An untrained dictionary with about K latents on in a row of x, as a trained one would have."""
    torch.manual_seed(0)
    dictionary = recipe(variant, d=D, latents=LATENTS, **({} if variant == "relu_l1" else {"k": K})).dictionary
    dictionary.freeze()
    pre = dictionary.encoder(x, dictionary.decoder)
    level = pre.topk(K, dim=1).values[:, -1].median()
    if variant == "relu_l1":
        dictionary.encoder.bias -= level
    elif variant != "topk_auxk":
        dictionary.sparsifier.threshold.fill_(level)
    return dictionary


def encoding(way: str, variant: str, dictionary: Dictionary) -> Callable[[Tensor], Any]:
    """What is done to each batch of rows."""
    encoder, sparsifier = dictionary.encoder, dictionary.sparsifier
    center = dictionary.decoder.bias if encoder.center else torch.zeros(D)

    def dense(x: Tensor) -> Tensor:
        pre = torch.addmm(encoder.bias, x - center, encoder.weight)
        if variant == "topk_auxk":
            best = pre.topk(K, sorted=False)
            return torch.zeros_like(pre).scatter_(1, best.indices, best.values.relu())
        return pre.relu() if variant == "relu_l1" else torch.where(pre > sparsifier.threshold, pre, 0)

    return {
        "read only": lambda x: None,
        "tiled": dictionary.encode,
        "tiled, to disk": dictionary.encode,
        "whole batch": lambda x: sparsifier.infer(encoder(x * dictionary.scale_in, dictionary.decoder)),
        "dense torch": dense,
    }[way]


def child(variant: str, way: str, folder: Path) -> None:
    """One pass over the store, in a process of its own; prints seconds and bytes."""
    store = Store.open(folder / "store")
    first = next(iter(store.batches(BATCH))).x
    with torch.no_grad():
        dictionary = made(variant, first[:512])
        encode = encoding(way, variant, dictionary)
        encode(first[:64])
        reset()
        before, begin = status("RssAnon"), time.perf_counter()
        if way == "tiled, to disk":
            dictionary.site = Site.of(SITE)
            codes.encode(store, dictionary, folder / "codes" / str(time.time_ns()), batch=BATCH, quiet=True)
        else:
            for batch in store.batches(BATCH):
                encode(batch.x)
    seconds = time.perf_counter() - begin
    above = status("VmHWM") - status("RssFile") - before  # pages of the store that are mapped do not count
    print(json.dumps({"seconds": seconds, "rows": store.rows, "above": above}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="write docs/measurements/encode.json")
    parser.add_argument("--child", nargs=3, metavar=("VARIANT", "WAY", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], args.child[1], Path(args.child[2]))
        return
    answers: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as home:
        ids = torch.randint(1000, (args.rows // 127 + 1, 128), generator=torch.Generator().manual_seed(1))
        tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
        collect(Table(D), tokens, SITE, rows=args.rows, batch=64, folder=Path(home) / "store", quiet=True)
        for _ in range(args.rounds):
            for variant in VARIANTS:
                for way in WAYS:
                    call = [sys.executable, __file__, "--child", variant, way, home]
                    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
                    answers.setdefault((variant, way), []).append(json.loads(done.stdout.splitlines()[-1]))
    table = []
    for (variant, way), own in answers.items():
        rate = median(one["rows"] / one["seconds"] for one in own)
        memory = median(one["above"] for one in own) / 1e6
        table.append({"variant": variant, "way": way, "d": D, "latents": LATENTS, "rows/s": rate, "MB": memory})
        show(table[-1])
    if args.record:
        tested = [f"workbench/dictionary/{name}.py" for name in ("core", "encoders", "sparsifiers", "kernels/*")]
        command = " ".join(["python bench/encode.py", *sys.argv[1:]])
        tested += ["workbench/harvest/codes.py", "workbench/code.py", "bench/encode.py"]
        print(record("encode", command, table, tested))


if __name__ == "__main__":
    main()

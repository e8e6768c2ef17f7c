"""Kill a harvest, and an encoding, at random moments until it is whole, and flip bytes of what it left.

    python tests/torture_harvest.py --kills 40 --flips 500 [--only harvest | codes]

Children are forked from one warmed process that runs no thread of its own. Every resumed folder must equal the
uninterrupted one byte for byte; every flipped byte must be noticed when it is opened.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from models import tiny_llama, tiny_tokenizer

from workbench import lineage
from workbench.dictionary import recipe
from workbench.harvest import Codes, Store, collect, encode
from workbench.site import Site
from workbench.subject import Subject

SITES = ["1.resid", "2.mlp_out"]


def texts(n: int = 60) -> list[str]:
    words = random.Random(0)
    return [" ".join(f"w{words.randrange(90)}" for _ in range(words.randrange(20, 300))) for _ in range(n)]


Make = Callable[[Path], Store | Codes]


def harvest(into: Path) -> Callable[[Path], Store]:
    """About a second of work in some twenty shards."""
    subject = Subject(tiny_llama(), tiny_tokenizer())
    return lambda folder: collect(
        subject,
        texts(),
        SITES,
        rows=6000,
        length=32,
        min_length=8,
        batch=4,
        shard_rows=256,
        calibrate=16,
        folder=folder,
        quiet=True,
    )


def codes(into: Path) -> Callable[[Path], Codes]:
    """Likewise, and its index by latent."""
    store = harvest(into)(into / "store")
    dictionary = recipe("topk_auxk", d=store.width(SITES[0]), latents=512, k=8).dictionary
    dictionary.site = dictionary.target = Site.of(SITES[0])

    slow: Any = Slow(dictionary)

    def make(folder: Path) -> Codes:
        made = encode(store, slow, folder, batch=60, shard_bytes=20_000, quiet=True)
        made.column(0)
        return made

    return make


class Slow:
    """A codec that takes its time, so that kills fall everywhere."""

    def __init__(self, codec: Any):
        self.codec = codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self.codec, name)

    def encode(self, x: torch.Tensor) -> Any:
        time.sleep(0.008)
        return self.codec.encode(x)


JOBS: dict[str, tuple[Callable[[Path], Make], Callable[[Path], Any]]] = {
    "harvest": (harvest, Store.open),
    "codes": (codes, Codes.open),
}


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: lineage.file_hash(path) for path in sorted(folder.iterdir())}


def child(work: Callable[[], Any]) -> int:
    """Process id of a fork that does the work and exits 0."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def kills(job: str, wanted: int, into: Path, seed: int = 0) -> dict[str, Any]:
    """SIGKILL at `wanted` random moments; how many folders they were spread over, and where they fell.

    Raises AssertionError when a resumed folder differs from the uninterrupted one.
    """
    make, opened = JOBS[job][0](into), JOBS[job][1]
    make(into / "warm")  # imports, first traces
    began = time.monotonic()
    assert os.waitpid(child(lambda: make(into / "whole")), 0)[1] == 0
    seconds = time.monotonic() - began
    whole, moments = hashes(into / "whole"), random.Random(seed)
    shards = sum(name.endswith(".safetensors") for name in whole)
    fell: list[int] = []
    folders = 0
    while len(fell) < wanted:
        folder, done = into / f"killed{folders}", False
        folders += 1
        while not done:
            pid = child(lambda folder=folder: make(folder))
            if len(fell) < wanted:
                time.sleep(moments.uniform(0, 1.1 * seconds))
                os.kill(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert status in (0, -signal.SIGKILL), f"a resumed {job} failed with exit code {status}"
            done = status == 0
            if not done:
                manifest = folder / "manifest.json"
                fell.append(len(lineage.read_json(manifest)["shards"]) if manifest.exists() else -1)
        assert hashes(folder) == whole, f"{folder} differs from the uninterrupted one"
        opened(folder)
        shutil.rmtree(folder)
    return {
        "kills": len(fell),
        "folders": folders,
        "seconds of one": seconds,
        "shards": shards,
        "kills before the manifest": sum(at < 0 for at in fell),
        "shards whole at the kills": sorted(fell),
    }


def flips(job: str, wanted: int, into: Path, seed: int = 0) -> dict[str, Any]:
    """Flip one random bit of one random byte at a time, half of them anywhere, half by kind of file.

    Raises AssertionError when one is not noticed.
    """
    store, opened = JOBS[job][0](into)(into / "flipped"), JOBS[job][1]
    for columns in store.folder.glob("columns.*"):
        columns.unlink()  # a damaged one is made again without a word
    places, seen = random.Random(seed), 0
    files = sorted(store.folder.iterdir())
    sizes = [path.stat().st_size for path in files]
    kinds = [files[-1:], files[-2:-1], files[:-2]]  # manifest, labels, shards
    missed, by_file = [], dict.fromkeys((path.name for path in files), 0)
    for i in range(wanted):
        path = places.choice(places.choice(kinds)) if i % 2 else places.choices(files, sizes)[0]
        at, bit = places.randrange(path.stat().st_size), 1 << places.randrange(8)
        with path.open("rb+") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ bit]))
        try:
            opened(store.folder)
            missed.append((path.name, at, bit))
        except (ValueError, FileNotFoundError):
            seen += 1
        with path.open("rb+") as file:
            file.seek(at)
            file.write(bytes([byte]))
        by_file[path.name] += 1
    assert not missed, f"flips that were not noticed: {missed}"
    opened(store.folder)
    return {
        "flips": wanted,
        "noticed": seen,
        "in the manifest": by_file["manifest.json"],
        "in the labels": by_file.get("labels.parquet", 0),
        "in shards": sum(count for name, count in by_file.items() if name.endswith(".safetensors")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(JOBS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for job in [options.only] if options.only else JOBS:
        for work, count in ((kills, options.kills), (flips, options.flips)):
            with tempfile.TemporaryDirectory() as folder:
                for name, value in work(job, count, Path(folder), options.seed).items():
                    sys.stdout.write(f"{job}: {name}: {value}\n")


if __name__ == "__main__":
    main()

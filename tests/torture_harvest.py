"""Kill a harvest at random moments until it is whole, and flip bytes of what it left: `--kills 40 --flips 500`.

Children are forked from one warmed process that runs no thread of its own. Every resumed harvest must equal the
uninterrupted one byte for byte; every flipped byte must be noticed when the store is opened.
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
from workbench.harvest import Store, collect
from workbench.subject import Subject

SITES = ["1.resid", "2.mlp_out"]


def texts(n: int = 60) -> list[str]:
    words = random.Random(0)
    return [" ".join(f"w{words.randrange(90)}" for _ in range(words.randrange(20, 300))) for _ in range(n)]


def harvest(subject: Subject, folder: Path) -> Store:
    """About a second of work in some twenty shards."""
    return collect(
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


def kills(wanted: int, into: Path, seed: int = 0) -> dict[str, Any]:
    """SIGKILL at `wanted` random moments; how many harvests they were spread over, and where they fell.

    Raises AssertionError when a resumed store differs from the uninterrupted one.
    """
    subject = Subject(tiny_llama(), tiny_tokenizer())
    harvest(subject, into / "warm")  # imports, first traces
    began = time.monotonic()
    assert os.waitpid(child(lambda: harvest(subject, into / "whole")), 0)[1] == 0
    seconds = time.monotonic() - began
    whole, moments = hashes(into / "whole"), random.Random(seed)
    shards = sum(name.endswith(".safetensors") for name in whole)
    fell: list[int] = []
    harvests = 0
    while len(fell) < wanted:
        folder, done = into / f"killed{harvests}", False
        harvests += 1
        while not done:
            pid = child(lambda folder=folder: harvest(subject, folder))
            if len(fell) < wanted:
                time.sleep(moments.uniform(0, 1.1 * seconds))
                os.kill(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert status in (0, -signal.SIGKILL), f"a resumed harvest failed with exit code {status}"
            done = status == 0
            if not done:
                manifest = folder / "manifest.json"
                fell.append(len(lineage.read_json(manifest)["shards"]) if manifest.exists() else -1)
        assert hashes(folder) == whole, f"{folder} differs from the uninterrupted harvest"
        Store.open(folder)
        shutil.rmtree(folder)
    return {
        "kills": len(fell),
        "harvests": harvests,
        "seconds of one harvest": seconds,
        "shards": shards,
        "kills before the manifest": sum(at < 0 for at in fell),
        "shards whole at the kills": sorted(fell),
    }


def flips(wanted: int, into: Path, seed: int = 0) -> dict[str, Any]:
    """Flip one random bit of one random byte at a time, half of them anywhere, half by kind of file.

    Raises AssertionError when one is not noticed.
    """
    subject = Subject(tiny_llama(), tiny_tokenizer())
    store = harvest(subject, into / "flipped")
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
            Store.open(store.folder)
            missed.append((path.name, at, bit))
        except (ValueError, FileNotFoundError):
            seen += 1
        with path.open("rb+") as file:
            file.seek(at)
            file.write(bytes([byte]))
        by_file[path.name] += 1
    assert not missed, f"flips that were not noticed: {missed}"
    assert Store.open(store.folder).hash == store.hash
    return {
        "flips": wanted,
        "noticed": seen,
        "in the manifest": by_file["manifest.json"],
        "in the labels": by_file["labels.parquet"],
        "in shards": wanted - by_file["manifest.json"] - by_file["labels.parquet"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for work, count in ((kills, options.kills), (flips, options.flips)):
        with tempfile.TemporaryDirectory() as folder:
            for name, value in work(count, Path(folder), options.seed).items():
                sys.stdout.write(f"{work.__name__}: {name}: {value}\n")


if __name__ == "__main__":
    main()

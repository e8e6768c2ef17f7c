"""Attribution graphs beside circuit-tracer's: the same model, transcoders, prompt and budget, in one run.

    python bench/tracers/compare.py [--budget 1000] [--batch 64] [--record]     half a minute
    python bench/tracers/compare.py --long [--record]                            ours alone, 1,024 tokens: eight minutes

Needs `workbench transcoders smollm2-135m`; makes circuit-tracer's environment from its freeze on first use. Each
library is a process of its own with as many threads; they take turns (A B A B). `seconds` is the call that makes a
graph, the model loaded; `MB` its peak resident memory above the loaded model, with --long that of the whole process.
Edges are compared where both have a row: the largest difference as a share of the sum of the row's absolute terms, and
of its largest term, both in float32. circuit-tracer's first position has no latents; both let it have them here.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent.parent))
from peers import install
from peers.feed import reset, status
from record import record

from workbench import Subject
from workbench.batch import Exclusion
from workbench.circuits.tracers import transcoder
from workbench.harvest import corpus
from workbench.regimes import layers
from workbench.subject import offline

HERE = Path(__file__).parent
install.HERE = HERE  # its freezes are here: the rows of trainers do not hang on them
NAME, TURNS, LONG, TOKENIZER = "smollm2-135m", 2, 500, "tokenizer_config.json"
TEXT = "Then, Mary and John went to the store. John gave a drink to"
TESTED = [f"workbench/circuits/{name}.py" for name in ("graph", "replacement", "targets", "tracers/transcoder")] + [
    "workbench/subject/freeze.py"
]


def environment() -> Path:
    """circuit-tracer's interpreter, made on first use."""
    try:
        return install.python("circuit_tracer")
    except FileNotFoundError:
        install.install("circuit_tracer")
        return install.python("circuit_tracer")


def export(path: Path) -> int:
    """All transcoders in one file, in the model's units and circuit-tracer's orientation; how many per row are on."""
    trained, weights, k = layers.transcoders(Subject(NAME)).dictionaries, {}, 0
    for layer, dictionary in trained.items():
        dictionary.fold_()
        k = dictionary.sparsifier.k
        weights |= {
            f"{layer}.W_enc": dictionary.encoder.weight.T, f"{layer}.b_enc": dictionary.encoder.bias,
            f"{layer}.W_dec": dictionary.atoms(), f"{layer}.b_dec": dictionary.decoder.bias,
            f"{layer}.W_skip": dictionary.skip.weight,
        }  # fmt: skip
    save_file({name: value.detach().contiguous() for name, value in weights.items()}, path)
    return int(k)


def readable(home: Path) -> Path:
    """The model's folder as transformers 4 can read it: its tokenizer is described otherwise."""
    folder = home / "model"
    folder.mkdir()
    for path in offline.folder(NAME).iterdir():
        (folder / path.name).symlink_to(path)
    said = json.loads((folder / TOKENIZER).read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    said.pop("extra_special_tokens", None)
    (folder / TOKENIZER).unlink()
    (folder / TOKENIZER).write_text(json.dumps(said))
    return folder


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """One graph in this process."""
    torch.set_num_threads(job["threads"])
    subject = Subject(NAME)
    trained = layers.transcoders(subject).dictionaries
    if not job["long"]:
        subject.exclusion = Exclusion(first=False, special=False)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading freed goes back, or the graph would seem to need less
    before = 0 if job["long"] else status("VmRSS")
    reset()
    began = time.perf_counter()
    graph = transcoder.trace(
        subject, torch.tensor([job["ids"]]), trained, budget=job["budget"], batch=job["batch"], progress=False
    )
    seconds, peak = time.perf_counter() - began, status("VmHWM") - before
    worst = float(graph.misses().max())
    if not job["long"]:
        kept = graph.without("bias", "unexplored")
        nodes = kept.nodes
        full = torch.zeros(len(nodes), len(nodes))
        full[kept.targets] = kept.edges
        latent = nodes[nodes["kind"] == "latent"][["layer", "pos", "latent"]].to_numpy()
        save_file({"edges": full, "latents": torch.from_numpy(latent.astype("int64").copy())}, job["out"])
    return {"seconds": seconds, "peak": peak, "active": len(graph.nodes), "misses": worst, "scores": graph.scores()}


def compare(first: Path, second: Path) -> dict[str, float]:
    """Ours against theirs, where both have a row: latents, then logits."""
    a, b = load_file(first), load_file(second)
    mine, theirs = ({tuple(row): i for i, row in enumerate(t["latents"].tolist())} for t in (a, b))
    both = sorted(mine.keys() & theirs.keys())
    rest = len(b["edges"]) - len(theirs)  # errors, tokens, logits stand in one order
    if len(a["edges"]) - len(mine) != rest:
        raise ValueError(f"other nodes are {len(a['edges']) - len(mine)} and {rest}: the targets differ")
    picks = [
        torch.tensor([*(places[key] for key in both), *range(len(places), len(places) + rest)])
        for places in (mine, theirs)
    ]
    x, y = a["edges"][picks[0]][:, picks[0]], b["edges"][picks[1]][:, picks[1]]
    rows = y.abs().amax(1) > 0
    off, y = (x - y)[rows].abs().amax(1), y[rows].abs()
    return {
        "rows": int(rows.sum()),
        "largest difference of sums": float((off / y.sum(1)).max()),
        "of largest terms": float((off / y.amax(1)).max()),
        "median": float((off / y.amax(1)).median()),
    }


def turn(command: list[str], job: dict[str, Any], home: Path) -> dict[str, Any]:
    path = home / "job.json"
    path.write_text(json.dumps(job))
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--long", action="store_true", help="a prompt of 1,024 tokens, ours alone")
    parser.add_argument(
        "--record", action="store_true", help="write docs/measurements/circuit_tracer.json, circuit_long"
    )
    parser.add_argument("--ours", metavar="JOB", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        print(json.dumps(ours(json.loads(Path(options.ours).read_text()))))
        return
    subject = Subject(NAME)
    job = {"layers": subject.layers, "threads": torch.get_num_threads(), "batch": options.batch}
    mine = [sys.executable, str(HERE / "compare.py"), "--ours"]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if options.long:
            ids = subject.tokenize("\n".join(list(corpus())[:20]), length=1024).ids[0].tolist()
            last = turn(mine, job | {"ids": ids, "long": True, "budget": LONG, "out": ""}, home)
            row = {"way": "workbench, whole process", "tokens": len(ids), "budget": LONG, "batch": options.batch}
            rows, name = [row | {"seconds": last["seconds"], "MB": last["peak"] / 1e6}], "circuit_long"
        else:
            rows, name = beside(job | {"budget": options.budget}, subject, mine, home), "circuit_tracer"
    for row in rows:
        print(row)
    if options.record:
        how = (
            "python bench/tracers/compare.py --long --record"
            if options.long
            else "python bench/tracers/compare.py --record"
        )
        record(name, how, rows, TESTED)


def beside(job: dict[str, Any], subject: Subject, mine: list[str], home: Path) -> list[dict[str, Any]]:
    """Both libraries by turns, a row each."""
    file = home / "transcoders.safetensors"
    job |= {"model": str(readable(home)), "transcoders": str(file), "long": False, "k": export(file),
            "ids": [0, *subject.tokens(TEXT).ids[0].tolist()]}  # fmt: skip
    ways = {"workbench": mine, "circuit-tracer": [str(environment()), str(HERE / "run_circuit_tracer.py")]}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, command in ways.items():
            found[name].append(turn(command, job | {"out": str(home / name)}, home))
            print(name, found[name][-1], flush=True)
    rows = []
    for name, runs in found.items():
        seconds, peak = median(r["seconds"] for r in runs), median(r["peak"] for r in runs)
        rows.append({"way": name, "tokens": len(job["ids"]), "budget": job["budget"], "batch": job["batch"],
                     "seconds": seconds, "MB": peak / 1e6})  # fmt: skip
    rows[0] |= compare(home / "workbench", home / "circuit-tracer")
    rows[1] |= {"x time": rows[1]["seconds"] / rows[0]["seconds"], "x memory": rows[1]["MB"] / rows[0]["MB"]}
    return rows


if __name__ == "__main__":
    main()

"""Circuits in SmolLM2-135M end to end: graphs of three tasks, their scores, and whether their latents do what they say.

    python bench/circuits.py [--sets ioi greater_than docstring] [--prompts 3] [--budget 2000] [--record]

Needs `workbench transcoders smollm2-135m`, whose quality it records too. Each prompt is traced in a process of its own,
on the mean logit of the right answers less that of the wrong ones; prompts are the set's first that the model gets
right. `seconds` is the graph, `GB` the peak of the whole process, model and transcoders included. `pruned nodes` carry
0.8 of the influence, tokens and logits beside them; `at most`: the same with no more than 200 nodes, `influence kept`
their share of all nodes' influence.
Interventions: each of the 30 latents of most influence is taken away in the model itself, whose MLPs and norms react;
attention patterns held (`frozen`) or not (`free`). `sign` is the share of them that move the target as
`faithful.predicted` says, `chance` the share of the commoner sign; `rank` is Spearman's correlation of predicted and
observed (`faithful.agreement`). Intervals: 95 %, latents resampled within their prompts.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from peers.feed import status
from record import record

from workbench import Subject
from workbench.circuits import faithful
from workbench.circuits.targets import difference
from workbench.circuits.tracers import transcoder
from workbench.regimes import layers
from workbench.testbeds import prompt_set

NAME, NODES, MOST = "smollm2-135m", 30, 200
TESTED = [f"workbench/circuits/{name}.py" for name in ("graph", "replacement", "targets", "tracers/transcoder")] + [
    "workbench/circuits/faithful.py",
    "workbench/subject/freeze.py",
    "workbench/regimes/layers.py",
]


def one(name: str, which: int, budget: int) -> dict[str, Any]:
    """A prompt's graph and its interventions, in this process."""
    subject = Subject(NAME)
    transcoders = layers.transcoders(subject).dictionaries
    text, targets = chosen(subject, name, which + 1)[which]
    began = time.perf_counter()
    graph = transcoder.trace(subject, text, transcoders, targets, budget=budget).check()
    seconds = time.perf_counter() - began
    pruned, small = graph.prune(), graph.prune(most=MOST)
    kept = graph.influence()[[i for i, label in enumerate(graph.nodes["label"]) if label in set(small.nodes["label"])]]
    row = {"tokens": int((graph.nodes["kind"] == "token").sum()), "seconds": seconds, "GB": status("VmHWM") / 1e9,
           "visited": len(graph.targets) - 1, **graph.scores(), "pruned nodes": len(pruned.nodes),
           "at most": len(small.nodes), "influence kept": float(kept.sum() / graph.influence().sum()),
           "edges": int((small.edges != 0).sum())}  # fmt: skip
    latent = graph.of("latent")
    nodes = torch.where(latent, graph.influence(), -1.0).topk(NODES).indices.tolist()
    said = faithful.predicted(graph)[0, nodes]
    done = {
        way: faithful.observed(subject, text, transcoders, graph, nodes, targets, frozen=way == "frozen")[0].tolist()
        for way in ("frozen", "free")
    }
    return {"text": text, "row": row, "predicted": said.tolist(), **done}


def chosen(subject: Subject, name: str, count: int) -> list[tuple[str, Any]]:
    """The first prompts of a set that the model gets right, each with what its graph explains."""
    prompts, found = prompt_set(name, n=4 * count), []
    for text, right, wrong in zip(prompts.texts, prompts.right, prompts.wrong, strict=True):
        targets = difference(subject, right, wrong)
        if float(subject.run(subject.tokens(text)).logits[0, -1] @ targets[0].of) > 0:
            found.append((text, targets))
    return found[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=["ioi", "greater_than", "docstring"])
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--budget", type=int, default=2000)
    parser.add_argument("--one", nargs=2, metavar=("SET", "WHICH"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--record", action="store_true", help="write docs/measurements/circuits*.json, transcoders.json"
    )
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one[0], int(options.one[1]), options.budget)))
        return
    graphs, moves = [], []
    for name in options.sets:
        results = []
        for which in range(options.prompts):
            command = [sys.executable, __file__, "--budget", str(options.budget), "--one", name, str(which)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            graphs.append({"set": name, "prompt": which, "budget": options.budget, **results[-1]["row"]})
            print(graphs[-1], flush=True)
        for way in ("frozen", "free"):
            table = faithful.agreement(*([torch.tensor(r[key]) for r in results] for key in ("predicted", way)))
            moves += [
                {"set": name, "attention": way, "prompts": len(results), **row} for row in table.to_dict("records")
            ]
            print(table.assign(set=name, attention=way).round(3).to_string(index=False, header=False), flush=True)
    quality = layers.transcoders(Subject(NAME)).quality
    print(quality.round(3).to_string(index=False))
    if options.record:
        command = "python bench/circuits.py --record"
        record("circuits", command, graphs, TESTED)
        record("circuits_interventions", command, moves, TESTED)
        record("transcoders", "workbench transcoders smollm2-135m; " + command, quality.to_dict("records"), TESTED[-1:])


if __name__ == "__main__":
    main()

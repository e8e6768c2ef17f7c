"""Greater-than on SmolLM2-135M: are the digits ordered in what the task's latents read and write, by weights alone?

    python bench/greater_than.py [--prompts 10] [--record]

Needs `workbench transcoders smollm2-135m`. The latents are the 20 of most influence over the prompts' attribution
graphs. `order` is the mean over latents of |Spearman's correlation| of the digits 0 to 9 with a latent's weights on
them: `read` by their embeddings (`weights.deembed`), `written` to their logits (its atom times the final norm's gain).
Chance is what ten unordered numbers give. Beside it the same for all other latents that are on in these graphs, and
the difference of the two; 95 % intervals resample latents.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from circuits import NAME, chosen
from record import record

from workbench import Subject
from workbench.circuits.tracers import transcoder, weights
from workbench.regimes import layers

TOP, RESAMPLES = 20, 2000
TESTED = [f"workbench/circuits/{name}.py" for name in ("graph", "replacement", "targets", "tracers/transcoder")] + [
    "workbench/circuits/tracers/weights.py"
]


def ordered(values: Tensor) -> np.ndarray:
    """|rank correlation| of each row with 0..9."""
    ranks = values.argsort(-1).argsort(-1).double().numpy()
    digits = np.arange(10.0)
    centred = ranks - ranks.mean(-1, keepdims=True)
    return np.abs(centred @ (digits - digits.mean())) / (
        np.linalg.norm(centred, axis=-1) * np.linalg.norm(digits - 4.5)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--record", action="store_true", help="write docs/measurements/greater_than.json")
    options = parser.parse_args()
    subject = Subject(NAME)
    trained = layers.transcoders(subject).dictionaries
    total: dict[tuple[int, int], float] = {}
    for text, targets in chosen(subject, "greater_than", options.prompts):
        graph = transcoder.trace(subject, text, trained, targets, budget=1000, progress=False)
        influence = graph.influence().tolist()
        for node in graph.nodes[graph.nodes["kind"] == "latent"].itertuples():
            key = (int(node.layer), int(node.latent))
            total[key] = total.get(key, 0.0) + influence[node.Index]
    ranked = sorted(total, key=lambda key: -total[key])
    digits = torch.tensor([subject.tokenizer(str(i), add_special_tokens=False)["input_ids"][0] for i in range(10)])
    embedded = subject.model.get_input_embeddings()(digits).detach()  # type: ignore[operator]
    heard = subject.unembed[digits] * subject.gain
    read, written = torch.zeros(len(ranked), 10), torch.zeros(len(ranked), 10)
    for layer in sorted({at for at, _ in ranked}):
        places = [i for i, (at, _) in enumerate(ranked) if at == layer]
        of = sorted({ranked[i][1] for i in places})
        table = weights.deembed(subject, trained, layer, of=of, rows=embedded, count=10 * len(of))
        wide = table.pivot(index="latent", columns="token", values="weight")
        for i in places:
            read[i] = torch.tensor(wide.loc[ranked[i][1]].to_numpy())
        written[places] = trained[layer].atoms([ranked[i][1] for i in places]) @ heard.T
    drawn, rows = np.random.default_rng(0), []
    for way, values in (("read", read), ("written", written)):
        size = ordered(values)
        task, rest = size[:TOP], size[TOP:]
        means, gaps = [], []
        for _ in range(RESAMPLES):
            means.append(drawn.choice(task, len(task)).mean())
            gaps.append(means[-1] - drawn.choice(rest, len(rest)).mean())
        null = ordered(torch.from_numpy(np.stack([drawn.permutation(10) for _ in range(20_000)])))
        low, high = np.quantile(means, [0.025, 0.975]).tolist()
        below, above = np.quantile(gaps, [0.025, 0.975]).tolist()
        rows.append({"way": way, "latents": len(task), "order": float(task.mean()), "low": low, "high": high,
                     "chance": float(null.mean()), "others": len(rest), "order of others": float(rest.mean()),
                     "difference": float(task.mean() - rest.mean()), "from": below, "to": above})  # fmt: skip
        print(rows[-1])
    for i in range(TOP):
        layer, latent = ranked[i]
        print(f"{layer}/{latent}", "read", [round(v, 2) for v in read[i].tolist()], "written",
              [round(v, 2) for v in written[i].tolist()])  # fmt: skip
    if options.record:
        record("greater_than", "python bench/greater_than.py --record", rows, TESTED)


if __name__ == "__main__":
    main()

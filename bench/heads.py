"""Which heads do a task? Discrete codes and dictionary attributions against the exact oracle, on SmolLM2-135M.

    python bench/heads.py [--sets ioi greater_than docstring] [--record]

Oracle: a head's output at the last position is replaced by that of the corrupted prompt, one head at a time, and the
task's logit difference falls by so much (mean over the prompts). Its tenth of largest size are the task's heads; AUC is
how well a score finds them, 0.5 by chance, `p` the share of 1,000 permutations of the oracle's labels with as high an
AUC, intervals by resampling heads. Scores: `discrete` (excess over its null, no ablation, no gradient; as many
corrupted prompts as prompts); `dictionary`
(TopK dictionaries of every layer's head outputs, trained here: each active latent's worth by its gradient, shared out
by `attention_features.by_head`); `gradient` (the same without a dictionary, for comparison).
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from record import record

from workbench import Subject, edit, lineage
from workbench.batch import Tokens
from workbench.circuits.targets import difference
from workbench.circuits.tracers import attention_features, discrete
from workbench.dictionary import Dictionary, recipe, train
from workbench.harvest import Live
from workbench.regimes.layers import mixture, together
from workbench.regimes.streams import place
from workbench.site import Site
from workbench.testbeds import prompt_set

NAME, PROMPTS, MANY, TOP, RESAMPLES = "smollm2-135m", 10, 60, 0.1, 1000
TOKENS, BATCH, LATENTS, K = 60_000, 4, 512, 16
TESTED = ["workbench/circuits/tracers/attention_features.py", "workbench/circuits/tracers/discrete.py"]


def dictionaries(subject: Subject) -> list[Dictionary]:
    """A TopK dictionary of each layer's head outputs, kept in the cache."""
    sites = [Site(layer, "heads") for layer in range(subject.layers)]
    stream = Live(subject, mixture(), site=sites, steps=TOKENS // (BATCH * 128), batch=BATCH)
    said = {"subject": subject.fingerprint, "tokens": TOKENS, "latents": LATENTS, "k": K}
    home = lineage.cache() / "head_dictionaries" / lineage.fingerprint(said)

    def work(i: int) -> Any:
        made = recipe("topk", d=subject.width(sites[i]), latents=LATENTS, k=K, seed=0)
        return lambda rows: train(
            made, rows, site=sites[i], lr=3e-3, folder=home / str(i), progress=False, **place(stream)
        )

    return together(stream, [work(i) for i in range(len(sites))])


def corrupted(name: str, text: str, labels: Any, other: Any) -> str:
    """The prompt with what the answer rests on taken away: another name, the year 01, another parameter."""
    if name == "ioi":  # the repeated name is a third one at its last place
        head, _, tail = text.rpartition(labels["s"])
        return head + other["s"] + tail
    if name == "greater_than":
        year = next(word for word in text.split() if word.isdigit() and len(word) == 4)
        return text.replace(year, year[:2] + "01", 1)
    answer = labels["answer"]
    return text.replace(answer, other["answer"], 1)  # in the definition only


def pairs(subject: Subject, name: str, most: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Clean and corrupted prompts of one length that the model gets right, and what is asked of each's logits."""
    prompts = prompt_set(name, n=400)
    known: dict[int, list[Any]] = {}
    rows = prompts.labels.to_dict("records")
    for i, text in enumerate(prompts.texts):
        labels, other = (row | {"answer": prompts.right[j][0].strip()} for j, row in
                         ((i, rows[i]), ((i + 7) % len(rows), rows[(i + 7) % len(rows)])))  # fmt: skip
        bad = corrupted(name, text, labels, other)
        one, two = (subject.tokens(t).ids[0] for t in (text, bad))
        of = difference(subject, prompts.right[i], prompts.wrong[i])[0].of
        if len(one) != len(two) or torch.equal(one, two):
            continue
        logits = subject.run(torch.stack([one, two])).logits[:, -1] @ of
        if logits[0] > max(0, logits[1]):
            known.setdefault(len(one), []).append((one, two, of))
        if len(known.get(len(one), [])) == most:
            break
    found = max(known.values(), key=len)
    return torch.stack([a for a, _, _ in found]), torch.stack([b for _, b, _ in found]), [c for *_, c in found]


def asked(logits: Tensor, of: list[Tensor]) -> Tensor:
    return (logits[:, -1].float() * torch.stack(of)).sum(-1)


@torch.no_grad()
def oracle(subject: Subject, clean: Tensor, bad: Tensor, of: list[Tensor]) -> Tensor:
    """(layer, head): how much the logit difference falls."""
    sites = [Site(layer, "heads") for layer in range(subject.layers)]
    other, base = subject.read(bad, sites), asked(subject.run(clean).logits, of)
    heads = subject.config.num_attention_heads  # type: ignore[union-attr]
    found = torch.zeros(len(sites), heads)
    for layer, site in enumerate(tqdm(sites, desc="oracle")):
        for head in range(heads):
            width = other[site].shape[-1] // heads
            part = slice(head * width, (head + 1) * width)

            def change(h: Tensor, at: edit.At, site: Site = site, part: slice = part) -> Tensor:
                h = h.clone()
                h[:, -1, part] = other[site][:, -1, part].to(h.dtype)
                return h

            found[layer, head] = (base - asked(subject.run(clean, {site: edit.function(change)}).logits, of)).mean()
    return found


def excess(subject: Subject, clean: Tensor, bad: Tensor) -> Tensor:
    return torch.tensor(discrete.heads(subject, clean, bad)["excess"].to_numpy()).clamp_min(0)


def through(subject: Subject, clean: Tensor, of: list[Tensor], found: list[Dictionary]) -> tuple[Tensor, Tensor]:
    """(layer, head) by latents' gradients shared out over heads, and by heads' gradients, at the last position."""
    sites, heads = [Site(layer, "heads") for layer in range(subject.layers)], subject.config.num_attention_heads
    tokens = Tokens(clean, torch.ones_like(clean, dtype=torch.bool))
    grads = subject.gradients(tokens, sites, lambda logits: asked(logits, of).sum())
    z = subject.read(tokens, sites)
    by_latent, plain = torch.zeros(len(sites), heads), torch.zeros(len(sites), heads)
    for layer, (site, dictionary) in enumerate(zip(sites, found, strict=True)):
        g, last = grads[site][:, -1], z[site][:, -1]
        plain[layer] = (g * last).unflatten(-1, (heads, -1)).sum(-1).mean(0)
        for i in range(len(clean)):
            _, latent, value = dictionary.encode(last[i : i + 1]).entries()
            worth = value * (dictionary.atoms(latent) @ g[i])
            if not len(latent):
                continue
            table = attention_features.by_head(subject, clean[i : i + 1], dictionary, pos=clean.shape[1] - 1)
            adds = torch.tensor(
                table.pivot(index="latent", columns="head", values="adds").loc[latent.tolist()].to_numpy()
            )
            by_latent[layer] += (adds[:, 1:].float() / value[:, None] * worth[:, None]).sum(0) / len(clean)
    return by_latent, plain


def auc(score: np.ndarray, label: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, score))


def judged(score: Tensor, true: Tensor) -> dict[str, float]:
    """AUC for the oracle's top heads with interval and permutation p, and the rank correlation of sizes."""
    from scipy.stats import spearmanr

    size, drawn = true.abs().flatten().numpy(), np.random.default_rng(0)
    label, value = size >= np.quantile(size, 1 - TOP), score.abs().flatten().numpy()
    found = auc(value, label)
    null = [auc(value, drawn.permutation(label)) for _ in range(RESAMPLES)]
    picks = [drawn.integers(len(label), size=len(label)) for _ in range(RESAMPLES)]
    low, high = np.quantile([auc(value[i], label[i]) for i in picks if label[i].any()], [0.025, 0.975])
    p = (1 + sum(other >= found for other in null)) / (1 + RESAMPLES)
    return {"AUC": found, "low": float(low), "high": float(high), "null 95 %": float(np.quantile(null, 0.95)), "p": p,
            "rank": float(spearmanr(value, size).statistic)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=["ioi", "greater_than", "docstring"])
    parser.add_argument("--record", action="store_true", help="write docs/measurements/heads.json")
    options = parser.parse_args()
    subject, rows = Subject(NAME), []
    found = dictionaries(subject)
    for name in options.sets:
        many, spoilt, _ = pairs(subject, name, MANY)
        clean, bad, of = pairs(subject, name, PROMPTS)
        true = oracle(subject, clean, bad, of)
        ways = {("discrete", len(a)): excess(subject, a, b).view_as(true) for a, b in ((clean, bad), (many, spoilt))}
        for way, score in zip(("dictionary", "gradient"), through(subject, clean, of, found), strict=True):
            ways[way, len(clean)] = score
        for (way, prompts), score in ways.items():
            rows.append({"set": name, "way": way, "prompts": prompts, "heads": true.numel(), **judged(score, true)})
            print(rows[-1], flush=True)
    if options.record:
        record("heads", "python bench/heads.py --record", rows, TESTED)


if __name__ == "__main__":
    main()

"""The eight evaluations of SAEBench's kind, trained against random dictionaries, on three subjects: scores and seconds.

    python bench/evaluate.py [--record] [--only facts|tiny_text|smollm2-135m]

A trained BatchTopK dictionary and one of random atoms stand on the same held-out rows. `seconds` are of one dictionary;
harvest, training and the reading of labelled texts are rows of their own. `apart` says whether the two intervals are.
Judging explanations by embedding stands for the eighth until there are judges (`interpret/scorers/embedding.py`).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from record import record

import workbench as wb
from workbench import evaluate, interpret, testbeds
from workbench.batch import Tokens
from workbench.evaluate import Case
from workbench.evaluate.tasks import facts, spurious, texts, words
from workbench.interpret.scorers.embedding import embedding
from workbench.testbeds.worlds.facts import ID, WORLD

COMMAND = "python bench/evaluate.py --record"
TESTED = [
    "workbench/evaluate/*.py", "workbench/evaluate/evals/*.py", "workbench/evaluate/tasks/*.py",
    "workbench/interpret/scorers/*.py", "bench/evaluate.py",
]  # fmt: skip
CORE = ("reconstruction", "sparsity", "delta_ce", "loss_recovered", "kl")
SHOWN = {  # the numbers of an eval that the table shows
    "reconstruction": ("fvu",),
    "sparsity": ("l0",),
    "delta_ce": ("delta_ce",),
    "loss_recovered": ("loss_recovered_mean",),
    "kl": ("kl",),
}
LATENTS = 150  # whose explanations are judged


@dataclass
class Bench:
    """A subject at a site: how its rows are harvested, which dictionary is trained, what it is judged on."""

    subject: wb.Subject
    site: str
    corpus: Any
    rows: int | None
    length: int
    latents: int
    k: int
    steps: int
    batch: int
    lr: float
    given: Callable[[wb.Subject, str], dict[str, Any]]
    evals: tuple[str, ...]
    texts: int  # token rows to splice into
    explained: bool = False


def subjects() -> dict[str, Callable[[], Bench]]:
    return {"facts": _facts, "tiny_text": _tiny_text, "smollm2-135m": _smollm2}


def _facts() -> Bench:
    told = WORLD.told(asked=False).ids
    return Bench(
        subject=testbeds.subject("facts"),
        site="1.resid",
        corpus=Tokens(told, told != ID["<pad>"]),
        rows=None,
        length=told.shape[1],
        latents=768,
        k=8,
        steps=1500,
        batch=1024,
        lr=2e-3,
        given=lambda s, site: {
            "labelled": spurious.facts(site),
            "spurious": spurious.told(site),
            "swaps": facts.swaps(s),
            "forgetting": facts.forgetting(s, what="trade"),
        },
        evals=(*CORE, "sparse_probing", "tpp", "scr", "ravel", "unlearning"),
        texts=300,
    )


def _tiny_text() -> Bench:
    ids = testbeds.world("tiny_text").sample(2000, 7).ids
    return Bench(
        subject=testbeds.subject("tiny_text_gelu"),
        site="1.resid",
        corpus=Tokens(ids, ids >= 0),
        rows=None,
        length=ids.shape[1],
        latents=1024,
        k=16,
        steps=1500,
        batch=1024,
        lr=2e-3,
        given=lambda s, site: {"labelled": texts.sources(s, site, 800, words=16).examples},
        evals=(*CORE, "sparse_probing", "tpp"),
        texts=200,
        explained=True,
    )


def _smollm2() -> Bench:
    return Bench(
        subject=wb.Subject("smollm2-135m", dtype="auto"),
        site="8.resid",
        corpus=wb.corpus("pack"),
        rows=100_000,
        length=128,
        latents=4608,
        k=32,
        steps=300,
        batch=2048,
        lr=1e-3,
        given=lambda s, site: {
            "words": words.words(s, site, words=words.vocabulary(s, 200)),
            "labelled": texts.sources(s, site, 2100, words=24).examples,
        },
        evals=(*CORE, "absorption", "sparse_probing"),
        texts=64,
    )


def measured(name: str, bench: Bench) -> list[dict[str, Any]]:
    """Rows of the table: what was needed, then every headline of both dictionaries."""
    s, site, spent = bench.subject, bench.site, {}
    began = time.perf_counter()
    home = tempfile.TemporaryDirectory()  # a store that the cache holds would cost nothing
    store = wb.collect(s, bench.corpus, [site], rows=bench.rows, length=bench.length, folder=home.name, quiet=True)
    spent["harvest"] = time.perf_counter() - began
    train, test = store.split(by="text", test=0.2)
    began = time.perf_counter()
    recipes = [
        wb.recipe("batch_topk", d=s.width(site), latents=bench.latents, k=bench.k),
        wb.recipe("random_atoms", d=s.width(site), latents=bench.latents, k=bench.k),
    ]
    stream = train.stream(bench.batch, site=site, steps=bench.steps)
    made = wb.train(
        recipes,
        stream,
        site=site,
        exclusion=store.exclusion,
        subject_fingerprint=s.fingerprint,
        lr=bench.lr,
        progress=False,
    )
    spent["training of both"] = time.perf_counter() - began
    began = time.perf_counter()
    given = bench.given(s, site)
    spent["labelled texts"] = time.perf_counter() - began
    tokens, documents = evaluate.held_out(test, bench.texts)
    cases = [
        Case(codec, s, test, tokens, documents, label, given=given)
        for label, codec in zip(("trained", "random"), made, strict=True)
    ]
    table = evaluate.run(cases, bench.evals, errors="raise")
    rows = [{"subject": name, "eval": what, "seconds": seconds} for what, seconds in spent.items()]
    for eval in bench.evals:
        part = table[table["eval"] == eval]
        shown = SHOWN.get(eval, (part["metric"].iloc[0],))
        rows += [_row(name, eval, part, metric) for metric in shown]
    if bench.explained:
        rows.append(_explained(name, s, dict(zip(("trained", "random"), made, strict=True)), test))
    return rows


def _row(name: str, eval: str, part: pd.DataFrame, metric: str) -> dict[str, Any]:
    of = part[part["metric"] == metric].set_index("dictionary")
    a, b = of.loc["trained"], of.loc["random"]
    seconds = part.drop_duplicates("dictionary")["seconds"].mean()
    chance = float(a["chance"])
    return {
        "subject": name,
        "eval": eval,
        "metric": f"{metric} ({a['direction']})",
        "trained": _said(a),
        "random": _said(b),
        "chance": f"{chance:.3g}" if chance == chance else "",
        "apart": "yes" if a["low"] > b["high"] or b["low"] > a["high"] else "no",
        "n": f"{a['n']:,} {a['counted']}",
        "seconds": float(seconds),
    }


def _said(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def _explained(name: str, subject: wb.Subject, codecs: Mapping[str, Any], test: Any) -> dict[str, Any]:
    """Mean area over latents drawn at random, its interval over latents, beside that of another's explanation."""
    encoder, found, began = wb.Subject("minilm"), {}, time.perf_counter()
    for label, codec in codecs.items():
        index = interpret.index(codec, test, subject)
        alive = torch.from_numpy(index.alive).nonzero()[:, 0]
        drawn = alive[torch.randperm(len(alive), generator=torch.Generator().manual_seed(0))[:LATENTS]]
        found[label] = embedding(index, drawn.tolist(), encoder=encoder).dropna(subset="auc")
    means = {label: (t["auc"].mean(), 1.96 * t["auc"].std() / len(t) ** 0.5) for label, t in found.items()}
    said = {label: f"{m:.3g} [{m - h:.3g}, {m + h:.3g}]" for label, (m, h) in means.items()}
    (a, ha), (b, hb) = means["trained"], means["random"]
    return {
        "subject": name,
        "eval": "explanations, by embedding",
        "metric": "auc (higher)",
        **said,
        "chance": f"{found['trained']['shuffled'].mean():.3g}",
        "apart": "yes" if abs(a - b) > ha + hb else "no",
        "n": f"{len(found['trained'])} latents",
        "seconds": (time.perf_counter() - began) / 2,
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--record", action="store_true", help="write docs/measurements/evaluate.json")
    asked.add_argument("--only", choices=list(subjects()))
    given = asked.parse_args()
    began, rows = time.perf_counter(), []
    for name, make in subjects().items():
        if given.only in (None, name):
            rows += measured(name, make())
            for row in rows:
                if row["subject"] == name:
                    sys.stdout.write(
                        "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()) + "\n"
                    )
            sys.stdout.flush()
    rows.append({"subject": "all", "eval": "everything", "seconds": time.perf_counter() - began})
    sys.stdout.write(f"{rows[-1]['seconds']:.0f} s in all\n")
    if given.record:
        record("evaluate", COMMAND, rows, TESTED)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()

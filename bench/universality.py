"""Do latents of SmolLM2-135M and of another model that fire on the same words have atoms that lie alike?

    python bench/universality.py [--b gemma3-270m minilm] [--rows 100000] [--latents 2304] [--record]

One dictionary of each model's middle layer, trained on its own tokens of the same texts; latents are paired by their
values at the words that both read, on texts that neither dictionary has seen. Gemma is opt-in: where its model is not
in the cache, a line says so. MiniLM is a text encoder that reads in both directions.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from record import record

import workbench as wb
from workbench.geometry.align import align
from workbench.geometry.models import about, by_words, correlate, one_to_one, top_words, universality
from workbench.subject import offline

A, K, SIZE, EPOCHS, LENGTH = "smollm2-135m", 32, 1024, 4, 128
TRAIN, TEST = 4_000, 600  # texts
SUBSPACES = {
    "time": "day days week month year years morning evening night hour hours time moment winter summer today",
    "people": "man men woman women people mother father sister brother king president captain lady sir mr mrs he she",
    "states": "america united states england france spain mexico government congress nation country union war peace",
    "sea": "sea ship ships whale whales boat water captain sail vessel ocean fish",
}
TESTED = [*(f"workbench/geometry/{name}.py" for name in ("align", "models", "similarity")), "bench/universality.py"]


def texts() -> tuple[list[str], list[str]]:
    """Beginnings of documents, cut at a space: those that dictionaries are trained on, and others."""
    found = []
    for text in wb.corpus("pack"):
        text = text[:500].rpartition(" ")[0]
        if len(text) > 40:
            found.append(text)
        if len(found) == TRAIN + TEST:
            break
    return found[TEST:], found[:TEST]


def learnt(subject: Any, train: Sequence[str], test: Sequence[str], rows: int, latents: int) -> tuple[Any, Any, Any]:
    """The dictionary of the middle layer, its code of the held-out rows, and where these stand."""
    site = f"{subject.layers // 2}.resid"
    store = wb.collect(subject, train, [site], rows=rows, length=LENGTH)
    held = wb.collect(subject, subject.tokenize(test, LENGTH), [site], rows=None)
    made = wb.recipe("batch_topk", d=subject.width(site), latents=latents, k=K)
    stream = store.stream(SIZE, site=site, epochs=EPOCHS)
    dictionary = wb.train(made, stream, site=site, exclusion=store.exclusion, lr=1e-3, progress=False)
    every = torch.arange(held.rows)
    text, pos = held.where(every)
    with torch.no_grad():
        code = wb.Code.cat([dictionary.encode(part).to_csr() for part in held.gather(every, site).split(4096)])
    return dictionary, code, (held.texts[text], pos)


def compared(
    b: Any, a: Any, known: Any, train: Sequence[str], test: Sequence[str], options: Any
) -> list[dict[str, Any]]:
    """A line for each group of pairs and measure."""
    (left, code_a, at_a), (right, code_b, at_b) = known, learnt(b, train, test, options.rows, options.latents)
    aligned = align(a, b, test, length=LENGTH)
    which, rows_a, rows_b = aligned.rows(at_a, at_b)
    words = [aligned.word[i] for i in which.tolist()]
    sys.stdout.write(f"{a.name} and {b.name}: {aligned.caption} {len(which):,} of them have a row of both.\n")
    said = [top_words(code, words, rows=rows) for code, rows in ((code_a, rows_a), (code_b, rows_b))]
    pairs = correlate(code_a, code_b, rows=(rows_a, rows_b))
    order = torch.randperm(len(rows_b), generator=torch.Generator().manual_seed(0))
    chance = correlate(code_a, code_b, rows=(rows_a, rows_b[order]))
    shares = [len(p.right) / len(p.live_b) for p in (pairs, chance)]
    sys.stdout.write(
        f"{shares[0]:.1%} of {len(pairs.live_b):,} live latents of {b.name} have a partner above 0.1, "
        f"median correlation {float(pairs.correlations.median()):.2f}; with rows shuffled {shares[1]:.1%}\n"
    )
    single = one_to_one(by_words(pairs, *said))
    groups = {"all": pairs, "one to one": one_to_one(pairs), "same words": single}
    groups |= {name: about(single, *said, words.split()) for name, words in SUBSPACES.items()}
    found = universality(left.atoms().detach(), right.atoms().detach(), groups, draws=options.draws)
    sys.stdout.write(f"{found.caption}\n{found.table.to_string()}\n")
    extra = {"a": a.name, "b": b.name, "rows": pairs.rows, "paired": shares[0], "paired by chance": shares[1]}
    return [extra | row for row in found.table.to_dict("records")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--b", nargs="*", default=["gemma3-270m", "minilm"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--latents", type=int, default=2304)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--record", action="store_true", help="write docs/measurements/universality.json")
    options = parser.parse_args()
    train, test = texts()
    rows: list[dict[str, Any]] = []
    a, known = None, None
    for name in options.b:
        if not offline.cached(name):
            sys.stdout.write(f"{name} is not present (not in the cache, and fetched on request only): not measured\n")
            rows.append({"a": A, "b": name, "note": "not present: not measured"})
            continue
        if a is None:
            a = wb.Subject(A, dtype="auto")
            known = learnt(a, train, test, options.rows, options.latents)
        rows += compared(wb.Subject(name, dtype="auto"), a, known, train, test, options)
    sys.stdout.write(f"{time.process_time():.0f} CPU seconds\n")
    if options.record:
        record("universality", "python bench/universality.py --record", rows, TESTED)


if __name__ == "__main__":
    main()

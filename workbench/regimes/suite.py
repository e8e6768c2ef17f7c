"""Suites: a dictionary at every layer and sublayer, with the table of metrics that published suites give."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from .. import evaluate, lineage
from ..dictionary import Recipe, train
from ..harvest import Store
from ..site import Site
from ..subject import Subject

if TYPE_CHECKING:
    from pandas import DataFrame

EVALS = ("reconstruction", "sparsity", "dead", "delta_ce")
SHOWN = ("l0", "fvu", "delta_ce", "dead_share")


def sublayers(subject: Subject, streams: Sequence[str] = ("resid", "attn_out", "mlp_out")) -> list[Site]:
    """Sites of every layer at the given streams, as far as the subject has them: what a suite covers."""
    there = set(subject.sites()["site"])
    return [s for layer in range(subject.layers) for s in (Site(layer, name) for name in streams) if str(s) in there]


def suite(
    subject: Subject,
    store: Store,
    make: Callable[[Site, int], Recipe],
    *,
    sites: Sequence[Site | str] | None = None,
    size: int = 4096,
    steps: int | None = None,
    lr: float | None = None,
    test: float = 0.1,
    texts: int = 96,
    seed: int = 0,
    folder: Path | str | None = None,
    progress: bool = True,
) -> "DataFrame":
    """A dictionary at each of the store's sites, trained on the same documents and judged on the held-out ones.

    `make(site, width)` gives a fresh recipe. One row per site: latents, L0, FVU, delta-CE (nats per prediction) with
    their intervals over documents, `ce_recovered` = 1 - delta-CE / that of zeroing the site (NaN where zeroing does not
    hurt), share of dead latents, and what zeroing costs. A big model's sites do not fit on a disk together: harvest
    some, run, harvest the next, and join the tables. With a `folder`, a dictionary per site, a suite that was cut short
    goes on; the table is written to `suite.csv`.
    Source: Lieberum et al. 2024, arXiv:2408.05147 (Gemma Scope), He et al. 2024, arXiv:2410.20526 (Llama Scope).
    """
    import pandas as pd

    chosen = [store.site(s) for s in (store.sites if sites is None else sites)]
    held: Any  # a Rows
    train_part, held = store.split(test=test, seed=seed)
    tokens, documents = evaluate.held_out(held, texts, seed=seed)
    records: list[dict[str, Any]] = []
    for site in tqdm(chosen, desc="suite", unit="site", disable=not progress):
        dictionary = train(
            make(site, store.width(site)),
            train_part.stream(size, site=site, steps=steps, seed=seed),
            site=site,
            exclusion=store.exclusion,
            subject_fingerprint=subject.fingerprint,
            lr=lr,
            seed=seed,
            folder=None if folder is None else Path(folder) / str(site),
            progress=progress,
        )
        case = evaluate.Case(dictionary, subject, held, tokens, documents, str(site), seed)
        scores = {row["metric"]: row for row in evaluate.run([case], EVALS, errors="raise").to_dict("records")}
        row: dict[str, Any] = {"site": str(site), "width": store.width(site), "latents": dictionary.latents}
        for name in SHOWN:
            row |= {
                name: scores[name]["value"],
                f"{name}_low": scores[name]["low"],
                f"{name}_high": scores[name]["high"],
            }
        zero = scores["delta_ce_zero"]["value"]
        row["ce_recovered"] = 1 - row["delta_ce"] / zero if zero > 0 else float("nan")
        records.append(row | {"delta_ce_zero": zero})
    table = pd.DataFrame(records)
    if folder is not None:
        lineage.write(Path(folder) / "suite.csv", table.to_csv(index=False).encode())
    return table

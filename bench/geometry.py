"""Maps, neighbours and matchings at the size of real dictionaries, beside umap's default and scipy's dense assignment.

    python bench/geometry.py [--parts neighbours layout umap match dense] [--record]

Vectors are planted: 400 groups of unequal size and 30 % of lone ones, in 576 dimensions. `recall` is the share of the
15 true neighbours among the 15 on the map, `purity` the share of a grouped vector's map neighbours that are of its
group. UMAP compiles on 5,000 vectors before the clock starts. Matched are twins: the same atoms in another order, with
noise that leaves a cosine of 0.7, and 20 % of them replaced.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import torch
from peers.feed import reset, status
from record import record
from torch import Tensor
from torch.nn.functional import normalize

from workbench.geometry import match, neighbours, plane, random_directions
from workbench.geometry.plane import _pca, _umap
from workbench.geometry.trust import on_map, recall

COMMAND = "python bench/geometry.py --record"
TESTED = [*(f"workbench/geometry/{name}.py" for name in ("match", "neighbours", "plane", "trust")), "bench/geometry.py"]
D, K, LAID, MANY, MATCHED, DENSE, WARM = 576, 15, 16_384, 65_536, 16_384, 8192, 5000
Row = dict[str, Any]


def planted(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors, and the group of each (-1: lone)."""
    drawn = torch.Generator().manual_seed(seed)
    grouped = int(0.7 * n)
    sizes = torch.rand(400, generator=drawn) ** 2 + 0.02
    group = torch.multinomial(sizes, grouped, replacement=True, generator=drawn)
    near = torch.randn(400, D, generator=drawn)[group] + 1.2 * torch.randn(grouped, D, generator=drawn)
    vectors = torch.cat([near, torch.randn(n - grouped, D, generator=drawn)])
    return normalize(vectors, dim=-1), torch.cat([group, torch.full((n - grouped,), -1)])


def timed(what: str, n: int, run: Callable[[], Any], most: float | None = None) -> tuple[Row, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"what": what, "n": n, "seconds": seconds, "CPU s": cpu, "at most s": most or ""}, found


def kept(xy: Tensor, true: Tensor, group: Tensor) -> Row:
    shown = on_map(xy, K)
    same = group[shown] == group[:, None]
    return {"recall": recall(true, shown), "purity": float(same[group >= 0].float().mean())}


def near_ones() -> Iterator[Row]:
    for n in (MANY // 2, MANY):
        vectors = planted(n)[0]
        reset()
        before = status("VmRSS")
        row, _ = timed("neighbours", n, lambda v=vectors: neighbours(v, K), 60 if n == MANY else None)
        yield row | {"memory MB": (status("VmHWM") - before) / 1e6, "vectors MB": vectors.nbytes / 1e6}


def layouts() -> Iterator[Row]:
    vectors, group = planted(LAID)
    with tempfile.TemporaryDirectory() as home:
        yield timed("first map of a process (compiles)", 600, lambda: plane(vectors[:600], folder=home))[0]

        def one() -> tuple[Tensor, Tensor]:
            near = neighbours(vectors, K)
            return near.indices, _umap(vectors, near.indices, near.cosines, _pca(vectors)[0], [0])[0]

        row, (true, xy) = timed("layout alone: neighbours, PCA, one seed", LAID, one, 20)
        yield row | kept(xy, true, group)
        row, made = timed("plane: three seeds, every trust number", LAID, lambda: plane(vectors, folder=home), 45)
        more = {"trustworthiness": made.trustworthiness, "agreement": made.agreement, "chance": made.chance}
        yield row | kept(made.xy, true, group) | more
        yield timed("plane, cached", LAID, lambda: plane(vectors, folder=home), 1)[0]
        row, flat = timed("plane by PCA", LAID, lambda: plane(vectors, folder=home, method="pca"))
        yield row | kept(flat.xy, true, group) | {"trustworthiness": flat.trustworthiness}


def default() -> Iterator[Row]:
    vectors, group = planted(LAID)
    true = neighbours(vectors, K).indices
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import umap

        umap.UMAP(metric="cosine").fit(vectors[:WARM].numpy())
        row, found = timed(
            "umap's default, metric cosine", LAID, lambda: umap.UMAP(metric="cosine").fit_transform(vectors.numpy())
        )
    yield row | kept(torch.from_numpy(np.asarray(found)), true, group)


def twins(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Atoms, their twins, whose twin each is, and which were replaced."""
    drawn = torch.Generator().manual_seed(seed)
    a, noise, other = (random_directions(n, D, seed=3 * seed + i) for i in range(3))
    order, replaced = torch.randperm(n, generator=drawn), torch.rand(n, generator=drawn) < 0.2
    b = torch.where(replaced[:, None], other, normalize(a + 1.02 * noise, dim=-1))  # cosine 0.7
    return a, b[order], order, replaced


def found(pairs: Any, order: Tensor, replaced: Tensor) -> float:
    """Share of the twins that were not replaced that are matched."""
    right = order[pairs.right] == pairs.left
    return float(right[~replaced[pairs.left]].sum() / (~replaced).sum())


def matched() -> Iterator[Row]:
    a, b, order, replaced = twins(MATCHED)
    row, pairs = timed("match, 32 candidates", MATCHED, lambda: match(a, b, candidates=32), 120)
    yield row | {"recovered": found(pairs, order, replaced), "pairs": len(pairs.left)}


def dense() -> Iterator[Row]:
    """Both ways on planted twins, and on random atoms, which are the hardest to match."""
    for name, (a, b, order, replaced) in {
        "twins": twins(DENSE),
        "random": (random_directions(DENSE, D, seed=1), random_directions(DENSE, D, seed=2), None, None),
    }.items():
        ours, few = timed(f"match, 32 candidates ({name})", DENSE, lambda a=a, b=b: match(a, b, candidates=32))
        theirs, all_ = timed(f"scipy's dense assignment ({name})", DENSE, lambda a=a, b=b: match(a, b))
        share = float(few.cosines.double().sum() / all_.cosines.double().sum())
        for row, pairs in ((ours | {"short of the optimum": 1 - share}, few), (theirs, all_)):
            yield row | ({} if order is None else {"recovered": found(pairs, order, replaced)})


PARTS = {"neighbours": near_ones, "layout": layouts, "umap": default, "match": matched, "dense": dense}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--record", action="store_true", help="write docs/measurements/geometry.json")
    given = parser.parse_args()
    if given.record and set(given.parts) != set(PARTS):
        parser.error("a record holds all parts: leave --parts out")
    rows: list[Row] = []
    for part in given.parts:
        for row in PARTS[part]():
            rows.append(row | {"threads": torch.get_num_threads()})
            told = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items() if v != "")
            print("  ".join(told), flush=True)
    seconds = {row["what"]: row["seconds"] for row in rows}
    ours, peer = "plane: three seeds, every trust number", "umap's default, metric cosine"
    if ours in seconds and peer in seconds:
        alone = seconds["layout alone: neighbours, PCA, one seed"]
        print(
            f"umap's default takes {seconds[peer] / alone:.2f} x our layout, {seconds[peer] / seconds[ours]:.2f} x all"
        )
    for name in ("twins", "random"):
        if (theirs := f"scipy's dense assignment ({name})") in seconds:
            ratio = seconds[theirs] / seconds[f"match, 32 candidates ({name})"]
            print(f"scipy's dense assignment takes {ratio:.2f} x our matching of {DENSE} ({name})")
    if given.record:
        print(record("geometry", COMMAND, rows, TESTED))


if __name__ == "__main__":
    main()

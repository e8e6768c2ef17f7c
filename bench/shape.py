"""The shape of SmolLM2-135M's dictionaries: analyses of `workbench/geometry`, each beside its null and its paper.

    python bench/shape.py [--record] [--only NAME]      docs/measurements/shape.json, shown in docs/effects.md
    python bench/shape.py --small                       all of it once at a smoke size

Six residual streams, three pairs of neighbours at a sixth, half and five sixths of the depth, one width, one seed; the
MLP and attention outputs between the layers of each pair; layer 14 at two widths and three seeds. Each dictionary has
starting weights and an order of rows of its own. All are kept in the cache, so that a second run, or one that was
killed, goes on. Whatever comes out is told.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
import effects
import torch
from record import record
from torch import Tensor
from torch.nn.functional import normalize

import workbench as wb
from workbench import evaluate, geometry, lineage
from workbench.evaluate import Case
from workbench.evaluate.evals.consistency import Siblings, encoder_columns

COMMAND = "python bench/shape.py --record"
TESTED = ["workbench/geometry/*.py", "bench/shape.py"]
LAYERS = (4, 5, 14, 15, 24, 25)  # residual streams, in pairs of neighbours
FLOW = tuple(f"{layer}.{stream}" for layer in LAYERS[1::2] for stream in ("attn_out", "mlp_out"))
SEEDS, MIDDLE = (0, 1, 2), "14.resid"
K, SIZE, LR = 32, 1024, 3e-3
LEAST = 10  # held-out rows in which a latent fires, or it is left out
BLOCK = 32  # rows: texts of the held-out part are 128 tokens long
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
TEMPLATES = (
    *("We will meet again on the next {}", "The shop was closed last {}", "Nothing happened until {}"),
    *("She was born on a cold day in {}", "The letter is dated {}", "They arrived early in the morning of {}"),
)
COMPONENTS = 5  # principal components of the class means in which a circle is looked for
Rows = Iterator[dict[str, Any]]


class Plan(NamedTuple):
    """How large everything is."""

    rows: int = 400_000
    steps: int = 1500
    wide: int = 2304  # latents
    narrow: int = 1152
    draws: int = 20  # random dictionaries whose lobes are sought


SMALL = Plan(rows=12_000, steps=20, wide=256, narrow=128, draws=2)


class Made(NamedTuple):
    """The dictionaries, and rows that none of them was trained on."""

    plan: Plan
    subject: wb.Subject
    test: Any
    by: dict[tuple[str, int, int], Any]  # (site, latents, seed)


def wanted(plan: Plan) -> list[tuple[str, int, int]]:
    """Site, width and seed of every dictionary."""
    one = [(f"{layer}.resid", plan.wide, 0) for layer in LAYERS] + [(site, plan.narrow, 0) for site in FLOW]
    seeds = [(MIDDLE, width, seed) for width in (plan.narrow, plan.wide) for seed in SEEDS]
    return one + [key for key in seeds if key not in one]


@cache
def made(plan: Plan) -> Made:
    """Harvested and trained once, then read from the cache."""
    subject = wb.Subject("smollm2-135m", dtype="auto")
    sites = [*(f"{layer}.resid" for layer in LAYERS), *FLOW]
    store = wb.collect(subject, wb.corpus("pack"), sites, rows=plan.rows)
    train, test = store.split(test=0.1, seed=0)
    by = {}
    for site, width, seed in wanted(plan):
        # two dictionaries that began at the same directions, read in the same order, would look alike for that alone
        own = int(lineage.fingerprint([site, width, seed])[:8], 16)
        by[site, width, seed] = wb.train(
            wb.recipe("batch_topk", d=subject.width(site), latents=width, k=K, seed=own),
            train.stream(SIZE, site=site, steps=plan.steps, seed=own),
            site=site,
            exclusion=store.exclusion,
            subject_fingerprint=subject.fingerprint,
            lr=LR,
            seed=own,
            folder=lineage.cache() / "shape" / store.hash / f"{plan.steps}-{site}-{width}-{own}",
        )
    return Made(plan, subject, test, by)


def live(codec: Any, test: Any) -> tuple[Any, Tensor]:
    """A dictionary's codes of the held-out rows, and which latents fire there ten times or more."""
    codes = wb.encode(test, codec)
    return codes, codes.counts >= LEAST


def atoms(codec: Any) -> Tensor:
    return codec.atoms().detach().flatten(1).float().cpu()


def seeds(m: Made) -> Rows:
    """Are the latents of another seed the same, at both widths?"""
    for width in (m.plan.narrow, m.plan.wide):
        one, *others = (m.by[MIDDLE, width, seed] for seed in SEEDS)
        case = Case(one, None, m.test, name=str(width), given={"siblings": Siblings(tuple(others))})
        found = evaluate.run([case], ["consistency"], errors="raise").set_index("metric")
        for metric in ("shared_share", "pw_mcc"):
            row = found.loc[metric]
            yield row_of(
                f"{metric}, {MIDDLE}, {width} latents, {len(SEEDS)} seeds", row["value"], row["chance"],
                f"[{row['low']:.3g}, {row['high']:.3g}]", int(row["n"]),
            )  # fmt: skip


def persistent(m: Made) -> Rows:
    """SAE Match over six layers: folded atoms, chains of matchings."""
    folded, masks = [], []
    for layer in LAYERS:
        codec = m.by[f"{layer}.resid", m.plan.wide, 0]
        codes, on = live(codec, m.test)
        columns = encoder_columns(codec)
        assert columns is not None
        scale = torch.where(on, mean_activation(codes), 1.0)
        folded.append(geometry.fold(columns, codec.encoder.bias.detach().cpu(), atoms(codec), scale).atoms)
        masks.append(on)
    many = {str(layer): int(mask.sum()) for layer, mask in zip(LAYERS, masks, strict=True)}
    found = geometry.persistence(folded, names=[str(layer) for layer in LAYERS], live=masks, seed=0)
    for line in found.table.to_dict("records"):
        yield row_of(
            f"cosine of partners, layer {line['from']} to {line['to']}, a chain of {line['hops']}", line["cosine"],
            line["random"], f"z {line['z']:.0f} against shuffled pairs {line['shuffled']:.2f}; with the direct "
            f"matching agree {line['same']:.0%}, by chance {line['same_null']:.1%}", many[line["from"]],
        )  # fmt: skip


def mean_activation(codes: Any) -> Tensor:
    """Of each latent, over the rows in which it is on."""
    total = torch.zeros(codes.latents, dtype=torch.float64)
    for part in codes.batches(8192):
        _, latent, value = part.code.entries()
        total.index_add_(0, latent.cpu(), value.double().cpu())
    return (total / codes.counts.clamp_min(1)).float()


def flows(m: Made) -> Rows:
    """Which latents of a layer are carried over, processed, newborn."""
    for before, layer in zip(LAYERS[::2], LAYERS[1::2], strict=True):
        streams = {}
        for name in ("resid", "mlp_out", "attn_out"):
            codec = m.by[f"{layer}.{name}", m.plan.wide if name == "resid" else m.plan.narrow, 0]
            streams[name] = {layer: atoms(codec)[live(codec, m.test)[1]]}
        old = m.by[f"{before}.resid", m.plan.wide, 0]
        streams["resid"][before] = atoms(old)[live(old, m.test)[1]]
        found = geometry.flow(streams["resid"], streams["mlp_out"], streams["attn_out"])
        for line in found.profile.to_dict("records"):
            yield row_of(f"share {line['label']}, layer {layer}", line["share"], line["chance"], "", len(found.table))


def galaxies(m: Made) -> Rows:
    """Slope of the spectrum and clustering by layer."""
    kept = {layer: m.by[f"{layer}.resid", m.plan.wide, 0] for layer in LAYERS}
    unit = {layer: normalize(atoms(codec)[live(codec, m.test)[1]], dim=1) for layer, codec in kept.items()}
    few = min(len(x) for x in unit.values())  # only clouds of one size can be compared
    for layer, x in unit.items():
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:few]
        found = geometry.galaxy(x[order])
        for line in found.table.to_dict("records"):
            name = line.pop("measure")
            if name != "log volume":
                yield row_of(f"{name}, layer {layer}", line["value"], line["null"], f"z {line['z']:.1f}", few)


def lobed(m: Made) -> Rows:
    """Do latents that fire in the same blocks of text point the same way?"""
    for layer in LAYERS[1::2]:
        codec = m.by[f"{layer}.resid", m.plan.wide, 0]
        codes, _ = live(codec, m.test)
        counts = geometry.counts(codes, block=BLOCK)
        found = geometry.lobes(atoms(codec), counts, groups=3, least=LEAST, redrawn=m.plan.draws)
        for line in found.summary.to_dict("records"):
            yield row_of(
                f"lobes' {line['measure']}, layer {layer}, null: {line['null']}", line["value"], line["mean"],
                f"z {line['z']:.1f}, p {line['p']:.2g}", len(found.latents),
            )  # fmt: skip


def split(m: Made) -> Rows:
    """Has every latent of a wide dictionary a parent in the narrow one?"""
    for seed in SEEDS:
        small, large = (m.by[MIDDLE, width, seed] for width in (m.plan.narrow, m.plan.wide))
        parts = [atoms(codec)[live(codec, m.test)[1]] for codec in (small, large)]
        found = geometry.splits(*parts)
        beyond = float((found.cosines > found.null_cosines.max()).double().mean())
        several = float((found.children > 1).double().mean()), float((found.null_children > 1).double().mean())
        yield row_of(
            f"cosine with the nearest of {m.plan.narrow}, seed {seed}", float(found.cosines.mean()),
            float(found.null_cosines.mean()), f"{beyond:.0%} above the largest of the null", len(found.cosines),
        )  # fmt: skip
        yield row_of(f"latents with two children or more, seed {seed}", *several, "", len(found.children))


def circles(m: Made) -> Rows:
    """Do days and months lie in their order round a circle, in rows and in what a dictionary keeps of them?"""
    for what, names in (("days", DAYS), ("months", MONTHS)):
        tokens = m.subject.tokenize([text.format(name) for name in names for text in TEMPLATES])
        read = m.subject.read(tokens, [f"{layer}.resid" for layer in LAYERS])
        last = tokens.mask.sum(1).cpu() - 1
        for site, h in read.items():
            x = h.cpu()[torch.arange(len(last)), last]
            kept = m.by[str(site), m.plan.wide, 0].reconstruct(x).detach().cpu()
            for of, rows in (("rows", x), ("reconstructions", kept)):
                means = rows.unflatten(0, (len(names), len(TEMPLATES))).mean(1)
                found = geometry.circle(means, names=names, components=COMPONENTS)
                yield row_of(
                    f"circle score of {what}, {of}, {site}", found.score.value, found.score.mean,
                    f"p {found.score.p:.2g}; in order: {'yes' if found.in_order else 'no'}", len(names),
                )  # fmt: skip


def crystal(m: Made) -> Rows:
    """Do word pairs of one relation differ by one vector, distractors removed?"""
    found = geometry.word_pairs(m.subject, [f"{layer}.resid" for layer in LAYERS])
    for site, pairs in found.items():
        table = geometry.crystals(pairs.differences, pairs.relation, names=pairs.names, draws=40).table
        for line in table[table["space"].isin(["raw", "lda"])].to_dict("records"):
            yield row_of(
                f"silhouette of {len(pairs.names)} relations, {line['space']}, {site}", line["silhouette"],
                line["null"], f"z {line['z']:.1f}", len(pairs.x),
            )  # fmt: skip


SAID: dict[Any, tuple[str, str]] = {  # what papers say of each, on larger models
    seeds: (
        "Paulo & Belrose 2025, arXiv:2501.16615",
        "about 30 % shared at 131k latents of Llama 3 8B; the share falls with width",
    ),
    persistent: ("Balagansky et al. 2024, arXiv:2410.07656", "latents persist for about five layers, least early on"),
    flows: (
        "Laptev et al. 2025, arXiv:2502.03032",
        "unclear up to layer 5 of 26, then stable; late latents are carried",
    ),
    galaxies: (
        "Li et al. 2024, arXiv:2410.19750",
        "steepest in the middle layers (about -0.45, -0.25 at the ends), clustering strongest there",
    ),
    lobed: ("Li et al. 2024, arXiv:2410.19750", "two or three lobes, z in the tens to hundreds"),
    split: ("Bricken et al. 2023", "a latent of a small dictionary is split into several of a large one"),
    circles: (
        "Engels et al. 2024, arXiv:2405.14860",
        "days and months lie on circles in GPT-2, Mistral 7B, Llama 3 8B",
    ),
    crystal: ("Li et al. 2024, arXiv:2410.19750", "clusters after LDA, none before; held out here, in the paper not"),
}


def row_of(what: str, value: float, null: float, more: str, n: int) -> dict[str, Any]:
    return {"measure": what, "value": value, "null": null, "more": more, "n": n}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--record", action="store_true", help="write docs/measurements/shape.json")
    asked.add_argument("--small", action="store_true", help="a smoke size, never recorded")
    asked.add_argument("--only", choices=[part.__name__ for part in SAID], help="one analysis")
    given = asked.parse_args()
    began = time.perf_counter()
    dictionaries = made(SMALL if given.small else Plan())
    rows: list[dict[str, Any]] = []
    spent = {"harvest and training": time.perf_counter() - began}
    for part, (source, said) in SAID.items():
        if given.only in (None, part.__name__):
            began = time.perf_counter()
            about = {"analysis": part.__name__, "paper": f"{said} ({source})"}
            for row in part(dictionaries):
                rows.append(about | row)
                about = {"analysis": "", "paper": ""}
                sys.stdout.write(f"{part.__name__}: {row}\n")
                sys.stdout.flush()
            spent[part.__name__] = time.perf_counter() - began
    rows += [{"analysis": "seconds", "measure": name, "value": seconds} for name, seconds in spent.items()]
    sys.stdout.write(", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items()) + "\n")
    if given.record and not given.small:
        record("shape", COMMAND, rows, TESTED)
        lineage.write(effects.PAGE, effects.page().encode())


if __name__ == "__main__":
    main()

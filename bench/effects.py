"""Every claim in tests/effects, measured over paired seeds: docs/effects.json and the page docs/effects.md.

    python bench/effects.py [NAME ...] [--jobs 2] [--again]

A file there holds CLAIM, SOURCE, SETTING, MARGIN, SEEDS, ARMS and `measure(seed)`, which gives the two arms' values on
one seed. The effect is the first less the second. It *holds* when the 95 % interval of its mean over seeds lies above
the margin, *does not hold* when it lies below, else it is *inconclusive*. What was measured with the same code is kept.

A claim that does not hold has SWEEP too, arguments of `measure(seed, **changes)`: settings that were tried on the seed
TRIED, which is none of the others, and {"control": True}, a case where the effect must show.
"""

import argparse
import ast
import importlib.util
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from record import FOLDER as MEASUREMENTS
from record import ROOT, code_hash, processor, section

from workbench import catalogue, lineage

FOLDER, DATA, PAGE = ROOT / "tests" / "effects", ROOT / "docs" / "effects.json", ROOT / "docs" / "effects.md"
TESTED = ["workbench/dictionary/*.py", "workbench/dictionary/kernels/*.py", "workbench/code.py"]
CIRCUITS = ["workbench/circuits/*.py", "workbench/circuits/tracers/*.py", "workbench/subject/freeze.py"]
EVALUATE = [
    *(f"workbench/evaluate/{name}.py" for name in ("answers", "case", "examples", "main_latents", "probes", "removal")),
    *("workbench/evaluate/scores.py", "workbench/evaluate/tasks/*.py", "workbench/geometry/match.py"),
]
TRIED = 100


sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]  # a claim may use another's code, or the tests' own data


def names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.py"))


def effect(name: str) -> Any:
    """The module of one claim."""
    spec = importlib.util.spec_from_file_location(f"effects_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None, name
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(name: str) -> str:
    """Hash of the claim but its NOTE, of dictionaries' parts, of variants, helpers, measures and claims it names."""
    text = (FOLDER / f"{name}.py").read_text()
    lines = text.splitlines()
    for part in reversed(ast.parse(text).body):
        if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "NOTE":
            del lines[part.lineno - 1 : part.end_lineno]
    used = [f"workbench/dictionary/variants/{v}.py" for v in catalogue.names("variants") if f'"{v}"' in text]
    helpers = {"from planted": "tests/planted.py", "from rows": "tests/rows.py", "regimes": "workbench/regimes/*.py"}
    used += [path for word, path in helpers.items() if word in text]
    used += [*EVALUATE, *(f"workbench/evaluate/evals/{e}.py" for e in catalogue.names("evals") if e in text)] * (
        "workbench.evaluate" in text
    )
    used += CIRCUITS if "workbench.circuits" in text else []
    shapes = [p.stem for p in sorted((ROOT / "workbench" / "geometry").glob("*.py")) if p.stem in text]
    shapes = [f"workbench/geometry/{name}.py" for name in shapes if "geometry" in text]
    used += [path for path in shapes if path not in used]
    used += [f"tests/effects/{other}.py" for other in names() if f"from {other} import" in text]
    return lineage.fingerprint([code_hash([*TESTED, *used]), *lines])


def measured(name: str, seed: int, **changes: Any) -> tuple[float, float, float]:
    """Both arms' values and the CPU seconds they took, in one thread."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    began = time.process_time()
    first, second = effect(name).measure(seed, **changes)
    return float(first), float(second), time.process_time() - began


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t."""
    from scipy.stats import t

    middle, n = mean(values), len(values)
    half = float(t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)
    return middle, middle - half, middle + half


def verdict(low: float, high: float, margin: float) -> str:
    return "holds" if low > margin else "does not hold" if high < margin else "inconclusive"


def judged(
    name: str, arms: Sequence[tuple[float, float, float]], tried: Sequence[tuple[float, float, float]] = ()
) -> dict[str, Any]:
    """One row of the page: both arms on every seed, and on every setting that was tried."""
    module = effect(name)
    middle, low, high = interval([a - b for a, b, _ in arms])
    return {
        "claim": module.CLAIM,
        "source": module.SOURCE,
        "setting": module.SETTING,
        "arms": [[label, mean(arm[i] for arm in arms)] for i, label in enumerate(module.ARMS)],
        "effect": middle,
        "low": low,
        "high": high,
        "margin": module.MARGIN,
        "seeds": len(arms),
        "verdict": verdict(low, high, module.MARGIN),
        "tried": [[s, a, b] for s, (a, b, _) in zip(getattr(module, "SWEEP", []), tried, strict=True)],
        "seconds": round(sum(seconds for *_, seconds in [*arms, *tried])),
        "code": code(name),
        "date": date.today().isoformat(),
        "machine": processor(),
    }


def page() -> str:
    """The markdown page of all claims."""
    found = lineage.read_json(DATA) if DATA.exists() else {}
    verdicts = [row["verdict"] for row in found.values()]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("holds", "does not hold", "inconclusive"))
    minutes = round(sum(row["seconds"] for row in found.values()) / 60)
    lines = [
        "# Effects\n",
        f"{len(verdicts)} claims: {counts}. All take {minutes} minutes of one core.\n",
        "Written by `python bench/effects.py`. The effect is the first arm less the second, mean over paired seeds",
        "with its 95 % interval by Student's t; the margin was set before. Where a setting was changed or seeds added",
        "after a first look, the note says so. **stale**: the code has changed since.\n",
        "| claim | setting | arms | effect [interval] | margin | seeds | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in sorted(found):
        row = found[name]
        note = getattr(effect(name), "NOTE", "")
        arms = ", ".join(f"{label} {value:.3g}" for label, value in row["arms"])
        said = f"**{row['verdict']}**{' — **stale**' if row['code'] != code(name) else ''}{'. ' + note if note else ''}"
        lines.append(
            f"| {row['claim']} ({row['source']}) | {row['setting']} | {arms} | {row['effect']:.3g} [{row['low']:.3g}, "
            f"{row['high']:.3g}] | {row['margin']:g} | {row['seeds']} | {said} |"
        )
    lines += [
        "\n## Settings tried where a claim does not hold\n",
        f"On seed {TRIED}. The control is a case where the effect must show, or the measure would be blind.\n",
    ]
    for row in (found[name] for name in sorted(found) if found[name]["tried"]):
        (first, _), (second, _) = row["arms"]
        lines += [
            f"\n**{row['claim']}**, by more than {row['margin']:g}\n",
            f"| setting | {first} | {second} | effect |",
        ]
        lines.append("| --- | --- | --- | --- |")
        for changes, a, b in row["tried"]:
            said = "control" if changes.get("control") else ", ".join(f"{k} = {v}" for k, v in changes.items())
            lines.append(f"| {said} | {a:.3g} | {b:.3g} | {a - b:.3g} |")
    shape = MEASUREMENTS / "shape.json"
    return "\n".join(lines) + "\n" + (section(shape) if shape.exists() else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=names())
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="also what was measured with this code")
    options = parser.parse_args()
    found = lineage.read_json(DATA) if DATA.exists() else {}
    wanted = [name for name in options.names if options.again or found.get(name, {}).get("code") != code(name)]
    failed: list[str] = []
    for name in wanted:
        getattr(effect(name), "prepare", lambda: None)()  # what all seeds share, before they run side by side
    with ProcessPoolExecutor(options.jobs) as pool:
        jobs = {
            name: [pool.submit(measured, name, seed) for seed in range(effect(name).SEEDS)]
            + [pool.submit(measured, name, TRIED, **changes) for changes in getattr(effect(name), "SWEEP", [])]
            for name in wanted
        }
        for name, ended in jobs.items():
            try:
                results, seeds = [job.result() for job in ended], effect(name).SEEDS
            except Exception as error:  # the others go on; the status says that one is missing
                failed.append(f"{name}: {error!r}")
                continue
            row = found[name] = judged(name, results[:seeds], results[seeds:])
            lineage.write_json(DATA, dict(sorted(found.items())))
            lineage.write(PAGE, page().encode())
            print(f"{name}: {row['effect']:.4g} [{row['low']:.4g}, {row['high']:.4g}], {row['verdict']}", flush=True)
    if failed:
        sys.exit("\n".join(["not measured:", *failed]))


if __name__ == "__main__":
    main()

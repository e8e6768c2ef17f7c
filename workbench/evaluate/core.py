"""Run evaluations over cases into one tidy table, and draw it."""

import inspect
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from math import inf, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from .. import catalogue, lineage
from ..batch import Tokens
from ..code import Codec
from . import splices
from .case import Case, Rows, named
from .digest import Unhashable, digest
from .scores import Score, Scores

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..subject import Subject

COLUMNS = (
    "dictionary", "eval", "metric", "value", "low", "high", "unit", "direction", "range", "chance", "n", "counted",
    "share_excluded", "resampled", "note", "seed", "seconds", "manifest", "error",
)  # fmt: skip
FORMAT = 1  # of a cell on disk: raise it when what is kept changes


def needs() -> dict[str, tuple[str, ...]]:
    """What each eval wants in `Case.given`, by eval; `tokens` for those that splice."""
    found = {}
    for name in catalogue.names("evals"):
        module = catalogue.module("evals", name)
        found[name] = (("tokens",) if getattr(module, "SPLICES", False) else ()) + tuple(getattr(module, "NEEDS", ()))
    return found


def lacking(case: Case, name: str) -> tuple[str, ...]:
    """What an eval needs that the case does not have."""
    return tuple(n for n in needs()[name] if (case.tokens is None if n == "tokens" else n not in case.given))


def run(
    cases: Sequence[Case] | Mapping[str, Codec],
    evals: Sequence[str] | None = None,
    *,
    subject: "Subject | None" = None,
    rows: Rows | None = None,
    tokens: Tokens | None = None,
    texts: Int[Tensor, " text"] | Sequence[int] | None = None,
    given: Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int | Sequence[int] | None = None,
    resamples: int = 2000,
    folder: Path | str | None = None,
    jobs: int = 1,
    progress: bool = False,
    errors: str = "row",
) -> "DataFrame":
    """Every eval on every case and seed: one row per number, in the order given.

    Cases, or `{name: codec}` with the `subject`, held-out `rows`, `tokens`, `texts` and `given` they share, and the
    `resamples` of their intervals. `evals` None takes each eval that a case has the data for; the others are named in
    `table.attrs["missing"]`. `seeds` overrides the cases' own; `options` holds keyword arguments of an eval by its
    name. `seconds` is each eval's own time; forward passes that several share are divided among them.

    A cell is one eval on one case and seed. What fails in a cell is a row without a value, with the reason in `error`,
    and a warning; `errors="raise"` stops at the first. With `folder` each finished cell is kept there and not
    computed again while the eval's code, the dictionary's weights, the data and the options are the same: `manifest`
    is their hash, empty where a part (a codec that is a plain function, say) has none. `jobs` threads share the cells
    of different cases.
    Raises ValueError when a name is unknown, a case repeats a name, or the parts do not fit.
    """
    import pandas as pd

    known = catalogue.names("evals")
    chosen = known if evals is None else list(evals)
    options = dict(options or {})
    if isinstance(cases, Mapping):
        if rows is None:
            raise ValueError("named dictionaries need the held-out rows to judge them on: give rows=")
        cases = named(cases, subject, rows, tokens, texts, resamples=resamples, given=given)
    elif not (subject is rows is tokens is texts is given is None):
        raise ValueError("cases hold their own subject, rows, tokens, texts and given: give either cases or a mapping")
    names = [case.name for case in cases]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"cases need one or more distinct names, got {names}")
    if unknown := set(options) - set(chosen):
        raise ValueError(f"options for {', '.join(sorted(unknown))}, which is not among the evals {', '.join(chosen)}")
    if errors not in ("row", "raise"):
        raise ValueError(f"errors must be 'row' or 'raise', got {errors!r}")
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more threads, got {jobs}")
    for name in chosen:
        catalogue.bound("evals", name, case=None, **options.get(name, {}))
    drawn = None if seeds is None else [seeds] if isinstance(seeds, int) else list(seeds)
    if drawn is not None and (not drawn or len(set(drawn)) != len(drawn)):
        raise ValueError(f"seeds must be one or more distinct whole numbers, got {drawn}")
    missing = {case.name: {n: lack for n in chosen if (lack := lacking(case, n))} for case in cases}
    cells = [
        _Cell(case.seeded(seed), name, options.get(name, {}), None if folder is None else Path(folder))
        for case in cases
        for name in chosen
        if evals is not None or name not in missing[case.name]
        for seed in drawn or [case.seed]
    ]
    _splice(cells, errors)
    with (
        tqdm(total=len(cells), desc="evaluating", unit="cell", disable=not progress) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):

        def work(group: list[_Cell]) -> None:
            for cell in group:
                bar.set_postfix_str(f"{cell.case.name}: {cell.name}")
                cell.run(errors)
                bar.update()

        by_case = [[cell for cell in cells if cell.case.name == name] for name in names]
        for done in [pool.submit(work, group) for group in by_case]:
            done.result()
    for cell in cells:
        if cell.error:
            warnings.warn(f"{cell.name} of {cell.case.name} failed: {cell.error}", stacklevel=2)
    table = pd.DataFrame([row for cell in cells for row in cell.records], columns=list(COLUMNS))
    table = table.astype({"value": float, "low": float, "high": float, "chance": float})
    if evals is None:
        table.attrs["missing"] = {name: {e: list(lack) for e, lack in of.items()} for name, of in missing.items()}
    return table


@dataclass(eq=False)
class _Cell:
    """One eval on one case: what it said, or why it said nothing."""

    case: Case
    name: str
    options: Mapping[str, Any]
    folder: Path | None
    error: str = ""
    seconds: float = 0.0
    scores: Scores | None = None

    @cached_property
    def manifest(self) -> str:
        """Hash of all that the numbers are made of, "" where a part has none."""
        module = catalogue.module("evals", self.name)
        used = {n: self.case.given.get(n) for n in getattr(module, "NEEDS", ())}
        try:
            return digest(
                {
                    "format": FORMAT,
                    "eval": self.name,
                    "code": [inspect.getsource(module), _shared_code()],
                    "options": catalogue.bound("evals", self.name, case=None, **self.options),
                    "case": {
                        "codec": self.case.codec,
                        "subject": self.case.subject,
                        "rows": self.case.rows,
                        "tokens": self.case.tokens,
                        "texts": self.case.texts,
                        "seed": self.case.seed,
                        "resamples": self.case.resamples,
                    },
                    "given": used,
                }
            )
        except Unhashable:
            return ""

    @property
    def path(self) -> Path | None:
        return None if self.folder is None or not self.manifest else self.folder / f"{self.manifest}.json"

    @cached_property
    def kept(self) -> bool:
        """Whether its numbers were found on disk."""
        if self.path is None or not self.path.exists():
            return False
        try:
            found = lineage.read_json(self.path)
        except ValueError as error:
            warnings.warn(f"{error}: {self.name} of {self.case.name} is computed again", stacklevel=2)
            return False
        self.seconds = found["seconds"]
        self.scores = Scores(tuple(Score.from_json(s) for s in found["scores"]))
        return True

    def run(self, errors: str) -> None:
        if self.kept or self.error:
            return
        started = time.perf_counter()
        try:
            if lack := lacking(self.case, self.name):
                raise ValueError(_wanted(self.case, self.name, lack))
            scores = catalogue.entry("evals", self.name)(self.case, **self.options)
            if not isinstance(scores, Scores):
                raise TypeError(f"the eval {self.name} must return Scores, got {type(scores).__name__}")
        except Exception as error:  # a cell's failure is its row: the other cells go on
            if errors == "raise":
                raise
            self.error = f"{type(error).__name__}: {error}"
            return
        self.seconds += time.perf_counter() - started
        self.scores = scores
        if self.path is not None:
            body = {"dictionary": self.case.name, "eval": self.name, "seconds": self.seconds}
            lineage.write_json(self.path, body | {"scores": [s.to_json() for s in scores]})

    @property
    def records(self) -> list[dict[str, Any]]:
        about = {
            "dictionary": self.case.name,
            "eval": self.name,
            "seed": self.case.seed,
            "seconds": self.seconds,
            "manifest": self.manifest,
            "error": self.error,
        }
        if self.scores is None:
            nothing = {"value": nan, "low": nan, "high": nan, "chance": nan, "n": 0, "direction": "none"}
            return [about | nothing | {"metric": self.name, "unit": "", "range": (-inf, inf), "note": ""}]
        return [about | asdict(s) for s in self.scores]


@cache
def _shared_code() -> str:
    """What every eval stands on."""
    home = Path(__file__).parent
    return digest([lineage.file_hash(path) for path in [*sorted(home.glob("*.py")), home.parent / "geometry/match.py"]])


def _wanted(case: Case, name: str, lack: Sequence[str]) -> str:
    if "tokens" in lack:
        return f"{case.name} has no tokens to splice into: give tokens=, for instance from evaluate.held_out(store)"
    return f"{name} needs {', '.join(lack)}, which {case.name} was not given: {name}'s docstring says how to make it"


def _splice(cells: Sequence[_Cell], errors: str) -> None:
    """The forward passes that cells share, made together; a group that fails leaves its reason in its cells."""
    shared = [c for c in cells if getattr(catalogue.module("evals", c.name), "SPLICES", False)]
    shared = [c for c in shared if c.case.tokens is not None and not c.kept]
    if not shared:
        return
    cases = list({id(c.case.cache): c.case for c in shared}.values())  # seeds of a case share its cache
    started = time.perf_counter()
    try:
        splices.fill(cases)
    except Exception as error:
        if errors == "raise":
            raise
        for cell in shared:
            cell.error = f"{type(error).__name__}: {error}"
        return
    each = (time.perf_counter() - started) / len(shared)
    for cell in shared:
        cell.seconds += each


def held_out(rows: Rows, texts: int = 96, *, seed: int = 0) -> tuple[Tokens, Int[Tensor, " text"]]:
    """Token rows of a held-out view to splice into, spread evenly over its documents, and the document of each.

    Documents take turns, in an order drawn from `seed`, until `texts` token rows are chosen; fewer when there are no
    more. They come back in stored order.
    """
    tokens, documents = rows.tokens, torch.as_tensor(rows.texts)
    if texts < 1 or not len(documents):
        raise ValueError(f"choose one or more of the {len(documents)} token rows, got texts={texts}")
    drawn = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(documents), generator=drawn)
    turn = torch.zeros(len(documents), dtype=torch.long)
    seen: dict[int, int] = {}
    for row, document in zip(order.tolist(), documents[order].tolist(), strict=True):
        turn[row] = seen[document] = seen.get(document, -1) + 1
    chosen = order[turn[order].argsort(stable=True)][:texts].sort().values
    return tokens.rows(chosen), documents[chosen]

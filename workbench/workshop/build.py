"""From solved lessons: student copies, instructor notes, hand-outs, and what their slow cells would make."""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import lineage
from ..html import Markup, join, tag
from ..report import page
from .lessons import exercise, make_catch_up, names

MARK = re.compile(r"^([ \t]*)# (BEGIN|END) SOLUTION[ \t]*$")
LEFT = re.compile(r"\b(BEGIN|END)[ _-]*SOLUTION\b", re.IGNORECASE)
BLANK = "...  # your code here"
DROPPED = {"solution-only", "instructor"}  # cells that students do not get
HEADING = re.compile(r"^## (\d+\.\d+) (.+?) \((\d+) min\)\s*$", re.MULTILINE)
WAITS = re.compile(r"""workshop\.caught_up\(["'](\d+\.\d+)["']""")
RECORD = "built.json"
PRINT = """<style>@page { size: A4; margin: 11mm 13mm; }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --paper: #fff; --shade: #f3f4f6; --line: #ccc; }
 main { max-width: none; padding: 0; } nav { display: none; } table, pre { break-inside: avoid; } }
.sheet { font-size: 12.5px; line-height: 1.42; } .sheet h1 { font-size: 20px; margin: 0 0 .3em; }
.sheet h2 { font-size: 14.5px; margin: .9em 0 .2em; padding: .4em 0 0; } .sheet p, .sheet ul { margin: .3em 0; }
.sheet pre { font-size: 11.5px; padding: 6px 10px; margin: .4em 0; } .sheet table { font-size: 12px; margin: .3em 0; }
.sheet td, .sheet th { padding: 2px 8px; } .sheet blockquote { margin: .3em 0; }</style>"""


class Sheet:
    """Pieces of HTML set small, to be printed."""

    def __init__(self, *pieces: object):
        self.html = join(Markup(PRINT), tag("div", *pieces, attrs={"class": "sheet"}))

    def _repr_html_(self) -> str:
        return self.html


class Task(NamedTuple):
    """One exercise of a lesson, as its master has it."""

    name: str
    title: str
    minutes: int
    asks: str  # markdown: the quoted lines below the heading
    solution: str


def build(
    masters: Path | str = "notebooks/workshop",
    out: Path | str = "workshop",
    say: Callable[[str], object] = lambda line: None,
) -> list[Path]:
    """Write what a room needs of every solved lesson in `masters`, and return the student notebooks.

    `out` gets the student notebooks, `handout/` and `instructor/` with one page each per lesson, `catch_up/` with what
    `caught_up` loads, and `built.json` with hashes. Raises ValueError when a lesson cannot be made without giving a
    solution away (nothing is written then), or when a file of an earlier build was changed since.
    """
    import nbformat

    sources, out = sorted(Path(masters).glob("*.ipynb")), Path(out)
    if not sources:
        raise ValueError(f"{masters} has no lesson (*.ipynb): give the folder of the solved notebooks")
    solved = {}
    for source in sources:
        try:
            solved[source.stem] = nbformat.read(source, 4)
        except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
            raise ValueError(f"{source.name} is no notebook: {str(error).splitlines()[0][:80]}") from None
    made: dict[str, bytes] = {}
    for stem, master in solved.items():
        made[f"{stem}.ipynb"] = nbformat.writes(student(master, f"{stem}.ipynb")).encode() + b"\n"
    known = untouched(out)
    for name, content in made.items():
        lineage.write(out / name, content)
    for stem, master in solved.items():
        page_of(out / "handout" / f"{stem}.html", handout(master), "Hand-out: " + title(master))
        page_of(out / "instructor" / f"{stem}.html", notes(master), "Notes: " + title(master))
        made |= {f"{folder}/{stem}.html": b"" for folder in ("handout", "instructor")}
        say(f"{stem}: pages, and what its slow cells make")
        for name in dict.fromkeys(WAITS.findall("\n".join(code(master)))):
            make_catch_up(name, out / "catch_up")
    hashes = {name: lineage.file_hash(out / name) for name in made}
    lineage.write_json(out / RECORD, {"files": known | hashes})
    return [out / f"{stem}.ipynb" for stem in solved]


def untouched(out: Path) -> dict[str, str]:
    """Hashes of an earlier build. Raises ValueError where someone has worked in one of its files since."""
    known = lineage.read_json(out / RECORD)["files"] if (out / RECORD).is_file() else {}
    for path in sorted(out.glob("*.ipynb")):
        if known.get(path.name) != lineage.file_hash(path):
            raise ValueError(f"{path} was changed since it was built, or not built here: give another --out")
    return {name: value for name, value in known.items() if (out / name).is_file()}


def student(master: Any, name: str = "notebook") -> Any:
    """A copy without solutions, outputs and widget state.

    Raises ValueError, naming the cell, for a marker that is left, nested or without its partner, for a tag that
    disagrees with the markers or the check, and for what is no Python once the solution is out.
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    kept, waiting = [], ""
    for i, cell in enumerate(master.cells):
        at, tags = f"{name}, cell {i + 1}", list(cell.metadata.get("tags", []))
        try:
            source, blocks = blanked(cell.source) if cell.cell_type == "code" else (cell.source, 0)
        except ValueError as error:
            raise ValueError(f"{at}: {error}") from None
        if LEFT.search(source):
            raise ValueError(
                f"{at}: a solution marker is left: write `# BEGIN SOLUTION`, `# END SOLUTION` on own lines"
            )
        if dropped := DROPPED & set(tags):
            if blocks:
                raise ValueError(f"{at}: it is tagged {dropped.pop()!r} and has a marker too: take one of them away")
            continue
        if blocks and "exercise" not in tags:
            raise ValueError(f"{at}: it has a solution marker but no tag 'exercise'")
        if "exercise" in tags and not blocks:
            raise ValueError(f"{at}: it is tagged 'exercise' but has no `# BEGIN SOLUTION`")
        if cell.cell_type == "code":
            checks = "workshop.check(" in source
            if checks != ("check" in tags):
                raise ValueError(
                    f"{at}: the tag 'check' and a call of workshop.check go together, one of them is missing"
                )
            if waiting and not checks and not blocks:
                raise ValueError(f"{at}: code stands between the exercise of {waiting} and its check")
            waiting = at if blocks else "" if checks else waiting
            parses(source, at)
        make = {"code": new_code_cell, "markdown": new_markdown_cell}.get(cell.cell_type)
        if make is None:
            raise ValueError(f"{at}: a {cell.cell_type} cell cannot be given out: make it code or markdown")
        kept.append(make(source, id=cell.id, metadata={"tags": tags} if tags else {}))
        if "attachments" in cell:
            kept[-1].attachments = cell.attachments
    if waiting:
        raise ValueError(f"{waiting}: no check follows the exercise")
    about = {key: master.metadata[key] for key in ("kernelspec", "language_info") if key in master.metadata}
    made = new_notebook(cells=kept, metadata=about)
    made.nbformat_minor = master.nbformat_minor
    return made


def blanked(source: str) -> tuple[str, int]:
    """Code with each marked block replaced by one line to fill in, and how many blocks there were."""
    lines, blocks, open_at = [], 0, 0
    for n, line in enumerate(source.split("\n"), 1):
        mark = MARK.match(line)
        if mark is None:
            if not open_at:
                lines.append(line)
        elif mark[2] == "BEGIN":
            if open_at:
                raise ValueError(f"BEGIN SOLUTION on line {n} stands inside the one of line {open_at}")
            open_at, blocks = n, blocks + 1
            lines.append(mark[1] + BLANK)
        elif not open_at:
            raise ValueError(f"END SOLUTION on line {n} has no BEGIN")
        else:
            open_at = 0
    if open_at:
        raise ValueError(f"BEGIN SOLUTION on line {open_at} has no END")
    return "\n".join(lines), blocks


def parses(source: str, at: str) -> None:
    try:
        ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"{at}: without its solution it is no Python ({error.msg}, line {error.lineno})") from None


def code(notebook: Any) -> Iterator[str]:
    return (cell.source for cell in notebook.cells if cell.cell_type == "code")


def title(notebook: Any) -> str:
    found = re.search(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE) if notebook.cells else None
    return found[1] if found else "Lesson"


def tasks(master: Any) -> list[Task]:
    """The exercises in order: `## 1.2 Title (10 min)`, the quoted lines below it, the solved cell after it."""
    found: list[Task] = []
    for cell in master.cells:
        if cell.cell_type == "markdown" and (head := HEADING.search(cell.source)):
            asks = [line[1:].strip() for line in cell.source.split("\n") if line.startswith(">")]
            found.append(Task(head[1], head[2], int(head[3]), "\n".join(asks), ""))
        elif "exercise" in cell.metadata.get("tags", []) and found:
            lines = [line for line in cell.source.split("\n") if not MARK.match(line)]
            before = found[-1].solution
            found[-1] = found[-1]._replace(solution=(before + "\n\n" if before else "") + "\n".join(lines))
    return found


def tagged(master: Any, name: str) -> list[str]:
    return [c.source for c in master.cells if name in c.metadata.get("tags", [])]


def handout(master: Any) -> list[Markup]:
    """The lesson on one sheet: its question, what each exercise asks, and the cells tagged `handout`."""
    todo = "\n".join(f"- **{t.name} {t.title}** ({t.minutes} min). {' '.join(t.asks.split())}" for t in tasks(master))
    first = master.cells[0].source if master.cells else ""
    return [text(first), text(todo), *(text(source) for source in tagged(master, "handout"))]


def notes(master: Any) -> list[Markup]:
    """For who teaches: the clock, the cells tagged `instructor`, and each exercise's solution and usual mistakes."""
    clock, parts, hints = 0, [], set(names())
    for t in tasks(master):
        parts.append(
            (t.name, t.title, f"{t.minutes} min", f"from 0:{clock:02d}" if clock < 60 else f"from 1:{clock - 60:02d}")
        )
        clock += t.minutes
    pieces = [text(f"# {title(master)}\n\nNotes for who teaches."), rows(("exercise", "", "takes", "begins"), parts)]
    pieces += [text(f"{clock} minutes of exercises."), *(text(source) for source in tagged(master, "instructor"))]
    for t in tasks(master):
        pieces += [tag("h2", f"{t.name} {t.title}"), text(t.asks), tag("pre", tag("code", t.solution))]
        if t.name in hints:
            pieces.append(
                rows(("usual mistake", "the hint says"), [(w.what, w.hint) for w in exercise(t.name).wrong()])
            )
    return pieces


def text(source: str) -> Markup:
    from ..report.page import markdown

    return markdown(source)


def rows(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Markup:
    top = tag("tr", *(tag("th", h) for h in head))
    return tag("table", top, *(tag("tr", *(tag("td", cell) for cell in line)) for line in lines))


def page_of(path: Path, pieces: Sequence[Markup], name: str) -> Path:
    return page(path, [Sheet(*pieces)], title=name)

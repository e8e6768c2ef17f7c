"""What many runs found: a sortable table of all, results against parameters, and one file for other tools."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import lineage
from ..html import Markup, tag
from .page import STYLE, figure, whole

SORT = """<script>
for (const head of document.querySelectorAll('table.sortable th')) {
  const sort = () => {
    const table = head.closest('table'), at = [...head.parentNode.children].indexOf(head);
    const down = head.getAttribute('aria-sort') === 'ascending';
    for (const other of head.parentNode.children) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const value = row => row.children[at].dataset.value ?? row.children[at].textContent;
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === '' || y === '') return (x === '') - (y === '') || 0;
      return (down ? -1 : 1) * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  };
  head.tabIndex = 0;
  head.addEventListener('click', sort);
  head.addEventListener('keydown', event => { if (event.key === 'Enter') sort(); });
}
</script>"""
VERSION = "1"  # of the table's columns
MOST = 12  # results that are drawn when none are named


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A run's results that are single numbers."""
    return {k: float(v) for k, v in row["values"].items() if isinstance(v, int | float) and not isinstance(v, bool)}


def write_overview(
    out: Path,
    todo: Any,
    rows: Sequence[Mapping[str, Any]],
    earlier: Sequence[Mapping[str, Any]] | None = None,
    behind: Sequence[str] = (),
) -> None:
    """`index.html`, `compare.html` and `results.parquet` of a sweep."""
    lineage.write(out / "results.parquet", lambda part: write_results(part, rows))
    shown = list(todo.compare) or list(dict.fromkeys(name for row in rows for name in numbers(row)))[:MOST]
    lineage.write(out / "index.html", index(todo, rows, shown, earlier, behind).encode())
    lineage.write(out / "compare.html", comparison(todo, rows, shown, earlier).encode())


def index(
    todo: Any,
    rows: Sequence[Mapping[str, Any]],
    shown: Sequence[str],
    earlier: Sequence[Mapping[str, Any]] | None,
    behind: Sequence[str],
) -> str:
    """The table of all runs: what varies, what was found, how it ended."""
    names = todo.varied or sorted({name for row in rows for name in row["parameters"]})
    titles = ("run", *names, "status", *shown, "seconds", "finished")
    head = tag("thead", tag("tr", *(tag("th", title, attrs={"scope": "col"}) for title in titles)))
    body = tag("tbody", *(line(row, names, shown) for row in rows))
    counts = [f"{sum(r['status'] == s for r in rows)} {s}" for s in ("complete", "failed", "running", "waiting")]
    parts = [
        tag("h1", f"Sweep of {todo.notebook.name}"),
        tag("p", ", ".join(count for count in counts if not count.startswith("0 ")), attrs={"class": "note"}),
        tag("p", tag("a", "Results against parameters", attrs={"href": "compare.html"})),
    ]
    if earlier is not None:
        verdict = tag("ul", *(tag("li", line) for line in behind)) if behind else tag("p", "Nothing fell behind.")
        parts += [tag("h2", "Against the earlier sweep"), verdict]
    parts.append(tag("div", tag("table", head, body, attrs={"class": "sortable"}), attrs={"class": "html"}))
    top = tag("head", Markup('<meta charset="utf-8">'), tag("title", "Sweep"), Markup(f"<style>{STYLE}</style>"))
    return "<!doctype html>\n" + tag("html", top, tag("body", tag("main", *parts), Markup(SORT)), attrs={"lang": "en"})


def line(row: Mapping[str, Any], names: Sequence[str], shown: Sequence[str]) -> Markup:
    """One run; a column sorts by `data-value`."""
    found = numbers(row)
    over = row["status"] in ("complete", "failed")
    name = tag("a", row["name"], attrs={"href": f"{row['name']}.html"}) if over else row["name"]
    cells = [tag("td", name, attrs={"data-value": row["name"]})]
    for key in names:
        value = row["parameters"].get(key, "")
        cells.append(
            tag("td", value if isinstance(value, str) else json.dumps(value), attrs={"data-value": str(value)})
        )
    cells.append(tag("td", tag("span", row["error"] or row["status"], attrs={"class": row["status"]})))
    for key in shown:
        value = found.get(key)
        cells.append(
            tag("td", "" if value is None else f"{value:.4g}", attrs={"data-value": "" if value is None else value})
        )
    cells += [tag("td", f"{row['seconds']:.0f}", attrs={"data-value": row["seconds"]}), tag("td", row["finished"])]
    return tag("tr", *cells)


def comparison(
    todo: Any,
    rows: Sequence[Mapping[str, Any]],
    shown: Sequence[str],
    earlier: Sequence[Mapping[str, Any]] | None,
) -> str:
    """A small figure for each result and each parameter that varies; dots are runs, the line joins their medians."""
    done = [row for row in rows if row["status"] == "complete"]
    drawn = [name for name in shown if any(name in numbers(row) for row in done)]
    parts: list[object] = [
        tag("h1", "Results against parameters"),
        tag("p", tag("a", "All runs", attrs={"href": "index.html"})),
    ]
    missing = len(rows) - len(done)
    note = f"{len(done)} runs" + (f"; {missing} that did not complete are not drawn" if missing else "")
    parts.append(tag("p", note + ". Each dot is a run, lines join medians.", attrs={"class": "note"}))
    count = 0
    if done and drawn and todo.varied:
        before = [row for row in earlier or () if row["status"] == "complete"]
        parts.append(figure(panels(done, drawn, todo.varied, before), 0))
        count = 1
    else:
        parts.append(tag("p", "There is nothing to compare yet: no complete run has a number, or nothing varies."))
    return whole(parts, count, {}, title=f"Sweep of {todo.notebook.name}")


def panels(
    rows: Sequence[Mapping[str, Any]],
    results: Sequence[str],
    varied: Sequence[str],
    earlier: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Small multiples as a plotly figure: results down, parameters across."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    made = make_subplots(
        len(results), len(varied), shared_yaxes=True, horizontal_spacing=0.04, vertical_spacing=0.35 / len(results) / 2
    )
    for i, result in enumerate(results, 1):
        for j, name in enumerate(varied, 1):
            for what, group, color in (("earlier", earlier, "#98a2b3"), ("runs", rows, "#2b6cb0")):
                at = [
                    (r["parameters"].get(name, "default"), numbers(r)[result], r["name"])
                    for r in group
                    if result in numbers(r)
                ]
                if not at:
                    continue
                numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x, _, _ in at)

                x = [x if numeric else str(x) for x, _, _ in at]
                first = i == j == 1
                made.add_trace(
                    go.Scatter(
                        x=x, y=[y for _, y, _ in at], text=[t for _, _, t in at], mode="markers", name=what,
                        legendgroup=what, showlegend=first and bool(earlier), marker={"color": color, "size": 7},
                        hovertemplate="%{text}<br>%{x}: %{y:.4g}<extra></extra>",
                    ), row=i, col=j,
                )  # fmt: skip
                kinds = sorted(set(x)) if numeric else list(dict.fromkeys(x))
                middle = [median([y for v, (_, y, _) in zip(x, at, strict=True) if v == kind]) for kind in kinds]
                made.add_trace(
                    go.Scatter(
                        x=kinds, y=middle, mode="lines", name=f"{what}, median", legendgroup=what, showlegend=False,
                        line={"color": color, "width": 1}, hoverinfo="skip",
                    ), row=i, col=j,
                )  # fmt: skip
                made.update_xaxes(type="linear" if numeric else "category", row=i, col=j)
            made.update_xaxes(title=name if i == len(results) else None, row=i, col=j)
        made.update_yaxes(title=result, row=i, col=1)
    made.update_layout(template="plotly_white", height=120 + 190 * len(results), margin={"t": 40, "l": 80})
    return json.loads(made.to_json() or "{}")


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def write_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A row for each number of each run, with its parameters as columns; tables that were glued keep their columns.

    The file's metadata holds the version of this layout, and of the packages.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = []
    for row in rows:
        about = {"run": row["name"], "status": row["status"], "inputs": row["inputs"]}
        about |= {f"parameter.{key}": value for key, value in row["parameters"].items()}
        found += [about | {"result": key, "value": value} for key, value in numbers(row).items()]
        for key, table in row["values"].items():
            if isinstance(table, list) and table and all(isinstance(item, dict) for item in table):
                found += [about | {"result": key} | {k: v for k, v in item.items() if k not in about} for item in table]
    frame = pd.DataFrame(found or [{"run": None, "status": None, "inputs": None, "result": None, "value": None}][:0])
    for name in frame.columns:  # one column, one type: what is mixed becomes text
        if len({type(v) for v in frame[name].dropna()}) > 1:
            frame[name] = frame[name].map(lambda v: v if v is None or isinstance(v, str) else json.dumps(v))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    about = {"workbench.sweep": VERSION, "workbench.versions": json.dumps(lineage.versions())}
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **about}), path)


def compared(
    rows: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]], limits: Mapping[str, float]
) -> list[str]:
    """What fell behind an earlier sweep: runs by their parameters, results by limits; one line each.

    A limit of +0.01 lets a result rise by 0.01, one of -0.01 lets it fall by so much; the other direction is free.
    """
    then = {lineage.fingerprint(row["parameters"]): row for row in earlier}
    lines = []
    for row in rows:
        before = then.get(lineage.fingerprint(row["parameters"]))
        if before is None:
            lines.append(f"{row['name']}: the earlier sweep has no run with these parameters")
            continue
        if before["status"] == "complete" and row["status"] != "complete":
            lines.append(f"{row['name']}: {row['error'] or row['status']}; it was complete")
            continue
        now, was = numbers(row), numbers(before)
        for name, limit in limits.items():
            if name not in now or name not in was:
                lines.append(f"{row['name']}: {name} is missing {'now' if name not in now else 'in the earlier sweep'}")
            elif (now[name] - was[name]) * (1 if limit > 0 else -1) > abs(limit):
                lines.append(f"{row['name']}: {name} went from {was[name]:.4g} to {now[name]:.4g}, allowed {limit:+g}")
    return lines

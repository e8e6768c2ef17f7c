"""An executed notebook as one HTML file that asks for nothing: no network, no folder beside it."""

import copy
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..html import Markup, escape, join, tag
from .scraps import SCRAP

PLOTLY = "application/vnd.plotly.v1+json"
HIDDEN = {"hide-cell", "parameters", "injected-parameters"}
STYLE = (Path(__file__).parent / "page.css").read_text()
NO_MAIN = "the notebook has no cell to show"


def page(notebook: Any, *, title: str = "", code: bool = False, footer: Mapping[str, object] | None = None) -> str:
    """The page of an executed notebook (a node or a path). Code is hidden unless `code`.

    Cells tagged `hide-cell` vanish; the parameters are shown as a table; plotly figures stay interactive. Widgets that
    live in a kernel are replaced by a line that says so.
    """
    import nbformat

    node = nbformat.read(notebook, 4) if isinstance(notebook, str | Path) else copy.deepcopy(notebook)
    title = title or heading(node) or "Report"
    figures = 0
    parts = []
    for cell in node.cells:
        tags = set(cell.get("metadata", {}).get("tags", []))
        if cell.cell_type == "markdown":
            parts.append(tag("section", markdown(cell.source), attrs={"class": "text"}))
            if not parts[1:] and parameters(node):
                parts.append(parameters(node))
            continue
        if cell.cell_type != "code" or (tags & HIDDEN and not code):
            continue
        if code:
            parts.append(tag("pre", tag("code", cell.source), attrs={"class": "code"}))
        for output in joined(cell.get("outputs", [])):
            made, drew = show(output, figures)
            figures += drew
            parts.append(made)
    body = tag("main", *parts) if parts else tag("main", NO_MAIN)
    script = Markup(f"<script>{in_script(plotly_js())}</script>") if figures else ""
    head = tag(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<link rel="icon" href="data:,">'),
        tag("title", title),
        Markup(f"<style>{STYLE}</style>"),
        script,
        Markup(f"<script>{DRAW}</script>") if figures else "",
    )
    feet = tag("footer", table(footer)) if footer else ""
    return "<!doctype html>\n" + tag("html", head, tag("body", body, feet), attrs={"lang": "en"})


def heading(node: Any) -> str:
    """The first heading's text."""
    for cell in node.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^#\s+(.+)$", cell.source, re.MULTILINE)):
            return found[1].strip()
    return ""


def markdown(source: str) -> Markup:
    """Markdown as HTML, through nbconvert's renderer; raw HTML in it stays as the author wrote it."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of mistune's own plug-ins
        made = markdown2html_mistune(source)
    return Markup(re.sub(r'<a class="anchor-link".*?</a>', "", made, flags=re.DOTALL))


def parameters(node: Any) -> Markup:
    """The parameters of the run: the defaults, with what was injected laid over them."""
    values: dict[str, object] = {}
    for cell in node.cells:
        if cell.cell_type == "code" and {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
            for name, value in re.findall(
                r"^(\w+)(?:\s*:\s*[^=]+)?\s*=\s*(.+?)\s*(?:#.*)?$", cell.source, re.MULTILINE
            ):
                values[name] = value
    return tag("details", tag("summary", "Parameters of this run"), table(values)) if values else Markup("")


def table(values: Mapping[str, object]) -> Markup:
    rows = [tag("tr", tag("th", name), tag("td", value)) for name, value in values.items()]
    return tag("table", *rows, attrs={"class": "plain"})


def joined(outputs: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Outputs, with pieces of one stream that follow each other put together."""
    last: dict[str, Any] | None = None
    for output in outputs:
        if last and output["output_type"] == "stream" and output.get("name") == last.get("name"):
            last["text"] = text_of(last["text"]) + text_of(output["text"])
            continue
        if last:
            yield last
        last = dict(output) if output["output_type"] == "stream" else None
        if last is None:
            yield output
    if last:
        yield last


def show(output: Mapping[str, Any], figures: int) -> tuple[Markup, int]:
    """One output as HTML, and how many figures it drew."""
    kind = output["output_type"]
    if kind == "stream":
        text = last_states(output["text"])
        quiet = output.get("name") == "stderr" and not text.strip()
        return (Markup(""), 0) if quiet else (tag("pre", text, attrs={"class": f"stream {output.get('name', '')}"}), 0)
    if kind == "error":
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.get("traceback", [])))
        lines = tag("strong", f"{output['ename']}: {output['evalue']}")
        return tag("div", lines, tag("pre", trace), attrs={"class": "error", "role": "alert"}), 0
    data = output.get("data", {})
    if SCRAP in data:
        return Markup(""), 0
    if PLOTLY in data:
        return figure(data[PLOTLY], figures), 1
    if "text/html" in data and "application/vnd.jupyter.widget-view+json" not in data:
        return tag("div", Markup(text_of(data["text/html"])), attrs={"class": "html"}), 0
    if "image/svg+xml" in data:
        return tag("div", Markup(text_of(data["image/svg+xml"])), attrs={"class": "html"}), 0
    if "image/png" in data:
        source = "data:image/png;base64," + text_of(data["image/png"]).replace("\n", "")
        return tag("img", attrs={"src": source, "alt": text_of(data.get("text/plain", "picture"))}), 0
    if "text/markdown" in data:
        return tag("section", markdown(text_of(data["text/markdown"])), attrs={"class": "text"}), 0
    if "application/vnd.jupyter.widget-view+json" in data:
        if "%|" in text_of(data.get("text/plain", "")):
            return Markup(""), 0  # a progress bar: the work is done
        return tag("p", "A live widget stood here: open the notebook to use it.", attrs={"class": "note"}), 0
    return tag("pre", text_of(data.get("text/plain", "")), attrs={"class": "plain"}), 0


def text_of(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def last_states(text: Any) -> str:
    """A stream as a terminal leaves it: of a progress bar only its last state."""
    lines = [line.rstrip("\r").split("\r")[-1] for line in text_of(text).split("\n")]
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", "\n".join(lines)).strip("\n")


def figure(value: Mapping[str, Any], number: int) -> Markup:
    """A plotly figure: its data as inert JSON, drawn when the page has loaded."""
    layout = value.get("layout", {})
    height = layout.get("height", 420)
    spec = json.dumps({"data": value["data"], "layout": layout}).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    name = f"figure-{number + 1}"
    return join(
        tag("div", attrs={"id": name, "class": "figure", "style": f"height:{float(height):.0f}px", "role": "img"}),
        Markup(f'<script type="application/json" data-figure="{escape(name)}">{spec}</script>'),
    )


def plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def in_script(text: str) -> str:
    """Text that cannot end the script it stands in."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


DRAW = """document.addEventListener('DOMContentLoaded', () => {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const ink = dark ? '#d8dce3' : '#22262e', line = dark ? '#3a414d' : '#e3e6eb';
  for (const spec of document.querySelectorAll('script[data-figure]')) {
    const figure = JSON.parse(spec.textContent), layout = figure.layout;
    Object.assign(layout, {paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', autosize: true});
    delete layout.width;
    layout.font = Object.assign({}, layout.font, {color: ink});
    for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key))
      Object.assign(layout[key], {gridcolor: line, zerolinecolor: line, linecolor: line});
    Plotly.newPlot(spec.dataset.figure, figure.data, layout, {responsive: true, displaylogo: false});
  }
});"""

"""An executed notebook, or things from a live one, as one HTML file that asks for nothing: no network, no folder."""

import ast
import base64
import copy
import json
import mimetypes
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import embed, lineage
from ..html import Markup, escape, join, tag
from .scraps import SCRAP

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
HIDDEN = {"hide-cell", "parameters", "injected-parameters"}
STYLE = (Path(__file__).parent / "page.css").read_text()
NO_MAIN = "the notebook has no cell to show"
LOADERS = ["img", "script", "link", "iframe", "embed", "object", "source", "audio", "video"]


def page(path: Path | str, items: Sequence[Any], *, title: str = "Report") -> Path:
    """Things of a live notebook as a page: text (markdown), figures, tables, scores, widgets, anything with HTML.

    Widgets are shown as they stand; what they do without Python works in the page too. Raises TypeError for what has
    no picture.
    """
    if isinstance(items, str) or not isinstance(items, Sequence):
        raise TypeError(f"items must be a list of things to show, got {type(items).__name__}: put it in a list")
    widgets = [item for item in items if hasattr(item, "get_view_spec")]
    state = embed.states(widgets) if widgets else {}
    parts, figures = [], 0
    for item in items:
        made, drew = piece(item, figures)
        figures += drew
        parts.append(made)
    return lineage.write(Path(path), whole(parts, figures, state, title=title).encode())


def piece(item: Any, figures: int) -> tuple[Markup, int]:
    """One thing as HTML, and how many figures it drew."""
    if isinstance(item, str):
        return tag("section", sealed(markdown(item), Path()), attrs={"class": "text"}), 0
    if hasattr(item, "get_view_spec"):
        return embed.view(item.model_id), 0
    if hasattr(item, "to_plotly_json"):
        return figure(json.loads(item.to_json()), figures), 1
    if hasattr(item, "entries") and hasattr(item, "table"):
        item = readable(item)
    if callable(given := getattr(item, "_repr_html_", None)) and (html := given()):
        return tag("div", sealed(Markup(html), Path()), attrs={"class": "html"}), 0
    raise TypeError(
        f"a page shows text, figures, tables, scores and widgets, got {type(item).__name__}: give one of these"
    )


def readable(scores: Any) -> Any:
    """Scores as a table for people: value with interval, chance, direction."""
    table = scores.table()
    shown = table[["metric", "value", "low", "high", "unit", "direction", "chance", "n", "counted"]]
    return shown.rename(columns={"low": "95 % from", "high": "to", "direction": "better"})


def rendered(
    notebook: Any,
    *,
    title: str = "",
    code: bool = False,
    footer: Mapping[str, object] | None = None,
    folder: Path | str | None = None,
    assets: Path | None = None,
) -> str:
    """The HTML of an executed notebook (a node or a path). Code is hidden unless `code`.

    Cells tagged `hide-cell` vanish; the parameters are shown as a table; plotly figures stay interactive, and so does
    what a widget does without Python, where the notebook kept its state. Pictures are taken in from `folder` (the
    notebook's own), and what a cell's HTML would load from elsewhere is named instead of loaded.
    """
    import nbformat

    is_path = isinstance(notebook, str | Path)
    node = nbformat.read(notebook, 4) if is_path else copy.deepcopy(notebook)
    folder = Path(folder) if folder is not None else Path(notebook).parent if is_path else Path()
    title = title or heading(node) or "Report"
    figures = 0
    parts = []
    state = node.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    for cell in node.cells:
        tags = set(cell.get("metadata", {}).get("tags", []))
        if cell.cell_type == "markdown":
            text = sealed(markdown(attached(cell.source, cell.get("attachments", {}))), folder)
            parts.append(tag("section", text, attrs={"class": "text"}))
            if not parts[1:]:
                parts += [parameters(node), contents(node)]
            continue
        if cell.cell_type != "code" or (tags & HIDDEN and not code):
            continue
        if code:
            parts.append(tag("pre", tag("code", cell.source), attrs={"class": "code"}))
        for output in joined(cell.get("outputs", [])):
            made, drew = show(output, figures, folder, state)
            figures += drew
            parts.append(made)
    return whole(parts or [NO_MAIN], figures, shown(state, parts), title=title, footer=footer, assets=assets)


def whole(
    parts: Sequence[object],
    figures: int,
    state: embed.State,
    *,
    title: str,
    footer: Mapping[str, object] | None = None,
    assets: Path | None = None,
) -> str:
    """Pieces as a page, with what draws its figures and widgets."""
    library = Markup(f"<script>{embed.in_script(plotly_js())}</script>") if assets is None else beside(assets)
    scripts = [library, Markup(f"<script>{DRAW}</script>")]
    head = join(Markup(f"<style>{STYLE}</style>"), *(scripts if figures else ()))
    feet = tag("footer", table(footer)) if footer else ""
    body = join(tag("main", *parts), feet, embed.scripts(state) if state else "")
    return embed.page(body, title=title, head=head, local=assets is not None)


def beside(folder: Path) -> Markup:
    """Plotly from a file beside the page, which is written if it is not there."""
    text = plotly_js()
    name = f"plotly-{lineage.fingerprint(text)[:8]}.js"
    if not (folder / "assets" / name).is_file():
        lineage.write(folder / "assets" / name, text.encode())
    return tag("script", attrs={"src": f"assets/{name}"})


def shown(state: embed.State, parts: Sequence[str]) -> dict[str, Any]:
    """The models that stand in the page, and those they hold."""
    found: dict[str, Any] = {}
    wanted = [name for name in state if any(f'data-model="{name}"' in part for part in parts)]
    while wanted:
        name = wanted.pop()
        if name not in found and name in state:
            found[name] = state[name]
            wanted += re.findall(r"IPY_MODEL_(\w+)", json.dumps(state[name]["state"]))
    return found


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


def settings(node: Any) -> dict[str, tuple[str, str]]:
    """Parameters by name: their source text and remark; what was injected into a run lies over the defaults."""
    values: dict[str, tuple[str, str]] = {}
    for cell in node.cells:
        if cell.cell_type != "code" or not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
            continue
        lines = cell.source.split("\n")
        for line in ast.parse(cell.source).body:
            if not isinstance(line, ast.Assign | ast.AnnAssign) or line.value is None:
                continue
            name = line.targets[0] if isinstance(line, ast.Assign) else line.target
            if not isinstance(name, ast.Name):
                continue
            value = ast.get_source_segment(cell.source, line.value) or ""
            after = lines[(line.end_lineno or 1) - 1].encode()[line.end_col_offset :].decode()
            remark = after.strip().removeprefix("#").strip() or values.get(name.id, ("", ""))[1]
            values[name.id] = (value, remark)
    return values


def parameters(node: Any) -> Markup:
    """The parameters of the run as a folded table, with the notebook's remarks."""
    rows = [
        tag("tr", tag("th", name), tag("td", tag("code", value)), tag("td", remark, attrs={"class": "note"}))
        for name, (value, remark) in settings(node).items()
    ]
    whole = tag("table", *rows, attrs={"class": "plain"})
    return tag("details", tag("summary", "Parameters of this run"), whole) if rows else Markup("")


def contents(node: Any) -> Markup:
    """Links to the sections, when there are enough to need them."""
    made = "".join(markdown(attached(cell.source, {})) for cell in node.cells if cell.cell_type == "markdown")
    found = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', made, re.DOTALL)
    links = [tag("a", Markup(re.sub(r"<[^>]+>", "", text)), attrs={"href": Markup(f"#{name}")}) for name, text in found]
    return tag("nav", *links) if len(links) > 2 else Markup("")


def attached(source: str, attachments: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown with the cell's own pictures in their places."""

    def content(found: re.Match[str]) -> str:
        kind, data = next(iter(attachments.get(found[1], {}).items()), ("", ""))
        return f"data:{kind};base64,{text_of(data)}" if kind else found[1]

    return re.sub(r"attachment:([^\s)\"']+)", content, source)


def sealed(html: Markup, folder: Path) -> Markup:
    """HTML that loads nothing: pictures from `folder` are taken in, anything else is named."""
    if not re.search(rf"<({'|'.join(LOADERS)})\b", html):
        return html
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    for node in soup.find_all(LOADERS):
        address = str(node.get("src") or node.get("href") or node.get("data") or "")
        if not address or address.startswith("data:"):
            continue
        if node.name == "img" and "://" not in address and (folder / address).is_file():
            content = base64.b64encode((folder / address).read_bytes()).decode()
            node["src"] = f"data:{mimetypes.guess_type(address)[0] or 'image/png'};base64,{content}"
        else:
            note = soup.new_tag("span", attrs={"class": "note"})
            note.string = f"[{node.name} left out, it lies elsewhere: {address}]"
            node.replace_with(note)
    return Markup(str(soup))


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


def show(output: Mapping[str, Any], figures: int, folder: Path, state: embed.State) -> tuple[Markup, int]:
    """One output as HTML, and how many figures it drew; `state` is what the notebook kept of its widgets."""
    kind = output["output_type"]
    if kind == "stream":
        text = last_states(output["text"])
        quiet = output.get("name") == "stderr" and not text.strip()
        return (Markup(""), 0) if quiet else (tag("pre", text, attrs={"class": f"stream {output.get('name', '')}"}), 0)
    if kind == "error":
        trace = plain("\n".join(output.get("traceback", [])))
        lines = tag("strong", plain(f"{output['ename']}: {output['evalue']}"))
        below = tag("pre", trace) if trace else ""
        return tag("div", lines, below, attrs={"class": "error", "role": "alert"}), 0
    data = output.get("data", {})
    if SCRAP in data:
        return Markup(""), 0
    if PLOTLY in data:
        return figure(data[PLOTLY], figures), 1
    if "text/html" in data and WIDGET not in data:
        return tag("div", sealed(Markup(text_of(data["text/html"])), folder), attrs={"class": "html"}), 0
    if "image/svg+xml" in data:
        return tag("div", Markup(text_of(data["image/svg+xml"])), attrs={"class": "html"}), 0
    if "image/png" in data:
        source = "data:image/png;base64," + text_of(data["image/png"]).replace("\n", "")
        return tag("img", attrs={"src": source, "alt": text_of(data.get("text/plain", "picture"))}), 0
    if "text/markdown" in data:
        text = sealed(markdown(text_of(data["text/markdown"])), folder)
        return tag("section", text, attrs={"class": "text"}), 0
    if WIDGET in data:
        if "%|" in text_of(data.get("text/plain", "")):
            return Markup(""), 0  # a progress bar: the work is done
        if (model := data[WIDGET].get("model_id")) in state:
            return embed.view(model), 0
        return tag("p", "A live widget stood here: open the notebook to use it.", attrs={"class": "note"}), 0
    return tag("pre", text_of(data.get("text/plain", "")), attrs={"class": "plain"}), 0


def text_of(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def last_states(text: Any) -> str:
    """A stream as a terminal leaves it: of a progress bar only its last state."""
    lines = [line.rstrip("\r").split("\r")[-1] for line in text_of(text).split("\n")]
    return plain("\n".join(lines)).strip("\n")


def plain(text: str) -> str:
    """Text without a terminal's colours."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def figure(value: Mapping[str, Any], number: int) -> Markup:
    """A plotly figure: its data as inert JSON, drawn when the page has loaded."""
    layout = value.get("layout", {})
    height = float(layout.get("height") or 420)
    title = layout.get("title") or ""
    title = title.get("text") or "" if isinstance(title, Mapping) else title
    whole = {"data": value["data"], "layout": layout, "frames": value.get("frames", [])}
    spec = json.dumps(whole).replace("<", "\\u003c")
    name = f"figure-{number + 1}"
    label = re.sub(r"<[^>]+>", " ", str(title)) or f"figure {number + 1}"
    attrs = {"id": name, "class": "figure", "style": f"height:{height:.0f}px", "role": "img", "aria-label": label}
    return join(
        tag("div", attrs=attrs),
        Markup(f'<script type="application/json" data-figure="{escape(name)}">{spec}</script>'),
    )


def plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


DRAW = """document.addEventListener('DOMContentLoaded', () => {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const ink = dark ? '#d8dce3' : '#22262e', line = dark ? '#3a414d' : '#e3e6eb';
  const family = 'system-ui, "Segoe UI", "Noto Sans", sans-serif';
  for (const spec of document.querySelectorAll('script[data-figure]')) {
    const figure = JSON.parse(spec.textContent), layout = figure.layout;
    Object.assign(layout, {paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', autosize: true});
    delete layout.width;
    layout.font = Object.assign({family}, layout.font, {color: ink});
    layout.margin = Object.assign({l: 64, r: 24, b: 56}, layout.margin);
    for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key))
      Object.assign(layout[key], {gridcolor: line, zerolinecolor: line, linecolor: line});
    figure.config = {responsive: true, displaylogo: false};
    Plotly.newPlot(spec.dataset.figure, figure);
  }
});"""

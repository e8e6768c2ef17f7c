"""The documentation site's other half: reference, registries, notebooks and sources as pages, and a look at every link.

mkdocs calls the `on_` functions (`hooks` in mkdocs.yml). Nothing is executed but the registries' imports. A link that
leads nowhere and anything that a page would load from a network are warnings, and those fail the build.
"""

import ast
import html
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

log = logging.getLogger("mkdocs.hooks.workbench")  # mkdocs counts what is warned below `mkdocs`

START = "start.md"  # the README: a README.md would be mkdocs's index
DOOR_FILES = ("edit", "catalogue", "lineage")  # modules that users call by name
ROOMS = sorted(path.parent.name for path in (ROOT / "workbench").glob("*/__init__.py"))
REPOSITORY_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
LOADING = ("src", "srcset", "href", "poster", "data")  # attributes that fetch, of whatever is no <a>
PAPER = re.compile(  # authors and year as a docstring has them, then the number
    r"(?:((?:[A-Z][\w'’-]+(?:, | and | & ))*[A-Z][\w'’-]+(?: et al\.?)?,? \d{4})[,;:]? ?"
    r"(?:(?:\"[^\"]*\"|[A-Z][^.;]{5,90}),? )?\(?)?"
    r"arXiv[: ](\d{4}\.\d{4,5})"
)
SOURCE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="{style}"></head>
<body class="source"><h1>{title}</h1>
{code}</body></html>
"""
STYLE_LOADS = re.compile(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""")
LEXERS = {".py": "python", ".md": "markdown", ".js": "javascript", ".yml": "yaml", ".json": "json", ".toml": "toml"}


# ---- from source text: what stands there, as it stands there


@cache
def parsed(path: Path) -> tuple[str, ast.Module]:
    text = path.read_text()
    return text, ast.parse(text)


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_file(name: str) -> Path:
    """The file of `workbench.harvest` or `workbench.edit`."""
    place = ROOT / name.replace(".", "/")
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def named(node: ast.stmt) -> set[str]:
    """Names that a statement of a module gives something."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def defined(module: str, name: str) -> tuple[Path, ast.stmt] | None:
    """File and statement that define a name, through `from .x import name`; None when it is a module."""
    path = module_file(module)
    for node in parsed(path)[1].body:
        if name in named(node):
            return path, node
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            original = next(a.name for a in node.names if (a.asname or a.name) == name)
            return None if module_file(f"{source}.{original}").is_file() else defined(source, original)
    if path.name == "__init__.py" and module_file(f"{module}.{name}").is_file():
        return None  # a room that exports nothing offers its modules
    raise LookupError(f"{module} exports {name}, which no statement of {shown(path)} makes: define or import it there")


def head(path: Path, node: ast.stmt) -> str:
    """Decorators and signature as written, without the body; the whole of what is no function or class."""
    lines = parsed(path)[0].splitlines()
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return "\n".join(lines[node.lineno - 1 : node.end_lineno])
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    body = node.body[0]
    end = body.lineno - 1
    cut = lines[first:end] if end >= node.lineno else []
    if end == node.lineno - 1 or lines[end][: body.col_offset].strip():  # `def f(): ...` on one line
        cut = [*lines[first:end], lines[end].encode()[: body.col_offset].decode()]
    while cut and (not cut[-1].strip() or cut[-1].lstrip().startswith("#")):
        cut.pop()
    indent = len(lines[first]) - len(lines[first].lstrip())
    return "\n".join(line[indent:] for line in cut).rstrip().removesuffix(":")


def docstring(node: ast.AST) -> str:
    return ast.get_docstring(node) or "" if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) else ""


def fields(path: Path, node: ast.ClassDef) -> list[str]:
    """Annotated attributes of a record, as written."""
    lines = parsed(path)[0].splitlines()
    return [
        line[4:]
        for part in node.body
        if isinstance(part, ast.AnnAssign) and not any(name.startswith("_") for name in named(part))
        for line in lines[part.lineno - 1 : part.end_lineno]
    ]


def methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and (not part.name.startswith("_") or part.name == "__init__"):
            yield part


def public(module: str) -> list[str]:
    """What a module offers: its `__all__`, else the functions and classes written in it, else a package's modules."""
    path = module_file(module)
    body = parsed(path)[1].body
    for node in body:
        if isinstance(node, ast.Assign) and named(node) == {"__all__"}:
            return sorted(ast.literal_eval(node.value), key=lambda name: (name.lower(), name))
    own = [n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    if own or path.name != "__init__.py":
        return own
    return sorted(p.stem for p in path.parent.glob("*.py") if not p.name.startswith("_"))


# ---- pages


def prose(text: str) -> str:
    """A docstring as Markdown: what is no code is escaped, and `Raises` and `Source` keep a line of their own."""
    out = []
    for block in re.split(r"\n\s*\n", text):
        if all(line.startswith("    ") for line in block.splitlines() if line.strip()):
            out.append(block)  # an indented block is code already
            continue
        parts = CODE.split(block)
        parts[::2] = [re.sub(r"([*_<\[])", r"\\\1", part) for part in parts[::2]]
        block = "".join(parts)
        out.append(re.sub(r"\n(?=(?:Raises|Source)\b)", "\n\n", block))
    return "\n\n".join(out)


def fenced(code: str, lexer: str = "python") -> str:
    fence = "~" * max([3, *(len(run) + 1 for run in re.findall("~{3,}", code))])
    return f"{fence}{lexer}\n{code}\n{fence}\n"


def source_page(path: str) -> str:
    return f"source/{path}.html"


def source(path: str) -> str:
    """A file of the repository as a plain page, its lines numbered by their anchors (`#L-12`); no search finds it."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    lexer = get_lexer_by_name(LEXERS.get(Path(path).suffix, "text"))
    code = highlight((ROOT / path).read_text(), lexer, HtmlFormatter(cssclass="codehilite", linespans="L"))
    style = relative("docs.css", source_page(path))
    return SOURCE.format(title=html.escape(path), style=style, code=code)


class Site:
    """Pages to be added, and the repository's files that they link to."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.sources: set[str] = set()

    def source(self, page: str, path: str, line: int = 1) -> str:
        """Address of a line of the repository, as a page links to it."""
        self.sources.add(path)
        return f"{relative(source_page(path), page)}#L-{line}"

    def item(self, page: str, path: Path, node: ast.stmt, level: int, name: str) -> str:
        """Heading, signature, docstring and source of one name; of a class its fields and public methods too."""
        code = head(path, node)
        text = [f"{'#' * level} {name.replace('_', chr(92) + '_')}\n"]
        if isinstance(node, ast.ClassDef) and (held := fields(path, node)):
            code += ":\n" + "\n".join(f"    {line}" for line in held)
        text += [fenced(code), prose(docstring(node))]
        if isinstance(node, ast.ClassDef):
            for part in methods(node):
                text.append(f"**{name}.{part.name.replace('_', chr(92) + '_')}**\n")
                text += [fenced(head(path, part)), prose(docstring(part))]
        where = self.source(page, shown(path), node.lineno)
        return "\n\n".join([*text, f"[`{shown(path)}:{node.lineno}`]({where})\n{{: .where }}\n"])

    def room(self, title: str, module: str, names: Mapping[str, str]) -> None:
        """One page of reference: names, and the module where each is offered."""
        page = f"reference/{title}.md"
        text = [f"# {module}\n", docstring(parsed(module_file(module))[1]), ""]
        for name, offered in names.items():
            if (found := defined(offered, name)) is not None:
                text.append(self.item(page, *found, level=2, name=name))
                continue
            inner = f"{offered}.{name}"
            text += [f"## {name}\n", prose(docstring(parsed(module_file(inner))[1])), ""]
            for own in public(inner):
                if (one := defined(inner, own)) is not None:
                    text.append(self.item(page, *one, level=3, name=f"{name}.{own}"))
        self.pages[page] = "\n\n".join(text)

    def registry(self, folder: str) -> None:
        """One registry as a table: name, what it is, and its signature as written."""
        from workbench import catalogue

        page = f"registries/{folder}.md"
        package = catalogue.FOLDERS[folder]
        rows = catalogue.table(folder)
        text = [
            f"# {folder.replace('_', ' ').capitalize()}\n",
            f"{len(rows)} entries, one file each in `{package.replace('.', '/')}/`; "
            f"`workbench.catalogue.table({folder!r})` gives this table in Python. "
            "The signatures are at the foot, as written.\n",
            "| name | what | arguments |",
            "| --- | --- | --- |",
        ]
        below = []
        for row in rows:
            function = catalogue.entry(folder, row["name"])
            found = defined(f"{package}.{row['name']}", function.__name__)
            path = module_file(f"{package}.{row['name']}")
            link = f"[`{row['name']}`]({self.source(page, shown(path))})"
            what = prose(row["what"]).replace("|", r"\|")
            text.append(f"| {link} | {what} | {arguments(found)} |")
            if found is not None:
                below.append(self.item(page, *found, level=3, name=row["name"]))
        self.pages[page] = "\n".join([*text, "", "## Signatures", "", *below])

    def notebook(self, path: Path) -> str:
        """One notebook as a page, source without outputs; its title."""
        page = f"notebooks/{path.stem}.md"
        cells = json.loads(path.read_text())["cells"]
        text, title = [], path.stem
        for cell in cells:
            source = "".join(cell["source"]).strip()
            if not source:
                continue
            if cell["cell_type"] == "code":
                if "parameters" in cell["metadata"].get("tags", []):
                    text.append("*Parameters: `-p name value` sets them.*\n")
                text.append(fenced(source))
            elif cell["cell_type"] == "markdown":
                text.append(source + "\n")
        if found := re.search(r"^# (.+)$", "\n".join(text), re.MULTILINE):
            title = found[1]
        how = f"Code and words of `{shown(path)}`, not its results: `workbench report {shown(path)}` makes those."
        text.insert(1 if found else 0, f"{how}\n{{: .where }}\n")
        self.pages[page] = self.relinked("\n\n".join(text), page, shown(path))
        return title

    def citing(self) -> None:
        """Every paper that a docstring names, and what was made after it."""
        page = "citing.md"
        text = [
            "# Citing\n",
            "What was made after a paper names it in its docstring; this page is gathered from those. Cite the paper "
            "of each method, evaluation, world or prompt set that you use, and the workbench by `CITATION.cff`.\n",
            "| paper | arXiv | here |",
            "| --- | --- | --- |",
        ]
        for number, (authors, places) in sorted(papers().items(), key=lambda item: item[1][0]):
            here = ", ".join(f"[`{name}`]({self.source(page, path, line)})" for name, path, line in places)
            text.append(f"| {authors} | {number} | {here} |")
        self.pages[page] = "\n".join(text)

    def relinked(self, text: str, page: str, origin: str) -> str:
        """Links to files of the repository become links to their pages; mkdocs judges what leads nowhere."""
        here = PurePosixPath(origin).parent

        def link(found: re.Match[str]) -> str:
            target = found[1]
            if urlsplit(target).scheme or target.startswith("/"):
                return target
            path = os.path.normpath(here / unquote(target)).replace(os.sep, "/")
            if path.startswith("docs/"):
                return relative(path.removeprefix("docs/"), page)
            if (own := own_page(path)) is not None:
                return relative(own, page)
            if not (ROOT / path).is_file() or path.startswith(".."):
                return target
            self.sources.add(path)
            return relative(source_page(path), page)

        parts = CODE.split(text)
        parts[::2] = [REPOSITORY_LINK.sub(link, part) for part in parts[::2]]
        return "".join(parts)


def papers() -> dict[str, tuple[str, list[tuple[str, str, int]]]]:
    """By arXiv number: authors and year, and the name, file and line of what names it."""
    found: dict[str, tuple[str, list[tuple[str, str, int]]]] = {}
    for path in sorted((ROOT / "workbench").rglob("*.py")):
        for node in ast.walk(parsed(path)[1]):
            for paper in PAPER.finditer(" ".join(docstring(node).split())):
                authors, places = found.get(paper[2], ("", []))
                name, line = (node.name, node.lineno) if hasattr(node, "lineno") else (path.stem, 1)  # type: ignore[attr-defined]
                places = places if any(p[0] == name for p in places) else [*places, (name, shown(path), line)]
                found[paper[2]] = (authors or paper[1] or "", places)
    return found


def own_page(path: str) -> str | None:
    """The page of a file that has one of its own."""
    if path == "README.md":
        return START
    if path.rstrip("/") == "notebooks":
        return "notebooks/index.md"
    found = re.fullmatch(r"notebooks/([^/]+)\.ipynb", path)
    return f"notebooks/{found[1]}.md" if found and (ROOT / path).is_file() else None


def relative(target: str, page: str) -> str:
    return os.path.relpath(target, PurePosixPath(page).parent).replace(os.sep, "/")


def arguments(found: tuple[Path, ast.stmt] | None) -> str:
    """Argument names and defaults in a table's cell."""
    if found is None or not isinstance(found[1], ast.FunctionDef):
        return ""
    a = found[1].args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + list(a.defaults)
    pairs = [*zip(plain, defaults, strict=True), *zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    names = [arg.arg if default is None else f"{arg.arg}={ast.unparse(default)}" for arg, default in pairs]
    return " ".join(f"`{name}`".replace("|", r"\|") for name in names)


def reference() -> dict[str, tuple[str, dict[str, str]]]:
    """Title of each page of reference, its module, and its names with the module that offers each."""
    import widgets
    from workbench import DOORS

    types = {name: f"workbench.{file}" for name, file in DOORS.items() if file in ("site", "batch", "code", "edit")}
    pages = {"types": ("workbench", types)}
    for room in (*DOOR_FILES, *ROOMS):
        module = f"workbench.{room}"
        pages[room] = (module, dict.fromkeys(public(module), module))
    return pages | {"widgets": ("widgets", {name: f"widgets.{file}" for name, file in widgets.NAMES.items()})}


# ---- what mkdocs calls

built: list[Site] = []


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages and put them into the navigation."""
    from workbench import catalogue

    site = Site()
    for title, (module, names) in reference().items():
        site.room(title, module, names)
    for folder in catalogue.FOLDERS:
        site.registry(folder)
    site.citing()
    titles = {path.stem: site.notebook(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    lines = ["# Notebooks\n", "One question each. The pages hold their code and words, not their results.\n"]
    lines += [f"- [`{stem}`]({stem}.md): {title}" for stem, title in titles.items()]
    site.pages["notebooks/index.md"] = "\n".join(lines)
    site.pages[START] = site.relinked((ROOT / "README.md").read_text(), START, "README.md")
    config.nav = [
        *config.nav,
        {"Notebooks": [{"All": "notebooks/index.md"}, *({stem: f"notebooks/{stem}.md"} for stem in titles)]},
        {"Registries": [{folder: f"registries/{folder}.md"} for folder in catalogue.FOLDERS]},
        {"Reference": [{title: f"reference/{title}.md"} for title in reference()]},
        {"Citing": "citing.md"},
    ]
    return added(files, config, site)


def added(files: Any, config: Any, site: Site) -> Any:
    """mkdocs's files, with the site's pages and the sources that any page links to."""
    from mkdocs.structure.files import File

    for file in files.documentation_pages():  # rewritten when they are rendered; the sources they need are known now
        site.relinked(file.content_string, file.src_uri, f"docs/{file.src_uri}")
    for page, text in site.pages.items():
        files.append(File.generated(config, page, content=text))
    for path in sorted(site.sources):
        files.append(File.generated(config, source_page(path), content=source(path)))
    built[:] = [site]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of the pages in docs/ to files outside of it."""
    ours = page.file.generated_by is None
    return built[0].relinked(markdown, page.file.src_uri, f"docs/{page.file.src_uri}") if ours else markdown


def on_post_page(output: str, **_: Any) -> str:
    """The theme's switch of colours looks for the styles of highlight.js and fails without them: two empty ones."""
    return output.replace("</head>", '<style id="hljs-light"></style><style id="hljs-dark"></style></head>', 1)


def on_post_build(config: Any) -> None:
    """Every link of the site is followed."""
    for trouble in troubles(Path(config.site_dir)):
        log.warning(trouble)


# ---- every link of a built site


class Links(HTMLParser):
    """Anchors of a page, where it links to, and what it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name == "href" and value and tag == "a":
                self.links.append(value)
            elif name in LOADING and value:
                self.loads += [one.split()[0] for one in value.split(",")] if name == "srcset" else [value]


def troubles(folder: Path) -> list[str]:
    """A line for each link that leads nowhere and each thing that would be fetched from a network."""
    pages = {}
    for path in sorted(folder.rglob("*.html")):
        pages[path] = Links()
        if path.relative_to(folder).parts[0] == "source":  # thousands of spans, and one link
            pages[path].ids = set(re.findall(r'id="([^"]+)"', path.read_text()))
        else:
            pages[path].feed(path.read_text())
    found = []
    for path, page in pages.items():
        here = path.relative_to(folder).as_posix()
        if path.name == "404.html":
            continue  # served for any address: its links are absolute
        for target in [*page.links, *page.loads]:
            parts = urlsplit(target)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                if target in page.loads:
                    found.append(f"{here} would load {target} from a network: put the file into docs/")
                continue
            goal = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if not goal.is_file():
                found.append(f"{here} links to {target}, which is not there: mend the link")
            elif parts.fragment and goal in pages and unquote(parts.fragment) not in pages[goal].ids:
                found.append(f"{here} links to {target}, and that page has no such anchor: mend the link")
    for path in sorted(folder.rglob("*.css")):
        for target in STYLE_LOADS.findall(path.read_text(errors="replace")):
            if urlsplit(target).netloc:
                found.append(f"{path.relative_to(folder)} would load {target} from a network: put the file into docs/")
    return found

"""The documentation says what is there: names, keys, errors and links, each held against the thing itself."""

import ast
import functools
import hashlib
import http.server
import json
import re
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import build_docs
from fake_subject import FakeSubject, documents
from test_graph_files import GIVEN, graph

import workbench as wb
from workbench import catalogue, evaluate, geometry, interpret, lineage
from workbench.circuits import export
from workbench.harvest.shards import Shard
from workbench.report import sweep
from workbench.report.run import finish

ROOT = Path(__file__).parent.parent
ARTEFACTS = (ROOT / "docs" / "artefacts.md").read_text()
TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()


# ---- artefacts


def told(head: str) -> dict[str, list[str]]:
    """A table of the page by its first head: names in the first cell of each line, and the line's other cells."""
    _, _, rest = ARTEFACTS.partition(f"\n| {head} |")
    assert rest, f"docs/artefacts.md has no table that begins with {head}"
    found: dict[str, list[str]] = {}
    for line in rest.partition("\n\n")[0].splitlines()[2:]:
        names, *others = (cell.strip() for cell in line.strip().strip("|").split("|"))
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in found, f"{name} stands twice below {head}"
            found[name] = others
    return found


def named_in(head: str, name: str) -> set[str]:
    """What a line of a table names in code."""
    return set(re.findall(r"`([^`]+)`", told(head)[name][-1]))


def shard_of(path: Path) -> dict[str, str]:
    return {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in Shard(path)._tensors.items()}


def dtypes(head: str) -> dict[str, str]:
    return {name: cells[0] for name, cells in told(head).items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One small artefact of each kind, in folders."""
    home = tmp_path_factory.mktemp("artefacts")
    subject = FakeSubject()
    store = wb.collect(subject, documents(), ["1.resid"], rows=300, length=32, folder=home / "store", quiet=True)
    recipe = wb.recipe("batch_topk", d=6, latents=16, k=2)
    how = {"site": "1.resid", "exclusion": store.exclusion, "progress": False, "log_every": 1, "checkpoint_every": 2}
    stream = store.stream(64, site="1.resid", steps=6)
    asked = iter([False, False, False, True])
    wb.train(recipe, stream, folder=home / "cut", stop=lambda *_: next(asked), **how)
    sae = wb.train(recipe, stream, folder=home / "sae", **how)
    wb.encode(store, sae, home / "codes", quiet=True).column(0)
    interpret.index(sae, store, subject, folder=home / "index")
    evaluate.run({"sae": sae}, ["sparsity"], rows=store, folder=home / "scores", progress=False)
    geometry.plane(sae.atoms(), neighbours=3, method="pca", folder=home / "plane")
    cells = [new_markdown_cell("# Which?"), new_code_cell("seed = 0", metadata={"tags": ["parameters"]})]
    nbformat.write(new_notebook(cells=cells), home / "q.ipynb")
    finish(home / "q.ipynb", {"seed": 1}, home / "reports", "", 1.0)
    plan = sweep.made({"notebook": "q.ipynb", "grid": {"seed": [0, 1]}}, home)
    rows = [sweep.row_of(plan.notebook, given) for given in plan.runs]
    rows[0]["values"] = {"fvu": 0.125}
    (home / "sweep").mkdir()
    sweep.keep(home / "sweep", plan, rows)
    return home


def raw(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_store_is_as_told(made):
    manifest = raw(made / "store" / "manifest.json")
    assert set(manifest) == set(told("`manifest.json` of a store"))
    (entry,) = manifest["shards"]
    assert set(entry) == set(told("entry of `shards` in a store"))
    assert set(entry["excluded"]) == {"by_token", "by_norm"} == named_in("entry of `shards` in a store", "excluded")
    assert set(manifest["exclusion"]) == named_in("`manifest.json` of a store", "exclusion")
    assert set(manifest["dropped"]) == named_in("`manifest.json` of a store", "dropped")
    assert manifest["format"] == 1
    assert manifest["state"] in named_in("`manifest.json` of a store", "state")
    assert shard_of(made / "store" / entry["file"]) == dtypes("tensor of a store's shard")
    assert entry["sha256"] == hashlib.sha256((made / "store" / entry["file"]).read_bytes()).hexdigest()
    assert {p.name for p in (made / "store").iterdir()} == {"manifest.json", "labels.parquet", "00000.safetensors"}


def test_a_dictionary_is_as_told(made):
    spec = raw(made / "sae" / "spec.json")
    assert set(spec) == set(told("`spec.json`"))
    assert set(spec["training"]) == named_in("`spec.json`", "training")
    assert set(spec["scale"]) == named_in("`spec.json`", "scale")
    assert set(spec["weights"]) == named_in("`spec.json`", "weights")
    assert shard_of(made / "sae" / "weights.safetensors") == dtypes("tensor of a dictionary")
    terms = set(wb.recipe("batch_topk", d=6, latents=16, k=2).losses)
    lines = [json.loads(line) for line in (made / "sae" / "log.jsonl").read_text().splitlines()]
    assert all(set(line) - terms == set(told("line of `log.jsonl`")) for line in lines) and len(lines) == 6
    assert {p.name for p in (made / "sae").iterdir()} - {".lock"} == {"spec.json", "weights.safetensors", "log.jsonl"}
    state = raw(made / "cut" / "checkpoint" / "state.json")
    assert set(state) == set(told("`checkpoint/state.json`"))
    assert (made / "cut" / "checkpoint" / state["file"]).is_file()


def test_codes_are_as_told(made):
    manifest = raw(made / "codes" / "manifest.json")
    assert set(manifest) == set(told("`manifest.json` of codes"))
    assert set(manifest["call"]) == named_in("`manifest.json` of codes", "call")
    assert manifest["format"] in named_in("`manifest.json` of codes", "format")
    (entry,) = manifest["shards"]
    assert set(entry) == named_in("`manifest.json` of codes", "shards")
    assert shard_of(made / "codes" / entry["file"]) == dtypes("tensor of a shard of codes")
    assert set(raw(made / "codes" / "columns.json")) == set(told("`columns.json`"))
    assert shard_of(made / "codes" / "columns.safetensors") == dtypes("tensor of `columns.safetensors`")


def test_an_index_is_as_told(made):
    folder = made / "index"
    manifest = raw(folder / "manifest.json")
    assert set(manifest) == set(told("`manifest.json` of an index"))
    assert set(manifest["files"]) == {"latents.parquet", "contexts.parquet", "histograms.npz"}
    for name, table in {"latents": "latents.parquet", "contexts": "contexts.parquet"}.items():
        columns = pd.read_parquet(folder / table).dtypes
        assert {column: str(dtype) for column, dtype in columns.items()} == dtypes(f"column of `{name}.parquet`")
    assert set(pd.read_parquet(folder / "contexts.parquet")["kind"].cat.categories) == named_in(
        "column of `contexts.parquet`", "kind"
    )
    arrays = np.load(folder / "histograms.npz")
    assert set(arrays) == set(told("array of `histograms.npz`"))
    assert arrays["counts"].shape == (16, 64)
    assert told("array of `histograms.npz`")["counts"][0] == "latent 64"
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"codes"}


def test_a_graph_file_is_as_told():
    value = export.to_json(graph(), **GIVEN)
    head = "key of a graph file"
    assert set(value) == set(told(head))
    assert set(value["metadata"]) == named_in(head, "metadata")
    assert set(value["qParams"]) == named_in(head, "qParams")
    assert set(value["links"][0]) == named_in(head, "links")
    assert set(value["workbench"]) == named_in(head, "workbench")
    assert value["metadata"]["schema_version"] == 1
    assert all(set(node) == set(told("key of a node")) for node in value["nodes"])
    assert {node["feature_type"] for node in value["nodes"]} == named_in("key of a node", "feature_type")
    assert set(told(head)) - set(export.to_json(graph(), strict=True, **GIVEN)) == {"workbench"}


def test_evaluations_and_planes_are_as_told(made):
    (cell,) = (made / "scores").iterdir()
    assert set(raw(cell)) == set(told("an evaluation's file"))
    assert all(set(score) == set(told("entry of `scores`")) for score in raw(cell)["scores"])
    (tensors,) = (made / "plane").glob("*.safetensors")
    sizes, found = told("tensor of a plane"), load_file(tensors)
    dtypes_told = {"xy": sizes["xy"][0], "latents": sizes["latents"][0]}
    dtypes_told |= dict(zip(("indices", "cosines"), sizes["indices"][0].split(", "), strict=True))
    assert {name: str(t.dtype).removeprefix("torch.") for name, t in found.items()} == dtypes_told
    about = raw(tensors.with_suffix(".json"))
    assert set(about) == set(told("`<hash>.json` of a plane"))
    assert set(about["plane"]) == named_in("`<hash>.json` of a plane", "plane")
    assert about["sha256"] == lineage.file_hash(tensors)
    assert tensors.stem == lineage.fingerprint(about["of"])


def test_the_quality_of_transcoders_is_as_told():
    lines = lineage.read_json(ROOT / "docs" / "measurements" / "transcoders.json")["rows"]
    assert all(set(line) == set(told("entry of `rows` of a quality")) for line in lines)
    wrote = re.search(r"write_json\(home / QUALITY, \{(.*?)\}\)", (ROOT / "workbench/regimes/layers.py").read_text())[1]
    assert set(re.findall(r'"(\w+)":', wrote)) | {"checksum"} == set(told("`quality.json`"))


def test_records_of_reports_and_sweeps_are_as_told(made):
    (record,) = (made / "reports").glob("*.results.json")
    assert record.name == f"q-{lineage.fingerprint({'seed': 1})[:8]}.results.json"
    assert set(raw(record)) == set(told("`<name>.results.json`"))
    runs = raw(made / "sweep" / "runs.json")
    assert set(runs) == set(told("`runs.json`"))
    assert runs["sweep"] == 1
    assert all(set(row) == set(told("entry of `runs`")) for row in runs["runs"])
    found = pyarrow.parquet.read_table(made / "sweep" / "results.parquet")
    assert set(found.column_names) == set(told("column of `results.parquet`"))
    assert found.schema.metadata[b"workbench.sweep"] == b"1"
    assert b"workbench.versions" in found.schema.metadata
    assert {p.name for p in (made / "sweep").iterdir()} == {
        "runs.json", "results.parquet", "index.html", "compare.html"
    }  # fmt: skip


def test_checksums_and_fingerprints_are_those_of_the_rule(made):
    files = [p for p in made.rglob("*.json")]
    assert len(files) >= 10
    for path in files:
        body = raw(path)
        claimed = body.pop("checksum")
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        assert claimed == hashlib.sha256(text.encode()).hexdigest(), path
    assert lineage.fingerprint({"b": 1, "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":1}').hexdigest()[:16]


def test_every_table_of_the_page_is_held_by_a_test():
    heads = set(re.findall(r"^\| ([^|]+) \|.*\n\| ---", ARTEFACTS, re.MULTILINE))
    source = Path(__file__).read_text()
    held = {head for head in heads if json.dumps(head, ensure_ascii=False)[1:-1] in source}
    parts = {f"column of `{name}.parquet`" for name in ("latents", "contexts")}  # asked for in a loop
    assert heads == held | parts
    assert len(heads) == 27


# ---- troubleshooting


@functools.cache
def sentences() -> list[str]:
    """Every text of the source: of f-strings the values as `…`; scripts of the widgets line by line."""
    found = []
    for path in [*(ROOT / "workbench").rglob("*.py"), *(ROOT / "widgets").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found + [line for p in (ROOT / "widgets" / "src").rglob("*.js") for line in p.read_text().splitlines()]


def is_said(quote: str) -> bool:
    return any(quote in sentence for sentence in sentences())


def test_every_error_of_the_page_is_one_of_ours():
    quotes = re.findall(r"^> (.+)$", TROUBLES, re.MULTILINE)
    assert len(quotes) >= 25
    assert [quote for quote in quotes if not is_said(quote)] == []
    assert not is_said("… is not installed: pip install workbench")


def test_what_to_do_names_commands_and_settings_that_exist():
    commands = set(
        re.findall(r"\bworkbench ([a-z]+)\b(?= |`|\.|$)", " ".join(re.findall(r"`(workbench [^`]+)`", TROUBLES)))
    )
    assert {"doctor", "report", "fetch", "sweep"} <= commands
    cli = (ROOT / "workbench" / "cli.py").read_text()
    assert all(f'add_parser("{command}"' in cli for command in commands)
    assert all(f'"{flag}"' in cli for flag in ("--json", "--accept-terms", "--timeout", "--resume"))
    source = "\n".join(p.read_text() for p in (ROOT / "workbench").rglob("*.py"))
    assert all(f'"{name}"' in source for name in set(re.findall(r"WORKBENCH_\w+", TROUBLES)))
    for target in re.findall(r"make (lab|doctor)", TROUBLES):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


# ---- reference, registries, notebooks


@pytest.fixture(scope="module")
def site():
    made = build_docs.Site()
    for title, (module, names) in build_docs.reference().items():
        made.room(title, module, names)
    return made


@pytest.mark.parametrize("room", build_docs.ROOMS)
def test_the_reference_has_every_name_that_a_room_exports(site, room):
    module = import_module(f"workbench.{room}")
    page = site.pages[f"reference/{room}.md"]
    headings = {line.removeprefix("## ").replace("\\", "") for line in page.splitlines() if line.startswith("## ")}
    own = getattr(module, "__all__", None) or {
        p.stem for p in Path(module.__path__[0]).glob("*.py") if not p.stem.startswith("_")
    }
    assert headings == set(own)


def test_the_reference_shows_signature_and_docstring_as_written(site):
    page = site.pages["reference/harvest.md"]
    text = (ROOT / "workbench" / "harvest" / "collect.py").read_text()
    begin = text.index("def collect(")
    assert text[begin : text.index(":\n", text.index(") -> Store", begin))] in page
    assert "Made once: the same call opens what is there" in page
    assert "(../source/workbench/harvest/collect.py.html#L-" in page
    types = site.pages["reference/types.md"]
    assert 'class Batch:\n    x: Float[Tensor, "row *inp"]' in types
    assert "## FeatureMap" in site.pages["reference/widgets.md"]
    assert "### layers.transcoders" in site.pages["reference/regimes.md"]


def test_every_paper_that_a_docstring_names_is_listed_with_its_authors_and_what_was_made_after_it(site):
    found = build_docs.papers()
    source = "\n".join(p.read_text() for p in (ROOT / "workbench").rglob("*.py"))
    assert set(found) >= set(re.findall(r"arXiv[: ](\d{4}\.\d{4,5})", source))
    assert [number for number, (authors, _) in found.items() if not re.search(r"[A-Z].* \d{4}$", authors)] == []
    authors, places = found["2406.04093"]
    assert authors == "Gao et al. 2024"
    assert "topk" in [name for name, _, _ in places]
    site.citing()
    line = next(line for line in site.pages["citing.md"].splitlines() if "2406.17759" in line)
    assert line.startswith("| Kissane et al. 2024 | 2406.17759 | [`attention_features`](source/workbench/circuits/")


WRITTEN = '''
from functools import cache

LIMIT = {
    "a": 1,
}

def short(x: int) -> int: return x

@cache
def long(
    x: "dict[str, int]",  # why: a colon
    y: int = 3,
) -> int:
    """What it says.

    More.
    """

@dataclass
class Record(NamedTuple):
    """A record."""

    # a comment
    width: int = 3  # of a row
    _hidden: int = 0

    def area(self) -> int:
        return 1

    def _inner(self): ...
'''


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(build_docs, "ROOT", tmp_path)
    (tmp_path / "m.py").write_text(WRITTEN)
    return {name: build_docs.defined("m", name) for name in ("LIMIT", "short", "long", "Record")}


def test_heads_end_before_the_body(written):
    heads = {name: build_docs.head(*found) for name, found in written.items()}
    assert heads["LIMIT"] == 'LIMIT = {\n    "a": 1,\n}'
    assert heads["short"] == "def short(x: int) -> int"
    assert heads["long"] == '@cache\ndef long(\n    x: "dict[str, int]",  # why: a colon\n    y: int = 3,\n) -> int'
    assert heads["Record"] == "@dataclass\nclass Record(NamedTuple)"


def test_a_record_shows_its_fields_and_public_methods(written):
    page = build_docs.Site().item("p.md", *written["Record"], level=2, name="Record")
    assert "class Record(NamedTuple):\n    width: int = 3  # of a row\n" in page
    assert "**Record.area**" in page and "def area(self) -> int" in page
    assert "_hidden" not in page and "_inner" not in page


def test_a_name_that_nothing_makes_is_an_error(written):
    with pytest.raises(LookupError, match="m exports nothing, which no statement of m.py makes"):
        build_docs.defined("m", "nothing")


def test_prose_is_shown_as_it_was_written():
    text = "x * y_hat < 3 in [0, 1], `a*b_c`.\nRaises ValueError.\n\n    code * here"
    assert build_docs.prose(text) == (
        "x \\* y\\_hat \\< 3 in \\[0, 1], `a*b_c`.\n\nRaises ValueError.\n\n    code * here"
    )


@pytest.mark.parametrize("folder", catalogue.FOLDERS)
def test_a_registrys_page_has_every_entry(folder):
    made = build_docs.Site()
    made.registry(folder)
    page = made.pages[f"registries/{folder}.md"]
    rows = re.findall(r"^\| \[`(\w+)`\]\((\S+)\) \| (.+) \| (.*) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == catalogue.names(folder)
    table = {row["name"]: row["what"] for row in catalogue.table(folder)}
    for name, address, what, _ in rows:
        assert address == f"../source/{catalogue.FOLDERS[folder].replace('.', '/')}/{name}.py.html#L-1"
        assert what.replace("\\", "") == table[name].replace("\\", "")
        assert f"\n### {name}".replace("_", "\\_") in page


def test_a_registrys_arguments_are_those_of_the_signature():
    made = build_docs.Site()
    made.registry("variants")
    (line,) = [
        line for line in made.pages["registries/variants.md"].splitlines() if line.startswith("| [`batch_topk`]")
    ]
    assert line.endswith("| `d` `latents` `k=32` `aux=1 / 32` `aux_k=None` |")


def test_a_notebooks_page_has_its_words_and_code():
    made = build_docs.Site()
    path = ROOT / "notebooks" / "01_first_look.ipynb"
    title = made.notebook(path)
    page = made.pages["notebooks/01_first_look.md"]
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.source.strip()]
    assert page.startswith(f"# {title}\n")
    assert all(cell.source.strip() in page for cell in cells if cell.cell_type == "code")
    assert page.count("*Parameters:") == 1


# ---- links


def test_links_to_the_repository_find_their_pages():
    made = build_docs.Site()
    text = (
        "[a](docs/effects.md) [b](NOTICE) [c](notebooks/01_first_look.ipynb#x) [d](none.md) [e](https://x.org/y.md) "
        "`[f](NOTICE)` [g](notebooks) [h](../NOTICE) [i](docs)"
    )
    assert made.relinked(text, "start.md", "README.md") == (
        "[a](effects.md) [b](source/NOTICE.html) [c](notebooks/01_first_look.md#x) [d](none.md) "
        "[e](https://x.org/y.md) `[f](NOTICE)` [g](notebooks/index.md) [h](../NOTICE) [i](docs)"
    )
    assert made.relinked("[r](../README.md)", "guide.md", "docs/guide.md") == "[r](start.md)"
    assert made.relinked("[r](../docs/a.md)", "notebooks/x.md", "notebooks/x.ipynb") == "[r](../a.md)"
    assert made.sources == {"NOTICE"}


def test_what_leads_nowhere_or_to_a_network_is_told(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "ok.css").write_text("a { background: url(x.png), url(data:image/png;base64,AA) }")
    (tmp_path / "source" / "m.py.html").write_text('<span id="L-3">x</span><a href="nowhere.html">text</a>')
    good = '<link href="../ok.css"><h1 id="top">t</h1><a href="https://x.org">x</a><img src="../x.png">'
    good += '<a href="#top">a</a><a href="../source/m.py.html#L-3">s</a><img src="data:,">'
    (tmp_path / "sub" / "good.html").write_text(good)
    assert build_docs.troubles(tmp_path) == []
    bad = {
        '<a href="gone.html">x</a>': "bad.html links to gone.html, which is not there: mend the link",
        '<a href="sub">x</a>': "bad.html links to sub, which is not there: mend the link",
        '<a href="sub/good.html#no">x</a>': "bad.html links to sub/good.html#no, and that page has no such anchor",
        '<a href="source/m.py.html#L-4">x</a>': "bad.html links to source/m.py.html#L-4, and that page has no such",
        '<img src="y.png">': "bad.html links to y.png, which is not there: mend the link",
        '<script src="https://x.org/a.js"></script>': "bad.html would load https://x.org/a.js from a network",
        '<link rel="stylesheet" href="//x.org/a.css">': "bad.html would load //x.org/a.css from a network",
        '<img srcset="x.png 1x, https://x.org/b.png 2x">': "bad.html would load https://x.org/b.png from a network",
    }
    for text, said in bad.items():
        (tmp_path / "bad.html").write_text(text)
        (line,) = build_docs.troubles(tmp_path)
        assert line.startswith(said), text
    (tmp_path / "bad.html").unlink()
    (tmp_path / "ok.css").write_text('@import "https://x.org/f.css"; a { src: url(//x.org/f.woff) }')
    assert [line.split(" from ")[0] for line in build_docs.troubles(tmp_path)] == [
        "ok.css would load https://x.org/f.css",
        "ok.css would load //x.org/f.woff",
    ]


HOOK = """
import build_docs
from build_docs import on_page_markdown, on_post_build, on_post_page

def on_files(files, config):
    return build_docs.added(files, config, build_docs.Site())
"""


def built(folder: Path, text: str, nav: list) -> Path:
    """A site of two pages by the settings and hooks of the real one; its folder."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    docs = folder / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Index\n\n{text}\n")
    (docs / "other.md").write_text("# Other\n")
    (docs / "docs.css").write_text("")
    (folder / "hook.py").write_text(HOOK)
    settings = {"docs_dir": str(docs), "site_dir": str(folder / "site"), "hooks": [str(folder / "hook.py")], "nav": nav}
    build(load_config(str(ROOT / "mkdocs.yml"), **settings))
    return folder / "site"


def test_a_sound_page_is_built_with_its_sources(tmp_path):
    site = built(tmp_path, "[x](../NOTICE) [y](other.md#other)", ["index.md", "other.md"])
    page = (site / "index.html").read_text()
    assert 'href="source/NOTICE.html"' in page and 'href="other.html#other"' in page
    assert 'id="hljs-dark"' in page
    notice = (site / "source" / "NOTICE.html").read_text()
    assert f'id="L-1">{(ROOT / "NOTICE").read_text().splitlines()[0]}' in notice


@pytest.mark.parametrize(
    ("text", "nav", "said"),
    [
        ("[x](gone.md)", ["index.md", "other.md"], "'gone.md', but the target is not found"),
        (
            "[x](other.md#nowhere)",
            ["index.md", "other.md"],
            "'other.md#nowhere', but the doc 'other.md' does not contain",
        ),
        ("[x](../workbench/gone.py)", ["index.md", "other.md"], "'../workbench/gone.py', but the target"),
        ('<img src="https://x.org/a.png">', ["index.md", "other.md"], "would load https://x.org/a.png from a network"),
        ('<a href="gone.html">x</a>', ["index.md", "other.md"], "index.html links to gone.html, which is not there"),
        ("sound", ["index.md"], 'not included in the "nav"'),
        ("sound", ["index.md", "other.md", "gone.md"], "'gone.md' is included in the 'nav'"),
    ],
)
def test_a_planted_fault_fails_the_build_and_is_named(tmp_path, caplog, text, nav, said):
    from mkdocs.exceptions import Abort

    with pytest.raises(Abort, match=r"Aborted with \d warnings? in strict mode"):
        built(tmp_path, text, nav)
    first = next(record for record in caplog.records if record.levelname == "WARNING")
    assert said in first.getMessage()


def test_nothing_of_the_site_comes_from_a_network_by_its_settings():
    import yaml

    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert settings["strict"] is True
    assert settings["theme"]["highlightjs"] is False
    assert not re.search(r"https?://", (ROOT / "mkdocs.yml").read_text())


@pytest.mark.browser
def test_the_site_works_from_loopback_and_asks_nothing_else(tmp_path):
    """The whole site, built with warnings as errors: pages in dark and light, and a search that finds a name."""
    from playwright.sync_api import sync_playwright

    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}/"
    asked: list[str] = []
    errors: list[str] = []
    pages = ("index", "reference/harvest", "registries/evals", "notebooks/01_first_look", "source/NOTICE")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for scheme in ("dark", "light"):
            page = browser.new_context(color_scheme=scheme).new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
            for name in pages:
                page.goto(f"{home}{name}.html")
            page.goto(f"{home}index.html")
            assert page.locator("html").get_attribute("data-bs-theme") == scheme
        page.keyboard.press("s")
        for _ in range(60):  # the index is made in a worker: what is typed before it is ready is not answered
            page.fill("#mkdocs-search-query", "")
            page.locator("#mkdocs-search-query").press_sequentially("seed_overlap")
            page.wait_for_timeout(1000)
            if found := page.locator("#mkdocs-search-results a").all_inner_texts():
                break
        browser.close()
    server.shutdown()
    server.server_close()
    assert "seed_overlap" in found
    assert errors == []
    assert len(asked) > 50
    assert [url for url in asked if not url.startswith((home, "data:"))] == []


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):  # noqa: A002
        pass

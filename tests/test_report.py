"""A notebook becomes a page: whole, sealed, honest about failure."""

import json
import re
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import notebooks
from workbench import cli, lineage, report
from workbench.report.page import figure, settings
from workbench.report.run import check, masked, write_index


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return report.run(notebooks.write(folder / "small.ipynb"), {"rows": 5}, folder / "out", progress=False)


def test_results_parameters_and_files_are_kept(done):
    assert done.ok
    assert done.values == {"rows": 5}
    record = lineage.read_json(done.results)
    assert record["parameters"] == {"rows": 5}
    assert record["values"] == {"rows": 5}
    assert record["seconds"] > 0
    assert record["status"] == "complete"
    index = (done.html.parent / "index.html").read_text()
    assert f'href="{done.html.name}"' in index
    assert "rows 5" in index


def test_the_page_is_sealed_and_shows_everything(done):
    html = done.html.read_text()
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:)[^"]+"', html)
    assert html.count("data-figure=") == notebooks.FIGURES
    assert html.count('class="card"') == notebooks.CARDS
    assert "a &lt;card&gt;" in html
    assert "<td>0.125</td>" in html
    assert "step 2/2" in html
    assert "step 1/2" not in html, "a progress bar leaves its last state only"
    assert "must not show" not in html
    assert re.search(r'<th>rows</th><td><code>5</code></td><td class="note">points<', html), "injected parameters win"
    assert "import pandas" not in html, "code is hidden"
    assert "</script><b>" not in html.split("<main>")[1], "data cannot end a script"
    assert str(done.html.parent) not in html
    assert sys.prefix not in html
    for part in ("(hash ", "torch ", "Commit", " cores"):
        assert part in html.split("<footer>")[1]


def test_code_shows_on_request(done):
    assert "import pandas" in report.rendered(done.notebook, code=True)


def test_a_failing_notebook_leaves_its_page_and_a_line_in_the_index(tmp_path, capsys):
    source = notebooks.write(tmp_path / "bad.ipynb", fails=True)
    assert cli.main(["report", str(source), "--out", str(tmp_path / "out")]) == 1
    assert "ValueError: planted: widths must grow" in capsys.readouterr().err
    html = (tmp_path / "out" / "bad.html").read_text()
    assert html.count("data-figure=") == notebooks.FIGURES
    assert "planted: widths must grow" in html
    assert "never reached" not in html
    assert "ValueError: planted" in (tmp_path / "out" / "index.html").read_text()
    assert lineage.read_json(tmp_path / "out" / "bad.results.json")["values"] == {"rows": 3}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "depth", "3"], "has no parameter 'depth': it has rows, lr, name, smoke"),
        (["-p", "rows", "many"], "wants int for 'rows', got 'many'"),
        (["-p", "rows", "2.5"], "wants int for 'rows'"),
        (["-p", "smoke", "1"], "wants bool for 'smoke'"),
        (["-p", "name", "3"], "wants str for 'name'"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(tmp_path, capsys, arguments, says):
    source = notebooks.write(tmp_path / "n.ipynb")
    assert cli.main(["report", str(source), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_integer_fits_a_float_parameter(tmp_path):
    check(notebooks.write(tmp_path / "n.ipynb"), {"lr": 1, "smoke": True})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no notebook"),
        ("", "is no notebook that can be run"),
        ("{}", "is no notebook that can be run"),
        ("plain text", "is no notebook that can be run"),
        ('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "odd"}]}', "is no notebook"),
    ],
)
def test_what_is_no_notebook_is_one_line(tmp_path, capsys, content, says):
    if content is not None:
        (tmp_path / "n.ipynb").write_text(content)
    assert cli.main(["report", str(tmp_path / "n.ipynb"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_parameters_must_be_plain_values(tmp_path):
    cell = new_code_cell("rows = 2 * 3", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "n.ipynb")
    with pytest.raises(ValueError, match="plain values"):
        check(tmp_path / "n.ipynb", {})


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path, capsys):
    (tmp_path / "out").write_text("in the way")
    source = notebooks.write_slow(tmp_path / "n.ipynb")
    assert cli.main(["report", str(source), "--out", str(tmp_path / "out")]) == 2
    assert "out" in capsys.readouterr().err


def test_a_cell_that_takes_too_long_is_a_failed_run_with_its_page(tmp_path):
    done = report.run(notebooks.write_slow(tmp_path / "slow.ipynb"), {}, tmp_path, timeout=1.0, progress=False)
    assert done.error == "a cell took longer than 1 s"
    html = done.html.read_text()
    assert "Stopped: a cell took longer than 1 s" in html
    assert re.search(r"kernel \d+", html)
    assert "which shows" not in html, "text after the failure speaks of what never came"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_by_hand_or_scheduler_leaves_page_and_no_kernel(tmp_path, how):
    source, out = notebooks.write_slow(tmp_path / "slow.ipynb"), tmp_path / "out"
    command = [sys.executable, "-m", "workbench.cli", "report", str(source), "--out", str(out)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a suite of the background, and so on
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
    signal.signal(signal.SIGINT, before)
    begun, end = "", time.monotonic() + 60
    while not begun and time.monotonic() < end:
        time.sleep(0.2)
        if (out / "slow.ipynb").is_file():
            begun = "".join(re.findall(r"kernel (\d+)", (out / "slow.ipynb").read_text()))
    running.send_signal(how)
    assert running.wait(30) == 1, (tmp_path / "log").read_text()
    assert "stopped by hand" in (out / "index.html").read_text()
    assert "Stopped: stopped by hand" in (out / "slow.html").read_text()
    assert not psutil.pid_exists(int(begun))


def test_a_damaged_record_is_a_row_and_the_rest_stays(done, tmp_path):
    for path in done.html.parent.glob("*.results.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "bad.results.json").write_bytes(path.read_bytes()[:-9])
    index = write_index(tmp_path).read_text()
    assert "bad.results.json is damaged" in index
    assert f'href="{done.html.name}"' in index


def test_folders_of_this_machine_are_masked(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("WORKBENCH_CACHE", "/home/ada/.cache/wb")
    text = f"{tmp_path}/a.py {tmp_path} /home/ada/x /home/ada/.cache/wb/models /home/adam {sys.prefix}/lib sub/home/ada"
    assert masked(text) == "./a.py . ~/x [cache]/models /home/adam [python]/lib sub/home/ada"
    monkeypatch.setenv("HOME", "/")
    monkeypatch.chdir("/")
    assert masked("a // b http://c.d/e") == "a // b http://c.d/e"


def test_parameters_keep_their_source_and_remark():
    source = "a = 'x # y'  # a remark\nb: list = [\n    1,\n    2,\n]\nc = 600_000\nprint(a)\nd.e = 3\n"
    cells = [
        new_code_cell(source, metadata={"tags": ["parameters"]}),
        new_code_cell("# Parameters\na = 'é'\n", metadata={"tags": ["injected-parameters"]}),
    ]
    assert settings(new_notebook(cells=cells)) == {
        "a": ("'é'", "a remark"), "b": ("[\n    1,\n    2,\n]", ""), "c": ("600_000", ""),
    }  # fmt: skip


def test_pictures_come_in_and_what_lies_elsewhere_is_named(tmp_path):
    (tmp_path / "dot.png").write_bytes(b"dot")
    addresses = ("dot.png", "https://example.org/b.png", "attachment:c.gif", "gone.png", "attachment:e.png")
    text = "# T\n\n" + " ".join(f"![picture]({address})" for address in addresses)
    cell = new_markdown_cell(text, attachments={"c.gif": {"image/gif": "Z2lm"}})
    html = (
        "<script src='https://example.org/x.js'></script><iframe src='//example.org'></iframe><script>here()</script>"
    )
    output = new_output("display_data", {"text/html": html})
    nbformat.write(new_notebook(cells=[cell, new_code_cell("x", outputs=[output])]), tmp_path / "n.ipynb")
    made = report.rendered(tmp_path / "n.ipynb")
    assert "data:image/png;base64,ZG90" in made
    assert "data:image/gif;base64,Z2lm" in made
    for address in ("https://example.org/b.png", "gone.png", "e.png", "https://example.org/x.js", "//example.org"):
        assert f"it lies elsewhere: {address}]" in made
        assert f'src="{address}"' not in made
    assert "here()" in made
    assert "default-src 'none'" in made


def test_sections_are_listed_when_there_are_several():
    cells = [new_markdown_cell("# T")] + [new_markdown_cell(f"## Part `{i}`") for i in range(3)]
    made = report.rendered(new_notebook(cells=cells))
    targets = re.findall(r'<a href="#([^"]+)">Part \d</a>', made)
    assert len(targets) == 3
    assert all(f'<h2 id="{name}"' in made for name in targets)
    assert "<nav>" not in report.rendered(new_notebook(cells=cells[:3]))


def test_frames_and_title_reach_the_figure():
    spec = {"data": [], "layout": {"title": {"text": "a <b>b</b>"}}, "frames": [{"name": "f"}]}
    made = figure(spec, 0)
    assert 'aria-label="a  b "' in made
    assert json.loads(re.findall(r'data-figure="figure-1">(.*?)</script>', made)[0])["frames"] == [{"name": "f"}]
    assert 'aria-label="figure 3"' in figure({"data": []}, 2)


def test_what_is_no_json_is_no_result():
    with pytest.raises(ValueError, match="plain JSON"):
        report.glue("x", float("nan"))
    with pytest.raises(ValueError, match="plain JSON"):
        report.glue("x", object())


def test_a_progress_bar_written_in_pieces_is_one_line():
    pieces = [new_output("stream", name="stderr", text=f"\rtrain {n}/3") for n in range(4)]
    pieces.insert(
        2, new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": " 0%|  |"})
    )
    html = report.rendered(new_notebook(cells=[new_code_cell("x", outputs=[*pieces[3:], *pieces[:3]])]), title="Bars")
    assert "live widget" not in html
    assert html.count("train ") == 1 and "train 1/3" in html


def test_outputs_of_every_kind_have_a_form():
    outputs = [
        new_output("stream", name="stdout", text="a <b>\n"),
        new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "dot"}),
        new_output("display_data", {"image/svg+xml": "<svg></svg>"}),
        new_output("display_data", {"text/markdown": "**strong**"}),
        new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "W"}),
        new_output("execute_result", {"text/plain": "'plain'"}, execution_count=1),
        new_output("error", ename="KeyError", evalue="\x1b[1m'<x>'", traceback=["\x1b[31mred\x1b[0m"]),
    ]
    html = report.rendered(new_notebook(cells=[new_code_cell("x", outputs=outputs)]), title="All")
    for part in (
        "a &lt;b&gt;",
        "base64,iVBORw0KGgo=",
        "<svg>",
        "<strong>strong</strong>",
        "live widget",
        "&#x27;plain&#x27;",
    ):
        assert part in html
    assert "KeyError: &#x27;&lt;x&gt;&#x27;" in html
    assert "\x1b" not in html
    nbformat.validate(new_notebook(cells=[new_code_cell("x", outputs=outputs)]))


def test_a_page_of_things_from_a_live_notebook(tmp_path):
    import pandas as pd
    import plotly.graph_objects as go
    import torch

    from widgets import TokenStrip
    from workbench.evaluate.scores import Score, Scores

    one = Score("fvu", 0.25, 0.2, 0.3, "share", "lower", (0.0, 2.0), 1.0, 40, "rows", 0.0, "40 documents")
    strip = TokenStrip(tokens=["<b>", "</script><script>alert(1)</script>"], values=[1, 2])
    items = [
        "# Findings\n\nA *line*.",
        Scores.of(one),
        go.Figure(go.Bar(y=[1, 2])),
        strip,
        strip,
        pd.DataFrame({"n": [7]}),
    ]
    path = report.page(tmp_path / "p.html", items, title="T & U")
    html = path.read_text()
    assert "<em>line</em>" in html and "T &amp; U" in html and html.count("data-figure=") == 1
    assert "<td>0.25</td>" in html and "95 % from" in html and "<td>7</td>" in html
    assert html.count(f'data-model="{strip.model_id}"') == 2 and html.count("wb-token-strip") == 1, "one module a page"
    assert "<script>alert" not in html
    with pytest.raises(TypeError, match="figures, tables, scores and widgets, got Tensor"):
        report.page(tmp_path / "q.html", [torch.zeros(2)])
    with pytest.raises(TypeError, match="put it in a list"):
        report.page(tmp_path / "q.html", "text")
    assert not (tmp_path / "q.html").exists()


def test_a_notebooks_widgets_are_drawn_from_what_it_kept():
    output = {"application/vnd.jupyter.widget-view+json": {"model_id": "ab"}, "text/plain": "W"}
    state = {
        "ab": {"model_name": "VBoxModel", "state": {"children": ["IPY_MODEL_cd", "IPY_MODEL_not_kept"]}},
        "cd": {"model_name": "AnyModel", "state": {"_esm": "export default {}", "_css": "", "live": True}},
        "ef": {"model_name": "AnyModel", "state": {"_esm": "of no output", "_css": ""}},
    }
    kept = {"application/vnd.jupyter.widget-state+json": {"state": state, "version_major": 2, "version_minor": 0}}
    node = new_notebook(
        cells=[new_code_cell("x", outputs=[new_output("display_data", output)])], metadata={"widgets": kept}
    )
    html = report.rendered(node)
    assert 'data-model="ab"' in html and "export default {}" in html and '"live":false' in html
    assert "of no output" not in html

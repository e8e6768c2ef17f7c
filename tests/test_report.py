"""A notebook becomes a page: whole, sealed, honest about failure."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import notebooks
from workbench import cli, lineage, report


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
    assert re.search(r"<th>rows</th><td>5</td>", html), "injected parameters win"
    assert "import pandas" not in html, "code is hidden"
    assert "</script><b>" not in html.split("<main>")[1], "data cannot end a script"
    assert str(done.html.parent) not in html


def test_code_shows_on_request(done):
    assert "import pandas" in report.page(done.notebook, code=True)


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
    from workbench.report.run import check

    check(notebooks.write(tmp_path / "n.ipynb"), {"lr": 1, "smoke": True})


def test_a_missing_notebook_is_one_line(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path / "none.ipynb")]) == 2
    assert "there is no notebook" in capsys.readouterr().err


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
    html = report.page(new_notebook(cells=[new_code_cell("x", outputs=[*pieces[3:], *pieces[:3]])]), title="Bars")
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
        new_output("error", ename="KeyError", evalue="'<x>'", traceback=["\x1b[31mred\x1b[0m"]),
    ]
    html = report.page(new_notebook(cells=[new_code_cell("x", outputs=outputs)]), title="All")
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

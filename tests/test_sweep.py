"""A sweep: planned from a file, run in processes, resumed by what a run depends on, told on pages that do not lie."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import indent

import nbformat
import pyarrow.parquet as pq
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from workbench import cli, lineage
from workbench.dictionary import training
from workbench.report import overview, sweep
from workbench.report.inputs import code_of, imported, inputs

TRAIN = """
import workbench.dictionary.training as t
met = made.parent / 'met'
try:
    lock = t._only_one(made.parent / 'home')
except RuntimeError:
    met.touch()
    raise
for _ in range(1000):
    if not met.exists():  # until another run has met this one
        time.sleep(0.1)
"""
CELLS = {  # what a run may be told to do
    "none": "pass",
    "fail": "raise ValueError('planted: widths must grow')",
    "slow": "import time; time.sleep(600)",
    "train": TRAIN,
    "kill_kernel": "os.kill(os.getpid(), 9)",
    "kill_worker": "os.kill(os.getppid(), 9)",
}


def notebook(folder, extra=""):
    """Counts how often each run was made, and may fail or kill itself the first time."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = "\n".join(f"if plant == {name!r}:\n{indent(does, '    ')}" for name, does in CELLS.items())
    cells = [
        new_markdown_cell("# Does the sweep hold?"),
        new_code_cell("n = 1\nrate = 0.5\nplant = 'none'\nrest = 0.0", metadata={"tags": ["parameters"]}),
        new_code_cell(
            f"import os, time\nfrom pathlib import Path\nfrom workbench.report import glue\n{extra}\n"
            f"made = Path({str(folder)!r}) / f'made-{{n}}-{{rate}}'\n"
            "with made.open('a') as log: log.write('x')\n"
            "first = len(made.read_text()) == 1\nglue('n_squared', n * n)\ntime.sleep(rest)\n"
            "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[1, n]))"
        ),
        new_code_cell(f"if first or plant in ('fail', 'train'):\n{indent(todo, '    ')}"),
        new_code_cell("glue('loss', n * rate)\nglue('scores', [{'metric': 'fvu', 'value': rate}])"),
    ]
    for i, cell in enumerate(cells):
        cell.id = f"c{i}"
    nbformat.write(new_notebook(cells=cells), folder / "small.ipynb")
    return folder / "small.ipynb"


def planned(folder, **plan):
    notebook(folder)
    (folder / "plan.yaml").write_text(json.dumps({"notebook": "small.ipynb"} | plan))  # JSON is YAML
    return folder / "plan.yaml"


def made(folder):
    """How often each run was made, by (n, rate)."""
    found = {}
    for path in folder.glob("made-*"):
        n, rate = path.name.split("-")[1:]
        found[int(n), float(rate)] = len(path.read_text())
    return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    plan = planned(folder, grid={"n": [1, 2], "rate": [0.5, 2.0]}, jobs=2, compare=["loss"])
    return folder, sweep.plan(plan), sweep.sweep(sweep.plan(plan), folder / "out", assets=True)


@pytest.mark.notebook
def test_a_grid_is_every_combination_with_its_files(swept):
    folder, plan, done = swept
    assert done.ok and made(folder) == {(1, 0.5): 1, (1, 2.0): 1, (2, 0.5): 1, (2, 2.0): 1}
    assert plan.varied == ["n", "rate"]
    for row in done.rows:
        assert (
            row["status"] == "complete" and row["values"]["loss"] == row["parameters"]["n"] * row["parameters"]["rate"]
        )
        assert all((done.folder / f"{row['name']}.{end}").is_file() for end in ("html", "ipynb", "results.json"))
    assert sweep.read(done.folder) == done.rows


@pytest.mark.notebook
def test_the_index_has_a_row_for_each_run_that_sorts_by_number(swept):
    _, _, done = swept
    page = (done.folder / "index.html").read_text()
    assert page.count("<tr><td") == 4 and page.count('class="complete"') == 4
    for row in done.rows:
        assert f'href="{row["name"]}.html"' in page
    head = re.findall(r"<th[^>]*>([^<]+)</th>", page)
    assert head == ["run", "n", "rate", "status", "loss", "seconds", "finished"]
    assert 'data-value="4.0"' in page and "4 complete" in page


@pytest.mark.notebook
def test_the_table_holds_results_and_glued_tables_with_their_parameters(swept):
    _, _, done = swept
    table = pq.read_table(done.folder / "results.parquet")
    assert table.schema.metadata[b"workbench.sweep"] == overview.VERSION.encode()
    assert "torch" in json.loads(table.schema.metadata[b"workbench.versions"])
    frame = table.to_pandas()
    loss = frame[frame["result"] == "loss"].set_index(["parameter.n", "parameter.rate"])["value"].to_dict()
    assert loss == {(1, 0.5): 0.5, (1, 2.0): 2.0, (2, 0.5): 1.0, (2, 2.0): 4.0}
    assert set(frame[frame["result"] == "scores"]["metric"]) == {"fvu"}


@pytest.mark.notebook
def test_pages_share_one_plotly_when_asked(swept):
    _, _, done = swept
    (shared,) = (done.folder / "assets").glob("plotly-*.js")
    assert shared.stat().st_size > 1e6
    for row in done.rows:
        page = (done.folder / f"{row['name']}.html").read_text()
        assert f'<script src="assets/{shared.name}">' in page and len(page) < 1e5 and "script-src 'self'" in page
    alone = (done.folder / "compare.html").read_text()
    assert "assets/" not in alone and "script-src 'self'" not in alone and alone.count("data-figure=") == 1


@pytest.mark.notebook
def test_runs_that_train_one_dictionary_wait_for_each_other(tmp_path):
    """Two start at once and want the same folder; the second is made again after the first, and says so."""
    plan, said = sweep.plan(planned(tmp_path, runs=[{"n": n, "plant": "train"} for n in (1, 2)], jobs=2)), []
    assert sweep.sweep(plan, tmp_path / "out", say=said.append).ok
    assert sorted(made(tmp_path).values()) == [1, 2]
    assert sum("is being trained elsewhere" in line for line in said) == 1


@pytest.mark.notebook
def test_a_dictionary_that_somebody_else_trains_is_a_failure(tmp_path):
    plan = sweep.plan(planned(tmp_path, runs=[{"n": 1, "plant": "train"}, {"n": 2}]))
    with training._only_one(tmp_path / "home"):
        failed, whole = sweep.sweep(plan, tmp_path / "out").rows
    assert "another process trains in" in failed["error"] and whole["status"] == "complete"
    assert made(tmp_path) == {(1, 0.5): 2, (2, 0.5): 1}  # asked once more: the other may have just ended


@pytest.mark.notebook
def test_resuming_a_whole_sweep_makes_nothing_and_a_changed_notebook_everything(swept, tmp_path):
    folder = tmp_path / "again"
    plan = sweep.plan(planned(folder, runs=[{"n": 1}, {"n": 2}], jobs=2))
    first = sweep.sweep(plan, folder / "out")
    said = []
    assert sweep.sweep(plan, folder / "out", resume=True, say=said.append).rows == first.rows
    assert made(folder) == {(1, 0.5): 1, (2, 0.5): 1} and "2 complete already" in said[0]
    (folder / "out" / f"{first.rows[0]['name']}.results.json").write_text("{")
    sweep.sweep(plan, folder / "out", resume=True)
    assert made(folder) == {(1, 0.5): 2, (2, 0.5): 1}, "a damaged record is made again"
    notebook(folder, extra="changed = True")
    sweep.sweep(plan, folder / "out", resume=True)
    assert made(folder) == {(1, 0.5): 3, (2, 0.5): 2}


def test_a_run_depends_on_cells_parameters_and_the_code_it_imports(tmp_path, monkeypatch):
    source = notebook(tmp_path)
    one = inputs(source, {"n": 1})
    assert one == inputs(source, {"n": 1}) != inputs(source, {"n": 2})
    (tmp_path / "helper_of_mine.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    notebook(tmp_path, extra="import helper_of_mine")
    mine = inputs(source, {"n": 1})
    (tmp_path / "helper_of_mine.py").write_text("x = 2")
    code_of.cache_clear()
    assert one != mine != inputs(source, {"n": 1})
    assert imported("import a.b, c\nfrom d.e import f\nfrom . import g\n%matplotlib inline\n!ls") == {"a", "c", "d"}
    assert code_of("json") == "" and re.fullmatch(r"[\d.]+", code_of("pandas")) and len(code_of("workbench")) == 16


@pytest.mark.notebook
def test_a_run_over_its_limit_is_a_failed_run_with_its_page(tmp_path):
    """Also where SIGINT is ignored, as in whatever a script starts in the background."""
    plan = sweep.plan(planned(tmp_path, runs=[{"n": 1, "plant": "slow"}], timeout=8))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = sweep.sweep(plan, tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, before)
    (row,) = done.rows
    assert row["error"] == "the run took longer than 8 s" and not done.ok
    assert "took longer than 8 s" in (tmp_path / "out" / f"{row['name']}.html").read_text()


def test_what_fell_behind_an_earlier_sweep_is_told(tmp_path):
    def rows(**values):
        return [{"name": "r", "parameters": {"n": 1}, "status": "complete", "error": "", "values": values}]

    limits = {"fvu": 0.01, "recall": -0.05}
    assert overview.compared(rows(fvu=0.209, recall=0.86), rows(fvu=0.2, recall=0.9), limits) == []
    assert overview.compared(rows(fvu=0.1, recall=1.0), rows(fvu=0.2, recall=0.9), limits) == []
    assert overview.compared(rows(fvu=0.212, recall=0.84), rows(fvu=0.2, recall=0.9), limits) == [
        "r: fvu went from 0.2 to 0.212, allowed +0.01",
        "r: recall went from 0.9 to 0.84, allowed -0.05",
    ]
    assert overview.compared(rows(fvu=0.1), rows(fvu=0.2, recall=0.9), limits) == ["r: recall is missing now"]
    failed = [rows()[0] | {"status": "failed", "error": "cell 3: ValueError: x"}]
    assert overview.compared(failed, rows(fvu=0.2), limits) == ["r: cell 3: ValueError: x; it was complete"]
    other = [rows(fvu=1.0)[0] | {"parameters": {"n": 2}}]
    assert "no run with these parameters" in overview.compared(other, rows(fvu=0.2), limits)[0]


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({}, "either `grid` (lists of values) or `runs`"),
        ({"grid": {"n": [1]}, "runs": [{}]}, "either `grid`"),
        ({"grid": {"n": 1}}, "must hold a list of values for each parameter"),
        ({"grid": {"n": []}}, "must hold a list of values"),
        ({"runs": []}, "must be a list of parameters"),
        ({"runs": [{"n": 1}, {"n": 1}]}, "two runs have the same parameters"),
        ({"runs": [{"depth": 1}]}, "has no parameter 'depth': it has n, rate, plant, rest"),
        ({"runs": [{"n": "one"}]}, "wants int for 'n', got 'one'"),
        ({"runs": [{"n": 1}], "fixed": [1]}, "`fixed` must be parameters"),
        ({"runs": [{"n": 1}], "limits": {"fvu": 0}}, "must give a number for each result"),
        ({"runs": [{"n": 1}], "jobs": 0}, "`jobs` must be a number of 1 or more, got 0"),
        ({"runs": [{"n": 1}], "timeout": "long"}, "`timeout` must be a number"),
        ({"runs": [{"n": 1}], "gird": {}}, "has gird: a plan holds"),
        ({"runs": [{"n": 1}], "notebook": "none.ipynb"}, "there is no notebook"),
    ],
)
def test_a_plan_that_cannot_be_run_is_one_line_before_anything_runs(tmp_path, capsys, plan, says):
    path = planned(tmp_path, **plan)
    assert cli.main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_plan_that_is_no_yaml_or_missing_is_one_line(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("a: [1")
    for name in ("bad.yaml", "none.yaml"):
        assert cli.main(["sweep", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["sweep", str(planned(tmp_path, runs=[{"n": 1}])), "--against", str(tmp_path)]) == 2
    assert "runs.json does not exist" in capsys.readouterr().err


TWELVE = [{"n": n, "rate": 1.5, "rest": 0.4} for n in range(1, 9)] + [
    {"n": 9, "plant": "fail"},
    {"n": 10, "plant": "kill_kernel"},
    {"n": 11, "plant": "kill_worker"},
    {"n": 12, "plant": "fail"},
]


@pytest.mark.torture
def test_twelve_runs_survive_failures_and_kills_of_kernel_worker_and_driver(tmp_path):
    """Two planted failures; a kernel, a worker and the driver are killed; resuming makes what is missing alone."""
    plan, out = planned(tmp_path, runs=TWELVE, jobs=2), tmp_path / "out"
    command = [sys.executable, "-m", "workbench.cli", "sweep", str(plan), "--out", str(out)]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.time() + 300
    while len(list(out.glob("*.results.json"))) < 4:
        assert time.time() < deadline and driver.poll() is None
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    while alive(out):
        assert time.time() < deadline, "workers end with their driver"
        time.sleep(0.2)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.results.json") if complete(p)}
    assert 3 <= len(before) < 9

    second = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=600, check=False)
    assert second.returncode == 1, second.stderr
    assert f"{len(before)} complete already" in second.stderr
    for name, stamp in before.items():
        assert (out / name).stat().st_mtime_ns == stamp, "what was complete is not made again"
    rows = {row["parameters"]["n"]: row for row in sweep.read(out)}
    assert [n for n, row in rows.items() if row["status"] == "complete"] == list(range(1, 9))
    assert rows[10]["error"] == "the kernel died (out of memory, or killed)"
    assert rows[11]["error"] == "the worker was killed (SIGKILL)"
    for n, says in (
        (9, "planted: widths must grow"),
        (10, "the kernel died"),
        (11, "the worker was killed"),
        (12, "planted"),
    ):
        page = (out / f"{rows[n]['name']}.html").read_text()
        assert says in page and "Does the sweep hold?" in page
        assert rows[n]["values"].get("n_squared", n * n) == n * n
    index = (out / "index.html").read_text()
    assert (
        index.count('class="complete"') == 8 and index.count('class="failed"') == 4 and "8 complete, 4 failed" in index
    )

    third = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=600, check=False)
    assert "8 complete already" in third.stderr
    rows = {row["parameters"]["n"]: row for row in sweep.read(out)}
    assert [n for n, row in rows.items() if row["status"] == "failed"] == [9, 12], "kills happen once, failures remain"
    assert all(made(tmp_path)[n, 1.5] <= 2 for n in range(1, 9)) and not alive(out)


def complete(path: Path) -> bool:
    return lineage.read_json(path)["status"] == "complete"


def alive(out: Path) -> list[str]:
    """Workers and kernels of this sweep that still run."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(out) in line and process.info["pid"] != os.getpid() and "workbench.report.worker" in line:
            found.append(line)
    return found

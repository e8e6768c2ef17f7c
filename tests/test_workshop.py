"""The workshop: hints find the mistake, student copies hold no solution, masters pass and copies stop at once."""

import json
import re
from importlib import import_module
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from workbench import cli, geometry, report, workshop
from workbench.dictionary import recipe
from workbench.testbeds.vectors import recovered
from workbench.workshop import build, hints, lesson_1, lesson_2, lessons
from workbench.workshop.build import blanked, student, tasks

ROOT = Path(__file__).parent.parent
MASTERS = sorted((ROOT / "notebooks" / "workshop").glob("*.ipynb"))
EXERCISE = "def f(x):\n    # BEGIN SOLUTION\n    y = 2 * x\n    return y\n    # END SOLUTION"


def cell(source, *tags, **more):
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {}, **more)


def lesson(*cells):
    """A planted master: a heading, one exercise and its check, then what is given."""
    first = [
        new_markdown_cell("# Planted: does it build?\n\nOne line."),
        cell("smoke = False", "parameters"),
        new_markdown_cell("## 1.1 Twice (7 min)\n\nText.\n\n> Write `f(x)`:\n> twice x."),
        cell(EXERCISE, "exercise"),
        cell('workshop.check("1.1", f)', "check"),
    ]
    return new_notebook(cells=[*first, *cells])


def sources(notebook):
    return "\n".join(c.source for c in notebook.cells)


# hints


@pytest.mark.parametrize("name", workshop.names())
def test_a_right_answer_is_accepted_in_one_line(name):
    said = workshop.check(name, workshop.exercise(name).right())
    assert repr(said).startswith(f"{name} is right. ")
    assert "\n" not in repr(said)
    assert len(said.meaning) > 40
    assert said._repr_html_().startswith("<p")


@pytest.mark.parametrize("name", workshop.names())
def test_a_check_rejects_its_planted_answers_with_their_hints(name):
    planted = workshop.exercise(name).wrong()
    assert len(planted) >= 3
    assert len({w.hint for w in planted}) >= 3, "hints that tell mistakes apart"
    for what, answer, hint in planted:
        with pytest.raises(workshop.NotYet) as stopped:
            workshop.check(name, answer)
        message = str(stopped.value)
        assert hint in message, f"{name}, {what}: {message}"
        assert message.startswith(f"{name} is not right yet: ")
        assert "\n" not in message


@pytest.mark.parametrize("name", workshop.names())
@pytest.mark.parametrize("answer", [..., None], ids=["ellipsis", "none"])
def test_an_answer_that_was_not_written_is_told_so(name, answer):
    with pytest.raises(workshop.NotYet, match="is still `...`|gives None|wanted the function"):
        workshop.check(name, answer)
    if not name.startswith("2.3"):
        with pytest.raises(workshop.NotYet, match="gives None: does the function end with `return`"):
            workshop.check(name, lambda *inputs: None)


def test_right_answers_are_those_of_the_library_and_of_a_calculation_by_hand():
    library = recipe("matching_pursuit", d=6, latents=12, k=5).dictionary
    library.decoder.weight.data.copy_(lesson_1.ATOMS)
    with torch.no_grad():
        code = library.encode(lesson_1.ROWS).to_dense()
    assert torch.allclose(lesson_1.right_pursuit(lesson_1.ROWS, lesson_1.ATOMS, 5), code, atol=1e-4)
    assert lesson_1.right_interference(4.0, 16, 1.0) == 0.5
    one = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(lesson_1.right_cosines(torch.cat([one, one.flip(1)])), torch.tensor([[1, 0.96], [0.96, 1]]))
    scores = lesson_1.right_recovery(lesson_1.TRUE, lesson_1.FOUND, lesson_1.RANDOM)
    assert scores["found"] == pytest.approx(recovered(lesson_1.TRUE, lesson_1.FOUND))
    fresh = recipe("topk", d=8, latents=20, k=3).dictionary
    x = torch.randn(30, 8)
    with torch.no_grad():
        z = lesson_2.right_encode(x, fresh.encoder.weight, fresh.encoder.bias, fresh.decoder.bias, 3)
        assert torch.allclose(z, fresh.encode(x).to_dense(), atol=1e-5)
    matched = geometry.match(lesson_2.A, lesson_2.B).cosines.mean()
    assert lesson_2.right_agreement(lesson_2.A, lesson_2.B) == pytest.approx(float(matched))
    two = torch.tensor([[0.0], [2.0]])
    assert float(lesson_2.right_fvu(two, torch.ones(2, 1))) == 1.0
    assert float(lesson_2.right_shrinkage(two, 0.25 * two)) == 0.25
    assert lesson_2.right_dead(torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]])) == 0.5


WANT = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, -6.0]])
SQUARE = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("got", "want", "says"),
    [
        (-WANT, WANT, "right up to sign"),
        (WANT.abs(), WANT, "1 of 6 numbers have the wrong sign"),
        (WANT.T, WANT, "right, but transposed: wanted (3, 2), got (2, 3)"),
        (WANT.T + 1, WANT, "axes the wrong way round"),
        (SQUARE.T, SQUARE, "right, but transposed"),
        (3 * WANT, WANT, "every number is 3 times"),
        (WANT * torch.tensor([[1.0], [2.0], [5.0]]), WANT, "wrong length"),
        (WANT + torch.tensor([0.5, 7.0]), WANT, "one and the same vector: was the bias forgotten"),
        (WANT[..., None], WANT, "an axis of length 1 too many"),
        (WANT[:2], WANT, "wrong shape: wanted (3, 2), got (2, 2)"),
        (WANT / 0, WANT, "6 numbers that are NaN or infinite"),
        (WANT.tolist(), WANT, "is a list of 3, wanted one tensor"),
        (WANT.numpy(), WANT, "numpy array"),
        ("text", WANT, "must be a tensor, got str 'text'"),
        (WANT.topk(1), WANT, "all that torch returns"),
        (WANT + torch.tensor([[0, 0], [0, 0.1], [0, 0]]), WANT, "1 of 6 numbers are wrong; the first at [1, 1] is 4.1"),
        (WANT + 7, WANT, "the bias"),
    ],
)  # fmt: skip
def test_a_hint_names_the_difference(got, want, says):
    with pytest.raises(workshop.NotYet) as stopped:
        hints.compare(got, want, what="f(x)")
    assert says in str(stopped.value), str(stopped.value)


def test_what_is_right_passes_whatever_its_type_of_number():
    hints.compare(WANT.double(), WANT, what="f(x)")
    hints.compare(WANT + 1e-5, WANT, what="f(x)")
    hints.compare(WANT.clone().requires_grad_(), WANT, what="f(x)")
    for value in (0.25, np.float64(0.25), np.array(0.25), torch.tensor([0.25]), torch.tensor(0.25, requires_grad=True)):
        hints.number(value, 0.25, what="f(x)")


def test_a_foreseen_mistake_comes_before_a_general_hint():
    with pytest.raises(workshop.NotYet, match="^forgot to turn it$"):
        hints.compare(-WANT, WANT, what="f(x)", known={"forgot to turn it": -WANT})
    with pytest.raises(workshop.NotYet, match="^a count$"):
        hints.number(40, 0.4, what="f(x)", known={"a count": 40.0})


@pytest.mark.parametrize(
    ("got", "want", "says"),
    [
        (-0.3, 0.3, "right up to sign"),
        (30.0, 0.3, "given as percent"),
        (0.7, 0.3, "given as one less it"),
        (1 / 0.3, 0.3, "given as its inverse"),
        (0.09, 0.3, "is a root missing"),
        (0.3**0.5, 0.3, "is a square missing"),
        (float("nan"), 0.3, "is NaN"),
        (0.31, 0.3, "0.31, which is too large"),
        (True, 0.3, "must be one number, got bool"),
        (torch.zeros(3), 0.3, "got a tensor (3,)"),
    ],
)
def test_a_hint_on_a_number_names_the_difference(got, want, says):
    with pytest.raises(workshop.NotYet) as stopped:
        hints.number(got, want, what="f(x)")
    assert says in str(stopped.value), str(stopped.value)


def test_a_mistake_inside_an_answer_is_told_with_its_line_and_inputs():
    def broken(x):
        return x @ x

    with pytest.raises(workshop.NotYet) as stopped:
        hints.ask(broken, WANT, what="f(x)")
    assert "stops at `return x @ x` with RuntimeError" in str(stopped.value)
    assert "given (3, 2)" in str(stopped.value)


def test_an_answer_that_writes_into_its_input_is_told_so_and_the_input_kept():
    kept = WANT.clone()

    def writes(x):
        x -= 1
        return x

    with pytest.raises(workshop.NotYet, match="in place"):
        hints.ask(writes, WANT, what="f(x)")
    assert torch.equal(WANT, kept)


def test_jupyter_shows_the_hint_and_no_traceback(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell('from workbench import workshop\nworkshop.check("1.1", None)')
    out = capsys.readouterr().out
    said = "wanted the function cosines(atoms) itself, got NoneType None: hand it over without calling it"
    assert out.strip() == f"1.1 is not right yet: {said}"


@pytest.mark.parametrize("name", ["9.9", "1", "x", "1.99", ""])
def test_an_unknown_exercise_is_one_line_that_lists_those_there_are(name):
    for call in (lambda: workshop.check(name, 1), lambda: workshop.caught_up(name)):
        with pytest.raises(ValueError, match=r"there is no exercise .*: choose from 1\.1, 1\.2"):
            call()


def test_catching_up_loads_what_was_built_and_says_where_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"1\.1 has no slow cell to catch up with: 1\.3 has"):
        workshop.caught_up("1.1")
    calls = []
    forward = lesson_1.fit_toy
    monkeypatch.setattr(lesson_1, "fit_toy", lambda *a, **k: (calls.append(a), forward(*a, **k | {"steps": 2}))[1])
    lessons.make_catch_up("1.3", tmp_path / "catch_up")
    made = len(calls)
    held = workshop.caught_up("1.3", folder=tmp_path / "catch_up")
    assert len(calls) == made == len(held) == 6
    assert held[1.0, 0].shape == (5, 2)
    assert not (tmp_path / "cache").exists()
    again = workshop.caught_up("1.3", folder=tmp_path / "nowhere")  # made into the cache
    assert len(calls) == 2 * made
    assert all(torch.equal(again[key], held[key]) for key in held)


def test_a_caught_up_dictionary_is_the_trained_one_and_is_loaded_the_second_time(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    first = workshop.caught_up("2.3", small=True)
    assert torch.equal(first.atoms(), lesson_2.trained(150).atoms())
    lesson_2.trained.cache_clear()
    weights = tmp_path / "workshop" / "2.3-small" / "weights.safetensors"
    written = weights.stat().st_mtime_ns
    assert torch.equal(workshop.caught_up("2.3", small=True).atoms(), first.atoms())
    assert weights.stat().st_mtime_ns == written


# student copies


def test_a_student_copy_holds_no_solution_output_or_state():
    master = lesson(
        cell("secret = 1", "solution-only"),
        new_markdown_cell("Tell them *this*.", metadata={"tags": ["instructor"]}),
        cell("print('shown')", execution_count=3, outputs=[new_output("stream", text="shown")]),
    )
    master.metadata = {
        "widgets": {"state": 1},
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "who": "me",
    }
    master.cells[4].outputs, master.cells[4].execution_count = [new_output("stream", text="right")], 2
    master.cells[4].metadata["execution"] = {"started": "now"}
    made = student(master)
    assert "    ...  # your code here" in made.cells[3].source.split("\n")
    assert made.cells[3].source == "def f(x):\n    ...  # your code here"
    for left in ("2 * x", "SOLUTION", "secret", "Tell them"):
        assert left not in sources(made)
    assert len(made.cells) == len(master.cells) - 2
    assert dict(made.metadata) == {"kernelspec": master.metadata["kernelspec"]}
    code = [c for c in made.cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code)
    assert all(set(c.metadata) <= {"tags"} for c in made.cells)
    assert [c.id for c in made.cells][:5] == [c.id for c in master.cells][:5]
    assert master.cells[3].source == EXERCISE, "the master is left as it is"
    nbformat.validate(made)


def test_every_block_of_a_cell_is_replaced_at_its_own_indentation():
    source = (
        "# BEGIN SOLUTION\na = 1\n# END SOLUTION\nif a:\n    # BEGIN SOLUTION\n    b = 2\n    # END SOLUTION\nc = 3"
    )
    assert blanked(source) == ("...  # your code here\nif a:\n    ...  # your code here\nc = 3", 2)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (cell("# BEGIN SOLUTION\na = 1", "exercise"), "BEGIN SOLUTION on line 1 has no END"),
        (cell("a = 1\n# END SOLUTION", "exercise"), "END SOLUTION on line 2 has no BEGIN"),
        (cell("# BEGIN SOLUTION\n# BEGIN SOLUTION\n# END SOLUTION", "exercise"), "stands inside the one of line 1"),
        (cell("# BEGIN SOLUTION\na = 1\n# END SOLUTION"), "a solution marker but no tag 'exercise'"),
        (cell("a = 1", "exercise"), "tagged 'exercise' but has no"),
        (new_markdown_cell("a", metadata={"tags": ["exercise"]}), "tagged 'exercise' but has no"),
        (cell("# BEGIN SOLUTION\na = 1\n# END SOLUTION", "solution-only"), "tagged 'solution-only' and has a marker"),
        (cell("# BEGIN SOLUTION\na = 1\n# END SOLUTION", "exercise", "instructor"), "and has a marker"),
        (cell("#BEGIN SOLUTION\na = 1\n#END SOLUTION", "exercise"), "a solution marker is left"),
        (cell("a = 1  # begin solution"), "a solution marker is left"),
        (cell("# BEGIN SOLUTION\na\n# END SOLUTION  # END SOLUTION", "exercise"), "has no END"),
        (new_markdown_cell("# BEGIN SOLUTION"), "a solution marker is left"),
        (cell("workshop.check('1.1', 1)"), "the tag 'check' and a call"),
        (cell("a = 1", "check"), "the tag 'check' and a call"),
        (cell("# BEGIN SOLUTION\na = 1\n# END SOLUTION", "exercise"), "no check follows"),
        (cell("if True:\n    # no body", "hard"), "it is no Python"),
        (new_raw_cell("raw"), "a raw cell cannot be given out"),
    ],
)  # fmt: skip
def test_a_master_that_would_give_something_away_is_refused_in_one_line(broken, says, tmp_path):
    (tmp_path / "in").mkdir()
    nbformat.write(lesson(broken), tmp_path / "in" / "5_planted.ipynb")
    with pytest.raises(ValueError, match=r"^5_planted.ipynb, cell 6: ") as stopped:
        build(tmp_path / "in", tmp_path / "out")
    assert says in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "out").exists(), "nothing is written"


def test_code_between_an_exercise_and_its_check_is_refused():
    master = lesson()
    master.cells.insert(4, cell("f(3)"))
    with pytest.raises(ValueError, match="cell 5: code stands between the exercise of .*cell 4 and its check"):
        student(master)


def test_the_builder_writes_notebooks_notes_and_hand_outs_that_stand_alone(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    master = lesson(
        new_markdown_cell("Teach <slowly>.", metadata={"tags": ["instructor"]}),
        new_markdown_cell("**What would change our mind.** A twin.", metadata={"tags": ["handout"]}),
    )
    nbformat.write(master, tmp_path / "in" / "5_planted.ipynb")
    out = tmp_path / "out"
    assert cli.main(["workshop", "build", "--masters", str(tmp_path / "in"), "--out", str(out)]) == 0
    assert "1 lessons" in capsys.readouterr().out
    assert nbformat.read(out / "5_planted.ipynb", 4) == student(master)
    sheet, notes = ((out / folder / "5_planted.html").read_text() for folder in ("handout", "instructor"))
    for part in ("Planted: does it build?", "1.1 Twice", "7 min", "twice x", "What would change our mind"):
        assert part in sheet
    assert "2 * x" not in sheet
    assert "slowly" not in sheet
    for part in ("y = 2 * x", "slowly", "0:00", "7 min", "usual mistake"):
        assert part in notes
    for text in (sheet, notes):
        assert not re.search(r"""(?:src|href)=["']?https?:""", text)
    record = json.loads((out / "built.json").read_text())["files"]
    assert set(record) == {"5_planted.ipynb", "handout/5_planted.html", "instructor/5_planted.html"}
    before = (out / "5_planted.ipynb").read_bytes()
    build(tmp_path / "in", out)
    assert (out / "5_planted.ipynb").read_bytes() == before


def test_a_learners_work_is_not_written_over(tmp_path):
    (tmp_path / "in").mkdir()
    nbformat.write(lesson(), tmp_path / "in" / "5_planted.ipynb")
    (copy,) = build(tmp_path / "in", tmp_path / "out")
    worked = copy.read_text().replace("...  # your code here", "return x + x")
    copy.write_text(worked)
    with pytest.raises(ValueError, match="was changed since it was built, or not built here: give another --out"):
        build(tmp_path / "in", tmp_path / "out")
    assert copy.read_text() == worked


@pytest.mark.parametrize(("content", "says"), [(None, "has no lesson"), ("{", "is no notebook")])
def test_masters_that_are_none_are_one_line(content, says, tmp_path, capsys):
    if content:
        (tmp_path / "x.ipynb").write_text(content)
    assert cli.main(["workshop", "build", "--masters", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().split("\n")) == 1


# the committed lessons


def test_there_are_lessons():
    assert [p.stem[0] for p in MASTERS] == list("123456")


@pytest.mark.parametrize("path", MASTERS, ids=lambda p: p.stem)
def test_a_master_has_every_exercise_of_its_lesson_once(path):
    master = nbformat.read(path, 4)
    number = int(path.stem.partition("_")[0])
    code = [c for c in master.cells if c.cell_type == "code"]
    assert path.stat().st_size < 200_000
    called = "\n".join(c.source for c in code)
    assert re.findall(r'workshop\.check\("([\d.]+)"', called) == workshop.names(number)
    assert [t.name for t in tasks(master)] == workshop.names(number)
    assert 5 <= len(tasks(master)) <= 8
    assert 60 <= sum(t.minutes for t in tasks(master)) <= 90
    assert f"\n{sum(t.minutes for t in tasks(master))} minutes for a learner." in master.cells[0].source
    assert all(t.asks and t.solution for t in tasks(master))
    made = student(master, path.name)
    assert "SOLUTION" not in sources(made)
    for task in tasks(master):  # no line of a solution stands elsewhere in the copy, signatures and names aside
        inside = [line.strip() for line in task.solution.split("\n")[1:] if len(line.strip()) > 25]
        assert not [line for line in inside if line in sources(made)], task.name


@pytest.mark.parametrize("path", MASTERS, ids=lambda p: p.stem)
def test_a_slow_cell_has_a_line_that_loads_what_it_makes(path):
    number = int(path.stem.partition("_")[0])
    offered = re.findall(
        r'short of time\? \w+ = workshop\.caught_up\("([\d.]+)", small=smoke\)', sources(nbformat.read(path, 4))
    )
    assert offered == list(import_module(f"workbench.workshop.lesson_{number}").CAUGHT_UP)


@pytest.mark.notebook
@pytest.mark.parametrize("path", MASTERS, ids=lambda p: p.stem)
def test_a_learner_who_loads_every_slow_cell_comes_to_the_end(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    master = nbformat.read(path, 4)
    for c in master.cells:
        c.source = re.sub(r"^(\w+) = \S+  # short of time\? (\1 = [^)]*\)).*$", r"\2", c.source, flags=re.MULTILINE)
    text = sources(master)
    assert "short of time" not in text
    nbformat.write(master, tmp_path / path.name)
    done = report.run(tmp_path / path.name, {"smoke": True}, tmp_path / "out", timeout=300.0, progress=False)
    assert done.ok, done.error


@pytest.mark.notebook
@pytest.mark.parametrize("path", MASTERS, ids=lambda p: p.stem)
def test_a_student_copy_stops_at_its_first_check_with_the_hint(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / path.name
    nbformat.write(student(nbformat.read(path, 4)), copy)
    done = report.run(copy, {"smoke": True}, tmp_path / "out", timeout=300.0, progress=False)
    first = workshop.names(int(path.stem.partition("_")[0]))[0]
    assert f"{first} is not right yet: " in done.error
    assert "gives None: does the function end with `return`?" in done.error
    ran = nbformat.read(done.notebook, 4)
    (stopped,) = [c for c in ran.cells if c.cell_type == "code" and any(o.output_type == "error" for o in c.outputs)]
    assert stopped.source == next(c.source for c in ran.cells if "check" in c.metadata.get("tags", []))
    (error,) = [o for o in stopped.outputs if o.output_type == "error"]
    assert len(error.traceback) == 1, "the hint, no traceback"

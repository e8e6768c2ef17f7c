"""The command line and the doctor: one line for a user's mistake, the truth about the machine."""

import json
import subprocess
import sys

import pytest

from workbench import cli, doctor


def test_values_are_read_as_json_or_text():
    assert [cli.literal(t) for t in ("3", "0.5", "true", "True", "None", "[1, 2]", "8.resid")] == [
        3, 0.5, True, True, None, [1, 2], "8.resid",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--version"], 0, "workbench 0."),
        ([], 2, "report"),
        (["fetch", "no-such-model"], 2, "no offline model is called 'no-such-model'"),
        (["fetch", "gemma3-270m"], 2, "accept"),
    ],
)
def test_commands_answer(arguments, code, says, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    assert cli.main(arguments) == code
    out = capsys.readouterr()
    assert says in out.out + out.err


def test_an_unknown_command_leaves_with_two():
    done = subprocess.run([sys.executable, "-m", "workbench.cli", "fly"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_doctor_tells_versions_device_cache_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "models" / "one").mkdir(parents=True)
    (tmp_path / "cache" / "models" / "one" / "x").write_bytes(bytes(2_000_000))
    assert cli.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"].startswith("2.")
    assert facts["cache"]["holds"] == {"models/one": "2 MB"}
    assert facts["dtype"].startswith(("float32", "bfloat16"))
    page = (tmp_path / "cache" / "doctor.html").read_text()
    assert "newPlot" in page
    assert 'src="http' not in page
    text = doctor.tell(facts)
    assert "all well" in text
    assert facts["sketch"] in text


def test_the_doctor_reports_a_missing_package(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "WANTED", ("torch", "no_such_package"))
    assert cli.main(["doctor"]) == 1
    assert "PROBLEM    no_such_package is not installed" in capsys.readouterr().out

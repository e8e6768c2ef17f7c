"""docs/formats.md: its example runs as it stands, and it names the formats there are and what is written."""

import re
from pathlib import Path

import golden
import torch

from workbench import catalogue

PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    held = {"folder": golden.FOLDER / "sae_lens" / "jumprelu" / "checkpoint"}
    exec(code, held)
    assert "sae_lens" in capsys.readouterr().out
    x = golden.expected("sae_lens", "jumprelu")["x"]
    for kept in ("kept", "theirs"):
        assert torch.equal(held["wb"].load(kept).reconstruct(x), held["sae"].reconstruct(x))


def test_every_format_is_named_and_what_is_written():
    rows = [line.split("|")[1:4] for line in PAGE.splitlines() if line.startswith("| `") and line.count("|") == 4]
    named = {name: cells[2].strip() for cells in rows for name in re.findall(r"`(\w+)`", cells[0])}
    assert set(named) == set(catalogue.names("formats"))
    for name, writes in named.items():
        assert bool(writes) == hasattr(catalogue.module("formats", name), "write"), name

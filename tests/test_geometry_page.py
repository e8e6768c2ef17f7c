"""docs/geometry.md: its example runs as it stands, and it names what the room has."""

import re
from pathlib import Path

import torch

from workbench import geometry
from workbench.code import Code

PAGE = (Path(__file__).parents[1] / "docs" / "geometry.md").read_text()


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = torch.Generator().manual_seed(0)
    atoms, other = (torch.randn(120, 24, generator=drawn) for _ in range(2))
    z = torch.rand(2000, 120, generator=drawn) * (torch.rand(2000, 120, generator=drawn) < 0.03)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    held = {"atoms": atoms, "other": other, "codes": Code.dense(z)}
    exec(code, held)
    assert len(held["near"]) == 120 and all(len(figure.data) for figure in held["figures"])


def test_every_call_of_the_table_exists():
    named = set(re.findall(r"`([a-z_]+)[(`]", PAGE.split("## Which question")[1].split("## Reading")[0]))
    assert {name for name in named - {"absolute"} if not hasattr(geometry, name)} == set()

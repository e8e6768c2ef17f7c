"""What the README shows runs as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.smollm2
def test_the_readmes_five_minutes_run(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    said = block.strip().splitlines()[-1]
    assert eval(said, names)[0].startswith("The old house")
    assert (tmp_path / "my-sae" / "spec.json").is_file()


def test_every_file_the_readme_points_to_exists():
    text = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)`?", text):
        assert f"\n{target}:" in makefile, target

"""docs/evaluation.md says what the evals say of themselves, and its example runs as it stands."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from models import tiny_llama, tiny_tokenizer

import workbench as wb
from workbench import evaluate
from workbench.evaluate.examples import Examples
from workbench.evaluate.tasks import texts, words

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import build_evals  # noqa: E402


def test_the_table_is_what_the_files_say():
    assert build_evals.page() == build_evals.PAGE.read_text()
    assert build_evals.table().count("\n") == 2 + len(evaluate.needs())


def test_the_example_runs(tmp_path, monkeypatch):
    """With a small subject in the place of the reader's, and labelled rows that this subject can read."""
    monkeypatch.chdir(tmp_path)
    subject = wb.Subject(tiny_llama(), tiny_tokenizer(), name="tiny")
    corpus = [" ".join(f"w{(i * 7 + j * 3 + j * j) % 90}" for j in range(30)) for i in range(60)]
    store = wb.collect(subject, corpus, ["1.resid"], folder="store", rows=None, length=30, min_length=8, quiet=True)
    x = store.gather(torch.arange(600), "1.resid")
    letters = Examples.of(x, {"letter": (x[:, 0] > x[:, 0].median()).long()}, {"letter": ("a", "b")})
    monkeypatch.setattr(words, "words", lambda model, site: letters)
    monkeypatch.setattr(texts, "prompts", lambda model, site, name: SimpleNamespace(examples=letters))
    (code,) = re.findall(r"```python\n(.*?)```", build_evals.PAGE.read_text(), re.DOTALL)
    recipe = wb.recipe("batch_topk", d=32, latents=64, k=4)
    random = wb.recipe("random_atoms", d=32, latents=64, k=4)
    stream = store.stream(128, site="1.resid", steps=30)
    given = {"site": "1.resid", "exclusion": store.exclusion, "subject_fingerprint": subject.fingerprint}
    dictionary, random_atoms = wb.train([recipe, random], stream, progress=False, **given)
    held = {"model": subject, "store": store, "dictionary": dictionary, "random_atoms": random_atoms}
    exec(code.replace("progress=True", "progress=False"), held)
    table = held["table"]
    assert not table["error"].any() and set(table["seed"]) == {0, 1, 2} and len(list(Path("scores").glob("*.json")))

"""The adapter of hub data sets, with a data set of our own in the hub's place."""

import sys
from types import SimpleNamespace

import pytest
import torch
from models import tiny_llama, tiny_tokenizer

import workbench as wb
from workbench.evaluate.tasks import hub


class Columns:
    column_names = ["text", "label"]

    def __init__(self, n: int):
        self.rows = [{"text": f"w{i % 60 + 3} w{i % 7 + 3} w{i % 11 + 3}", "label": i % 3} for i in range(n)]

    def __getitem__(self, key):
        return self.rows[key] if isinstance(key, int) else [row[key] for row in self.rows]


@pytest.fixture
def online(monkeypatch):
    asked: list[tuple] = []
    found = SimpleNamespace(load_dataset=lambda *a, **k: asked.append((a, k)) or Columns(90))
    monkeypatch.setitem(sys.modules, "datasets", found)
    return asked


def subject() -> wb.Subject:
    return wb.Subject(tiny_llama(), tiny_tokenizer(), name="tiny")


def test_texts_of_each_class_are_read_and_marked_as_published(online):
    found = hub.labelled(subject(), "1.resid", "somebody/news", each=20, classes=["0", "2"])
    assert online == [(("somebody/news", None), {"split": "train"})]
    assert found.published and found.count == 40 and found.labels["label"].bincount().tolist() == [20, 20]
    assert found.classes == {"label": ["0", "2"]}
    other = hub.labelled(subject(), "1.resid", "somebody/news", each=20, classes=["0", "2"], seed=1)
    assert found.x.shape == other.x.shape and not torch.equal(found.x, other.x)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"label": "topic"}, "no column topic: it has text, label"),
        ({"classes": ["9"]}, "no class 9 in label: it has 0, 1, 2"),
    ],
)
def test_what_the_data_set_lacks_is_named(online, more, message):
    with pytest.raises(ValueError, match=message):
        hub.labelled(subject(), "1.resid", "somebody/news", **more)


def test_without_the_package_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets, or use evaluate.tasks.texts offline"):
        hub.labelled(subject(), "1.resid", "somebody/news")

"""PatternView without a browser: what it refuses, what it tells, and that its bytes are the weights."""

import numpy as np
import pytest
import torch
import traitlets
from models import tiny_llama, tiny_tokenizer

import workbench as wb
from widgets import PatternView, worker


def causal(heads: int, size: int, layers: int | None = None) -> np.ndarray:
    scores = np.random.default_rng(0).normal(size=((layers,) if layers else ()) + (heads, size, size)) * 3
    scores = np.where(np.tril(np.ones((size, size), dtype=bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def words(size: int) -> list[str]:
    return [f" w{i}" for i in range(size)]


def read(view: PatternView) -> np.ndarray:
    """The weights as a page reads them."""
    shape, size = view.shape, view.shape["size"]
    if shape["kind"] == "float16":
        kept = np.frombuffer(view.weights, "<f2").astype(float)
    else:
        kept = (np.frombuffer(view.weights, "u1") / 255.0) ** 2
    made = np.zeros((shape["heads"], size, size))
    if shape["causal"]:
        rows, columns = np.tril_indices(size)
        made[:, rows, columns] = kept.reshape(shape["heads"], -1)
        return made
    return kept.reshape(made.shape)


def test_the_bytes_are_the_weights_causal_or_not():
    weights = causal(3, 7)
    view = PatternView(tokens=words(7), patterns=weights)
    assert view.shape["causal"] and len(view.weights) == 3 * 28 * 2 and view.shape["note"] == ""
    assert np.allclose(read(view), weights, rtol=1e-3, atol=1e-6)
    assert (view.picked, view.head, view.layer, view.layers) == (6, 0, -1, 0)
    full = np.random.default_rng(1).dirichlet(np.ones(5), size=(2, 5))
    view = PatternView(tokens=words(5), patterns=torch.tensor(full), head=1, labels=["a", "b"])
    assert not view.shape["causal"] and np.allclose(read(view), full, rtol=1e-3) and view.labels == ["a", "b"]


def test_twelve_heads_of_128_tokens_stay_under_300_kb_and_more_takes_eight_bits():
    view = PatternView(tokens=words(128), patterns=causal(12, 128))
    carried = len(view.weights) * 4 / 3 + sum(len(str(getattr(view, k))) for k in ("_esm", "_css"))
    assert view.shape["kind"] == "float16" and carried < 300_000
    weights = causal(12, 180)
    view = PatternView(tokens=words(180), patterns=weights)
    assert view.shape["kind"] == "uint8" and len(view.weights) < 225_000
    assert (np.abs(read(view) - weights) <= np.sqrt(weights) / 255 + 1e-5).all()
    with pytest.raises(ValueError, match=r"24 heads of 200 tokens would add 482 kB .* the first 136 tokens"):
        PatternView(tokens=words(200), patterns=causal(24, 200))
    PatternView(tokens=words(136), patterns=causal(24, 136))  # what is advised fits


def test_rows_that_do_not_sum_to_1_are_told():
    weights = causal(2, 4)
    weights[1, 3] *= 0.5
    view = PatternView(tokens=words(4), patterns=weights)
    assert view.shape["note"] == "1 of 8 rows do not sum to 1: the row of head 1, query 3 sums to 0.5"
    weights[1, 3] *= 2.001
    assert "1 of 8 rows" not in PatternView(tokens=words(4), patterns=weights / 1.0005).shape["note"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"patterns": np.full((2, 4, 4), np.nan)}, "NaN or infinite"),
        ({"patterns": -causal(2, 4)}, "must be 0 or more"),
        ({"patterns": causal(2, 5)}, "got 4 tokens and 5 rows"),
        ({"patterns": np.ones((4, 4))}, r"\(head, query, key\)"),
        ({"patterns": np.ones((2, 4, 5))}, r"\(head, query, key\)"),
        ({"patterns": np.ones((0, 4, 4))}, r"\(head, query, key\)"),
        ({"tokens": [], "patterns": np.ones((2, 0, 0))}, "got 0 tokens"),
        ({"labels": ["one"]}, "one label for each of 2 heads"),
        ({"head": 2}, "head must be 0 to 1"),
        ({"patterns": causal(2, 4, 3), "layer": 3}, "layer must be 0 to 2"),
    ],
)
def test_what_does_not_fit_is_refused_with_one_line(given, told):
    with pytest.raises(ValueError, match=told) as error:
        PatternView(**{"tokens": words(4), "patterns": causal(2, 4)} | given)
    assert "\n" not in str(error.value)


def test_only_one_layer_is_carried_and_another_is_read_when_asked_for():
    weights = causal(2, 4, 3)
    view = PatternView(tokens=words(4), patterns=weights, layer=1, labels=[["a", "b"], ["c", "d"], ["e", "f"]])
    assert np.allclose(read(view), weights[1], atol=1e-3) and view.labels == ["c", "d"]
    view.set_state({"layer": 2})
    worker.settle()
    assert np.allclose(read(view), weights[2], atol=1e-3) and view.labels == ["e", "f"] and view.shape["layer"] == 2
    for name, value in (("layer", 3), ("head", 2), ("picked", 4)):
        with pytest.raises(traitlets.TraitError, match=f"{name} must be 0 to"):
            view.set_state({name: value})
    assert (view.layer, view.head, view.picked) == (2, 0, 3)


def test_of_reads_a_subjects_patterns_off_the_kernels_thread():
    subject = wb.Subject(tiny_llama(), tiny_tokenizer())
    view = PatternView.of(subject, "w3 w4 w5 w6", layer=1, head=2)
    assert np.allclose(read(view), subject.patterns("w3 w4 w5 w6", 1)[0].numpy(), atol=1e-3)
    assert view.tokens == ["w3", "w4", "w5", "w6"] and view.layers == 3 and view.shape["note"] == ""
    view.layer = 2
    worker.settle()
    assert view.error == "" and np.allclose(read(view), subject.patterns("w3 w4 w5 w6", 2)[0].numpy(), atol=1e-3)
    with pytest.raises(ValueError, match="one text is wanted, got 2"):
        PatternView.of(subject, ["w3 w4", "w5"])


def test_a_layer_that_cannot_be_read_is_told_and_the_old_one_stays():
    def broken(layer: int) -> np.ndarray:
        if layer == 1:
            raise ValueError("layer 1 gives no attention probabilities")
        return causal(2, 4)

    view = PatternView(tokens=words(4), patterns=broken, layers=2)
    assert view.layer == 0
    view.layer = 1
    worker.settle()
    assert "no attention probabilities" in view.error and view.shape["layer"] == 0

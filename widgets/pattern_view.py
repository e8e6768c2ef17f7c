"""Attention patterns of a layer: all heads small, one large, one query over its text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import traitlets as t

from . import payload, still
from .base import STATIC, Widget

Read = Callable[[int], Any]


class PatternView(Widget):
    """Attention patterns: heads as thumbnails, one as a heat map, the picked query's weights over the text.

        PatternView.of(subject, "The cat sat on the mat because it was tired", layer=5)
        PatternView(tokens=subject.words(ids), patterns=weights)

    `patterns` is (head, query, key), (layer, head, query, key), or a function of the layer with `layers`, their number.
    `picked` is the query position, the last one at first; `head` the large head, `layer` the layer. The state holds one
    layer, in half precision (in 8 bits of its square root where that is more than 225 kB); another is asked of Python.
    Rows that do not sum to 1 within 0.001 are told, not refused. `labels` names the heads; of several layers they are
    one list for each. Raises ValueError for shapes that do not fit, NaN, negative weights, and more than 225 kB.
    """

    _esm, _css = STATIC / "pattern_view.js", STATIC / "pattern_view.css"
    picked = t.Int(-1).tag(sync=True)
    head = t.Int(0).tag(sync=True)
    layer = t.Int(0).tag(sync=True)
    tokens = t.List().tag(sync=True)
    weights = t.Bytes(b"").tag(sync=True)
    shape = t.Dict().tag(sync=True)  # kind, causal, heads, size, note, layer, of the weights
    labels = t.List().tag(sync=True)
    layers = t.Int(0).tag(sync=True)  # to choose from; 0 where there is one without a number
    title = t.Unicode("").tag(sync=True)

    def __init__(
        self,
        *,
        tokens: Sequence[str],
        patterns: Any,
        labels: Sequence[Any] | None = None,
        layer: int | None = None,
        head: int = 0,
        title: str = "",
        layers: int = 0,
    ):
        if callable(patterns):
            read, default = patterns, 0 if layers else None
        else:
            given = _array(patterns)
            several = given.ndim == 4
            read, layers, default = (given.__getitem__, len(given), 0) if several else (lambda _: given, 0, None)
        layer = default if layer is None else layer
        if layers and not 0 <= (layer or 0) < layers:
            raise ValueError(f"layer must be 0 to {layers - 1}, got {layer}")
        self._read, self._labels, self._size = read, labels, len(tokens)
        made = self._made(layer or 0)
        if not 0 <= head < made["shape"]["heads"]:
            raise ValueError(f"head must be 0 to {made['shape']['heads'] - 1}, got {head}")
        words = [payload.text(token) for token in tokens]
        shown = {"tokens": words, "picked": len(words) - 1, "head": head, "layer": -1 if layer is None else layer}
        super().__init__(**shown, **made, layers=layers, title=payload.text(title))

    @classmethod
    def of(cls, subject: Any, text: Any, *, layer: int = 0, head: int = 0) -> "PatternView":
        """The patterns of a subject over one text; other layers are read when they are asked for.

        Raises ValueError for several texts, and for a model whose attention gives no probabilities.
        """
        known = subject.tokens(text)
        if len(known.ids) != 1:
            raise ValueError(f"one text is wanted, got {len(known.ids)}: give them one by one")
        return cls(
            tokens=subject.words(known.ids[0].tolist()),
            patterns=lambda layer: subject.patterns(known, layer)[0],
            layers=subject.layers,
            layer=layer,
            head=head,
            title=subject.name,
        )

    def _made(self, layer: int) -> dict[str, Any]:
        weights = _array(self._read(layer))
        if weights.ndim != 3 or weights.shape[1] != weights.shape[2] or not len(weights):
            raise ValueError(f"patterns must be (head, query, key) of equal sides, got {weights.shape}")
        if weights.shape[1] != self._size or not self._size:
            raise ValueError(f"one row for each token is wanted: got {self._size} tokens and {weights.shape[1]} rows")
        shape = payload.patterns(weights) | {"layer": layer}
        labels = self._labels or []
        if labels and not isinstance(labels[0], str):
            labels = labels[layer]
        if labels and len(labels) != len(weights):
            raise ValueError(f"one label for each of {len(weights)} heads is wanted, got {len(labels)}")
        return {"weights": shape.pop("data"), "shape": shape, "labels": [payload.text(label) for label in labels]}

    def _still(self) -> str:
        """What the picked query attends to."""
        weights = _array(self._read(self.shape["layer"]))[self.head, self.picked].tolist()
        where = "" if self.layer < 0 else f"layer {self.layer}, "
        return still.strip(self.tokens, weights, label=f"{where}head {self.head}: what token {self.picked} attends to")

    @t.validate("layer", "head", "picked")
    def _within(self, proposal: Any) -> int:
        name, value = proposal["trait"].name, proposal["value"]
        most = {"layer": self.layers, "head": self.shape.get("heads", 0), "picked": len(self.tokens)}[name]
        if most and not (0 if name != "picked" else -1) <= value < most:
            raise t.TraitError(f"{name} must be 0 to {most - 1}, got {value}")
        return value

    @t.observe("layer")
    def _asked(self, change: Any) -> None:
        layer = change["new"]
        if self.layers and layer != self.shape.get("layer"):
            self.work(f"reading layer {layer}", lambda job: self.put(**self._made(layer)), key="layer")


def _array(value: Any) -> np.ndarray[Any, Any]:
    """Numbers of an array or a tensor, in float32."""
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    return np.asarray(value, dtype=np.float32)

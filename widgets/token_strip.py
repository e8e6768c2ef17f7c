"""A line of tokens, each with its value as background."""

from collections.abc import Iterable, Sequence
from typing import Any

import traitlets as t

from . import payload, still
from .base import STATIC, Widget


class TokenStrip(Widget):
    """Tokens coloured by a value each: warm above zero, cold below; hover shows token, value and position.

        TokenStrip(tokens=subject.words(ids), values=activations.tolist(), label="latent 7")

    `picked` is the token that was clicked, -1 before. A value of None or NaN is shown as none; `peak` is the value of
    the deepest colour (the largest there is unless given). Raises ValueError for values that are not as many as tokens.
    """

    _esm, _css = STATIC / "token_strip.js", STATIC / "token_strip.css"
    picked = t.Int(-1).tag(sync=True)
    strip = t.Dict().tag(sync=True)
    peak = t.Float(None, allow_none=True).tag(sync=True)
    label = t.Unicode("").tag(sync=True)
    unit = t.Unicode("").tag(sync=True)

    def __init__(
        self,
        *,
        tokens: Sequence[str],
        values: Iterable[float | None] | None = None,
        peak: float | None = None,
        label: str = "",
        unit: str = "",
    ):
        made: dict[str, Any] = payload.strip(tokens, values)
        super().__init__(strip=made, peak=peak, label=label, unit=unit and f" {unit}")

    def _still(self) -> str:
        return still.strip(self.strip["tokens"], self.strip["values"], peak=self.peak, label=self.label)

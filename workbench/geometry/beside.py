"""A value beside its null, and the look that geometry's figures share."""

from textwrap import wrap
from typing import Any, NamedTuple

from jaxtyping import Real
from torch import Tensor

ROUNDING = 1e-9  # a draw this near counts as equal


class Against(NamedTuple):
    """A value beside draws of its null; higher is the extreme side, or with `lower` the other."""

    value: float | int
    null: Real[Tensor, " draw"]
    lower: bool = False
    whole: bool = False  # the null is every case there is, this one among them

    @property
    def mean(self) -> float:
        return float(self.null.double().mean())

    @property
    def sd(self) -> float:
        return float(self.null.double().std()) if len(self.null) > 1 else float("nan")

    @property
    def z(self) -> float:
        """(value - mean of the null) / its standard deviation; NaN where the null does not vary."""
        return (self.value - self.mean) / self.sd if self.sd > 0 else float("nan")

    @property
    def p(self) -> float:
        """(1 + draws at least as extreme) / (1 + draws), or the share of them if that is all; NaN without draws."""
        if not len(self.null):
            return float("nan")
        extreme = self.null <= self.value + ROUNDING if self.lower else self.null >= self.value - ROUNDING
        return (int(extreme.sum()) + (not self.whole)) / (len(self.null) + (not self.whole))


def framed(figure: Any, title: str, caption: str, *, height: int = 320) -> Any:
    """Title, caption and legend around plots of `height` pixels; the caption's lines and the legend come on top."""
    lines = [part for sentence in caption.split(". ") for part in wrap(sentence, 130)]
    above = 100 + 16 * len(lines)
    return figure.update_layout(
        title={"text": title, "subtitle": {"text": "<br>".join(lines)}, "y": 1, "yanchor": "top", "pad": {"t": 20}},
        template="plotly_white",
        height=height + above + 90,
        margin={"l": 60, "r": 20, "t": above, "b": 90},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
    )

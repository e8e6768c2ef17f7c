"""A line of tokens as HTML without script, for viewers of notebooks that draw no widgets."""

from collections.abc import Sequence

from workbench.html import Markup, join, tag
from workbench.interpret.cards import visible

MOST = 400  # tokens


def strip(
    tokens: Sequence[str], values: Sequence[float | None], *, peak: float | None = None, label: str = ""
) -> Markup:
    """Tokens with their values as background and in their titles; those beyond 400 are counted."""
    top = peak or max((abs(v) for v in values if v is not None), default=0) or 1
    parts = []
    for token, value in list(zip(tokens, values, strict=True))[:MOST]:
        hue = "255 140 20" if (value or 0) > 0 else "60 130 255"
        strength = 0 if not value else min(1, 0.12 + 0.88 * abs(value) / top)
        style = "white-space:pre-wrap;unicode-bidi:isolate;" + (
            f"background:rgb({hue} / {0.6 * strength:.2f})" if value else ""
        )
        title = "no value" if value is None else f"{value:.4g}"
        parts.append(tag("span", tag("bdi", visible(token)), attrs={"style": style, "title": title}))
    more = tag("i", f" and {len(tokens) - MOST:,} more tokens") if len(tokens) > MOST else ""
    head = tag("div", tag("b", label)) if label else ""
    return tag("div", head, join(*parts), more, attrs={"style": "font-family:ui-monospace,monospace;line-height:1.7"})

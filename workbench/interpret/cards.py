"""A latent on one card: where it fires, how strongly, how often, and what it writes. HTML and SVG, no script."""

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..html import Markup, join, tag
from .index import WINDOW, Context, Index

STYLE = Markup((Path(__file__).parent / "cards.css").read_text("utf-8"))
LONG = 24  # characters: a longer token may be broken over two lines
INVISIBLE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}  # Unicode categories: controls, marks of direction, blanks
VISIBLE = {"\n": "⏎", "\r": "␍", "\t": "⇥", " ": "·"}


class Cards:
    """HTML that a notebook shows and a page can hold as it is. `html` is the whole of it, style included."""

    def __init__(self, body: Markup):
        self.html = tag("div", tag("style", STYLE), body, attrs={"class": "wb-cards"})

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Cards({len(self.html):,} characters of HTML)"


def card(
    index: Index,
    latent: int,
    effects: pd.DataFrame | None = None,
    *,
    top: int = 8,
    per_quantile: int = 2,
    random: int = 4,
    window: tuple[int, int] = WINDOW,
    note: str | None = None,
) -> Cards:
    """One latent. `effects` is a table of `interpret.effects` that holds it; `note` is a line of yours under the title.

    Contexts over the range and at random are folded away. Raises ValueError when the table lacks the latent.
    """
    return Cards(_card(index, latent, effects, top, per_quantile, random, window, note))


def cards(
    index: Index,
    latents: Sequence[int],
    effects: pd.DataFrame | None = None,
    *,
    top: int = 6,
    per_quantile: int = 2,
    random: int = 4,
    window: tuple[int, int] = WINDOW,
    notes: dict[int, str] | None = None,
) -> Cards:
    """Several latents below one another, each with its note if it has one."""
    known = notes or {}
    return Cards(
        join(*(_card(index, i, effects, top, per_quantile, random, window, known.get(int(i))) for i in latents))
    )


def _card(
    index: Index,
    latent: int,
    effects: pd.DataFrame | None,
    top: int,
    per_quantile: int,
    random: int,
    window: tuple[int, int],
    note: str | None,
) -> Markup:
    latent = int(latent)
    strongest = index.contexts(latent, window=window, limit=top)
    line: Any = index.table.iloc[latent]
    parts: list[object] = [_head(index, latent, line, note)]
    if line["dead"]:
        notice = f"Dead: it never fired in {index.rows:,} rows. Its atom still writes what is shown here."
        parts.append(tag("p", notice, attrs={"class": "wb-dead"}))
    side = [] if line["dead"] else [_histogram(index, latent)]
    if effects is not None:
        side.append(_effects(latent, effects))
    peak = float(line["max"]) or 1.0
    main: list[object] = []
    if strongest:
        main.append(tag("h4", "Strongest contexts"))
        main.extend(_strip(context, peak) for context in strongest)
    over = index.contexts(latent, "quantile", window=window, limit=per_quantile) if strongest else []
    if over:
        quantiles = index.manifest["of"]["args"]["quantiles"]
        main.append(_folded("Over its whole range, strongest first", _by_quantile(over, quantiles, peak)))
    others = index.contexts(latent, "random", window=window, limit=random)
    if others:
        main.append(_folded("Random tokens of the store", join(*(_strip(context, peak) for context in others))))
    parts.append(
        tag(
            "div",
            tag("div", *side, attrs={"class": "wb-side"}) if side else "",
            tag("div", *main, attrs={"class": "wb-main"}),
            attrs={"class": "wb-body"},
        )
    )
    parts.append(tag("div", provenance(index), attrs={"class": "wb-foot"}))
    return tag("section", *parts, attrs={"class": "wb-card", "data-latent": latent})


def _head(index: Index, latent: int, line: Any, note: str | None) -> Markup:
    facts = []
    if not line["dead"]:
        once = round(1 / line["density"])
        facts = [
            ("fires on", f"{_share(line['density'])} of tokens", f"{int(line['fired']):,} of {index.rows:,} rows"),
            ("that is", f"1 in {once:,}", None),
            ("mean when on", _number(line["mean"]), None),
            ("max", _number(line["max"]), None),
        ]
    pills = join(
        *(
            tag("span", tag("small", name), " ", value, attrs={"class": "wb-fact", "title": title})
            for name, value, title in facts
        )
    )
    token = tag("span", visible(line["top_token"]), attrs={"class": "wb-name", "title": "token it fires on most"})
    return tag(
        "header",
        tag("h3", f"latent {latent}", token if line["top_token"] else ""),
        tag("div", pills, attrs={"class": "wb-facts"}) if facts else "",
        tag("p", note, attrs={"class": "wb-note"}) if note else "",
    )


def provenance(index: Index) -> str:
    """Where an index comes from, in a line."""
    left_out = "" if index.share_excluded is None else f", {index.share_excluded:.1%} of positions left out"
    known = index.manifest["of"]
    return (
        f"{index.manifest['site']}, {index.rows:,} rows{left_out} · store {known['store'][:16]} · "
        f"codec {known['codec'][:16]} · seed {known['args']['seed']}"
    )


def _folded(title: str, body: Markup) -> Markup:
    return tag("details", tag("summary", title), body)


def _by_quantile(contexts: Sequence[Context], quantiles: int, peak: float) -> Markup:
    parts: list[object] = []
    last = None
    for context in contexts:
        if context.quantile != last:
            low, high = (round(100 * (context.quantile + step) / quantiles) for step in (0, 1))
            parts.append(tag("h5", f"percentiles {low} to {high}"))
            last = context.quantile
        parts.append(_strip(context, peak))
    return join(*parts)


def _strip(context: Context, peak: float) -> Markup:
    """One line of tokens, each with its activation as background and in its title."""
    tokens = [
        _token(word, value, peak, i == context.center, context.pos - context.center + i)
        for i, (word, value) in enumerate(zip(context.tokens, context.activations, strict=True))
    ]
    value = tag("span", _number(context.activation), attrs={"class": "wb-value"})
    where = f"text {context.text}, position {context.pos}"
    return tag(
        "div", value, tag("div", *tokens, attrs={"class": "wb-text"}), attrs={"class": "wb-strip", "title": where}
    )


def _token(word: str, value: float, peak: float, center: bool, pos: int) -> Markup:
    left_out = math.isnan(value)
    classes = ["wb-t"]
    if len(word) > LONG:
        classes.append("wb-long")
    if center:
        classes.append("wb-on")
    if left_out:
        classes.append("wb-out")
    elif value < 0:
        classes.append("wb-neg")
    style = None
    if not left_out and value != 0:
        style = f"--a:{min(1.0, 0.12 + 0.88 * abs(value) / peak):.3f}"
    title = f"{_quoted(word)} · {'left out' if left_out else _number(value)} · position {pos}"
    # an inner bdi: a right-to-left token must not reorder its neighbours
    shown = tag("bdi", visible(word))
    attrs = {"class": " ".join(classes), "style": style, "title": title}
    return join(tag("span", shown, attrs=attrs), Markup("<br>") if word.endswith("\n\n") else Markup("<wbr>"))


def visible(word: str) -> Markup:
    """A token's text with its blanks made visible; nothing in it can be markup or reorder the line."""
    return join(*(tag("i", text) if marked else text for text, marked in _pieces(word)))


def _quoted(word: str) -> str:
    return f"“{''.join(text for text, _ in _pieces(word))}”"


def _pieces(word: str) -> list[tuple[str, bool]]:
    """What to show of a token, and whether it is a sign that stands for a character."""
    if not word:
        return [("∅", True)]
    blank = not word.strip()
    found = []
    for c in word:
        if c == " ":
            found.append((VISIBLE[c], True) if blank else (c, False))
        elif c in VISIBLE:
            found.append((VISIBLE[c], True))
        elif unicodedata.category(c) in INVISIBLE:
            found.append((f"U+{ord(c):04X}", True))
        else:
            found.append((c, False))
    return found


def _histogram(index: Index, latent: int) -> Markup:
    """Bars of |activation| in half octaves as SVG; heights are square roots of counts, so that rare ones show."""
    bins: Any = index.histogram(latent)
    width, height, foot = 260, 74, 16
    step = width / len(bins)
    most = math.sqrt(bins["count"].max())
    bars = []
    for i, (low, high, count) in enumerate(bins.itertuples(index=False)):
        tall = 0 if not count else max(1.5, height * math.sqrt(count) / most)
        attrs = {
            "x": f"{i * step + 0.5:.1f}",
            "y": f"{height - tall:.1f}",
            "width": f"{max(step - 1, 0.5):.1f}",
            "height": f"{tall:.1f}",
            "rx": 1,
        }
        title = tag("title", f"{int(count):,} rows from {_number(low)} to {_number(high)}")
        bars.append(tag("rect", title, attrs=attrs))
    first, last = bins["low"].iloc[0], bins["high"].iloc[-1]
    labels = [
        tag("text", _number(first), attrs={"x": 0, "y": height + 12}),
        tag("text", _number(last), attrs={"x": width, "y": height + 12, "text-anchor": "end"}),
    ]
    box = {"viewBox": f"0 0 {width} {height + foot}", "class": "wb-histogram", "role": "img"}
    box["aria-label"] = "histogram of activations"
    return join(
        tag("h4", "Activations ", tag("small", "half octaves, √ count")),
        tag("svg", *bars, *labels, attrs=box),
    )


def _effects(latent: int, effects: pd.DataFrame) -> Markup:
    mine: Any = effects[effects["latent"] == latent]
    if not len(mine):
        raise ValueError(f"the effects table has no latent {latent}: make it with interpret.effects(..., latents)")
    most = float(mine["effect"].abs().max()) or 1.0
    columns = []
    for sign, title in ((1, "promotes"), (-1, "suppresses")):
        rows = [
            tag(
                "div",
                tag("span", tag("bdi", visible(token)), attrs={"class": "wb-word", "title": _quoted(token)}),
                tag("span", f"{effect:+.2f}", attrs={"class": "wb-effect"}),
                attrs={"class": "wb-line", "style": f"--w:{abs(effect) / most:.3f}"},
            )
            for token, effect in mine[mine["sign"] == sign]
            .sort_values("rank")[["token", "effect"]]
            .itertuples(index=False)
        ]
        columns.append(tag("div", tag("h4", title), *rows, attrs={"class": "wb-plus" if sign > 0 else "wb-minus"}))
    return tag("div", *columns, attrs={"class": "wb-effects", "title": "direct effect on the logits, per unit"})


def _share(share: float) -> str:
    return f"{share:.2%}" if share >= 1e-4 else f"{share * 1e6:.0f} per million"


def _number(value: float) -> str:
    """Three significant figures, no exponent where it can be avoided."""
    if math.isinf(value):
        return "∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}"
    return f"{value:.2e}"

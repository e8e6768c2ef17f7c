"""Cards show what the index knows, and nothing in a token can leave its place."""

import re
from html.parser import HTMLParser

import pytest
import torch

from workbench import interpret
from workbench.batch import Batch, Exclusion, Tokens
from workbench.code import Code
from workbench.html import Markup
from workbench.site import Site

SITE = Site(2, "resid")
WORDS = [
    " plain",
    "<script>alert(1)</script>",
    "\n",
    "  ",
    "שלום",
    "\u202e",
    '"><img src=x onerror=alert(2)>',
    "&amp;",
    "\t",
    "",
    " 🙂",
    "</style>",
]
VOID = {"br", "wbr", "img"}


class Subject:
    unembed = torch.eye(len(WORDS), 4)
    gain = torch.ones(4)
    centred = False

    def words(self, ids):
        return [WORDS[i] for i in ids]


class Rows:
    """Each text holds every word once; position 0 was left out."""

    hash, share_excluded = "<hash>", 1 / len(WORDS)

    def __init__(self):
        drawn = torch.Generator().manual_seed(0)
        ids = torch.stack([torch.randperm(len(WORDS), generator=drawn) for _ in range(30)])
        self.tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
        self.text, self.pos = (torch.arange(ids.shape[1]) > 0).expand(ids.shape).nonzero(as_tuple=True)
        self.x = torch.randn(len(self.text), 4, generator=drawn)
        self.rows = len(self.x)

    def batches(self, size, *, site=None, seed=None):
        yield Batch(self.x, self.x, self.text, self.pos)

    def gather(self, rows, site):
        return self.x[rows]

    def where(self, rows):
        return self.text[rows], self.pos[rows]


class Codec:
    """Four latents, signed; the last is dead."""

    latents, site, target, exclusion = 4, SITE, SITE, Exclusion()

    def encode(self, x):
        return Code.dense(torch.where(x.abs() > 0.5, x, 0.0) * torch.tensor([1.0, 1, 1, 0]))

    def decode(self, code):
        return code.to_dense()

    def reconstruct(self, x):
        return self.decode(self.encode(x))

    def atoms(self, latents=None):
        return torch.eye(4) if latents is None else torch.eye(4)[latents]


class Tree(HTMLParser):
    """All elements; fails when they do not nest."""

    def __init__(self, html):
        super().__init__()
        self.open, self.found, self.text = [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, name, attrs):
        self.found.append((name, dict(attrs)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text.append(data)

    def of(self, css):
        return [attrs for _, attrs in self.found if css in (attrs.get("class") or "").split()]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    index = interpret.index(Codec(), Rows(), Subject(), folder=tmp_path_factory.mktemp("index"))
    return index, interpret.effects(Codec(), Subject(), top=5)


def test_nothing_in_a_token_becomes_an_element(parts):
    index, effects = parts
    tree = Tree(interpret.cards(index, range(4), effects, notes={0: "<b>note</b>"})._repr_html_())
    names = {name for name, _ in tree.found}
    assert not names & {"script", "img", "b"}
    assert [name for name, _ in tree.found].count("style") == 1
    assert not any(attr.startswith("on") for _, attrs in tree.found for attr in attrs)
    text = "".join(tree.text)
    assert "<script>alert(1)</script>" in text
    assert "<b>note</b>" in text
    assert "<hash>" in text


def test_a_card_asks_for_nothing_and_runs_nothing(parts):
    html = interpret.card(parts[0], 0, parts[1])._repr_html_()
    assert not re.search(r"https?:|url\(|@import|javascript:|<link|<script", html)
    assert isinstance(interpret.card(parts[0], 0).html, Markup)


def test_blanks_and_marks_are_visible_and_cannot_reorder_a_line(parts):
    html = interpret.cards(parts[0], range(3))._repr_html_()
    tree = Tree(html)
    assert {"⏎", "·", "⇥", "∅", "U+202E"} <= set(tree.text)
    assert "שלום" in tree.text
    assert "\u202e" not in html
    assert len([1 for name, _ in tree.found if name == "bdi"]) >= len(tree.of("wb-t"))


def test_tokens_carry_their_activation(parts):
    index, _ = parts
    tree = Tree(interpret.card(index, 0, top=3, random=0, per_quantile=1)._repr_html_())
    contexts = index.contexts(0, limit=3) + index.contexts(0, "quantile", limit=1)
    tokens = tree.of("wb-t")
    assert len(tokens) == sum(len(c.tokens) for c in contexts)
    peak = index.table["max"][0]
    for attrs, value in zip(tokens, [v for c in contexts for v in c.activations], strict=True):
        classes = attrs["class"].split()
        assert ("wb-out" in classes) == (value != value)
        assert ("wb-neg" in classes) == (value < 0)
        if value == value and value != 0:
            assert float(attrs["style"].removeprefix("--a:")) == pytest.approx(
                0.12 + 0.88 * abs(value) / peak, abs=1e-3
            )
        else:
            assert "style" not in attrs
    assert len(tree.of("wb-on")) == len(contexts)
    assert any("left out" in attrs["title"] for attrs in tokens)


def test_histogram_bars_are_the_bins(parts):
    index, _ = parts
    tree = Tree(interpret.card(index, 1)._repr_html_())
    bars = [attrs for name, attrs in tree.found if name == "rect"]
    bins = index.histogram(1)
    assert len(bars) == len(bins)
    tall = [float(bar["height"]) for bar in bars]
    assert tall.index(max(tall)) == bins["count"].to_numpy().argmax()


def test_effects_of_both_signs_are_listed(parts):
    index, effects = parts
    tree = Tree(interpret.card(index, 2, effects)._repr_html_())
    assert len(tree.of("wb-line")) == 10
    assert "promotes" in tree.text
    assert "suppresses" in tree.text
    with pytest.raises(ValueError, match="the effects table has no latent 2"):
        interpret.card(index, 2, effects[effects["latent"] == 0])


def test_a_dead_latent_says_so_with_the_rows_looked_at(parts):
    index, effects = parts
    tree = Tree(interpret.card(index, 3, effects)._repr_html_())
    text = "".join(tree.text)
    assert f"never fired in {index.rows:,} rows" in text
    assert not [1 for name, _ in tree.found if name == "svg"]
    assert "promotes" in text


def test_a_card_says_where_it_came_from(parts):
    text = "".join(Tree(interpret.card(parts[0], 0)._repr_html_()).text)
    assert "2.resid" in text
    assert f"{parts[0].rows:,} rows" in text
    assert "8.3% of positions left out" in text


def test_a_latent_that_does_not_exist_is_refused(parts):
    with pytest.raises(IndexError, match=r"latent must be 0..3, got 4"):
        interpret.card(parts[0], 4)

"""FeatureDashboard without a browser: what it is given, refuses, keeps and answers; numbers against brute force.

`world(folder)` is a small one whose answers are known: token i has its own direction, which latent i reads alone and a
later latent together with others.
"""

import json
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from widgets import FeatureDashboard, feature_dashboard, payload, worker
from widgets.labels import Labels
from workbench import interpret
from workbench.batch import Exclusion, Tokens
from workbench.code import Code
from workbench.site import Site

SITE = Site(2, "resid")
WORDS = [
    "<bos>",
    " river",
    " the",
    "<script>window.hit=1</script>",
    "\n\n",
    "שלום",
    "\u202e",
    '"><img src=x onerror=window.hit=2>',
    " 🙂",
    "",
    " River",
    " sea",
]
TOKENS, LATENTS, DEAD = len(WORDS), 60, 59


class Subject:
    """Text is numbers of tokens, `1 2 11`; a vector is its token's direction, longer at later positions."""

    name, fingerprint, special_ids, centred = "small", "small", frozenset({0}), False
    unembed, gain = torch.eye(TOKENS) + 0.01 * torch.arange(TOKENS), torch.ones(TOKENS)

    def words(self, ids):
        return [WORDS[int(i)] for i in ids]

    def tokens(self, text):
        if not all(word.isdecimal() and int(word) < TOKENS for word in text.split()):
            raise ValueError(f"small reads numbers of tokens, got {text!r}")
        ids = torch.tensor([[0, *map(int, text.split())]])
        return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))

    def read(self, tokens, sites):
        pos = torch.arange(tokens.ids.shape[1])
        return {Site.of(s): torch.eye(TOKENS)[tokens.ids] * (1 + 0.01 * pos)[None, :, None] for s in sites}


class Rows:
    """A store in memory of 40 texts of 24 tokens, the first of each left out."""

    hash = "<store>"

    def __init__(self):
        drawn = torch.Generator().manual_seed(0)
        ids = torch.randint(1, TOKENS, (40, 24), generator=drawn)
        ids[:, 0] = 0
        self.tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
        self.text, self.pos = (torch.arange(24) > 0).expand(ids.shape).nonzero(as_tuple=True)
        self.x = Subject().read(self.tokens, [SITE])[SITE][self.text, self.pos]
        self.rows, self.share_excluded = len(self.x), 1 / 24

    def gather(self, rows, site):
        return self.x[rows]

    def where(self, rows):
        return self.text[rows], self.pos[rows]


@dataclass
class Codec:
    latents: int = LATENTS
    site: Site | None = SITE
    target: Site | None = SITE
    exclusion: Exclusion = field(default_factory=Exclusion)

    @cached_property
    def weight(self):
        weight = torch.zeros(TOKENS, LATENTS)
        weight[:, :TOKENS] = torch.eye(TOKENS)
        drawn = torch.Generator().manual_seed(1)
        weight[:, TOKENS:DEAD] = (torch.rand(TOKENS, DEAD - TOKENS, generator=drawn) > 0.7).float()
        weight[3, DEAD] = -1
        return weight

    def dense(self, x):
        return (x @ self.weight - 0.25).relu()

    def encode(self, x):
        return Code.dense(self.dense(x)).to_csr()

    def decode(self, code):
        return code.to_dense() @ self.weight.T

    def reconstruct(self, x):
        return self.decode(self.encode(x))

    def atoms(self, latents=None):
        return self.weight.T if latents is None else self.weight.T[torch.as_tensor(list(latents))]


def world(folder: Path) -> dict[str, Any]:
    """The arguments of a dashboard, all but labels and scores."""
    codec, subject = Codec(), Subject()
    return {"index": interpret.index(codec, Rows(), subject, folder=folder), "codec": codec, "subject": subject}


def scores():
    value = np.linspace(1, 0, LATENTS)
    value[7] = np.nan
    return pd.DataFrame({"latent": np.arange(LATENTS), "<b>fuzz</b>": value, "note": ["<i>"] * LATENTS})


def known(widget, latent):
    """The card of a latent that the page holds."""
    return next(json.loads(c["card"]) for c in widget.cards if c["latent"] == latent)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return world(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def z(parts):
    """(row, latent)"""
    return parts["codec"].dense(parts["index"].store.x).numpy()


@pytest.fixture
def make(parts):
    made = []

    def one(**more):
        made.append(FeatureDashboard(**parts | more))
        worker.settle()
        return made[-1]

    yield one
    for widget in made:
        widget.close()
    worker.settle()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"index": 3}, TypeError, "index must be what interpret.index"),
        ({"latent": LATENTS}, IndexError, "latent must be 0..59, got 60"),
        ({"compare": -1}, IndexError, "compare must be 0..59, got -1"),
        ({"codec": Codec(latents=7)}, ValueError, "the index has 60 latents, the codec 7"),
        ({"codec": None}, ValueError, "a subject is read through a codec"),
        ({"subject": None, "effects": True}, ValueError, "effects=True wants codec= and subject="),
        ({"codec": Codec(target=Site(2, "mlp_in")), "effects": True}, ValueError, "written to the residual stream"),
        ({"effects": pd.DataFrame({"a": [1]})}, ValueError, "effects is a table of interpret.effects or True"),
        ({"effects": "yes"}, TypeError, "effects is a table of interpret.effects, True or None, got str"),
        ({"query": {"colour": 1}}, ValueError, "a query knows search, by"),
        ({"query": {"score": "fuzz"}}, ValueError, "query's score is one of '', got 'fuzz'"),
        ({"query": {"low": "a lot"}}, ValueError, "query's low is a number or None, got 'a lot'"),
        ({"query": {"page": -1}}, ValueError, "query's page is 0, 1"),
        ({"scores": pd.DataFrame({"latent": [1, 1], "a": [0, 0]})}, ValueError, "for each latent, got several"),
        ({"scores": pd.DataFrame({"latent": [99], "a": [0]})}, ValueError, "scores are of latents 0..59, got 99..99"),
        ({"scores": pd.DataFrame({"latent": ["x"], "a": [0]})}, ValueError, "scores want a column `latent`"),
        ({"scores": pd.DataFrame(np.zeros((2, 13)))}, ValueError, "at most 12 columns, got 13"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(parts, given, error, words):
    with pytest.raises(error) as raised:
        FeatureDashboard(**parts | given)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def ids(widget):
    return [row["id"] for row in widget.listing["rows"]]


def asks(widget, **query):
    widget.query = query
    worker.settle()
    assert widget.error == ""
    return ids(widget)


def test_the_table_is_filtered_sorted_and_paged_as_by_brute_force(make, z):
    widget = make(scores=scores())
    fired = (z != 0).sum(0)
    order = np.argsort(-fired, kind="stable")
    assert asks(widget, sort="density", descending=True) == order[:20].tolist()
    assert asks(widget, sort="density", descending=True, page=2) == order[40:60].tolist()
    assert widget.listing["found"] == LATENTS and widget.listing["pages"] == 3
    assert asks(widget, sort="density", descending=True, page=9) == order[40:60].tolist()
    assert widget.listing["page"] == 2
    low, high = 0.1, 0.2
    share = fired / len(z)
    asks(widget, low=low, high=high)
    assert widget.listing["found"] == int(((share >= low) & (share <= high)).sum()) > 0
    assert asks(widget, dead="dead") == np.flatnonzero(fired == 0).tolist() and DEAD in ids(widget)
    assert widget.listing["rows"][0]["density"] == 0
    asks(widget, dead="alive")
    assert widget.listing["found"] == (fired > 0).sum() == LATENTS - widget.about["dead"]
    name = "<b>fuzz</b>"
    assert asks(widget, score=name, sort="score")[:2] == [59, 58]
    assert asks(widget, score=name, sort="score", page=2)[-1] == 7  # NaN stands last
    assert widget.listing["rows"][-1]["score"] is None
    best = np.linspace(1, 0, LATENTS) >= 0.5
    asks(widget, score=name, score_low=0.5)
    assert widget.listing["found"] == best.sum() - 1
    assert asks(widget, descending=True)[:2] == [59, 58]


def test_a_search_counts_the_strongest_contexts_whose_token_has_the_text(make, parts):
    widget, index = make(), parts["index"]
    found = asks(widget, search="RIVER", sort="hits", descending=True)
    counts = [sum("river" in c.tokens[c.center].lower() for c in index.contexts(i)) for i in range(LATENTS)]
    assert [row["hits"] for row in widget.listing["rows"]] == sorted((n for n in counts if n), reverse=True)[:20]
    assert all(counts[i] for i in found) and {1, 10} <= set(found) and 2 not in found
    assert asks(widget, search="no such token") == [] and widget.listing["found"] == 0


def test_labels_are_searched_kept_in_a_file_and_taken_away(make, tmp_path):
    path = tmp_path / "labels.json"
    widget = make(labels=path, latent=4)
    widget.naming = {"latent": 4, "label": " a  River & <b>sea</b> ", "n": 1}
    worker.settle()
    named = {"4": "a River & <b>sea</b>"}
    assert json.loads(path.read_text()) == named == widget.names
    assert asks(widget, search="river", by="label") == [4]
    assert make(labels=Labels(path)).names == named
    widget.naming = {"latent": 4, "label": "x" * 501, "n": 2}
    worker.settle()
    assert widget.error == "ValueError: a label has at most 500 characters, got 501"
    widget.naming = {"latent": 4, "label": "", "n": 3}
    worker.settle()
    assert json.loads(path.read_text()) == {} and widget.names == {} and widget.error == ""


def test_a_card_holds_what_the_index_knows(make, parts, z):
    widget = make(latent=20, scores=scores())
    card, line = known(widget, 20), parts["index"].table.iloc[20]
    assert sum(n for _, _, n in card["histogram"]) == card["fired"] == line["fired"] == (z[:, 20] != 0).sum()
    assert [c["value"] for c in card["top"]] == [payload.short(c.activation) for c in parts["index"].contexts(20)[:10]]
    first = parts["index"].contexts(20)[0]
    assert card["top"][0]["tokens"] == [payload.text(t) for t in first.tokens]
    assert card["top"][0]["first"] + card["top"][0]["center"] == first.pos and card["top"][0]["text"] == first.text
    assert card["quantile"][0]["high"] == 100 and len(card["random"]) == 6
    assert card["scores"] == [["<b>fuzz</b>", payload.short(scores()["<b>fuzz</b>"][20])], ["note", "<i>"]]
    starts = [c for c in card["random"] + card["top"] if c["first"] == 0]
    assert starts and all(c["values"][0] is None for c in starts)  # position 0 was left out
    dead = known(make(latent=DEAD), DEAD)
    assert dead["dead"] and dead["histogram"] == dead["top"] == dead["quantile"] == [] and len(dead["random"]) == 6
    assert dead["near"]["firing"] == []


def test_neighbours_are_those_of_brute_force(make, parts, z):
    on = z != 0
    atoms = torch.nn.functional.normalize(parts["codec"].atoms(), dim=-1)
    for latent in (1, 20, 33):
        near = known(make(latent=latent), latent)["near"]
        both = (on & on[:, [latent]]).sum(0)
        jaccard = both / (on | on[:, [latent]]).sum(0).clip(1)
        jaccard[latent] = 0
        best = np.argsort(-jaccard, kind="stable")[:6]
        assert [n["latent"] for n in near["firing"]] == [i for i in best if both[i]]
        assert [n["value"] for n in near["firing"]] == [payload.short(jaccard[i]) for i in best if both[i]]
        assert [n["both"] for n in near["firing"]] == [both[i] for i in best if both[i]]
        cosine = (atoms @ atoms[latent]).numpy()
        cosine[latent] = -1
        assert [n["value"] for n in near["cosine"]] == [payload.short(v) for v in -np.sort(-cosine)[:6]]
    assert payload.by_cosine(parts["index"], parts["codec"], 20, chunk=7) == near_of(parts, 20)
    assert payload.by_firing(parts["index"], 20, chunk=5) == known(make(latent=20), 20)["near"]["firing"]


def near_of(parts, latent):
    return payload.by_cosine(parts["index"], parts["codec"], latent)


def test_two_latents_are_compared_in_rows_atoms_and_tokens(make, parts, z):
    a, b = 20, 33
    widget = make(latent=b, compare=a, effects=True)
    on, pair = z != 0, widget.pair
    assert (pair["a"], pair["b"]) == (a, b)
    assert pair["both"] == (on[:, a] & on[:, b]).sum() and pair["either"] == (on[:, a] | on[:, b]).sum()
    assert pair["fired"] == [on[:, a].sum(), on[:, b].sum()]
    one, other = parts["codec"].atoms([a, b])
    assert pair["cosine"] == payload.short(float(torch.nn.functional.cosine_similarity(one, other, dim=0)))
    effect = (parts["codec"].atoms([a, b]) * Subject.gain) @ Subject.unembed.T
    apart = (effect - effect.mean(-1, keepdim=True))[0] - (effect - effect.mean(-1, keepdim=True))[1]
    assert pair["more"][0][3] == pytest.approx(float(apart.max()), abs=1e-3)
    assert pair["less"][0][3] == pytest.approx(float(apart.min()), abs=1e-3)
    widget.compare = None
    worker.settle()
    assert widget.pair == {}


def test_effects_of_a_table_that_lacks_a_token_have_no_difference(make, parts):
    table = interpret.effects(parts["codec"], Subject(), top=2)
    lines = make(latent=1, compare=2, effects=table, subject=None).pair["more"]
    assert lines[0][0] == WORDS[2] and lines[0][3] is None and None in lines[0][1:3]
    assert known(make(latent=1, effects=table), 1)["effects"]["plus"][0][0] == WORDS[1]


def test_a_text_is_read_live_and_its_latents_ranked(make, parts):
    widget = make(latent=11, text="1 11 10 11 3", scores=scores())
    got = json.loads(widget.reading)
    tokens = Subject().tokens("1 11 10 11 3")
    value = parts["codec"].dense(Subject().read(tokens, [SITE])[SITE][0]).numpy()
    assert got["tokens"] == [payload.text(WORDS[i]) for i in (0, 1, 11, 10, 11, 3)]
    assert got["values"] == [None, *[payload.short(v) for v in value[1:, 11]]]
    peak = value[1:].max(0)
    assert [row["id"] for row in got["rows"]] == np.argsort(-peak, kind="stable")[:20].tolist()
    assert got["fired"] == (peak > 0).sum() and got["marker"] == payload.short(peak[11])
    assert got["rows"][0]["values"][0] is None and got["rows"][0]["at"] == value[1:, got["rows"][0]["id"]].argmax() + 1
    widget.at = 3
    worker.settle()
    got = json.loads(widget.reading)
    on = np.flatnonzero(value[3])
    assert {row["id"] for row in got["rows"]} <= set(on) and got["fired"] == len(on)
    assert got["rows"][0]["value"] == payload.short(value[3].max())
    widget.latent = 3
    worker.settle()
    assert json.loads(widget.reading)["latent"] == 3 and json.loads(widget.reading)["marker"] is None
    widget.at = 0
    worker.settle()
    assert json.loads(widget.reading)["rows"] == []  # left out by the exclusion rule


def test_a_text_that_cannot_be_read_says_why_and_leaves_no_old_answer(make):
    widget = make(text="1 2")
    assert widget.reading and widget.view == "text"
    widget.text = "river"
    worker.settle()
    assert widget.error == "ValueError: small reads numbers of tokens, got 'river'" and widget.reading == ""
    widget.text = ""
    worker.settle()
    assert widget.error == "" and widget.reading == ""
    alone = make(codec=None, subject=None, text="1 2")
    assert "wants codec= and subject=" in alone.error


def test_a_long_text_sends_only_what_surrounds_a_token(make):
    widget = make(text=" ".join(["2"] * 400 + ["11"] + ["2"] * 400), latent=11, at=401)
    got = json.loads(widget.reading)
    row = next(row for row in got["rows"] if row["id"] == 11)
    assert row["at"] == 401 and len(row["values"]) == 48 and row["values"][401 - row["first"]] == row["value"] > 0
    assert len(widget.reading) < 40_000


def test_nothing_slow_runs_on_the_thread_that_asks(make, monkeypatch):
    widget, seen = make(), []
    for name in ("card", "latents", "by_firing", "by_cosine", "pair", "reading", "Reading"):
        real = getattr(payload, name)

        def call(*args, real=real, name=name, **more):
            seen.append((name, threading.current_thread().name))
            return real(*args, **more)

        monkeypatch.setattr(payload, name, call)
    widget.latent, widget.compare, widget.query, widget.text = 9, 8, {"dead": "alive"}, "1 2"
    worker.settle()
    assert {name for name, _ in seen} == {"card", "latents", "by_firing", "by_cosine", "pair", "reading", "Reading"}
    assert {thread for _, thread in seen} == {"widgets"} and widget.error == ""


def test_few_cards_are_kept_the_shown_ones_always(make, monkeypatch):
    widget = make(latent=0, compare=40)
    monkeypatch.setattr(feature_dashboard, "KEPT", 4)
    for latent in range(1, 9):
        widget.latent = latent
        worker.settle()
    assert [c["latent"] for c in widget.cards] == [8, 40, 7, 6]
    monkeypatch.setattr(feature_dashboard, "BYTES", 1)
    widget.latent = 3
    worker.settle()
    assert [c["latent"] for c in widget.cards] == [3, 40]


def test_the_state_is_json_without_holes_and_small(make):
    widget = make(scores=scores(), text="1 2 3")
    for latent in range(30):
        widget.latent = latent
        worker.settle()
    state = widget.get_state()
    text = json.dumps(state, allow_nan=False, indent=1)  # as a notebook writes it
    assert len(text) < 300_000 and len(widget.cards) <= 24
    assert sum(len(c["card"]) for c in widget.cards) <= feature_dashboard.BYTES


def test_a_page_holds_the_cards_that_are_asked_for(make, tmp_path):
    widget = make(latent=5, labels=Labels())
    widget.rename(DEAD, "</script><b>dead</b>")
    html = widget.to_html(tmp_path / "page.html", latents=[7, DEAD, 7])
    assert html == (tmp_path / "page.html").read_text()
    models = json.loads(html.split('id="wb-models">')[1].split("</script>")[0])
    state = models[widget.model_id]["state"]
    assert [c["latent"] for c in state["cards"]] == [7, DEAD] and state["latent"] == 7 and state["compare"] is None
    assert [row["id"] for row in state["listing"]["rows"]] == [7, DEAD] and state["names"][str(DEAD)].endswith("</b>")
    assert state["live"] is False and json.loads(state["cards"][0]["card"])["near"]["firing"]
    assert widget.latent == 5 and [c["latent"] for c in widget.cards] == [5]  # the widget itself is as it was
    with pytest.raises(ValueError, match="no latent was given"):
        widget.to_html(latents=[])
    with pytest.raises(IndexError, match="latent must be 0..59, got 60"):
        widget.to_html(latents=[60])

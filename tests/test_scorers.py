"""The embedding scorer on latents whose meaning is planted: a latent fires on its own words only."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from models import tiny_llama, tiny_tokenizer
from torch import Tensor
from torch.nn.functional import normalize

import workbench as wb
from workbench import catalogue, interpret
from workbench.batch import Tokens
from workbench.interpret.scorers.embedding import auc, embedding, words

SITE = wb.Site.of("embed")
LATENTS = 6  # latent i fires on words w(10 i + 3), w(10 i + 4) and w(10 i + 5)


class Bag:
    """A text encoder of one layer that counts words: texts are near when they share some."""

    layers, fingerprint = 1, "bag"

    def width(self, site) -> int:
        return 100

    def tokenize(self, text, length=None) -> Tokens:
        named = [[int(w[1:]) for w in t.replace(",", " ").split() if w[1:].isdigit()] or [99] for t in text]
        ids = torch.full((len(named), max(map(len, named))), 0)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for i, row in enumerate(named):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
        return Tokens(ids, mask)

    def read(self, tokens, sites) -> dict[wb.Site, Tensor]:
        return {wb.Site.of(site): torch.nn.functional.one_hot(tokens.ids, 100).float() for site in sites}


class ByWord:
    """Latent i is 1 to 3 on its three words; `everywhere` fires on every row too."""

    site = target = SITE
    latents = LATENTS
    spec = {"variant": "by_word"}

    def __init__(self, table: Tensor, subject, everywhere: int | None = None):
        self.table, self.everywhere = table, everywhere
        self.exclusion = subject.exclusion
        self.fingerprint = f"by word {everywhere}"

    def encode(self, x: Tensor) -> wb.Code:
        word = torch.cdist(x, self.table).argmin(-1) - 3  # three special tokens come first
        code = torch.zeros(len(x), LATENTS)
        for i, j in product(range(LATENTS), range(3)):
            code[word == 10 * i + 3 + j, i] = 1.0 + j
        if self.everywhere is not None:
            code[:, self.everywhere] += 0.1
        return wb.Code.dense(code)

    def decode(self, code) -> Tensor:
        return torch.zeros(len(code), self.table.shape[1])

    def reconstruct(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def atoms(self, latents=None) -> Tensor:
        return torch.eye(LATENTS, self.table.shape[1])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    """Documents about one latent's words or about none; ten words each, those of the topic in two places."""
    model = tiny_llama()
    subject = wb.Subject(model, tiny_tokenizer(), name="tiny")
    drawn = torch.Generator().manual_seed(0)
    corpus = []
    for i in range(240):
        filler = [f"w{70 + int(k)}" for k in torch.randint(0, 20, (10,), generator=drawn)]
        topic = i % (2 * LATENTS)
        if topic < LATENTS:
            for place in (3, 7):
                filler[place] = f"w{10 * topic + 3 + int(torch.randint(0, 3, (1,), generator=drawn))}"
        corpus.append(" ".join(filler))
    folder = tmp_path_factory.mktemp("scorers")
    store = wb.collect(
        subject, corpus, ["embed"], folder=folder / "store", rows=None, length=10, min_length=4, batch=16, quiet=True
    )
    return SimpleNamespace(subject=subject, store=store, table=model.model.embed_tokens.weight.detach(), folder=folder)


def index_of(made, everywhere: int | None = None, **more) -> interpret.Index:
    codec = ByWord(made.table, made.subject, everywhere)
    codes = wb.encode(made.store, codec, made.folder / f"codes{everywhere}", quiet=True)
    return interpret.index(
        codec, made.store, made.subject, folder=made.folder / f"index{everywhere}", codes=codes, **more
    )


@pytest.mark.parametrize("query", ["words", "examples"])
def test_a_planted_meaning_is_heard_and_anothers_explanation_is_not(made, query):
    table = embedding(index_of(made), encoder=Bag(), query=query, negatives=60)
    assert list(table["latent"]) == list(range(LATENTS)) and set(table["query"]) == {query}
    assert table["auc"].mean() > 0.93 and table["auc"].min() > 0.8 and (table["shuffled"] < 0.65).all()
    assert (table["low"] <= table["auc"]).all() and (table["auc"] <= table["high"]).all()
    assert (table["positives"] >= 5).all() and (table["negatives"] >= 5).all()


def test_explanations_that_are_brought_are_scored_as_they_are(made):
    true = {i: f"w{10 * i + 3} w{10 * i + 4} w{10 * i + 5}" for i in range(LATENTS)}
    wrong = {i: true[(i + 2) % LATENTS] for i in true}
    good, bad = (embedding(index_of(made), None, told, encoder=Bag()) for told in (true, wrong))
    assert good["auc"].min() > 0.97 and bad["auc"].max() < 0.6 and set(good["query"]) == {"given"}


def test_a_window_in_which_the_latent_fires_is_never_a_negative(made):
    """A latent that fires on every row has no negative window left."""
    table = embedding(index_of(made, everywhere=2), encoder=Bag()).set_index("latent")
    assert table.loc[2, "negatives"] == 0 and table.loc[2, ["auc", "low", "high", "shuffled"]].isna().all()
    assert table["auc"].drop(2).notna().all()


def test_explanations_never_see_the_documents_that_are_scored(made, monkeypatch):
    from workbench.interpret.scorers import embedding as module

    found, given = index_of(made), []
    monkeypatch.setattr(module, "words", lambda contexts: given.extend(c.text for c in contexts) or words(contexts))
    scored = []
    plain = module.auc
    monkeypatch.setattr(module, "auc", lambda good, bad: scored.append((len(good), len(bad))) or plain(good, bad))
    module.embedding(found, encoder=Bag(), seed=4)
    seen = module._seen(found, 4)
    assert given and seen[given].all() and 0.4 < seen.mean() < 0.6
    for i in range(LATENTS):  # only windows of the other half were scored
        unseen = sum(not seen[c.text] for c in found.contexts(i, "quantile"))
        assert scored[2 * i][0] == unseen < len(found.contexts(i, "quantile"))


def test_the_area_by_hand():
    """Three pairs above, one tie, of six: (3 + 0.5) / 6."""
    area, low, high = auc(torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.5, 0.95]))
    assert area == pytest.approx(3.5 / 6) and 0 < low < area < high < 1
    assert auc(torch.ones(5), torch.zeros(5))[0] == 1.0 and auc(torch.ones(5), torch.zeros(5))[1] < 0.95


def test_the_interval_covers_the_truth():
    """Two normal samples one standard deviation apart: the area is 0.760."""
    drawn, inside = torch.Generator().manual_seed(0), 0
    for _ in range(300):
        _, low, high = auc(1 + torch.randn(12, generator=drawn), torch.randn(30, generator=drawn))
        inside += low <= 0.7602 <= high
    assert 0.91 <= inside / 300 <= 0.99


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"query": "poem"}, "query must be 'words' or 'examples'"),
        ({"latents": [1]}, "wants two latents or more"),
        ({"latents": [1, 2], "explanations": {1: "w13"}}, "latent 2 has no explanation"),
    ],
)
def test_a_wrong_call_is_told_what_to_do(made, more, message):
    with pytest.raises(ValueError, match=message):
        embedding(index_of(made), encoder=Bag(), **more)


def test_an_index_without_a_subject_has_no_text(made):
    found = index_of(made)
    bare = interpret.Index(found.folder, found.manifest, found.codes, found.store)
    with pytest.raises(ValueError, match="no text: give subject="):
        embedding(bare, encoder=Bag())


def test_scorers_are_in_the_catalogue():
    assert "embedding" in catalogue.names("scorers") and catalogue.entry("scorers", "embedding") is embedding


def test_unit_vectors_of_texts_are_means_over_real_tokens():
    from workbench.harvest.vectors import embed

    found = embed(Bag(), ["w1 w2", "w1", "w2 w2 w2 w1"], progress=False)
    wanted = torch.zeros(3, 100)
    wanted[0, [1, 2]], wanted[1, 1], wanted[2, 1], wanted[2, 2] = 1, 1, 1, 3
    assert torch.allclose(found, normalize(wanted, dim=-1))

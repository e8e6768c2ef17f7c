"""Regimes on planted truth: groups, series, chats, retrieval, sweeps, suites, model diffing."""

import math

import pytest
import torch
from models import tiny_gpt2, tiny_llama, tiny_tokenizer
from planted import Planted, fvu
from torch.nn.functional import normalize

import workbench as wb
from workbench.batch import Batch, Exclusion, Tokens
from workbench.dictionary import recipe, train
from workbench.harvest import Store, collect
from workbench.regimes import diffing, groups, selection, sequential, series, streams, suite, sweep
from workbench.site import Site

SITES = [Site(layer, "resid") for layer in range(4)]


class Layers:
    """A subject of four layers: 0 and 1 write with the same sixteen atoms of d = 24, so do 2 and 3 with others."""

    name, fingerprint, dtype, special_ids = "layers", "0123456789abcdef", torch.float32, frozenset()
    exclusion = Exclusion(first=False, special=False, norm=None)

    def __init__(self):
        rng = torch.Generator().manual_seed(0)
        self.atoms = normalize(torch.randn(2, 16, 24, generator=rng), dim=-1)

    def tokenize(self, text):
        raise NotImplementedError

    def width(self, site):
        return 24

    def read(self, tokens, sites):
        rng = torch.Generator().manual_seed(int(tokens.ids.sum()))
        code = (torch.rand(*tokens.ids.shape, 16, generator=rng) < 0.15).float()
        noise = 0.02 * torch.randn(*tokens.ids.shape, 24, generator=rng)
        return {Site.of(s): (1 + 0.2 * (Site.of(s).layer % 2)) * code @ self.atoms[Site.of(s).layer // 2] + noise
                for s in sites}  # fmt: skip


def ids(texts: int, length: int, vocab: int = 90, seed: int = 0) -> Tokens:
    found = torch.randint(3, vocab, (texts, length), generator=torch.Generator().manual_seed(seed))
    return Tokens(found, torch.ones_like(found, dtype=torch.bool))


@pytest.fixture(scope="module")
def layers(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("layers") / "store"
    return collect(Layers(), ids(64, 32), SITES, rows=None, folder=folder, quiet=True)


@pytest.fixture(scope="module")
def chatty() -> wb.Subject:
    return wb.Subject(tiny_llama(), tiny_tokenizer())


# layer groups


def test_layers_that_share_atoms_cluster_together(layers):
    found = groups.distances(layers, progress=False)
    assert groups.cluster(found, 2) == [[0, 1], [2, 3]]
    assert found[0, 1] < 0.1 and found[2, 3] < 0.1 and abs(found[0, 2] - 0.5) < 0.1
    assert groups.spread(found, [[0, 1], [2, 3]]) < 0.1 < groups.spread(found, [[0, 2], [1, 3]])
    assert groups.spread(found, [[0], [1], [2], [3]]) == 0


def test_angles_are_those_of_the_rows_themselves(layers):
    a, b = (layers.gather(torch.arange(layers.rows), s) for s in SITES[1:3])
    cosine = torch.cosine_similarity(a - a.mean(0), b - b.mean(0))
    found = groups.distances(layers, SITES[1:3], rows=10**6, progress=False)
    assert found[0, 1] == found[1, 0] == pytest.approx(float(cosine.arccos().mean()) / math.pi, abs=1e-4)


def test_last_takes_one_row_of_each_token_row(layers):
    where = layers.where(groups._last(layers))
    assert where[0].tolist() == list(range(64)) and set(where[1].tolist()) == {31}
    assert groups.cluster(groups.distances(layers, last=True, progress=False), 2) == [[0, 1], [2, 3]]


def test_clusters_by_hand():
    line = torch.tensor([0.0, 1.0, 2.5, 2.6])
    distance = (line[:, None] - line).abs()
    assert groups.cluster(distance, 1) == [[0, 1, 2, 3]] and groups.cluster(distance, 4) == [[0], [1], [2], [3]]
    assert groups.cluster(distance, 2) == [[0, 1], [2, 3]] and groups.cluster(distance, 3) == [[0], [1], [2, 3]]
    assert groups.spread(distance, [[0, 1], [2, 3]]) == pytest.approx(0.55)
    with pytest.raises(ValueError, match="1 to 4, got 5"):
        groups.cluster(distance, 5)


def test_a_group_has_one_dictionary_that_serves_all_its_layers(layers, tmp_path):
    fit, held = layers.split(test=0.2)

    def go(parts):
        return groups.train_groups(
            lambda sites: fit.stream(128 // len(sites), site=sites, steps=80),
            parts,
            lambda: recipe("topk_auxk", d=24, latents=32, k=4),
            lr=1e-2,
            folder=tmp_path,
            progress=False,
        )

    right = go([SITES[:2], SITES[2:]])
    assert list(right) == SITES and [d.site for d in right.values()] == SITES
    assert right[SITES[0]].atoms().data_ptr() != right[SITES[2]].atoms().data_ptr()
    assert torch.equal(right[SITES[0]].atoms(), right[SITES[1]].atoms())
    assert right[SITES[0]].exclusion == layers.exclusion and right[SITES[0]].subject == Layers.fingerprint
    wrong = go([[SITES[0], SITES[2]], [SITES[1], SITES[3]]])

    def error(found):
        rows = {s: next(held.batches(held.rows, site=s)) for s in SITES}
        return sum(fvu(found[s], rows[s]) for s in SITES)

    assert error(right) < 0.7 * error(wrong), (error(right), error(wrong))
    assert torch.equal(go([SITES[:2], SITES[2:]])[SITES[3]].atoms(), right[SITES[3]].atoms())  # loaded
    with pytest.raises(ValueError, match="no other holds"):
        go([SITES[:2], SITES[1:]])


def test_flat_rows_are_all_rows_of_all_sites(layers):
    plain = next(layers.stream(16, site=SITES[:3]).batches())
    flat = next(streams.Flat(layers.stream(16, site=SITES[:3])).batches())
    assert flat.x.shape == (48, 24) and torch.equal(flat.x.view(16, 3, 24), plain.x)
    assert torch.equal(flat.text.view(16, 3)[:, 2], plain.text) and torch.equal(flat.pos.view(16, 3)[:, 1], plain.pos)
    with pytest.raises(ValueError, match="a list of sites"):
        next(streams.Flat(layers.stream(16, site=SITES[0])).batches())


# series


def turned(share: float) -> Planted:
    """Planted rows whose atoms are turned a little towards others."""
    found = Planted(d=32, atoms=48, steps=300)
    other = torch.randn(48, 32, generator=torch.Generator().manual_seed(9))
    found.truth[:] = normalize(found.truth + share * normalize(other, dim=-1), dim=-1)
    return found


def test_a_series_goes_on_from_the_weights_before_and_keeps_each_latents_number(tmp_path):
    made = {"a": turned(0.0), "b": turned(0.5), "c": turned(1.0)}

    def go():
        first = recipe("topk_auxk", d=32, latents=96, k=4)
        return series.series(first, made, site=None, share=0.1, lr=5e-3, folder=tmp_path, progress=False)

    found = go()
    assert [d.training_summary["steps"] for d in found.values()] == [300, 30, 30]
    scratch = train(
        recipe("topk_auxk", d=32, latents=96, k=4), streams.First(made["b"], 30), site=None, lr=5e-3, progress=False
    )
    held = {name: stream.batch(10_000) for name, stream in made.items()}
    assert fvu(found["b"], held["b"]) < 0.5 * fvu(scratch, held["b"])
    assert fvu(found["b"], held["b"]) < 0.7 * fvu(found["a"], held["b"])  # it did learn
    moved = series.drift(list(found.values()))
    assert torch.allclose(moved[-1], torch.ones(96)) and moved[1].mean() > moved[0].mean() > 0.5
    assert torch.equal(go()["c"].atoms(), found["c"].atoms())


def test_a_continued_recipe_begins_at_the_weights_and_leaves_them_alone():
    stream = Planted(d=32, atoms=48, steps=60)
    d = train(recipe("batch_topk", d=32, latents=96, k=4), stream, site=None, lr=5e-3, progress=False)
    before = {k: v.clone() for k, v in d.state_dict().items()}
    made = series.continued(d)
    assert {k: v for k, v in made.call.items() if k != "begun"} == d.call and len(made.hooks) == 3
    on = train(made, stream, site=None, lr=1e-9, progress=False)
    for name, value in on.state_dict().items():
        if name != "sparsifier.threshold":  # it follows the batches
            torch.testing.assert_close(value, before[name], rtol=1e-4, atol=1e-6, msg=name)
    assert 0.5 < on.sparsifier.threshold / d.sparsifier.threshold < 2
    train(series.continued(d), stream, site=None, lr=5e-3, progress=False)
    assert all(torch.equal(v, before[k]) for k, v in d.state_dict().items())
    with pytest.raises(ValueError, match="fitted at once"):
        series.continued(train(recipe("pca", d=32, k=8), stream, site=None, progress=False))


def test_a_run_from_other_weights_is_another_run(tmp_path):
    stream = Planted(d=32, atoms=48, steps=5)
    one, two = (
        train(recipe("topk", d=32, latents=64, k=4), stream, site=None, lr=lr, progress=False) for lr in (0.001, 0.01)
    )
    args = {"site": None, "progress": False, "folder": tmp_path}
    on = train(series.continued(one), stream, **args)
    again = train(series.continued(one), stream, **args)
    assert torch.equal(on.atoms(), again.atoms()) and again.call == on.call and on.call["begun"]
    with pytest.raises(ValueError, match="holds another run"):
        train(series.continued(two), stream, **args)


def test_first_is_the_beginning_of_a_stream_at_any_step():
    stream = Planted(d=8, atoms=12, steps=9)
    first = streams.First(stream, 5)
    assert len(first) == 5 and len(list(first.batches())) == 5 and len(list(first.batches(3))) == 2
    assert torch.equal(next(first.batches(3)).x, stream.batch(3).x)
    assert first.describe() != streams.First(stream, 4).describe()
    with pytest.raises(ValueError, match="1 to 9"):
        streams.First(stream, 10)


# chats


CHATS = [
    [{"role": "user", "content": f"w{i} w{i + 1}"}, {"role": "assistant", "content": " ".join(["w7"] * (i + 2))}]
    for i in range(5, 17)
]


def test_each_chat_is_a_row_of_its_own_and_blocks_cut_through_them(chatty):
    whole = sequential.conversations(chatty, CHATS)
    assert len(whole.ids) == len(CHATS) and whole.mask.sum(1).tolist() == [2 + 1 + i + 2 + 1 for i in range(5, 17)]
    assert sequential.conversations(chatty, CHATS, length=6).ids.shape == (12, 6)
    packed = sequential.blocks(chatty, CHATS, length=10, seed=1)
    total = int(whole.mask.sum())
    assert packed.ids.shape == (total // 10, 10) and bool(packed.mask.all())
    left = whole.ids[whole.mask].bincount(minlength=96) - packed.ids.flatten().bincount(minlength=96)
    assert int(left.min()) >= 0 and int(left.sum()) == total % 10
    with pytest.raises(ValueError, match="give more or shorter blocks"):
        sequential.blocks(chatty, CHATS, length=1000)


def test_the_stream_has_every_row_of_every_chat_once_as_the_chat_alone_gives_it(chatty):
    whole = sequential.conversations(chatty, CHATS)
    stream = sequential.stream(chatty, whole, site="1.resid", size=16, buffer=320, batch=4)
    rows = [(t, p) for b in stream.batches() for t, p in zip(b.text.tolist(), b.pos.tolist(), strict=True)]
    assert len(rows) == len(set(rows)) == len(stream) * 16 > 0.9 * int(whole.mask[:, 1:].sum()) - 16
    assert min(p for _, p in rows) == 1  # only the first of a text is left out
    batch = next(stream.batches())
    assert len(batch.text.unique()) > 4  # mixed
    tokens = stream.source.tokens
    alone = chatty.read(Tokens(tokens.ids[batch.text[:1]], tokens.mask[batch.text[:1]]), ["1.resid"])
    torch.testing.assert_close(batch.x[0], alone[Site(1, "resid")][0, batch.pos[0]], rtol=1e-4, atol=1e-4)


def test_the_templates_own_tokens_are_told_by_place(chatty):
    mask, whole = sequential.template(chatty, CHATS), sequential.conversations(chatty, CHATS)
    assert mask.shape == whole.ids.shape and not mask[~whole.mask].any()
    for i, row in enumerate(mask):
        assert row.nonzero()[:, 0].tolist() == [0, 3]  # the template writes w1 before each turn
        assert whole.ids[i, 3] == whole.ids[i, 0]
    chatty.tokenizer.chat_template, kept = "w1 same", chatty.tokenizer.chat_template
    with pytest.raises(ValueError, match="cannot be told"):
        sequential.template(chatty, CHATS)
    chatty.tokenizer.chat_template = kept


# retrieval


class Words:
    """An encoder whose vectors count words: cosines are known."""

    layers, fingerprint = 1, "abcdabcdabcdabcd"

    def __init__(self):
        self.reads = 0

    def width(self, site):
        return 26

    def tokenize(self, text, length=None):
        rows = [[ord(w[0]) - 97 for w in one.split()][:length] for one in text]
        longest = max(map(len, rows))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return Tokens(padded, torch.tensor([[i < len(row) for i in range(longest)] for row in rows]))

    def read(self, tokens, sites):
        self.reads += len(tokens.ids)
        return {sites[0]: torch.nn.functional.one_hot(tokens.ids, 26).float() + 9.0 * ~tokens.mask[..., None]}


def test_retrieval_by_hand_and_from_what_was_kept(tmp_path):
    encoder = Words()
    texts = ["ant bee cat", "dog dog", "ant ant ant bee", "eel fox", "cat dog"]
    found = selection.retrieve(texts, ["ant", "dog"], 4, encoder=encoder, folder=tmp_path, progress=False)
    assert found.documents.tolist() == [1, 2, 4, 0] and found.texts[0] == "dog dog"
    torch.testing.assert_close(found.scores, torch.tensor([1.0, 3 / 10**0.5, 2**-0.5, 3**-0.5]))
    seen = encoder.reads
    again = selection.retrieve(texts, ["ant", "dog"], 4, encoder=encoder, folder=tmp_path, progress=False)
    assert encoder.reads == seen == 7 and again.texts == found.texts and torch.equal(again.scores, found.scores)
    with pytest.raises(ValueError, match="1 to 5 passages"):
        selection.retrieve(texts, ["ant"], 6, encoder=encoder, progress=False)


def test_passages_hold_every_word_once():
    texts = ["one two three four five six", "seven"]
    pieces, documents = selection.passages(texts, 12)
    assert all(len(p) <= 12 for p in pieces) and " ".join(pieces) == " ".join(texts)
    assert documents.tolist() == [0] * (len(pieces) - 1) + [1]


# sweeps


def test_a_sweep_is_one_training_of_each_scored_on_the_same_rows(tmp_path):
    stream = Planted(d=16, atoms=24, on=3.0, steps=25, rows=128)
    held = [stream.batch(10_000), stream.batch(10_001)]
    calls = sweep.grid("topk", {"d": 16}, {"latents": [48], "k": [1, 3]})
    calls += sweep.grid("relu_l1", {"d": 16, "latents": 48}, {"l1": [0.5]})

    def go(together):
        return sweep.sweep(
            calls, stream, held, site=None, seeds=(0, 1), lr=1e-2, together=together, folder=tmp_path, progress=False
        )

    table = go(4)
    assert len(table) == 6 and table["seed"].tolist() == [0, 1] * 3
    best = table.groupby(["variant", "k"], dropna=False)["fvu"].mean()
    assert best["topk", 3] < best["topk", 1]
    assert (table[table["k"] == 3]["l0"] <= 3).all()
    alone = recipe("topk", d=16, latents=48, k=3, seed=1)
    alone = train(alone, stream, site=None, lr=1e-2, progress=False)
    row = table[(table["k"] == 3) & (table["seed"] == 1)].iloc[0]
    joined = Batch(torch.cat([b.x for b in held]), torch.cat([b.y for b in held]))
    assert row["fvu"] == pytest.approx(fvu(alone, joined), rel=1e-4)
    assert row["dead"] == float((alone.encode(joined.x).fired() == 0).double().mean())
    assert go(4).equals(table) and go(3).drop(columns="fvu").equals(table.drop(columns="fvu"))
    means = sweep.over_seeds(table)
    assert len(means) == 3 and set(means["seeds"]) == {2}
    two = table["fvu"].tolist()[:2]
    assert means["fvu"][0] == pytest.approx(sum(two) / 2)
    assert means["fvu_high"][0] - means["fvu"][0] == pytest.approx(12.7062 * abs(two[0] - two[1]) / 2, rel=1e-4)
    with pytest.raises(ValueError, match="a sweep needs calls"):
        sweep.sweep([], stream, held, site=None)


# suites


def test_a_suite_has_a_row_for_every_site_with_what_its_dictionary_costs_the_model(tmp_path):
    subject = wb.Subject(tiny_gpt2(), tiny_tokenizer())
    sites = suite.sublayers(subject)
    assert [str(s) for s in sites[:4]] == ["0.resid", "0.attn_out", "0.mlp_out", "1.resid"] and len(sites) == 9
    store = collect(subject, ids(60, 32), sites[3:6], rows=None, folder=tmp_path / "store", quiet=True)

    def go():
        return suite.suite(
            subject, store, lambda site, width: recipe("batch_topk", d=width, latents=64, k=8), size=128, steps=25,
            lr=1e-2, texts=12, folder=tmp_path / "suite", progress=False,
        )  # fmt: skip

    table = go()
    assert table["site"].tolist() == ["1.resid", "1.attn_out", "1.mlp_out"] and (table["latents"] == 64).all()
    assert (table["fvu_low"] <= table["fvu"]).all() and (table["fvu"] <= table["fvu_high"]).all()
    first = table.iloc[0]
    _, held = store.split(test=0.1)
    tokens, documents = wb.evaluate.held_out(held, 12)
    case = wb.Case(wb.load(tmp_path / "suite" / "1.resid"), subject, held, tokens, documents)
    truth = wb.evaluate.run([case], ["reconstruction", "delta_ce"]).set_index("metric")["value"]
    assert first["fvu"] == pytest.approx(truth["fvu"]) and first["delta_ce"] == pytest.approx(truth["delta_ce"])
    clean, spliced, zero = truth["clean_ce"], first["delta_ce"], truth["delta_ce_zero"]
    assert zero > 0 and clean > 0
    assert first["ce_recovered"] == pytest.approx((clean + zero - (clean + spliced)) / zero)
    assert go().equals(table) and (tmp_path / "suite" / "suite.csv").read_text().count("\n") == 4


# model diffing


def pair(**changes) -> Planted:
    """Two models of 32 directions: the first four only in the first, the next four only in the second."""
    found = Planted(d=24, atoms=32, on=2.5, steps=400, kind="sites", **changes)
    found.truth[:4, 1] = found.truth[4:8, 0] = 0
    return found


def test_a_planted_private_direction_is_found_private():
    stream = pair()
    d = train(
        recipe("crosscoder_batch_topk", d=24, latents=64, sites=2, k=3), stream, site=None, lr=3e-3, progress=False
    )
    found = diffing.table(d, [stream.batch(10_000), stream.batch(10_001)])
    cosine = normalize(stream.truth.flatten(1), dim=-1) @ normalize(d.atoms().flatten(1), dim=-1).T
    best = found.iloc[cosine.argmax(-1).tolist()]
    assert (cosine.amax(-1) > 0.9).float().mean() > 0.9
    assert best["owner"].tolist()[:8] == ["first"] * 4 + ["second"] * 4 and best["private"][:8].all()
    assert (best["nu_error"][:8].abs() < 0.3).all() and (best["owner"][8:] == "shared").mean() > 0.9
    assert not best["private"][8:].any()
    with pytest.raises(ValueError, match="two models"):
        diffing.table(recipe("topk", d=4, latents=8, k=2).dictionary, [])


def test_latent_scaling_tells_a_latent_that_the_other_model_has_too():
    """Two latents by hand: one writes to the second model alone, and is there truly alone or missed in the first."""
    d = recipe("crosscoder", d=2, latents=2, sites=2).dictionary
    with torch.no_grad():
        d.decoder.weight.copy_(torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))
        d.decoder.bias.zero_()
        d.encoder.weight.copy_(d.decoder.weight.T)
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    x = torch.stack([torch.stack([0.5 * z[:, 0], torch.zeros(3)], 1), z], 1)  # the first model has half of latent 0
    found = diffing.table(d, [Batch(x, x)])
    assert found["owner"].tolist() == ["second", "second"] and found["private"].tolist() == [False, True]
    assert found["nu_error"].tolist() == pytest.approx([0.5, 0.0]) and found["nu_reconstruction"].tolist() == [0, 0]
    assert found["density"].tolist() == pytest.approx([2 / 3, 2 / 3])


def test_both_pairs_the_rows_of_one_token(tmp_path):
    tokens = ids(24, 16)
    stores = [
        collect(
            wb.Subject(tiny_gpt2(seed), tiny_tokenizer()),
            tokens,
            "1.resid",
            rows=None,
            folder=tmp_path / str(seed),
            quiet=True,
            exclusion=Exclusion(norm=rule),
        )
        for seed, rule in ((0, None), (1, 1.05))
    ]
    assert stores[1].rows < stores[0].rows  # the norm rule leaves some out
    both = diffing.Both(*stores, "1.resid", size=32)
    assert len(both.rows) == stores[1].rows and len(both) == stores[1].rows // 32
    for batch in both.batches(len(both) - 1):
        for m, store in enumerate(stores):
            text, pos = (value[both.rows[:, m]] for value in store.where(torch.arange(store.rows)))
            at = [int(((text == t) & (pos == p)).nonzero()) for t, p in zip(batch.text, batch.pos, strict=True)]
            truth = store.gather(both.rows[at, m], "1.resid") * both.scales[m]
            torch.testing.assert_close(batch.x[:, m], truth)
    assert sum(len(b.x) for b in both.all()) == len(both.rows)
    norms = torch.cat([b.x for b in both.all()]).norm(dim=-1).median(0).values
    torch.testing.assert_close(norms, torch.full((2,), 32**0.5), rtol=0.1, atol=0)
    other = collect(
        wb.Subject(tiny_gpt2(), tiny_tokenizer()), ids(24, 16, seed=1), "1.resid", rows=None, folder=tmp_path / "x",
        quiet=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="other tokens"):
        diffing.Both(stores[0], other, "1.resid", size=32)

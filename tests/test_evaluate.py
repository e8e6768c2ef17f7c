"""Numbers by hand, against oracles, and intervals that cover."""

from math import exp, log

import plain_codecs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_llama, tiny_tokenizer
from plain_codecs import MemoryRows, PlainCodec
from torch import Tensor
from torch.nn.functional import cross_entropy

import workbench as wb
from workbench import edit, evaluate
from workbench.batch import Exclusion, Tokens
from workbench.evaluate import Case, Score, Scores, Sums, interval, splices
from workbench.evaluate.evals import density
from workbench.evaluate.evals.dead import dead
from workbench.evaluate.evals.loss_recovered import loss_recovered
from workbench.evaluate.evals.reconstruction import reconstruction
from workbench.evaluate.evals.sparsity import sparsity

RESID = wb.Site(1, "resid")


def lookup(x: Tensor, y_hat: Tensor, **more) -> PlainCodec:
    """A codec that answers the rows of `x` with those of `y_hat`, in order."""
    return PlainCodec(y_hat, lambda rows: (torch.cdist(rows, x) < 1e-6).float(), torch.zeros(y_hat.shape[1]), **more)


def subject() -> wb.Subject:
    return wb.Subject(tiny_llama(), tiny_tokenizer(), name="tiny")


def texts(rows: int = 6, length: int = 9) -> Tokens:
    """Ragged rows: the first has one token less, the next two less ... and special tokens inside."""
    ids = torch.randint(3, 96, (rows, length), generator=torch.Generator().manual_seed(3))
    mask = torch.ones(rows, length, dtype=torch.bool)
    for i in range(rows):
        mask[i, length - i % 4 :] = False
    ids[0, 3] = 2  # an end of text in the middle
    return Tokens(torch.where(mask, ids, 0), mask)


def rows_at(subject: wb.Subject, tokens: Tokens, site, target=None, exclusion: Exclusion | None = None) -> MemoryRows:
    h = subject.read(tokens, [site, target or site])
    rule = exclusion or Exclusion()
    keep = rule.by_token(tokens, subject.special_ids)
    text, pos = keep.nonzero(as_tuple=True)
    return MemoryRows(
        h[site][keep], text, pos, torch.arange(len(keep)), h[target][keep] if target else None, exclusion=rule
    )


# ---- reconstruction


def test_four_rows_by_hand():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    y_hat = torch.tensor([[1.0, 0.0], [0.0, 0.5], [1.0, 1.0], [0.0, 0.0]])
    found = reconstruction(Case(lookup(x, y_hat), None, MemoryRows(x)))
    # errors 0, 1/4, 2, 4; about the mean (3/4, 3/4): 10 - 4 * 18/16
    assert found["fvu"].value == pytest.approx(6.25 / 5.5)
    assert found["cosine"].value == pytest.approx((1 + 1 + 0.5**0.5 + 0) / 4)
    assert found["norm_ratio"].value == pytest.approx((1 + 0.5 + 0.5**0.5 + 0) / 4)
    assert found["gamma"].value == pytest.approx((1 + 0.25 + 2 + 0) / (1 + 0.5 + 2 + 0))
    assert found["fvu"].n == 4 and found["fvu"].chance == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 60), st.integers(1, 7), st.floats(-1e3, 1e3), st.floats(0.01, 100), st.integers(0, 2**31))
def test_fvu_is_squared_error_over_torch_var_far_from_the_origin_too(n, d, offset, size, seed):
    drawn = torch.Generator().manual_seed(seed)
    x = size * (torch.randn(n, d, generator=drawn) + offset)
    noise = size * torch.randn(n, d, generator=drawn)
    codec = PlainCodec(torch.eye(d), lambda r: r, torch.zeros(d))
    codec.reconstruct = lambda r: r + noise
    found = reconstruction(Case(codec, None, MemoryRows(x), resamples=10))["fvu"].value
    error = (x.double() - (x + noise).double()).square().sum()
    assert found == pytest.approx(float(error / x.double().var(0).sum() / (n - 1)), rel=1e-6)


def test_the_store_s_mean_only_keeps_digits_it_decides_nothing():
    x = torch.randn(80, 4) + 3
    rows = MemoryRows(x)
    rows.mean = lambda site: torch.tensor([9.0, -2.0, 0.0, 5.0])
    a, b = (reconstruction(Case(plain_codecs.scaled(4, 0.8), None, r))["fvu"] for r in (rows, MemoryRows(x)))
    assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), rel=1e-6)


def test_scaled_by_a_tenth_less_gives_gamma_and_ratio_nine_tenths():
    found = reconstruction(Case(plain_codecs.scaled(8, 0.9), None, MemoryRows(torch.randn(50, 8) + 1)))
    assert found["gamma"].value == pytest.approx(0.9) and found["norm_ratio"].value == pytest.approx(0.9)
    assert found["cosine"].value == pytest.approx(1)


def test_mean_gets_the_chance_level_of_every_number():
    x = torch.randn(200, 6) + 2
    for score in reconstruction(Case(plain_codecs.mean(x.mean(0)), None, MemoryRows(x))):
        assert score.value == pytest.approx(score.chance, abs=1e-6)


def test_rows_that_are_zero_have_no_direction_and_are_not_counted():
    x = torch.cat([torch.zeros(5, 3), torch.randn(20, 3)])
    found = reconstruction(Case(plain_codecs.identity(3), None, MemoryRows(x)))
    assert found["cosine"].n == 20 and found["cosine"].value == pytest.approx(1) and found["fvu"].n == 25


def test_batches_do_not_show(monkeypatch):
    from workbench.evaluate import case as room

    x, atoms = plain_codecs.planted(300, 12, 16, 2)
    whole = Case(plain_codecs.random(12, 16), None, MemoryRows(x))
    monkeypatch.setattr(room, "ROWS", 37)
    parts = Case(plain_codecs.random(12, 16), None, MemoryRows(x))
    for a, b in zip(reconstruction(whole), reconstruction(parts), strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), rel=1e-6)
    assert torch.equal(whole.scanned[1].counts, parts.scanned[1].counts)


def test_constant_rows_and_silent_dictionaries_are_refused():
    with pytest.raises(ValueError, match="all equal"):
        reconstruction(Case(plain_codecs.identity(3), None, MemoryRows(torch.ones(20, 3))))
    with pytest.raises(ValueError, match="reconstructs nothing"):
        reconstruction(Case(plain_codecs.mean(torch.zeros(3)), None, MemoryRows(torch.randn(20, 3))))
    with pytest.raises(ValueError, match="no held-out rows"):
        reconstruction(Case(plain_codecs.identity(3), None, MemoryRows(torch.zeros(0, 3))))


# ---- sparsity, density, dead


def planted_code(z: Tensor) -> Case:
    """Rows whose code is exactly `z`."""
    return Case(plain_codecs.identity(z.shape[1]), None, MemoryRows(z))


def test_l0_stands_beside_the_k_of_training():
    z = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    found = sparsity(planted_code(z), k=4)
    assert found["l0"].value == 1.5 and found["l0_over_k"].value == 1.5 / 4
    case = planted_code(z)
    assert len(sparsity(case)) == 1
    case.codec.call = {"variant": "batch_topk", "args": {"k": 3}, "seed": 0}
    assert sparsity(case)["l0_over_k"].value == 0.5


def test_density_by_hand():
    z = torch.zeros(100, 4)
    z[:50, 0], z[:10, 1], z[:1, 2] = 1, 1, 1
    case = planted_code(z)
    assert density.densities(case).tolist() == [0.5, 0.1, 0.01, 0]
    found = density.density(case)
    assert found["dense_share"].value == 0.25  # exactly a tenth is not more than a tenth
    assert found["log10_density"].value == pytest.approx(-1)  # the median of the three that fire
    assert [s.metric for s in density.density(planted_code(torch.zeros(9, 2)))] == ["dense_share"]


def test_dead_by_hand_with_its_jackknife():
    z = torch.zeros(40, 4)  # four documents of ten rows
    z[:, 0], z[3, 1], z[25, 2] = 1, 1, 1
    found = dead(planted_code(z))["dead_share"]
    assert found.value == 0.25 and found.n == 4 and "40 rows" in found.unit
    left = torch.tensor([0.25, 0.0, 0.25, 0.0])  # share that would be dead without each document
    spread = float((3 / 4 * (left - left.mean()).square().sum()).sqrt())
    assert found.high == pytest.approx(0.25 + 3.1824 * spread, rel=1e-3) and found.low == 0


def test_what_fires_once_in_many_documents_is_alive():
    z = torch.zeros(3000, 3)
    z[2999, 0] = z[0, 1] = 1
    assert dead(planted_code(z))["dead_share"].value == pytest.approx(1 / 3)
    assert planted_code(z).scanned[1].counts.sum(0).tolist() == [1, 1, 0]


def test_documents_take_turns_in_64_groups():
    z = torch.zeros(660, 2)  # 66 documents: the last two join the first two groups
    z[[0, 645, 655], 0] = 1
    fired = planted_code(z).scanned[1]
    assert fired.counts.shape == (64, 2) and fired.counts[:, 0].nonzero()[:, 0].tolist() == [0, 1]
    assert fired.counts[:2, 0].tolist() == [2, 1] and fired.rows[:3].tolist() == [20, 20, 10]
    assert fired.unit == "group of 1.03 documents"


# ---- intervals


def drawn(documents: int, seed: int) -> Sums:
    """Documents of very different lengths whose own rates differ: the ratio's truth is 0.3."""
    rng = torch.Generator().manual_seed(seed)
    n = (1 + 20 * torch.rand(documents, generator=rng, dtype=torch.float64).square()).round()
    rate = 0.3 + 0.15 * torch.randn(documents, generator=rng, dtype=torch.float64)
    return Sums({"a": n * rate, "rows": n})


@pytest.mark.parametrize("documents", [6, 12, 40])
def test_intervals_cover_the_truth_as_often_as_they_say(documents):
    trials = 400
    found = [interval(drawn(documents, s), lambda s: s["a"] / s["rows"], seed=s, resamples=400) for s in range(trials)]
    cover = sum(i.low <= 0.3 <= i.high for i in found) / trials
    assert 0.90 <= cover <= 0.985, cover


def test_rows_of_one_document_do_not_count_as_evidence_of_their_own():
    one, many = drawn(20, 0), drawn(20, 0)
    many = Sums({name: 50 * v for name, v in many.by.items()})
    a, b = (interval(s, lambda s: s["a"] / s["rows"]) for s in (one, many))
    assert a == pytest.approx(b)


def test_a_single_document_has_no_interval():
    value, low, high = interval(Sums({"a": torch.ones(1).double()}), lambda s: s["a"])
    assert value == 1 and low != low and high != high


def test_intervals_repeat_with_their_seed_and_chunks_do_not_show(monkeypatch):
    from workbench.evaluate import scores as room

    ratio = lambda s: s["a"] / s["rows"]  # noqa: E731
    first, other = interval(drawn(30, 1), ratio, seed=4), interval(drawn(30, 1), ratio, seed=5)
    monkeypatch.setattr(room, "CHUNK", 30 * 7)
    assert interval(drawn(30, 1), ratio, seed=4) == pytest.approx(first, rel=1e-12) and first.low != other.low


def test_scores_refuse_what_cannot_be():
    fields = {"low": 0.0, "high": 1.0, "unit": "u", "direction": "lower", "chance": None, "n": 1, "counted": "rows"}
    fields |= {"share_excluded": 0.0, "resampled": "2 x document"}
    score = Score(metric="a", value=0.5, range=(0.0, 1.0), **fields)
    assert float(score) == 0.5 and Scores.of(score)["a"] is score
    with pytest.raises(ValueError, match="outside its range"):
        Score(metric="a", value=1.5, range=(0.0, 1.0), **fields)
    with pytest.raises(ValueError, match="outside its range"):
        Score(metric="a", value=float("nan"), range=(0.0, 1.0), **fields)
    with pytest.raises(ValueError, match="distinct names"):
        Scores.of(score, score)
    with pytest.raises(KeyError, match="there is a"):
        Scores.of(score)["b"]
    with pytest.raises(ValueError, match="one row per unit"):
        Sums({"a": torch.ones(2), "b": torch.ones(3)})


# ---- splicing


def noisy(site, target=None) -> PlainCodec:
    codec = plain_codecs.random(40, 32, site=site)
    codec.target = target or site
    return codec


def oracle(subject: wb.Subject, tokens: Tokens, changes: dict) -> tuple[Tensor, Tensor]:
    """(cross-entropy, log-probabilities) at every position of a plain run."""
    logits = subject.run(tokens, changes).logits
    following = torch.cat([tokens.ids[:, 1:], tokens.ids[:, :1]], 1)
    return cross_entropy(logits.transpose(1, 2), following, reduction="none"), logits.log_softmax(-1)


def counted(tokens: Tokens) -> Tensor:
    """By hand: not the first, not special, and followed by a real token."""
    ok = tokens.mask.clone()
    ok[:, 0] = False
    ok &= tokens.ids > 2
    ok[:, :-1] &= tokens.mask[:, 1:]
    ok[:, -1] = False
    return ok


@pytest.mark.parametrize("site", ["embed", "0.resid", "1.resid", "1.mlp_out", "2.attn_in"])
def test_spliced_numbers_equal_a_plain_run_with_the_splice_edit(site, monkeypatch):
    site, model, tokens = wb.Site.of(site), subject(), texts()
    rows, codec = rows_at(model, tokens, site), noisy(site)
    monkeypatch.setattr(splices, "LOGITS", 9 * 96 * 4)  # two batches, the last one short
    sums, left_out = splices.of(Case(codec, model, rows, tokens, torch.tensor([5, 5, 7, 7, 7, 9])))
    where = counted(tokens)
    clean, before = oracle(model, tokens, {})
    arms = {
        "spliced": edit.splice(codec), "zero": edit.zero(), "mean": edit.mean(rows.x.mean(0)),
    }  # fmt: skip
    documents = [where[:2], where[2:5], where[5:]]
    assert sums.by["predictions"].tolist() == [int(d.sum()) for d in documents] and sums.unit == "document"
    assert float(sums.by["ce_clean"].sum()) == pytest.approx(float(clean[where].sum()), rel=1e-5)
    for arm, change in arms.items():
        ce, after = oracle(model, tokens, {site: change})
        kl = (before.exp() * (before - after)).sum(-1)
        assert float(sums.by[f"ce_{arm}"].sum()) == pytest.approx(float(ce[where].sum()), rel=1e-5)
        assert float(sums.by[f"kl_{arm}"].sum()) == pytest.approx(float(kl[where].sum()), rel=1e-4)
    pairs = (tokens.mask[:, 1:] & tokens.mask[:, :-1]).sum()
    assert left_out == pytest.approx(1 - float(where.sum() / pairs))


def test_a_transcoder_reads_one_site_and_writes_another():
    model, tokens = subject(), texts()
    site, target = wb.Site.of("1.mlp_in"), wb.Site.of("1.mlp_out")
    rows = rows_at(model, tokens, site, target)
    mlp = model.model.model.layers[1].mlp
    exact = plain_codecs.identity(32, site)
    exact.target, exact.reconstruct = target, lambda x: mlp(x)
    wanted = ["reconstruction", "delta_ce", "kl"]
    table = evaluate.run({"mlp": exact, "noise": noisy(site, target)}, wanted, subject=model, rows=rows, tokens=tokens)
    found = table.set_index(["dictionary", "metric"])["value"]
    assert found["mlp", "fvu"] == pytest.approx(0, abs=1e-9) and found["mlp", "delta_ce"] == pytest.approx(0, abs=1e-5)
    assert found["noise", "delta_ce"] > 0.01 and found["mlp", "kl"] == pytest.approx(0, abs=1e-5)


def test_rows_beyond_the_norm_rule_are_neither_spliced_nor_counted():
    model, tokens = subject(), texts()
    norms = model.read(tokens, [RESID])[RESID].norm(dim=-1)
    median = float(norms[counted(tokens)].median())
    rule = Exclusion(norm=1.0, medians={"1.resid": median})  # leaves out about half
    rows = rows_at(model, tokens, RESID, exclusion=rule)
    sums, left_out = splices.of(Case(noisy(RESID), model, rows, tokens))
    where = counted(tokens) & (norms <= median)
    assert sums.unit == "token row" and int(sums.by["predictions"].sum()) == int(where.sum())
    codec = noisy(RESID)
    codec.exclusion = rule
    ce, _ = oracle(model, tokens, {RESID: edit.splice(codec)})
    assert float(sums.by["ce_spliced"].sum()) == pytest.approx(float(ce[where].sum()), rel=1e-5)
    assert left_out > 0.4


def test_padding_and_its_side_do_not_show():
    model, tokens = subject(), texts()
    rows = [row[mask].tolist() for row, mask in zip(*tokens, strict=True)]
    left = model.pad(rows, left=True)
    held = rows_at(model, tokens, RESID)
    a, b = (splices.of(Case(noisy(RESID), model, held, t)).sums for t in (tokens, left))
    assert a.by["predictions"].tolist() == b.by["predictions"].tolist()
    for name in ("ce_clean", "ce_spliced", "kl_spliced", "kl_zero"):
        assert torch.allclose(a.by[name], b.by[name], rtol=1e-4, atol=1e-4)


def test_dictionaries_on_one_site_share_the_reference_passes():
    model, tokens = subject(), texts()
    held = rows_at(model, tokens, RESID)
    calls = {"run": 0, "finish": 0}
    for name in calls:
        inner = getattr(model, name)

        def count(*args, name=name, inner=inner, **more):
            calls[name] += 1
            return inner(*args, **more)

        setattr(model, name, count)
    codecs = {str(i): plain_codecs.random(8, 32, seed=i, site=RESID) for i in range(3)}
    shared = evaluate.run(codecs, ["delta_ce", "kl"], subject=model, rows=held, tokens=tokens)
    assert calls == {"run": 1, "finish": 2 + 3}
    alone = evaluate.run({"1": codecs["1"]}, ["delta_ce", "kl"], subject=model, rows=held, tokens=tokens)
    same = shared[shared["dictionary"] == "1"].reset_index(drop=True)
    assert (same["value"] - alone["value"]).abs().max() < 1e-9


def test_an_ablation_that_does_not_hurt_leaves_nothing_to_recover():
    model, tokens = subject(), texts()
    case = Case(noisy(RESID), model, rows_at(model, tokens, RESID), tokens)
    sums, left_out = splices.of(case)
    better = dict(sums.by) | {"ce_zero": sums.by["ce_clean"] - 0.1}
    case.cache["spliced"] = splices.Spliced(Sums(better, sums.unit), left_out)
    with pytest.raises(ValueError, match=r"zero ablation at 1.resid does not raise the loss"):
        loss_recovered(case)


def test_parts_that_do_not_fit_are_refused_at_the_door():
    model, tokens = subject(), texts()
    held = rows_at(model, tokens, RESID)
    with pytest.raises(ValueError, match="no tokens to splice into"):
        splices.of(Case(noisy(RESID), model, held))
    with pytest.raises(ValueError, match="no subject"):
        Case(noisy(RESID), None, held, tokens)
    with pytest.raises(ValueError, match="each token row: got 2 for 6"):
        Case(noisy(RESID), model, held, tokens, torch.arange(2))
    homeless = noisy(RESID)
    homeless.site = None
    with pytest.raises(ValueError, match="no single site"):
        Case(homeless, model, held)
    with pytest.raises(ValueError, match="follows a spliced position"):
        splices.of(Case(noisy(RESID), model, held, Tokens(tokens.ids[:, :2], tokens.mask[:, :2])))


# ---- tables


def test_the_table_is_tidy_and_says_how_to_read_each_number():
    x, atoms = plain_codecs.planted(400, 12, 16, 2)
    table = evaluate.run(
        {"true": plain_codecs.true(atoms), "random": plain_codecs.random(12, 16)},
        ["sparsity", "reconstruction"],
        rows=MemoryRows(x, share_excluded=0.125),
        options={"sparsity": {"k": 2}},
    )
    assert list(table.columns[:6]) == ["dictionary", "eval", "metric", "value", "low", "high"]
    assert (
        list(table["metric"][:3]) == ["l0", "l0_over_k", "fvu"] and not table.duplicated(["dictionary", "metric"]).any()
    )
    assert set(table["direction"]) == {"lower", "higher", "none"} and set(table["share_excluded"]) == {0.125}
    assert table["chance"].dtype == float and table["resampled"][0] == "40 x document"
    whole = Scores.of(*reconstruction(Case(plain_codecs.true(atoms), None, MemoryRows(x)))).table()
    assert list(whole["metric"]) == ["fvu", "cosine", "norm_ratio", "gamma"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: evaluate.run({"a": plain_codecs.identity(4)}, ["nothing"], rows=h), "choose from"),
        (lambda h: evaluate.run({"a": plain_codecs.identity(4)}), "give rows="),
        (lambda h: evaluate.run({}, rows=h), "one or more distinct names"),
        (lambda h: evaluate.run([Case(plain_codecs.identity(4), None, h)] * 2), "distinct names"),
        (lambda h: evaluate.run([Case(plain_codecs.identity(4), None, h)], rows=h), "cases hold their own"),
        (lambda h: evaluate.run({"a": plain_codecs.identity(4)}, ["dead"], rows=h, options={"kl": {}}), "not among"),
        (
            lambda h: evaluate.run({"a": plain_codecs.identity(4)}, ["kl"], rows=h, errors="raise"),
            "no tokens to splice into",
        ),
    ],
)
def test_a_wrong_call_is_told_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call(MemoryRows(torch.randn(30, 4)))


def test_held_out_texts_take_turns_over_documents():
    ids = torch.arange(40).view(20, 2)
    rows = MemoryRows(torch.zeros(20, 2), texts=torch.tensor([0] * 14 + [1] * 4 + [2] * 2))
    rows.tokens = Tokens(ids, torch.ones(20, 2, dtype=torch.bool))
    tokens, documents = evaluate.held_out(rows, 6, seed=1)
    assert documents.bincount().tolist() == [2, 2, 2]
    assert torch.equal(rows.texts[tokens.ids[:, 0] // 2], documents)  # each row still belongs to its document
    assert len(evaluate.held_out(rows, 99)[1]) == 20
    assert torch.equal(evaluate.held_out(rows, 6, seed=1)[0].ids, tokens.ids)
    assert not torch.equal(evaluate.held_out(rows, 6, seed=2)[0].ids, tokens.ids)
    with pytest.raises(ValueError, match="choose one or more"):
        evaluate.held_out(rows, 0)


def test_the_figure_shows_every_value_with_its_interval_and_the_chance_level():
    x, atoms = plain_codecs.planted(400, 12, 16, 2)
    codecs = {"true": plain_codecs.true(atoms), "random": plain_codecs.random(12, 16)}
    table = evaluate.run(codecs, ["reconstruction", "sparsity"], rows=MemoryRows(x))
    figure = evaluate.compare(table, ["fvu", "l0"]).figure
    points = [t for t in figure.data if t.mode == "markers"]
    assert [list(t.y) for t in points] == [["true", "random"]] * 2
    fvu = table[table["metric"] == "fvu"]
    assert list(points[0].x) == list(fvu["value"])
    assert points[0].error_x.array[1] == pytest.approx(float(fvu["high"].iloc[1] - fvu["value"].iloc[1]))
    assert list(points[0].marker.color) == list(points[1].marker.color) and len(set(points[0].marker.color)) == 2
    (line,) = figure.layout.shapes  # fvu has a chance level, l0 has none
    assert line.x0 == line.x1 == 1.0 and [a.text for a in figure.layout.annotations][2:] == ["mean only"]
    assert "lower is better" in figure.layout.annotations[0].text
    with pytest.raises(ValueError, match="it holds fvu"):
        evaluate.compare(table, ["nothing"])


def test_a_real_store_and_a_trained_dictionary_go_through(tmp_path):
    model = subject()
    corpus = [" ".join(f"w{(i * 7 + j * 3 + j * j) % 90}" for j in range(40)) for i in range(12)]
    store = wb.collect(
        model,
        corpus,
        ["1.mlp_in", "1.mlp_out"],
        folder=tmp_path,
        rows=None,
        length=16,
        min_length=8,
        batch=4,
        quiet=True,
    )
    train, test = store.split(by="text", test=0.3)
    recipe = wb.recipe("skip_transcoder", d=32, latents=64, k=4)
    stream = train.stream(64, site="1.mlp_in", target="1.mlp_out", steps=20)
    made = wb.train(
        recipe, stream, site="1.mlp_in", target="1.mlp_out", exclusion=store.exclusion,
        subject_fingerprint=model.fingerprint, progress=False,
    )  # fmt: skip
    tokens, documents = evaluate.held_out(test)
    table = evaluate.run(
        {"skip": made}, ["reconstruction", "sparsity", "density", "dead", "delta_ce", "kl"],
        subject=model, rows=test, tokens=tokens, texts=documents,
    ).set_index("metric")  # fmt: skip
    batch = next(test.batches(10_000, site="1.mlp_in", target="1.mlp_out"))
    error = (made.reconstruct(batch.x) - batch.y).square().sum() / (batch.y - batch.y.mean(0)).square().sum()
    assert table.loc["fvu", "value"] == pytest.approx(float(error.detach()), rel=1e-4)
    assert table.loc["fvu", "n"] == test.rows and table.loc["fvu", "share_excluded"] == test.share_excluded
    assert table.loc["l0_over_k", "unit"].endswith("k = 4") and table.loc["kl", "value"] > 0
    assert table.loc["delta_ce", "resampled"] == f"{len(documents.unique())} x document"


def test_nats_are_nats():
    """A model that says 1/3 and 2/3: cross-entropies and divergence written down."""
    before, after = torch.tensor([[0.0, log(2)]]), torch.tensor([[log(2), 0.0]])
    assert splices._nll(before, torch.tensor([1])).item() == pytest.approx(-log(2 / 3))
    assert splices._kl(before, after).item() == pytest.approx(log(2) / 3)
    assert exp(splices._nll(after, torch.tensor([1])).item()) == pytest.approx(3)

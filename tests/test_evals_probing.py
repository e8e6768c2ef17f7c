"""sparse_probing, probe_recovery and classification: values by hand, nulls, parity, bad inputs."""

from dataclasses import replace
from math import log
from types import SimpleNamespace
from typing import Any

import numpy as np
import plain_codecs
import pytest
import torch
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics import f1_score
from test_probes import saebench_sparse_accuracy

from workbench import testbeds
from workbench.batch import Tokens
from workbench.code import Code
from workbench.evaluate import Case, Examples
from workbench.evaluate.evals.classification import Texts, _counts, _tfidf, classification, tops
from workbench.evaluate.evals.probe_recovery import probe_recovery
from workbench.evaluate.evals.sparse_probing import sparse_probing
from workbench.evaluate.examples import OURS, TEST, TRAIN, VALIDATION
from workbench.evaluate.tasks import texts as makers


def case(codec, examples, texts=None, **more) -> Case:
    given = {"labelled": examples} if texts is None else {"labelled": examples, "labelled_texts": texts}
    return Case(codec, None, plain_codecs.MemoryRows(examples.x), resamples=200, given=given, **more)


def values(scores):
    return {s.metric: s.value for s in scores}


def identity(d, **more):
    return replace(plain_codecs.identity(d), **more)


@pytest.fixture(scope="module")
def planted():
    texts, world = makers.planted(160, noise=0.0)
    return SimpleNamespace(texts=texts, examples=texts.examples, true=plain_codecs.true(world.truth), world=world)


# sparse_probing


def test_sparse_probing_by_hand():
    """Two coordinates, each of which says one class; four test examples, of which the probe gets three right."""
    y = torch.tensor([0, 1] * 6 + [0, 1] * 2 + [0, 0, 0, 1])
    fold = torch.tensor([TRAIN] * 12 + [VALIDATION] * 4 + [TEST] * 4)
    x = torch.stack([y.float(), torch.zeros(20)], 1)
    x[16, 0] = 1.0  # a test example of class 0 that looks like class 1
    examples = Examples.of(x, {"y": y}, {"y": ("a", "b")}, fold=fold)
    found = sparse_probing(case(plain_codecs.identity(2), examples), ks=(1,))
    assert values(found) == pytest.approx({"latents_1": (1 + 2 / 3) / 2, "coordinates_1": 5 / 6, "dense": 5 / 6})
    assert found["latents_1"].n == 4 and found["latents_1"].chance == 0.5 and found["latents_1"].note == OURS
    plain = sparse_probing(case(plain_codecs.identity(2), examples), ks=(1,), balanced=False)
    assert plain["latents_1"].value == pytest.approx(3 / 4) and plain["latents_1"].chance is None


def test_sparse_probing_is_saebenchs_number_where_the_options_are_its_own(planted):
    examples = planted.examples
    found = sparse_probing(case(planted.true, examples), strengths=(1.0,), balanced=False, standard=False)
    z = planted.true.encode(examples.x).to_dense()
    sums = torch.zeros(examples.count, z.shape[1]).index_add_(0, examples.example, z)
    pooled = (sums / torch.bincount(examples.example)[:, None]).numpy()
    train, test = (np.asarray(examples.fold == k) for k in (TRAIN, TEST))
    for k in (1, 2, 5):
        theirs = [
            saebench_sparse_accuracy(pooled, (examples.labels["class"] == c).numpy(), train, test, k) for c in range(4)
        ]
        assert found[f"latents_{k}"].value == pytest.approx(np.mean(theirs), abs=1e-9)


def test_one_true_latent_beats_one_coordinate_and_more_latents_more(planted):
    found = values(sparse_probing(case(planted.true, planted.examples)))
    assert found["latents_1"] > found["coordinates_1"] + 0.1
    same = values(sparse_probing(case(plain_codecs.identity(32), planted.examples)))
    assert all(same[f"latents_{k}"] == same[f"coordinates_{k}"] == found[f"coordinates_{k}"] for k in (1, 2, 5))


@pytest.mark.parametrize("evaluation", [sparse_probing, probe_recovery, classification])
def test_labels_without_meaning_stand_at_chance(planted, evaluation):
    found = []
    for seed in range(8):
        label = torch.randint(2, (160,), generator=torch.Generator().manual_seed(seed))
        examples = replace(planted.examples.reseeded(seed), labels={"class": label}, classes={"class": ("a", "b")})
        texts = Texts(examples, planted.texts.tokens)
        found.append(next(iter(evaluation(case(planted.true, examples, texts)))))
    chance, mean = found[0].chance, np.mean([s.value for s in found])
    if evaluation is probe_recovery:  # a wrong choice costs: never better than knowing nothing, but for luck
        assert chance == pytest.approx(log(2)) and log(2) - 0.02 < mean < 1
    else:
        assert chance == 0.5 and abs(mean - chance) < 3 * 0.5 / (8 * 32) ** 0.5  # 8 draws, 32 test examples each


@pytest.mark.parametrize("evaluation", [sparse_probing, probe_recovery, classification])
def test_nothing_about_the_test_fold_is_used_but_to_report(planted, evaluation, monkeypatch):
    """With test labels turned round, every fitted probe stays: a binary accuracy becomes its complement."""
    label = (planted.examples.labels["class"] < 2).long()
    test = planted.examples.fold == TEST
    turned = torch.where(test, 1 - label, label)
    fitted: list[torch.Tensor] = []
    from workbench.evaluate import probes

    for name in ("several", "singles"):
        inner = getattr(probes, name)

        def kept(*args, _inner=inner, **more):
            out = _inner(*args, **more)
            fitted.append(torch.stack([p.weight for p in out]) if isinstance(out, list) else out.weight)
            return out

        monkeypatch.setattr(probes, name, kept)
    runs = []
    for labels in (label, turned):
        examples = replace(planted.examples, labels={"class": labels}, classes={"class": ("a", "b")})
        texts = Texts(examples, planted.texts.tokens)
        fitted.clear()
        runs.append((values(evaluation(case(planted.true, examples, texts))), list(fitted)))
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True)) and len(runs[0][1]) >= 3
    assert runs[0][0] != runs[1][0]
    if evaluation is sparse_probing:
        assert {k: 1 - v for k, v in runs[0][0].items()} == pytest.approx(runs[1][0])


# probe_recovery


def test_probe_recovery_by_hand():
    """One latent is the class itself, with a long way to go; the loss follows from its weight and bias."""
    y = torch.tensor([0, 1] * 10)
    fold = torch.tensor([TRAIN] * 12 + [VALIDATION] * 4 + [TEST] * 4)
    x = torch.stack([y.float(), torch.arange(20.0) % 3], 1)
    examples = Examples.of(x, {"y": y}, {"y": ("a", "b")}, fold=fold)
    found = probe_recovery(case(plain_codecs.identity(2), examples))
    # spread 1/2 and C = 1: of the values -1 and 1 about their middle, w minimises log(1 + exp(-w)) + w^2 / 24
    w = np.linspace(0, 5, 500_001)
    loss = np.log1p(np.exp(-w)) + w**2 / 24
    assert found["probe_loss"].value == pytest.approx(np.log1p(np.exp(-w[loss.argmin()])), abs=1e-4)
    assert found["coordinate_loss"].value == found["probe_loss"].value


def test_the_best_latent_is_not_chosen_on_the_test_fold():
    """Latent 0 tells the class in training and validation, latent 1 in the test fold only."""
    y = torch.arange(100) % 2
    fold = torch.arange(100) // 20 // 2  # 40 train, 40 validation, 20 test
    noise = torch.rand(100, generator=torch.Generator().manual_seed(0))
    x = torch.stack([torch.where(fold == TEST, noise, y + noise / 4), torch.where(fold == TEST, y + noise / 4, noise)])
    examples = Examples.of(x.T, {"y": y}, {"y": ("a", "b")}, fold=fold)
    assert probe_recovery(case(plain_codecs.identity(2), examples))["probe_loss"].value > log(2)


def test_the_true_latents_loss_is_below_the_coordinates(planted):
    found = values(probe_recovery(case(planted.true, planted.examples)))
    assert found["probe_loss"] < found["coordinate_loss"] - 0.1


# classification


def test_the_largest_latents_of_each_row_in_every_layout():
    dense = torch.tensor([[0.0, -3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0], [4.0, 1.0, 2.0, 3.0]])
    want = {(0, 1), (0, 2), (1, 3), (3, 0), (3, 3)}
    fixed = Code.fixed(dense.abs().topk(3).indices, dense.gather(1, dense.abs().topk(3).indices), 4)
    for code in (Code.dense(dense), fixed, Code.dense(dense).to_csr()):
        row, latent = tops(code, 2)
        assert set(zip(row.tolist(), latent.tolist(), strict=True)) == want and len(row) == 5
        assert len(tops(code, None)[0]) == len(tops(code, 9)[0]) == 8 - (code.layout == "fixed")
    examples = Examples.of(
        dense.repeat(3, 1), {"y": torch.tensor([0, 1] * 3)}, {"y": "ab"}, example=torch.arange(12) // 2,
        fold=torch.arange(6) // 2,
    )  # fmt: skip
    counts = _counts(Code.dense(dense.repeat(3, 1)), examples, 2)
    assert counts[:2].tolist() == [[0, 1, 1, 1], [1, 0, 0, 1]] and torch.equal(counts[:2].repeat(3, 1), counts)


def test_tfidf_is_scikit_learns_on_words_of_two_training_texts():
    rng = torch.Generator().manual_seed(0)
    ids, mask = torch.randint(80, (30, 12), generator=rng), torch.rand(30, 12, generator=rng) < 0.8
    mask[:, 0] = True
    train = torch.arange(30) < 20
    (found,) = _tfidf([Tokens(ids, mask)], train)
    counts = torch.stack([torch.bincount(i[m], minlength=80) for i, m in zip(ids, mask, strict=True)])
    known = (counts[train] > 0).sum(0) >= 2
    assert 0 < int(known.sum()) < int((counts > 0).any(0).sum())
    theirs: Any = TfidfTransformer().fit(counts[train][:, known].numpy())
    want = theirs.transform(counts[:, known].numpy()).toarray()
    np.testing.assert_allclose(found.numpy(), want, atol=1e-6)
    changed = ids.clone()
    changed[~train] = 7
    assert torch.equal(_tfidf([Tokens(changed, mask)], train)[0][train], found[train])


def test_macro_f1_is_scikit_learns_and_words_alone_can_win():
    """Rows are noise, tokens say the class: the bag of words is right everywhere, its F1 1."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    ids = torch.stack([y, torch.randint(3, 9, (90,), generator=rng)], 1)
    examples = Examples.of(torch.randn(90, 6, generator=rng), {"y": y}, {"y": "abc"})
    texts = Texts(examples, Tokens(ids, torch.ones_like(ids).bool()))
    found = values(classification(case(plain_codecs.identity(6), examples, texts)))
    assert found["bag_f1"] == 1.0 and found["dense_f1"] < 0.6
    assert found["dense_f1"] == found["pooled_f1"]
    from workbench.evaluate import probes

    fitted = probes.several(examples.x, torch.stack([y == c for c in range(3)]), examples.fold)
    said = torch.stack([p(examples.x) for p in fitted]).argmax(0)
    test = examples.fold == TEST
    assert found["dense_f1"] == pytest.approx(f1_score(y[test], said[test], average="macro"))


def test_binarised_counts_ignore_sizes_and_pooled_codes_do_not():
    """The class is the size of the only latent that fires, not whether it does."""
    y = torch.arange(60) % 2
    x = torch.stack([1.0 + y, torch.zeros(60)], 1)
    examples = Examples.of(x, {"y": y}, {"y": "ab"})
    texts = Texts(examples, Tokens(torch.ones(60, 1).long(), torch.ones(60, 1).bool()))
    found = classification(case(plain_codecs.identity(2), examples, texts), top=1)
    assert found["pooled_f1"].value == 1.0 and found["counts_f1"].value < 0.5
    assert found["counts_f1"].chance == 0.5


def test_binary_sums_forget_how_often_and_counts_do_not():
    """A latent fires in one row of class a and in three of class b."""
    y = torch.arange(60) % 2
    x = torch.zeros(60, 3, 2)
    x[:, 0, 0] = 1.0
    x[y == 1, 1:, 0] = 1.0
    examples = Examples.of(x.flatten(0, 1), {"y": y}, {"y": "ab"}, example=torch.arange(180) // 3)
    texts = Texts(examples, Tokens(torch.ones(60, 1).long(), torch.ones(60, 1).bool()))
    found = values(classification(case(plain_codecs.identity(2), examples, texts)))
    assert found["counts_f1"] == 1.0 and found["binary_f1"] < 0.5


def test_probes_transfer_to_texts_of_another_domain(planted):
    """The same classes with the second and third swapped: the probes go on saying what they learned."""
    texts = planted.texts
    swapped = torch.tensor([0, 2, 1, 3])[texts.examples.labels["class"]]
    there = Texts(replace(texts.examples, labels={"class": swapped}), texts.tokens)
    plain = classification(case(planted.true, texts.examples, Texts(texts.examples, texts.tokens, texts)))
    moved = classification(case(planted.true, texts.examples, Texts(texts.examples, texts.tokens, there)))
    assert plain["transfer_counts_f1"].n == texts.examples.count == 160  # all of them, none was trained on
    assert plain["counts_f1"] == moved["counts_f1"]
    assert plain["transfer_counts_f1"].value > moved["transfer_counts_f1"].value + 0.3
    assert plain["transfer_counts_f1"].value > plain["counts_f1"].value - 0.1


# bad inputs


def _few():
    y = torch.arange(30) % 3
    return Examples.of(torch.randn(30, 4), {"y": y}, {"y": "abc"}, fold=torch.arange(30) // 6 % 3)


def _lacking():
    good = _few()
    y = good.labels["y"]
    return replace(good, labels={"y": torch.where((good.fold == TEST) & (y == 2), 0, y)})


NAN = plain_codecs.PlainCodec(torch.eye(4), lambda x: x / 0 * 0, torch.zeros(4))
FEW = plain_codecs.PlainCodec(torch.eye(4)[:2], lambda x: x[:, :2], torch.zeros(4))
EYE = plain_codecs.identity(4)
WORDS = Tokens(torch.ones(30, 2).long(), torch.ones(30, 2).bool())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Examples.of(torch.randn(9, 2), {"y": torch.zeros(9).long()}, {"y": "ab"}), "of one class only"),
        (lambda: sparse_probing(case(EYE, _lacking())), "the test fold has 0 of 6 examples of 'y: c': both classes"),
        (lambda: probe_recovery(case(EYE, _lacking())), "the test fold has 0 of 6 examples of 'y: c': both classes"),
        (
            lambda: classification(case(EYE, _lacking(), Texts(_lacking(), WORDS))),
            "the test fold has 0 of 6 examples of 'y: c': both classes",
        ),
        (lambda: sparse_probing(case(FEW, _few())), r"ks must be distinct numbers of 1 to 2 .*, got \(1, 2, 5\)"),
        (lambda: sparse_probing(case(EYE, _few()), ks=()), r"ks must be distinct numbers of 1 to 4 .*, got \(\)"),
        (lambda: sparse_probing(case(EYE, _few()), ks=(0, 1)), "ks must be distinct numbers"),
        (lambda: sparse_probing(case(EYE, _few()), ks=(2, 2)), "ks must be distinct numbers"),
        (lambda: sparse_probing(case(EYE, _few()), ks=(1,), strengths=()), "strengths must be one or more numbers"),
        (lambda: sparse_probing(case(NAN, _few()), ks=(1,)), "gives 120 codes that are NaN or infinite"),
        (lambda: probe_recovery(case(NAN, _few())), "gives 120 codes that are NaN or infinite"),
        (lambda: classification(case(NAN, _few(), Texts(_few(), WORDS))), "gives 120 codes that are NaN or infinite"),
        (lambda: probe_recovery(case(EYE, replace(_few(), labels={}))), "the examples have no label"),
        (lambda: sparse_probing(replace(case(EYE, _few()), given={})), "was given no 'labelled'"),
        (lambda: classification(case(EYE, _few())), "was given no 'labelled_texts'"),
        (lambda: classification(case(EYE, _few(), Texts(_few(), WORDS)), top=0), "top must be 1 or more latents"),
        (lambda: Texts(_few(), WORDS.rows(slice(9))), r"one row of tokens per example \(30\), got 9"),
        (lambda: Texts(_few(), WORDS._replace(mask=WORDS.ids < 1)), "30 of 30 texts have no token"),
        (lambda: Texts(replace(_few(), labels={}), WORDS), "texts to classify need a label"),
        (
            lambda: Texts(_few(), WORDS, Texts(replace(_few(), classes={"y": "abd"}), WORDS)),
            "texts to transfer to must have the classes",
        ),
        (lambda: makers.planted(30, 25), "classes must be 2 to the 24 directions there are, got 25"),
    ],
)
def test_bad_inputs_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_labelled_must_be_examples():
    with pytest.raises(TypeError, match="'labelled' must be Examples, got dict"):
        sparse_probing(replace(case(EYE, _few()), given={"labelled": {}}))


# tasks


@pytest.fixture(scope="module")
def subject():
    return testbeds.subject("tiny_text_gelu")


def test_prompt_sets_become_texts_whose_groups_are_never_split(subject):
    made = makers.prompts(subject, "0.resid", "decades", 300, least=10, words=12)
    e = made.examples
    assert e.x.shape[1] == subject.width("0.resid") and e.unit == "document" and len(made.tokens.ids) == e.count
    assert len(e.group.unique()) < e.count  # some speeches give two passages
    for g in e.group.unique():
        assert len(e.fold[e.group == g].unique()) == 1
    for k in (TRAIN, VALIDATION, TEST):  # each class is in each fold
        assert set(e.labels["decade"][e.fold == k].tolist()) == set(range(len(e.classes["decade"])))
    kept = subject.exclusion.by_token(made.tokens, subject.special_ids)
    assert torch.equal(e.sizes, kept.sum(1)) and bool((kept.sum(1) < made.tokens.mask.sum(1)).all())
    again = makers.prompts(subject, "0.resid", "decades", 300, least=10, words=12)
    assert torch.equal(again.examples.x, e.x) and torch.equal(again.examples.fold, e.fold)


def test_people_are_grouped_by_name_and_have_two_labels(subject):
    e = makers.prompts(subject, "0.resid", "professions", 120, least=5).examples
    assert set(e.labels) == {"gender", "stereotype"} and e.unit == "name"
    assert len(e.group.unique()) < e.count
    assert {g: set(e.labels["gender"][e.group == g].tolist()) for g in e.group.tolist()}  # one gender a name
    assert all(len(e.labels["gender"][e.group == g].unique()) == 1 for g in e.group.unique())


def test_passages_by_source_and_fiction_that_is_to_be_transferred(subject):
    made = makers.sources(subject, "0.resid", 80, words=8)
    assert list(made.examples.classes["source"]) == ["austen", "glosses", "moby_dick", "sotu"]
    assert torch.bincount(made.examples.labels["source"]).tolist() == [20] * 4
    moved = makers.fiction(subject, "0.resid", 40, words=8)
    assert moved.transfer is not None and moved.examples.classes == moved.transfer.examples.classes
    given = {"labelled": moved.examples, "labelled_texts": moved}
    codec = plain_codecs.identity(subject.width("0.resid"))
    found = classification(Case(codec, None, plain_codecs.MemoryRows(moved.examples.x), resamples=50, given=given))
    assert len(found) == 10 and found["transfer_bag_f1"].n == 40


def test_makers_name_what_is_wrong(subject):
    for wrong, message in (
        (
            lambda: makers.prompts(subject, "0.resid", "decades", 60, labels=["mood"]),
            "labels must be among decade, year",
        ),
        (
            lambda: makers.prompts(subject, "0.resid", "decades", 30, least=20),
            "fewer than two classes of decade have 20 documents",
        ),
        (lambda: makers.prompts(subject, "0.resid", "capitals", 30), "labels must be among"),
        (lambda: makers.sources(subject, "0.resid", of=["austen"]), "sources must be two or more of austen"),
        (lambda: makers.sources(subject, "0.resid", of=["austen", "joyce"]), "sources must be two or more of austen"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_a_text_of_which_nothing_is_kept_is_named(subject):
    tokens = Tokens(torch.tensor([[5, 6, 7], [5, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool())
    with pytest.raises(ValueError, match="1 of 2 texts have no position left"):
        Examples.read(subject, tokens, "0.resid", {"y": torch.tensor([0, 1])}, {"y": "ab"})

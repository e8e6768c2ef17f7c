"""The one probe path: what it finds, what it may look at, and where others' ways give other numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from workbench.evaluate import Examples, probes
from workbench.evaluate.examples import TEST, TRAIN, VALIDATION, folds


def noisy(n: int = 240, d: int = 12, seed: int = 0, by: float = 1.5):
    """(x, y, fold): the class moves the first two features, whose units differ by far."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.rand(n, generator=rng) < 0.4
    x = torch.randn(n, d, generator=rng)
    x[:, 0] += by * y
    x[:, 1] -= by * y
    return x * torch.logspace(-3, 3, d), y, folds(torch.arange(n), seed=seed)


def test_a_probe_is_scikit_learns_at_its_minimum():
    x, y, fold = noisy()
    train = (fold == TRAIN).numpy()
    z = x.double().numpy()
    center, spread = z[train].mean(0), z[train].std(0)
    for c, balanced in ((1e-2, True), (1.0, False), (1.0, True)):
        model = LogisticRegression(C=c, tol=1e-10, max_iter=5000, class_weight="balanced" if balanced else None)
        model.fit(((z - center) / spread)[train], y.numpy()[train])
        probe = probes.fit(x, y, fold, strengths=[c], balanced=balanced)
        np.testing.assert_allclose(probe.weight.numpy() * spread, model.coef_[0], atol=1e-4)
        np.testing.assert_allclose(probe(x).numpy(), model.decision_function((z - center) / spread), atol=5e-4)


def test_wide_features_give_the_same_as_narrow_ones():
    """More features than examples: the rows' span is all that a penalty needs."""
    rng = torch.Generator().manual_seed(1)
    x, (_, y, fold) = torch.randn(90, 300, generator=rng), noisy(90)
    x[:, :5] += y[:, None].float()
    train = (fold == TRAIN).numpy()
    model = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000, class_weight="balanced")
    model.fit(x.double().numpy()[train], y.numpy()[train])
    probe = probes.fit(x, y, fold, strengths=[0.1], standard=False)
    np.testing.assert_allclose(probe.weight.numpy(), model.coef_[0], atol=1e-5)


def test_several_labels_at_once_are_each_alone():
    x, y, fold = noisy()
    ys = torch.stack([y, x[:, 3] > 0, (x[:, 4] > 0) ^ y])
    for probe, one in zip(probes.several(x, ys, fold), ys, strict=True):
        alone = probes.fit(x, one, fold)
        assert probe.strength == alone.strength
        torch.testing.assert_close(probe(x), alone(x), atol=1e-4, rtol=1e-4)


def test_planted_classes_are_found_and_their_features_come_first():
    x, y, fold = noisy(by=8.0)
    assert float(probes.right(probes.fit(x, y, fold), x, y)[fold == TEST].mean()) == 1.0
    z = x / torch.logspace(-3, 3, x.shape[1])
    assert set(probes.ranked(z, y, fold)[:2].tolist()) == {0, 1}
    sparse = probes.sparse(z, y, fold, 1)
    assert int((sparse.weight != 0).sum()) == 1 and probes.auc(sparse(z), y, fold) > 0.99
    probes_of_one = probes.singles(z, y[None], fold)
    assert set(probes_of_one.loss[0].topk(2, largest=False).indices.tolist()) == {0, 1}


def test_noise_stands_at_chance():
    found = []
    for seed in range(20):
        x, _, fold = noisy(seed=seed)
        y = torch.rand(len(x), generator=torch.Generator().manual_seed(1000 + seed)) < 0.4
        right = probes.right(probes.fit(x, y, fold), x, y)
        test = fold == TEST
        found.append(float(right[test & y].mean() + right[test & ~y].mean()) / 2)
    assert abs(np.mean(found) - 0.5) < 3 * np.std(found) / len(found) ** 0.5 + 1e-9
    assert np.std(found) > 0


def test_a_probe_never_sees_the_test_fold():
    """Test rows and test labels may be anything, NaN too: no weight, order or choice moves."""
    x, y, fold = noisy()
    test = fold == TEST
    other, wrong = x.clone(), torch.where(test, ~y, y)
    other[test] = 1e6 * torch.randn(int(test.sum()), x.shape[1])
    lost = x.clone()
    lost[test] = torch.nan
    known = probes.fit(x, y, fold), probes.ranked(x, y, fold), probes.singles(x, y[None], fold)
    few = probes.sparse(x, y, fold, 2)
    for h in (other, lost):
        again = probes.fit(h, wrong, fold), probes.ranked(h, wrong, fold), probes.singles(h, wrong[None], fold)
        assert torch.equal(known[0].weight, again[0].weight) and known[0][1:] == again[0][1:]
        assert torch.equal(known[1], again[1])
        assert all(torch.equal(a, b) for a, b in zip(known[2], again[2], strict=True))
        assert torch.equal(few.weight, probes.sparse(h, wrong, fold, 2).weight)
    assert not torch.equal(probes.right(known[0], x, y), probes.right(known[0], x, wrong))


def test_the_penalty_is_chosen_on_validation_and_not_trained_on_it():
    x, y, fold = noisy(by=0.7, d=40)
    held = fold == VALIDATION
    flipped = torch.where(held, ~y, y)  # what was learned is wrong there: the strongest penalty loses least
    assert probes.fit(x, flipped, fold).strength == min(probes.STRENGTHS)
    for c in probes.STRENGTHS:
        one, two = (probes.fit(x, of, fold, strengths=[c]) for of in (y, flipped))
        assert torch.equal(one.weight, two.weight)
    losses = {}
    for c in probes.STRENGTHS:
        logits = probes.fit(x, y, fold, strengths=[c])(x)
        each = torch.nn.functional.softplus(torch.where(y, -logits, logits))
        losses[c] = float(each[held & y].mean() + each[held & ~y].mean())
    assert probes.fit(x, y, fold).strength == min(losses, key=lambda c: losses[c])


def test_order_is_of_the_train_fold_alone():
    x = torch.zeros(10, 2)
    y = torch.tensor([1, 1, 0, 0, 1, 0, 1, 0, 1, 0]).bool()
    fold = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
    x[y & (fold == TRAIN), 1] = -1.0
    x[y & (fold != TRAIN), 0] = 100.0
    assert probes.ranked(x, y, fold).tolist() == [1, 0]
    assert probes.differences(x, y[None], fold).tolist() == [[0.0, -1.0]]


def test_every_latents_own_probe_is_scikit_learns():
    """Features that are often zero, never zero, heavy-tailed and always the same."""
    rng = torch.Generator().manual_seed(3)
    y = torch.rand(200, generator=rng) < 0.3
    x = torch.rand(200, 5, generator=rng) * (torch.rand(200, 5, generator=rng) < 0.2 + 0.3 * y[:, None])
    x[:, 1] += 2.0
    x[:, 2] = torch.exp(3 * torch.randn(200, generator=rng)) * (1 + y)
    x[:, 3] = 0.7
    x[:, 4] = -5 * x[:, 4]
    fold = folds(torch.arange(200))
    found = probes.singles(x, y[None], fold)
    train, seen = (fold == TRAIN).numpy(), fold != TEST
    for i in range(5):
        z, truth = x[:, i : i + 1].double().numpy(), y.numpy()
        spread = z[train].std() or 1.0
        model = LogisticRegression(C=1.0, tol=1e-12, max_iter=5000, class_weight="balanced")
        model.fit(z[train] / spread, truth[train])
        want = torch.from_numpy(model.decision_function(z / spread))
        logits = x[:, i].double() * found.weight[0, i] + found.bias[0, i]
        if i == 3:
            assert found.weight[0, i] == 0
        torch.testing.assert_close(logits, want, atol=2e-3, rtol=2e-3)
        loss = torch.nn.functional.softplus(torch.where(y, -want, want))
        halves = [(fold == k) & seen for k in (TRAIN, VALIDATION)]
        means = [float(loss[h & y].mean() + loss[h & ~y].mean()) / 2 for h in halves]
        sizes = [int(h.sum()) for h in halves]
        assert float(found.loss[0, i]) == pytest.approx(np.average(means, weights=sizes), abs=1e-4)


def test_a_feature_that_tells_a_class_apart_alone_has_finite_weight():
    y = torch.arange(60) % 3 == 0
    fold = folds(torch.arange(60))
    found = probes.singles(torch.stack([y.float(), 1e6 * y.float()], 1), y[None], fold)
    assert bool(found.weight.isfinite().all()) and float(found.loss.max()) < 0.3
    assert float(found.weight[0, 0] / found.weight[0, 1]) == pytest.approx(1e6, rel=1e-4)


def test_reports_by_hand():
    y, fold = torch.tensor([True, True, False, False]), torch.full((4,), TEST)
    logits = torch.tensor([2.0, 0.5, 0.5, -1.0])  # pairs: 1, 1, a tie, 1
    assert probes.auc(logits, y, fold) == pytest.approx(3.5 / 4) == roc_auc_score(y, logits)
    said = torch.tensor([[True, False, True, False], [False] * 4])
    assert probes.f1(said, y.expand(2, 4)).tolist() == [0.5, 0.0]
    ys = torch.tensor([[True, False, False, False], [True, True, False, False]])
    values = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
    sums = {k: v.sum(0, keepdim=True) for k, v in probes.by_class(values, ys).items()}
    assert float(probes.class_mean(sums)) == pytest.approx(((1 + 2 / 3) / 2 + (0.5 + 1) / 2) / 2)


def test_a_class_that_a_resample_missed_is_left_out_of_it():
    s = {"up": torch.tensor([[0.0]]), "down": torch.tensor([[3.0]])}
    s |= {"positive": torch.tensor([[0.0]]), "negative": torch.tensor([[4.0]])}
    assert float(probes.class_mean(s)) == 0.75


def test_tasks_are_each_class_against_the_rest_and_of_two_one():
    labels = {"sex": torch.arange(30) % 2, "job": torch.arange(30) % 3}
    classes = {"sex": ("f", "m"), "job": ("a", "b", "c")}
    examples = Examples.of(torch.randn(30, 2), labels, classes, fold=torch.arange(30) // 6 % 3)
    names, ys = probes.tasks(examples)
    assert names == ["sex: m", "job: a", "job: b", "job: c"]
    assert torch.equal(ys[0], labels["sex"] == 1) and torch.equal(ys[3], labels["job"] == 2)
    with pytest.raises(ValueError, match="the test fold has 0 of 6 examples of 'job: c'"):
        moved = torch.where(examples.fold == TEST, labels["job"].clamp_max(1), labels["job"])
        probes.tasks(replace(examples, labels={"job": moved}))


# SAEBench's formulas, written anew from its description (evals/sparse_probing and probe_training.py).


def saebench_sparse_accuracy(pooled, y, train, test, k):
    """Top k by |difference of class means| on the train set, scikit-learn's logistic regression, test accuracy."""
    difference = pooled[train & y].mean(0) - pooled[train & ~y].mean(0)
    chosen = np.argsort(-np.abs(difference))[:k]
    model = LogisticRegression(C=1.0, max_iter=1000)
    model.fit(pooled[train][:, chosen], y[train])
    return float((model.predict(pooled[test][:, chosen]) == y[test]).mean())


def saebench_pooled(rows, example, count):
    """Mean over the rows whose sum is not zero: what they take for a mask."""
    kept = rows.sum(-1) != 0
    sums = torch.zeros(count, rows.shape[1]).index_add_(0, example[kept], rows[kept])
    return sums / torch.bincount(example[kept], minlength=count).clamp_min(1)[:, None]


def test_sparse_probing_gives_saebenchs_accuracy_when_the_options_are_its_own():
    for seed in range(4):
        x, y, fold = noisy(300, 30, seed, by=1.0)
        x = (x / torch.logspace(-3, 3, 30)).relu()
        train, test = (fold == TRAIN).numpy(), (fold == TEST).numpy()
        for k in (1, 2, 5):
            theirs = saebench_sparse_accuracy(x.numpy(), y.numpy(), train, test, k)
            probe = probes.sparse(x, y, fold, k, strengths=[1.0], balanced=False, standard=False)
            ours = float(probes.right(probe, x, y)[fold == TEST].mean())
            assert ours == pytest.approx(theirs, abs=1e-9), (seed, k)


def saebench_train_probe(x, y, train, test, *, epochs=20, batch=16, lr=1e-3, seed=0):
    """Their dense probe (`train_probe_gpu`): AdamW, and of all epochs the best *test* accuracy; beside it the last's.

    They take 250 steps an epoch; a larger `lr` makes up for the fewer steps of a small set.
    """
    torch.manual_seed(seed)
    probe = torch.nn.Linear(x.shape[1], 1)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr)
    rows, truth = x[train], y[train].float()
    accuracies = []
    for _ in range(epochs):
        for part in torch.randperm(len(rows)).split(batch):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(probe(rows[part])[:, 0], truth[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracies.append(float(((probe(x[test])[:, 0] > 0) == y[test]).float().mean()))
    return max(accuracies), accuracies[-1]


def test_an_epoch_chosen_on_test_data_beats_chance_on_pure_noise_and_ours_does_not():
    theirs, last, ours = [], [], []
    y, fold = torch.arange(120) % 2 == 0, torch.tensor([0, 0, 0, 1, 2]).repeat_interleave(2).repeat(12)
    for seed in range(32):
        x = torch.randn(120, 24, generator=torch.Generator().manual_seed(seed))
        best, end = saebench_train_probe(x, y, fold != TEST, fold == TEST, lr=1e-2, seed=seed)
        theirs.append(best)
        last.append(end)
        ours.append(float(probes.right(probes.fit(x, y, fold), x, y)[fold == TEST].mean()))
    error = 0.5 / (32 * 24) ** 0.5  # of a mean of 32 accuracies over 24 examples each, at chance
    assert np.mean(theirs) > 0.5 + 3 * error
    assert abs(np.mean(ours) - 0.5) < 2.5 * error
    assert abs(np.mean(last) - 0.5) < 2.5 * error  # the same probe without the choice


def test_masks_go_by_index_and_a_row_of_zeros_is_a_row():
    """Classes that differ only in how many of their rows are zero: by sum they look alike."""
    count, rows = 120, 8
    y = torch.arange(count) % 2 == 0
    example = torch.arange(count).repeat_interleave(rows)
    on = torch.rand(count, rows, generator=torch.Generator().manual_seed(0)) < torch.where(y, 0.8, 0.3)[:, None]
    on[:, 0] = True
    x = on.flatten()[:, None].float()
    examples = Examples.of(x, {"y": y.long()}, {"y": ("a", "b")}, example=example)
    pooled = examples.pooled(x)
    torch.testing.assert_close(pooled[:, 0], on.float().mean(1))
    accuracy = float(probes.right(probes.fit(pooled, y, examples.fold), pooled, y)[examples.fold == TEST].mean())
    by_sum = saebench_pooled(x, example, count)
    assert bool((by_sum == 1).all()) and accuracy > 0.85
    probe = probes.fit(by_sum, y, examples.fold)
    assert not probe.weight.any() and np.isnan(probe.strength)


def test_bad_inputs_are_named():
    x, y, fold = noisy()
    for wrong, message in (
        (lambda: probes.fit(x, torch.ones_like(y), fold), r"the train fold has \d+ of \d+ examples of 'label': both"),
        (lambda: probes.fit(x, y & (fold != VALIDATION), fold), "the validation fold has 0 of"),
        (lambda: probes.singles(x, (y & (fold != TEST))[None], fold), "the test fold has 0 of"),
        (lambda: probes.fit(torch.where(fold[:, None] == TRAIN, torch.nan, x), y, fold), "must be finite"),
        (lambda: probes.singles(x / 0.0, y[None], fold), "must be finite"),
        (lambda: probes.fit(x, y, fold, strengths=[]), "strengths must be one or more numbers above 0"),
        (lambda: probes.fit(x, y, fold, strengths=[0.0, 1.0]), "strengths must be one or more numbers above 0"),
        (lambda: probes.sparse(x, y, fold, 0), "k must be 1 to the 12 features there are, got 0"),
        (lambda: probes.sparse(x, y, fold, 13), "k must be 1 to the 12 features there are, got 13"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_features_that_never_vary_leave_a_guess_by_shares():
    y, fold = torch.arange(50) % 5 == 0, folds(torch.arange(50))
    train = fold == TRAIN
    share = float(y[train].double().mean())
    probe = probes.fit(torch.full((50, 3), 0.1), y, fold, balanced=False)
    assert probe.bias == pytest.approx(np.log(share / (1 - share))) and not probe.weight.any()
    assert probes.fit(torch.full((50, 3), 0.1), y, fold).bias == pytest.approx(0.0, abs=1e-12)

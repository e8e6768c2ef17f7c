"""Absorption, splitting, SCR, TPP: values by hand, SAEBench's formulas written out, nulls, what we do otherwise."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import plain_codecs
import pytest
import torch

from workbench import Subject, testbeds
from workbench.code import Code
from workbench.evaluate import Case, Examples, probes, removal
from workbench.evaluate.evals.absorption import absorbed, absorption, fractions
from workbench.evaluate.evals.reconstruction import reconstruction
from workbench.evaluate.evals.scr import _even, scr
from workbench.evaluate.evals.splitting import splitting
from workbench.evaluate.evals.tpp import tpp
from workbench.evaluate.examples import TEST, TRAIN, VALIDATION
from workbench.evaluate.main_latents import concepts, main_latents, mains
from workbench.evaluate.tasks import spurious, words
from workbench.testbeds import prompt_set
from workbench.testbeds.models import gpt, word_tokenizer
from workbench.testbeds.prompts._words import nouns

ROWS = plain_codecs.MemoryRows(torch.zeros(10, 4))
NAMES = {"job": ("nurse", "guard"), "gender": ("female", "male")}


def codec(atoms, encoder, bias=None) -> plain_codecs.PlainCodec:
    return plain_codecs.PlainCodec(atoms, encoder, torch.zeros(atoms.shape[1]) if bias is None else bias)


def case(dictionary, resamples=20, seed=0, **given) -> Case:
    return Case(dictionary, None, ROWS, seed=seed, resamples=resamples, given=given)


def random_problem(seed, *, label, classes, rows=2, latents=30, d=12, out=9, examples=240):
    """Examples of several rows, other rows at the target, and a dictionary whose atoms have any norm."""
    drawn = torch.Generator().manual_seed(seed)
    example = torch.arange(examples).repeat_interleave(rows)
    signal = torch.zeros(examples, d)
    for k, number in enumerate(label.values()):
        signal += 1.5 * torch.randn(int(number.max()) + 1, d, generator=drawn)[number] / (k + 1)
    x = signal[example] + torch.randn(len(example), d, generator=drawn)
    y = x @ torch.randn(d, out, generator=drawn) / 3 + 0.5
    found = Examples.of(x, label, classes, y=y, example=example, group=torch.arange(examples) // 2)
    read = torch.randn(d, latents, generator=drawn)
    atoms = torch.randn(latents, out, generator=drawn) * torch.rand(latents, 1, generator=drawn)
    return found, codec(atoms, lambda h: (h @ read - 1).relu())


# Absorption.


def test_absorption_fractions_by_hand():
    parts = torch.tensor(
        [[2.0, 0, 0], [0, 1, 0], [0.5, 1, 0], [0.5, 0.5, 0], [0, 0, 1], [1.5, 2, 0], [0, 0.79, 0], [-0.1, 0.8, 0]]
    ).double()
    cosines, main, y = torch.tensor([1.0, 0.5, 0.05]).double(), torch.tensor([0]), torch.full((8,), 2.0).double()
    found = fractions(parts, cosines, main, y)
    assert found.tolist() == pytest.approx([0, 1, 2 / 3, 0, 0, 0.5 / 2, 0, 1])
    assert fractions(parts, cosines, main, -y).tolist() == [0] * 8  # the row points away from the probe
    three = torch.tensor([[0.0, 0.3, 0.3, 0.3, 0.3]]).double()
    same = torch.ones(5).double()
    assert fractions(three, same, main, torch.tensor([2.0])).tolist() == [1]  # three of the four are 0.9 of 2.0
    assert fractions(three, same, main, torch.tensor([2.0]), absorbers=2).tolist() == [0]


def test_full_absorption_by_hand():
    codes = torch.tensor([[0.0, 1, 0], [1e-3, 1, 0], [0, 0.39, 0], [0, 0.1, 3], [0, 0, 0]]).double()
    along, cosines = torch.tensor([1.0, 2.0, 1.0]).double(), torch.tensor([1.0, 0.5, 0.02]).double()
    args = codes, along, cosines, torch.tensor([0])
    # on and large; the main latent is on; 0.78 of 2; the largest points elsewhere; nothing is on
    assert absorbed(*args, torch.full((5,), 2.0)).tolist() == [True, False, False, False, False]
    assert not absorbed(*args, torch.full((5,), -2.0)).any()
    two = torch.tensor([[0.0, 1, 0], [0, 1, 0.1], [0.1, 1, 0.1]]).double(), along, cosines, torch.tensor([0, 2])
    assert absorbed(*two, torch.full((3,), 2.0)).tolist() == [True, False, False]  # one main latent on is enough


@pytest.fixture(scope="module")
def tree() -> SimpleNamespace:
    """Roots of a tree, read by latents of roots that are off wherever a child is on: its latent holds the sum."""
    world: Any = testbeds.world("hierarchy", root=0.4)
    examples = words.hierarchy(3000, roots=True, root=0.4)
    truth, parents = world.truth, torch.tensor(world.parents)
    on = world.sample(3000, 0).code != 0
    child = torch.stack([on[:, parents == k].any(-1) for k in range(3)], -1)  # (row, root)
    atoms = truth.clone()
    for i in range(3, 20):
        atoms[i] += truth[parents[i]] if parents[i] < 3 else 0

    def absorbing(x):
        z = torch.where(x @ truth.T > 0.5, x @ truth.T, 0)
        for k in range(3):
            z[:, k] = torch.where((z[:, parents == k] > 0).any(-1), 0, z[:, k])
        return z

    return SimpleNamespace(examples=examples, on=on, child=child, truth=truth, codec=codec(atoms, absorbing))


def test_planted_absorption_is_the_share_of_rows_with_a_child(tree):
    scores = absorption(case(tree.codec, words=tree.examples), most=1)
    test = tree.examples.at(TEST)
    share = float(np.mean([float(tree.child[test & tree.on[:, k], k].float().mean()) for k in range(3)]))
    assert share > 0.5
    assert scores["full_absorption"].value == pytest.approx(share, abs=0.01)
    assert scores["absorption_fraction"].value == pytest.approx(share, abs=0.01)
    assert scores["absorption_fraction"].n == int(tree.on[test, :3].sum())
    assert "not comparable" in scores["absorption_fraction"].note
    whole = case(
        codec(tree.truth, lambda x: torch.where(x @ tree.truth.T > 0.5, x @ tree.truth.T, 0)), words=tree.examples
    )
    assert absorption(whole, most=1)["absorption_fraction"].value == 0


def test_where_the_jump_rule_keeps_the_children_they_split_the_root_and_do_not_absorb_it(tree):
    trial = case(tree.codec, words=tree.examples)
    assert absorption(trial)["absorption_fraction"].value == 0
    assert splitting(trial)["split_latents"].value == 4  # the root's own latent and its three children
    assert splitting(trial, most=1)["split_latents"].value == 1


def saebench_absorption(examples, codes, atoms, probe, main, truth):
    """Fraction and full absorption of one class, word by word, as SAEBench's card has them."""
    p = probe.weight / probe.weight.norm()
    parts = full = found = 0.0
    for i in range(examples.count):
        y = examples.y[i].double()
        if examples.fold[i] != TEST or not truth[i] or probe(y[None]) <= 0:
            continue
        found += 1
        projection = float(p @ y)
        cosines = [float(a.double() @ p / a.double().norm()) for a in atoms]
        value = [float(z) * c * float(a.double().norm()) for z, c, a in zip(codes[i], cosines, atoms, strict=True)]
        own = sum(value[j] for j in main)
        others = sorted((v for j, v in enumerate(value) if j not in main and cosines[j] >= 0.1 and v > 0), reverse=True)
        taken = sum(others[:3])
        if own < projection and taken / projection >= 0.4:
            most = min(taken, projection - own)
            parts += 1.0 if own <= 0 else most / (most + own)
        top = int(np.argmax(value))
        silent = all(codes[i, j] == 0 for j in main)
        full += silent and cosines[top] >= 0.025 and projection > 0 and value[top] / projection >= 0.4
    return parts / found, full / found


@pytest.mark.parametrize("seed", range(3))
def test_absorption_is_saebenchs_on_the_same_probes_and_main_latents(seed):
    label = {"letter": torch.randint(4, (240,), generator=torch.Generator().manual_seed(seed))}
    examples, dictionary = random_problem(seed, label=label, classes={"letter": "abcd"}, rows=1)
    trial = case(dictionary, words=examples)
    scores = absorption(trial, most=1, least_f1=0.3)
    codes, expected = trial.pooled(examples), []
    for concept, main in zip(concepts(examples), mains(trial, examples, jump=0.03, most=1), strict=True):
        probe = probes.fit(examples.y, concept.truth, examples.fold)
        test = examples.at(TEST)
        if float(probes.f1(probe(examples.y)[test] > 0, concept.truth[test])) >= 0.3:
            args = codes, dictionary.dictionary, probe, main.latents.tolist(), concept.truth
            expected.append(saebench_absorption(examples, *args))
    assert len(expected) == 4 - scores["classes_left_out"].value and 0 < np.mean([a for a, _ in expected]) < 1
    assert scores["absorption_fraction"].value == pytest.approx(np.mean([a for a, _ in expected]), abs=1e-9)
    assert scores["full_absorption"].value == pytest.approx(np.mean([b for _, b in expected]), abs=1e-9)


def test_classes_that_the_subject_does_not_know_are_left_out_and_counted(tree):
    shuffled = tree.examples.labels["parent 1"][torch.randperm(3000, generator=torch.Generator().manual_seed(0))]
    examples = replace(tree.examples, labels=dict(tree.examples.labels) | {"parent 1": shuffled})
    scores = absorption(case(tree.codec, words=examples), most=1)
    assert scores["classes_left_out"].value == 1 and "of 3 classes" in scores["classes_left_out"].unit
    assert scores["probe_f1"].value > 0.99
    only = replace(tree.examples, labels={"parent 1": shuffled}, classes={"parent 1": ("off", "on")})
    with pytest.raises(
        ValueError, match=r"no class can be read at 0.resid with F1 >= 0.6 \(F1 on validation: parent 1 0"
    ):
        absorption(case(tree.codec, words=only))


def test_atoms_may_have_any_norm_and_an_atom_of_zero_is_harmless(tree):
    plain = absorption(case(tree.codec, words=tree.examples), most=1)
    by = torch.linspace(0.2, 5, 20)
    shrunk = codec(
        torch.cat([tree.codec.dictionary * by[:, None], torch.zeros(1, 32)]),
        lambda x: torch.cat([tree.codec.encoder(x) / by, 0.1 * x[:, :1].relu()], 1),
    )
    assert [s.value for s in absorption(case(shrunk, words=tree.examples), most=1)] == pytest.approx(
        [s.value for s in plain]
    )


def test_the_main_latents_of_a_silent_dictionary_are_none():
    codes, truth = torch.zeros(60, 5), torch.arange(60) % 2 == 0
    (found,) = main_latents(codes, truth[None], torch.arange(60) % 3)
    assert len(found.latents) == 0 and not found.said.any()


def test_latents_that_speak_against_a_class_are_never_main():
    truth = torch.arange(60) % 2 == 0
    codes = torch.stack([(~truth).float(), torch.zeros(60)], 1)
    assert len(main_latents(codes, truth[None], torch.arange(60) // 2 % 3)[0].latents) == 0


def test_main_latents_do_not_depend_on_the_test_fold():
    drawn = torch.Generator().manual_seed(0)
    codes, truth = torch.rand(300, 20, generator=drawn), torch.rand(300, generator=drawn) > 0.5
    codes[:, 3] += 0.5 * truth.float()
    codes[:, 7] += 0.5 * truth.float()
    fold = torch.arange(300) % 3
    other = codes.clone()
    other[fold == TEST] = 100 * torch.rand(100, 20, generator=drawn)
    flipped = torch.where(fold == TEST, ~truth, truth)
    before = main_latents(codes, truth[None], fold, jump=0.0)[0].latents
    assert len(before) > 1 and set(before[:2].tolist()) == {3, 7}
    assert main_latents(other, flipped[None], fold, jump=0.0)[0].latents.tolist() == before.tolist()


# Splitting.


def halves(n=300):
    """A class whose two halves have a latent each, as rows in which nothing else is."""
    part = torch.arange(n) % 4  # 0 and 1: the class's halves, 2 and 3: none
    return part, Examples.of(torch.eye(4)[part], {"half": (part < 2).long()}, {"half": ("no", "yes")})


def test_splitting_by_hand():
    part, examples = halves()
    split = splitting(case(plain_codecs.identity(4), words=examples))
    test = examples.at(TEST)
    counts = torch.bincount(part[test], minlength=4)[:2]
    first = [float(2 * c / (c + counts.sum())) for c in counts]  # F1 of finding one half and nothing else
    assert split["split_latents"].value == 2 and split["main_f1"].value == 1
    assert split["f1_gain"].value == pytest.approx(1 - first[0]) or split["f1_gain"].value == pytest.approx(
        1 - first[1]
    )
    join = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    whole = splitting(case(codec(join, lambda x: x @ join.T), words=examples))
    assert (whole["split_latents"].value, whole["f1_gain"].value) == (1, 0)


def test_a_class_without_a_latent_is_counted_apart():
    part = torch.arange(300) % 3
    examples = Examples.of(torch.eye(3)[part], {"part": part}, {"part": ("a", "b", "c")})
    two = torch.eye(3)[:2]
    scores = splitting(case(codec(two, lambda x: x @ two.T), words=examples))
    assert scores["split_latents"].value == 1 and scores["without_latent"].value == pytest.approx(1 / 3)


# TPP.


def test_tpp_by_hand():
    part = torch.arange(300) % 3
    x = torch.cat([2 * torch.eye(3)[part], torch.ones(300, 2)], 1)
    examples = Examples.of(x, {"part": part}, {"part": ("a", "b", "c")})
    scores = tpp(case(plain_codecs.identity(5), labelled=examples), n=1, ns=(2,))
    # without its latent no example of a class is found any more: 1 becomes (0 + 1) / 2; the others stay as they are
    assert [scores[m].value for m in ("tpp_1", "targeted_drop", "other_drop", "probe_accuracy")] == [0.5, 0.5, 0, 1]
    assert scores["tpp_2"].value == 0.5 and scores["tpp_1"].n == int(examples.at(TEST).sum())
    assert [s.metric for s in scores] == ["tpp_1", "targeted_drop", "other_drop", "tpp_2", "probe_accuracy"]


def balanced_accuracy(logits, truth):
    said = logits > 0
    return (float(said[truth].double().mean()) + float((~said[~truth]).double().mean())) / 2


def pooled(rows, examples):
    return torch.stack([rows[examples.example == i].double().mean(0) for i in range(examples.count)])


def ablated(examples, dictionary, latents):
    """Pooled rows at the target after value * atom of each latent was taken from every row, one at a time."""
    y, code = examples.y.double().clone(), dictionary.encode(examples.x).to_dense()
    for latent in latents:
        y -= code[:, latent, None].double() * dictionary.dictionary[latent].double()
    return pooled(y, examples)


@pytest.mark.parametrize("seed", range(3))
def test_tpp_is_saebenchs_on_the_same_probes(seed):
    label = {"class": torch.randint(4, (240,), generator=torch.Generator().manual_seed(seed))}
    examples, dictionary = random_problem(seed, label=label, classes={"class": "abcd"})
    n, test = 2, examples.at(TEST)
    truth = [label["class"] == k for k in range(4)]
    fitted = [probes.fit(pooled(examples.y, examples), t, examples.fold) for t in truth]
    codes = pooled(dictionary.encode(examples.x).to_dense(), examples)
    clean = [
        balanced_accuracy(p(pooled(examples.y, examples))[test], t[test]) for p, t in zip(fitted, truth, strict=True)
    ]
    drops, train = np.zeros((4, 4)), examples.at(TRAIN)
    for i in range(4):
        gap = (codes[train & truth[i]].mean(0) - codes[train & ~truth[i]].mean(0)).clamp_min(0)
        effect = gap * (dictionary.dictionary.double() @ fitted[i].weight)
        assert int((effect > 0).sum()) >= n  # ours takes no latent out whose effect is zero
        y = ablated(examples, dictionary, effect.topk(n).indices.tolist())
        drops[i] = [clean[j] - balanced_accuracy(fitted[j](y)[test], truth[j][test]) for j in range(4)]
    expected = np.mean([drops[i, i] - np.mean([drops[i, j] for j in range(4) if j != i]) for i in range(4)])
    found = tpp(case(dictionary, labelled=examples), n=n, ns=())
    assert abs(expected) > 0.01
    assert found[f"tpp_{n}"].value == pytest.approx(expected, abs=1e-9)
    assert found["targeted_drop"].value == pytest.approx(np.diag(drops).mean(), abs=1e-9)
    assert found["probe_accuracy"].value == pytest.approx(np.mean(clean), abs=1e-9)


def test_random_dictionaries_and_random_choices_have_a_tpp_of_zero():
    """Codes that know nothing of the row: taking them out hurts no probe more than another, on the mean of many."""
    label = {"class": torch.randint(3, (300,), generator=torch.Generator().manual_seed(0))}
    examples, _ = random_problem(0, label=label, classes={"class": "abc"}, rows=1, examples=300)
    found, luck = [], []
    for seed in range(12):
        drawn = torch.Generator().manual_seed(seed)
        blind = torch.rand(300, 40, generator=drawn) * (torch.rand(300, 40, generator=drawn) < 0.1)
        atoms = torch.randn(40, 9, generator=drawn) / 3
        score = tpp(case(codec(atoms, lambda x, blind=blind: blind), labelled=examples, seed=seed), n=5, ns=())["tpp_5"]
        found.append(score.value)
        luck.append(score.chance)
    for values in (found, luck):
        assert abs(np.mean(values)) < 3 * np.std(values) / 12**0.5 + 0.01 and np.std(values) < 0.1


def test_numbers_of_latents_are_bounded_by_the_dictionary():
    part, _ = halves()
    examples = Examples.of(torch.eye(4)[part], {"part": part}, {"part": "abcd"})
    names = [s.metric for s in tpp(case(plain_codecs.identity(4), labelled=examples), n=2)]
    assert names == ["tpp_2", "targeted_drop", "other_drop", "probe_accuracy"]


# SCR.


def confused(n=400, times=2):
    """Rows that tell the job once and the gender `times` times: standardised, a biased probe listens to the latter."""
    job, gender = torch.arange(n) % 2, torch.arange(n) // 2 % 2
    x = torch.cat([torch.eye(2)[job], *[torch.eye(2)[gender]] * times], 1)
    return Examples.of(x, {"job": job, "gender": gender}, NAMES)


def four_latents():
    """Two of the job, two of the gender: what they say is all there is in a row."""
    atoms = torch.tensor([[1.0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 1]])
    return codec(atoms, lambda x: x[:, :4])


def test_scr_by_hand():
    scores = scr(case(four_latents(), spurious=confused()), n=2, ns=(1,))
    found = {m: scores[m].value for m in ("base_accuracy", "ablated_accuracy", "oracle_accuracy", "scr_2")}
    # the biased probe follows the gender, right in the two of four combinations where it agrees with the job
    assert found == {"base_accuracy": 0.5, "ablated_accuracy": 1.0, "oracle_accuracy": 1.0, "scr_2": 1.0}
    assert scores["scr_2"].note.startswith("gender taken out of a probe of job")
    assert "not comparable" in scores["scr_2"].note


def test_scr_takes_the_wanted_concept_from_the_validation_fold():
    examples = confused()
    job, gender = examples.labels["job"], examples.labels["gender"]
    swapped = torch.where((examples.fold == TEST)[:, None], examples.x[:, [2, 3, 0, 1, 0, 1]], examples.x)
    scores = scr(case(four_latents(), spurious=replace(examples, x=swapped, y=swapped)), n=2, ns=())
    assert scores["scr_2"].note.startswith("gender taken out of a probe of job")  # on test the job is told twice
    other = replace(examples, labels={"gender": gender, "job": job})  # their order does not matter
    assert scr(case(four_latents(), spurious=other), n=2, ns=())["scr_2"].value == 1


@pytest.mark.parametrize("seed", range(3))
def test_scr_is_saebenchs_on_the_same_probes(seed):
    drawn = torch.Generator().manual_seed(seed)
    cell = torch.randperm(240, generator=drawn) % 4
    label = {"gender": cell % 2, "job": cell // 2}
    examples, dictionary = random_problem(seed, label=label, classes=NAMES)
    trial, n = case(dictionary, spurious=examples), 5
    found = scr(trial, n=n, ns=())
    rows, truth, fold = pooled(examples.y, examples), {k: v == 1 for k, v in label.items()}, examples.fold
    test = fold == TEST
    agree = label["gender"] == label["job"]
    biased = probes.fit(rows, truth["job"], torch.where(agree | test, fold, -1))

    def four(logits, wanted, which):
        right = (logits > 0) == truth[wanted]
        return float(np.mean([float(right[which & (cell == c)].double().mean()) for c in range(4)]))

    held = fold == VALIDATION
    wanted = min(("gender", "job"), key=lambda k: four(biased(rows), k, held))
    unwanted = "job" if wanted == "gender" else "gender"
    even = _even(2 * label["gender"] + label["job"], fold, 0)
    for k in (TRAIN, VALIDATION):
        assert len(set(torch.bincount(cell[even == k]).tolist())) == 1 and int((even == k).sum()) > 0.7 * int(
            (fold == k).sum()
        )
    spurious_probe, oracle = (probes.fit(rows, truth[k], even) for k in (unwanted, wanted))
    codes, train = pooled(dictionary.encode(examples.x).to_dense(), examples), even == TRAIN
    gap = codes[train & truth[unwanted]].mean(0) - codes[train & ~truth[unwanted]].mean(0)
    effect = (gap * (dictionary.dictionary.double() @ spurious_probe.weight)).abs()
    y = ablated(examples, dictionary, effect.topk(n).indices.tolist())
    base, best, now = four(biased(rows), wanted, test), four(oracle(rows), wanted, test), four(biased(y), wanted, test)
    assert found["base_accuracy"].value == pytest.approx(base) and found["oracle_accuracy"].value == pytest.approx(best)
    assert found[f"scr_{n}"].value == pytest.approx((now - base) / (best - base), abs=1e-9)
    assert now != base and found[f"scr_{n}"].note.startswith(f"{unwanted} taken out of a probe of {wanted}")


def test_scr_without_a_bias_to_remove_is_zero():
    scores = scr(case(plain_codecs.identity(2), spurious=confused(times=0)), n=1, ns=())
    # of the gender nothing is in the rows: neither the biased probe nor the oracle knows it
    assert [scores[m].value for m in ("base_accuracy", "oracle_accuracy", "scr_1")] == [0.5, 0.5, 0]


def test_blind_dictionaries_have_an_scr_of_zero():
    examples, found = confused(), []
    for seed in range(8):
        drawn = torch.Generator().manual_seed(seed)
        blind = torch.rand(400, 40, generator=drawn) * (torch.rand(400, 40, generator=drawn) < 0.1)
        atoms = torch.randn(40, 6, generator=drawn) / 4
        found.append(
            scr(case(codec(atoms, lambda x, blind=blind: blind), spurious=examples), n=5, ns=())["scr_5"].value
        )
    assert abs(np.mean(found)) < 0.1


def test_the_latents_of_the_largest_effect_above_zero_are_taken():
    assert removal.largest(torch.tensor([0.1, -1, 3, 0, 2]), 4).tolist() == [2, 4, 0]


def test_what_tpp_and_scr_take_out_does_not_depend_on_the_test_fold(monkeypatch):
    """Test rows scrambled, so that another choice would be better there: the same latents go."""
    label = {"class": torch.randint(3, (240,), generator=torch.Generator().manual_seed(0))}
    examples, dictionary = random_problem(3, label=label, classes={"class": "abc"})
    test = examples.at(TEST)[examples.example]
    order = torch.arange(len(test))
    order[test] = test.nonzero()[:, 0].flip(0)
    other, pair, seen = replace(examples, x=examples.x[order], y=examples.y[order]), {}, []
    for name in ("gender", "job"):
        pair[name] = torch.randint(2, (240,), generator=torch.Generator().manual_seed(len(name)))
    runs = {
        "tpp": lambda e: tpp(case(dictionary, labelled=e), n=3, ns=()),
        "scr": lambda e: scr(case(dictionary, spurious=replace(e, labels=pair, classes=NAMES)), n=3, ns=()),
    }
    taken = []

    def spy(effect, n):
        taken.append(removal.largest(effect, n).tolist())
        return removal.largest(effect, n)

    for name, run in runs.items():
        monkeypatch.setattr(f"workbench.evaluate.evals.{name}.largest", spy)
        for data in (examples, other):
            taken.clear()
            seen.append((run(data).entries[0].value, list(taken)))
    (a, first), (b, second), (c, third), (d, fourth) = seen
    assert first == second and len(first) == 3 and third == fourth and len(third) == 1 and a != b


# What differs from SAEBench on purpose.


def saebench_explained_variance(x, x_hat):
    """As its core/main.py has it: the squared mean is taken of squares."""
    mean_of_squares = (x**2).mean(0)
    total = (x**2).sum(-1).mean() - (mean_of_squares**2).sum()
    return float(1 - ((x - x_hat) ** 2).sum(-1).mean() / total)


def test_fvu_is_numpys_and_does_not_move_with_scale_while_saebenchs_explained_variance_does():
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 16, generator=drawn) + 0.7  # three batches of rows
    noise = torch.randn(5000, 16, generator=drawn) / 3
    theirs, ours = [], []
    for by in (0.1, 1.0, 10.0):
        data = by * x
        lookup = {tuple(row): i for i, row in enumerate(data.tolist())}
        wrong = codec(
            torch.eye(16), lambda h, by=by, lookup=lookup: h + by * noise[[lookup[tuple(r)] for r in h.tolist()]]
        )
        rows = plain_codecs.MemoryRows(data)
        ours.append(reconstruction(Case(wrong, None, rows, resamples=2))["fvu"].value)
        exact = np.asarray(data, np.float64)
        x_hat = np.asarray(data + by * noise, np.float64)
        assert ours[-1] == pytest.approx(((exact - x_hat) ** 2).sum() / (exact.var(0).sum() * 5000), rel=1e-6)
        theirs.append(saebench_explained_variance(data, data + by * noise))
    assert max(ours) - min(ours) < 1e-6
    assert max(theirs) - min(theirs) > 0.05 and abs(theirs[0] - (1 - ours[0])) > 0.01


def test_a_row_that_is_really_zero_counts_in_the_mean():
    """SAEBench drops rows whose sum is zero from the pool; here an example has exactly the rows it was given."""
    x = torch.tensor([[2.0, 0], [0, 0], [1, -1], [3, 3]]).repeat(30, 1)
    label = torch.arange(60) % 2
    examples = Examples.of(x, {"a": label}, {"a": ("x", "y")}, example=torch.arange(120) // 2)
    trial = case(plain_codecs.identity(2), labelled=examples)
    assert examples.pooled(examples.y)[:2].tolist() == trial.pooled(examples)[:2].tolist() == [[1, 0], [2, 1]]


def _fixed(code):
    values, indices = code.to_dense().topk(29, dim=-1)
    return Code.fixed(indices, values, 30)


def test_every_layout_of_codes_gives_the_same_scores():
    label = {"class": torch.randint(3, (240,), generator=torch.Generator().manual_seed(0))}
    examples, dictionary = random_problem(1, label=label, classes={"class": "abc"})
    found = [tpp(case(dictionary, labelled=examples), n=2)]
    for change in (Code.to_csr, _fixed):
        other = plain_codecs.PlainCodec(dictionary.dictionary, dictionary.encoder, dictionary.bias)
        other.encode = lambda x, change=change: change(Code.dense(dictionary.encoder(x)))  # type: ignore[method-assign]
        found.append(tpp(case(other, labelled=examples), n=2))
    assert found[0] == found[1] and found[0]["tpp_2"].value == pytest.approx(found[2]["tpp_2"].value, abs=0.02)


# Tasks.


@pytest.fixture(scope="module")
def speller() -> Subject:
    """A random model whose tokens are whole words."""
    torch.manual_seed(0)
    some = [w for w in nouns() if w[0] in "abc"]
    letters = [a.upper() for a in "abc"]
    ids = ["<pad>", "The", "word", "has", "the", "first", "letter:", *letters, *some, "<eos>"]
    return Subject(gpt(len(ids), length=64, d=16, heads=2), word_tokenizer(ids), name="speller")


def test_a_word_is_read_where_the_prompt_set_has_it(speller):
    chosen = [w for w in nouns() if w[0] in "abc"]
    examples = words.words(speller, "1.resid", words=chosen, shots=0)
    assert examples.classes["letter"] == ["A", "B", "C"]
    assert examples.count == len(chosen) == len(examples.group.unique())
    full = [f"The word {w} has the first letter:" for w in chosen]
    assert set(full) <= set(prompt_set("first_letters", n=638, shots=0).texts)
    (h,) = speller.read(speller.tokenize(full), ["1.resid"]).values()
    assert torch.allclose(examples.x, h[:, -5], atol=1e-5)  # each word of the sentence is a token here
    assert [examples.classes["letter"][int(k)] for k in examples.labels["letter"]] == [w[0].upper() for w in chosen]
    shown = words.words(speller, "1.resid", words=chosen, shots=3, seed=1)
    assert not torch.allclose(shown.x, examples.x, atol=1e-2)


def test_the_vocabulary_is_taken_where_no_words_are_given(speller):
    found = words.vocabulary(speller, most=12)
    assert {w[0] for w in found} == set("abcfhtw") and max(sum(w[0] == a for w in found) for a in "abc") == 12
    assert set(words.vocabulary(speller, most=1)) > {"the", "word", "has", "first"}  # the first of each letter
    assert words.words(speller, "0.resid").classes["letter"] == ["A", "B", "C"]


def test_letters_of_few_words_are_left_out(speller):
    chosen = [w for w in nouns() if w[0] in "ab"] + ["cell", "case"]
    assert words.words(speller, "0.resid", words=chosen).classes["letter"] == ["A", "B"]


def test_the_tree_says_which_parents_are_on():
    world, every, top = testbeds.world("hierarchy"), words.hierarchy(2000), words.hierarchy(2000, roots=True)
    code = world.sample(2000, 0).code
    assert (
        list(every.labels) == [f"parent {i}" for i in (0, 1, 2, 3, 5, 7, 9)]
        and list(top.labels) == list(every.labels)[:3]
    )
    for name, label in every.labels.items():
        assert torch.equal(label == 1, code[:, int(name.split()[1])] != 0)


def test_planted_pairs_have_one_of_each():
    examples = spurious.planted("correlated", n=4000)
    data = testbeds.world("correlated").sample(4000, 0)
    on = data.code[:, [0, 8, 1, 9]] != 0
    fits = (on[:, 0] ^ on[:, 1]) & (on[:, 2] ^ on[:, 3])
    assert torch.equal(examples.x, data.x[fits]) and torch.equal(examples.labels["second"] == 1, on[fits, 3])
    both = torch.stack(list(examples.labels.values())).double()
    assert float(torch.corrcoef(both)[0, 1]) > 0.2  # directions 0 and 1 share a block: spurious by nature
    alone = spurious.roots(1000)
    assert set(alone.labels["root"].tolist()) == {0, 1, 2} and alone.count < 1000


def test_sentences_of_facts_carry_what_they_tell():
    examples, pair = spurious.facts(), spurious.told()
    assert examples.count == 1024 and len(examples.classes["trade"]) == 10 and examples.unit == "entity"
    data = testbeds.world("facts")
    assert torch.equal(data.truth[examples.group, 1], examples.labels["trade"])
    probe = probes.fit(pair.pooled(pair.y), pair.labels["template"] == 1, pair.fold)
    assert float(probes.right(probe, pair.pooled(pair.y), pair.labels["template"] == 1)[pair.at(TEST)].mean()) > 0.95
    assert set(pair.labels["value"].tolist()) == {0, 1} and pair.count < examples.count


def test_people_are_read_by_name_and_job():
    prompts = prompt_set("professions", n=200)
    vocabulary = sorted({w for text in prompts.texts for w in text.split()})
    torch.manual_seed(0)
    subject = Subject(gpt(len(vocabulary) + 1, length=32, d=16, heads=2), word_tokenizer(["<pad>", *vocabulary]))
    examples = spurious.people(subject, "0.resid", n=200)
    assert [("female", "male")[k] for k in examples.labels["gender"]] == prompts.labels["gender"].tolist()
    assert [("female", "male")[k] for k in examples.labels["job"]] == prompts.labels["stereotype"].tolist()
    names = prompts.labels["name"].tolist()
    assert all((names[i] == names[0]) == bool(examples.group[i] == examples.group[0]) for i in range(200))
    two = spurious.people(subject, "0.resid", n=400, jobs=tuple(prompts.labels["profession"].value_counts().index[:2]))  # type: ignore[arg-type]
    assert 12 <= two.count < 50


# Bad inputs.


def _part(n=300, k=3):
    return torch.arange(n) % k


def _three(**labels):
    part = _part()
    return Examples.of(torch.eye(3)[part], {"part": part} | labels, {"part": "abc"} | {k: ("n", "y") for k in labels})


def _no_words():
    part = torch.where(_part(k=4) == 3, 0, _part(k=4))
    return Examples.of(torch.eye(4)[part], {"part": part}, {"part": "abcd"})


def _sure(fold):
    """In one fold the two concepts never disagree."""
    examples = confused()
    job = torch.where(examples.fold == fold, examples.labels["gender"], examples.labels["job"])
    return replace(examples, labels=dict(examples.labels) | {"job": job})


def _long_rows():
    part = _part()
    return Examples.of(
        torch.eye(3)[part].repeat_interleave(2, 0), {"part": part}, {"part": "abc"}, example=torch.arange(600) // 2
    )


EYE = {k: plain_codecs.identity(k) for k in (3, 4, 6)}
BAD = {
    "a class without words": (lambda: absorption(case(EYE[4], words=_no_words())), "0 of .* examples of 'd': both"),
    "a class without words, split": (lambda: splitting(case(EYE[4], words=_no_words())), "0 of .* examples of 'd'"),
    "a class without texts": (lambda: tpp(case(EYE[4], labelled=_no_words()), n=1), "0 of .* examples of 'd'"),
    "examples of several rows": (lambda: absorption(case(EYE[3], words=_long_rows())), "be one row each, got one of 2"),
    "no absorber": (lambda: absorption(case(EYE[3], words=_three()), absorbers=0), "absorbers must be 1 or more"),
    "no main latent": (lambda: splitting(case(EYE[3], words=_three()), most=0), "jump must be within 0..1 and most 1"),
    "a jump backwards": (lambda: absorption(case(EYE[3], words=_three()), jump=-0.1), "jump must be within 0..1"),
    "not given": (lambda: tpp(case(EYE[3])), "given no 'labelled'"),
    "a silent dictionary": (
        lambda: splitting(case(plain_codecs.mean(torch.zeros(3)), words=_three())),
        "no latent of dictionary speaks for any of 3 classes",
    ),
    "n larger than the dictionary": (lambda: tpp(case(EYE[3], labelled=_three())), "3 latents, fewer than n=10"),
    "n of none": (lambda: scr(case(EYE[6], spurious=confused()), n=0), "must be 1 or more, got n=0"),
    "no draws": (lambda: scr(case(EYE[6], spurious=confused()), n=1, draws=0), "one or more draws, got 0"),
    "two classes": (lambda: tpp(case(EYE[6], labelled=confused()), n=1, label="job"), "'job' has two classes"),
    "a label to choose": (
        lambda: tpp(case(EYE[3], labelled=_three(other=_part(k=2))), n=1),
        "name one label of the examples, part, other",
    ),
    "an unknown label": (lambda: tpp(case(EYE[3], labelled=_three()), n=1, label="letter"), "got label='letter'"),
    "one concept only": (lambda: scr(case(EYE[3], spurious=_three()), n=1), "two labels of two classes each"),
    "a perfectly correlated test fold": (
        lambda: scr(case(EYE[6], spurious=_sure(TEST)), n=1),
        r"the test fold has no example of nurse \(job\) with male \(gender\)",
    ),
    "a perfectly correlated train fold": (lambda: scr(case(EYE[6], spurious=_sure(TRAIN)), n=1), "the train fold"),
    "codes that are NaN": (
        lambda: tpp(case(codec(torch.eye(3), lambda x: x / 0 * 0), labelled=_three()), n=1),
        "codes that are NaN or infinite",
    ),
    "an unknown attribute": (lambda: spurious.facts(attribute="shoe size"), "attribute must be one of city, trade"),
    "one template": (lambda: spurious.told(templates=(1, 1)), "two of 0 to 3"),
    "values told too rarely": (lambda: spurious.facts(attribute="city", least=200), "[12] values of city"),
    "directions of no world": (lambda: spurious.planted("correlated", first=(0, 99)), "it has directions 0 to 63"),
    "directions never on": (lambda: spurious.planted("hierarchy", second=(12, 13), n=20), "rows have one of"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_gets_one_clear_line(bad):
    call, said = BAD[bad]
    with pytest.raises(ValueError, match=said) as error:
        call()
    assert "\n" not in str(error.value)


def test_bad_words_get_one_clear_line(speller):
    some = [w for w in nouns() if w[0] in "ab"]
    for given, said in (
        ([*some, "two parts"], "1 of .* words are not one token of speller after a space, such as 'two parts'"),
        ([*some, some[0]], f"words must differ: '{some[0]}' is there twice"),
        ([*some, "3d"], "words must begin with a letter, got '3d'"),
        ([w for w in some if w[0] == "a"], "1 letters have 10 words or more"),
    ):
        with pytest.raises(ValueError, match=said):
            words.words(speller, "0.resid", words=given)
    with pytest.raises(ValueError, match="shots must be 0 to"):
        words.words(speller, "0.resid", words=some, shots=1000)
    with pytest.raises(ValueError, match="has no tokenizer, so it has no words"):
        words.words(testbeds.subject("digits_relu"), "0.resid")
    with pytest.raises(ValueError, match="tells of lion tamer"):
        spurious.people(speller, "0.resid", n=30, jobs=("lion tamer", "driver"))

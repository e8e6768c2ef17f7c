"""Greedy takes what adds most, resets when nothing does, and MONA's likeness is sum min over sum max."""

import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

from workbench.code import Code
from workbench.geometry.selection import active_latents, greedy, likeness, mean_code, mona, simscale

sys.path.insert(0, str(Path(__file__).parent / "effects"))
import selection_greedy

# text 0: latents 0 1 2 · 1: 2 3 · 2: 0 1 · 3: 4 · 4: none
SETS = Code.dense(torch.tensor([[1.0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]))


def test_the_union_of_a_texts_rows_by_hand():
    code = Code.dense(torch.tensor([[0.0, 2, -3], [0, 2, 0], [1, 1, 0], [0, 0, 0]]))
    texts = torch.tensor([0, 0, 2, 1])
    assert active_latents(code, texts).to_dense().tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0]]
    assert active_latents(code, texts, above=1.0).to_dense().tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]
    banded = active_latents(code, texts, density=(0.0, 0.5))  # latent 1 is in two of three texts
    assert banded.to_dense().tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert active_latents(code, texts, count=5).to_dense().shape == (5, 3)


def test_mean_codes_are_means_not_sums_in_any_layout():
    values = torch.randn(9, 4).relu()
    texts = torch.tensor([0, 1, 1, 2, 2, 2, 0, 1, 2])
    want = torch.stack([values[texts == i].mean(0) for i in range(3)])
    for code in (Code.dense(values), Code.dense(values).to_csr()):
        torch.testing.assert_close(mean_code(code, texts).to_dense(), want)


def test_greedy_by_hand():
    found = greedy(SETS, 4)
    # three new latents, then one each (text 1 before 3: the first of equals), then a reset and the largest left
    assert found.texts.tolist() == [0, 1, 3, 2] and found.gains.tolist() == [3, 1, 1, 2]
    assert found.covered.tolist() == [3, 4, 5, 5] and found.resets == 1


def test_greedy_is_the_plain_loop():
    drawn = torch.Generator().manual_seed(3)
    sets = torch.rand(60, 40, generator=drawn) < 0.15
    left, covered, want = set(range(60)), torch.zeros(40, dtype=torch.bool), []
    while len(want) < 50:
        gains = {i: int((sets[i] & ~covered).sum()) for i in sorted(left)}
        best = max(gains, key=lambda i: (gains[i], -i))
        if not gains[best]:
            covered[:] = False
            continue
        want.append(best)
        covered |= sets[best]
        left.remove(best)
    assert greedy(Code.dense(sets.float()), 50).texts.tolist() == want


def test_simscale_takes_what_is_not_covered_yet():
    # sizes 3, 2, 2, 1: text 1 has half its latents covered, text 2 all of them
    assert simscale(SETS, 3).texts.tolist() == [0, 1, 3] and simscale(SETS, 3).resets == 0
    again = simscale(SETS, 4)
    assert again.texts.tolist() == [0, 1, 3, 2] and again.resets == 1 and again.gains.tolist() == [3, 1, 1, 2]
    assert simscale(SETS, 3, ratio=0.5).texts.tolist() == [0, 3, 1]  # half is not less than half
    assert simscale(SETS, 2, ratio=1.0).texts.tolist() == [0, 1]


def test_greedy_covers_all_topics_with_twice_the_texts_needed_and_random_needs_five_times():
    for seed in (0, 1):
        random, chosen = selection_greedy.measure(seed)
        assert chosen <= 2 and random >= 5


def test_coverage_stands_beside_random_and_longest_texts_and_the_length_bias():
    code, text, _ = selection_greedy.texts(0, 300)
    tokens = torch.bincount(text)
    sets = active_latents(code, text, density=(0.0, 0.9))
    found = greedy(sets, 30, tokens=tokens)
    assert found.length == pytest.approx(float(spearmanr(tokens, sets.counts()).statistic)) and found.length > 0.9
    assert found.last.z > 3 and found.last.p == pytest.approx(1 / 21)
    assert (found.covered >= found.random.max(0).values - 1).all()
    assert found.tokens.tolist() == tokens[found.texts].cumsum(0).tolist()
    last = found.table.iloc[-1]
    assert last.per_token == pytest.approx(int(found.covered[-1]) / int(found.tokens[-1]))
    longest = tokens.argsort(descending=True, stable=True)[:30]
    assert last.longest == int((sets.to_dense()[longest] != 0).any(0).sum())
    # an order of all texts covers as much in the end, whatever it is
    every = greedy(sets, 300, tokens=tokens)
    assert set(every.random[:, -1].tolist()) == {float(every.covered.max())}


def test_likeness_by_hand_and_as_dense_sums():
    means, target = Code.dense(torch.tensor([[1.0, 2, 0], [0, 0, 4], [0, 0, 0]])), torch.tensor([2.0, 1, 0])
    assert likeness(means, target).tolist() == pytest.approx([2 / 4, 0, 0])
    x, t = torch.rand(20, 9), torch.rand(9)
    want = torch.minimum(x, t).sum(1) / torch.maximum(x, t).sum(1)
    torch.testing.assert_close(likeness(Code.dense(x), t), want)
    torch.testing.assert_close(likeness(Code.dense(x).to_csr(), t), want)
    assert likeness(Code.dense(x[:1]), x[0]).item() == pytest.approx(1)


def test_signed_codes_are_clamped_only_when_asked():
    means, target = Code.dense(torch.tensor([[1.0, -2]])), torch.tensor([2.0, 1])
    assert likeness(means, target, clamp=True).tolist() == pytest.approx([1 / 3])


def bags(seed: int = 0):
    """Mean codes of 600 texts of six kinds: each kind has 30 latents of its own, 60 are of all; lengths are uneven."""
    drawn = torch.Generator().manual_seed(seed)
    kind = torch.arange(600) % 6
    rate = torch.full((6, 240), 0.02)
    rate[:, 180:] = 0.3
    for i in range(6):
        rate[i, 30 * i : 30 * i + 30] = 0.15
    tokens = torch.randint(5, 60, (600,), generator=drawn)
    rows = kind.repeat_interleave(tokens)
    values = (torch.rand(len(rows), 240, generator=drawn) < rate[rows]).float()
    return mean_code(Code.dense(values), torch.arange(600).repeat_interleave(tokens)), kind, tokens


def test_mona_finds_its_kind_and_random_and_longest_texts_do_not():
    means, kind, tokens = bags()
    target = means.to_dense()[kind == 2][:10].mean(0)
    found = mona(means, target, tokens=tokens)
    by = dict(zip(*found.precision(kind == 2, tokens=tokens).to_dict("list").values(), strict=True))
    assert by["MONA"] > 0.9 and by["random"] == pytest.approx(1 / 6) and by["longest"] < 0.5
    assert len(found.texts) == 30 and found.top.z > 3 and found.top.p == pytest.approx(1 / 21)
    assert found.scores[found.texts].diff().max() <= 0 and found.table["text"].tolist() == found.texts.tolist()
    assert found.scores[found.texts].min() >= found.scores.topk(30).values.min()


def test_figures_name_their_null():
    means, kind, _ = bags()
    figures = [greedy(SETS, 3).figure(), simscale(SETS, 3).figure(), mona(means, means.to_dense()[0]).figure()]
    for figure in figures:
        assert any("null" in (trace.name or "") for trace in figure.data) and figure.layout.title.subtitle.text


TEXTS = torch.arange(5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: greedy(SETS, 5), "budget must be 1..4"),
        (lambda: greedy(SETS, 0), "budget must be 1..4"),
        (lambda: simscale(SETS, 2, ratio=0.0), "ratio must be above 0"),
        (lambda: greedy(SETS, 2, tokens=torch.ones(3, dtype=torch.int64)), "of each of 5 texts"),
        (lambda: active_latents(SETS, TEXTS[:3]), "the text of each of 5 rows"),
        (lambda: active_latents(SETS, TEXTS - 1), "numbered from 0"),
        (lambda: active_latents(SETS, TEXTS, count=3), "count must be 5 or more"),
        (lambda: mean_code(SETS, TEXTS, count=6), "text 5 has no rows"),
        (lambda: likeness(SETS, torch.ones(4)), "mean code of 5 latents"),
        (lambda: likeness(SETS, -torch.ones(5)), "5 values are negative"),
        (lambda: likeness(SETS, torch.zeros(5)), "so are 1 texts"),
        (lambda: mona(SETS, torch.ones(5), share=0.01), "share must choose"),
        (lambda: mona(SETS, torch.ones(5), share=1.0).precision(torch.ones(3) > 0), "each of 5 texts"),
    ],
)
def test_bad_input_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Tiny text and induction: their rows obey the documented rules, checked by slow loops written from the rules."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from workbench import testbeds
from workbench.harvest import corpus
from workbench.testbeds.worlds import induction as ind
from workbench.testbeds.worlds import tiny_text as tt

MANY = 10_000


class Says(torch.nn.Module):
    """A model with fixed logits, the same for every row where one row is given."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(len(input_ids), -1, -1))


def near(count: int, n: int, p: float) -> bool:
    """Within four standard deviations of a binomial."""
    return abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p))


# Induction.


@pytest.fixture(scope="module")
def repeats():
    return testbeds.world("induction").sample(MANY, 5)


def test_every_row_repeats_with_its_period_and_every_match_is_what_followed(repeats):
    ids, match, known, periods = (v.tolist() for v in (repeats.ids, repeats.match, repeats.known, repeats.period))
    for row, aims, certain, period in zip(ids, match, known, periods, strict=True):
        assert len(row) == 48 and all(0 <= t < 64 for t in row)
        for i in range(48):
            if i < period:
                assert aims[i] == -1 and not certain[i]
                continue
            assert row[i] == row[i - period]
            assert aims[i] == i - period + 1 <= i
            assert certain[i] == (i < 47)
            if i < 47:
                assert row[i + 1] == row[aims[i]]


def test_periods_are_uniform_and_first_tokens_are_uniform_and_independent(repeats):
    periods = Counter(repeats.period.tolist())
    assert sorted(periods) == list(range(8, 25))
    assert all(near(count, MANY, 1 / 17) for count in periods.values())
    fresh = repeats.ids[:, :8].tolist()  # always inside the first period
    tokens = Counter(t for row in fresh for t in row)
    assert all(near(tokens[t], 8 * MANY, 1 / 64) for t in range(64))
    same = sum(row[i] == row[i + 1] for row in fresh for i in range(0, 8, 2))
    assert near(same, 4 * MANY, 1 / 64)
    first = Counter(row[0] % 2 == period % 2 for row, period in zip(fresh, repeats.period.tolist(), strict=True))
    assert near(first[True], MANY, 1 / 2), "the first token tells the period"


def test_the_scale_of_arguments_is_kept_and_bad_ones_are_refused():
    found = testbeds.world("induction", vocab=5, shortest=2, longest=3, length=7).sample(50)
    assert found.ids.shape == (50, 7) and int(found.ids.max()) == 4
    assert set(found.period.tolist()) == {2, 3}
    for bad in ({"vocab": 1}, {"shortest": 0}, {"shortest": 25}, {"longest": 48}, {"length": 24}):
        with pytest.raises(ValueError, match="shortest <= longest < length, got"):
            testbeds.world("induction", **bad)


def test_attention_to_the_match_by_hand(repeats):
    few = ind.Repeats(*(v[:20] for v in repeats))
    perfect, even = torch.zeros(20, 48, 48), torch.ones(48, 48).tril()
    even = (even / even.sum(1, keepdim=True)).expand(20, 48, 48)
    expected = []
    for row in range(20):
        for i in range(int(few.period[row]), 48):
            perfect[row, i, i - int(few.period[row]) + 1] = 1
            if i < 47:
                expected.append(1 / (i + 1))
    scores = ind.attention_to_match(torch.stack([perfect, even, torch.zeros(20, 48, 48)], 1), few)
    torch.testing.assert_close(scores, torch.tensor([1.0, sum(expected) / len(expected), 0.0]))


def test_the_loss_counts_known_tokens_only(repeats):
    few = ind.Repeats(*(v[:4] for v in repeats))
    logits = torch.randn(4, 48, 64, generator=torch.Generator().manual_seed(0))
    terms = []
    for row in range(4):
        for i in range(int(few.period[row]), 47):
            terms.append(-float(logits[row, i].double().log_softmax(0)[few.ids[row, i + 1]]))
    assert float(ind._loss(Says(logits), few)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


# Tiny text.


def letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for: printable ones themselves, the rest in order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {**{chr(b): b for b in plain}, **{chr(256 + i): b for i, b in enumerate(rest)}}


@pytest.fixture(scope="module")
def pack():
    """Documents of the pack as bytes, with their sources, held out and not: the rule, one draw at a time."""
    whole, rng = corpus("pack"), np.random.default_rng(0)
    sides: dict[bool, list[tuple[bytes, str]]] = {True: [], False: []}
    for text, source in zip(whole.texts, whole.labels["source"].tolist(), strict=True):
        sides[rng.random() < 0.1].append((text.encode(), source))
    return sides


@pytest.fixture(scope="module")
def windows():
    return testbeds.world("tiny_text").sample(MANY, 5)


@pytest.fixture(scope="module")
def words():
    """Each token as bytes; the end of a document as its name."""
    by_id = {i: t for t, i in tt.tokenizer().get_vocab().items()}
    table = letters()
    return [b"<|endoftext|>", *(bytes(table[c] for c in by_id[i]) for i in range(1, 2048))]


def test_tokens_stand_for_the_bytes_they_say(windows, words):
    sizes = [0, *map(len, words[1:])]
    for row, said in zip(windows.ids.tolist(), windows.bytes.tolist(), strict=True):
        assert said == [sizes[t] for t in row]


def test_every_row_is_held_out_text_of_the_source_it_names(windows, words, pack):
    held, at, begins = b"<|endoftext|>".join(text for text, _ in pack[True]), 0, []
    for text, source in pack[True]:
        begins.append((at, source))
        at += len(text) + len(b"<|endoftext|>")

    def source_at(place: int) -> str:
        low, high = 0, len(begins)  # the last document that begins at or before the place
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if begins[middle][0] <= place else (low, middle)
        return begins[low][1]

    for row, label in zip(windows.ids.tolist(), windows.source.tolist(), strict=True):
        needle, place = b"".join(words[t] for t in row), -1
        while (place := held.find(needle, place + 1)) >= 0:  # some passages occur twice
            if source_at(place) == tt.TinyText.sources[label]:
                break
        assert place >= 0, needle


def test_sources_have_the_shares_that_the_truth_states(windows, pack):
    truth = testbeds.world("tiny_text").truth
    size = Counter()
    for text, source in pack[True]:
        size[source] += len(text.decode())
    count = Counter(windows.source.tolist())
    for i, source in enumerate(tt.TinyText.sources):
        assert truth[source] == pytest.approx(size[source] / size.total(), abs=5e-3)  # ends of documents are counted
        assert near(count[i], MANY, truth[source])
    assert sum(truth.values()) == pytest.approx(1, abs=5e-3)


def test_training_rows_are_never_held_out(words, pack):
    held, trained = (b"<|endoftext|>".join(text for text, _ in pack[side]) for side in (True, False))
    batch = tt.TASKS["tiny_text_gelu"].batch(0, 3)
    assert batch.shape == (32, 128)
    for row in batch.tolist():
        needle = b"".join(words[t] for t in row)
        assert needle in trained and needle not in held
    assert not torch.equal(batch, tt.TASKS["tiny_text_gelu"].batch(1, 3)), "the seed changes nothing"
    torch.testing.assert_close(batch, tt.TASKS["tiny_text_gelu"].batch(0, 3))


def test_the_tokenizer_is_small_lossless_and_documented(windows):
    tokenizer = tt.tokenizer()
    assert len(tokenizer) == 2048 and tokenizer.convert_tokens_to_ids("<|endoftext|>") == 0 == tokenizer.eos_token_id
    assert tt.TOKENIZER.stat().st_size <= 200_000
    text = 'naïve café — 東京 🙂\n\tx  "quoted" isn\'t'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert round(float(windows.bytes[windows.ids > 0].float().mean()), 1) == 3.2


def test_a_model_that_knows_nothing_needs_eleven_bits_a_token():
    (found,) = tt._quality(Says(torch.zeros(1, 128, 2048)), 77)
    sizes = testbeds.world("tiny_text").sample(512, 77).bytes[:, 1:].sum(1).tolist()
    assert found.value == pytest.approx(sum(11 * 127 / s for s in sizes) / 512, rel=1e-5)
    assert found.unit == "bits/byte" and not found.higher

"""Transcoders of every layer from one stream: each as if trained alone, read once, resumed, better than a line."""

import time

import pytest
import torch

from workbench.batch import Batch
from workbench.dictionary import recipe, train
from workbench.harvest import corpus
from workbench.regimes import layers
from workbench.testbeds import subject

SITES, D, STEPS = 3, 8, 12


class Counted:
    """Rows of SITES sites; remembers which steps were read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return STEPS

    def describe(self):
        return {"kind": "counted"}

    def batches(self, start=0):
        for step in range(start, STEPS):
            self.read.append(step)
            rng = torch.Generator().manual_seed(step)
            x = torch.randn(64, SITES, D, generator=rng)
            yield Batch(x, x @ torch.full((D, D), 0.1) + x.relu(), torch.arange(64), torch.zeros(64).long())


def work(i, folder=None, **options):
    made = recipe("skip_transcoder", d=D, latents=16, k=2, seed=i)
    home = None if folder is None else folder / str(i)
    return lambda rows: train(
        made, rows, site=None, lr=1e-3, folder=home, progress=False, checkpoint_every=4, **options
    )


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_each_is_what_it_would_be_alone_and_batches_are_read_once_for_all():
    stream = Counted()
    found = layers.together(stream, [work(i) for i in range(SITES)], progress=False)
    assert stream.read == [*range(STEPS), *range(STEPS)], "once to measure, once to train"
    for i, made in enumerate(found):
        [alone] = layers.together(Only(i), [work(i)], progress=False)
        assert equal(made, alone)
    assert not equal(found[0], found[1])


class Only(Counted):
    def __init__(self, i):
        super().__init__()
        self.i = i

    def batches(self, start=0):
        for batch in super().batches(start):
            yield Batch(batch.x[:, [self.i]], batch.y[:, [self.i]], batch.text, batch.pos)


def test_what_was_cut_short_goes_on_even_where_layers_stand_at_different_steps(tmp_path):
    whole = layers.together(Counted(), [work(i) for i in range(SITES)], progress=False)
    with pytest.raises(RuntimeError, match="power cut"):
        layers.together(Counted(), [work(0, tmp_path), broken(work(1, tmp_path), 6), work(2, tmp_path)], progress=False)
    layers.together(Counted(), [work(0, tmp_path, stop=After(3))], progress=False)
    again = Counted()
    found = layers.together(again, [work(i, tmp_path) for i in range(SITES)], progress=False)
    assert all(equal(a, b) for a, b in zip(whole, found, strict=True))
    assert again.read == [*range(4, STEPS)], "from the last checkpoint of whoever stands furthest back, once"
    layers.together(again, [work(i, tmp_path) for i in range(SITES)], progress=False)
    assert again.read == [*range(4, STEPS)], "what is there is loaded"


def test_where_one_fails_the_others_have_left_their_folders(tmp_path):
    left = []

    def slow(rows):
        try:
            return [batch for _ in range(2) for batch in rows.batches()]
        finally:
            time.sleep(0.2)
            left.append(True)

    with pytest.raises(RuntimeError, match="power cut"):
        layers.together(Counted(), [slow, broken(work(1, tmp_path), 6), slow], progress=False)
    assert left == [True, True]


class After:
    def __init__(self, asked):
        self.left = asked

    def __call__(self):
        self.left -= 1
        return self.left < 0


def broken(run, at):
    """Its stream fails at a step of the training, which comes after the measuring."""

    class Fails:
        def __init__(self, rows):
            self.rows, self.turn = rows, 0

        def __len__(self):
            return len(self.rows)

        def describe(self):
            return self.rows.describe()

        def batches(self, start=0):
            self.turn += 1
            for step, batch in enumerate(self.rows.batches(start), start):
                if self.turn == 2 and step == at:
                    raise RuntimeError("power cut")
                yield batch

    return lambda rows: run(Fails(rows))


def test_the_line_is_least_squares_with_the_means_removed():
    found = layers.linear(Counted())
    batches = list(Counted().batches())
    for i in range(SITES):
        x, y = (torch.cat([getattr(b, name)[:, i] for b in batches]).double() for name in ("x", "y"))
        wanted = torch.linalg.lstsq(x - x.mean(0), y - y.mean(0)).solution.T
        torch.testing.assert_close(found[i].double(), wanted, rtol=1e-2, atol=1e-3)


def test_transcoders_of_a_tiny_model_save_variance_that_the_line_leaves_and_are_kept(tmp_path):
    s, texts = subject("tiny_text_gelu"), corpus().texts[:300]
    options = {"latents": 64, "k": 8, "tokens": 30_000, "batch": 4, "length": 64, "folder": tmp_path, "progress": False}
    made = layers.transcoders(s, texts, **options)
    assert list(made.dictionaries) == list(range(s.layers)) and (made.quality.saved_low > 0).all(), made.quality
    assert (made.quality.fvu < 1).all() and (made.quality.l0 <= 8).all()
    again = layers.transcoders(s, texts, **options)
    assert all(equal(made.dictionaries[i], again.dictionaries[i]) for i in made.dictionaries)
    assert again.quality.equals(made.quality)
    one = made.dictionaries[0]
    assert str(one.site) == "0.mlp_in" and str(one.target) == "0.mlp_out" and one.subject == s.fingerprint


def test_too_little_text_is_said(tmp_path):
    with pytest.raises(ValueError, match="tokens are wanted, the texts have"):
        layers.transcoders(subject("tiny_text_gelu"), corpus().texts[:20], tokens=10_000_000, folder=tmp_path)

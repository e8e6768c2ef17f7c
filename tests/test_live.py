"""A live stream gives the subject's own vectors, and its batches finish the forward pass."""

import threading
import time

import pytest
import torch
from fake_subject import FakeSubject, documents, vectors
from models import tiny_llama, tiny_tokenizer

from workbench import edit
from workbench.batch import Exclusion, Stream, Tokens
from workbench.harvest import Live, Mixed, collect
from workbench.site import Site
from workbench.subject import Subject, next_nll

OPTIONS = {"length": 16, "min_length": 4, "batch": 4, "calibrate": 8}


@pytest.fixture(scope="module")
def llama():
    return Subject(tiny_llama(), tiny_tokenizer(bos=True))


@pytest.fixture(scope="module")
def tokens():
    """Full rows, and one padded row."""
    ids = torch.randint(3, 90, (8, 12), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 1
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[3, 9:] = False
    return Tokens(ids, mask)


# Batches


def test_rows_are_the_subjects_at_their_text_and_position():
    subject = FakeSubject()
    live = Live(subject, documents(), site=["0.resid", "1.resid"], target="1.mlp_out", steps=5, **OPTIONS)
    assert isinstance(live, Stream) and len(live) == 5
    for batch in live.batches():
        assert torch.equal(batch.y, vectors(live.tokens, Site(1, "mlp_out"))[batch.text, batch.pos])
        assert torch.equal(batch.x[:, 1], vectors(live.tokens, Site(1, "resid"))[batch.text, batch.pos])
        assert batch.x.shape[1:] == (2, 6) and (batch.pos > 0).all() and len(batch.text.unique()) == 4


def test_a_live_stream_and_a_store_of_the_same_call_hold_the_same_rows(tmp_path):
    store = collect(FakeSubject(), documents(), "1.resid", rows=200, folder=tmp_path / "s", quiet=True, **OPTIONS)
    live = Live(FakeSubject(), documents(), site="1.resid", steps=20, **OPTIONS)
    x = torch.cat([batch.x for batch in live.batches()])[:200]
    assert torch.equal(x, store.gather(torch.arange(200), "1.resid"))
    assert live.exclusion == store.exclusion


def test_it_resumes_at_any_step_and_goes_over_the_corpus_in_new_orders():
    live = Live(FakeSubject(), documents(), site="0.resid", epochs=2, **OPTIONS)
    whole = list(live.batches())
    assert len(whole) == len(live)
    for start in (0, 3, len(live) // 2, len(live) - 1, len(live)):
        rest = list(live.batches(start))
        assert all(torch.equal(a.x, b.x) for a, b in zip(rest, whole[start:], strict=True))
    half = len(live) // 2
    first, second = ([b.text.unique().tolist() for b in part] for part in (whole[:half], whole[half:]))
    assert first != second and len({t for b in first for t in b}) == half * 4 == len({t for b in second for t in b})


def test_the_norm_rule_is_measured_on_the_first_rows_and_holds():
    def spoil(n, h):
        h[Site(0, "resid")][:, 5] *= 1000

    live = Live(FakeSubject(spoil=spoil), documents(), site="0.resid", steps=3, **OPTIONS)
    assert not any((batch.pos == 5).any() for batch in live.batches())
    rule = Exclusion(norm=None)
    live = Live(FakeSubject(spoil=spoil), documents(), site="0.resid", steps=3, exclusion=rule, **OPTIONS)
    assert live.exclusion == rule and any((batch.pos == 5).any() for batch in live.batches())


def test_values_that_are_not_finite_are_refused():
    live = Live(
        FakeSubject(spoil=lambda n, h: h[Site(0, "resid")][1, 4].fill_(torch.nan)),
        documents(),
        site="0.resid",
        steps=2,
        exclusion=Exclusion(norm=None),
        **OPTIONS,
    )
    with pytest.raises(FloatingPointError, match=r"0\.resid is nan at position 4"):
        next(live.batches())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"site": "7.resid"}, "no site 7.resid"),
        ({"site": ["0.resid", "1.mlp_out"]}, "one width"),
        ({"steps": 2, "epochs": 1}, "not both"),
        ({"steps": 0}, "steps must be more than 0"),
        ({"batch": 0}, "batch must be more than 0"),
        ({"of": torch.sum}, "grads=True"),
        ({"batch": 5000}, "one batch needs 5000"),
    ],
)
def test_bad_calls_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        Live(FakeSubject(), documents(), **({"site": "0.resid"} | OPTIONS | change))


def test_a_start_beyond_the_end_is_refused():
    live = Live(FakeSubject(), documents(), site="0.resid", steps=2, **OPTIONS)
    with pytest.raises(ValueError, match="within the stream's 2 steps, got 3"):
        next(live.batches(3))


# Finish


def batch_of(llama, tokens, site, target=None, **options):
    live = Live(llama, tokens, site=site, target=target, batch=8, **options)
    return live, next(live.batches())


SITES = ["1.resid", "0.resid", "1.mlp_out", "0.mlp_out", "2.attn_out", "embed"]


@pytest.mark.parametrize("site", SITES)
def test_its_own_rows_finish_as_the_clean_run(llama, tokens, site):
    live, batch = batch_of(llama, tokens, site)
    clean = llama.run(live.tokens, read=["2.resid"])
    for y in (batch.y, None):
        logits, seen = batch.finish(y, read=["2.resid"])
        torch.testing.assert_close(logits, clean.logits[batch.text, batch.pos], atol=1e-5, rtol=1e-5)
        wanted = clean.h[Site(2, "resid")][batch.text, batch.pos]
        torch.testing.assert_close(seen[Site(2, "resid")], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("site", SITES)
def test_other_rows_finish_as_an_edit_does_and_excluded_rows_stay_clean(llama, tokens, site):
    live, batch = batch_of(llama, tokens, site)
    y = torch.randn_like(batch.y)
    logits, _ = batch.finish(y)

    def put(h, at):
        h = h.clone()
        h[batch.text, batch.pos] = y
        return h

    edited = llama.run(live.tokens, edits={site: edit.function(put)})
    torch.testing.assert_close(logits, edited.logits[batch.text, batch.pos], atol=1e-5, rtol=1e-5)


def test_the_clean_run_is_made_once(llama, tokens, monkeypatch):
    _, batch = batch_of(llama, tokens, "1.mlp_in", "1.mlp_out")
    calls = []
    real = llama.finish
    monkeypatch.setattr(llama, "finish", lambda *a, **k: calls.append(1) or real(*a, **k))
    first, _ = batch.finish(None)
    again, _ = batch.finish(None)
    assert again is first and len(calls) == 1
    _, seen = batch.finish(None, read=["2.resid"])
    batch.finish(None, read=["2.resid"])
    assert len(calls) == 2 and not first.requires_grad and seen[Site(2, "resid")].shape == batch.y.shape


def test_finish_does_not_read_the_block_again(llama, tokens, monkeypatch):
    _, batch = batch_of(llama, tokens, "1.mlp_in", "1.mlp_out")
    monkeypatch.setattr(llama, "read", lambda *a, **k: pytest.fail("the batch knows the block's input"))
    batch.finish(batch.y)


@pytest.mark.parametrize("site", ["1.resid", "1.mlp_out"])
def test_gradients_through_finish_equal_finite_differences(site, tokens):
    subject = Subject(tiny_llama().double(), tiny_tokenizer(bos=True))
    _, batch = batch_of(subject, tokens, site)
    aim = torch.randn(batch.finish(None)[0].shape)

    def score(y):
        return (batch.finish(y)[0] * aim).sum()

    y = batch.y.clone().requires_grad_()
    (grad,) = torch.autograd.grad(score(y), y)
    direction = torch.randn_like(y)
    step = 0.02
    with torch.no_grad():
        slope = (score(batch.y + step * direction) - score(batch.y - step * direction)) / (2 * step)
    torch.testing.assert_close((grad * direction).sum(), slope, rtol=2e-2, atol=1e-2)


def test_finish_refuses_another_number_of_rows(llama, tokens):
    _, batch = batch_of(llama, tokens, "1.resid")
    with pytest.raises(ValueError, match=f"takes the batch's {len(batch.y)} rows, got 3"):
        batch.finish(batch.y[:3])


def test_several_targets_cannot_finish(llama, tokens):
    assert batch_of(llama, tokens, ["0.resid", "1.resid"])[1].finish is None
    assert batch_of(llama, tokens, ["0.resid", "1.resid"], "2.resid")[1].finish is not None


# Gradients


def test_gradients_are_those_of_the_next_token_loss_at_the_rows(llama, tokens):
    live, batch = batch_of(llama, tokens, "1.resid", grads=True)
    clean = llama.read(live.tokens, ["1.resid"])[Site(1, "resid")]
    value = clean.clone().requires_grad_()
    loss = next_nll(llama.finish(live.tokens, "1.resid", value).logits, live.tokens).nansum()
    (wanted,) = torch.autograd.grad(loss, value)
    torch.testing.assert_close(batch.grads, wanted[batch.text, batch.pos], atol=1e-5, rtol=1e-4)
    assert batch_of(llama, tokens, "1.resid")[1].grads is None


def test_gradients_of_another_number(llama, tokens):
    _, batch = batch_of(llama, tokens, ["0.resid", "1.resid"], grads=True, of=lambda logits: logits[..., 5].sum())
    assert batch.grads.shape == batch.x.shape and batch.grads.abs().sum() > 0


def test_the_subject_is_free_between_two_batches(llama, tokens):
    live = Live(llama, tokens, site="1.resid", batch=2)
    batches = live.batches()
    next(batches)
    done = []
    thread = threading.Thread(target=lambda: done.append(llama.read(tokens, ["0.resid"])))
    thread.start()
    thread.join(20)
    assert done, "another thread reads while the generator waits"
    next(batches)


# Mixed


def mixed(subject=None, *, size=30, buffer=400, seed=0, epochs=2, **options):
    live = Live(subject or FakeSubject(), documents(), site="0.resid", epochs=epochs, **(OPTIONS | options))
    return Mixed(live, size, buffer=buffer, seed=seed)


def places(batches):
    return [(int(t), int(p)) for b in batches for t, p in zip(b.text, b.pos, strict=True)]


def test_a_mixed_stream_gives_every_row_of_its_source_once_and_its_own_vectors():
    stream = mixed(size=1, epochs=1)
    assert isinstance(stream, Stream)
    live, batches = stream.source, list(stream.batches())
    wanted = places(live.batches())
    assert len(stream) == len(batches) == len(wanted) and sorted(places(batches)) == sorted(wanted)
    x = torch.cat([b.x for b in batches])
    text, pos = (torch.cat([getattr(b, name) for b in batches]) for name in ("text", "pos"))
    assert torch.equal(x, vectors(live.tokens, Site(0, "resid"))[text, pos])


def test_a_mixed_stream_resumes_at_any_step():
    stream = mixed(epochs=3, target="1.mlp_out", grads=True)
    whole = list(stream.batches())
    assert len(whole) == len(stream) and {len(b.x) for b in whole} == {30}
    again = mixed(epochs=3, target="1.mlp_out", grads=True)
    for start in [*range(0, len(stream), 7), len(stream) - 1, len(stream)]:
        rest = list(again.batches(start))
        assert len(rest) == len(stream) - start
        for a, b in zip(rest, whole[start:], strict=True):
            assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("x", "y", "text", "pos", "grads"))


def test_a_batch_is_mixed_from_many_texts_and_never_from_further_than_the_buffer():
    stream = mixed(epochs=1)
    first = {place: i for i, place in enumerate(places(stream.source.batches()))}
    many = [len(batch.text.unique()) for batch in stream.batches()]
    assert sum(many) / len(many) > 12 > 4  # token rows in a batch of the source
    served = places(stream.batches())
    assert served != list(first)
    assert all(first[place] - i <= 400 and i - first[place] <= 400 for i, place in enumerate(served))
    assert places(mixed(epochs=1, seed=1).batches()) != served


def test_the_order_depends_on_no_clock():
    def slow(said=None):
        pause = torch.rand(400, generator=torch.Generator().manual_seed(3)).tolist()
        return FakeSubject(said=lambda: time.sleep(pause.pop() / 100))

    quick = mixed(epochs=1)
    late = mixed(slow(), epochs=1)
    for i, (a, b) in enumerate(zip(quick.batches(), late.batches(), strict=True)):
        time.sleep(0.01 * (i % 3))
        assert torch.equal(a.x, b.x)


def test_the_subject_reads_no_further_ahead_than_half_the_buffer():
    subject = FakeSubject()
    stream = mixed(subject, epochs=1)
    before = subject.reads
    per_chunk = stream._steps
    batches = stream.batches()
    assert per_chunk > 2 and subject.reads == before
    for _ in range(3):
        next(batches)
        time.sleep(0.1)
        assert subject.reads - before <= 2 * per_chunk + 1  # what is served, and as much again
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("store")]


def test_an_error_of_the_subject_reaches_the_reader_and_ends_the_thread():
    def spoil(n, h):
        if n == 25:
            h[Site(0, "resid")][1, 4] = torch.nan

    stream = mixed(FakeSubject(spoil=spoil), epochs=1, exclusion=Exclusion(norm=None))
    with pytest.raises(FloatingPointError, match=r"0\.resid is nan"):
        list(stream.batches())
    assert not [t for t in threading.enumerate() if t.name.startswith("store")]


def test_rows_that_the_norm_rule_leaves_out_leave_their_places_empty():
    def spoil(n, h):
        h[Site(0, "resid")][:, 5] *= 1000

    stream = mixed(FakeSubject(spoil=spoil), epochs=1)
    batches = list(stream.batches())
    assert not any((batch.pos == 5).any() for batch in batches)
    plain = list(mixed(epochs=1, exclusion=Exclusion(norm=None)).batches())
    for batch, other in zip(batches, plain, strict=True):
        kept = other.pos != 5
        assert torch.equal(batch.text, other.text[kept]) and torch.equal(batch.pos, other.pos[kept])


def test_others_may_use_the_subject_while_a_mixed_stream_reads(llama, tokens):
    live = Live(llama, tokens, site="1.resid", batch=2, epochs=20)
    alone = [b.x for b in Mixed(live, 8, buffer=80).batches()]
    wanted = llama.read(tokens, ["0.resid"])[Site(0, "resid")]
    shared = []
    for batch in Mixed(live, 8, buffer=80).batches():
        assert torch.equal(llama.read(tokens, ["0.resid"])[Site(0, "resid")], wanted)
        shared.append(batch.x)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_a_dictionary_trains_on_a_mixed_stream(tmp_path):
    from workbench import recipe, train

    made = recipe("topk_auxk", d=6, latents=24, k=2)
    one = train(made, mixed(), site="0.resid", folder=tmp_path, progress=False)
    again = train(made, mixed(), site="0.resid", progress=False)
    assert torch.equal(one.atoms(), again.atoms())
    says = mixed().describe()
    assert says["kind"] == "mixed" and says["steps"] == len(mixed()) and says["site"] == "0.resid"
    assert says != mixed(seed=1).describe() != mixed(buffer=500).describe()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 0}, "1 to [0-9,]+ rows"),
        ({"size": 10**6}, "as many as the source gives"),
        ({"buffer": 60}, "half the buffer"),
    ],
)
def test_bad_mixes_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        mixed(**change)
    stream = mixed()
    with pytest.raises(ValueError, match="start must be within"):
        next(stream.batches(len(stream) + 1))

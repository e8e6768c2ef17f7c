"""A live stream gives the subject's own vectors, and its batches finish the forward pass."""

import threading

import pytest
import torch
from fake_subject import FakeSubject, documents, vectors
from models import tiny_llama, tiny_tokenizer

from workbench import edit
from workbench.batch import Exclusion, Stream, Tokens
from workbench.harvest import Live, collect
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

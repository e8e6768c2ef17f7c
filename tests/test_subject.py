"""The subject's doors, each against a slower way to the same numbers."""

import gc
import threading

import models
import pytest
import torch
from torch.nn.functional import cross_entropy

import workbench as wb
from workbench import edit
from workbench.batch import Tokens
from workbench.edit import Edit
from workbench.site import STREAMS, Site
from workbench.subject import next_nll

NAMES = list(models.DECODERS)


def ids(rows=2, length=9, seed=1):
    return torch.randint(3, models.VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def make(name="llama", **more):
    return wb.Subject(models.DECODERS[name](), models.tiny_tokenizer(), name=name, **more)


def hooked(subject, site, change, tokens):
    """Logits of a run in which a plain hook changes a site."""
    port = subject.plan.port(Site.of(site))
    module = subject.model.get_submodule(port.path)

    def before(_, args, kwargs):
        if args:
            return (change(args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, kwargs | {name: change(kwargs[name])}

    def after(_, args, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = (
        module.register_forward_pre_hook(before, with_kwargs=True)
        if port.side == "in"
        else module.register_forward_hook(after)
    )
    with torch.no_grad():
        logits = subject.model(tokens, use_cache=False).logits
    handle.remove()
    return logits


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_at_every_stream_equals_a_raw_hook(name):
    subject, tokens = make(name), ids()
    for site in ["embed", *(f"1.{s}" for s in STREAMS)]:
        vector = torch.linspace(-1, 1, subject.width(site))

        def change(h, vector=vector):
            h = h.clone()
            h[:, 1:] += vector  # the first position is left alone
            return h

        got = subject.run(tokens, {site: edit.add(vector)}).logits
        assert (got - hooked(subject, site, change, tokens)).abs().max() <= 1e-6, site


@pytest.mark.parametrize("name", NAMES)
def test_an_identity_edit_changes_nothing(name):
    for dtype in ("float32", "bfloat16"):
        subject, tokens = make(name, dtype=dtype), ids()
        clean = subject.run(tokens).logits
        for site in ("0.resid", "1.mlp_out", "2.heads"):
            assert (subject.run(tokens, {site: edit.function(lambda h, at: h)}).logits - clean).abs().max() < 1e-4


def test_what_is_read_is_what_the_edits_left():
    subject, tokens = make(), ids()
    run = subject.run(
        tokens, {"1.resid": edit.zero(), "1.mlp_out": edit.zero()}, read=["1.resid", "1.mlp_out", "2.resid"]
    )
    assert not run.h[Site(1, "resid")][:, 1:].any()
    assert run.h[Site(1, "resid")][:, 0].any()
    assert not run.h[Site(1, "mlp_out")][:, 1:].any()


def test_special_tokens_and_padding_are_left_alone():
    subject = make()
    tokens = subject.pad([[1, 5, 1, 6, 7], [8, 9]])
    moved = subject.run(tokens, {"1.resid": edit.add(torch.ones(32))}, read=["1.resid"]).h[Site(1, "resid")]
    still = subject.read(tokens, ["1.resid"])[Site(1, "resid")]
    assert ((moved != still).any(-1)).tolist() == [[False, True, False, True, True], [False, True, False, False, False]]


@pytest.mark.parametrize("name", NAMES)
def test_ragged_prompts_equal_the_same_run_singly(name):
    subject = make(name)
    texts = ["w1 w2 w3 w4 w5 w6", "w7 w8", "w9 w10 w11 w12"]
    together, alone = subject.run(texts).logits, [subject.run(t).logits[0] for t in texts]
    for row, single in zip(together, alone, strict=True):
        torch.testing.assert_close(row[: len(single)], single, rtol=1e-4, atol=1e-4)
    batch, each = subject.generate(texts, new=6), [subject.generate(t, new=6) for t in texts]
    assert batch.new_texts == [one.new_texts[0] for one in each]
    torch.testing.assert_close(
        batch.logprobs, torch.cat([o.logprobs for o in each]), rtol=1e-4, atol=1e-4, equal_nan=True
    )


@pytest.mark.parametrize("name", NAMES)
def test_greedy_generation_equals_the_librarys(name):
    subject = make(name)
    prompt = ids(1, 5)
    theirs = subject.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
    ours = subject.generate(prompt, new=8).tokens.ids
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_edits_under_a_cache_equal_edits_without_one(name):
    subject, prompt = make(name), ids(2, 6)
    subject.model.generation_config.eos_token_id = []  # no early end: every step is compared
    for change in (
        edit.add(3 * torch.ones(32)),
        edit.add(torch.ones(32)).prompt(),
        edit.add(torch.ones(32)).generated(),
    ):
        got = subject.generate(prompt, {"1.resid": change}, new=5)
        rows = prompt
        for step in range(5):
            fresh = torch.arange(rows.shape[1]) >= 6

            def again(h, at, fresh=fresh, change=change):
                return change(h, at._replace(prompt=~fresh.expand(h.shape[:2])))

            everywhere = Edit(again, lambda h, at: at.real)
            logits = subject.run(rows, {"1.resid": everywhere}).logits[:, -1]
            rows = torch.cat([rows, logits.argmax(-1, keepdim=True)], 1)
            given = logits.log_softmax(-1).max(-1).values
            torch.testing.assert_close(got.logprobs[:, step], given, rtol=1e-3, atol=1e-3)
        assert got.tokens.ids.tolist() == rows.tolist()


def test_generation_streams_stops_samples_and_ends():
    subject, prompt = make(), "w1 w2 w3"
    seen = []
    done = subject.generate(prompt, new=9, on_token=lambda t: seen.append(int(t)), stop=lambda: len(seen) == 4)
    assert done.tokens.ids[0, 3:].tolist() == seen
    assert len(seen) == 4
    one, two, other = (subject.generate(prompt, new=9, temperature=1.5, seed=s).tokens.ids for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    first = int(subject.generate(prompt, new=1).tokens.ids[0, -1])
    subject.model.generation_config.eos_token_id = first
    ended = subject.generate([prompt, "w7 w9 w20"], new=5)
    assert int(ended.tokens.mask[0].sum()) == 4, "the row ends with its end token"
    assert ended.logprobs[0, 1:].isnan().all() or ended.logprobs.shape[1] == 1


def test_an_event_stops_a_generation():
    event = threading.Event()
    done = make().generate("w1 w2", new=9, on_token=lambda t: event.set(), stop=event)
    assert done.logprobs.shape == (1, 1)


def test_an_answer_to_a_chat_begins_with_the_templates_opening():
    subject = make()
    chat = [{"role": "user", "content": "w5 w6"}]
    done = subject.generate(chat, new=1)
    assert subject.words(done.tokens.ids[0])[:4] == ["w1", "w5", "w6", "w2"]
    assert torch.equal(done.tokens.ids, subject.generate("w1 w5 w6 w2", new=1).tokens.ids)


def test_a_model_without_a_language_head_says_so():
    subject = wb.Subject(models.tiny_bert(), models.tiny_tokenizer())
    for door in (subject.generate, subject.nll, lambda text: subject.gradients(text, ["1.resid"])):
        with pytest.raises(ValueError, match="predicts no tokens"):
            door("w1 w2")


def test_a_table_of_positions_is_not_overrun():
    subject = make("gpt2")
    with pytest.raises(ValueError, match="64 positions, 80 are asked for"):
        subject.run(ids(1, 80))
    with pytest.raises(ValueError, match="64 positions, 70 are asked for"):
        subject.generate(ids(1, 60), new=10)
    assert make("llama").longest is None


def test_longest_where_positions_start_behind_a_padding_row():
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = RobertaConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=20, pad_token_id=1,
    )  # fmt: skip
    subject = wb.Subject(RobertaForMaskedLM(config))
    assert subject.longest == 18
    subject.run(torch.arange(18)[None] + 5)
    with pytest.raises(ValueError, match="18 positions, 19"):
        subject.run(torch.arange(19)[None] + 5)


def test_a_chat_goes_through_the_template():
    subject = make()
    chat = [{"role": "user", "content": "w5 w6"}]
    assert subject.words(subject.tokenize(chat).ids[0]) == ["w1", "w5", "w6"]
    assert subject.words(subject.tokenize(chat, generate=True).ids[0]) == ["w1", "w5", "w6", "w2"]
    assert subject.tokenize([chat, chat]).ids.shape == (2, 3)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_plain_autograd(name):
    subject, tokens = make(name), ids()
    sites = ["1.resid", "1.mlp_out", "2.attn_in"]
    got = subject.gradients(tokens, sites)
    kept = {}
    handles = []
    for site in sites:
        port = subject.plan.port(Site.of(site))
        module = subject.model.get_submodule(port.path)

        def out(m, a, o, site=site):
            t = o[0] if isinstance(o, tuple) else o
            kept[site] = t if t.requires_grad else t.requires_grad_()

        def inp(m, a, k, site=site):
            t = a[0] if a else next(iter(k.values()))
            kept[site] = t

        handles.append(
            module.register_forward_pre_hook(inp, with_kwargs=True)
            if port.side == "in"
            else module.register_forward_hook(out)
        )
    embedded = subject.model.get_input_embeddings()(tokens).requires_grad_()
    logits = subject.model(inputs_embeds=embedded, use_cache=False).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    want = torch.autograd.grad(loss, [kept[s] for s in sites])
    for handle in handles:
        handle.remove()
    for site, w in zip(sites, want, strict=True):
        torch.testing.assert_close(got[Site.of(site)], w, rtol=1e-4, atol=1e-5)


def test_gradients_of_an_image_model_follow_any_score():
    subject, image = wb.Subject(models.tiny_vit()), torch.randn(2, 3, 16, 16)
    got = subject.gradients(image, ["2.resid"], of=lambda out: out[:, 0].sum())[Site(2, "resid")]
    leaf = subject.read(image, ["2.resid"])[Site(2, "resid")].requires_grad_()
    (want,) = torch.autograd.grad(subject.model.layernorm(leaf)[:, 0].sum(), leaf)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_finishing_from_the_middle_equals_a_patched_run(name):
    subject, tokens = make(name), ids()
    runs = []
    handles = [
        subject.model.get_submodule(p).register_forward_pre_hook(lambda m, a: None) for p in subject.plan.blocks[:0]
    ]
    inner = [subject.model.get_submodule(p.path) for p in subject.plan.streams["mlp_out"]]
    handles += [m.register_forward_hook(lambda m, a, o, i=i: runs.append(i)) for i, m in enumerate(inner)]
    for site in ("1.resid", "1.mlp_out", "2.attn_out", "embed"):
        value = torch.randn(2, 9, subject.width(site))
        want = subject.run(tokens, {site: edit.patch(value).everywhere()}).logits
        before = subject.read(tokens, ["0.resid", "1.resid"])
        runs.clear()
        leaf = value.clone().requires_grad_()
        given = {"1.mlp_out": before[Site(0, "resid")], "2.attn_out": before[Site(1, "resid")]}.get(site)
        run = subject.finish(tokens, site, leaf, read=["2.resid"], before=given)
        torch.testing.assert_close(run.logits, want, rtol=1e-5, atol=1e-5)
        assert min(runs) == {"1.resid": 2, "1.mlp_out": 1, "2.attn_out": 2, "embed": 0}[site], (
            "earlier blocks do not run"
        )
        (slope,) = torch.autograd.grad(run.logits[0, 4].square().sum(), leaf)
        nudge = torch.randn_like(value)
        moved = subject.finish(tokens, site, (value + 1e-3 * nudge), before=given).logits[0, 4].double().square().sum()
        less = subject.finish(tokens, site, (value - 1e-3 * nudge), before=given).logits[0, 4].double().square().sum()
        numeric = (moved - less) / 2e-3
        assert abs(float(numeric - (slope * nudge).sum())) <= 0.03 * (1 + abs(float(numeric)))
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", NAMES)
def test_patterns_are_the_models_own_probabilities(name):
    subject, tokens = make(name), ids()
    got = subject.patterns(tokens, 1)
    subject.model.set_attn_implementation("eager")
    with torch.no_grad():
        want = subject.model(tokens, output_attentions=True).attentions[1]
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got.sum(-1), torch.ones(got.shape[:-1]))


@pytest.mark.parametrize("name", NAMES)
def test_the_lens_ends_in_the_models_logits_with_one_norm(name):
    subject, tokens = make(name), ids()
    logits = subject.run(tokens).logits
    lens = subject.lens(tokens)
    torch.testing.assert_close(lens[-1], logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(lens[0], logits, atol=0.1)
    torch.testing.assert_close(subject.lens(tokens, [2])[0], lens[2])


@pytest.mark.parametrize("name", NAMES)
def test_head_effects_add_up_to_what_attention_writes(name):
    """Frozen norms are linear: heads, MLPs, embedding and biases together give the logit difference."""
    from workbench.subject.inside import denominator

    subject, tokens = make(name), ids()
    direction = subject.unembed[7] - subject.unembed[9]
    by_head = subject.head_effects(tokens, direction)
    assert by_head.shape == (2, 9, 3, 4)
    h = subject.read(tokens, [*(f"{i}.attn_out" for i in range(3)), "2.resid"])
    w = direction * subject.gain
    w = w - w.mean() if subject.centred else w
    norm = subject._head()[0]
    scale = denominator(norm, h[Site(2, "resid")], subject.gain, subject.centred, subject.dtype)
    for layer in range(3):
        projection = subject.model.get_submodule(subject.plan.port(Site(layer, "heads")).path)
        bias = torch.zeros(32) if projection.bias is None else projection.bias
        total = (h[Site(layer, "attn_out")] - bias) @ w * scale
        torch.testing.assert_close(by_head[:, :, layer].sum(-1), total, rtol=2e-3, atol=2e-3)


def test_the_head_is_gain_then_unembedding():
    subject = make()
    h = torch.randn(5, 32)
    normal = h / h.square().mean(-1, keepdim=True).add(subject.model.config.rms_norm_eps).sqrt()
    torch.testing.assert_close(subject.logits_of(h), normal @ (subject.unembed * subject.gain).T, rtol=1e-4, atol=1e-4)
    assert not subject.centred
    assert make("gpt2").centred


def test_nll_is_the_cross_entropy_of_real_tokens():
    subject = make()
    tokens = subject.pad([[5, 6, 7, 8], [9, 10]])
    nll = subject.nll(tokens)
    logits = subject.run(tokens).logits
    assert nll.isnan().tolist() == [[True, False, False, False], [True, False, True, True]]
    torch.testing.assert_close(nll[0, 1:], cross_entropy(logits[0, :-1], tokens.ids[0, 1:], reduction="none"))
    assert torch.equal(next_nll(logits, tokens).nan_to_num(), nll.nan_to_num())


def test_many_threads_get_what_one_gets():
    subject = make()
    work = [ids(2, 5 + i % 3, seed=i) for i in range(24)]
    alone = [subject.read(w, ["1.resid"])[Site(1, "resid")] for w in work]
    spoken = subject.generate("w1 w2", new=4).new_texts
    found, wrong = {}, []

    def run(part):
        try:
            for i in part:
                found[i] = subject.read(work[i], ["1.resid"])[Site(1, "resid")]
                if subject.generate("w1 w2", new=4).new_texts != spoken:
                    wrong.append(i)
        except Exception as error:  # noqa: BLE001 (a thread's error must reach the test)
            wrong.append(repr(error))

    threads = [threading.Thread(target=run, args=(range(n, 24, 8),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(torch.equal(found[i], alone[i]) for i in range(24))


def test_memory_is_flat_over_a_thousand_batches():
    """A stopped trace leaves cycles that hold activations: those of three reads at most wait for a collection."""
    subject, tokens = make(), ids(3, 11)

    def alive():
        found = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        return sum(1 for o in found if o.ndim == 3 and o.shape[:2] == (3, 11)), len(found)

    seen = []
    for i in range(1000):
        subject.read(tokens, ["1.resid"])
        if i < 16 or i % 61 == 0:
            seen.append(alive())
    activations, tensors = zip(*seen, strict=True)
    assert max(activations) <= 16, f"{max(activations)} activations are alive at once"
    assert max(tensors[16:]) <= max(tensors[:16]), "what is alive grows with the batches"


def test_the_users_own_nnsight_object_is_kept():
    from nnsight import NNsight, TransformersModel

    model, tokenizer = models.tiny_llama(), models.tiny_tokenizer()
    for wrapped in (NNsight(model), TransformersModel(model, tokenizer=tokenizer, task="text-generation")):
        subject = wb.Subject(wrapped, tokenizer)
        assert subject.nnsight is wrapped
        assert torch.equal(subject.run(ids()).logits, make().run(ids()).logits)
    with torch.no_grad(), subject.lock, subject.nnsight.trace("w5 w6 w7"):
        free = subject.nnsight.model.layers[1].output.save()
    torch.testing.assert_close(free, subject.read("w5 w6 w7", ["1.resid"])[Site(1, "resid")])


def test_a_fingerprint_stands_for_weights_and_tokenizer():
    one = make().fingerprint
    assert make().fingerprint == one
    assert make(dtype="bfloat16").fingerprint == one, "the same model in another dtype"
    changed = models.tiny_llama()
    with torch.no_grad():
        changed.model.norm.weight[3] += 1e-3
    assert wb.Subject(changed, models.tiny_tokenizer()).fingerprint != one
    assert wb.Subject(models.tiny_llama(), models.tiny_tokenizer(bos=True)).fingerprint != one
    other = models.tiny_llama()
    other.config.rms_norm_eps = 1e-2
    assert wb.Subject(other, models.tiny_tokenizer()).fingerprint != one, "the same weights used otherwise"


def test_the_faster_dtype_is_taken_and_said():
    subject = make(dtype="auto")
    assert subject.dtype_note.startswith(str(subject.dtype).removeprefix("torch."))
    assert "float32 took" in subject.dtype_note
    assert subject.read(ids(), ["1.resid"])[Site(1, "resid")].dtype == torch.float32


@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_dtype_not_taken_leaves_no_trace(name, faster, monkeypatch):
    seconds = iter([0, 1, 0, 2] if faster == "float32" else [0, 2, 0, 1])
    monkeypatch.setattr("workbench.subject.core.time.perf_counter", lambda: next(seconds))
    subject, plain = make(name, dtype="auto"), models.DECODERS[name]()
    assert str(subject.dtype) == f"torch.{faster}"
    for key, value in plain.state_dict().items():
        assert torch.equal(subject.model.state_dict()[key], value.to(subject.dtype)), key
    buffers = dict(plain.named_buffers())
    for key, value in subject.model.named_buffers():
        if key not in plain.state_dict():
            assert torch.equal(value, buffers[key]), "rotary frequencies are not rounded"


def test_the_table_of_sites_names_modules_and_widths():
    table = make("gemma3").sites()
    row = table[table["site"] == "1.heads"].iloc[0]
    assert (row["module"], row["side"], row["width"]) == ("model.layers.1.self_attn.o_proj", "in", 48)
    assert len(table) == 19


def test_a_folder_is_opened(tmp_path):
    models.tiny_llama().save_pretrained(tmp_path)
    models.tiny_tokenizer().save_pretrained(tmp_path)
    subject = wb.Subject(str(tmp_path))
    torch.testing.assert_close(subject.run(ids()).logits, make().run(ids()).logits)
    assert subject.words([5]) == ["w2"]
    assert not any(p.requires_grad for p in subject.model.parameters())
    assert subject.fingerprint == make().fingerprint


def test_a_folder_is_the_same_model_in_whichever_dtype_it_is_opened(tmp_path):
    models.tiny_gemma3().to(torch.bfloat16).save_pretrained(tmp_path)
    models.tiny_tokenizer().save_pretrained(tmp_path)
    folder = str(tmp_path)
    opened = [wb.Subject(folder, dtype=d) for d in (None, "float32", "bfloat16")]
    assert len({s.fingerprint for s in opened}) == 1
    assert [s.dtype for s in opened] == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_an_nnsight_object_that_has_not_loaded_its_weights_is_loaded(tmp_path):
    from nnsight import TransformersModel

    models.tiny_llama().save_pretrained(tmp_path)
    lazy = TransformersModel(str(tmp_path), tokenizer=models.tiny_tokenizer(), task="text-generation")
    assert next(lazy._module.parameters()).is_meta
    assert torch.equal(wb.Subject(lazy).run(ids()).logits, make().run(ids()).logits)


def test_a_hub_id_without_a_hub_is_one_line():
    with pytest.raises(ValueError, match="nobody/nothing could not be opened") as caught:
        wb.Subject("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        (
            lambda s: s.run("w1", {"0.resid": edit.zero(), "1.resid": torch.ones(32)}),
            TypeError,
            "an edit is wanted at 1.resid",
        ),
        (lambda s: s.head_effects("w1", torch.ones(31)), ValueError, r"must be \(32,\)"),
        (lambda s: s.tokenize("w1", length=0), ValueError, "1 or more"),
        (lambda s: s.gradients("w1 w2", []), ValueError, "at least one"),
        (lambda s: s.patterns("w1", 3), ValueError, "layer must be 0 to 2"),
        (lambda s: wb.Subject(s.model, device="gpu"), ValueError, "device must be"),
        (lambda s: wb.Subject(s.model, dtype=torch.int8), ValueError, "dtype must be"),
    ],
)
def test_a_wrong_call_is_one_clear_line(wrong, kind, words):
    with pytest.raises(kind, match=words) as caught:
        wrong(make())
    assert "\n" not in str(caught.value)


def test_a_chat_needs_a_template():
    subject = make()
    subject.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        subject.tokenize([{"role": "user", "content": "w5"}])


def test_tokens_on_either_side_of_padding_read_alike():
    subject = make()
    right, left = subject.pad([[5, 6, 7, 8], [9, 10]]), subject.pad([[5, 6, 7, 8], [9, 10]], left=True)
    a, b = (subject.read(t, ["2.resid"])[Site(2, "resid")] for t in (right, left))
    torch.testing.assert_close(a[1, :2], b[1, 2:], rtol=1e-4, atol=1e-4)
    assert isinstance(right, Tokens)


@pytest.mark.smollm2
def test_the_default_subject_knows_its_english():
    subject = wb.Subject("smollm2-135m")
    prompt = "When Mary and John went to the store, John gave a drink to"
    assert subject.generate(prompt, new=1).new_texts == [" Mary"]
    h = subject.read("The quick brown fox jumps over the lazy dog near the river bank.", ["8.resid"])[Site(8, "resid")]
    norms = h.norm(dim=-1)[0]
    assert norms[0] > 3 * norms[1:].median(), "the first position is massive"
    assert subject.layers == 30
    assert subject.d == 576
    assert "dequantised" in subject.note

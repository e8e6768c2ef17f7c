"""Fast paths against plain autograd on dense matrices, in float64, on every output and gradient."""

import copy
import inspect

import pytest
import test_variants
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from planted import Planted

from workbench import catalogue
from workbench.batch import Batch
from workbench.code import Code
from workbench.dictionary import Dictionary, Progress, decoders, encoders, kernels, losses, recipe, sparsifiers, train
from workbench.dictionary.kernels import tile

AT = Progress(5, 500, 1000)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of five rows, so that few rows already make several and the last is cut short."""
    monkeypatch.setattr(tile, "TILE", 0)
    monkeypatch.setattr(tile, "ROWS", 5)
    monkeypatch.setattr(tile, "MOST", 5)


def dictionary(kind, rows, latents, k, d, rng, *, center=True, bias=True, ties=False):
    """A dictionary in float64 with every parameter moved off its start, and rows for it."""
    sparsifier = {
        "topk": lambda: sparsifiers.TopK(k, latents),
        "multi": lambda: sparsifiers.TopK(k, latents, wide=min(2 * k, latents)) if k < latents else None,
        "batch": lambda: sparsifiers.BatchTopK(k, latents),
    }[kind]() or sparsifiers.TopK(k, latents)
    made = Dictionary(
        encoders.Linear((d,), latents, center=center, bias=bias), sparsifier, decoders.Linear(latents, (d,))
    )
    made = made.double()
    x = torch.randn(rows, d, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=rng, dtype=torch.float64))
        if ties:  # small whole numbers: many pre-activations are equal, exactly
            x = x.round()
            for p in made.parameters():
                p.copy_(p.round())
    return made, Batch(x, 2 * x.flip(0))


def terms(kind, latents, dead, aux):
    found = {"mse": losses.mse(), "auxk": losses.auxk(aux, 0.5)}
    if kind == "multi":
        found["multi"] = losses.wide_mse(0.3)
    if kind == "batch":
        found["nested"] = losses.nested_mse(sorted({1, latents // 2 or 1, latents}), latents)
    return found


def outcome(d, batch, losses_, dead, path, monkeypatch):
    """Code, reconstruction, losses, and the gradient of everything, by one path."""
    monkeypatch.setenv("WORKBENCH_KERNELS", path)
    d.zero_grad()
    x = batch.x.clone().requires_grad_()
    seen = d.run(Batch(x, batch.y), needs=frozenset({"pre_dead"}), dead=dead)
    values = {name: term.loss(seen, d, AT) for name, term in losses_.items()}
    sum(values.values()).backward()
    return {
        "code": seen.code.to_dense().detach(),
        "wide": seen.wide.to_dense().detach(),
        "y_hat": seen.y_hat.detach(),
        "pre_dead": seen.pre_dead if seen.pre_dead is None else seen.pre_dead.detach(),
        "x": x.grad,
        **{f"loss of {n}": v.detach() for n, v in values.items()},
        **{f"gradient of {n}": p.grad for n, p in d.named_parameters()},
    }


def compare(fast, slow):
    assert fast.keys() == slow.keys()
    for name, a in fast.items():
        b = slow[name]
        if a is None or b is None:
            zero = b if a is None else a
            assert zero is None or not zero.any(), f"{name}: one path gives none"
        else:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["topk", "multi", "batch"]),
    rows=st.integers(1, 23),
    latents=st.integers(1, 90),
    k=st.integers(1, 12),
    d=st.integers(1, 9),
    dead=st.floats(0, 1),
    aux=st.integers(1, 7),
    center=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 10_000),
)
@example(kind="batch", rows=1, latents=1, k=1, d=1, dead=1.0, aux=1, center=True, bias=True, seed=0)
@example(kind="topk", rows=23, latents=90, k=12, d=9, dead=1.0, aux=7, center=False, bias=False, seed=1)
def test_every_output_and_gradient_equals_the_dense_one(kind, rows, latents, k, d, dead, aux, center, bias, seed):
    rng = torch.Generator().manual_seed(seed)
    made, batch = dictionary(kind, rows, latents, min(k, latents), d, rng, center=center, bias=bias)
    which = (torch.rand(latents, generator=rng) < dead).nonzero().flatten()
    with pytest.MonkeyPatch.context() as patch:
        used = terms(kind, latents, which, aux)
        compare(*(outcome(copy.deepcopy(made), batch, used, which, p, patch) for p in ("sparse", "dense")))


@pytest.mark.parametrize("kind", ["topk", "batch"])
def test_empty_rows_and_nothing_positive_send_no_gradient_to_the_encoder(kind, monkeypatch):
    made, batch = dictionary(kind, 12, 30, 3, 4, torch.Generator().manual_seed(0))
    made.encoder.bias.data.fill_(-1e3)
    which = torch.arange(30)  # all dead
    used = terms(kind, 30, which, 4)
    fast, slow = (outcome(copy.deepcopy(made), batch, used, which, p, monkeypatch) for p in ("sparse", "dense"))
    compare(fast, slow)
    assert not fast["code"].any() and not fast["gradient of encoder.weight"].any()
    made.encoder.bias.data[:3] = 1e4  # some rows full, none empty, and the other way round
    batch.x[::2] *= -1
    compare(*(outcome(copy.deepcopy(made), batch, used, which, p, monkeypatch) for p in ("sparse", "dense")))


@pytest.mark.parametrize("kind", ["topk", "multi", "batch"])
@pytest.mark.parametrize("seed", range(10))
def test_of_equal_latents_as_many_are_taken_as_a_full_sort_takes(kind, seed, monkeypatch):
    """Which of equal latents is taken is free; how many and how large is not, and no latent is taken twice."""
    made, batch = dictionary(kind, 17, 40, 3, 3, torch.Generator().manual_seed(seed), ties=True)
    pre = made.encoder(batch.x * made.scale_in, made.decoder).detach()
    flat = pre.flatten() if kind == "batch" else pre
    wanted = flat.sort(-1, descending=True).values[..., : 3 * 17 if kind == "batch" else 3].relu()
    assert len(pre.unique()) < pre.numel() / 4, "there are no ties"
    for path in ("sparse", "dense"):
        code = outcome(copy.deepcopy(made), batch, {"mse": losses.mse()}, None, path, monkeypatch)["code"]
        found = code.flatten() if kind == "batch" else code
        found = found.sort(-1, descending=True).values
        n = wanted.shape[-1]
        torch.testing.assert_close(found[..., :n], wanted, rtol=0, atol=0)
        assert not found[..., n:].any(), "more were taken than asked for"
        torch.testing.assert_close(code[code != 0], pre[code != 0], rtol=0, atol=0)


def test_a_batch_topk_choice_does_not_depend_on_where_it_looked_first():
    rng = torch.Generator().manual_seed(3)
    pre = torch.randn(31, 50, generator=rng)
    found = []
    for low in (0.0, 0.5, 1.9, 3.5, 50.0):
        s = sparsifiers.BatchTopK(4, 50)
        s._low = low
        code = s.choose(lambda: iter(pre.split(7)), 31)
        found.append(code.to_dense())
        assert s._low == float(code.values.min())
    assert all(torch.equal(found[0], other) for other in found)
    torch.testing.assert_close(found[0], sparsifiers.BatchTopK(4, 50)(pre).to_dense(), rtol=0, atol=0)


def test_a_step_never_holds_rows_x_latents_numbers(monkeypatch):
    monkeypatch.undo()
    made = recipe("topk_auxk", d=8, latents=20_000, k=4).dictionary
    sizes = []
    product = encoders.Linear.forward

    def watched(self, x, decoder):
        out = product(self, x, decoder)
        sizes.append(out.numel())
        return out

    monkeypatch.setattr(encoders.Linear, "forward", watched)
    x = torch.randn(4096, 8)
    made.run(Batch(x, x)).y_hat.sum().backward()
    made.freeze().encode(x)
    assert sum(sizes) == 2 * 4096 * 20_000 and max(sizes) <= 256 * 20_000


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(2, 40), st.integers(1, 5), st.sampled_from(["fixed", "csr", "dense"]), st.data())
def test_prefixes_are_the_decodes_of_the_first_latents(rows, latents, d, layout, data):
    widths = sorted({*data.draw(st.lists(st.integers(1, latents), max_size=4)), latents})
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    pre = torch.randn(rows, latents, generator=rng, dtype=torch.float64, requires_grad=True)
    atoms = torch.randn(latents, d, generator=rng, dtype=torch.float64, requires_grad=True)
    if layout == "fixed":
        where = pre.detach().topk(min(3, latents), dim=-1).indices
        code = Code.fixed(where, pre.gather(1, where), latents)
    else:
        code = Code.dense(pre.relu())
        code = code.to_csr() if layout == "csr" else code
    found = kernels.prefixes(code, atoms, widths)
    z = code.to_dense()
    wanted = torch.stack([z[:, :m] @ atoms[:m] for m in widths])
    torch.testing.assert_close(found, wanted)
    pull = torch.randn(wanted.shape, generator=rng, dtype=torch.float64)
    fast, slow = (torch.autograd.grad((v * pull).sum(), [pre, atoms], retain_graph=True) for v in (found, wanted))
    torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("widths", [[], [4, 2, 8], [2, 4], [0, 8], [8, 8]])
def test_widths_that_do_not_grow_to_the_end_are_refused(widths):
    with pytest.raises(ValueError, match="widths must grow from 1 or more to latents=8"):
        kernels.prefixes(Code.dense(torch.zeros(1, 8)), torch.zeros(8, 2), widths)
    with pytest.raises(ValueError, match=r"got \[2, 4\]"):
        recipe("matryoshka_batch_topk", d=2, latents=8, k=2, shares=[0.25, 0.5])


@pytest.mark.parametrize("name", ["topk_auxk", "batch_topk", "matryoshka_batch_topk", "topk_multi"])
def test_both_paths_train_to_the_same_dictionary(name, monkeypatch):
    args = catalogue.module("variants", name).SUITE
    found = []
    for path in ("sparse", "dense"):
        monkeypatch.setenv("WORKBENCH_KERNELS", path)
        d = train(recipe(name, **args), Planted(d=args["d"], steps=30), site=None, progress=False)
        found.append(d.decoder.weight)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in test_variants.VARIANTS if test_variants.selects(n)])
def test_the_conformance_suite_is_green_on_the_dense_path_too(name, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("WORKBENCH_KERNELS", "dense")
    for test in test_variants.suite():
        if test is not test_variants.test_planted_atoms_are_found or name in ("topk_auxk", "batch_topk"):  # long
            given = {"name": name, "tmp_path": tmp_path}
            test(**{k: v for k, v in given.items() if k in inspect.signature(test).parameters})


@pytest.mark.parametrize("name", ["topk_auxk", "batch_topk"])
def test_a_rough_product_ranks_and_float32_decides(name, monkeypatch):
    made = recipe(name, d=64, latents=512, k=16).dictionary
    batch = Planted(d=64, atoms=96, rows=200).batch(0)
    made.rough = False
    exact = made.run(batch)
    made.rough = True
    rough = made.run(batch)
    a, b = exact.code.to_dense(), rough.code.to_dense()
    same = (a != 0) & (b != 0)
    assert float(same.sum() / (a != 0).sum()) > 0.999
    torch.testing.assert_close(a[same], b[same], rtol=1e-5, atol=1e-5)
    assert float((a != 0).sum()) == float((b != 0).sum())


def test_a_wrong_path_or_product_is_told_in_one_line(monkeypatch):
    monkeypatch.setenv("WORKBENCH_KERNELS", "fast")
    made = recipe("topk_auxk", d=4, latents=8, k=2).dictionary
    with pytest.raises(ValueError, match="WORKBENCH_KERNELS must be dense or sparse, or not set, got 'fast'"):
        made.run(Planted(d=4).batch(0))
    monkeypatch.undo()
    options = {"site": None, "progress": False}
    with pytest.raises(ValueError, match="gemm must be float32 or bfloat16, got 'half'"):
        train(recipe("topk_auxk", d=4, latents=8, k=2), Planted(d=4), gemm="half", **options)
    with pytest.raises(ValueError, match="relu_l1 does not: leave gemm out"):
        train(recipe("relu_l1", d=4, latents=8), Planted(d=4), gemm="bfloat16", **options)


def test_few_latents_in_eight_are_trained_sparse_and_the_path_can_be_forced(monkeypatch):
    few, many, all_of = sparsifiers.TopK(2, 16), sparsifiers.TopK(3, 16), sparsifiers.ReLU()
    assert [kernels.is_sparse(s, 16) for s in (few, many, all_of)] == [True, False, False]
    monkeypatch.setenv("WORKBENCH_KERNELS", "sparse")
    assert [kernels.is_sparse(s, 16) for s in (few, many, all_of)] == [True, True, False]
    monkeypatch.setenv("WORKBENCH_KERNELS", "dense")
    assert not any(kernels.is_sparse(s, 16) for s in (few, many, all_of))

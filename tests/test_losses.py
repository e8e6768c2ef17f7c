"""Terms, selection and the sparse pass, each against a dense reference or a value by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from workbench.batch import Batch
from workbench.code import Code
from workbench.dictionary import Dictionary, Progress, Term, decoders, encoders, losses, recipe, schedules, sparsifiers
from workbench.dictionary.kernels import top_batch, top_rows

AT = Progress(5, 500, 1000)


def reference(d, batch, dead=None):
    """The same pass by plain autograd on dense matrices: pre, z, y_hat and the pre-activations of dead latents."""
    x, y = batch.x * d.scale_in, batch.y * d.scale_out
    pre = (x - d.decoder.bias).flatten(1) @ d.encoder.weight + d.encoder.bias
    if isinstance(d.sparsifier, sparsifiers.BatchTopK):
        order = pre.detach().flatten().argsort(descending=True)[: d.sparsifier.k * len(pre)]
        mask = torch.zeros(pre.numel(), dtype=torch.bool).scatter(0, order, True).view_as(pre)
    else:
        mask = torch.zeros_like(pre, dtype=torch.bool).scatter(1, pre.topk(d.sparsifier.k, dim=-1).indices, True)
    z = torch.where(mask, pre.relu(), 0)
    y_hat = (z @ d.decoder.weight).unflatten(-1, d.decoder.shape) + d.decoder.bias
    return y, z, y_hat, None if dead is None else pre[:, dead]


def small(sparsifier, shape=(6,), latents=40):
    d = Dictionary(encoders.Linear(shape, latents), sparsifier(3, latents), decoders.Linear(latents, shape)).double()
    with torch.no_grad():
        d.decoder.bias.normal_()
        d.encoder.bias.normal_()
    d.set_scale_(1.5, 1.5)
    return d, Batch(*[torch.randn(9, *shape, dtype=torch.float64)] * 2)


@pytest.mark.parametrize("shape", [(6,), (2, 6)])
@pytest.mark.parametrize("sparsifier", [sparsifiers.TopK, sparsifiers.BatchTopK])
def test_the_sparse_pass_equals_the_dense_one_in_every_output_and_gradient(sparsifier, shape):
    d, batch = small(sparsifier, shape)
    dead = torch.tensor([1, 5, 6, 30])
    seen = d.run(batch, needs=frozenset({"pre_dead"}), dead=dead)
    y, z, y_hat, pre_dead = reference(d, batch, dead)
    torch.testing.assert_close(seen.code.to_dense(), z)
    torch.testing.assert_close(seen.y_hat, y_hat)
    torch.testing.assert_close(seen.pre_dead, pre_dead)
    pull = torch.randn_like(pre_dead)
    fast = (seen.y - seen.y_hat).square().sum() + (seen.pre_dead * pull).sum() + seen.code.values.square().sum()
    slow = (y - y_hat).square().sum() + (pre_dead * pull).sum() + z.square().sum()
    torch.testing.assert_close(fast, slow)
    found = torch.autograd.grad(fast, list(d.parameters()))
    for name, a, b in zip(
        dict(d.named_parameters()), found, torch.autograd.grad(slow, list(d.parameters())), strict=True
    ):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("sparsifier", [sparsifiers.TopK, sparsifiers.BatchTopK])
def test_asking_for_all_pre_activations_changes_no_output_or_gradient(sparsifier):
    d, batch = small(sparsifier)
    dead = torch.tensor([0, 7])
    results = []
    for needs in ({"pre_dead"}, {"pre_dead", "pre"}):
        seen = d.run(batch, needs=frozenset(needs), dead=dead)
        total = (seen.y - seen.y_hat).square().sum() + seen.pre_dead.square().sum()
        results.append([seen.y_hat, *torch.autograd.grad(total, list(d.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("center", [True, False])
def test_picked_entries_and_columns_pass_gradcheck_on_every_input(center):
    encoder, decoder = encoders.Linear((5,), 12, center=center).double(), decoders.Linear(12, (5,)).double()
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    indices = torch.stack([torch.randperm(12)[:3] for _ in range(4)])
    columns = torch.tensor([2, 3, 11])

    def pick(x, weight, bias, center):
        return torch.func.functional_call(
            _Both(encoder, decoder),
            {"encoder.weight": weight, "encoder.bias": bias, "decoder.bias": center},
            (x, indices, columns),
        )

    inputs = (x, encoder.weight, encoder.bias, decoder.bias)
    assert gradcheck(pick, tuple(t.detach().clone().requires_grad_() for t in inputs))


class _Both(torch.nn.Module):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x, indices, columns):
        with torch.no_grad():
            pre = self.encoder(x, self.decoder)
        chosen = Code.fixed(indices, pre.gather(1, indices), 12)
        return self.encoder.pick(x, self.decoder, chosen, columns, pre[:, columns])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 200), st.integers(1, 9), st.integers(0, 999))
def test_selection_of_each_row_keeps_the_values_that_topk_keeps(rows, latents, k, seed):
    pre = torch.randn(rows, latents, generator=torch.Generator().manual_seed(seed))
    k = min(k, latents)
    found = top_rows(pre, k)
    assert all(len(set(row)) == k for row in found.tolist())
    torch.testing.assert_close(pre.gather(1, found).sort().values, pre.topk(k).values.sort().values, rtol=0, atol=0)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 9), st.integers(1, 120), st.integers(1, 400), st.integers(0, 999), st.booleans())
def test_selection_of_a_batch_keeps_what_a_full_sort_keeps(rows, latents, count, seed, ties):
    pre = torch.randn(rows, latents, generator=torch.Generator().manual_seed(seed))
    pre = pre.round(decimals=1) if ties else pre
    code = top_batch(pre, count)
    at, chosen, kept = code.support.rows, code.indices, code.values
    assert torch.equal(kept, pre[at, chosen])
    wanted = pre.flatten().sort(descending=True).values[:count]
    wanted = wanted[wanted > 0]
    torch.testing.assert_close(kept.sort(descending=True).values, wanted, rtol=0, atol=0)
    places = (at * latents + chosen).tolist()
    assert places == sorted(set(places))


def test_selection_of_a_batch_gives_ties_to_earlier_rows():
    code = top_batch(torch.ones(3, 2), 3)
    assert code.offsets.tolist() == [0, 2, 3, 3] and code.indices.tolist() == [0, 1, 0]


def test_topk_keeps_fewer_where_fewer_are_positive():
    code = sparsifiers.TopK(2, 3).infer(torch.tensor([[3.0, -1.0, -2.0], [1.0, 2.0, 3.0]]))
    assert code.to_dense().tolist() == [[3.0, 0.0, 0.0], [0.0, 2.0, 3.0]] and code.counts().tolist() == [1, 2]


def test_a_rectified_pick_sends_no_gradient():
    d = Dictionary(encoders.Linear((2,), 2, center=False), sparsifiers.TopK(2, 2), decoders.Linear(2, (2,)))
    with torch.no_grad():
        d.encoder.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    x = torch.tensor([[2.0, 0.0]])
    d.run(Batch(x, x)).code.values.sum().backward()
    assert d.encoder.weight.grad.tolist() == [[2.0, 0.0], [0.0, 0.0]] and d.encoder.bias.grad.tolist() == [1.0, 0.0]


def test_a_batch_topk_threshold_judges_each_row_alone():
    s = sparsifiers.BatchTopK(1, 4)
    with pytest.raises(RuntimeError, match="no threshold yet"):
        s.infer(torch.ones(1, 4))
    s.threshold.fill_(0.5)
    pre = torch.randn(6, 4)
    whole = s.infer(pre).to_dense()
    torch.testing.assert_close(whole, torch.cat([s.infer(row[None]).to_dense() for row in pre]), rtol=0, atol=0)
    torch.testing.assert_close(whole, torch.where(pre > 0.5, pre, 0), rtol=0, atol=0)


def test_jumprelu_kernel_by_hand():
    s = sparsifiers.JumpReLU(1, init=1.0, width=0.5).double()
    pre = torch.tensor([[0.7], [0.9], [1.1], [1.6]], dtype=torch.float64, requires_grad=True)
    z = s(pre).values
    assert z.flatten().tolist() == [0.0, 0.0, 1.1, 1.6]
    z.sum().backward()
    assert pre.grad.flatten().tolist() == [0.0, 0.0, 1.0, 1.0]
    assert s.threshold.grad.tolist() == [-(1.0 / 0.5) * 2]  # 0.9 and 1.1 are within width / 2, one of them below
    s.threshold.grad = None
    s.gate(pre).sum().backward()
    assert s.threshold.grad.tolist() == [-(1 / 0.5) * 2] and pre.grad.flatten().tolist() == [0.0, 0.0, 1.0, 1.0]


def identity(latents=2):
    """A dictionary whose atoms are the axes and whose code is the positive part of its input."""
    d = Dictionary(encoders.Linear((latents,), latents), sparsifiers.ReLU(), decoders.Linear(latents, (latents,)))
    with torch.no_grad():
        d.encoder.weight.copy_(torch.eye(latents))
        d.decoder.weight.copy_(torch.eye(latents))
    return d


@torch.no_grad()
def test_terms_by_hand():
    d, rows = identity(), torch.tensor([[3.0, -1.0], [1.0, 2.0]])
    seen = d.run(Batch(rows, rows), needs=frozenset({"pre"}))
    assert float(losses.mse().loss(seen, d, AT)) == 0.5  # the first row misses 1 squared, over two rows
    assert float(losses.l1(1.0).loss(seen, d, AT)) == 3.0  # (3 + 1 + 2) / 2, atoms of norm 1
    assert float(seen.variance) == 1.0 + 2.25
    d.decoder.weight.mul_(2)
    assert float(losses.l1(1.0).loss(seen, d, AT)) == 6.0
    jump = Dictionary(encoders.Linear((2,), 2), sparsifiers.JumpReLU(2, init=0.5, width=0.1), decoders.Linear(2, (2,)))
    jump.encoder.weight.copy_(torch.eye(2))
    seen = jump.run(Batch(rows, rows), needs=frozenset({"pre"}))
    assert float(losses.l0_target(3, 1.0).loss(seen, jump, AT)) == 0.25  # L0 1.5 against 3


def test_auxk_is_the_share_of_the_residual_that_dead_latents_leave():
    d, batch = small(sparsifiers.TopK, latents=24)
    dead = torch.tensor([3, 4, 9, 20])
    seen = d.run(batch, needs=frozenset({"pre_dead"}), dead=dead)
    _, _, y_hat, pre = reference(d, batch, dead)
    residual = (seen.y - y_hat).detach()
    for k in (2, 4, 8):
        kept = pre.relu() * (pre.relu() >= pre.relu().topk(min(k, 4), dim=-1).values[:, -1:])
        error = (kept @ d.decoder.weight[dead] - residual).square().sum()
        wanted = min(4 / k, 1) * error / residual.square().sum() * seen.variance
        torch.testing.assert_close(losses.auxk(k).loss(seen, d, AT), wanted)
    grads = torch.autograd.grad(losses.auxk(2).loss(seen, d, AT), [d.encoder.weight, d.decoder.weight])
    alive = torch.ones(24, dtype=torch.bool).index_fill(0, dead, False)
    assert not grads[0][:, alive].any() and not grads[1][alive].any(), "the residual must not be shaped"
    assert grads[0][:, dead].any() and grads[1][dead].any()


def test_with_no_dead_latent_auxk_is_zero():
    d, batch = small(sparsifiers.TopK)
    seen = d.run(batch, needs=frozenset({"pre_dead"}), dead=torch.zeros(0, dtype=torch.long))
    assert float(losses.auxk(4).loss(seen, d, AT)) == 0.0


def test_a_term_that_did_not_declare_its_need_is_told():
    d, batch = small(sparsifiers.TopK)
    with pytest.raises(RuntimeError, match='needs={"pre"}'):
        _ = d.run(batch).pre
    with pytest.raises(ValueError, match="may need finish, grads, pre, pre_dead, got logits"):
        Term(losses.mse().loss, frozenset({"encoder"}), frozenset({"logits"}))


def test_schedules_follow_the_share_of_the_budget():
    ramp, lr = schedules.ramp(4.0, over=0.5), schedules.trapezoid(warmup=0.1, decay=0.2)
    at = [Progress(i, i * 10, 1000) for i in range(101)]
    assert [ramp(at[i]) for i in (0, 25, 50, 100)] == [0.0, 2.0, 4.0, 4.0]
    assert lr(at[0]) > 0 and math.isclose(lr(at[5]), 0.5, rel_tol=1e-4) and lr(at[50]) == 1.0
    assert math.isclose(lr(at[90]), 0.5) and lr(at[100]) == 0.0


def test_a_unit_decoder_drops_the_gradient_along_atoms_and_stays_on_the_sphere():
    decoder = decoders.Linear(5, (3,))
    decoder.weight.grad = torch.randn(5, 3)
    decoder.project_grad_()
    torch.testing.assert_close((decoder.weight.grad * decoder.weight).sum(-1), torch.zeros(5), atol=1e-6, rtol=0)
    with torch.no_grad():
        decoder.weight.mul_(3)
    decoder.project_()
    torch.testing.assert_close(decoder.weight.norm(dim=-1), torch.ones(5))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("topk_auxk", {"d": 4, "latents": 8, "k": 9}, r"k must be 1\.\.latents=8, got 9"),
        ("batch_topk", {"d": 4, "latents": 8, "k": 0}, r"k must be 1\.\.latents=8, got 0"),
        ("pca", {"d": 4, "k": 5}, r"k must be 1\.\.d=4 components, got 5"),
        ("jumprelu", {"d": 4, "latents": 8, "width": 0.0}, "width above 0"),
        ("topk_aux", {"d": 4}, "variants has no 'topk_aux': choose from topk_auxk, .* has all"),
    ],
)
def test_bad_recipes_are_told_in_one_line(name, args, message):
    with pytest.raises(ValueError, match=message):
        recipe(name, **args)


def test_a_wrong_argument_shows_the_signature():
    with pytest.raises(TypeError, match=r"topk_auxk\(d: int, latents: int, \*, k: int = 32"):
        recipe("topk_auxk", d=4, latents=8, kk=2)
    with pytest.raises(ValueError, match="must be JSON"):
        recipe("relu_l1", d=4, latents=8, l1=float("nan"))

"""What is its own of the variants over sites, of quadratic codes and of other objectives, beyond the suite."""

import pytest
import torch
from planted import Planted

from workbench.batch import Batch
from workbench.code import Code
from workbench.dictionary import Progress, encoders, losses, recipe, train
from workbench.dictionary.core import Pass
from workbench.dictionary.variants import (
    crosslayer_transcoder,
    gradient_topk,
    multilayer,
    mutual_regularised,
    tilted,
)

AT = Progress(10, 10, 10)


def ready(name, **args):
    """A dictionary with random decoder bias, and its terms."""
    made = recipe(name, **args)
    torch.nn.init.normal_(made.dictionary.decoder.bias)
    return made.dictionary, made.losses


@pytest.mark.parametrize("name", ["bilinear", "bilinear_ordered", "bilinear_mixed", "bilinear_combined"])
def test_the_outer_error_is_that_of_the_matrices_themselves(name):
    args = {"features": 12} if name in ("bilinear_mixed", "bilinear_combined") else {}
    d, terms = ready(name, d=5, latents=7, **args)
    x = 3 * torch.randn(11, 5)
    u, forms = x / x.norm(dim=-1, keepdim=True), torch.zeros(7, 5, 5)
    encoder = d.encoder
    for i in range(7):
        mix = torch.eye(7)[:, i] if encoder.mix is None else encoder.mix[:, i]
        forms[i] = torch.einsum("f,if,jf->ij", mix, encoder.left, encoder.right)
    h = torch.einsum("bi,fij,bj->bf", u, forms, u)
    torch.testing.assert_close(d.run(Batch(x, x)).code.to_dense(), h * x.norm(dim=-1, keepdim=True))
    errors = [
        (torch.einsum("bi,bj->bij", u, u) - torch.einsum("bf,fij->bij", h[:, :m], forms[:m]))
        .square()
        .sum((1, 2))
        .mean()
        for m in (range(1, 8) if name in ("bilinear_ordered", "bilinear_combined") else [7])
    ]
    torch.testing.assert_close(terms["outer"].loss(d.run(Batch(x, x)), d, AT), torch.stack(errors).mean())
    torch.testing.assert_close(encoder.forms(torch.arange(7)), (forms + forms.mT) / 2)


def test_hoyer_is_0_for_one_row_and_1_for_all_alike():
    d = recipe("bilinear", d=3, latents=2).dictionary
    x = torch.nn.functional.normalize(torch.randn(9, 3), dim=-1)
    z = torch.stack([torch.eye(9)[4], torch.full((9,), -0.3)], 1)
    seen = Pass(d, Batch(x, x), x, x, Code.dense(z))
    torch.testing.assert_close(losses.hoyer(1.0).loss(seen, d, AT), torch.tensor(0.5))


def test_attention_sees_earlier_rows_of_its_own_text_alone():
    encoder = encoders.Attention(6, 8, groups=2, width=4, rope=10.0)
    a, b = torch.randn(5, 6), torch.randn(3, 6)
    mixed = torch.tensor([0, 5, 1, 6, 7, 2, 3, 4])  # rows of two texts, shuffled but told by text and pos
    x, text, pos = torch.cat([a, b])[mixed], (mixed >= 5).long(), torch.where(mixed >= 5, mixed - 5, mixed)
    found = encoder.given(Batch(x, x, text, pos))(x, None)
    alone = torch.cat([encoder(a, None), encoder(b, None)])[mixed]
    torch.testing.assert_close(found, alone)
    torch.testing.assert_close(encoder(a[:3], None), encoder(a, None)[:3])
    shifted = encoder.given(Batch(a, a, None, torch.arange(5) + 7))(a, None)
    torch.testing.assert_close(shifted, encoder(a, None))  # rotary positions are relative


def test_a_layers_atoms_never_write_to_earlier_layers():
    made = recipe("crosslayer_transcoder", d=4, latents=12, sites=3, k=2)
    found = train(made, Planted(d=4, atoms=9, steps=30, kind="layers", sites=3), site=None, progress=False)
    atoms = found.atoms()
    assert not atoms[4:8, 0].any() and not atoms[8:, :2].any()
    assert atoms[:4].any(-1).all() and atoms[8:, 2].any(-1).all()
    with pytest.raises(ValueError, match="latents must be a multiple of the 3 layers, got 13"):
        crosslayer_transcoder.recipe(4, 13, sites=3)


def test_crosscoder_atoms_keep_the_sum_of_their_norms():
    made = recipe("crosscoder_batch_topk", d=8, latents=24, sites=3, k=3)
    found = train(made, Planted(d=8, atoms=20, steps=30, kind="sites", sites=3), site=None, scale=None, progress=False)
    torch.testing.assert_close(found.atoms().norm(dim=-1).sum(-1), torch.full((24,), 3**0.5))


def test_gradients_choose_by_hand():
    pre, atoms = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.eye(3)
    grads = torch.tensor([[0.0, 0.0, -9.0], [0.0, 0.0, 0.0]])
    code = gradient_topk.Guided(1, 1.0, grads, atoms)(pre)  # pull / mean = (0, 0, 3): scores (3, 2, 4)
    assert code.indices.tolist() == [[2], [0]] and code.values.tolist() == [[1.0], [3.0]]
    with pytest.raises(ValueError, match="grads=True"):
        recipe("gradient_topk", d=3, latents=8, k=1).dictionary.run(Batch(pre, pre))


def test_tiles_of_rows_meet_their_own_gradients(monkeypatch):
    made = recipe("gradient_topk", d=16, latents=64, k=3).dictionary
    batch, found = Planted(d=16, atoms=24, rows=700, kind="gradients").batch(0), []
    for path in ("sparse", "dense"):
        monkeypatch.setenv("WORKBENCH_KERNELS", path)
        monkeypatch.setattr("workbench.dictionary.kernels.tile.TILE", 0)
        found.append(made.run(batch).code.to_dense())
    torch.testing.assert_close(*found)


def test_layers_become_rows_in_order():
    stream = Planted(d=4, atoms=6, rows=5, steps=3, kind="sites", sites=3)
    flat, batch = multilayer.Layers(stream), stream.batch(1)
    assert len(flat) == 3
    first = next(flat.batches(1))
    torch.testing.assert_close(first.x[3:6], batch.x[1])
    assert first.pos.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_a_row_counts_alike_however_long_it_is():
    d, terms = ready("multilayer", d=6, latents=12, k=3)
    d.decoder.bias.data.zero_()
    x = torch.randn(8, 6)
    longer = x * torch.logspace(0, 3, 8)[:, None]
    dead = torch.arange(0, 12, 2)
    for term in terms.values():
        a, b = (term.loss(d.run(Batch(y, y), needs=term.needs, dead=dead), d, AT) for y in (x, longer))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_mutual_term_by_hand_and_its_gradient():
    both = [recipe("mutual_regularised", d=2, latents=2, k=1, seed=i).dictionary for i in range(2)]
    both[0].decoder.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    both[1].decoder.weight.data = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    (term,) = mutual_regularised.coupled(3.0).values()
    value = term.loss([], both, AT)
    torch.testing.assert_close(value, torch.tensor(2 * (1 - 0.8)))  # every best cosine is 0.8, times d = 2
    value.backward()
    assert all(d.decoder.weight.grad.any() for d in both) and term.at(AT) == 3.0


def test_tilts_limits_are_the_mean_and_the_worst_row():
    d = recipe("tilted", d=3, latents=8, k=1).dictionary
    x = torch.randn(50, 3) * torch.rand(50, 1)
    seen = d.run(Batch(x, x))
    errors = (x - seen.y_hat).square().sum(-1)
    torch.testing.assert_close(tilted.tilted_mse(1e-3).loss(seen, d, AT), errors.mean(), rtol=1e-2, atol=0)
    torch.testing.assert_close(tilted.tilted_mse(1e4).loss(seen, d, AT), errors.max(), rtol=1e-2, atol=0)
    with pytest.raises(ValueError, match="tilt must be above 0"):
        tilted.tilted_mse(0.0)


def test_the_output_kl_is_0_for_the_clean_row_and_runs_the_model_once():
    d, terms = ready("end_to_end_downstream", d=16, latents=48, k=4, later=["2.resid"])
    batch, calls = Planted(d=16, atoms=24, kind="finish").batch(0), []

    def finish(y, read=()):
        calls.append(y is None)
        return batch.finish(y, read=read)

    seen = d.run(Batch(batch.x, batch.y, finish=finish))
    values = {name: float(term.loss(seen, d, AT).detach()) for name, term in terms.items()}
    assert calls.count(False) == 1 and min(values.values()) > 0
    seen.__dict__["y_hat"], seen._finished = batch.x, {}
    assert all(float(term.loss(seen, d, AT).detach()) == pytest.approx(0, abs=1e-6) for term in terms.values())

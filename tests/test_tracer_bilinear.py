"""Eigenvectors of bilinear layers: their terms are the layer, few of them classify, and masks from weights fool it."""

import pytest
import torch

from workbench.circuits.tracers.bilinear import Forms, adversarial, leading, terms
from workbench.testbeds import subject, world


@pytest.fixture(scope="module")
def digits():
    """The forms from pixels to logits, and held-out digits."""
    model, held = subject("digits_bilinear").model, world("digits").sample(1000, 1)
    whole = Forms(model.bilinear.left.weight, model.bilinear.right.weight, torch.eye(256))
    whole = whole.after(model.embed.weight).before(model.head.weight)
    whole = Forms(*(w.detach() for w in (whole.left, whole.right, whole.down)))
    x = held.image.flatten(1)
    torch.testing.assert_close(whole(x), model(x).detach(), rtol=1e-4, atol=1e-4)
    return whole, x, held.label


def test_terms_add_up_to_the_forward_pass_of_digits(digits):
    forms, x, _ = digits
    eigen = forms.eigen(torch.eye(10))
    total, out = terms(eigen, x[:200]).sum(-1), forms(x[:200])
    assert float((total - out).abs().max() / out.abs().max()) < 1e-5
    assert (eigen.values.abs().diff(dim=-1) <= 1e-6).all() and (eigen.values < 0).any() and (eigen.values > 0).any()


def test_twenty_eigenvectors_keep_the_accuracy(digits):
    forms, x, label = digits
    eigen = forms.eigen(torch.eye(10))
    right = lambda logits: float((logits.argmax(-1) == label).float().mean())  # noqa: E731
    whole, few, one = (
        right(forms(x)),
        right(terms(leading(eigen, 20), x).sum(-1)),
        right(terms(leading(eigen, 1), x).sum(-1)),
    )
    assert whole > 0.95 and few > whole - 0.02 and one < few, (whole, few, one)


def test_a_mask_from_the_weights_alone_lowers_accuracy_and_a_random_one_of_its_size_less(digits):
    forms, x, label = digits
    rng, size = torch.Generator().manual_seed(0), 6.0

    def accuracy(mask):
        return max(float((forms(x + sign * size * mask).argmax(-1) == label).float().mean()) for sign in (1, -1))

    clean = float((forms(x).argmax(-1) == label).float().mean())
    pairs = [(a, (a + 3) % 10) for a in range(10)]
    made = sum(accuracy(adversarial(forms, *pair)) for pair in pairs) / 10
    drawn = [torch.nn.functional.normalize(torch.randn(784, generator=rng), dim=0) for _ in range(10)]
    random = sum(accuracy(mask) for mask in drawn) / 10
    assert made < clean - 0.1 and made < random - 0.1, (clean, made, random)


@pytest.mark.parametrize("layer", [0, 1])
def test_terms_add_up_to_the_mlp_of_the_text_model(layer):
    s = subject("tiny_text_bilinear")
    forms, ids = Forms.of(s, layer), world("tiny_text").sample(2, 0).ids[:, :32]
    h = s.read(ids, [f"{layer}.mlp_in", f"{layer}.mlp_out"])
    x, y = (v.flatten(0, 1) for v in h.values())
    torch.testing.assert_close(forms(x), y, rtol=1e-4, atol=1e-5)
    directions = torch.nn.functional.normalize(s.unembed[:6], dim=-1)
    total, out = terms(forms.eigen(directions), x).sum(-1), y @ directions.T
    assert float((total - out).abs().max() / out.abs().max()) < 1e-5


def test_a_matrix_by_hand():
    forms = Forms(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0]]))
    torch.testing.assert_close(forms.matrices(torch.ones(1, 1)), torch.tensor([[[0.0, 3.0], [3.0, 0.0]]]))
    eigen = forms.eigen(torch.ones(1, 1))
    assert sorted(eigen.values[0].tolist()) == pytest.approx([-3.0, 3.0])
    assert float(terms(eigen, torch.tensor([[1.0, 2.0]])).sum()) == pytest.approx(12.0)
    with pytest.raises(ValueError, match="count is 1 to 2"):
        leading(eigen, 3)


def test_an_mlp_that_is_not_bilinear_is_refused():
    with pytest.raises(ValueError, match="is no bilinear MLP"):
        Forms.of(subject("tiny_text_gelu"), 0)

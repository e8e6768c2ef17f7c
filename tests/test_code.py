"""The code against its dense self: every layout, every product, every gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from workbench.code import Code, Codec, Support

LAYOUTS = ("fixed", "csr", "dense")


def example(layout, rows=7, latents=11, k=3, seed=0, dtype=torch.float64):
    """A code with inactive slots, an empty row and signed values, and the dense matrix it stands for."""
    rng = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(latents, generator=rng)[:k] for _ in range(rows)])
    values = torch.randn(rows, k, generator=rng, dtype=dtype)
    values[values.abs() < 0.3] = 0
    values[rows // 2] = 0
    dense = torch.zeros(rows, latents, dtype=dtype).scatter_add(1, indices, values)
    fixed = Code.fixed(indices, values, latents)
    return {"fixed": fixed, "csr": fixed.to_csr(), "dense": Code.dense(dense)}[layout], dense


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_as_its_dense_matrix(layout):
    code, dense = example(layout)
    assert code.layout == layout and len(code) == len(dense)
    torch.testing.assert_close(code.to_dense(), dense, rtol=0, atol=0)
    torch.testing.assert_close(code.to_csr().to_dense(), dense, rtol=0, atol=0)
    assert torch.equal(code.counts(), (dense != 0).sum(-1))
    assert torch.equal(code.fired(), (dense != 0).sum(0))
    rows, latents, values = code.entries()
    assert torch.equal(rows, rows.sort().values) and (values != 0).all()
    torch.testing.assert_close(dense[rows, latents], values, rtol=0, atol=0)
    assert len(values) == (dense != 0).sum()
    for latent in range(dense.shape[1]):
        torch.testing.assert_close(code.column(latent), dense[:, latent], rtol=0, atol=0)


@pytest.mark.parametrize("upto", [None, 5, 0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_combining_atoms_is_the_matrix_product(layout, upto):
    code, dense = example(layout)
    atoms = torch.randn(11, 4, dtype=torch.float64)
    torch.testing.assert_close(code.combine(atoms, upto), dense[:, :upto] @ atoms[:upto])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_values_and_atoms_equal_the_dense_ones(layout):
    code, _ = example(layout)
    atoms = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    values = code.values.clone().requires_grad_()
    assert gradcheck(lambda v, a: code.like(v).combine(a), (values, atoms))
    assert gradcheck(lambda v, a: code.like(v).combine(a, 6), (values, atoms))
    weights = torch.rand(11, dtype=torch.float64, requires_grad=True)
    apart = (code.values + 0.5).requires_grad_()  # |value| has no gradient at 0
    assert gradcheck(lambda v, w: code.like(v).weigh(w), (apart, weights))
    assert gradcheck(lambda v: code.like(v).to_dense(), (apart,))


def test_gradients_in_float32_equal_dense_autograd_on_every_input():
    code, dense = example("csr", rows=200, latents=300, k=9, dtype=torch.float32)
    atoms, seen = torch.randn(300, 24), torch.randn(200, 24)
    sparse = [code.values.clone().requires_grad_(), atoms.clone().requires_grad_()]
    full = [dense.clone().requires_grad_(), atoms.clone().requires_grad_()]
    (code.like(sparse[0]).combine(sparse[1]) * seen).sum().backward()
    ((full[0] @ full[1]) * seen).sum().backward()
    torch.testing.assert_close(sparse[1].grad, full[1].grad)
    torch.testing.assert_close(sparse[0].grad, code.look_up(full[0].grad))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.integers(1, 20), st.integers(0, 6), st.integers(0, 10_000))
def test_the_three_products_of_a_support(rows, latents, k, seed):
    code, dense = example("fixed", max(rows, 1), latents, min(k, latents), seed) if rows else (None, None)
    if code is None or dense is None:
        code, dense = Code.fixed(torch.zeros(0, k, dtype=torch.long), torch.zeros(0, k).double(), latents), None
        assert code.combine(torch.randn(latents, 3).double()).shape == (0, 3) and len(code.counts()) == 0
        return
    code = code.to_csr()
    atoms, vectors = torch.randn(latents, 3).double(), torch.randn(len(dense), 3).double()
    torch.testing.assert_close(code.support.combine(code.values, atoms), dense @ atoms)
    torch.testing.assert_close(code.support.collect(code.values, vectors), dense.T @ vectors)
    torch.testing.assert_close(code.support.dots(atoms, vectors), code.look_up(vectors @ atoms.T))


def test_by_hand():
    code = Code.csr(torch.tensor([0, 2, 2]), torch.tensor([2, 0]), torch.tensor([3.0, -1.0]), 3)
    atoms = torch.tensor([[1.0, 0.0], [5.0, 5.0], [0.0, 2.0]])
    assert code.combine(atoms).tolist() == [[-1.0, 6.0], [0.0, 0.0]]
    assert code.weigh(torch.tensor([1.0, 1.0, 10.0])).tolist() == [31.0, 0.0]
    assert code.counts().tolist() == [2, 0] and code.fired().tolist() == [1, 0, 1]


@pytest.mark.parametrize("layouts", [("fixed", "fixed"), ("csr", "csr"), ("dense", "dense"), ("fixed", "csr", "dense")])
def test_joined_codes_keep_their_rows(layouts):
    parts = [example(layout, seed=i) for i, layout in enumerate(layouts)]
    joined = Code.cat([code for code, _ in parts])
    assert joined.layout == (layouts[0] if len(set(layouts)) == 1 else "csr")
    torch.testing.assert_close(joined.to_dense(), torch.cat([dense for _, dense in parts]), rtol=0, atol=0)


def test_the_order_by_latent_is_shared_by_codes_of_one_support():
    code, _ = example("csr")
    assert code.like(code.values * 2).support is code.support


def test_bad_calls_are_told_at_the_door():
    code, _ = example("fixed")
    with pytest.raises(IndexError, match=r"0\.\.10, got 11"):
        code.column(11)
    with pytest.raises(ValueError, match="at least one"):
        Code.cat([])
    with pytest.raises(ValueError, match="one width"):
        Code.cat([code, example("csr", latents=12)[0]])
    with pytest.raises(ValueError, match="no support"):
        _ = Code.dense(torch.zeros(2, 3)).support


def test_a_support_knows_its_rows_with_empty_ones():
    support = Support(torch.tensor([4, 1, 2]), torch.tensor([0, 0, 2, 2, 3]), 5)
    assert support.rows.tolist() == [1, 1, 3]


def test_a_dictionary_is_a_codec():
    from workbench.dictionary import recipe

    assert isinstance(recipe("topk_auxk", d=4, latents=8, k=2).dictionary, Codec)

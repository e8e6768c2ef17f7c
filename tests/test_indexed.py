"""Models without token ids go through harvest: rows keep the number of their input."""

import pytest
import torch
from models import tiny_mlp, tiny_vit

import workbench as wb
from workbench.testbeds import Indexed


@pytest.mark.parametrize(("make", "shape", "site"), [(tiny_vit, (3, 16, 16), "1.resid"), (tiny_mlp, None, "0:out")])
def test_rows_are_what_the_model_says_of_their_input(make, shape, site, tmp_path):
    subject = wb.Subject(make())
    width = shape or (next(m for m in subject.model.modules() if isinstance(m, torch.nn.Linear)).in_features,)
    inputs = torch.randn(12, *width)
    indexed = Indexed(subject, inputs, site)
    store = wb.collect(indexed, indexed.tokens, [site], rows=None, folder=tmp_path / "s", batch=4, quiet=True)
    h = subject.read(inputs, [site])[wb.Site.of(site)]
    assert len(store) == h.shape[0] * h.shape[1]
    for batch in store.batches(7, site=site):
        torch.testing.assert_close(
            batch.x, torch.stack([h[t, p] for t, p in zip(store.tokens.ids[batch.text, 0], batch.pos, strict=True)])
        )


def test_other_inputs_are_another_harvest():
    subject = wb.Subject(tiny_mlp())
    d = next(m for m in subject.model.modules() if isinstance(m, torch.nn.Linear)).in_features
    a, b = (Indexed(subject, torch.full((2, d), x), "0:out") for x in (1.0, 2.0))
    assert a.fingerprint != b.fingerprint
    with pytest.raises(ValueError, match="reads no text"):
        a.tokenize("w1")
    with pytest.raises(ValueError, match="at least one"):
        Indexed(subject, torch.zeros(0, d), "0:out")

"""Direct logit effects are the linear map they are said to be."""

import pytest
import torch

from workbench import interpret
from workbench.interpret.effects import direct
from workbench.site import Site


class Subject:
    """Four tokens, two dimensions."""

    unembed = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [2.0, 2.0]])
    gain = torch.tensor([1.0, 10.0])
    centred = False

    def words(self, ids):
        return ["abcd"[i] for i in ids]


class Codec:
    latents = 3
    site = target = Site(0, "resid")
    exclusion = None
    dictionary = torch.tensor([[1.0, 0.0], [0.0, 0.5], [-2.0, 0.0]])

    def atoms(self, latents=None):
        return self.dictionary if latents is None else self.dictionary[latents]

    def encode(self, x): ...
    def decode(self, code): ...
    def reconstruct(self, x): ...


def test_effects_by_hand():
    # latent 0: logits (1, 0, -1, 2), mean 0.5; latent 1: gain 10 times 0.5: (0, 5, 0, 10), mean 3.75
    found = interpret.effects(Codec(), Subject(), [1, 0], top=2)
    assert found["latent"].tolist() == [1] * 4 + [0] * 4
    assert found["sign"].tolist() == [1, 1, -1, -1] * 2
    assert found["rank"].tolist() == [0, 1] * 4
    assert "".join(found["token"][:2]) == "db"
    assert set(found["token"][2:4]) == {"a", "c"}
    assert "".join(found["token"][4:]) == "dacb"
    assert found["effect"].tolist() == pytest.approx([6.25, 1.25, -3.75, -3.75, 1.5, 0.5, -1.5, -0.5])
    assert found["id"].tolist()[4:] == [3, 0, 2, 1]


def test_chunks_do_not_matter_and_all_latents_are_the_default():
    whole = interpret.effects(Codec(), Subject(), top=2)
    assert whole.equals(interpret.effects(Codec(), Subject(), top=2, chunk=1))
    assert whole["latent"].unique().tolist() == [0, 1, 2]


def test_effects_are_centred_and_linear_in_the_atom():
    atoms, unembed, gain = torch.randn(5, 8), torch.randn(30, 8), torch.rand(8)
    effect = direct(atoms, unembed, gain)
    assert effect.mean(-1).abs().max() < 1e-5
    torch.testing.assert_close(direct(3 * atoms[:1] - atoms[1:2], unembed, gain), 3 * effect[:1] - effect[1:2])


def test_effects_are_the_gradient_of_the_models_own_head_with_its_scale_held_fixed():
    d, vocab = 6, 9
    norm = torch.nn.RMSNorm(d, eps=0.0)
    norm.weight.data = torch.rand(d) + 0.5
    unembed, h, atom = torch.randn(vocab, d), torch.randn(d), torch.randn(d)
    scale = h.square().mean().sqrt()
    frozen = lambda x: (x / scale * norm.weight) @ unembed.T  # noqa: E731
    torch.testing.assert_close(frozen(h), norm(h) @ unembed.T)
    _, along = torch.autograd.functional.jvp(frozen, h, atom)
    want = (along - along.mean()) * scale
    torch.testing.assert_close(direct(atom[None], unembed, norm.weight.detach())[0], want.detach())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"latents": [3]}, "latents are 0..2, got 3"),
        ({"top": 3}, "top must be 1..2 for 4 tokens, got 3"),
        ({"top": 0}, "top must be 1..2"),
    ],
)
def test_bad_arguments_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        interpret.effects(Codec(), Subject(), **args)


def test_atoms_outside_the_residual_stream_are_refused():
    codec = Codec()
    codec.target = Site(0, "heads")
    with pytest.raises(ValueError, match="this codec writes 0.heads"):
        interpret.effects(codec, Subject())
    codec.target, codec.dictionary = None, torch.randn(3, 5)
    with pytest.raises(ValueError, match="atoms of width 5 do not fit an unembedding of width 2"):
        interpret.effects(codec, Subject(), top=1)


def test_effects_on_a_layernorm_model_equal_its_head_less_the_base():
    """Frozen denominator: the head's logits of h + atom less those of h, with the scale that h has."""
    from models import tiny_gpt2, tiny_tokenizer

    import workbench as wb
    from workbench.subject.inside import denominator

    subject = wb.Subject(tiny_gpt2(), tiny_tokenizer())
    atom = torch.randn(1, 32)
    h = 1e4 * torch.randn(1, 32)  # so long that the atom does not move its norm
    moved = subject.logits_of(h + atom) - subject.logits_of(h)
    scale = denominator(subject._head()[0], h, subject.gain, subject.centred, subject.dtype)
    mine = direct(atom - atom.mean(), subject.unembed, subject.gain) * scale
    torch.testing.assert_close(mine, moved - moved.mean(), rtol=0.02, atol=2e-5)
    assert subject.centred

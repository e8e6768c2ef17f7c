"""Parts that only SAELens has: its matching pursuit, its temporal autoencoder, a transcoder of normalised rows."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ...batch import Batch
from ..core import Encoder
from ..encoders import Linear
from ._parts import normalised

EPS = {"layer_norm": 1e-5, "norm": 0.0}  # as SAELens adds them


def sized(x: Float[Tensor, "row d"], how: str | None) -> tuple[Tensor, Tensor, Tensor]:
    """Rows by themselves, their size and their mean; as they are, 1 and 0 where nothing is normalised."""
    if how is None:
        return x, x.new_ones(()), x.new_zeros(())
    return normalised(x, how, EPS[how])


class Normed(Encoder):
    """Linear encoder of rows normalised one by one, for a target that is not: code values are in no row's units."""

    def __init__(self, d: int, latents: int, how: str):
        super().__init__()
        self.how, self.linear = how, Linear((d,), latents, center=False)

    def forward(self, x: Float[Tensor, "row d"], decoder: Any) -> Float[Tensor, "row latent"]:
        return self.linear(sized(x, self.how)[0], decoder)

    def fold_(self, scale_in: float, scale_out: float) -> None:
        """Nothing: neither a normalised row nor its code has a scale."""


class MatchingPursuit(Encoder):
    """Greedy codes: a step takes the atom of largest inner product with what is left, and that product as its value.

    A row stops where less than `least` is left or, if `steady`, after a step that takes no new atom. No weights: the
    decoder's own. Rows normalised one by one (`how`) are centred by `shift` instead of the decoder's bias.
    """

    gain: Tensor
    shift: Tensor | None

    def __init__(self, steps: int, *, least: float = 0.0, steady: bool = False, d: int = 0, how: str | None = None):
        super().__init__()
        self.steps, self.least, self.steady, self.how = steps, least, steady, how
        self.register_buffer("gain", torch.tensor(1.0))  # folding puts the scales here
        self.register_buffer("shift", None if how is None else torch.zeros(d))

    def forward(self, x: Float[Tensor, "row d"], decoder: Any) -> Float[Tensor, "row latent"]:
        unit, size, _ = sized(x, self.how)
        left, atoms = unit - (decoder.bias if self.shift is None else self.shift), decoder.weight
        code = left.new_zeros(len(left), len(atoms))
        going = torch.ones(len(left), 1, dtype=torch.bool, device=left.device)
        for _ in range(self.steps):
            best = (left @ atoms.T).argmax(-1, keepdim=True)
            atom, before = atoms[best[:, 0]], code != 0
            value = (self.gain * (left * atom).sum(-1, keepdim=True)).relu() * going
            code, left, going = code.scatter_add(1, best, value), left - value * atom, going & (value > 0)
            if self.steady:
                going = going & ((code != 0) != before).any(-1, keepdim=True)
            if self.least > 0:
                going = going & (left.norm(dim=-1, keepdim=True) * self.gain.sqrt() >= self.least)
            if not going.any():
                break
        return code * size

    @torch.no_grad()
    def fold_(self, scale_in: float, scale_out: float) -> None:
        super().fold_(scale_in, scale_out)
        self.gain.mul_(scale_in * scale_out)  # <s r, a> with atoms a / s, r in the rows' own units


class Ahead(nn.Module):
    """One layer of causal attention from the codes of a text's rows to those of the rows before them."""

    def __init__(self, latents: int, heads: int, width: int):
        super().__init__()
        self.heads = heads
        self.k_ctx, self.q_target = nn.Linear(latents, width), nn.Linear(latents, width)
        self.v_ctx, self.c_proj = nn.Linear(latents, latents), nn.Linear(latents, latents)

    def forward(self, now: Float[Tensor, "row latent"]) -> Float[Tensor, "row latent"]:
        before = torch.cat([torch.zeros_like(now[:1]), now[:-1]])
        query, key, value = (
            side.unflatten(-1, (self.heads, -1)).transpose(0, 1)
            for side in (self.q_target(now), self.k_ctx(before), self.v_ctx(before))
        )
        seen = scaled_dot_product_attention(query, key, value, is_causal=True)  # (head, row, width)
        return self.c_proj(seen.transpose(0, 1).flatten(1)).relu()


class Foreseen(nn.Module):
    """What the rows of one text before each let one expect of it. As a skip connection it adds that to the rest.

    Takes its atoms and encoder again, as views of the dictionary's own. Without `weight` (tied) the atoms encode.
    """

    weight: nn.Parameter | None
    shift: Tensor
    bias: Tensor

    def __init__(
        self, d: int, latents: int, layers: int, heads: int, width: int, *, tied: bool, how: str | None = None
    ):
        super().__init__()
        self.how = how
        self.atoms = nn.Parameter(torch.zeros(latents, d))
        self.weight = None if tied else nn.Parameter(torch.zeros(d, latents))
        self.attn_layers = nn.ModuleList(Ahead(latents, heads, width) for _ in range(layers))
        self.register_buffer("shift", torch.zeros(d))  # taken from the row
        self.register_buffer("bias", torch.zeros(d))  # added where rows are normalised: the decoder's, per size

    def encode(self, left: Float[Tensor, "row d"]) -> Float[Tensor, "row latent"]:
        return left / (4 * left.shape[-1]) @ (self.atoms.T if self.weight is None else self.weight)

    def split(self, x: Float[Tensor, "row d"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is new in each row, what was expected, and the row's size and mean."""
        unit, size, mean = sized(x, self.how)
        left = unit - self.shift
        expected = torch.zeros_like(left)
        for layer in self.attn_layers:
            guess = layer(self.encode(left).relu()) @ self.atoms
            share = (guess * left).sum(-1, keepdim=True) / (guess.norm(dim=-1, keepdim=True) + 1e-6).square()
            expected, left = expected + share * guess, left - share * guess
        return left, expected, size, mean

    def forward(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        _, expected, size, mean = self.split(x)
        return size * (expected + self.bias) + mean


class Temporal(Encoder):
    """pre = (row - what the rows before it let one expect) W; `encode` takes the rows of one text in order."""

    def __init__(self, **shape: Any):
        super().__init__()
        self.foreseen = Foreseen(**shape)

    def given(self, batch: Batch) -> "Temporal":
        """Raises ValueError for more than one text: the skip connection cannot tell them apart."""
        if batch.text is not None and len(batch.text.unique()) > 1:
            raise ValueError(f"a temporal autoencoder reads one text at a time, got {len(batch.text.unique())}")
        return self

    def forward(self, x: Float[Tensor, "row d"], decoder: Any) -> Float[Tensor, "row latent"]:
        left, _, size, _ = self.foreseen.split(x)
        return size * self.foreseen.encode(left)

    def fold_(self, scale_in: float, scale_out: float) -> None:
        """Raises ValueError: attention is not linear in the rows, so their scale stays."""
        raise ValueError("a temporal autoencoder keeps its scale: attention is not linear in the rows")

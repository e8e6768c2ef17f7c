"""Encoders: input -> pre-activations."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from ..batch import Batch
from ..code import Code, Support
from .core import Encoder
from .kernels import pick


class Linear(Encoder):
    """pre = (x - decoder.bias if center) W + b. `shape` is one site `(d,)` or several, `(site, d)`.

    W is (in, latent), stored latent by latent, so that sparse gradients write whole rows.
    """

    bias: nn.Parameter | None

    def __init__(
        self, shape: tuple[int, ...], latents: int, *, center: bool = True, bias: bool = True, scale: float = 1.0
    ):
        super().__init__()
        self.shape, self.center = shape, center
        self.weight = nn.Parameter((scale * normalize(torch.randn(latents, prod(shape)), dim=-1)).T)
        self.bias = nn.Parameter(torch.zeros(latents)) if bias else None

    def _centred(self, x: Tensor, decoder: Any) -> Tensor:
        x = x.flatten(1)
        return x - decoder.bias.flatten() if self.center else x

    def forward(self, x: Float[Tensor, "row *inp"], decoder: Any) -> Float[Tensor, "row latent"]:
        x = self._centred(x, decoder)
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def pick(
        self,
        x: Float[Tensor, "row *inp"],
        decoder: Any,
        chosen: Code,
        columns: Int[Tensor, " some"] | None = None,
        at_columns: Float[Tensor, "row some"] | None = None,
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "row some"] | None]:
        """Pre-activations at the chosen pairs and in whole columns, whose numbers are known, with sparse gradients."""
        center = decoder.bias.flatten() if self.center else None
        values = chosen.values.reshape(-1)
        return pick(x.flatten(1), self.weight, self.bias, center, chosen.support, values, columns, at_columns)

    def values(self, x: Float[Tensor, "row *inp"], decoder: Any, support: Support) -> Float[Tensor, " n"]:
        """Pre-activations of single pairs, each by its own product."""
        found = support.dots(self.weight.T, self._centred(x, decoder))
        return found if self.bias is None else found + self.bias[support.indices]

    def rough(self, decoder: Any) -> Callable[[Tensor, Any], Tensor]:
        """`forward` by a product in bfloat16: to rank latents, not to take their values."""
        weight = self.weight.detach().bfloat16()
        bias = None if self.bias is None else self.bias.detach().bfloat16()

        def product(x: Tensor, decoder: Any) -> Tensor:
            x = self._centred(x, decoder).bfloat16()
            return x @ weight if bias is None else torch.addmm(bias, x, weight)

        return product

    @torch.no_grad()
    def fold_(self, scale_in: float, scale_out: float) -> None:
        if self.center:
            super().fold_(scale_in, scale_out)
        self.weight.mul_(scale_in)


class WithNorm(Encoder):
    """pre = (x - decoder.bias) W + b, and one column more: the norm of x - decoder.bias."""

    gain: Tensor

    def __init__(self, d: int, latents: int):
        super().__init__()
        self.weight = nn.Parameter(normalize(torch.randn(d, latents), dim=0))
        self.bias = nn.Parameter(torch.zeros(latents))
        self.register_buffer("gain", torch.tensor(1.0))  # folding puts the scale here

    def forward(self, x: Float[Tensor, "row d"], decoder: Any) -> Float[Tensor, "row all"]:
        x = x - decoder.bias
        return torch.cat([torch.addmm(self.bias, x, self.weight), self.gain * x.detach().norm(dim=-1, keepdim=True)], 1)

    @torch.no_grad()
    def fold_(self, scale_in: float, scale_out: float) -> None:
        self.weight.mul_(scale_in)
        self.gain.mul_(scale_in)


class Tied(Encoder):
    """pre = <x, atom>. No weights: the decoder's own."""

    gain: Tensor

    def __init__(self, *, center: bool = True):
        super().__init__()
        self.center = center
        self.register_buffer("gain", torch.tensor(1.0))  # folding puts the scales here

    def forward(self, x: Float[Tensor, "row *inp"], decoder: Any) -> Float[Tensor, "row latent"]:
        rows = (x - decoder.bias if self.center else x).flatten(1)
        return rows @ decoder.weight.T * self.gain

    @torch.no_grad()
    def fold_(self, scale_in: float, scale_out: float) -> None:
        self.gain.mul_(scale_in * scale_out)  # <s_in x, a> with atoms a / s_out


class Pursuit(Encoder):
    """Greedy codes of at most k atoms, each chosen for what those before it leave. No weights: the decoder's own.

    A step takes the atom of largest cosine with the residual, `signed` by magnitude; a row stops where none is above 0.
    The same atom may be taken again, its parts add up; `orthogonal` never does, and refits all coefficients by least
    squares. Atoms are chosen without gradient, coefficients carry it. k may be changed after training. Costs k products
    of size rows x latents x d.
    """

    def __init__(self, k: int, *, orthogonal: bool = False, signed: bool = False):
        super().__init__()
        if k < 1:
            raise ValueError(f"a pursuit takes k = 1 or more steps, got {k}")
        self.k, self.orthogonal, self.signed = k, orthogonal, signed

    def forward(self, x: Float[Tensor, "row *inp"], decoder: Any) -> Float[Tensor, "row latent"]:
        rows, atoms = (x - decoder.bias).flatten(1), decoder.weight
        chosen = self.choose(rows.detach(), atoms.detach())
        values = self._fit(rows, atoms, chosen)
        return rows.new_zeros(len(rows), len(atoms)).scatter_add(1, chosen.clamp_min(0), values)

    @torch.no_grad()
    def choose(self, rows: Float[Tensor, "row d"], atoms: Float[Tensor, "latent d"]) -> Int[Tensor, "row k"]:
        """The atoms in the order in which they are taken, -1 once a row has stopped."""
        units, floor = normalize(atoms, dim=-1), 1e-6 * rows.norm(dim=-1)
        chosen, left = torch.empty(len(rows), 0, dtype=torch.long, device=rows.device), rows
        for _ in range(min(self.k, len(atoms))):
            score = left @ units.T
            if self.signed:
                score = score.abs()
            if self.orthogonal:
                score = score.scatter(1, chosen.clamp_min(0), 0)
            best = score.max(-1)
            chosen = torch.cat([chosen, torch.where(best.values > floor, best.indices, -1)[:, None]], 1)
            left = rows - torch.einsum("bk,bkd->bd", self._fit(rows, atoms, chosen), atoms[chosen.clamp_min(0)])
        return chosen

    def _fit(self, rows: Tensor, atoms: Tensor, chosen: Tensor) -> Tensor:
        """Coefficients of the chosen atoms, 0 where there is none, from the Gram matrix of each row's atoms.

        A step's coefficient hears of those before it only, which its lower triangle says; the whole is least squares.
        """
        picked = embedding(chosen.clamp_min(0), atoms) * (chosen >= 0)[..., None]
        gram, right = picked @ picked.mT, picked @ rows[..., None]
        ridge = torch.where(chosen >= 0, 1e-6 * gram.diagonal(dim1=1, dim2=2), 1).diag_embed()
        if self.orthogonal:
            return torch.linalg.solve(gram + ridge, right)[..., 0]
        return torch.linalg.solve_triangular((gram + ridge).tril(), right, upper=False)[..., 0]


class NonNegative(Encoder):
    """Non-negative code of least squared error, by accelerated projected gradient. No weights: the decoder's own."""

    def __init__(self, steps: int = 100):
        super().__init__()
        self.steps = steps

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "row *inp"], decoder: Any) -> Float[Tensor, "row latent"]:
        rows, atoms = (x - decoder.bias).flatten(1), decoder.weight
        size = 1 / torch.linalg.matrix_norm(atoms, 2).square()
        z = ahead = rows.new_zeros(len(rows), len(atoms))
        for step in range(self.steps):
            last, z = z, (ahead - size * (ahead @ atoms - rows) @ atoms.T).relu()
            ahead = z + step / (step + 3) * (z - last)
        return z


class Bilinear(Encoder):
    """pre_i = (l_i . x) (r_i . x) / |x|: quadratic in a row's direction, linear in its size; its form is l_i r_i^T.

    With `features`, so many such products are mixed linearly into the latents, whose forms have any rank.
    """

    gain: Tensor

    def __init__(self, d: int, latents: int, *, features: int | None = None):
        super().__init__()
        n = features or latents
        self.left, self.right = (nn.Parameter(nn.init.orthogonal_(torch.empty(d, n))) for _ in range(2))
        self.mix = nn.Parameter(nn.init.orthogonal_(torch.empty(n, latents))) if features else None
        self.register_buffer("gain", torch.tensor(1.0))  # folding puts the scale here

    def forward(self, x: Float[Tensor, "row d"], decoder: Any) -> Float[Tensor, "row latent"]:
        products = (x @ self.left) * (x @ self.right) / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return self.gain * (products if self.mix is None else products @ self.mix)

    def gram(self) -> Float[Tensor, "latent latent"]:
        """Inner products of the forms; costs features^2 numbers."""
        inner = (self.left.T @ self.left) * (self.right.T @ self.right)
        return inner if self.mix is None else self.mix.T @ inner @ self.mix

    def forms(self, latents: Int[Tensor, " some"]) -> Float[Tensor, "some d d"]:
        """The symmetric quadratic form of each latent: its value is u^T Q u times the norm, u the row's direction."""
        if self.mix is None:
            full = torch.einsum("if,jf->fij", self.left[:, latents], self.right[:, latents])
        else:
            full = torch.stack([(self.left * self.mix[:, u]) @ self.right.T for u in latents.tolist()])
        return (full + full.mT) / 2

    def directions(self, decoder: Any) -> Float[Tensor, "latent d"]:
        """The eigenvector of each form whose eigenvalue is largest by magnitude, on the side that is read out."""
        values, vectors = torch.linalg.eigh(self.forms(torch.arange(len(decoder.weight), device=self.gain.device)))
        best = values.abs().argmax(-1, keepdim=True)
        found = vectors.gather(2, best[:, None].expand(-1, vectors.shape[1], 1)).flatten(1)
        return found * ((found * decoder.weight).sum(-1, keepdim=True) * values.gather(1, best)).sign()

    @torch.no_grad()
    def fold_(self, scale_in: float, scale_out: float) -> None:
        self.gain.mul_(scale_in)


class Attention(Encoder):
    """pre = A x W + b, A the causal attention, within each text, of the group that a latent is in."""

    def __init__(self, d: int, latents: int, groups: int, width: int, rope: float | None):
        super().__init__()
        self.weight = nn.Parameter(0.1 * normalize(torch.randn(groups, d, latents // groups), dim=1))
        self.bias = nn.Parameter(torch.zeros(latents))
        self.query, self.key = (nn.Parameter(torch.randn(groups, d, width) / d**0.5) for _ in range(2))
        self.rope = rope

    def given(self, batch: Batch) -> Any:
        """Reads the texts of one batch apart."""
        return partial(self, text=batch.text, pos=batch.pos)

    def forward(
        self, x: Float[Tensor, "row d"], decoder: Any, text: Tensor | None = None, pos: Tensor | None = None
    ) -> Float[Tensor, "row latent"]:
        pattern = self.pattern(x, text, pos)
        return (pattern @ (x @ self.weight)).permute(1, 0, 2).flatten(1) + self.bias

    def pattern(
        self, x: Float[Tensor, "row d"], text: Tensor | None = None, pos: Tensor | None = None
    ) -> Float[Tensor, "group row row"]:
        """How much each group attends from a row to another; rows are one text in order unless it is said."""
        pos = torch.arange(len(x), device=x.device) if pos is None else pos.to(x.device)
        text = torch.zeros_like(pos) if text is None else text.to(x.device)
        query, key = (
            x @ side if self.rope is None else _turned(x @ side, pos, self.rope) for side in (self.query, self.key)
        )
        sees = (text[:, None] == text) & (pos[:, None] >= pos)
        return (query @ key.mT / query.shape[-1] ** 0.5).masked_fill(~sees, -torch.inf).softmax(-1)

    @torch.no_grad()
    def fold_(self, scale_in: float, scale_out: float) -> None:
        for weight in (self.weight, self.query, self.key):
            weight.mul_(scale_in)


def _turned(
    v: Float[Tensor, "group row width"], pos: Int[Tensor, " row"], base: float
) -> Float[Tensor, "group row width"]:
    """Rotary positions: pairs (i, i + width / 2) turned by pos * base^(-2 i / width), as in Llama."""
    half = v.shape[-1] // 2
    angle = pos[:, None] * base ** (-torch.arange(half, device=v.device) / half)
    a, b = v.split(half, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

"""llamascopium's low-rank sparse attention, which has more to it than ours (He et al. 2025, arXiv:2504.20938)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..encoders import Attention


class Lorsa(Attention):
    """`Attention` with biases of queries and keys, a norm of each if `eps` is given, and scores over `scale`.

    The first `turned` entries of a head are turned by the position over `period`, as neighbours in pairs (`adjacent`)
    or as halves.
    """

    period: Tensor
    query_gain: Tensor | None
    key_gain: Tensor | None

    def __init__(
        self,
        d: int,
        latents: int,
        groups: int,
        width: int,
        *,
        scale: float,
        turned: int = 0,
        adjacent: bool = True,
        eps: float | None = None,
    ):
        super().__init__(d, latents, groups, width, None)
        self.scale, self.turned, self.adjacent, self.eps = scale, turned, adjacent, eps
        self.query_bias, self.key_bias = (nn.Parameter(torch.zeros(groups, width)) for _ in range(2))
        for name in ("query_gain", "key_gain"):
            self.register_buffer(name, None if eps is None else torch.ones(groups, width))
        self.register_buffer("period", torch.ones(turned // 2))

    def pattern(
        self, x: Float[Tensor, "row d"], text: Tensor | None = None, pos: Tensor | None = None
    ) -> Float[Tensor, "group row row"]:
        pos = torch.arange(len(x), device=x.device) if pos is None else pos.to(x.device)
        text = torch.zeros_like(pos) if text is None else text.to(x.device)
        query = self._side(x @ self.query + self.query_bias[:, None], self.query_gain, pos)
        key = self._side(x @ self.key + self.key_bias[:, None], self.key_gain, pos)
        sees = (text[:, None] == text) & (pos[:, None] >= pos)
        return (query @ key.mT / self.scale).masked_fill(~sees, -torch.inf).softmax(-1)

    def _side(
        self, v: Float[Tensor, "group row width"], gain: Tensor | None, pos: Int[Tensor, " row"]
    ) -> Float[Tensor, "group row width"]:
        if gain is not None and self.eps is not None:
            v = v / (v.square().mean(-1, keepdim=True) + self.eps).sqrt() * gain[:, None]
        angle = pos[:, None] / self.period
        pairs = v[..., : self.turned]
        a, b = (pairs[..., ::2], pairs[..., 1::2]) if self.adjacent else pairs.chunk(2, -1)
        both = a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()
        pairs = torch.stack(both, -1).flatten(-2) if self.adjacent else torch.cat(both, -1)
        return torch.cat([pairs, v[..., self.turned :]], -1)

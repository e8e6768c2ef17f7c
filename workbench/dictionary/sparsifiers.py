"""Sparsifiers: pre-activations -> code."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..code import Code
from .core import Sparsifier
from .kernels.select import above, keep, largest, top_batch, top_rows

Tiles = Callable[[], Iterator[Tensor]]  # pre-activations of consecutive rows, from the first each time it is called


class TopK(Sparsifier):
    """Each row's k largest, rectified: fewer where fewer are positive.

    With `wide` > k, training selects so many, the largest first; `narrow` cuts to k (Multi-TopK, Gao et al. 2024).
    """

    selects = True

    def __init__(self, k: int, latents: int, *, wide: int | None = None):
        super().__init__()
        check_k(k, latents)
        if wide is not None and not k < wide <= latents:
            raise ValueError(f"wide must be more than k={k} and at most latents={latents}, got {wide}")
        self.k, self.wide = k, wide

    def forward(self, pre: Float[Tensor, "row latent"], slack: float = 1.0) -> Code:
        chosen = top_rows(pre, min(round(slack * (self.wide or self.k)), pre.shape[1]))
        code = Code.fixed(chosen, pre.gather(1, chosen), pre.shape[1])
        return self.refine(code) if slack == 1.0 and self.wide else code

    def choose(self, tiles: Tiles, rows: int, slack: float = 1.0) -> Code:
        """What `forward` chooses of all tiles together, or `slack` times as many."""
        return Code.cat([self(tile, slack) for tile in tiles()])

    def refine(self, code: Code) -> Code:
        """The best of candidates, the largest first."""
        best = code.values.topk(self.wide or self.k, dim=-1)
        return Code.fixed(_indices(code).gather(1, best.indices), best.values, code.latents)

    def activate(self, code: Code) -> Code:
        return code.like(code.values.relu())

    def narrow(self, code: Code) -> Code:
        """The k largest of a wide code."""
        if self.wide is None:
            return code
        return Code.fixed(_indices(code)[:, : self.k], code.values[:, : self.k], code.latents)

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return self.narrow(self.activate(self(pre)))


class Thresholded(Sparsifier):
    """At inference what is above `threshold`, one for all latents or one for each."""

    threshold: Tensor

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return Code.dense(torch.where(pre > self.threshold, pre, 0)).to_csr()


class BatchTopK(Thresholded):
    """The batch's k x rows largest while training; at inference each latent above one threshold, row by row.

    The threshold is a running mean of the smallest value kept, moved by `hooks.Threshold`; < 0: never trained.
    """

    selects = True

    def __init__(self, k: int, latents: int):
        super().__init__()
        check_k(k, latents)
        self.k = k
        self.register_buffer("threshold", torch.tensor(-1.0))  # a buffer, so that it is saved
        self._low = 0.0  # smallest value kept in the last batch: where to look first in the next

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        return top_batch(pre, self.k * len(pre))

    def choose(self, tiles: Tiles, rows: int, slack: float = 1.0) -> Code:
        """What `forward` chooses of all tiles together, or `slack` times as many.

        Entries a little below the last batch's smallest are candidates, found without sorting. Where they turn out too
        few, the tiles are made again and each gives its best: the choice is exact either way.
        """
        count, kept = round(slack * self.k * rows), None
        if self._low > 0:
            kept = largest(Code.cat([above(tile, 0.9 * self._low) for tile in tiles()]), count)
        if kept is None or len(kept.values) < count:
            parts: list[Code] = []
            for tile in tiles():
                parts = [largest(Code.cat([*parts, top_batch(tile, count)]), count)]
            kept = parts[0]
        self._low = float(kept.values.min()) if len(kept.values) else 0.0
        return kept

    def refine(self, code: Code) -> Code:
        """The best of candidates."""
        return largest(keep(code, code.values > 0), self.k * len(code))

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        if self.threshold < 0:
            raise RuntimeError("BatchTopK has no threshold yet: train for a step before encoding")
        return super().infer(pre)


class ReLU(Sparsifier):
    """All that is positive: trained dense, CSR at inference."""

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        return Code.dense(pre.relu())

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return self(pre).to_csr()


class Signed(Sparsifier):
    """All pre-activations as they are, negative ones too."""

    signed = True

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        return Code.dense(pre)


class Given(Sparsifier):
    """All that is not zero: for an encoder that chooses by itself."""

    def __init__(self, *, signed: bool = False):
        super().__init__()
        self.signed = signed

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        return Code.dense(pre if self.signed else pre.relu()).to_csr()


class Ones(Sparsifier):
    """Each row's k largest, all with value 1: which, and not how much."""

    selects = rowwise = True

    def __init__(self, k: int, latents: int):
        super().__init__()
        check_k(k, latents)
        self.k = k

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        chosen = top_rows(pre, self.k)
        return Code.fixed(chosen, torch.ones_like(chosen, dtype=pre.dtype), pre.shape[1])

    def activate(self, code: Code) -> Code:
        return code.like(torch.ones_like(code.values))


class _Jump(torch.autograd.Function):
    """pre * 1[pre > theta]; theta's gradient through a rectangle kernel of the given width (straight-through)."""

    @staticmethod
    def forward(ctx, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return torch.where(pre > theta, pre, 0)

    @staticmethod
    def backward(ctx, *grads):
        pre, theta = ctx.saved_tensors
        (grad,) = grads
        near = (pre - theta).abs() < ctx.width / 2
        return torch.where(pre > theta, grad, 0), -(theta / ctx.width) * torch.where(near, grad, 0).sum(0), None


class _Step(torch.autograd.Function):
    """1[pre > theta]; no gradient to pre, theta's through the same kernel."""

    @staticmethod
    def forward(ctx, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return (pre > theta).to(pre.dtype)

    @staticmethod
    def backward(ctx, *grads):
        pre, theta = ctx.saved_tensors
        (grad,) = grads
        near = (pre - theta).abs() < ctx.width / 2
        return None, -torch.where(near, grad, 0).sum(0) / ctx.width, None


class JumpReLU(Thresholded):
    """z = pre where pre > threshold, a learned one per latent; the kernel also hears latents just below it.

    The threshold itself is the parameter (its logarithm saturates); `hooks.Project` keeps it from falling below 0.
    """

    def __init__(self, latents: int, *, init: float, width: float):
        super().__init__()
        if width <= 0 or init < 0:
            raise ValueError(f"init must be 0 or more and width above 0, got init={init}, width={width}")
        self.threshold = nn.Parameter(torch.full((latents,), float(init)))
        self.width = width

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        return Code.dense(_Jump.apply(pre, self.threshold, self.width))

    def gate(self, pre: Float[Tensor, "row latent"]) -> Float[Tensor, "row latent"]:
        """1 where a latent is on, differentiable in the threshold."""
        return _Step.apply(pre, self.threshold, self.width)

    @torch.no_grad()
    def project_(self) -> None:
        self.threshold.clamp_(min=0)


class FeatureChoice(Thresholded):
    """Each latent's largest, a share `quota` of the batch's rows; before there are any, the batch's k x rows largest.

    Inference compares each latent with a threshold of its own, inf until it was chosen. A choice costs a look at rows
    x latents numbers, none is made with a graph.
    """

    selects = True
    quota: Tensor
    density: Tensor

    def __init__(self, k: int, latents: int):
        super().__init__()
        check_k(k, latents)
        self.k = k
        self.register_buffer("threshold", torch.full((latents,), torch.inf))
        self.register_buffer("quota", torch.zeros(latents))
        self.register_buffer("density", torch.zeros(latents))

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        if not self.quota.any():
            return top_batch(pre, self.k * len(pre))
        most = (self.quota * len(pre)).round().clamp(1, len(pre)).long()
        best = pre.T.contiguous().topk(int(most.max()), dim=1)
        places = torch.arange(best.values.shape[1], device=pre.device) < most[:, None]
        mask = torch.zeros_like(pre.T).scatter(1, best.indices, places.to(pre.dtype)).T
        return Code.dense(pre.relu() * mask).to_csr()


class Biased(Sparsifier):
    """scale * relu(pre + bias); the bias is no parameter. `often` is how often each latent should be on."""

    bias: Tensor
    often: Tensor
    on: Tensor
    most: Tensor
    seen: Tensor

    def __init__(self, often: Float[Tensor, " latent"]):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(len(often)))
        self.register_buffer("often", often)
        for name in ("bias", "on", "most"):  # since the last move: rows in which it was on, largest pre + bias
            self.register_buffer(name, torch.zeros(len(often)))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, pre: Float[Tensor, "row latent"]) -> Code:
        return Code.dense(self.scale * (pre + self.bias).relu())

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        return self(pre).to_csr()

    @torch.no_grad()
    def project_(self) -> None:
        self.scale.clamp_(min=1e-2)


class TopAFA(Sparsifier):
    """The largest positive pre-activations, so many that the norm of the code is nearest to the last column."""

    selects = True

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def forward(self, pre: Float[Tensor, "row all"]) -> Code:
        pre, norm = pre[:, :-1], pre[:, -1:]
        values, indices = pre.relu().topk(min(self.most, pre.shape[1]), dim=-1)
        gap = (values.square().cumsum(-1).sqrt() - norm).abs()
        order = torch.arange(values.shape[1], device=pre.device)
        return Code.fixed(indices, torch.where(order <= gap.argmin(-1, keepdim=True), values, 0), pre.shape[1]).to_csr()


class Noisy(Sparsifier):
    """Means are the first half of the columns, log variances the second; training keeps the k largest draws."""

    step: Tensor

    def __init__(self, k: int, latents: int):
        super().__init__()
        check_k(k, latents)
        self.k = k
        self.register_buffer("step", torch.tensor(0))  # seeds the noise, so that a resumed run repeats it

    def forward(self, pre: Float[Tensor, "row both"]) -> Code:
        mean, log_variance = self.moments(pre)
        rng = torch.Generator(pre.device).manual_seed(int(self.step))
        z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=rng, device=pre.device, dtype=pre.dtype)
        chosen = top_rows(z.detach().abs(), self.k)
        return Code.fixed(chosen, z.gather(1, chosen), mean.shape[1])

    def infer(self, pre: Float[Tensor, "row both"]) -> Code:
        mean, _ = self.moments(pre)
        chosen = top_rows(mean, self.k)
        return Code.fixed(chosen, mean.gather(1, chosen), mean.shape[1])

    @staticmethod
    def moments(pre: Float[Tensor, "row both"]) -> tuple[Tensor, Tensor]:
        """Means and log variances."""
        mean, log_variance = pre.chunk(2, dim=1)
        return mean.relu(), log_variance.clamp(-6, 2)


def check_k(k: int, latents: int) -> None:
    if not 1 <= k <= latents:
        raise ValueError(f"k must be 1..latents={latents}, got {k}")


def _indices(code: Code) -> Tensor:
    if code.indices is None:
        raise ValueError("a dense code has no chosen entries to look at")
    return code.indices

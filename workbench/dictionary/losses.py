"""Loss terms, each made by a factory that names its weight, its needs and what it trains.

A term is (pass, dictionary, progress) -> scalar in scaled units: squared errors are summed over coordinates and
averaged over rows, so a term does not change with the batch's size.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .core import Dictionary, Pass, Progress, Schedule, Term
from .kernels import check_widths, prefixes

Scalar = Float[Tensor, ""]
ENCODER, DECODER = frozenset({"encoder"}), frozenset({"decoder"})


def mse(*, trains: frozenset[str] = ENCODER | DECODER) -> Term:
    """Squared error per row. With a skip connection or a trained threshold, name it in `trains`."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        return (p.y - p.y_hat).square().flatten(1).sum(-1).mean()

    return Term(loss, trains)


def wide_mse(weight: float | Schedule) -> Term:
    """Squared error per row of the wide code's reconstruction (`TopK(wide=)`): the code degrades gracefully with k."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        return (p.y - d.decoder(p.wide)).square().flatten(1).sum(-1).mean()

    return Term(loss, ENCODER | DECODER, weight=weight)


def nested_mse(widths: Sequence[int], latents: int) -> Term:
    """Squared error per row, averaged over reconstructions by the first m latents for each m of the growing widths."""
    check_widths(widths, latents)

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        parts = prefixes(p.code, d.decoder.weight, widths) + d.decoder.bias.flatten()
        return (p.y.flatten(1) - parts).square().sum(-1).mean()

    return Term(loss, ENCODER | DECODER)


def l1(weight: float | Schedule) -> Term:
    """Sum of activations, each times its atom's norm; over several sites the norms add (crosscoders)."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        norms = d.decoder.weight.unflatten(-1, d.decoder.shape).norm(dim=-1).reshape(d.latents, -1).sum(-1)
        return p.code.weigh(norms).mean()

    return Term(loss, frozenset({"encoder", "decoder.weight"}), weight=weight)


def l0_target(target: int | float, weight: float | Schedule) -> Term:
    """(L0 / target - 1)^2 of the batch's mean L0, through the sparsifier's gate: trains the threshold alone."""
    if target <= 0:
        raise ValueError(f"the L0 to aim at must be above 0, got {target}")

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        return (d.sparsifier.gate(p.pre).sum(-1).mean() / target - 1).square()

    return Term(loss, frozenset({"sparsifier.threshold"}), frozenset({"pre"}), weight)


def auxk(k: int, weight: float | Schedule = 1 / 32) -> Term:
    """Dead latents' k strongest explain the residual of each row, as a share of it, in units of the targets' variance.

    Weighted and scaled as Gao et al. 2024 (arXiv:2406.04093) relative to the main loss; with fewer dead latents than k
    the term shrinks in proportion. The residual is detached: dead latents chase it, they must not shape it.
    """

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        if p.pre_dead is None or p.dead is None:
            return p.y.new_zeros(())
        z, n = p.pre_dead.relu(), p.pre_dead.shape[1]
        if n > k:
            kept = z.detach().topk(k, dim=-1, sorted=False).indices
            z = torch.zeros_like(z).scatter(1, kept, z.gather(1, kept))
        residual = (p.y - p.y_hat).detach().flatten(1)
        error = (z @ d.decoder.weight[p.dead] - residual).square().sum()
        return min(n / k, 1.0) * p.variance.detach() * error / residual.square().sum().clamp_min(1e-12)

    return Term(loss, frozenset({"encoder.weight", "encoder.bias", "decoder"}), frozenset({"pre_dead"}), weight)

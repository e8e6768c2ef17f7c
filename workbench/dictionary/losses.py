"""Loss terms, each made by a factory that names its weight, its needs and what it trains.

A term is (pass, dictionary, progress) -> scalar in scaled units: squared errors are summed over coordinates and
averaged over rows, so a term does not change with the batch's size.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..site import Site
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
        return _left(p, d, p.pre_dead, p.dead, k)

    return Term(loss, frozenset({"encoder.weight", "encoder.bias", "decoder"}), frozenset({"pre_dead"}), weight)


def aux_zipf(k: int, active: int, share: float, weight: float | Schedule = 1 / 32) -> Term:
    """As `auxk`, for dying latents: on in fewer rows than `share` of what Zipf's law expects at their rank.

    With `active` latents on per row, rank i (from 0) is expected in proportion to 1 / (i + 5). Densities are the
    sparsifier's, moved by `hooks.Density`. Source: Ayonrinde 2024 (arXiv:2411.02124), who fits the law.
    """

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        dense = d.sparsifier.density.sort(descending=True)
        law = 1 / (torch.arange(d.latents, device=dense.values.device) + 5.0)
        dying = dense.indices[dense.values < share * active * law / law.sum()]
        if not len(dying):
            return p.y.new_zeros(())
        pre = torch.addmm(d.encoder.bias[dying], p.x - d.decoder.bias, d.encoder.weight[:, dying])
        return _left(p, d, pre, dying, k)

    return Term(loss, ENCODER | DECODER, weight=weight)


def _left(p: Pass, d: Dictionary, pre: Tensor, latents: Tensor, k: int) -> Scalar:
    """What the k strongest of some latents leave of the residual, see `auxk`."""
    z, n = pre.relu(), len(latents)
    if n > k:
        kept = z.detach().topk(k, dim=-1, sorted=False).indices
        z = torch.zeros_like(z).scatter(1, kept, z.gather(1, kept))
    residual = (p.y - p.y_hat).detach().flatten(1)
    error = (z @ d.decoder.weight[latents] - residual).square().sum()
    return min(n / k, 1.0) * p.variance.detach() * error / residual.square().sum().clamp_min(1e-12)


def output_kl(weight: float | Schedule = 1.0, *, read: Sequence[str] = ()) -> Term:
    """KL divergence in nats from the model's output to the one with the reconstruction in place, mean over rows.

    `read`: sites that another term reads of the same run, so that the model runs once.
    """

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        clean, changed = (p.finished(tuple(read), clean=c)[0].log_softmax(-1) for c in (True, False))
        return (clean.exp() * (clean - changed)).sum(-1).mean()

    return Term(loss, ENCODER | DECODER, frozenset({"finish"}), weight)


def downstream(later: Sequence[str], weight: float | Schedule) -> Term:
    """Error at later sites with the reconstruction in place, as a share of the site's variance, mean over sites."""
    sites = [Site.of(site) for site in later]
    if not sites:
        raise ValueError("name at least one site after the dictionary's: later=['8.resid']")

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        clean, changed = p.finished(tuple(later), clean=True)[1], p.finished(tuple(later))[1]
        shares = [(clean[s] - changed[s]).square().sum() / (clean[s] - clean[s].mean(0)).square().sum() for s in sites]
        return torch.stack(shares).mean()

    return Term(loss, ENCODER | DECODER, frozenset({"finish"}), weight)


def outer_error(*, ordered: bool = False) -> Term:
    """|u u^T - sum of value * form|^2 for rows u of norm 1, mean over rows; 1 when nothing is explained.

    For `encoders.Bilinear`, from the products of the forms: no d x d matrix is made. `ordered` averages over all
    prefixes of the latents.
    """

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        h = p.code.to_dense() / p.x.flatten(1).norm(dim=-1, keepdim=True).clamp_min(1e-12)
        gram, left = d.encoder.gram(), torch.linspace(1, 1 / d.latents, d.latents, device=h.device)
        if ordered:  # latent i is in the prefixes longer than i, a share (latents - i) / latents of them
            return 1 + ((h @ (gram * torch.minimum(left[:, None], left))) * h - 2 * left * h.square()).sum(-1).mean()
        return 1 + ((h @ gram) * h - 2 * h.square()).sum(-1).mean()

    return Term(loss, ENCODER)


def hoyer(weight: float | Schedule) -> Term:
    """How dense each latent is over the batch, 0 when one row has it to 1 when all alike: (|z|_1 / |z|_2 - 1) / ..."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        z = p.code.to_dense() / p.x.flatten(1).norm(dim=-1, keepdim=True).clamp_min(1e-12)
        share = z.abs().sum(0) / z.norm(dim=0).clamp_min(1e-12)
        return ((share - 1) / max(1e-12, len(z) ** 0.5 - 1)).mean()

    return Term(loss, ENCODER, weight=weight)


def read_out() -> Term:
    """Share of the targets' variance that the decoder leaves, of a code that does not hear of it."""

    def loss(p: Pass, d: Dictionary, at: Progress) -> Scalar:
        return (p.y - d.decoder(p.code.detach())).square().flatten(1).sum(-1).mean() / p.variance

    return Term(loss, DECODER)

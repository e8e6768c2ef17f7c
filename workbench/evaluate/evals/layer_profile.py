"""In which layers does each latent of a dictionary for many layers act."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isnan, nan
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..case import Case
from ..examples import OURS
from ..scores import Direction, Score, Scores, jackknife

NEEDS = ("layered",)
SCALE_INVARIANT = ("local_share", "entropy", "centre", "spread", "between_tokens")
GROUPS = 16  # of documents, for the jackknife


@dataclass(frozen=True, eq=False)
class Layered:
    """The rows of the same tokens at several layers, in order of depth, and the document of each token.

    Made by `tasks.layers.layers(subject, tokens, sites)`. Raises ValueError when the parts do not fit.
    """

    x: Float[Tensor, "token layer d"]
    document: Int[Tensor, " token"]
    sites: Sequence[str]
    share_excluded: float = 0.0

    def __post_init__(self) -> None:
        if self.x.ndim != 3 or self.x.shape[1] != len(self.sites) or len(self.sites) < 2:
            raise ValueError(
                f"layers want rows (token, layer, d) of two sites or more, got {tuple(self.x.shape)} for "
                f"{len(self.sites)} sites"
            )
        if len(self.document) != len(self.x) or len(self.document.unique()) < 2:
            raise ValueError(f"layers want the document of each of {len(self.x)} tokens, of two documents or more")
        if not bool(self.x.isfinite().all()):
            raise ValueError("layers hold NaN or infinity: look at the rows that were read")


class Acts(NamedTuple):
    """Where latents act: an entry for each active latent of a token at a layer, `size` as a share of the row's norm."""

    token: Int[Tensor, " n"]
    latent: Int[Tensor, " n"]
    layer: Int[Tensor, " n"]
    size: Float[Tensor, " n"]


class Profiles(NamedTuple):
    """Summed over each group's tokens: size by layer, and its variance over layers within tokens, weighed by size."""

    mass: Float[Tensor, "group latent layer"]
    inside: Float[Tensor, "group latent"]


def layer_profile(case: Case, *, local: float = 0.9, least: int = 20) -> Scores:
    """How the activity of each latent is spread over layers. It describes; only `local_share` has a direction.

    A latent acts at a layer by value times atom norm over the row's norm, summed over tokens. A dictionary of single
    rows (`multilayer`) encodes each layer's rows on their own; one whose atoms have a layer axis (crosscoders) encodes
    them together, and acts by the norms of its atoms there. Latents with fewer than `least` entries are left out.
    `local_share`: latents with `local` or more of their activity in one layer. Means over latents: `entropy` of the
    shares in bits (0: one layer), `centre`, the mean layer, counted from 0, `spread`, the standard deviation in layers,
    and `between_tokens`: the share of that variance which lies between tokens, each at its own depth, not between the
    layers of one token (left out where no latent is ever on at two layers). Chance: the same entries dealt to latents
    at random, each keeping their number. Intervals leave out one of up to 16 groups of documents (jackknife). The
    case's own site is not used: train a dictionary for many layers with the site of one of them. Data:
    `tasks.layers.layers`. Source: Lawson et al. 2024, arXiv 2409.04185; theirs standardises rows and weighs activations
    only. Raises ValueError where no latent has `least` entries.
    """
    given = case.need("layered", Layered)
    if not 0 < local <= 1 or least < 1:
        raise ValueError(f"local must be above 0, up to 1, and least 1 or more, got {local} and {least}")
    acts = _acts(case, given)
    counts = torch.bincount(acts.latent, minlength=case.codec.latents)
    kept = counts >= least
    if not bool(kept.any()):
        raise ValueError(
            f"no latent of {case.name} is on {least} times in {len(given.x)} tokens: give more, or lower least"
        )
    group = given.document.unique(return_inverse=True)[1] % GROUPS
    drawn = torch.randperm(len(acts.latent), generator=torch.Generator().manual_seed(case.seed))
    real, null = (
        _profiles(a, group, case.codec.latents, len(given.sites), kept)
        for a in (acts, acts._replace(latent=acts.latent[drawn]))
    )
    whole = _told(real.mass.sum(0), real.inside.sum(0), local)
    chance = _told(null.mass.sum(0), null.inside.sum(0), local)
    without = [_told(real.mass.sum(0) - m, real.inside.sum(0) - i, local) for m, i in zip(*real, strict=True)]
    last = float(len(given.sites) - 1)
    units: dict[str, tuple[str, Direction, float]] = {
        "local_share": (
            f"share of latents with {local:g} of their activity in one of {last + 1:g} layers",
            "higher",
            1.0,
        ),
        "entropy": ("bits, mean over latents", "none", inf),
        "centre": ("layers from the first, mean over latents", "none", last),
        "spread": ("layers, mean over latents", "none", last),
        "between_tokens": ("share of a latent's variance of layer, mean over latents", "none", 1.0),
    }

    documents = len(given.document.unique()) / len(without)

    def score(metric: str) -> Score:
        unit, direction, most = units[metric]
        left = torch.tensor([w[metric] for w in without if not isnan(w[metric])], dtype=torch.float64)
        value, by, lucky = whole[metric], float(jackknife(left)), chance[metric]
        return Score(
            metric=metric, value=value, low=max(0.0, value - by), high=min(most, value + by), unit=unit,
            direction=direction, range=(0.0, most), chance=None if isnan(lucky) else lucky, n=int(kept.sum()),
            counted="latents", share_excluded=given.share_excluded,
            resampled=f"jackknife of {len(without)} x group of {documents:.3g} documents", note=OURS,
        )  # fmt: skip

    return Scores.of(*(score(metric) for metric in units if not isnan(whole[metric])))


@torch.no_grad()
def _acts(case: Case, given: Layered) -> Acts:
    norm = given.x.norm(dim=-1).clamp_min(1e-12)  # (token, layer)
    atoms, parts = case.codec.atoms().detach().cpu(), []
    if atoms.ndim == 3:
        token, latent, value = (t.cpu() for t in case.encoded(given.x).entries())
        if atoms.shape[1] != len(given.sites):
            raise ValueError(f"{case.name} has atoms for {atoms.shape[1]} layers, the rows are of {len(given.sites)}")
        sizes = atoms.norm(dim=-1)  # (latent, layer)
        for layer in range(len(given.sites)):
            parts.append((token, latent, torch.full_like(token, layer), value.abs() * sizes[latent, layer]))
    else:
        sizes = atoms.flatten(1).norm(dim=-1)
        for layer in range(len(given.sites)):
            token, latent, value = (t.cpu() for t in case.encoded(given.x[:, layer]).entries())
            parts.append((token, latent, torch.full_like(token, layer), value.abs() * sizes[latent]))
    token, latent, layer, size = (torch.cat(p) for p in zip(*parts, strict=True))
    return Acts(token, latent, layer, size.double() / norm[token, layer].double())


def _profiles(acts: Acts, group: Int[Tensor, " token"], latents: int, layers: int, kept: Tensor) -> Profiles:
    groups = int(group.max()) + 1
    place = kept.cumsum(0) - 1
    used = kept[acts.latent]
    token, layer, size = acts.token[used], acts.layer[used], acts.size[used]
    latent, some = place[acts.latent[used]], int(kept.sum())
    flat = (group[token] * some + latent) * layers + layer
    mass = size.new_zeros(groups * some * layers).index_add_(0, flat, size).view(groups, some, layers)
    pair, which = (token * some + latent).unique(return_inverse=True)  # a latent of a token, over its layers
    w0, w1, w2 = (size.new_zeros(len(pair)).index_add_(0, which, size * layer**p) for p in range(3))
    variance = (w2 - w1.square() / w0.clamp_min(1e-30)).clamp_min(0)
    at = group[pair // some] * some + pair % some
    return Profiles(mass, size.new_zeros(groups * some).index_add_(0, at, variance).view(groups, some))


def _told(mass: Float[Tensor, "latent layer"], inside: Float[Tensor, " latent"], local: float) -> dict[str, float]:
    """The five numbers from sums over tokens; latents that never act in these are left out."""
    total = mass.clamp_min(0).sum(-1)
    share, inside = mass[total > 0].clamp_min(0) / total[total > 0, None], inside[total > 0].clamp_min(0)
    layer = torch.arange(mass.shape[-1]).double()
    centre = share @ layer
    variance = (share @ layer.square() - centre.square()).clamp_min(0)
    between = 1 - inside / (variance * total[total > 0]).clamp_min(1e-30)
    moves = variance > 1e-6  # latents that are ever on at two layers
    return {
        "local_share": float((share.amax(-1) >= local).double().mean()),
        "entropy": float(-(share * share.clamp_min(1e-30).log2()).sum(-1).mean().clamp_max(0)) + 0.0,
        "centre": float(centre.mean()),
        "spread": float(variance.sqrt().mean()),
        "between_tokens": float(between[moves].clamp(0, 1).mean()) if bool(moves.any()) else nan,
    }

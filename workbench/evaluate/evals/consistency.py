"""Do dictionaries of other seeds find the same latents?"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from ... import geometry
from ...code import Codec
from ..case import Case
from ..examples import OURS
from ..scores import Direction, Scores, Sums

NEEDS = ("siblings",)
SCALE_INVARIANT = ("pw_mcc", "shared_share", "mmcs", "pw_mcc_shuffled")
ALL_PAIRS = 1 << 22  # pairs of latents up to which a matching looks at all of them
CANDIDATES = 32  # of each latent, beyond


@dataclass(frozen=True)
class Siblings:
    """Dictionaries of other seeds at the same site, for `given={"siblings": Siblings((a, b))}`.

    `differ` says in what the runs differ. With the same order of rows more is shared than without, so say it.
    Raises ValueError when there is none, or when their atoms live in different spaces.
    """

    codecs: tuple[Codec, ...]
    differ: str = "seed"

    def __post_init__(self) -> None:
        if not self.codecs or not all(isinstance(c, Codec) for c in self.codecs):
            raise ValueError(f"siblings must be one or more codecs, got {[type(c).__name__ for c in self.codecs]}")
        shapes = {tuple(c.atoms([0]).shape[1:]) for c in self.codecs}
        if len(shapes) > 1:
            raise ValueError(f"siblings must have atoms of one shape, got {sorted(shapes)}")


class Agreement(NamedTuple):
    """What one dictionary's live latents find in another's, each as one number per latent of the first."""

    matched: Float[Tensor, " live"]  # |cosine| with the matched atom, 0 where none
    largest: Float[Tensor, " live"]  # cosine with the nearest atom; several may share one
    paired: Float[Tensor, " live"]  # mean |cosine| with all of them: of a partner at random
    shared: Bool[Tensor, " live"]
    both: bool  # shared by atoms and encoder columns, not by atoms alone


def consistency(case: Case, *, above: float = geometry.SHARED) -> Scores:
    """Mean |cosine| of live latents with their partners in other seeds (PW-MCC), and the share that are the same.

    Over the pairs of this dictionary with each sibling: the mean over all dictionaries of a set is the set's PW-MCC.
    Partners are one-to-one and maximise the sum; a latent without one counts 0; latents that never fire on the
    held-out rows are left out on both sides. A latent is shared when its partner by signed cosine of atoms is also its
    partner by encoder columns, both above `above`; where a dictionary has no columns, atoms alone decide, and the
    unit says so. `stable_share`: shared with every sibling. `mmcs`: cosine with the nearest, an upper bound.
    Chance: random unit atoms of the same numbers. `pw_mcc_shuffled`: latents paired at random, which is what all
    atoms have in common. Intervals resample latents. Beyond 2,048 live latents, matchings look at 32 nearest of each.
    `tasks.planted.siblings` trains some. Raises ValueError for a sibling of another site, or when no latent fires.
    Source: Song et al. 2025, arXiv 2505.20254; Paulo & Belrose 2025, arXiv 2501.16615.
    """
    if not 0 < above < 1:
        raise ValueError(f"above must be a cosine between 0 and 1, got {above}")
    siblings = case.need("siblings", Siblings)
    own = _live(case, case.codec)
    found, null = [], None
    for sibling in siblings.codecs:
        if sibling.site != case.site or sibling.target != case.target:
            raise ValueError(f"siblings of {case.name} must stand at {case.site}, got one at {sibling.site}")
        other = _live(case, sibling)
        found.append(agreement(case.codec, sibling, own, other, above=above))
        if null is None:
            null = _null(case.codec, sibling, int(own.sum()), int(other.sum()), above, case.seed)
    assert null is not None
    number = len(found)
    sums = Sums(
        {
            "latents": torch.ones(int(own.sum())).double(),
            **{
                name: torch.stack([getattr(f, name) for f in found]).double().mean(0)
                for name in ("matched", "largest", "shared", "paired")
            },
            "stable": torch.stack([f.shared for f in found]).all(0).double(),
        },
        "latent",
    )
    columns = "atoms and encoder columns" if all(f.both for f in found) else "atoms alone (no encoder columns)"
    same = f"with one partner by {columns}, cosine > {above:g}"
    against = f"; {number} siblings that differ in {siblings.differ}"
    wanted: list[tuple[str, str, str, float | None, Direction]] = [
        ("pw_mcc", "matched", "mean |cosine| of partners" + against, float(null.matched.mean()), "higher"),
        ("shared_share", "shared", f"share of live latents {same}", float(null.shared.double().mean()), "higher"),
        ("mmcs", "largest", "mean cosine with the nearest of a sibling", float(null.largest.mean()), "higher"),
    ]
    wanted.append(("pw_mcc_shuffled", "paired", "mean |cosine| of latents paired at random", None, "none"))
    if number > 1:
        chance = float(null.shared.double().mean()) ** number
        wanted.append(("stable_share", "stable", f"share {same}, in all {number} siblings", chance, "higher"))
    scores = [
        case.score(
            metric,
            sums,
            lambda s, name=name: s[name] / s["latents"],
            unit=unit,
            direction=direction,
            range=(-1.0, 1.0) if metric == "mmcs" else (0.0, 1.0),
            chance=chance,
            counted="latents",
            note=OURS,
        )
        for metric, name, unit, chance, direction in wanted
    ]
    return Scores.of(*scores)


@torch.no_grad()
def agreement(
    a: Codec,
    b: Codec,
    live_a: Bool[Tensor, " m"] | None = None,
    live_b: Bool[Tensor, " n"] | None = None,
    *,
    above: float = geometry.SHARED,
) -> Agreement:
    """How far the (live) latents of `a` are found again in `b`; also for dictionaries of different widths."""
    live_a = torch.ones(a.latents, dtype=torch.bool) if live_a is None else live_a
    live_b = torch.ones(b.latents, dtype=torch.bool) if live_b is None else live_b
    signed = any(getattr(getattr(c, "sparsifier", None), "signed", False) for c in (a, b))
    columns = encoder_columns(a), encoder_columns(b)
    read = None
    if columns[0] is not None and columns[1] is not None:
        read = columns[0][live_a], columns[1][live_b]
    return _agree(_flat(a, live_a), _flat(b, live_b), read, signed, above)


def encoder_columns(codec: Codec) -> Float[Tensor, "latent inp"] | None:
    """The direction that each latent reads along; None for a codec whose encoder has no matrix of that shape."""
    weight = getattr(getattr(codec, "encoder", None), "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != codec.latents:
        return None
    return weight.detach().T.cpu()


def _agree(a: Tensor, b: Tensor, read: tuple[Tensor, Tensor] | None, signed: bool, above: float) -> Agreement:
    few = None if len(a) * len(b) <= ALL_PAIRS else CANDIDATES
    matched = geometry.match(a, b, absolute=True, candidates=few).of_each(len(a))
    decoders = geometry.match(a, b, absolute=signed, candidates=few)
    encoders = decoders if read is None else geometry.match(*read, absolute=signed, candidates=few)
    largest = geometry.nearest(a, b, absolute=signed).cosines
    unit = normalize(b, dim=-1).T
    paired = torch.cat([(normalize(part, dim=-1) @ unit).abs().mean(-1) for part in a.split(1024)])
    return Agreement(
        matched, largest, paired, geometry.shared(decoders, encoders, len(a), above=above), read is not None
    )


def _null(a: Codec, b: Codec, m: int, n: int, above: float, seed: int) -> Agreement:
    """The same for random unit matrices of the same shapes."""

    def drawn(d: int, first: int) -> tuple[Tensor, Tensor]:
        return geometry.random_directions(m, d, seed=first), geometry.random_directions(n, d, seed=first + 1)

    columns = encoder_columns(a)
    read = None if columns is None or encoder_columns(b) is None else drawn(columns.shape[1], 4 * seed + 2)
    return _agree(*drawn(_flat(a).shape[1], 4 * seed), read, False, above)


def _flat(codec: Codec, live: Bool[Tensor, " latent"] | None = None) -> Float[Tensor, "some d"]:
    atoms = codec.atoms().detach().flatten(1).float().cpu()
    return atoms if live is None else atoms[live]


@torch.no_grad()
def _live(case: Case, codec: Codec) -> Bool[Tensor, " latent"]:
    """Latents that fire on the held-out rows and write somewhere. Raises ValueError when there is none."""
    if codec is case.codec:
        fires = case.scanned[1].counts.sum(0) > 0
    else:
        key = f"fires {id(codec)}"
        if key not in case.cache:
            counts = torch.zeros(codec.latents, dtype=torch.long)
            for _, batch in case.batches():
                counts += codec.encode(batch.x).fired().cpu()
            case.cache[key] = counts > 0
        fires = case.cache[key]
    found = fires & (_flat(codec).norm(dim=-1) > 0)
    if not bool(found.any()):
        raise ValueError(f"none of the {codec.latents} latents fires on the held-out rows: nothing can be matched")
    return found

"""Do atoms point where rows lie, or where there is no data?"""

import torch
from torch.nn.functional import normalize

from ... import geometry
from ..case import GROUPS, Case, resampled
from ..examples import OURS
from ..scores import Score, Scores, Sums, jackknife

SCALE_INVARIANT = ("ood",)
DRAWN = 512  # random directions of the chance level, at most
CHUNK = 256  # rows compared with all atoms at once


@torch.no_grad()
def ood(case: Case) -> Scores:
    """1 - mean over latents of the largest cosine of the atom with any held-out row, in its raw direction.

    Signed codes count |cosine|. Dead latents count too; an atom without a direction counts 1. More rows can only lower
    it. Chance: as many random unit atoms (at most 512). The interval is a delete-one jackknife over documents (in up to
    64 groups): a bootstrap would leave out a third of them, and their rows are what is asked for.
    Source: Fel et al. 2025, arXiv 2502.12892.
    """
    atoms = case.codec.atoms().detach().flatten(1).float()
    signed = getattr(getattr(case.codec, "sparsifier", None), "signed", False)
    m, d = atoms.shape
    drawn = geometry.random_directions(min(m, DRAWN), d, seed=case.seed).to(atoms)
    directions = torch.cat([normalize(atoms, dim=-1), drawn]).T
    least = 0.0 if signed else -1.0
    best = torch.full((GROUPS, len(directions.T)), least, device=atoms.device)
    rows, places = 0, {}
    for documents, batch in case.batches():
        group = torch.tensor([places.setdefault(int(i), len(places)) % GROUPS for i in documents])
        y = normalize(batch.y.flatten(1).float(), dim=-1)
        rows += len(y)
        for g in group.unique().tolist():
            for part in y[group == g].split(CHUNK):
                cosines = part @ directions
                best[g] = torch.maximum(best[g], (cosines.abs() if signed else cosines).amax(0))
    groups = min(GROUPS, len(places))
    if not groups:
        raise ValueError("there are no held-out rows to compare atoms with: collect more")
    best = best[:groups].double().cpu()
    value, chance = (1 - float(part.amax(0).mean()) for part in best.split([m, len(drawn)], 1))
    low = high = float("nan")
    if groups > 1:
        first, second = best[:, :m].topk(2, 0).values
        only_here = (best[:, :m] == first) * (first - second)  # what a latent loses, were this group left out
        reach = float(jackknife(only_here.mean(1)))
        low, high = max(value - reach, 0.0), min(value + reach, 1.0 - least)
    unit = "document" if len(places) <= GROUPS else f"group of {len(places) / GROUPS:.3g} documents"
    return Scores.of(
        Score(
            metric="ood",
            value=value,
            low=low,
            high=high,
            unit=f"1 - mean over latents of the largest {'|cosine|' if signed else 'cosine'} with {rows:,} rows",
            direction="lower",
            range=(0.0, 1.0 - least),
            chance=chance,
            n=m,
            counted="latents",
            share_excluded=float(case.rows.share_excluded),
            resampled=f"jackknife of {resampled(Sums({'rows': torch.ones(groups)}, unit))}",
            note=OURS,
        )
    )

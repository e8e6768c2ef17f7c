"""Does the dictionary hold the directions that were planted, and say where they are on?"""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ... import geometry
from ...code import Code
from ..case import Case
from ..scores import Score, Scores, Sums
from .consistency import ALL_PAIRS, CANDIDATES

NEEDS = ("truth",)
SCALE_INVARIANT = ("mmcs", "recall", "mmcs_learned", "precision", "correlation", "support_f1")
DRAWS, PAIRS = 20, 1 << 20  # random dictionaries behind the chance level, and pairs of atoms looked at for it


@dataclass(frozen=True)
class Truth:
    """Planted directions, and where it is known the code that made rows `x` (0 where a direction is off).

    Raises ValueError when the parts do not fit, a direction is zero, or a number is not finite.
    """

    atoms: Float[Tensor, "n d"]
    x: Float[Tensor, "row *inp"] | None = None
    code: Float[Tensor, "row n"] | None = None
    signed: bool = False  # coefficients have both signs: cosines count by size

    def __post_init__(self) -> None:
        if self.atoms.ndim != 2 or not len(self.atoms):
            raise ValueError(f"truth must be one or more directions (n, d), got {tuple(self.atoms.shape)}")
        if not bool(self.atoms.isfinite().all()) or bool((self.atoms.norm(dim=-1) == 0).any()):
            raise ValueError("every true direction must be finite and not zero: leave out those that are")
        if (self.x is None) != (self.code is None):
            raise ValueError("a true code belongs to the rows it made: give both x and code, or neither")
        if self.x is not None and self.code is not None:
            wanted = (len(self.x), len(self.atoms))
            if self.code.shape != wanted or not len(self.x):
                raise ValueError(f"the true code must be (row, direction) = {wanted}, got {tuple(self.code.shape)}")
            for name, rows in (("x", self.x), ("code", self.code)):
                if not bool(rows.isfinite().all()):
                    raise ValueError(f"{name} of the truth holds NaN or infinity")


def recovery(case: Case, *, above: float = 0.9) -> Scores:
    """Mean largest cosine of true directions with live atoms (MMCS); how many are matched one-to-one above `above`.

    `mmcs_learned` and `precision` go from atoms to the truth: atoms that mean nothing lower them. Where the true code
    is given, each direction's coefficient against the code of its matched latent: correlation over rows and F1 of being
    on, means over directions; `recall_rare` and `recall_common` are of the third of directions that are on least and
    most often. Latents that never fire (on the true rows, else on the held-out ones) are left out. Chance of cosines:
    random unit atoms of the same number; of correlation and F1: each direction with the next one's latent. Intervals
    resample directions (atoms for the two that start there). `table(case)` has one line per direction.
    `tasks.planted.truth` makes the data. Raises ValueError for a truth of another width, or when no latent fires.
    Source: Sharkey et al. 2022; the matched recall and its null are ours.
    """
    if not 0 < above < 1:
        raise ValueError(f"above must be a cosine between 0 and 1, got {above}")
    truth = case.need("truth", Truth)
    atoms, latents, code = _live(case, truth)
    n, d = truth.atoms.shape
    found = _cosines(atoms, truth)
    draws = max(1, min(DRAWS, PAIRS // (n * len(atoms))))
    drawn = [geometry.random_directions(len(atoms), d, seed=DRAWS * case.seed + i) for i in range(draws)]
    nulls = [_cosines(a, truth) for a in drawn]
    null = {k: torch.cat([one[k] for one in nulls]) for k in found}
    hit = {k: (c > above).double() for k, c in found.items()}
    lucky = {k: float((c > above).double().mean()) for k, c in null.items()}
    directions = {"directions": torch.ones(n), "nearest": found["nearest"], "hit": hit["matched"]}
    live = {"atoms": torch.ones(len(atoms)), "nearest": found["back"], "hit": hit["back"]}
    told = wrong = {}
    if code is not None and truth.code is not None:
        partner = _match(truth, atoms).partners(n)
        told = _told(_columns(code, latents, partner), truth)
        wrong = _told(_columns(code, latents, partner.roll(1)), truth)
        often = (truth.code != 0).double().mean(0).argsort(stable=True)
        third = max(1, n // 3)
        for name, which in (("rare", often[:third]), ("common", often[-third:])):
            directions[name] = torch.zeros(n).index_fill(0, which, 1.0)
            directions[f"hit_{name}"] = directions[name] * hit["matched"]
        directions |= told

    def score(metric: str, top: str, over: str, unit: str, chance: float) -> Score:
        counted, values = ("atoms", live) if over == "atoms" else ("directions", directions)
        return case.score(
            metric,
            Sums({k: v.double() for k, v in values.items()}, counted.removesuffix("s")),
            lambda s: s[top] / s[over].clamp_min(1),
            unit=unit,
            direction="higher",
            range=(-1.0, 1.0) if top in ("nearest", "correlation") else (0.0, 1.0),
            chance=chance,
            counted=counted,
        )

    mean, matched = "mean cosine of a", f"share of directions matched one-to-one, cosine > {above:g}"
    near = f"share of live atoms with a direction at cosine > {above:g}"
    cosine = {k: float(c.mean()) for k, c in null.items()}
    return Scores.of(
        score("mmcs", "nearest", "directions", f"{mean} direction with its nearest live atom", cosine["nearest"]),
        score("recall", "hit", "directions", matched, lucky["matched"]),
        *(
            score(f"recall_{name}", f"hit_{name}", name, f"{matched}: of the {name} third", lucky["matched"])
            for name in (("rare", "common") if told else ())
        ),
        *(
            score(name, name, "directions", f"mean {name} of direction and matched latent", float(wrong[name].mean()))
            for name in told
        ),
        score("mmcs_learned", "nearest", "atoms", f"{mean} live atom with its nearest direction", cosine["back"]),
        score("precision", "hit", "atoms", near, lucky["back"]),
    )


def table(case: Case) -> pd.DataFrame:
    """One line per true direction: cosine with the nearest live atom, the matched latent (-1: none) and its cosine.

    Where the true code is given, also `frequency`, `correlation` and `support_f1`.
    """
    truth = case.need("truth", Truth)
    atoms, latents, code = _live(case, truth)
    n, match, cosines = len(truth.atoms), _match(truth, atoms), _cosines(atoms, truth)
    partner = match.partners(n)
    found = {
        "direction": torch.arange(n),
        "nearest": cosines["nearest"],
        "latent": torch.where(partner < 0, -1, latents[partner]),
        "matched": cosines["matched"],
    }
    if code is not None and truth.code is not None:
        found["frequency"] = (truth.code != 0).double().mean(0)
        found |= _told(_columns(code, latents, partner), truth)
    return pd.DataFrame({name: values.numpy() for name, values in found.items()})


def _live(case: Case, truth: Truth) -> tuple[Tensor, Tensor, Code | None]:
    """Live atoms, which latents they are, and the code of the true rows where there are any."""
    atoms = case.codec.atoms().detach().flatten(1).float().cpu()
    if atoms.shape[1] != truth.atoms.shape[1]:
        raise ValueError(f"the truth is {truth.atoms.shape[1]} wide, the atoms of {case.name} {atoms.shape[1]}")
    if truth.x is None:
        code, fires = None, case.scanned[1].counts.sum(0) > 0
    else:
        code = case.encoded(truth.x)
        fires = code.fired().cpu() > 0
    latents = (fires & (atoms.norm(dim=-1) > 0)).nonzero()[:, 0]
    if not len(latents):
        raise ValueError(f"none of the {case.codec.latents} latents of {case.name} fires: nothing can be recovered")
    return atoms[latents], latents, code


def _match(truth: Truth, atoms: Tensor) -> geometry.Match:
    few = None if len(truth.atoms) * len(atoms) <= ALL_PAIRS else CANDIDATES
    return geometry.match(truth.atoms, atoms, absolute=truth.signed, candidates=few)


def _cosines(atoms: Tensor, truth: Truth) -> dict[str, Tensor]:
    """Of each direction with its nearest and its matched atom, of each atom with its nearest direction."""
    return {
        "nearest": geometry.nearest(truth.atoms, atoms, absolute=truth.signed).cosines,
        "matched": _match(truth, atoms).of_each(len(truth.atoms)),
        "back": geometry.nearest(atoms, truth.atoms, absolute=truth.signed).cosines,
    }


def _columns(code: Code, latents: Tensor, partner: Tensor) -> Float[Tensor, "row n"]:
    """The codes of each direction's partner, 0 where it has none."""
    place = torch.full((code.latents,), -1)
    has = (partner >= 0).nonzero()[:, 0]
    place[latents[partner[has]]] = has
    row, latent, value = (part.detach().cpu() for part in code.entries())
    kept = place[latent] >= 0
    found = torch.zeros(len(code), len(partner), dtype=torch.float64)
    return found.index_put((row[kept], place[latent[kept]]), value[kept].double())


def _told(z: Float[Tensor, "row n"], truth: Truth) -> dict[str, Float[Tensor, " n"]]:
    """Correlation with the true coefficients and F1 of being on, per direction; 0 where either never varies."""
    assert truth.code is not None
    c = truth.code.double()
    both = ((z != 0) & (c != 0)).sum(0).double()
    f1 = 2 * both / ((z != 0).sum(0) + (c != 0).sum(0)).clamp_min(1)
    z, c = z - z.mean(0), c - c.mean(0)
    size = (z.square().sum(0) * c.square().sum(0)).sqrt()
    inner = (z * c).sum(0)
    found = torch.where(size > 0, inner / torch.where(size > 0, size, 1.0), 0.0)
    return {"correlation": found.abs() if truth.signed else found, "support_f1": f1}

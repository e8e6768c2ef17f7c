"""How much of a class do latents of its parts take over from the latents of the class itself?"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import probes
from ..case import Case
from ..examples import OURS, TEST, VALIDATION, Examples
from ..main_latents import concepts, f1_sums, guessed, mains, over_classes
from ..scores import Scores

NEEDS = ("words",)
MEAN = {"absorption_fraction": 0.0, "full_absorption": 0.0, "main_f1": 0.0}
SCALE_INVARIANT = ("absorption_fraction", "full_absorption", "main_f1", "probe_f1")


def absorption(
    case: Case,
    *,
    jump: float = 0.03,
    most: int = 10,
    least_f1: float = 0.6,
    absorbers: int = 3,
    cosine: float = 0.1,
    full_cosine: float = 0.025,
    share: float = 0.4,
) -> Scores:
    """Mean over classes of the share of a class's direction that other latents carry in its rows. 0 is best.

    `words`: examples of one row each (`evaluate.tasks.words`). Per class a logistic probe at the site that the
    dictionary writes, of unit direction p; its main latents by k-sparse probes (`jump`, `most`). A latent contributes
    value * (atom . p). In a test row of the class that the probe finds, the absorbers are the `absorbers` largest
    positive contributions of other latents with cosine(atom, p) >= `cosine`. Fraction: 0 where main >= y . p or
    absorbers / (y . p) < `share`; 1 where main <= 0; else A / (A + main), A = min(absorbers, y . p - main).
    Full absorption: no main latent is on, and the largest contribution is `share` of y . p or more, of a latent with
    cosine >= `full_cosine`. Classes with a probe of validation F1 below `least_f1` are left out: that judges the
    subject, and is the same for all dictionaries. A silent dictionary absorbs nothing (chance 0): read `main_f1` beside
    it, the test F1 of probes on the main latents; its chance is that of saying yes to every row.
    Source: Chanin et al. 2024, arXiv 2409.14507; the fraction is that of SAEBench (Karvonen et al. 2025). Ours finds
    main latents without test words, and multiplies with the atom's norm, which need not be 1.
    Raises ValueError when no class can be read, a fold lacks a class, or an example has several rows.
    """
    if absorbers < 1 or not 0 < share <= 1:
        raise ValueError(f"absorbers must be 1 or more and share within 0..1, got {absorbers} and {share}")
    examples = case.need("words", Examples)
    found = mains(case, examples, jump=jump, most=most)
    y, codes, atoms = examples.y.flatten(1).double(), case.pooled(examples), case.codec.atoms().detach().flatten(1)
    test, held = examples.at(TEST), examples.at(VALIDATION)
    names, rows, kept = [], [], []
    known = concepts(examples)
    fitted = probes.several(y, torch.stack([c.truth for c in known]), examples.fold)
    for concept, main, probe in zip(known, found, fitted, strict=True):
        said = probe(y) > 0
        names.append(f"{concept.name} {(f1 := float(probes.f1(said[held], concept.truth[held]))):.2f}")
        if f1 < least_f1:
            continue
        p = probe.weight / probe.weight.norm()
        at = (said & concept.truth & test).nonzero()[:, 0]
        along = atoms.double() @ p.to(atoms.device)
        norm = atoms.double().norm(dim=-1)
        toward = torch.where(norm > 0, along / torch.where(norm > 0, norm, 1.0), 0.0).cpu()
        z, along = codes[at].double(), along.cpu()
        part, full = torch.zeros(len(y), dtype=torch.float64), torch.zeros(len(y), dtype=torch.float64)
        part[at] = fractions(
            z * along, toward, main.latents, y[at] @ p, absorbers=absorbers, cosine=cosine, share=share
        )
        full[at] = absorbed(z, along, toward, main.latents, y[at] @ p, cosine=full_cosine, share=share).double()
        here = torch.zeros_like(part)
        here[at] = 1.0
        rows.append((part, full, here, said, main.said, concept.truth))
        kept.append(concept.name)
    if not kept:
        raise ValueError(
            f"no class can be read at {case.target} with F1 >= {least_f1:g} (F1 on validation: {', '.join(names)}): "
            f"take a subject or a site that knows them, or more words"
        )
    part, full, here, said, main_said, truth = (torch.stack(v, -1) for v in zip(*rows, strict=True))
    sums = examples.sums({"part": part, "full": full, "found": here, "all": torch.ones(len(y), len(names))})
    spoken = examples.sums(f1_sums(said, truth))
    by_main = examples.sums(f1_sums(main_said, truth))
    note = "" if examples.published else OURS
    about = {"share_excluded": examples.share_excluded, "note": note}
    guess = guessed(truth, examples.fold)
    return Scores.of(
        case.score(
            "absorption_fraction",
            sums,
            lambda s: over_classes(s["part"], s["found"]),
            unit=f"share of the projection on the probe, mean over {len(kept)} classes",
            direction="lower",
            range=(0.0, 1.0),
            chance=0.0,
            counted="found",
            **about,
        ),
        case.score(
            "full_absorption",
            sums,
            lambda s: over_classes(s["full"], s["found"]),
            unit=f"share of rows that the probe finds, mean over {len(kept)} classes",
            direction="lower",
            range=(0.0, 1.0),
            chance=0.0,
            counted="found",
            **about,
        ),
        case.score(
            "main_f1",
            by_main,
            lambda s: over_classes(s["twice"], s["spoken"]),
            unit="F1 of probes on the main latents, mean over classes",
            direction="none",
            range=(0.0, 1.0),
            chance=guess,
            counted="examples",
            **about,
        ),
        case.score(
            "probe_f1",
            spoken,
            lambda s: over_classes(s["twice"], s["spoken"]),
            unit="F1 of probes on the activations, mean over classes",
            direction="none",
            range=(0.0, 1.0),
            chance=guess,
            counted="examples",
            **about,
        ),
        case.score(
            "classes_left_out",
            sums,
            lambda s: torch.full_like(s["examples"], len(names) - len(kept)),
            unit=f"of {len(names)} classes, probe F1 below {least_f1:g}",
            direction="none",
            range=(0.0, float(len(names))),
            counted="examples",
            **about,
        ),
    )


def fractions(
    parts: Float[Tensor, "row latent"],
    cosines: Float[Tensor, " latent"],
    main: Int[Tensor, " k"],
    projection: Float[Tensor, " row"],
    *,
    absorbers: int = 3,
    cosine: float = 0.1,
    share: float = 0.4,
) -> Float[Tensor, " row"]:
    """Absorption fraction of each row from the latents' contributions to its `projection` on the probe."""
    own = parts[:, main].sum(-1)
    other = torch.where(cosines >= cosine, parts, 0.0).clamp_min(0)
    other[:, main] = 0.0
    taken = other.topk(min(absorbers, other.shape[1]), dim=-1).values.sum(-1)
    most = torch.minimum(taken, projection - own)
    found = torch.where(own <= 0, 1.0, most / (most + own.clamp_min(1e-300)))
    return torch.where((own >= projection) | (taken < share * projection) | (projection <= 0), 0.0, found)


def absorbed(
    codes: Float[Tensor, "row latent"],
    along: Float[Tensor, " latent"],
    cosines: Float[Tensor, " latent"],
    main: Int[Tensor, " k"],
    projection: Float[Tensor, " row"],
    *,
    cosine: float = 0.025,
    share: float = 0.4,
) -> Bool[Tensor, " row"]:
    """Whether a row is fully absorbed: its main latents are off, and one other latent carries the class."""
    top, which = (codes * along).max(-1)
    off = (codes[:, main] == 0).all(-1)
    return off & (projection > 0) & (top >= share * projection) & (cosines[which] >= cosine)

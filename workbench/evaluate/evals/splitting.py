"""Into how many latents is a class split?"""

import torch

from ..case import Case
from ..examples import OURS, Examples
from ..main_latents import concepts, f1_sums, guessed, mains, over_classes
from ..scores import Scores, Sums

NEEDS = ("words",)
SCALE_INVARIANT = ("split_latents", "f1_gain", "main_f1", "without_latent")


def splitting(case: Case, *, jump: float = 0.03, most: int = 10) -> Scores:
    """Latents that the jump rule keeps for a class, mean over the classes that have one. 1 is best.

    `words`: examples of one row each (`evaluate.tasks.words`). A latent is added while the F1 of a k-sparse probe rises
    by more than `jump` on the validation fold, up to `most`. Beside it, on the test fold: how much F1 all of them gain
    over the first alone, and the F1 of all of them; few latents mean little where that is low. `without_latent` is the
    share of classes for which no latent speaks. The interval of the count resamples classes.
    Source: Chanin et al. 2024, arXiv 2409.14507; how ours finds them is said in `main_latents`.
    Raises ValueError when no class has a latent, a fold lacks a class, or an example has several rows.
    """
    examples = case.need("words", Examples)
    found, known = mains(case, examples, jump=jump, most=most), concepts(examples)
    counts = torch.tensor([len(m.latents) for m in found], dtype=torch.float64)
    has = counts > 0
    if not has.any():
        raise ValueError(f"no latent of {case.name} speaks for any of {len(known)} classes: all are silent in training")
    truth = torch.stack([c.truth for c in known], -1)
    said, first = (torch.stack([getattr(m, n) for m in found], -1) for n in ("said", "first"))
    all_of, one = f1_sums(said, truth), f1_sums(first, truth)
    sums = examples.sums(all_of | {f"first {k}": v for k, v in one.items()})
    classes = Sums({"latents": counts, "classes": has.double(), "all": torch.ones_like(counts)}, "class")
    about = {"share_excluded": examples.share_excluded, "note": "" if examples.published else OURS}
    return Scores.of(
        case.score(
            "split_latents",
            classes,
            lambda s: s["latents"] / s["classes"].clamp_min(1),
            unit=f"latents per class, at most {most}",
            direction="lower",
            range=(0.0, float(most)),
            counted="classes",
            **about,
        ),
        case.score(
            "f1_gain",
            sums,
            lambda s: over_classes(s["twice"], s["spoken"]) - over_classes(s["first twice"], s["first spoken"]),
            unit="F1 of all main latents less that of the first",
            direction="none",
            range=(-1.0, 1.0),
            chance=0.0,
            counted="examples",
            **about,
        ),
        case.score(
            "main_f1",
            sums,
            lambda s: over_classes(s["twice"], s["spoken"]),
            unit="F1 of probes on the main latents, mean over classes",
            direction="none",
            range=(0.0, 1.0),
            chance=guessed(truth, examples.fold),
            counted="examples",
            **about,
        ),
        case.score(
            "without_latent",
            classes,
            lambda s: 1 - s["classes"] / s["all"],
            unit="share of classes",
            direction="none",
            range=(0.0, 1.0),
            counted="all",
            **about,
        ),
    )

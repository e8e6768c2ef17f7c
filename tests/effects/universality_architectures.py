"""Latents of two architectures that fire together: do their atoms lie alike?"""

from universality_seeds import scored

from workbench.testbeds import subject

CLAIM = "Latents of two architectures that fire together have atoms that lie alike: SVCCA above shuffled pairs"
SOURCE = "Lan et al. 2024, arXiv:2410.06981"
SETTING = (
    "tiny_text_gelu with tiny_text_attn (even seeds; no MLPs) or tiny_text_bilinear (odd), 1.resid; dictionaries and "
    "pairs as in universality_seeds"
)
ARMS = ("SVCCA of the paired atoms", "the same, pairs shuffled (mean)")
MARGIN = 0.02
SEEDS = 6


def measure(seed: int) -> tuple[float, float]:
    other = subject(("tiny_text_attn", "tiny_text_bilinear")[seed % 2])
    score = scored([subject("tiny_text_gelu", seed=seed % 3), other], seed)
    return score.value, float(score.null.mean())

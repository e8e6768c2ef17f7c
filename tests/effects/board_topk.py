"""The board by single latents at one L0, as board_p_anneal has it (the eval board of workbench.evaluate)."""

from board_p_anneal import coverage

CLAIM = "At the same L0 latents of TopK cover a board better than those of a plain L1 penalty"
SOURCE = "Karvonen et al. 2024, arXiv:2408.00113"
SETTING = "as board_p_anneal"
ARMS = ("coverage, TopK", "coverage, ReLU with L1")
MARGIN = 0.02
SEEDS = 4
NOTE = "As board_p_anneal: the margin after a look at seed 100 (0.42 and 0.33)"


def measure(seed: int) -> tuple[float, float]:
    return coverage("topk", seed), coverage("relu_l1", seed)

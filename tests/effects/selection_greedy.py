"""Ten topics with a long tail: how many texts until each topic is among them?"""

import numpy as np
import torch

from workbench.code import Code
from workbench.geometry.selection import active_latents, greedy

CLAIM = (
    "Greedy selection by active latents covers all topics with at most twice the texts needed, random with five times"
)
SOURCE = "Yang et al. 2025, arXiv:2502.14050"
SETTING = (
    "2,000 texts of 10 to 60 rows, each of one of 10 topics with p in proportion to 0.6^i; a row has one latent of the "
    "topic's 20 and two of 100 that any text may have, and one that is always on, left out by its density"
)
ARMS = ("texts until all topics are covered over the topics, random order (mean of 20)", "the same, greedy")
MARGIN = 3.0
SEEDS = 8
TOPICS, EACH, COMMON = 10, 20, 100


def texts(seed: int, count: int = 2000) -> tuple[Code, torch.Tensor, torch.Tensor]:
    """The rows' code, the text of each row, and the topic of each text; every topic has a text."""
    rng = np.random.default_rng(seed)
    share = 0.6 ** np.arange(TOPICS)
    topic = np.concatenate([np.arange(TOPICS), rng.choice(TOPICS, count - TOPICS, p=share / share.sum())])
    topic = rng.permutation(topic)
    text = np.repeat(np.arange(count), rng.integers(10, 61, count))
    own = EACH * topic[text] + rng.integers(EACH, size=len(text))
    common = EACH * TOPICS + rng.permuted(np.tile(np.arange(COMMON), (len(text), 1)), axis=1)[:, :2]
    every = np.full(len(text), EACH * TOPICS + COMMON)
    indices = torch.from_numpy(np.concatenate([own[:, None], common, every[:, None]], 1))
    code = Code.fixed(indices, torch.ones(indices.shape), EACH * TOPICS + COMMON + 1)
    return code, torch.from_numpy(text), torch.from_numpy(topic)


def needed(order: torch.Tensor, topic: torch.Tensor) -> int:
    """How many of the first texts until all topics are among them."""
    return 1 + max(int((topic[order] == t).nonzero()[0]) for t in range(TOPICS))


def measure(seed: int) -> tuple[float, float]:
    code, text, topic = texts(seed)
    sets = active_latents(code, text, density=(0.0, 0.9))
    chosen = greedy(sets, 200, draws=2, seed=seed).texts
    rng = torch.Generator().manual_seed(seed)
    random = [needed(torch.randperm(len(topic), generator=rng), topic) for _ in range(20)]
    return sum(random) / len(random) / TOPICS, needed(chosen, topic) / TOPICS

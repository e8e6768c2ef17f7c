"""A first prefix of one latent for three roots: does it take more than its own direction?"""

from typing import Any

from torch.nn.functional import normalize

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "With prefixes too narrow, Matryoshka's parent latents hedge: their atoms lean towards the children"
SOURCE = "Chanin et al. 2025, arXiv:2505.11756"
SETTING = (
    "hierarchy, 20 directions in d = 32, roots on in 40 % of rows; 20 latents, k = 2, prefixes of 1, 2, 5, 10, 20 (the "
    "tree has 3, 12, 20); 800 steps of 256 rows"
)
ARMS = ("mean cosine of the atom nearest to a parent with the parent's children, Matryoshka", "the same, BatchTopK")
MARGIN = 0.02
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("hierarchy", root=0.4, world_seed=seed)
    edges = [(child, parent) for child, parent in enumerate(data.parents) if parent >= 0]

    def leans(d: Any) -> float:
        cosine = data.truth @ normalize(d.atoms(), dim=-1).T
        return sum(float(cosine[child, cosine[parent].argmax()]) for child, parent in edges) / len(edges)

    args = {"d": 32, "latents": 20, "k": 2, "seed": seed}
    parts = [recipe("matryoshka_batch_topk", **args), recipe("batch_topk", **args)]
    nested, flat = train(parts, data.stream(256, 800, seed), site=None, lr=5e-3, seed=seed, progress=False)
    return leans(nested), leans(flat)

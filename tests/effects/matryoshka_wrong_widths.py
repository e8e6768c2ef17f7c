"""A tree of directions: is a parent's latent on where a child is on?"""

from typing import Any

from torch.nn.functional import normalize

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "Matryoshka keeps a parent's latent on also with prefix widths that are not the tree's"
SOURCE = "Bussmann et al. 2025, arXiv:2503.17547"
SETTING = (
    "hierarchy, 20 directions in d = 32, roots on in 40 % of rows; 20 latents, k = 2, prefixes of 1, 2, 5, 10, 20 (the "
    "tree has 3, 12, 20); 800 steps of 256 rows"
)
ARMS = (
    "share of children's rows, less that of rows without the parent, in which the parent's latent is on, Matryoshka",
    "the same, BatchTopK",
)
MARGIN = 0.1
SEEDS = 24
NOTE = "At the first 8 seeds inconclusive, 0.13 [0.04, 0.23]: measured on 24"


def measure(seed: int) -> tuple[float, float]:
    data = world("hierarchy", root=0.4, world_seed=seed)
    held = data.sample(8192, seed + 10_000)
    parents = sorted({p for p in data.parents if p >= 0})

    def kept(d: Any) -> float:
        latent = (data.truth @ normalize(d.atoms(), dim=-1).T).argmax(-1)
        on, true, found = d.encode(held.x).to_dense() > 0, held.code != 0, []
        for parent in parents:
            child = true[:, [i for i, p in enumerate(data.parents) if p == parent]].any(-1)
            fires = on[:, latent[parent]].float()
            found.append(float(fires[child].mean() - fires[~true[:, parent]].mean()))
        return sum(found) / len(found)

    args = {"d": 32, "latents": 20, "k": 2, "seed": seed}
    parts = [recipe("matryoshka_batch_topk", **args), recipe("batch_topk", **args)]
    nested, flat = train(parts, data.stream(256, 800, seed), site=None, lr=5e-3, seed=seed, progress=False)
    return kept(nested), kept(flat)

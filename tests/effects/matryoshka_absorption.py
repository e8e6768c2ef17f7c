"""A tree of directions: is a root's latent on where a child is on?"""

from collections.abc import Sequence

from torch.nn.functional import normalize

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "Matryoshka keeps a root's latent on where a child is on, BatchTopK lets the child's latent take its place"
SOURCE = "Bussmann et al. 2025, arXiv:2503.17547"
SETTING = (
    "hierarchy, 20 directions in d = 32, roots on in 40 % of rows; 20 latents, k = 2, prefixes of 3, 12, 20 as the "
    "tree has them; 800 steps of 256 rows"
)
ARMS = (
    "share of children's rows, less that of rows without the root, in which the root's latent is on, Matryoshka",
    "the same, BatchTopK",
)
MARGIN = 0.1
SEEDS = 8
NOTE = (
    "Of roots only, on worlds drawn anew. Over all parents 24 seeds were inconclusive, 0.12 [0.08, 0.17]: the "
    "second level, whose children are rare, keeps its parents in both (0.75 to 1, seeds 100 to 102)"
)


def kept(seed: int, shares: Sequence[float]) -> tuple[float, float]:
    """How much more often a root's latent is on in its children's rows than without it: Matryoshka, BatchTopK."""
    data, found = world("hierarchy", root=0.4, world_seed=200 + seed), []
    held = data.sample(8192, seed + 10_000)
    args = {"d": 32, "latents": 20, "k": 2, "seed": seed}
    parts = [recipe("matryoshka_batch_topk", shares=shares, **args), recipe("batch_topk", **args)]
    for d in train(parts, data.stream(256, 800, seed), site=None, lr=5e-3, seed=seed, progress=False):
        latent = (data.truth @ normalize(d.atoms(), dim=-1).T).argmax(-1)
        on, true, each = d.encode(held.x).to_dense() > 0, held.code != 0, []
        for root in (i for i, p in enumerate(data.parents) if p < 0):
            child = true[:, [i for i, p in enumerate(data.parents) if p == root]].any(-1)
            fires = on[:, latent[root]].float()
            each.append(float(fires[child].mean() - fires[~true[:, root]].mean()))
        found.append(sum(each) / len(each))
    return found[0], found[1]


def measure(seed: int) -> tuple[float, float]:
    return kept(seed, (3 / 20, 12 / 20, 1.0))

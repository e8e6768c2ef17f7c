"""How many bits does a row take, with half, all and twice the latents that there are directions?

A row is sent as its code and what the code leaves, all rounded to multiples of `step`, each latent and each coordinate
coded by itself by the frequencies of its values. A latent that is off costs what its being off says: with that, the sum
over latents is the paper's, H(p) + p H(value | on).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from workbench.code import Code
from workbench.dictionary import recipe, train
from workbench.evaluate.evals.mdl import bits
from workbench.testbeds import world

CLAIM = "The description of rows is shortest at the true number of latents"
SOURCE = "Ayonrinde et al. 2024, arXiv:2410.11179"
SETTING = "superposition, 24 directions in d = 32, 2 on; BatchTopK, k = 2, 12, 24 or 48 latents; 1000 steps of 256 rows"
ARMS = ("bits per row with half or twice the latents, the fewer of the two", "bits per row with 24 latents")
MARGIN = 0.0
SEEDS = 8
NOTE = (
    "Where training finds all directions with 24 latents (seed 100), the spare ones of 48 stay off and cost "
    "nothing, and the two tie (0.02 bits at step 0.02); elsewhere 24 latents miss directions (0.88 and 0.96 found "
    "at seeds 101 and 102, all with 48), and what is left of rows costs more than any code. The control is the "
    "truth with each direction split in two: then the true number is shorter by 2 bits"
)
SWEEP = [
    {"control": True},
    {"lr": 3e-3},
    {"lr": 1e-2},
    {"k": 3},
    {"k": 4},
    {"step": 0.02},
    {"step": 0.2},
    {"variant": "topk_auxk"},
    {"steps": 4000},
]


@torch.no_grad()
def length(x: Tensor, code: Code, atoms: Tensor, decode: Callable[[Code], Tensor], step: float) -> float:
    """Bits per row."""
    found = bits(x, code, atoms.norm(dim=-1), decode, step)
    return float((found.code + found.rest).mean())


def measure(
    seed: int,
    *,
    lr: float = 3e-2,
    k: int = 2,
    step: float = 0.05,
    steps: int = 1000,
    variant: str = "batch_topk",
    control: bool = False,
) -> tuple[float, float]:
    """`step` is five standard deviations of the noise. Control: the truth, half of it, or each direction twice."""
    data = world("superposition", n=24, d=32, mean=2 / 24, world_seed=seed)
    held = data.sample(8192, seed + 10_000)
    if control:
        rng = torch.Generator().manual_seed(seed)
        first = torch.rand(held.code.shape, generator=rng) < 0.5
        twice = torch.cat([held.code * first, held.code * ~first], 1)
        codes = (held.code[:, :12], data.truth[:12]), (held.code, data.truth), (twice, data.truth.repeat(2, 1))
        half, true, twice = (length(held.x, Code.dense(z), v, lambda c, v=v: c.combine(v), step) for z, v in codes)
        return min(half, twice), true
    parts = [recipe(variant, d=32, latents=m, k=k, seed=seed) for m in (12, 24, 48)]
    made = train(parts, data.stream(256, steps, seed), site=None, lr=lr, seed=seed, progress=False)
    half, true, twice = (length(held.x, d.encode(held.x), d.atoms(), d.decode, step) for d in made)
    return min(half, twice), true

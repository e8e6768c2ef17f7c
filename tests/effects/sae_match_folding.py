"""Two dictionaries of one world whose rows are scaled at random: does folding bring their twins together?"""

import torch

from workbench.geometry import match
from workbench.geometry.layers import fold, sae_match
from workbench.testbeds import world

CLAIM = "Under random row scales, SAE Match finds more twins with folded atoms than with the atoms as they are"
SOURCE = "Balagansky et al. 2024, arXiv:2410.07656"
SETTING = (
    "twins, 256 atoms in d = 128, twins at cosine 0.86, a fifth replaced; every atom of both dictionaries times its "
    "own log-normal scale (sigma 1), its activations divided by it; folded by mean activations over 4,000 rows"
)
ARMS = ("share of unreplaced rows matched with their twin, folded", "the same, not folded")
MARGIN = 0.05
SEEDS = 5
NOTE = "Here the scales mean nothing, and plain cosines do as well as folding: 1 (seed 100, plain=True)"


def dictionaries(seed: int, sigma: float, blur: float) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Atoms and mean activations of both, and which atom of A is the twin of each of B."""
    data, drawn = world("twins", blur=blur, world_seed=seed), torch.Generator().manual_seed(seed)
    truth, code, other = data.truth, data.sample(4000, seed).code, data.sample(4000, seed + 1).code
    codes = code, torch.where(truth.replaced, other, code[:, truth.match])
    atoms, means = [], []
    for rows, z in zip((truth.a, truth.b), codes, strict=True):
        scale = (sigma * torch.randn(len(rows), generator=drawn)).exp()
        atoms.append(rows * scale[:, None])
        means.append((z.sum(0) / (z > 0).sum(0)) / scale)
    return atoms, means, truth.match


def measure(seed: int, *, sigma: float = 1.0, blur: float = 0.6, plain: bool = False) -> tuple[float, float]:
    atoms, means, twin = dictionaries(seed, sigma, blur)
    kept, nothing = twin >= 0, torch.zeros(len(twin))
    folded = [fold(a, nothing, a, s).atoms for a, s in zip(atoms, means, strict=True)]
    found = []
    for a, b in (folded, atoms):
        pairs = match(b, a) if plain else sae_match(b, a, draws=2, random=1).match
        found.append(float((pairs.partners(len(b)) == twin)[kept].float().mean()))
    return found[0], found[1]

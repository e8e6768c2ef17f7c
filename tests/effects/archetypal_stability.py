"""Two runs with other seeds, data and candidates: do they find the same atoms?"""

from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from workbench.dictionary import recipe, train
from workbench.testbeds import world

CLAIM = "Archetypal atoms are more stable across seeds than TopK's, with candidates drawn anew for each seed"
SOURCE = "Fel et al. 2025"
SETTING = "superposition, 256 directions in d = 64, 5 on; 96 latents, k = 5; 1024 candidates; 300 steps of 1024 rows"
ARMS = ("mean cosine of matched atoms of two runs, archetypal", "the same, TopK")
MARGIN = 0.2
SEEDS = 8


def measure(seed: int) -> tuple[float, float]:
    data = world("superposition", n=256, d=64, mean=5 / 256, world_seed=seed)

    def stability(name: str) -> float:
        a, b = (
            train(
                recipe(name, d=64, latents=96, k=5, seed=run),
                data.stream(1024, 300, run),
                site=None,
                lr=5e-3,
                seed=run,
                progress=False,
            ).atoms()
            for run in (2 * seed, 2 * seed + 1)
        )
        cosines = (normalize(a, dim=-1) @ normalize(b, dim=-1).T).numpy()
        return float(cosines[linear_sum_assignment(-cosines)].mean())

    return stability("archetypal"), stability("topk_auxk")

"""An induction model whose dictionary of head outputs is taken apart: do latents come from where the answer stands?"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from rows import Rows

from workbench.circuits.tracers import attention_features
from workbench.dictionary import recipe, train
from workbench.testbeds import subject, world

CLAIM = "Direct feature attribution of an induction layer's strongest latent points to the token after the last match"
SOURCE = "Kissane et al. 2024, arXiv:2406.17759"
SETTING = (
    "the induction subject, 1.heads; TopK, 256 latents, k = 8, 400 steps of 512 rows; 24 held-out texts, positions "
    "with one previous occurrence, the largest pre-activation at each; heads summed"
)
ARMS = ("share of positions whose strongest source is the token to come", "the same source, another text's answer")
MARGIN = 0.6
SEEDS = 5


def measure(seed: int) -> tuple[float, float]:
    model, data = subject("induction"), world("induction")
    h = next(iter(model.read(data.sample(512, 20_000 + seed).ids, ["1.heads"]).values()))[:, 1:]
    stream = Rows(h.flatten(0, 1), 512, 400, seed)
    made = train(recipe("topk", d=64, latents=256, k=8, seed=seed), stream, site="1.heads", seed=seed, progress=False)
    held = data.sample(24, 30_000 + seed)
    hits, others, count = 0, 0, 0
    for i, (ids, period) in enumerate(zip(held.ids, held.period.tolist(), strict=True)):
        table = attention_features.by_source(model, ids[None], made)
        table = table[(table["pos"] >= period) & (table["pos"] < min(2 * period - 1, data.length - 1))]
        pre = table.groupby(["pos", "latent"])["adds"].sum()
        best = pre.groupby(level="pos").idxmax()
        sources = table[table["source"] >= 0].groupby(["pos", "latent", "source"])["adds"].sum()
        for pos, latent in best:
            found = int(sources[pos, latent].idxmax())
            hits += found == int(held.match[i, pos])
            others += found == pos + 1 - int(held.period[i - 1])
            count += 1
    return hits / count, others / count

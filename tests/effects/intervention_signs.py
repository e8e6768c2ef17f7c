"""Latents taken away in the model itself: do targets move as the graph says?"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from rows import Rows

from workbench import testbeds
from workbench.circuits import faithful, targets
from workbench.circuits.tracers import transcoder
from workbench.dictionary import recipe, train
from workbench.site import Site
from workbench.testbeds.subjects import task

CLAIM = "A latent taken away moves the target as its signed total effect says, more often than by the commoner sign"
SOURCE = "Ameisen et al. 2025, Circuit Tracing"
SETTING = (
    "tiny_text_gelu, a skip transcoder a layer, 512 latents, k = 16, 400 steps of 512 rows; 8 texts of 16 tokens; the "
    "likeliest token's logit less the next one's; 20 latents of most influence a text, attention held, norms not"
)
ARMS = ("share of latents with the predicted sign", "share of the commoner sign")
MARGIN = 0.1
SEEDS = 5
TEXTS, NODES = 8, 20


def measure(seed: int) -> tuple[float, float]:
    s, texts, t = testbeds.subject("tiny_text_gelu"), task("tiny_text_gelu").inputs(400), {}
    h = s.read(texts[100:, :64], [Site(i, side) for i in range(s.layers) for side in ("mlp_in", "mlp_out")])
    for i in range(s.layers):
        x, y = (h[Site(i, side)][:, 1:].flatten(0, 1) for side in ("mlp_in", "mlp_out"))
        made, rows = recipe("skip_transcoder", d=s.d, latents=512, k=16, seed=seed), Rows(x, 512, 400, seed=seed, y=y)
        t[i] = train(made, rows, site=f"{i}.mlp_in", target=f"{i}.mlp_out", lr=3e-3, seed=seed, progress=False).freeze()
    right, seen = [], []
    for text in texts[TEXTS * (seed % 12) :][:TEXTS, None, :16]:
        first, second = s.run(text).logits[0, -1].topk(2).indices.tolist()
        aim = targets.difference(s, first, second)
        graph = transcoder.trace(s, text, t, aim, progress=False)
        nodes = torch.where(graph.of("latent"), graph.influence(), -1).topk(NODES).indices.tolist()
        said = faithful.predicted(graph)[0, nodes].sign()
        done = faithful.observed(s, text, t, graph, nodes, aim)[0].sign()
        right.append(float((said == done).float().mean()))
        seen.append(max(float((done > 0).float().mean()), float((done < 0).float().mean())))
    return sum(right) / TEXTS, sum(seen) / TEXTS

"""Paths through graphs of one model by a cross-layer transcoder and by a transcoder per layer: how long are they?"""

import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parent))
from crosslayer_replacement import graphs

CLAIM = "Paths through a cross-layer transcoder's graphs are shorter than through those of a transcoder per layer"
SOURCE = "Ameisen et al. 2025, Circuit Tracing"
SETTING = "as crosslayer_replacement: Othello subject, 1,024 latents and L0 48 over 4 layers, 8 games of 12 moves"
ARMS = ("mean edges of a path, a transcoder per layer", "the same, cross-layer transcoder")
MARGIN = 0.0
SEEDS = 5


def measure(seed: int) -> tuple[float, float]:
    across, each = graphs(seed)
    return mean(g.hops() for g in each), mean(g.hops() for g in across)

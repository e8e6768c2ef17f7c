"""Dashboards for JupyterLab that also live in an exported page, without a network and without a kernel.

| widget | shows | answers from Python |
| --- | --- | --- |
| `FeatureDashboard` | latents to search, their cards, a text of yours, two compared | `latent`, `compare`, `text` |
| `FeatureMap` | latents in the plane, true neighbours, lasso, trust, two maps matched | `latent`, `selection` |
| `GraphViewer` | an attribution graph: prune, walk, pin, group, label, intervene | `selected`, `pinned`, `supernodes` |
| `SteeringDesk` | latents and vectors pushed, beside no edit and a random push | `settings`, `run`, `curve` |
| `TrainingMonitor` | a training run: curves, densities, speed; pauses and stops it | `phase` |
| `Scoreboard` | dictionaries by evaluations with intervals, and Pareto plots | `picked` |
| `PatternView` | attention: all heads of a layer, one large, one query over the text | `picked`, `head`, `layer` |
| `TokenStrip` | tokens coloured by a value each | `picked` |
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

NAMES = {
    "FeatureDashboard": "feature_dashboard",
    "FeatureMap": "feature_map",
    "GraphViewer": "graph_viewer",
    "SteeringDesk": "steering_desk",
    "TrainingMonitor": "training_monitor",
    "Scoreboard": "scoreboard",
    "PatternView": "pattern_view",
    "TokenStrip": "token_strip",
}
__all__ = [*NAMES]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .feature_dashboard import FeatureDashboard
    from .feature_map import FeatureMap
    from .graph_viewer import GraphViewer
    from .pattern_view import PatternView
    from .scoreboard import Scoreboard
    from .steering_desk import SteeringDesk
    from .token_strip import TokenStrip
    from .training_monitor import TrainingMonitor


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"widgets has no {name!r}: there is {', '.join(NAMES)}")
    return getattr(import_module(f".{NAMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)

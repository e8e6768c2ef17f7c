"""Regimes: ways to train many dictionaries, or one for a purpose, as small pieces over `train`."""

from . import diffing, groups, layers, selection, sequential, series, streams, suite, sweep

__all__ = ["diffing", "groups", "layers", "selection", "sequential", "series", "streams", "suite", "sweep"]

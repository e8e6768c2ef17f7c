"""Neighbours, groups, matchings and plane layouts of atoms; what is near is read from the vectors, never from a map."""

from .clusters import clusters
from .match import SHARED, Match, Nearest, match, mutual, nearest, random_directions, shared, shuffled
from .neighbours import Neighbours, neighbours
from .plane import Plane, plane
from .trust import recall, trustworthiness

__all__ = [
    "SHARED", "Match", "Nearest", "Neighbours", "Plane", "clusters", "match", "mutual", "nearest", "neighbours",
    "plane", "random_directions", "recall", "shared", "shuffled", "trustworthiness",
]  # fmt: skip

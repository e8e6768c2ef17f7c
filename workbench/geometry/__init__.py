"""Neighbours, groups and plane layouts of atoms; what is near is always read from the vectors, never from the map."""

from .clusters import clusters
from .neighbours import Neighbours, neighbours
from .plane import Plane, plane
from .trust import recall, trustworthiness

__all__ = ["Neighbours", "Plane", "clusters", "neighbours", "plane", "recall", "trustworthiness"]

"""The offline workshop: checks with hints, what a slow cell would make, and student copies of the solved lessons."""

from .build import build
from .hints import NotYet
from .lessons import Right, caught_up, check, exercise, names

__all__ = ["NotYet", "Right", "build", "caught_up", "check", "exercise", "names"]

"""Dictionaries: parts, losses, the training loop, files; `variants/` holds one method per file."""

from .core import Dictionary, Hook, Moments, Pass, Progress, Recipe, Schedule, Term
from .files import check, load, recipe, save
from .training import Running, start, train

__all__ = [
    "Dictionary",
    "Hook",
    "Moments",
    "Pass",
    "Progress",
    "Recipe",
    "Running",
    "Schedule",
    "Term",
    "check",
    "load",
    "recipe",
    "save",
    "start",
    "train",
]

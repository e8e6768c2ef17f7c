"""Worlds whose truth is known, the tiny subjects trained on them, and prompt sets with labels."""

from .core import Quality, Task, World, fit, rows
from .indexed import Indexed
from .prompt import Prompts, accuracy, prompt_set
from .subjects import card, subject, subject_names, world

__all__ = [
    "Indexed", "Prompts", "Quality", "Task", "World", "accuracy", "card", "fit", "prompt_set", "rows", "subject",
    "subject_names", "world",
]  # fmt: skip

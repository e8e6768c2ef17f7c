"""The model under study, over nnsight; named offline subjects."""

from .core import Run, Subject, next_nll
from .generating import Generation

__all__ = ["Generation", "Run", "Subject", "next_nll"]

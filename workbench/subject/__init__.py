"""The model under study, over nnsight; named offline subjects."""

from .core import Generation, Run, Subject, next_nll

__all__ = ["Generation", "Run", "Subject", "next_nll"]

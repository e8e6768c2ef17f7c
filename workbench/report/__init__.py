"""A notebook, run with parameters, becomes one self-contained page; so do things of a live one."""

from .page import page, rendered
from .run import Result, run
from .scraps import glue, scraps

__all__ = ["Result", "glue", "page", "rendered", "run", "scraps"]

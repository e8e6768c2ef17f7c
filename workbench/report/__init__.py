"""A notebook, run with parameters, becomes one self-contained page."""

from .page import page
from .run import Result, run
from .scraps import glue, scraps

__all__ = ["Result", "glue", "page", "run", "scraps"]

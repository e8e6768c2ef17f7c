"""The classes of `_classes.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _classes import cases

__all__ = ["cases"]

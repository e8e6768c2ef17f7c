"""What `golden_<owner>.py` scripts share: a random input, and how a case is kept for tests/golden.py.

They run in the owner's environment; `python bench/formats/parity.py` makes that, runs them and compares.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(os.environ.get("GOLDEN", Path(__file__).parent.parent.parent / "tests" / "golden"))


def rows(d: int, n: int = 24, seed: int = 0, size: float = 3.0) -> Tensor:
    """Rows with a mean that is not 0."""
    rng = torch.Generator().manual_seed(seed)
    return size * torch.randn(n, d, generator=rng) + torch.randn(d, generator=rng)


@torch.no_grad()
def scatter_(module: torch.nn.Module, seed: int = 0, size: float = 0.3) -> None:
    """Draw all parameters anew, biases too: at their starting values many mistakes cannot be seen."""
    rng = torch.Generator().manual_seed(seed)
    for _, value in sorted(module.named_parameters()):
        value.copy_(size * torch.randn(value.shape, generator=rng, dtype=torch.float32))


def keep(owner: str, case: str, write: Callable[[Path], Any], x: Tensor, code: Tensor, y: Tensor, **load: Any) -> None:
    """Write one case anew: `write(folder)` is the owner's own saving."""
    folder = FOLDER / owner / case
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "checkpoint").mkdir(parents=True)
    write(folder / "checkpoint")
    assert (code != 0).any() and not (code != 0).all(), f"{case}: a code that is neither empty nor full"
    found = {"x": x, "code": code, "y": y}
    save_file({k: v.detach().float().contiguous().clone() for k, v in found.items()}, folder / "expected.safetensors")
    if load:
        (folder / "load.json").write_text(json.dumps(load, indent=1, sort_keys=True) + "\n")

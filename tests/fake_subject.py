"""A subject whose vectors are known by hand: fast, exact, and able to go wrong on purpose."""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from workbench.batch import Tokens
from workbench.site import Site

WIDTHS = {"0.resid": 6, "1.resid": 6, "1.mlp_out": 3}
BOS, VOCAB = 1, 100_000


class FakeSubject:
    """Words are tokens, each text begins with BOS, and a vector holds its token, position, context and site."""

    name = "fake"

    def __init__(
        self,
        *,
        bos: bool = True,
        dtype: torch.dtype = torch.float32,
        spoil: Callable[[int, dict[Site, Tensor]], None] | None = None,
        said: Callable[[], None] = lambda: None,
    ):
        self.bos, self.dtype, self.spoil, self.said, self.reads = bos, dtype, spoil, said, 0
        self.special_ids = frozenset({0, BOS})
        self.fingerprint = hashlib.sha256(repr((bos, dtype)).encode()).hexdigest()[:16]

    def tokenize(self, text: Any) -> Tokens:
        words = [2 + int(hashlib.sha256(w.encode()).hexdigest(), 16) % (VOCAB - 2) for w in text.split()]
        ids = torch.tensor([[BOS] * self.bos + words])
        return Tokens(ids, torch.ones_like(ids, dtype=torch.bool))

    def width(self, site: Site | str) -> int:
        if str(site) not in WIDTHS:
            raise ValueError(f"fake has no site {site}")
        return WIDTHS[str(site)]

    def read(self, tokens: Tokens, sites: Sequence[Site | str]) -> dict[Site, Tensor]:
        self.said()
        found = {Site.of(site): vectors(tokens, Site.of(site)).to(self.dtype).float() for site in sites}
        if self.spoil is not None:
            self.spoil(self.reads, found)
        self.reads += 1
        return found

    def finish(self, tokens: Any, site: Any, value: Tensor, read: Any = (), *, before: Any = None) -> Any:
        return SimpleNamespace(logits=value, h={})  # a model of no layers above

    def gradients(self, tokens: Any, sites: Sequence[Site | str], of: Any = None) -> dict[Site, Tensor]:
        return {Site.of(site): torch.ones_like(vectors(tokens, Site.of(site))) for site in sites}


def vectors(tokens: Tokens, site: Site) -> Tensor:
    """The known answer: (text, pos, d)."""
    ids = torch.where(tokens.mask, tokens.ids, 0).float()
    place = torch.arange(ids.shape[1]).expand_as(ids).float()
    context = ids.cumsum(1) / 100
    parts = [ids, place, context, ids.sin() * 50, context.cos() * 50, torch.full_like(ids, 1.0 + (site.layer or 0))]
    return torch.stack(parts, -1)[..., : WIDTHS[str(site)]] + (site.layer or 0)


def documents(n: int = 30, seed: int = 0, low: int = 4, high: int = 120) -> list[str]:
    """Texts whose words say where they stand: `d3w0 d3w1 ...`."""
    sizes = torch.randint(low, high, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [" ".join(f"d{i}w{j}" for j in range(size)) for i, size in enumerate(sizes)]


def forked(work: Callable[[], str]) -> tuple[int, int]:
    """A child that does the work: its process id, and a pipe that gives what the work returned or raised."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; the child joins none
        child = os.fork()
    if child == 0:
        try:
            os.write(write, work().encode())
        except Exception as error:
            os.write(write, f"{type(error).__name__} {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    return child, read


def heard(child: int, read: int) -> str:
    """What the child said, when it has ended."""
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said

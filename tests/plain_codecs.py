"""Dictionaries whose worth is known, and held-out rows in memory, for the suites."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import torch
from torch import Tensor

from workbench.batch import Batch, Exclusion, Tokens
from workbench.code import Code
from workbench.evaluate import Case, Examples
from workbench.site import Site

SITE = Site(0, "resid")


@dataclass
class PlainCodec:
    """A codec from two functions: `encode` gives a dense code, `decode` undoes it."""

    dictionary: Tensor  # (latent, d)
    encoder: Callable[[Tensor], Tensor]
    bias: Tensor
    by: float = 1.0  # the reconstruction is multiplied by this
    site: Site | None = SITE
    target: Site | None = SITE
    exclusion: Exclusion = field(default_factory=Exclusion)
    latents: int = 0

    def __post_init__(self) -> None:
        self.latents = len(self.dictionary)

    def encode(self, x: Tensor) -> Code:
        return Code.dense(self.encoder(x))

    def decode(self, code: Code) -> Tensor:
        return self.by * (code.combine(self.dictionary) + self.bias)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def atoms(self, latents: Sequence[int] | Tensor | None = None) -> Tensor:
        return self.by * (self.dictionary if latents is None else self.dictionary[latents])


@dataclass
class Identity(PlainCodec):
    """Gives back exactly what it is given."""

    def reconstruct(self, x: Tensor) -> Tensor:
        return x.clone()


def identity(d: int, site: Site = SITE) -> PlainCodec:
    return Identity(torch.eye(d), lambda x: x, torch.zeros(d), site=site, target=site)


def mean(center: Tensor, site: Site = SITE) -> PlainCodec:
    """Knows only the mean; none of its latents ever fires."""
    d = len(center)
    return PlainCodec(torch.eye(d), torch.zeros_like, center, site=site, target=site)


def scaled(d: int, by: float, site: Site = SITE) -> PlainCodec:
    """`by` times the row."""
    return PlainCodec(torch.eye(d), lambda x: x, torch.zeros(d), by, site=site, target=site)


def true(atoms: Tensor, site: Site = SITE) -> PlainCodec:
    """The planted dictionary, read exactly: its atoms must be linearly independent."""
    dual = torch.linalg.pinv(atoms)
    return PlainCodec(atoms, lambda x: _cut((x @ dual).relu()), torch.zeros(atoms.shape[1]), site=site, target=site)


def random(latents: int, d: int, seed: int = 0, site: Site = SITE) -> PlainCodec:
    """Random unit atoms read by their inner products, rescaled to the norm of the row."""
    drawn = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(latents, d, generator=drawn), dim=-1)

    def encode(x: Tensor) -> Tensor:
        z = (x @ atoms.T).relu()
        return z * x.norm(dim=-1, keepdim=True) / (z @ atoms).norm(dim=-1, keepdim=True).clamp_min(1e-6)

    return PlainCodec(atoms, encode, torch.zeros(d), site=site, target=site)


def rescaled(codec: PlainCodec, by: float) -> PlainCodec:
    """The same dictionary for activations that are `by` times larger."""
    return type(codec)(
        codec.dictionary * by,
        lambda x: codec.encoder(x / by),
        codec.bias * by,
        codec.by,
        codec.site,
        codec.target,
        codec.exclusion,
    )


def _cut(z: Tensor, below: float = 1e-2) -> Tensor:
    """Rounding noise of an exact inverse set to zero."""
    return torch.where(z > below, z, 0.0)


def planted(rows: int, latents: int, d: int, k: int, seed: int = 0, lean: float = 1.0) -> tuple[Tensor, Tensor]:
    """(rows, atoms): k of the atoms in each row, coefficients in [1, 2]. All atoms lean the same way by `lean`."""
    drawn = torch.Generator().manual_seed(seed)
    atoms = torch.randn(latents, d, generator=drawn) / d**0.5
    atoms[:, 0] += lean
    atoms = torch.nn.functional.normalize(atoms, dim=-1)
    on = torch.rand(rows, latents, generator=drawn).topk(k, dim=-1).indices
    z = torch.zeros(rows, latents).scatter(1, on, 1 + torch.rand(rows, k, generator=drawn))
    return z @ atoms, atoms


@dataclass
class MemoryRows:
    """Held-out rows as a Store view shows them, from a tensor; by default ten rows are a text and its own document."""

    x: Tensor
    text: Tensor | None = None  # token row of each row
    pos: Tensor | None = None
    texts: Tensor | None = None  # document of each token row
    y: Tensor | None = None  # rows of another site
    tokens: Tokens | None = None
    share_excluded: float = 0.0
    exclusion: Exclusion = field(default_factory=Exclusion)

    def __post_init__(self) -> None:
        rows = torch.arange(len(self.x))
        self.text = rows // 10 if self.text is None else self.text
        self.pos = rows % 10 if self.pos is None else self.pos
        self.texts = torch.arange(int(self.text.max()) + 1 if len(rows) else 0) if self.texts is None else self.texts

    def batches(
        self, size: int, *, site: Site | None = None, target: Site | None = None, seed: int | None = None
    ) -> Iterator[Batch]:
        y = self.x if self.y is None or site == target else self.y
        for i in range(0, len(self.x), size):
            rows = slice(i, i + size)
            yield Batch(self.x[rows], y[rows], text=self.text[rows], pos=self.pos[rows])

    def mean(self, site: Site) -> Tensor:
        return self.x.mean(0) if self.y is None else self.y.mean(0)


BY = 37.5  # of the suite's test of units


def trial(need: str, examples: Examples, atoms: Tensor) -> SimpleNamespace:
    """The cases of an eval's trial on labelled rows that are made of `atoms`: see tests/test_evals.py."""
    d, unlike = atoms.shape[1], random(*atoms.shape)
    larger = replace(examples, x=BY * examples.x, y=BY * examples.y)

    def case(codec: PlainCodec, given: Examples = examples) -> Case:
        return Case(codec, None, MemoryRows(given.x), resamples=300, given={need: given})

    return SimpleNamespace(
        true=case(true(atoms)),
        random=case(unlike),
        identity=case(identity(d)),
        mean=case(mean(torch.zeros(d))),
        larger=case(rescaled(unlike, BY), larger),
    )

"""Superposition data whose atoms are known: what every dictionary is asked to find."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from workbench.batch import Batch
from workbench.site import Site

TOPICS, LENGTH = 4, 8  # of a sequence


@dataclass(frozen=True)
class Planted:
    """x = sum of coefficient * atom over the few atoms that are on, plus noise. The same step gives the same batch.

    The kinds of batches that variants are trained on:
    "rows" x `(row, d)`, y = x. "pair" targets are what a sparse map with other atoms, and with a linear part if
    `linear`, would say. "sites" x `(row, sites, d)` = y: the same code with other atoms at every site. "layers" x
    `(row, sites, d)`: y at layer l is what the code of layers up to l says there. "gradients" rows with grads, of a
    loss that hears the first half of the coordinates only. "finish" rows whose model goes on from them by a fixed
    linear read-out of as many logits as there are atoms, past a site "2.resid" that is the row times a fixed matrix.
    "sequence" texts of LENGTH rows: the first TOPICS each show a topic, a mark and a sparse code, every later row shows
    one of the topics; a row's y is what the code of its topic's first row in the text says.
    """

    d: int = 32
    atoms: int = 48
    on: float = 4.0  # mean number of atoms on per row
    rows: int = 256  # per batch
    steps: int = 300
    seed: int = 0
    noise: float = 0.01
    kind: str = "rows"
    linear: float = 0.0
    size: float = 1.0  # every row times this
    sites: int = 2
    truth: Float[Tensor, "atom *d"] = field(init=False)  # (atom, d), with sites (atom, site, d)
    out: Float[Tensor, "atom *d"] = field(init=False)
    matrix: Float[Tensor, "d d"] = field(init=False)

    def __post_init__(self) -> None:
        rng = torch.Generator().manual_seed(self.seed)
        shape = (self.atoms, self.sites, self.d) if self.kind in ("sites", "layers") else (self.atoms, self.d)
        for name in ("truth", "out"):
            object.__setattr__(self, name, normalize(torch.randn(shape, generator=rng), dim=-1))
        object.__setattr__(self, "matrix", torch.randn(self.d, self.d, generator=rng) / self.d**0.5)

    def code(self, step: int) -> Float[Tensor, "row atom"]:
        """The true code of a step's rows."""
        rng = torch.Generator().manual_seed(self.seed * 100_003 + step)
        shape = (self.rows, self.atoms)
        on = torch.rand(shape, generator=rng) < self.on / self.atoms
        code = on * (1 + 0.25 * torch.randn(shape, generator=rng)).abs()
        if self.kind == "sequence":
            code = code[self.topics(step) + torch.arange(self.rows) // LENGTH * LENGTH]
        return code

    def topics(self, step: int) -> Int[Tensor, " row"]:
        """Which of its text's first rows each row of a sequence is about."""
        rng = torch.Generator().manual_seed(self.seed * 100_003 + step + 70_001)
        drawn, pos = torch.randint(TOPICS, (self.rows,), generator=rng), torch.arange(self.rows) % LENGTH
        return torch.where(pos < TOPICS, pos, drawn)

    def batch(self, step: int) -> Batch:
        code, rng = self.code(step), torch.Generator().manual_seed(self.seed * 100_003 + step + 50_021)
        if self.kind == "layers":  # atom a is of layer a % sites: it is read there and written there and later
            layer = torch.arange(self.atoms) % self.sites
            read = (layer[:, None] == torch.arange(self.sites))[..., None]
            write = (layer[:, None] <= torch.arange(self.sites))[..., None]
            x = torch.einsum("ba,asd->bsd", code, self.truth * read)
            y = torch.einsum("ba,asd->bsd", code, self.out * write)
        elif self.kind == "sequence":
            first = torch.arange(self.rows)[:, None] % LENGTH < TOPICS
            x = self.matrix[self.topics(step)] + first * (self.matrix[TOPICS] + code @ self.truth)
        else:
            x = torch.einsum("ba,a...->b...", code, self.truth)
        x = x + self.noise * torch.randn(x.shape, generator=rng)
        if self.kind in ("pair", "sequence"):
            y = code @ self.out + self.linear * x @ self.matrix
        elif self.kind != "layers":
            y = x
        where, grads, finish = torch.arange(self.rows), None, None
        if self.kind == "gradients":
            grads = torch.zeros_like(x)
            grads[:, : self.d // 2] = torch.randn(self.rows, self.d // 2, generator=rng) / self.rows
        if self.kind == "finish":
            finish = _Rest(self.size * x, self.matrix / self.size, self.out)
        if self.kind == "sequence":
            return Batch(self.size * x, self.size * y, where // LENGTH, where % LENGTH)
        return Batch(self.size * x, self.size * y, torch.full_like(where, step), where, grads, finish)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.steps):
            yield self.batch(step)

    def __len__(self) -> int:
        return self.steps

    def describe(self) -> dict[str, Any]:
        names = ("d", "atoms", "on", "rows", "steps", "seed", "noise", "kind", "linear", "size", "sites")
        return {"planted": {name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class _Rest:
    """The rest of a model: site 2.resid is tanh of the row times a matrix, logits are its products with directions."""

    clean: Float[Tensor, "row d"]
    matrix: Float[Tensor, "d d"]
    directions: Float[Tensor, "token d"]

    def __call__(self, y: Tensor | None, read: Sequence[Any] = ()) -> tuple[Tensor, dict[Any, Tensor]]:
        later = torch.tanh((self.clean if y is None else y) @ self.matrix)
        return later @ self.directions.T, {Site.of(site): later for site in read}


def recovered(found: Float[Tensor, "latent *d"], truth: Float[Tensor, "atom *d"], at: float = 0.9) -> float:
    """Share of true atoms that some found atom matches with a cosine of at least `at`, over all sites together."""
    found, truth = found.flatten(1), truth.flatten(1)
    best = (normalize(truth, dim=-1) @ normalize(found, dim=-1).T).amax(-1)
    return float((best >= at).float().mean())


def fvu(dictionary: Any, batch: Batch) -> float:
    """Fraction of the targets' total variance that the reconstruction leaves."""
    with torch.no_grad():
        error = (dictionary.reconstruct(batch.x) - batch.y).square().sum()
    return float(error / (batch.y - batch.y.mean(0)).square().sum())


def followed(code: Any, truth: Float[Tensor, "row atom"], at: float = 0.9) -> float:
    """Share of true atoms that some latent follows: its activation correlates with the true one, at least so much.

    Needs no common space, so it also judges transcoders, whose atoms live elsewhere than their inputs.
    """
    found, true = ((z - z.mean(0)) / z.std(0).clamp_min(1e-6) for z in (code.to_dense(), truth))
    best = (true.T @ found / len(true)).amax(-1)
    return float((best >= at).float().mean())

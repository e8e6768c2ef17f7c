"""Three groups of latents that lie near each other and fire together.

100 latents in each of 3 lobes, d = 64: an atom is the unit vector along `lean` * centre + a random unit vector, the
three centres being random unit vectors, drawn once by `world_seed`; lean = 1, so that two atoms of one lobe have cosine
1/2 on average, of two lobes about 0. A row belongs to one lobe, uniform; a latent of that lobe is on with probability
0.1, any other with 0.01, independently; coefficient |N(1, 0.25)| (standard deviation), noise N(0, 0.01).
Source: Li et al. 2024, arXiv:2410.19750 ("lobes"); the toy is ours.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...html import tag
from ..core import rows
from ..vectors import Oracle, Stream, coefficients, directions, gram, strip


class Rows(NamedTuple):
    """Vectors, the true code, and the lobe of each row."""

    x: Float[Tensor, "row d"]
    code: Float[Tensor, "row n"]
    lobe: Int[Tensor, " row"]


@dataclass(frozen=True)
class Lobes:
    """`truth` holds the atoms `(lobes * each, d)`, `lobe` the group of each."""

    lobes: int
    each: int
    d: int
    lean: float
    inside: float
    outside: float
    noise: float
    world_seed: int

    @property
    def lobe(self) -> Int[Tensor, " n"]:
        return torch.arange(self.lobes * self.each) // self.each

    @property
    def truth(self) -> Float[Tensor, "n d"]:
        rng = np.random.default_rng(self.world_seed)
        centres, own = directions(rng, self.lobes, self.d), directions(rng, self.lobes * self.each, self.d)
        return torch.nn.functional.normalize(self.lean * centres[self.lobe] + own, dim=-1)

    def sample(self, n: int, seed: int = 0, start: int = 0) -> Rows:
        atoms, lobe = self.truth, self.lobe.numpy()

        def draw(rng: np.random.Generator, n: int) -> Rows:
            of = rng.integers(0, self.lobes, n)
            p = np.where(of[:, None] == lobe, self.inside, self.outside)
            on = rng.random(p.shape) < p
            code = torch.from_numpy(on * coefficients(rng, on.shape)).float()
            x = code @ atoms + torch.from_numpy(self.noise * rng.standard_normal((n, self.d))).float()
            return Rows(x, code, torch.from_numpy(of))

        return rows(draw, n, seed, start)

    def stream(self, rows: int, steps: int, seed: int = 0) -> Stream:
        return Stream(self, rows, steps, seed)

    def oracle(self) -> Oracle:
        return Oracle(self.truth, most=min(32, self.d), tolerance=1.2 * self.noise * self.d**0.5)

    def figure(self, seed: int = 0) -> Any:
        """Cosines between atoms: the lobes."""
        figure = gram(self.truth, f"Lobes: cosines of {self.lobes} groups of {self.each} atoms")
        return figure.update_xaxes(constrain="domain").update_layout(width=480, height=430)

    def _repr_html_(self) -> str:
        said = f" {self.lobes} groups of {self.each} latents that fire together; one row's code: "
        return tag("div", tag("b", "lobes"), said, strip(self.sample(1).code[0]))


def lobes(
    lobes: int = 3, each: int = 100, d: int = 64, *, lean: float = 1.0, inside: float = 0.1, outside: float = 0.01,
    noise: float = 0.01, world_seed: int = 0,
) -> Lobes:  # fmt: skip
    """Groups of latents. Raises ValueError for sizes or probabilities that cannot be."""
    if min(lobes, each, d) < 1 or lean < 0 or noise < 0 or not 0 <= outside <= inside <= 1:
        raise ValueError(
            f"sizes must be 1 or more, lean and noise 0 or more, 0 <= outside <= inside <= 1, "
            f"got {lobes}, {each}, {d}, {lean}, {noise}, {outside}, {inside}"
        )
    return Lobes(lobes, each, d, lean, inside, outside, noise, world_seed)

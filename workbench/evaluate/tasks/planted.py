"""Truth, siblings, objects, heads and embeddings from worlds of vectors and the digit classifiers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...batch import Batch, Exclusion
from ...dictionary import recipe, train
from ...site import Site
from ...testbeds import subject, world
from ...testbeds.core import HELD_OUT, World
from ...testbeds.vectors import SITE
from ..evals.consistency import Siblings
from ..evals.monosemanticity import Embedded
from ..evals.plausibility import Heads
from ..evals.recovery import Truth
from ..examples import Examples

if TYPE_CHECKING:
    from ...subject import Subject

LENGTH = 16  # rows of a world that count as one document
READ = {"digits_vit": "2.resid", "digits_relu": "second:out", "digits_bilinear": "bilinear:out"}  # before the head


@dataclass(frozen=True, eq=False)
class Held:
    """A world's rows as a Case wants them, in documents of 16: `held_out(world)`."""

    x: Float[Tensor, "row d"]
    tokens: Any = None
    share_excluded: float = 0.0
    exclusion: Exclusion = field(default_factory=Exclusion)

    @property
    def texts(self) -> Int[Tensor, " text"]:
        return torch.arange(-(-len(self.x) // LENGTH))

    def batches(self, size: int, *, site: Any = None, target: Any = None, seed: int | None = None) -> Iterator[Batch]:
        for rows in torch.arange(len(self.x)).split(size):
            yield Batch(self.x[rows], self.x[rows], rows // LENGTH, rows % LENGTH)

    def mean(self, site: Any) -> Float[Tensor, " d"]:
        return self.x.mean(0)


def held_out(world: World, rows: int = 4096, *, seed: int = HELD_OUT) -> Held:
    """Rows of a world that no dictionary was trained on, at the site `testbeds.vectors.SITE`."""
    return Held(world.sample(rows, seed).x)


def truth(world: World, rows: int = 4096, *, seed: int = HELD_OUT) -> Truth:
    """A world's directions and the code of held-out rows. Raises ValueError for a world that has no such code."""
    drawn, atoms = _coded(world, rows, seed)
    return Truth(atoms, drawn.x, drawn.code, bool(getattr(world, "signed", 0)))


def objects(world: World, rows: int = 4096, *, seed: int = HELD_OUT) -> Examples:
    """Rows labelled by which directions are on, each a label "direction j" with the classes absent and present.

    Directions on in fewer than 30 of the rows are left out, since each fold must see some.
    """
    drawn, _ = _coded(world, rows, seed)
    on = drawn.code != 0
    often = [j for j in range(on.shape[1]) if 30 <= int(on[:, j].sum()) <= rows - 30]
    names = {f"direction {j}": on[:, j].long() for j in often}
    return Examples.of(drawn.x, names, dict.fromkeys(names, ("absent", "present")), seed=seed)


def siblings(
    variant: str,
    data: World,
    args: Mapping[str, Any],
    *,
    seeds: Sequence[int] = (1, 2),
    same_order: bool = False,
    rows: int = 256,
    steps: int = 1000,
    lr: float | None = None,
) -> Siblings:
    """Dictionaries of one variant with these arguments, each seed from its own start, trained on a world's rows.

    With `same_order` all see the rows of the first seed in one order, else each its own. Raises ValueError for a
    repeated seed.
    """
    if len(set(seeds)) != len(seeds) or not seeds:
        raise ValueError(f"siblings need one or more distinct seeds, got {list(seeds)}")
    made: Any = data
    found = [
        train(
            recipe(variant, seed=s, **args),
            made.stream(rows, steps, seeds[0] if same_order else s),
            site=SITE,
            lr=lr,
            seed=s,
            progress=False,
        )
        for s in seeds
    ]
    return Siblings(tuple(found), "seed" if same_order else "seed and rows")


def digits(
    model: "Subject", site: Site | str, *, position: int | None = None, examples: int | None = None, seed: int = 0
) -> Examples:
    """Held-out digits, labelled "digit", as a digit classifier sees them at a site; all 2,000 when `examples` is None.

    `position` None takes all positions of an image as its rows (the transformer has a class token and 16 patches).
    """
    drawn = _drawn(examples, seed)
    h = _read(model, drawn.image, site)
    h = h if position is None else h[:, [position]]
    image = torch.arange(len(h)).repeat_interleave(h.shape[1])
    classes = tuple(map(str, range(10)))
    return Examples.of(h.flatten(0, 1), {"digit": drawn.label}, {"digit": classes}, example=image, seed=seed)


def heads(name: str) -> Heads:
    """The ten class directions of a digit classifier, for a dictionary at `READ[name]`, the site that its head reads.

    The transformer's head reads behind a norm: its gain is taken in, and the part along the mean, which the norm
    removes, out. Raises ValueError for another subject.
    """
    if name not in READ:
        raise ValueError(f"class heads are of {', '.join(READ)}, got {name!r}")
    model: Any = subject(name).model
    if name == "digits_vit":
        weight = model.classifier.weight * model.vit.layernorm.weight
        weight = weight - weight.mean(-1, keepdim=True)
    else:
        weight = model.head.weight
    return Heads(weight.detach().clone(), tuple(map(str, range(10))))


def embedded(
    model: "Subject",
    site: Site | str,
    *,
    by: str = "digits_vit",
    position: int | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> Embedded:
    """Held-out digits at a site of one classifier, embedded by another: what that one's head reads of them.

    Raises ValueError when both are the same subject, or the other is no digit classifier.
    """
    if by not in READ:
        raise ValueError(f"digits are embedded by one of {', '.join(READ)}, got {by!r}")
    if by == model.name:
        raise ValueError(f"the embeddings must be of another model than {by}: it would judge itself")
    vectors = _read(subject(by), _drawn(examples, seed).image, READ[by])[:, 0]
    return Embedded(digits(model, site, position=position, examples=examples, seed=seed), vectors, by)


def _drawn(examples: int | None, seed: int) -> Any:
    held: Any = world("digits")
    return held.all() if examples is None else held.sample(examples, HELD_OUT + seed)


def _read(model: "Subject", images: Float[Tensor, "image 1 28 28"], site: Site | str) -> Float[Tensor, "image pos d"]:
    if model.name not in READ:
        raise ValueError(f"digits are read by {', '.join(READ)}, got {model.name!r}")
    given = images if model.name == "digits_vit" else images.flatten(1)
    return torch.cat([model.read(part, [site])[Site.of(site)].cpu() for part in given.split(500)])


def _coded(world: World, rows: int, seed: int) -> tuple[Any, Float[Tensor, "n d"]]:
    drawn, atoms = world.sample(rows, seed), world.truth
    if not isinstance(atoms, Tensor) or not hasattr(drawn, "code"):
        raise ValueError(f"{type(world).__name__} has no directions and code: take superposition or hierarchy, say")
    return drawn, atoms

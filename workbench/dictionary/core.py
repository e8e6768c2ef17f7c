"""What a dictionary is: an encoder, a sparsifier, a decoder, and the pass of a batch through them."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..batch import Batch, Exclusion
from ..code import Code
from ..site import Site
from . import kernels

NEEDS = frozenset({"pre", "pre_dead", "finish", "grads"})


class Progress(NamedTuple):
    """How far a run has come. Time is counted in tokens (rows); `budget` is what the stream will give in all."""

    step: int
    tokens: int
    budget: int

    @property
    def share(self) -> float:
        return min(1.0, self.tokens / self.budget)


Schedule = Callable[[Progress], float]


class Decoder(nn.Module):
    """Atoms and how codes become reconstructions. The only part that owns directions in the target's space.

    Has `shape`, `weight` (latent, prod(shape)) and `bias` (shape).
    """

    shape: tuple[int, ...]
    weight: Any
    bias: Tensor

    def forward(self, code: Code, upto: int | None = None) -> Float[Tensor, "row *out"]:
        """z atoms + bias, by the first `upto` latents."""
        if os.environ.get("WORKBENCH_KERNELS") == "dense":
            code = Code.dense(code.to_dense())
        return code.combine(self.weight, upto).unflatten(-1, self.shape) + self.bias

    def project_grad_(self) -> None: ...  # drop the gradient's part that the constraint would undo
    def project_(self) -> None: ...  # restore the constraint after an optimiser step


class Encoder(nn.Module):
    """Input to pre-activations: `forward(x (row, *inp), decoder) -> (row, latent)`, so that it may use the atoms.

    One that can also give single entries without a dense graph has `pick` (see `encoders.Linear`). One that looks along
    texts has `given(batch)`, itself for the texts of a batch; else rows are one text in order.
    """

    def fold_(self, scale_in: float, scale_out: float) -> None:
        """Take the scales into the weights. Raises ValueError where there are none to take two."""
        if scale_in != scale_out:
            raise ValueError(f"{type(self).__name__} has one scale, got {scale_in} in and {scale_out} out")


class Sparsifier(nn.Module):
    """Pre-activations to a code: `forward(pre (row, latent)) -> Code` in training, where rows may compete.

    `selects`: training keeps few latents, chosen without gradient, so that all that follows is sparse; `activate` then
    turns the chosen pre-activations into values. `signed`: negative values are meant. `rowwise`: each row chooses by
    itself in training too. One that chooses by more than pre-activations has `given(batch, decoder)`, which makes the
    chooser of one training batch.
    """

    selects = signed = rowwise = False

    def activate(self, code: Code) -> Code:
        return code

    def infer(self, pre: Float[Tensor, "row latent"]) -> Code:
        """Looks at each row by itself."""
        return self.activate(self(pre))


class Dictionary(nn.Module):
    """encoder -> sparsifier -> decoder (+ skip), with its place in a model. Final: a variant is parts, no subclass.

    Everything inside is in scaled units (`scale_in * x`, `scale_out * y`); the doors `encode`, `decode`, `reconstruct`,
    `atoms` speak the model's own. A code value times an atom is a vector at the target site.
    """

    encoder: Any  # the parts above, whose own attributes differ
    sparsifier: Any
    decoder: Any
    skip: Any
    scale_in: Tensor
    scale_out: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        sparsifier: nn.Module,
        decoder: nn.Module,
        skip: nn.Module | None = None,
        *,
        shape: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.encoder, self.sparsifier, self.decoder, self.skip = encoder, sparsifier, decoder, skip
        self.register_buffer("scale_in", torch.tensor(1.0))
        self.register_buffer("scale_out", torch.tensor(1.0))
        self.shape: tuple[int, ...] = tuple(shape or self.decoder.shape)
        self.latents: int = len(self.decoder.weight)
        self.site: Site | None = None
        self.target: Site | None = None
        self.exclusion = Exclusion()
        self.subject: str | None = None  # fingerprint of the model that the rows came from
        self.call: dict[str, Any] | None = None  # {"variant", "args", "seed"}: rebuilds the parts
        self.training_summary: dict[str, Any] = {}
        self.rough = False  # rank latents by a bfloat16 product while training

    @property
    def d(self) -> int:
        """Width of an input row."""
        return prod(self.shape)

    def run(
        self,
        batch: Batch,
        *,
        needs: frozenset[str] = frozenset(),
        dead: Int[Tensor, " dead"] | None = None,
        rng: torch.Generator | None = None,
    ) -> "Pass":
        """One training pass, in scaled units. `needs`: what the loss terms asked for beyond code and reconstruction.

        A selecting sparsifier is fed without a graph, and gradients reach only what it chose, unless a term needs every
        pre-activation. `dead`: latents whose pre-activations `pre_dead` holds.
        """
        x, y = batch.x * self.scale_in, batch.y * self.scale_out
        encoder = self.encoder.given(batch) if hasattr(self.encoder, "given") else self.encoder
        chooser = self.sparsifier.given(batch, self.decoder) if hasattr(self.sparsifier, "given") else self.sparsifier
        wants_dead = "pre_dead" in needs and dead is not None and len(dead) > 0
        if "pre" not in needs and hasattr(self.encoder, "pick") and kernels.is_sparse(self.sparsifier, self.latents):
            columns = dead if wants_dead else None
            chosen, at_dead = kernels.choose(
                self.encoder, chooser, self.decoder, x, self.latents, dead=columns, rough=self.rough
            )
            values, pre_dead = self.encoder.pick(x, self.decoder, chosen, columns, at_dead)
            return self._pass(batch, x, y, chosen.like(values), None, pre_dead, dead, rng)
        pre = encoder(x, self.decoder)
        pre_dead = pre[:, dead] if wants_dead else None
        kept = pre if "pre" in needs else None
        if not self.sparsifier.selects:
            return Pass(self, batch, x, y, self.sparsifier(pre), kept, pre_dead, dead, rng)
        with torch.no_grad():
            chosen = chooser(pre)
        return self._pass(batch, x, y, chosen.like(chosen.look_up(pre)), kept, pre_dead, dead, rng)

    def _pass(self, batch: Batch, x: Tensor, y: Tensor, chosen: Code, *rest: Any) -> "Pass":
        """The pass of a selecting sparsifier, once the chosen pre-activations have their gradient."""
        wide = self.sparsifier.activate(chosen)
        code = self.sparsifier.narrow(wide) if hasattr(self.sparsifier, "narrow") else wide
        return Pass(self, batch, x, y, code, *rest, wide=wide)

    def encode(self, x: Float[Tensor, "row *inp"]) -> Code:
        """The code of rows in the model's units; each row by itself, whatever else is in the batch.

        Raises ValueError when the rows do not have this dictionary's shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"rows at {self.site or 'this site'} must be (row, {', '.join(map(str, self.shape))}), "
                f"got {tuple(x.shape)}: read the site this dictionary was trained on"
            )
        codes = [
            self.sparsifier.infer(self.encoder(x[part].to(self.scale_in.dtype) * self.scale_in, self.decoder))
            for part in ([slice(None)] if hasattr(self.encoder, "given") else kernels.tiles(len(x), self.latents))
        ]
        return codes[0] if len(codes) == 1 else Code.cat(codes)

    def decode(self, code: Code) -> Float[Tensor, "row *out"]:
        """Rows at the target, in the model's units, without the skip connection."""
        return self.decoder(code) / self.scale_out

    def reconstruct(self, x: Float[Tensor, "row *inp"]) -> Float[Tensor, "row *out"]:
        """decode(encode(x)), plus the skip connection where there is one."""
        y = self.decode(self.encode(x))
        if self.skip is None:
            return y
        return y + self.skip(x.to(self.scale_in.dtype) * self.scale_in) / self.scale_out

    def forward(self, x: Float[Tensor, "row *inp"]) -> Float[Tensor, "row *out"]:
        return self.reconstruct(x)

    def atoms(
        self, latents: Sequence[int] | Int[Tensor, " some"] | Bool[Tensor, " latent"] | None = None
    ) -> Float[Tensor, "some *out"]:
        """Atoms in the model's units, all or the given ones."""
        which = (
            slice(None)
            if latents is None
            else latents
            if isinstance(latents, Tensor)
            else torch.tensor(list(latents), dtype=torch.long, device=self.decoder.weight.device)
        )
        return self.decoder.weight[which].unflatten(-1, self.decoder.shape) / self.scale_out

    @torch.no_grad()
    def set_scale_(self, scale_in: float, scale_out: float) -> None:
        """Multiply inputs and targets by these from now on. Raises ValueError for what is not a positive number."""
        for scale in (scale_in, scale_out):
            if not 0 < scale < float("inf"):
                raise ValueError(f"a scale must be a positive number, got {scale}")
        self.scale_in.fill_(scale_in)
        self.scale_out.fill_(scale_out)

    @torch.no_grad()
    def fold_(self) -> None:
        """Move the scales into the weights: same codes, same reconstructions, scales 1. Atoms lose their unit norm."""
        s_in, s_out = float(self.scale_in), float(self.scale_out)
        self.encoder.fold_(s_in, s_out)
        self.decoder.fold_(s_out)
        if self.skip is not None:
            self.skip.weight.mul_(s_in / s_out)
        self.set_scale_(1.0, 1.0)

    def freeze(self) -> "Dictionary":
        """Ready for use: no gradients are kept for its weights."""
        return self.eval().requires_grad_(False)


class Pass:
    """Everything one forward pass saw, in scaled units. Losses, hooks and metrics read it; none recomputes it.

    `pre` and `pre_dead` are there when a term declared that it needs them; `pre_dead` (row, dead) is None while no
    latent is dead. `y_hat` is made when it is first asked for.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        batch: Batch,
        x: Float[Tensor, "row *inp"],
        y: Float[Tensor, "row *out"],
        code: Code,
        pre: Float[Tensor, "row latent"] | None = None,
        pre_dead: Float[Tensor, "row dead"] | None = None,
        dead: Int[Tensor, " dead"] | None = None,
        rng: torch.Generator | None = None,
        wide: Code | None = None,
    ):
        self.wide = code if wide is None else wide  # all that training selected, where that is more than the code
        self.dictionary, self.batch, self.x, self.y, self.code = dictionary, batch, x, y, code
        self._pre, self.pre_dead, self.dead, self.rng = pre, pre_dead, dead, rng
        self._finished: dict[tuple[str, ...], tuple[Tensor, dict[Site, Tensor]]] = {}

    @property
    def pre(self) -> Float[Tensor, "row latent"]:
        if self._pre is None:
            raise RuntimeError('this pass kept no pre-activations: the term that reads them must declare needs={"pre"}')
        return self._pre

    @cached_property
    def y_hat(self) -> Float[Tensor, "row *out"]:
        y_hat = self.dictionary.decoder(self.code)
        return y_hat if self.dictionary.skip is None else y_hat + self.dictionary.skip(self.x)

    def finished(
        self, read: tuple[str, ...] = (), *, clean: bool = False
    ) -> tuple[Float[Tensor, "row vocab"], dict[Site, Float[Tensor, "row _"]]]:
        """The live batch's run on from the reconstruction, or the clean one: logits and what is seen at sites.

        Made once for the same sites. Raises ValueError for a batch that cannot finish.
        """
        if self.batch.finish is None:
            raise ValueError("this batch cannot finish the model's pass: train on a live stream")
        if clean:
            return self.batch.finish(None, read=read)
        if read not in self._finished:
            self._finished[read] = self.batch.finish(self.y_hat / self.dictionary.scale_out, read=read)
        return self._finished[read]

    @cached_property
    def variance(self) -> Float[Tensor, ""]:
        """Total variance of the batch's targets: mean squared distance from their mean, summed over coordinates."""
        return (self.y - self.y.mean(0)).square().flatten(1).sum(-1).mean()


Loss = Callable[[Pass, Dictionary, Progress], Float[Tensor, ""]]


@dataclass(frozen=True)
class Term:
    """A weighted loss term that says beforehand what it needs and what it trains.

    `needs`: of `pre`, `pre_dead`, `finish`, `grads`. `trains`: parts or parameters by name, such as `encoder` or
    `sparsifier.threshold`; the suite checks that gradient arrives there and nowhere else.
    """

    loss: Callable[..., Tensor]
    trains: frozenset[str]
    needs: frozenset[str] = frozenset()
    weight: float | Schedule = 1.0

    def __post_init__(self) -> None:
        if unknown := self.needs - NEEDS:
            raise ValueError(f"a term may need {', '.join(sorted(NEEDS))}, got {', '.join(sorted(unknown))}")

    def at(self, progress: Progress) -> float:
        return self.weight(progress) if callable(self.weight) else self.weight


class Moments(NamedTuple):
    """What was measured on the first rows of a stream, before step 0, in the model's units."""

    rows: int
    mean_x: Float[Tensor, "*inp"]
    mean_y: Float[Tensor, "*out"]
    norm_x: float  # median norm
    norm_y: float
    first: Batch


class Hook:
    """Moments in a run at which something other than the optimiser may write to a dictionary; losses may not."""

    def start(self, dictionary: Dictionary, moments: Moments, rng: torch.Generator) -> None: ...
    def before_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None: ...  # after backward
    def after_step(self, dictionary: Dictionary, seen: Pass, progress: Progress) -> None: ...


Fit = Callable[[Dictionary, Iterable[Batch]], None]


def head(stream: Iterable[Batch], rows: int) -> Float[Tensor, "row *inp"]:
    """The stream's first rows, for a `fit` that needs them all at once."""
    found, count = [], 0
    for batch in stream:
        found.append(batch.x)
        if (count := count + len(batch.x)) >= rows:
            break
    return torch.cat(found)[:rows]


@dataclass(frozen=True)
class Recipe:
    """A dictionary and how to train it: named terms and hooks for the one loop, or a `fit` of its own."""

    dictionary: Dictionary
    losses: Mapping[str, Term] = field(default_factory=dict)
    hooks: tuple[Hook, ...] = ()
    fit: Fit | None = None
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    call: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if bool(self.losses) == (self.fit is not None):
            raise ValueError("a recipe has either losses, for the training loop, or a fit of its own")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(term.needs for term in self.losses.values()))

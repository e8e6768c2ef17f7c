"""What probes say once a few latents are taken out of the rows (what SCR and TPP share).

Taking latents out keeps the error: a row loses value * atom of each and nothing else. A logit is linear in the row, so
it loses value * (atom . weight), and mean codes over an example's rows are all that is needed.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .case import Case
from .examples import TRAIN, Examples
from .probes import Probe

COUNTS = (2, 5, 10, 20, 50, 100, 500)


def along(case: Case, probes: Sequence[Probe]) -> Float[Tensor, "latent probe"]:
    """How far each latent's atom moves each logit."""
    atoms = case.codec.atoms().detach().flatten(1).double().cpu()
    return atoms @ torch.stack([p.weight for p in probes], -1)


def largest(effect: Float[Tensor, " latent"], n: int) -> Int[Tensor, " some"]:
    """The `n` latents of the largest effect above zero; fewer where there are no more."""
    order = effect.argsort(descending=True, stable=True)[:n]
    return order[effect[order] > 0]


def without(
    logits: Float[Tensor, "example probe"],
    codes: Float[Tensor, "example latent"],
    along: Float[Tensor, "latent probe"],
    latents: Int[Tensor, " n"],
) -> Float[Tensor, "example probe"]:
    """Logits after the latents were taken out of the rows."""
    return logits - codes[:, latents].double() @ along[latents]


def live(codes: Float[Tensor, "example latent"], fold: Int[Tensor, " example"]) -> Int[Tensor, " some"]:
    """Latents that fire in training: random ones are drawn from these."""
    return (codes[fold == TRAIN] != 0).any(0).nonzero()[:, 0]


def counts(case: Case, n: int, ns: Sequence[int]) -> list[int]:
    """The headline's number first, then the others that the dictionary has latents for. Raises ValueError for bad n."""
    if n < 1 or any(k < 1 for k in ns):
        raise ValueError(f"numbers of latents must be 1 or more, got n={n} and ns={list(ns)}")
    if n > case.codec.latents:
        raise ValueError(
            f"{case.name} has {case.codec.latents} latents, fewer than n={n}: give n={case.codec.latents} or less"
        )
    return [n, *sorted({k for k in ns if k != n and k <= case.codec.latents})]


def label_of(examples: Examples, name: str | None) -> str:
    """The label by name, or the only one. Raises ValueError when it is not there, or several are and none is named."""
    known = list(examples.labels)
    if name is None and len(known) == 1:
        return known[0]
    if name not in known:
        raise ValueError(f"name one label of the examples, {', '.join(known)}; got label={name!r}")
    return name

"""A norm's gain taken into a dictionary that reads rows before it: TransformerLens's `ln2.hook_normalized`.

In a model with RMS norms that hook is the row over its root mean square, the gain comes after; our mlp_in and attn_in
are what the module receives, so that row x gain. A dictionary of such rows reads ours with its encoder over the gain.
"""

import copy
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...site import Site
from ..core import Dictionary
from ..encoders import Linear
from ._sites import before_gain, site_of

if TYPE_CHECKING:
    from ...subject import Subject

FAINT = 1e-6  # of the largest gain: what is fainter cannot be divided by


def place(reads: str | None, site: Site | None, streams: tuple[str, ...] = ()) -> Site | None:
    """The site that a dictionary reads before the gain of its norm; None where it reads rows as our sites have them.

    By the owner's name, or for a format whose files say no place at `streams`.
    """
    if reads is None:
        return site if site is not None and site.stream in streams else None
    return site_of(reads) if site is None and before_gain(reads) else None


@torch.no_grad()
def fold_(dictionary: Dictionary, site: Site, subject: "Subject | None", named: str | None = None) -> None:
    """Divide by the gain what reads: encoder and skip connection. From then on the dictionary is of this subject.

    `named`: what its files call the place. Raises ValueError without a subject, for LayerNorms, for a gain of 0, and
    for an encoder that is not linear.
    """
    if subject is None:
        otherwise = "or site= if you divide by the gain" if named else "or divide by the gain and leave site= out"
        raise ValueError(
            f"this dictionary reads {named or site} as it is before the norm's gain, our mlp_in and attn_in are after "
            f"it: give subject=, whose gain then goes into the encoder, {otherwise}"
        )
    gain = of(subject, site)
    encoder, skip = dictionary.encoder, dictionary.skip
    if len(gain) != dictionary.shape[-1]:
        raise ValueError(f"this dictionary reads rows of width {dictionary.shape[-1]}, the norm at {site} of "
                         f"{subject.name} gives {len(gain)}")  # fmt: skip
    fits = (isinstance(encoder, Linear) and not encoder.center) and len(dictionary.shape) == 1
    if not fits or not (skip is None or isinstance(skip, nn.Linear)):
        raise ValueError(
            f"a gain goes into a linear encoder of rows as they are, not into {type(encoder).__name__} of rows "
            f"{dictionary.shape}: give rows without the gain yourself, and site="
        )
    gain = gain.to(encoder.weight)
    encoder.weight.data = encoder.weight.data / gain[:, None]
    if skip is not None:
        skip.weight.data = skip.weight.data / gain
    dictionary.subject = subject.fingerprint


@torch.no_grad()
def of(subject: "Subject", site: Site) -> Float[Tensor, " d"]:
    """The gain of the norm that gives what is read at a site: what the norm does, not how its parameter is kept.

    Raises ValueError where no norm gives it, for a LayerNorm, and for entries whose gain is 0.
    """
    from ...subject import inside

    path, x, y = norm_at(subject, site)
    norm = copy.deepcopy(subject.model.get_submodule(path)).float()
    gain, centred = inside.frozen(norm, x.shape[-1], torch.float32, subject.device)
    if centred or norm(torch.zeros_like(x[:1])).any():
        raise ValueError(
            f"{path} of {subject.name} is a LayerNorm: rows at hook_normalized are before its gain and bias in "
            "TransformerLens 3 and where norms are folded, after them before that. Give site= if these are after them"
        )
    rows = x * gain
    scale = (y * rows).sum(-1, keepdim=True) / rows.square().sum(-1, keepdim=True)
    coarse = 1e-4 if subject.dtype in (torch.float32, torch.float64) else 2e-2
    if float((rows * scale - y).norm() / y.norm()) > coarse:
        raise ValueError(f"{path} of {subject.name} is more than a gain and a denominator: nothing can be folded")
    if bool((gain.abs() < FAINT * gain.abs().max()).any()):
        raise ValueError(f"the gain of {path} of {subject.name} is 0 at some entries, which cannot be divided by")
    return gain


def norm_at(subject: "Subject", site: Site) -> tuple[str, Float[Tensor, "row d"], Float[Tensor, "row d"]]:
    """The norm whose output is what is read at a site, found by running the model, with some rows in and out of it.

    Raises ValueError where there is none.
    """
    from ...subject.resolve import Port

    port, block = subject.plan.port(site), subject.plan.blocks[site.layer or 0] + "."
    sides = {
        path: (Site(None, f"{path}:in"), Site(None, f"{path}:out"))
        for path, module in subject.model.named_modules()
        if path.startswith(block)
        and "norm" in type(module).__name__.lower()
        and all(Port(path, side) in subject.plan.order for side in ("in", "out"))
    }
    here, ids = Site(None, str(port)), (7 * torch.arange(4) + 5)[None] % (subject.vocab or 1)
    seen = subject.read(ids, [here, *(side for pair in sides.values() for side in pair)])
    found = [path for path, (_, out) in sides.items() if torch.equal(seen[out], seen[here])]
    if len(found) != 1:
        raise ValueError(f"{subject.name} has {len(found) or 'no'} norms that give {site}: its gain cannot be found")
    x, y = (seen[side].flatten(0, 1) for side in sides[found[0]])
    return found[0], x, y

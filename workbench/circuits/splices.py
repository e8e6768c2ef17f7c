"""Dictionaries spliced into a run with their errors kept: the nodes of a site, and what patching each adds there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import edit
from ..batch import Tokens
from ..code import Codec
from ..edit import Edit
from ..site import Site
from ..subject import Subject

if TYPE_CHECKING:
    import pandas as pd

Metric = Callable[[Float[Tensor, "text pos vocab"]], Float[Tensor, ""]]
Dictionaries = Mapping[Any, Codec]  # by site, or its text form
COLUMNS = ["site", "pos", "latent", "clean", "patch", "effect"]


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of a site, x = sum of code * atom + bias + error: latents that differ, then an error for each position.

    `latent` is -1 for errors, whose `clean` and `patch` are norms. `change`: what the node's patch value adds to the
    vector at `pos`, in the model's units. All changes at a position together make the patched vector.
    """

    site: Site
    pos: Int[Tensor, " node"]
    latent: Int[Tensor, " node"]
    clean: Float[Tensor, " node"]
    patch: Float[Tensor, " node"]
    change: Float[Tensor, "node d"]

    def __len__(self) -> int:
        return len(self.pos)

    def along(self, grads: Float[Tensor, "pos d"]) -> Float[Tensor, " node"]:
        """What each change is worth to first order, by gradients at the site."""
        return (grads[self.pos] * self.change).sum(-1)

    def together(self, shares: Float[Tensor, " text"]) -> Edit:
        """All nodes at once: text i of the run goes `shares[i]` of the way to the patch, in every node of the site."""

        def change(h: Tensor, at: edit.At) -> Tensor:
            total = h.new_zeros(h.shape[1:]).index_add_(0, self.pos, self.change.to(h.dtype))
            return h + shares.to(h)[:, None, None] * total

        return edit.function(change)

    def singly(self, which: Int[Tensor, " some"]) -> Edit:
        """One node at a time: text i of the run has node `which[i]` patched; later texts have none."""

        def change(h: Tensor, at: edit.At) -> Tensor:
            place = (torch.arange(len(which), device=h.device), self.pos[which])
            return h.index_put(place, self.change[which].to(h.dtype), accumulate=True)

        return edit.function(change)

    def table(self, effects: Float[Tensor, " node"]) -> "pd.DataFrame":
        import pandas as pd

        columns = (self.pos, self.latent, self.clean, self.patch, effects)
        named = zip(COLUMNS[1:], (c.cpu().numpy() for c in columns), strict=True)
        return pd.DataFrame({"site": str(self.site), **dict(named)}, columns=COLUMNS)


@torch.no_grad()
def splice(subject: Subject, clean: Any, patch: Any | None, dictionaries: Dictionaries) -> tuple[Tokens, list[Nodes]]:
    """The clean prompt's tokens, and the nodes of each site. Without a patch prompt codes and errors are patched by 0.

    Positions are left alone where the subject's exclusion or the dictionary's norm rule leaves out one of the prompts.
    Raises ValueError for prompts that do not stand side by side, no dictionaries, a site that does not exist, and a
    dictionary of another site.
    """
    codecs = {Site.of(site): codec for site, codec in dictionaries.items()}
    if not codecs or len(codecs) < len(dictionaries):
        given = ", ".join(map(str, dictionaries)) or "none"
        raise ValueError(f"one dictionary for each of one or more sites is wanted, got {given}")
    for site, codec in codecs.items():
        if odd := [s for s in (codec.site, codec.target) if s not in (None, site)]:
            raise ValueError(f"the dictionary given at {site} is of {odd[0]}: give one that reads and writes {site}")
    one = one_text(subject, clean, "clean")
    other = None if patch is None else one_text(subject, patch, "patch")
    if other is not None and not torch.equal(one.mask, other.mask):
        counts = f"{int(one.mask.sum())} and {int(other.mask.sum())}"
        raise ValueError(f"clean and patch must have the same number of tokens, got {counts}: word them alike")
    keep = subject.exclusion.by_token(one, subject.special_ids)[0]
    if other is not None:
        keep = keep & subject.exclusion.by_token(other, subject.special_ids)[0]
    x = subject.read(one, list(codecs))
    y = None if other is None else subject.read(other, list(codecs))
    return one, [_nodes(s, codec, keep, x[s][0], None if y is None else y[s][0]) for s, codec in codecs.items()]


def _nodes(
    site: Site, codec: Codec, keep: Bool[Tensor, " pos"], x: Float[Tensor, "pos d"], y: Float[Tensor, "pos d"] | None
) -> Nodes:
    for h in (x, y):
        keep = keep if h is None else keep & codec.exclusion.by_norm(site, h)
    pos = keep.nonzero()[:, 0]
    code, error = parts(codec, x[pos])
    to, left = (torch.zeros_like(code), torch.zeros_like(error)) if y is None else parts(codec, y[pos])
    row, latent = (code != to).nonzero(as_tuple=True)
    before, after = code[row, latent], to[row, latent]
    return Nodes(
        site,
        torch.cat([pos[row], pos]),
        torch.cat([latent, torch.full_like(pos, -1)]),
        torch.cat([before, error.norm(dim=-1)]),
        torch.cat([after, left.norm(dim=-1)]),
        torch.cat([(after - before)[:, None] * codec.atoms(latent), left - error]),
    )


def parts(codec: Codec, x: Float[Tensor, "row d"]) -> tuple[Float[Tensor, "row latent"], Float[Tensor, "row d"]]:
    """Codes and errors."""
    code = codec.encode(x)
    return code.to_dense().float(), x - codec.decode(code).to(x)


def one_text(subject: Subject, prompt: Any, name: str) -> Tokens:
    """One prompt's tokens. Raises ValueError for several."""
    tokens = subject.tokens(prompt)
    if len(tokens.ids) != 1:
        raise ValueError(f"{name} must be one text, got {len(tokens.ids)}: patch them one by one")
    return tokens


def copies(tokens: Tokens, count: int) -> Tokens:
    """One text several times."""
    return Tokens(tokens.ids.expand(count, -1), tokens.mask.expand(count, -1))


def each(of: Metric, logits: Float[Tensor, "text pos vocab"]) -> Float[Tensor, " text"]:
    """The metric of each text by itself. Raises ValueError when it gives more than one number."""
    found = [of(text[None]) for text in logits.float()]
    if not isinstance(found[0], Tensor) or found[0].numel() != 1:
        got = tuple(getattr(found[0], "shape", ())) or type(found[0]).__name__
        raise ValueError(f"`of` must give a tensor of one number for logits (1, pos, vocab), got {got}")
    return torch.stack([value.reshape(()) for value in found])


def spans(count: int, batch: int) -> Iterator[slice]:
    """0..count in pieces. Raises ValueError for a batch below 1."""
    if batch < 1:
        raise ValueError(f"batch is how many texts run at once, 1 or more, got {batch}")
    return (slice(start, min(start + batch, count)) for start in range(0, count, batch))


def joined(tables: Sequence["pd.DataFrame"]) -> "pd.DataFrame":
    import pandas as pd

    return pd.concat(tables, ignore_index=True)

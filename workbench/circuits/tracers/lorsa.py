"""A Lorsa in the place of an attention layer: what each source position adds to every head that is on.

Low-rank sparse attention, He et al. 2025, arXiv:2504.20938.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...dictionary import Dictionary, encoders
from ...site import Site
from ...subject import Subject
from ..graph import Graph, frame

if TYPE_CHECKING:
    import pandas as pd


class Traced(NamedTuple):
    """`table`: latent, pos, source (-1: the latent's bias), adds; the rows of one (latent, pos) are its code's value.

    `error`: what the layer writes at each position less what the Lorsa does; all of it where a position is left out.
    """

    table: "pd.DataFrame"
    error: Float[Tensor, "pos d"]


def trace(subject: Subject, prompt: Any, lorsa: Dictionary) -> Traced:
    """Every active Lorsa head at every query position that the exclusion keeps, shared out over source positions.

    All rows of the text are read, the left-out ones too: attention rests on them. `adds` in units of the code, as a
    head is a pattern's mean of <its direction, row>, so the shares are exact. Raises ValueError for more than one text,
    and for a dictionary that is no Lorsa of a layer's `attn_in` and `attn_out`.
    """
    import pandas as pd

    found, places = _traced(subject, prompt, lorsa)
    latent, pos, adds, error = found
    pairs, count = adds.shape
    table = {
        "latent": latent.repeat_interleave(count),
        "pos": pos.repeat_interleave(count),
        "source": torch.tensor([*range(places), -1]).repeat(pairs),
        "adds": adds.flatten(),
    }
    return Traced(pd.DataFrame({name: column.cpu().numpy() for name, column in table.items()}), error)


def graph(subject: Subject, prompt: Any, lorsa: Dictionary) -> Graph:
    """The same as a graph: a row for each active head, its sources the text's tokens and a bias.

    A head counts by the norm of what it writes, as a share of all heads'.
    """
    (latent, pos, adds, _), places = _traced(subject, prompt, lorsa)
    layer = lorsa.site.layer if lorsa.site is not None else None
    ids = subject.tokens(prompt).ids[0]
    words = subject.words(ids) if subject.tokenizer else [str(i) for i in ids.tolist()]
    value = adds.sum(1)
    rows: list[dict[str, Any]] = [
        {"kind": "token", "layer": -1, "pos": p, "latent": -1, "value": 1.0, "label": word}
        for p, word in enumerate(words)
    ]
    rows.append({"kind": "bias", "layer": layer, "pos": -1, "latent": -1, "value": 1.0, "label": "encoder bias"})
    rows += [
        {"kind": "latent", "layer": layer, "pos": p, "latent": i, "value": v, "label": f"{layer}/{i} at {p}"}
        for p, i, v in zip(pos.tolist(), latent.tolist(), value.tolist(), strict=True)
    ]
    size = value.abs() * lorsa.atoms(latent).norm(dim=-1)
    edges = torch.cat([adds, adds.new_zeros(len(adds), len(adds))], 1)
    targets = torch.arange(places + 1, places + 1 + len(adds))
    return Graph(frame(rows), edges, targets, size / size.sum().clamp_min(1e-30))


@torch.no_grad()
def _traced(subject: Subject, prompt: Any, lorsa: Dictionary) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], int]:
    """((latent, pos, what each source and then the bias adds, error), number of positions)."""
    layer = None if lorsa.site is None else lorsa.site.layer
    if not isinstance(lorsa.encoder, encoders.Attention) or layer is None:
        raise ValueError(f"a Lorsa of a layer is wanted, got {type(lorsa.encoder).__name__} of {lorsa.site}")
    site, target = Site(layer, "attn_in"), Site(layer, "attn_out")
    if (lorsa.site, lorsa.target) != (site, target):
        raise ValueError(f"a Lorsa from {site} to {target} is wanted, got {lorsa.site} to {lorsa.target}")
    tokens = subject.tokens(prompt)
    if len(tokens.ids) != 1:
        raise ValueError(f"one text is wanted, got {len(tokens.ids)}: trace them one by one")
    read = subject.read(tokens, [site, target])
    x, y = (read[s][0].to(lorsa.scale_in.dtype) for s in (site, target))
    keep = subject.exclusion.by_token(tokens, subject.special_ids)[0]
    code = lorsa.encode(x)
    pos, latent, value = (column[keep[code.entries()[0]]] for column in code.entries())
    encoder, rows = lorsa.encoder, x * lorsa.scale_in
    each = encoder.weight.shape[-1]  # latents of one group
    told = (rows @ encoder.weight).permute(0, 2, 1).flatten(0, 1)  # (latent, source)
    adds = encoder.pattern(rows)[latent // each, pos] * told[latent]
    adds = torch.cat([adds, encoder.bias[latent, None]], 1)
    assert torch.allclose(adds.sum(1), value, rtol=1e-3, atol=1e-4)  # active heads are not rectified
    error = y - lorsa.decode(code) * keep[:, None]
    return (latent, pos, adds, error), len(x)
